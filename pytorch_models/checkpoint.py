"""Checkpoints of a training run: written atomically, read without running code, enough to go on to the same numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist
from torch import nn

from pytorch_models import torch_files
from pytorch_models.compressed.session import compression_of
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
    """The checkpoint that a run is resumed from: model, optimizer, scaler, rows, and what compression has learnt.

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


def take_learnt(model: nn.Module, processes: int) -> list[dict[str, Any]]:
    """What a model's compression has learnt, in each process from its own batches; nothing of other models.

    All processes call it together.
    """
    compression = compression_of(model)
    if compression is None:
        return []
    states: list[Any] = [compression.state_dict()]
    if processes > 1:
        states = [None] * processes
        dist.all_gather_object(states, compression.state_dict())
    return states


def give_learnt(model: nn.Module, states: Sequence[Mapping[str, Any]], rank: int) -> None:
    """Each process goes on from its own of the states that `take_learnt` took.

    Checkpoints of earlier versions hold none: then all is learnt anew.
    """
    compression = compression_of(model)
    if compression is not None and states:
        compression.load_state_dict(states[rank % len(states)])
