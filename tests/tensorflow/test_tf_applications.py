"""Flavour "keras" is keras.applications' network: layer names, weights and outputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from small_networks import keras, network, tf

from tf_models import DenseNet, MobileNetV2, ResNet, load_application

NETWORKS: dict[str, tuple[Any, dict[str, Any]]] = {
    "DenseNet121": (DenseNet, {"growth_rate": 32, "block_config": (6, 12, 24, 16), "num_init_features": 64}),
    "DenseNet201": (DenseNet, {"growth_rate": 32, "block_config": (6, 12, 48, 32), "num_init_features": 64}),
    "ResNet50": (ResNet, {"block": "bottleneck", "layers": (3, 4, 6, 3), "width": 64}),
    "MobileNetV2": (MobileNetV2, {}),
}
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("DenseNet201",)]


@pytest.mark.parametrize("name", ["DenseNet121", "ResNet50", "MobileNetV2", *SLOW])
def test_outputs_are_the_applications(name: str) -> None:
    kind, fields = NETWORKS[name]
    keras.utils.set_random_seed(0)
    theirs = getattr(keras.applications, name)(
        input_shape=(64, 64, 3), weights=None, classes=7, classifier_activation=None
    )
    draw = np.random.default_rng(0)
    for layer in theirs.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            low, high = (0.8, -0.1, -0.1, 0.5), (1.2, 0.1, 0.1, 1.0)  # gamma, beta, mean, variance
            layer.set_weights([draw.uniform(*ends, layer.gamma.shape) for ends in zip(low, high, strict=True)])
    small = {} if kind is MobileNetV2 else {"small_inputs": False}
    ours = kind(**fields, **small, flavour="keras", num_classes=7)
    load_application(ours, theirs)
    assert {part.name for part in ours.parts.values()} == {layer.name for layer in theirs.layers if layer.weights}
    images = tf.constant(draw.standard_normal((2, 64, 64, 3)).astype(np.float32))
    expected, found = theirs(images, training=False).numpy(), ours(images).numpy()
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
    assert np.ptp(expected) > 1e-3


def test_other_models_are_refused_and_nothing_is_changed() -> None:
    with pytest.raises(ValueError, match="flavour='keras'"):
        load_application(network("resnet"), None)
    ours = MobileNetV2(flavour="keras", num_classes=3)
    before = ours.parts["features.0.0"].kernel.numpy()
    theirs = keras.applications.MobileNetV2((32, 32, 3), weights=None, classes=4)
    with pytest.raises(ValueError, match="number of classes"):
        load_application(ours, theirs)
    with pytest.raises(ValueError, match="no layer 'Conv1'"):
        load_application(ours, keras.Sequential(name="empty"))
    assert np.array_equal(ours.parts["features.0.0"].kernel.numpy(), before)
