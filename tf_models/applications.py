"""Weights taken over from keras.applications' models, for flavour "keras"."""

from __future__ import annotations

from typing import Any

import numpy as np

from tf_models.keras_names import keras_layer_name
from tf_models.zoo_model import ZooModel


def load_application(model: ZooModel, application: Any) -> None:
    """Take over the weights of a keras.applications model, layer by layer of the same name.

    Both give the same scores then, but for a softmax that the application may end with: this project's models give
    scores before it.

    Args:
        model: DenseNet, ResNet or MobileNetV2 of flavour "keras".
        application: such as keras.applications.DenseNet121(weights="imagenet"), with its top; or any keras.Model with
            layers of those names.

    Raises:
        ValueError: a model of another flavour; a layer that is missing, or whose weights have other shapes. Nothing is
            changed then.

    Example:
        >>> import keras; from tf_models import MobileNetV2
        >>> theirs = keras.applications.MobileNetV2((32, 32, 3), weights=None, classes=10)
        >>> load_application(MobileNetV2(flavour="keras", num_classes=10), theirs)
    """
    family = type(model).__name__
    if getattr(model.spec, "flavour", None) != "keras":
        raise ValueError(
            f"load_application: {family} of flavour 'keras' is needed, for its padding, epsilon and biases: build it "
            f"with {family}(flavour='keras', ...)"
        )
    theirs = {layer.name: layer for layer in application.layers}
    taken: list[tuple[Any, np.ndarray]] = []
    for name, part in model.parts.items():
        wanted = keras_layer_name(family, name)
        if wanted not in theirs:
            raise ValueError(
                f"load_application: {application.name} has no layer {wanted!r} ({name} here): give the same variant, "
                "with include_top=True"
            )
        values = theirs[wanted].get_weights()
        shapes = [tuple(one.shape) for one in part.weights], [one.shape for one in values]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"load_application: {wanted} has weights of shapes {shapes[1]}, {name} here needs {shapes[0]}: give "
                "the same variant and number of classes"
            )
        taken += zip(part.weights, values, strict=True)
    for variable, value in taken:
        variable.assign(value)
