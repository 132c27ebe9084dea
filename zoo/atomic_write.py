"""Writes a file so that it is never seen half-written, and says so when the disk is full."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_NO_ROOM = frozenset({errno.ENOSPC, errno.EFBIG, *([errno.EDQUOT] if hasattr(errno, "EDQUOT") else [])})


class DiskFullError(OSError):
    """A file of a run found no room; the message says where. What lay there before is intact."""


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """A binary file that becomes `path` in one step when the block ends well, and leaves no trace when it does not.

    Raises:
        DiskFullError: no room for it.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if _says_no_room(error):
            raise DiskFullError(
                f"no room for {path.name} in {path.parent} ({_says_no_room(error)}); "
                "what was there before is intact: make room there, then go on"
            ) from error
        raise
    if os.name == "posix":  # the new name itself must survive a power cut
        handle = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _says_no_room(error: BaseException | None) -> str:
    """The system's words if this error, or one it came from (PyTorch raises its own), says that the disk is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            return error.strerror or "no room"
        error = error.__cause__ or error.__context__
    return ""
