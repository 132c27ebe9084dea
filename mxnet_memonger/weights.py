"""Weights in MXNet: files in and out. A model's arrays have the zoo's canonical names and shapes as they are."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mxnet_memonger.numpy_names import mx
from mxnet_memonger.symbol_model import SymbolModel
from zoo.atomic_write import atomic_write
from zoo.options import TrainingError

SUFFIX = ".npz"
WEIGHTS = "weights/"  # before the names of weights in the checkpoint that a run is resumed from
COUNTER = "num_batches_tracked"  # a norm's in PyTorch, which MXNet's norms do not have


def canonical_weights(model: SymbolModel) -> dict[str, np.ndarray]:
    """Copies of a model's parameters and running statistics as NumPy arrays, by canonical name."""
    mx.nd.waitall()  # nothing else waits for statistics that a backward pass still moves
    return {name: array.asnumpy() for name, array in model.arrays.items()}


def set_canonical_weights(model: SymbolModel, arrays: Mapping[str, np.ndarray]) -> None:
    """Take over weights by canonical name, such as those of a PyTorch model of the same config.

    Counters of batches, which MXNet's norms do not have, are left out.

    Raises:
        ValueError: names or shapes that are not the model's; nothing is changed then.
    """
    model.set_arrays({name: value for name, value in arrays.items() if not name.endswith(COUNTER)})


def save_weights(model: SymbolModel, path: str | Path) -> None:
    """Write the model's weights, in one step: `.npz`, or `.safetensors` for every framework.

    Raises:
        ValueError: another suffix.
        ImportError: safetensors is asked for and not installed.

    Example:
        >>> from mxnet_memonger import ResNet
        >>> save_weights(ResNet(layers=(1, 1), width=4), "resnet.npz")
        >>> load_weights(ResNet(layers=(1, 1), width=4), "resnet.npz")
    """
    path = Path(path).expanduser()
    if path.suffix == SUFFIX:
        save_arrays(path, canonical_weights(model))
    elif path.suffix == ".safetensors":
        from safetensors.numpy import save

        with atomic_write(path) as file:
            file.write(save(canonical_weights(model), {"format": "pt"}))
    else:
        raise ValueError(f"save_weights: {path} must end with {SUFFIX} or .safetensors")


def load_weights(model: SymbolModel, path: str | Path, *, resize_head: bool = False) -> None:
    """Load weights into the model they are of.

    Args:
        model: takes them over.
        path: a `.npz` file of `save_weights` or of a training run, or a `.safetensors` file of any framework.
        resize_head: only False: a head for other classes is an error.

    Raises:
        FileNotFoundError: no such file.
        TrainingError: not a whole file of weights, or weights of another model.
        ValueError: resize_head=True.
    """
    if resize_head:
        raise ValueError("resize_head=True is not offered in MXNet: build the model with the file's num_classes")
    path = Path(path).expanduser()
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            found = load(path.read_bytes())
        except SafetensorError as error:
            raise TrainingError(f"{path} is not a whole safetensors file: {error}") from error
    else:
        found = load_arrays(path)
    if any(name.startswith(WEIGHTS) for name in found):
        found = {name.removeprefix(WEIGHTS): array for name, array in found.items() if name.startswith(WEIGHTS)}
    try:
        set_canonical_weights(model, found)
    except ValueError as error:
        raise TrainingError(f"{path} is of another model: {error}") from error


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
            return {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise TrainingError(f"{path} cannot be read as a checkpoint: {error or 'it ends too early'}") from error
