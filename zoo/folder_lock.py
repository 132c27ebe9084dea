"""Keeps two processes from training into one folder at the same time."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import time
from collections.abc import Iterator
from pathlib import Path

from zoo.run_folder import RunFolderError

PATIENCE_SECONDS = 10.0  # the workers of a killed run still hold its folder until they notice
_POLL_SECONDS = 0.1


@contextlib.contextmanager
def hold(folder: str | Path | None, patience_seconds: float = PATIENCE_SECONDS) -> Iterator[None]:
    """While the block runs, no other process can hold the folder. The kernel lets go of it when this process ends.

    Args:
        folder: is made if it is not there; None holds nothing. Nothing is written into it.
        patience_seconds: how long to wait for another process to let go.

    Raises:
        RunFolderError: another process holds it; or it cannot be made.

    Where the system has no such locks (Windows, some network folders) it holds nothing.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> with hold(folder):
        ...     with hold(folder, patience_seconds=0):
        ...         pass
        Traceback (most recent call last):
        zoo.run_folder.RunFolderError: another process trains into ...
    """
    if folder is None or importlib.util.find_spec("fcntl") is None:
        yield
        return
    path = Path(folder).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise RunFolderError(f"--save {path}: cannot write there ({error.strerror}): give another folder") from None
    try:
        _lock(handle, path, time.monotonic() + patience_seconds)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, path: Path, until: float) -> None:
    import fcntl

    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                raise RunFolderError(
                    f"another process trains into {path}: give another --save folder, or wait until it has ended"
                ) from None
            time.sleep(_POLL_SECONDS)
        except OSError:  # a file system without locks
            return
        else:
            return
