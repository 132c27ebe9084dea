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
from zoo import weights as canonical
from zoo.atomic_write import atomic_write
from zoo.options import TrainingError
from zoo.weights import COUNTER, WeightsError

SUFFIX = ".npz"
WEIGHTS = "weights/"  # before the names of weights in the checkpoint that a run is resumed from


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
    elif path.suffix == canonical.SUFFIX:
        canonical.write(path, canonical_weights(model), model.spec)
    else:
        raise ValueError(f"save_weights: {path} must end with {SUFFIX} or .safetensors")


def load_weights(model: SymbolModel, path: str | Path, *, resize_head: bool = True) -> None:
    """Load weights from a file into the model, strictly but for a head of another number of classes.

    Args:
        model: takes them over.
        path: a `.safetensors` file of any framework, or a `.npz` file of `save_weights` or of a training run.
        resize_head: where the file's head is for other classes, keep the model's own and warn; else that is an error.

    Raises:
        FileNotFoundError: no such file.
        WeightsError: names or shapes that are not the model's, or not a whole safetensors file.
        TrainingError: not a whole `.npz` file.

    Warns:
        HeadResizedWarning: the head was not loaded; names it.
    """
    path = Path(path).expanduser()
    if path.suffix == canonical.SUFFIX:
        found, network = canonical.read(path)
        canonical.check_flavour(network, model.spec)
    else:
        found = load_arrays(path)
    if any(name.startswith(WEIGHTS) for name in found):
        found = {name.removeprefix(WEIGHTS): array for name, array in found.items() if name.startswith(WEIGHTS)}
    found = {canonical.strip_wrappers(name): array for name, array in found.items() if not name.endswith(COUNTER)}
    needed = {name: tuple(array.shape) for name, array in model.arrays.items()}
    came = {name: tuple(array.shape) for name, array in found.items()}
    head = model.parameter_names()[-1].rpartition(".")[0]
    try:
        resized = canonical.heads_that_differ(needed, came, head if resize_head else None)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    own = {name: array for name, array in model.arrays.items() if name in resized}
    set_canonical_weights(model, {**{name: array for name, array in found.items() if name not in resized}, **own})
    canonical.warn_of_new_head(head, needed, came, resized)


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
