"""Small networks of every family in TensorFlow, with fixed weights; tests that import this skip without TensorFlow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is not installed: pip install 'memory-efficient-zoo[tensorflow]'")

from tf_models import LSTM, DenseNet, MobileNetV2, ResNet
from tf_models.step import make_step
from tf_models.tensorflow_names import keras, tf

# Name: class, fields, shape of a batch (channels_last).
NETWORKS: dict[str, tuple[Any, dict[str, Any], tuple[int, ...]]] = {
    "densenet": (
        DenseNet,
        {"growth_rate": 4, "block_config": (2, 1), "num_init_features": 6, "drop_rate": 0.2},
        (4, 8, 8, 3),
    ),
    "densenet of the ImageNet stem": (
        DenseNet,
        {"growth_rate": 4, "block_config": (2, 2), "num_init_features": 6, "small_inputs": False},
        (4, 64, 64, 3),
    ),
    "densenet without bottlenecks": (
        DenseNet,
        {"growth_rate": 4, "block_config": (3, 2), "num_init_features": 6, "bn_size": 0},
        (4, 16, 16, 3),
    ),
    "resnet": (ResNet, {"layers": (1, 2), "width": 4}, (4, 16, 16, 3)),
    "resnet of bottlenecks": (
        ResNet,
        {"block": "bottleneck", "layers": (1, 1), "width": 4, "small_inputs": False},
        (4, 64, 64, 3),
    ),
    "resnext": (
        ResNet,
        {"block": "bottleneck", "layers": (1, 1), "width": 8, "groups": 4, "width_per_group": 32},
        (4, 16, 16, 3),
    ),
    "preact_resnet": (ResNet, {"layers": (1, 2), "width": 4, "pre_activation": True}, (4, 16, 16, 3)),
    "mobilenet_v2": (MobileNetV2, {"width_mult": 0.35}, (4, 32, 32, 3)),
    "lstm": (LSTM, {"hidden_size": 6, "drop_rate": 0.3}, (3, 14, 28, 1)),
    "bidirectional lstm": (LSTM, {"hidden_size": 6, "bidirectional": True}, (3, 12, 28, 1)),
}
CLASSES = 5


def network(name: str, **flags: Any) -> Any:
    """A network whose weights and seeds depend on nothing."""
    kind, fields, _ = NETWORKS[name]
    keras.utils.set_random_seed(0)
    model = kind(**{**fields, "num_classes": CLASSES, **flags})
    draw = np.random.default_rng(0)
    for variable in model.variables:
        if "gamma" in variable.path or "beta" in variable.path:
            variable.assign(variable + 0.2 * draw.standard_normal(variable.shape))
    if getattr(model, "dropout_seeds", None) is not None:
        model.dropout_seeds.state.assign([5, 6])
    return model


def batch(name: str, dtype: str = "float64") -> tuple[Any, Any]:
    """Images, or a sequence, and labels."""
    shape = NETWORKS[name][2]
    inputs = np.random.default_rng(1).standard_normal(shape).astype(dtype)
    return tf.constant(inputs), tf.constant(np.arange(shape[0]) % CLASSES)


def one_step(model: Any, inputs: Any, labels: Any, mode: str) -> list[np.ndarray]:
    """The loss, all gradients and what the running statistics are then."""
    loss, _, gradients = make_step(model, mode)(inputs, labels)
    found = [loss, *(tf.convert_to_tensor(one) for one in gradients), *model.non_trainable_variables]
    return [np.asarray(one.numpy(), np.float64) for one in found]


def largest_difference(ours: list[np.ndarray], theirs: list[np.ndarray]) -> float:
    """Relative to each array's largest value; to a thousandth of the largest of all where that is more."""
    floor = 1e-3 * max(np.abs(one).max() for one in theirs[1:] if one.size)
    pairs = zip(ours, theirs, strict=True)
    return max(float(np.abs(a - b).max() / max(np.abs(b).max(), floor)) for a, b in pairs)
