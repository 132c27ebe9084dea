"""Downloads one file of known MD5: goes on where an earlier try stopped, renames only what is right."""

from __future__ import annotations

import hashlib
import http.client
import os
import queue
import shutil
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from zoo.data.byte_progress import MB, byte_progress
from zoo.data.datasets import RemoteFile, names_without_download

CONNECT_SECONDS = 3.0  # to the server's first answer, name look-up and redirections included: one try
STALL_SECONDS = 30.0  # without a byte, once it flows
CHUNK_BYTES = 2**16


def fetch(
    remote: RemoteFile,
    folder: Path,
    *,
    url_base: str | None = None,
    progress: bool = True,
    connect_seconds: float = CONNECT_SECONDS,
) -> Path:
    """The file `remote` in `folder`, downloaded unless it is there; of several processes one downloads.

    What has come is kept as `<name>.part` when a download breaks, and the next call goes on from there.
    A file already there under its final name is taken as it is.

    Args:
        remote: name, address and MD5.
        folder: made if missing.
        url_base: a mirror, http or https, instead of the official address; the MD5 must be the same.
        progress: write to stderr how far it is.
        connect_seconds: longest wait for the server's first answer.

    Raises:
        FileNotFoundError: the server cannot be reached or does not have the file.
        ConnectionError: the connection broke halfway.
        ValueError: the MD5 is wrong (the file is deleted), or `url_base` is no http address.
        OSError: the disk is full, or the folder cannot be written.
    """
    target, url = folder / remote.name, remote.url(url_base)
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"url_base must start with http:// or https://, not {url_base!r}")
    if target.exists():
        return target
    _make_writable(folder, remote)
    part = folder / f"{remote.name}.part"
    lock = folder / f".{remote.name}.lock"
    with _locked(lock, remote.name if progress else None):
        if target.exists():
            return target
        if not part.exists() or md5_of(part) != remote.md5:
            try:
                response = _open_rest(url, part, connect_seconds)
            except (OSError, http.client.HTTPException) as error:
                raise FileNotFoundError(missing_message(remote, folder, f"{url} failed: {_reason(error)}")) from error
            with response:
                _receive(response, part, remote.name, progress)
            _check_md5(part, remote, url)
        os.replace(part, target)
    return target


def _make_writable(folder: Path, remote: RemoteFile) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # permission bits say nothing on a read-only file system
            pass
    except OSError as error:
        raise OSError(
            f"--data_dir {folder}: {remote.name} is not there and cannot be written there "
            f"({error.strerror or error}): give another --data_dir, or one that holds {remote.name}"
        ) from error


def missing_message(remote: RemoteFile, folder: Path, reason: str) -> str:
    """The error text for a file that is not there: which, where, why, MD5, address, and what works without."""
    return (
        f"{remote.name} is not in {folder.resolve()} and was not downloaded: {reason}. "
        f"Download {remote.url()} (MD5 {remote.md5}) where there is a network and put it there. "
        f"Data sets that need no download: {', '.join(names_without_download())}; for --model lstm also text"
    )


def md5_of(path: Path) -> str:
    """MD5 of a file, hexadecimal: an integrity check against the published value, not a security one."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def _open_rest(url: str, part: Path, seconds: float) -> http.client.HTTPResponse:
    """The answer that brings what `part` lacks; `part` is emptied where the server starts from the beginning."""
    have = part.stat().st_size if part.exists() else 0
    if have:
        response = None
        try:
            response = _open(urllib.request.Request(url, headers={"Range": f"bytes={have}-"}), seconds)
        except urllib.error.HTTPError as error:
            if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise
        if response is not None:
            if response.status == http.HTTPStatus.PARTIAL_CONTENT:
                if response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                    return response
                response.close()  # another range than the one asked for
            else:
                part.unlink()  # the server knows no ranges and sends the whole
                return response
        part.unlink()
    return _open(urllib.request.Request(url), seconds)


def _open(request: urllib.request.Request, seconds: float) -> http.client.HTTPResponse:
    """The server's answer within `seconds`: on a thread, because a name look-up has no time limit of its own."""
    outcomes: queue.SimpleQueue[http.client.HTTPResponse | Exception] = queue.SimpleQueue()

    def work() -> None:
        try:
            outcomes.put(urllib.request.urlopen(request, timeout=STALL_SECONDS))
        except (OSError, http.client.HTTPException, ValueError) as error:
            outcomes.put(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        outcome = outcomes.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer within {seconds:g} s") from None
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _receive(response: http.client.HTTPResponse, part: Path, name: str, progress: bool) -> None:
    have = part.stat().st_size if part.exists() else 0
    length = response.headers.get("Content-Length", "")
    total = have + int(length) if length.isdigit() else None
    free = shutil.disk_usage(part.parent).free
    if total is not None and total - have > free:
        needed = (total - have) / MB
        raise OSError(f"{part.parent} has {free / MB:.0f} MB free; {name} needs {needed:.0f} MB: make room there")
    broke: object = None
    with part.open("ab") as file, byte_progress(name, have, total, enabled=progress) as advance:
        while True:
            try:
                chunk = response.read(CHUNK_BYTES)
            except (OSError, http.client.HTTPException) as error:
                broke = error
                break
            if not chunk:
                break
            file.write(chunk)
            file.flush()  # so that a killed process leaves what it counted
            advance(len(chunk))
        os.fsync(file.fileno())
    came = part.stat().st_size
    if broke or (total is not None and came < total):
        of_total = f" of {total / MB:.1f}" if total else ""
        raise ConnectionError(
            f"{name}: the connection broke after {came / MB:.1f}{of_total} MB ({broke or 'the server closed it'}). "
            f"What came is kept in {part}: run the same again to go on from there"
        )


def _check_md5(part: Path, remote: RemoteFile, url: str) -> None:
    found = md5_of(part)
    if found == remote.md5:
        return
    size = part.stat().st_size
    part.unlink()
    raise ValueError(
        f"{remote.name} from {url} has the MD5 {found} ({size} bytes); needed is {remote.md5}. It is deleted: "
        "run the same again to download it anew; if that changes nothing, the address answers with another file"
    )


@contextmanager
def _locked(path: Path, announce: str | None) -> Iterator[None]:
    """Holds an exclusive lock on `path`, and removes it; the system releases it however the process ends."""
    waiting = False
    while True:
        with path.open("ab") as file:
            while not _try_lock(file):
                if announce and not waiting:
                    sys.stderr.write(f"{announce}: another process is downloading it; waiting\n")
                waiting = True
                time.sleep(0.1)
            if not _is_at(path, file):  # its holder has removed it: a lock on it keeps nobody out
                continue
            try:
                yield
            finally:
                with suppress(OSError):  # Windows removes no open file
                    path.unlink()
            return


def _is_at(path: Path, file: BinaryIO) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


if sys.platform == "win32":
    import msvcrt

    def _try_lock(file: BinaryIO) -> bool:
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        return True

else:
    import fcntl

    def _try_lock(file: BinaryIO) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def _reason(error: BaseException) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answered {error.code} {error.reason}"
    reason = getattr(error, "reason", None) or error
    return str(reason) or type(error).__name__
