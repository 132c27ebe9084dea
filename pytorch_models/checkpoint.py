"""Checkpoints of a training run: written atomically, read without running code, enough to go on to the same numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pytorch_models import torch_files
from zoo.atomic_write import atomic_write
from zoo.options import TrainingError
from zoo.run_folder import RunFolder


def save(path: Path, content: Mapping[str, Any]) -> None:
    """Write tensors, numbers, strings, lists and mappings to `path` in one step."""
    with atomic_write(path) as file:
        torch.save(dict(content), file)


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read what `save` wrote, without running code.

    Args:
        path: the file.
        device: where its tensors go.

    Raises:
        TrainingError: no such file, or not a whole checkpoint.
    """
    try:
        content = torch_files.read(path, device)
    except (OSError, torch_files.DamagedFileError) as error:
        raise TrainingError(f"{path} cannot be read as a checkpoint: {error}") from error
    if not isinstance(content, dict):
        raise TrainingError(f"{path} is not a checkpoint: it holds a {type(content).__name__}")
    return content


def load_last(run: RunFolder, device: torch.device | str = "cpu") -> dict[str, Any]:
    """The checkpoint that a run is resumed from: model, optimizer, scaler, rows.

    Raises:
        TrainingError: it cannot be read; says what can be done, and whether the best weights are still good.
    """
    try:
        state = load(run.last, device)
        missing = sorted({"model", "optimizer", "scaler", "rows"} - set(state))
        if missing:
            raise TrainingError(f"{run.last} cannot be read as a checkpoint: it has no {', '.join(missing)}")
    except TrainingError as error:
        advice = "restore that file, or start a new run in another --save folder"
        with contextlib.suppress(TrainingError):
            load(run.best)
            advice += f"; {run.best} is whole: zoo.load_run({str(run.folder)!r}) gives its model"
        raise TrainingError(f"{error}; {advice}") from error
    return state
