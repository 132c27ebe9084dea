"""Weights in MXNet: files in and out. A model's arrays have the zoo's canonical names and shapes as they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mxnet_memonger.numpy_names import mx
from mxnet_memonger.symbol_model import SymbolModel
from zoo import weight_files
from zoo.weights import COUNTER


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
    weight_files.save(path, canonical_weights(model), model.spec)


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
    needed = {name: tuple(array.shape) for name, array in model.arrays.items()}
    head = model.parameter_names()[-1].rpartition(".")[0]
    found = weight_files.load(path, needed, model.spec, head, resize_head=resize_head)
    own = {name: array for name, array in model.arrays.items() if name not in found}
    set_canonical_weights(model, found | own)
