"""Checkpoints of a training run: written atomically, read without running code, enough to go on to the same numbers."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from zoo.options import TrainingError
from zoo.run_folder import atomic_write


def save(path: Path, content: Mapping[str, Any]) -> None:
    """Write tensors, numbers, strings, lists and mappings to `path` in one step."""
    with atomic_write(path) as file:
        torch.save(dict(content), file)


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read what `save` wrote, with `weights_only=True`.

    Args:
        path: the file.
        device: where its tensors go.

    Raises:
        TrainingError: no such file, or not a whole checkpoint.
    """
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = (str(error) or "it ends too early").splitlines()[0]
        raise TrainingError(f"{path} cannot be read as a checkpoint: {reason}") from error
    if not isinstance(content, dict):
        raise TrainingError(f"{path} is not a checkpoint: it holds a {type(content).__name__}")
    return content
