"""Reads named files out of a tar, a gzipped tar or a folder, in memory: nothing is ever extracted to disk."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

GZIP_MAGIC = b"\x1f\x8b"
MAX_MEMBER_BYTES = 2**28  # the largest official file, CIFAR-100's `train`, has 155 MB
DRAIN_BYTES = 2**20


def read_named_files(path: Path, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """(name, content) of each file of `names` in the folder or archive `path`, in the order in which they lie there.

    In an archive a file counts by its last name, whatever folder it claims to be in, and only regular files count.

    Raises:
        FileNotFoundError: no such path.
        ValueError: naming the archive: truncated, damaged, no tar at all, a name twice, a file too large.
    """
    if path.is_dir():
        for name in names:
            if (path / name).is_file():
                yield name, (path / name).read_bytes()
        return
    seen: set[str] = set()
    try:
        for name, content in _read_tar(path, names):
            if name in seen:
                raise ValueError(f"it holds the file {name} twice")
            seen.add(name)
            yield name, content
    except FileNotFoundError:
        raise
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError, OverflowError) as error:
        raise ValueError(f"{path} is no tar or tar.gz archive, or is truncated or damaged: {error}") from error


def _read_tar(path: Path, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
    with path.open("rb") as file:
        packed = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        file.seek(0)
        if not packed:
            yield from _members(file, names)
            return
        with gzip.open(file) as stream:
            yield from _members(cast(BinaryIO, stream), names)
            # tarfile stops at its end mark; gzip compares its checksum only at the end of the stream.
            while stream.read(DRAIN_BYTES):
                pass


def _members(stream: BinaryIO, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=stream, mode="r|") as tar:
        for member in tar:
            name = PurePosixPath(member.name).name
            if name not in names or not member.isreg():
                continue
            if member.size > MAX_MEMBER_BYTES:
                raise ValueError(f"{member.name} has {member.size} bytes, more than any official file")
            content = tar.extractfile(member)
            yield name, content.read() if content else b""
