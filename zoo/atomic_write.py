"""Writes a file so that it is never seen half-written; says early where none can lie, and when the disk is full."""

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
        with contextlib.suppress(OSError):  # the first error counts
            temporary.unlink()
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


def check_folder(flag: str, folder: str | Path | None) -> None:
    """Refuse, before any work, a folder that takes no files; makes it. None = nothing is to be written.

    Raises:
        ValueError: nothing can be written there; names the flag.

    Example:
        >>> import tempfile
        >>> check_folder("--out", Path(tempfile.mkdtemp()) / "results")
    """
    if folder is None:
        return
    folder = Path(folder).expanduser()
    probe = folder / f".{os.getpid()}.probe"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        reason = error.strerror or str(error)
        raise ValueError(f"{flag} {folder}: nothing can be written there ({reason}): give another folder") from None


def check_file(flag: str, path: str | Path | None) -> None:
    """Refuse, before any work, a file that cannot be written; makes its folder. None = nothing is to be written.

    Raises:
        ValueError: it is a folder, or nothing can be written where it is to lie; names the flag.

    Example:
        >>> import tempfile
        >>> check_file("--save", Path(tempfile.mkdtemp()) / "plan.json")
    """
    if path is None:
        return
    path = Path(path).expanduser()
    if path.is_dir():
        raise ValueError(f"{flag} {path} is a folder: give the name of a file")
    check_folder(flag, path.parent)


def _says_no_room(error: BaseException | None) -> str:
    """The system's words if this error, or one it came from (PyTorch raises its own), says that the disk is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            return error.strerror or "no room"
        error = error.__cause__ or error.__context__
    return ""
