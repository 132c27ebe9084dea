"""Reads what `torch.save` wrote: without running code, and without taking a damaged file for a whole one."""

from __future__ import annotations

import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import torch

_ARCHIVE_ERRORS = (zipfile.BadZipFile, NotImplementedError, RuntimeError, struct.error, EOFError, ValueError)
_LOAD_ERRORS = (OSError, RuntimeError, EOFError, pickle.UnpicklingError, ValueError, LookupError, TypeError)


class DamagedFileError(ValueError):
    """Not a file of `torch.save`, or not a whole one; the message is the reason."""


def read(path: Path, device: torch.device | str = "cpu") -> Any:
    """The content, by `torch.load(weights_only=True)`, which itself does not compare the archive's checksums.

    A flipped bit inside a tensor would pass for another number. The checksums (CRC-32) cost a second per GB or so.

    Args:
        path: the file.
        device: where its tensors go.

    Raises:
        FileNotFoundError: no such file.
        DamagedFileError: it is another kind of file, would run code, or was cut off or changed.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "two.pt"
        >>> torch.save({"two": 2}, path)
        >>> read(path)
        {'two': 2}
    """
    damaged = _damaged_member(path)
    if damaged is not None:
        raise DamagedFileError(f"its part {damaged} is not what was written")
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise
    except _LOAD_ERRORS as error:
        lines = (str(error) or "it ends too early").splitlines()
        raise DamagedFileError(lines[0].partition(". ")[0]) from error  # the rest is general advice


def _damaged_member(path: Path) -> str | None:
    """The first part of an archive that differs from its checksum; None for other files, which `torch.load` judges.

    Where every part differs, the file was written without checksums, by `torch.serialization.set_crc32_options`.
    """
    if not zipfile.is_zipfile(path):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            damaged = [name for name in names if not _is_whole(archive, name)]
    except _ARCHIVE_ERRORS:
        return "the list of parts"
    return damaged[0].partition("/")[2] if damaged and len(damaged) < len(names) else None


def _is_whole(archive: zipfile.ZipFile, name: str) -> bool:
    try:
        with archive.open(name) as member:
            while member.read(1 << 20):
                pass
    except _ARCHIVE_ERRORS:
        return False
    return True
