"""What every benchmark does with its rows: says what they were measured with, and writes them to a file."""

from __future__ import annotations

import csv
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch


def measured_with(device: str) -> str:
    """The device, the machine and the versions."""
    versions = f"Python {platform.python_version()}, torch {torch.__version__.split('+')[0]}"
    return f"{device}, {platform.machine()}, {torch.get_num_threads()} threads; {versions}"


def write_csv(path: Path | None, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of the same columns; nothing without a path."""
    if path is not None:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
