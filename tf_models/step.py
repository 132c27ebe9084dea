"""One training step of a zoo model, eager, as a graph, or compiled by XLA; and how zoo's batches become its inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tf_models.tensorflow_names import tf
from tf_models.zoo_model import ZooModel

END_OF_FORWARD = "end_of_forward"  # the operator at which the forward pass has ended


def shaped_input(model: ZooModel, inputs: np.ndarray) -> np.ndarray:
    """Images (N, C, H, W) in the model's data_format; anything else as it is."""
    if inputs.ndim == 4 and model.data_format == "channels_last":
        return np.ascontiguousarray(inputs.transpose(0, 2, 3, 1))
    return inputs


def loss_and_right(scores: Any, labels: Any) -> tuple[Any, Any]:
    """Summed cross entropy in nats, and how many answers are right.

    Args:
        scores: (..., classes).
        labels: integers (...).
    """
    kind = tf.float64 if scores.dtype == tf.float64 else tf.float32
    wide = tf.cast(scores, kind)
    with tf.profiler.experimental.Trace(END_OF_FORWARD):
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, wide, name=END_OF_FORWARD)
    right = tf.reduce_sum(tf.cast(tf.argmax(wide, -1) == tf.cast(labels, tf.int64), tf.int64))
    return tf.reduce_sum(losses), right


def make_step(model: ZooModel, mode: str) -> Callable[[Any, Any], tuple[Any, Any, list[Any]]]:
    """A function (inputs, labels) -> (loss summed over the batch, right answers, gradients of the mean loss).

    Args:
        model: its running statistics move.
        mode: "eager", "graph" or "xla".
    """

    def step(inputs: Any, labels: Any) -> tuple[Any, Any, list[Any]]:
        with tf.GradientTape() as tape:
            total, right = loss_and_right(model(inputs, training=True), labels)
            mean = total / tf.cast(tf.size(labels), total.dtype)
        return total, right, tape.gradient(mean, [one.value for one in model.trainable_variables])

    if mode == "eager":
        return step
    function: Callable[[Any, Any], tuple[Any, Any, list[Any]]] = tf.function(
        step, jit_compile=mode == "xla", autograph=False, reduce_retracing=False
    )
    return function
