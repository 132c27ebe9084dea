"""Weights in TensorFlow: files in and out, and names and layouts: the zoo's canonical ones <-> Keras variables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tf_models.layers import ConvolutionLayer, LinearLayer, NormLayer
from tf_models.tensorflow_names import keras
from tf_models.zoo_model import ZooModel
from zoo import weight_files
from zoo import weights as canonical
from zoo.weights import COUNTER

KERAS_SUFFIX = ".keras"

# Axes of a variable, in the order that makes them canonical, by what the variable is.
_LAYOUTS: Mapping[str, tuple[int, ...]] = {
    "convolution": (3, 2, 0, 1),  # (size, size, C / groups, C') -> (C', C / groups, size, size)
    "depthwise": (2, 3, 0, 1),  # (size, size, C, 1) -> (C, 1, size, size)
    "linear": (1, 0),
    "as it is": (),
}


def canonical_variables(model: ZooModel) -> dict[str, tuple[Any, str]]:
    """Every parameter and running statistic by canonical name: its variable and its layout."""
    found: dict[str, tuple[Any, str]] = {}
    for name, part in model.parts.items():
        if isinstance(part, ConvolutionLayer):
            found[f"{name}.weight"] = (part.kernel, "depthwise" if part.how.depthwise else "convolution")
            if part.bias is not None:
                found[f"{name}.bias"] = (part.bias, "as it is")
        elif isinstance(part, LinearLayer):
            found |= {f"{name}.weight": (part.kernel, "linear"), f"{name}.bias": (part.bias, "as it is")}
        elif isinstance(part, NormLayer):
            own = (("weight", part.gamma), ("bias", part.beta))
            running = (("running_mean", part.moving_mean), ("running_var", part.moving_variance))
            found |= {f"{name}.{word}": (variable, "as it is") for word, variable in (*own, *running)}
        else:
            found |= {f"{name}.{word}": pair for word, pair in part.canonical_variables().items()}
    return found


def canonical_weights(model: ZooModel) -> dict[str, np.ndarray]:
    """Copies of a model's parameters and running statistics as NumPy arrays, by canonical name and in its layout.

    NumPy has no bfloat16: it becomes float32, exactly.
    """
    arrays = {}
    for name, (variable, layout) in canonical_variables(model).items():
        value, axes = np.asarray(keras.ops.convert_to_numpy(variable)), _LAYOUTS[layout]
        value = value.astype(np.float32) if value.dtype.name == "bfloat16" else value
        arrays[name] = np.array(value.transpose(axes) if axes else value, order="C")
    return arrays


def set_canonical_weights(model: ZooModel, arrays: Mapping[str, np.ndarray]) -> None:
    """Take over weights by canonical name, such as those of a PyTorch model of the same config.

    Counters of batches, which norms here do not have, are left out.

    Raises:
        WeightsError: names or shapes that are not the model's; nothing is changed then.
    """
    arrays = {name: value for name, value in arrays.items() if not name.endswith(COUNTER)}
    variables = canonical_variables(model)
    came = {name: tuple(value.shape) for name, value in arrays.items()}
    canonical.heads_that_differ(_shapes(variables), came, None)
    for name, value in arrays.items():
        variable, layout = variables[name]
        axes = _LAYOUTS[layout]
        variable.assign(np.asarray(value).transpose(np.argsort(axes)) if axes else value)


def _shapes(variables: Mapping[str, tuple[Any, str]]) -> dict[str, tuple[int, ...]]:
    shapes = {}
    for name, (variable, layout) in variables.items():
        own, axes = tuple(variable.shape), _LAYOUTS[layout]
        shapes[name] = tuple(own[axis] for axis in axes) if axes else own
    return shapes


def save_weights(model: ZooModel, path: str | Path) -> None:
    """Write the model's weights, in one step: `.npz`, or `.safetensors` for every framework.

    A whole model, with its optimiser if it has one, is saved by Keras: `model.save("x.keras")`.

    Raises:
        ValueError: another suffix.
        ImportError: safetensors is asked for and not installed.

    Example:
        >>> from tf_models import ResNet
        >>> save_weights(ResNet(layers=(1, 1), width=4), "resnet.npz")
        >>> load_weights(ResNet(layers=(1, 1), width=4), "resnet.npz")
    """
    weight_files.save(path, canonical_weights(model), model.spec, "; model.save writes .keras")


def load_weights(model: ZooModel, path: str | Path, *, resize_head: bool = True) -> None:
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
    needed = _shapes(canonical_variables(model))
    head = model.spec.head
    found = weight_files.load(path, needed, model.spec, head, resize_head=resize_head)
    own = {name: array for name, array in canonical_weights(model).items() if name not in found}
    set_canonical_weights(model, found | own)
