"""What every benchmark does with its rows: says what they were measured with, and writes them to a file."""

from __future__ import annotations

import argparse
import csv
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def measured_with(device: str) -> str:
    """The device, the machine and the versions."""
    import torch  # not above: benchmarks/kernels.py needs no framework

    versions = f"Python {platform.python_version()}, torch {torch.__version__.split('+')[0]}"
    return f"{device}, {platform.machine()}, {torch.get_num_threads()} threads; {versions}"


def new_csv(text: str) -> Path:
    """The path of a file for `--csv`, which argparse refuses before any work where nothing can be written.

    Raises:
        argparse.ArgumentTypeError: why it cannot.
    """
    path = Path(text)
    there = path.exists()
    try:
        path.open("a").close()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text} cannot be written ({error.strerror}): give another file") from None
    if not there:
        path.unlink()  # until there are rows
    return path


def write_csv(path: Path | None, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of the same columns; nothing without a path."""
    if path is not None:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
