"""Files of weights as NumPy arrays by canonical name, for frameworks without a format of their own."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from zoo import weights
from zoo.atomic_write import atomic_write
from zoo.options import TrainingError
from zoo.weights import COUNTER, Shapes, WeightsError

SUFFIX = ".npz"
WEIGHTS, MOMENTUM = "weights/", "momentum/"  # before names in the checkpoint that a run is resumed from


def save(path: str | Path, arrays: Mapping[str, np.ndarray], spec: object, other: str = "") -> None:
    """Write weights, in one step: `.npz`, or `.safetensors` for every framework.

    Args:
        path: the file.
        arrays: by canonical name.
        spec: the family's config.
        other: what else the framework can do with another suffix; goes into the error.

    Raises:
        ValueError: another suffix.
        ImportError: safetensors is asked for and not installed.

    Example:
        >>> import tempfile
        >>> save(Path(tempfile.mkdtemp()) / "weights.npz", {"fc.bias": np.zeros(10, np.float32)}, None)
    """
    path = Path(path).expanduser()
    if path.suffix == SUFFIX:
        save_arrays(path, arrays)
    elif path.suffix == weights.SUFFIX:
        weights.write(path, arrays, spec)
    else:
        raise ValueError(f"save_weights: {path} must end with {SUFFIX} or {weights.SUFFIX}{other}")


def load(
    path: str | Path, needed: Shapes, spec: object, head: str, *, resize_head: bool = True
) -> dict[str, np.ndarray]:
    """Read weights for a network, strictly but for a head of another number of classes.

    Args:
        path: a `.safetensors` file of any framework, or a `.npz` file of weights or of a training run.
        needed: the model's shapes by canonical name.
        spec: the family's config.
        head: the module whose parameters may be for other classes.
        resize_head: leave those out and warn; False = that is an error.

    Returns:
        Arrays by canonical name; counters of batches, which not every framework has, are left out.

    Raises:
        FileNotFoundError: no such file.
        WeightsError: names or shapes that are not the model's, or not a whole safetensors file.
        TrainingError: not a whole `.npz` file.

    Warns:
        HeadResizedWarning: the head was not loaded; names it.
    """
    path = Path(path).expanduser()
    if path.suffix == weights.SUFFIX:
        found, network = weights.read(path)
        weights.check_flavour(network, spec)
    elif path.suffix == SUFFIX or not path.exists():
        found = load_arrays(path)
    else:
        raise WeightsError(
            f"{path}: needed is a {SUFFIX} or {weights.SUFFIX} file; what another framework wrote in its own format, "
            f"write there as {weights.SUFFIX}, by that framework's save_weights"
        )
    if any(name.startswith(WEIGHTS) for name in found):
        found = named(WEIGHTS, found)
    found = {weights.strip_wrappers(name): array for name, array in found.items() if not name.endswith(COUNTER)}
    came = {name: tuple(array.shape) for name, array in found.items()}
    try:
        resized = weights.heads_that_differ(needed, came, head if resize_head else None)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    weights.warn_of_new_head(head, needed, came, resized, stacklevel=4)
    return {name: array for name, array in found.items() if name not in resized}


def named(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays whose names start with a prefix, without it."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def save_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write NumPy arrays by name, in one step."""
    content = io.BytesIO()
    np.savez(content, **arrays)
    with atomic_write(path) as file:
        file.write(content.getvalue())


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read what `save_arrays` wrote, without running code.

    Raises:
        FileNotFoundError: no such file.
        TrainingError: not such a file, or not a whole one.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays: dict[str, Any] = {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise TrainingError(f"{path} cannot be read as a checkpoint: {error or 'it ends too early'}") from error
    other = next((name for name, value in arrays.items() if not isinstance(value, np.ndarray)), None)
    if other is not None:  # a zip file of another library, which NumPy opens without complaint
        raise TrainingError(f"{path} cannot be read as a checkpoint: {other!r} in it is no array")
    return arrays
