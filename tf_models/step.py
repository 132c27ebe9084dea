"""One training step of a zoo model, eager, as a graph, or compiled by XLA; and how zoo's batches become its inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
    return as_graph(model, step, jit_compile=mode == "xla")


def as_graph(model: ZooModel, step: Callable[..., Any], jit_compile: bool = False) -> Callable[..., Any]:
    """A training step as a graph; of a model whose bits are learnt, as one graph for each choice of bits.

    Args:
        model: that the step trains.
        step: a function of tensors.
        jit_compile: whether XLA compiles it.
    """
    how = {"jit_compile": jit_compile, "autograph": False, "reduce_retracing": False}
    learnt = model.learnt_bits
    if learnt is None:
        function: Callable[..., Any] = tf.function(step, **how)
        return function
    by_bits = tf.function(lambda graph, *given: step(*given), **how)

    def run(*given: Any) -> Any:
        with learnt.step() as graph:
            return by_bits(graph, *given)

    return run


class StepRunner:
    """Trains and evaluates a model batch by batch; a batch of another size makes another graph.

    Args:
        model: its variables are trained in place.
        momentum: Nesterov's, in [0, 1).
        decay: of weights, on every parameter.
    """

    def __init__(self, model: ZooModel, momentum: float, decay: float) -> None:
        self.model, self.momentum, self.decay = model, momentum, decay
        self.velocities = [tf.Variable(tf.zeros_like(one)) for one in model.trainable_variables]
        self._gradients = make_step(model, "eager")
        self._train = as_graph(model, self._update)
        self._evaluate = tf.function(self._scores, autograph=False)

    def seed(self, seed: int) -> None:
        """What dropout and the noise of codes draw from in the next step."""
        for place, name in enumerate(("dropout_seeds", "code_seeds")):
            seeds = getattr(self.model, name, None)
            if seeds is not None:
                seeds.state.assign(np.random.SeedSequence([seed, place]).generate_state(2))

    def train(self, inputs: np.ndarray, labels: np.ndarray, learning_rate: float) -> tuple[float, int]:
        """One optimiser step; the sum of the losses, and how many answers are right."""
        rate = tf.constant(learning_rate, tf.float32)
        loss, right = self._train(tf.constant(shaped_input(self.model, inputs)), tf.constant(labels), rate)
        return float(loss), int(right)

    def evaluate(self, inputs: np.ndarray, labels: np.ndarray) -> tuple[float, int]:
        """As `train`, with the running statistics, and nothing is trained."""
        loss, right = self._evaluate(tf.constant(shaped_input(self.model, inputs)), tf.constant(labels))
        return float(loss), int(right)

    def _update(self, inputs: Any, labels: Any, learning_rate: Any) -> tuple[Any, Any]:
        loss, right, gradients = self._gradients(inputs, labels)
        for weight, velocity, gradient in zip(self.model.trainable_variables, self.velocities, gradients, strict=True):
            gradient = tf.convert_to_tensor(gradient) + self.decay * weight.value
            velocity.assign(self.momentum * velocity + gradient)
            weight.assign_sub(tf.cast(learning_rate, gradient.dtype) * (gradient + self.momentum * velocity))
        return loss, right

    def _scores(self, inputs: Any, labels: Any) -> tuple[Any, Any]:
        return loss_and_right(self.model(inputs, training=False), labels)

    def state_bytes(self) -> int:
        """Of variables and momentum."""
        held = [*self.model.variables, *self.velocities]
        return sum(int(np.prod(one.shape)) * tf.as_dtype(one.dtype).size for one in held)

    def momentum_arrays(self) -> dict[str, np.ndarray]:
        """Copies, by number; and the bits that were learnt."""
        learnt = self.model.learnt_bits
        arrays = {} if learnt is None else {f"learnt_{name}": one for name, one in learnt.arrays().items()}
        return arrays | {str(number): one.numpy() for number, one in enumerate(self.velocities)}

    def set_momentum(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take over what `momentum_arrays` gave."""
        for number, one in enumerate(self.velocities):
            one.assign(arrays[str(number)])
        if self.model.learnt_bits is not None:
            self.model.learnt_bits.set_arrays(
                {name.removeprefix("learnt_"): one for name, one in arrays.items() if name.startswith("learnt_")}
            )


def in_mixed_precision(model: ZooModel, policy: str = "mixed_bfloat16") -> ZooModel:
    """A model of the same weights that computes in 16 bits and keeps its variables in float32."""
    made = type(model).from_config({**model.get_config(), "dtype": policy, "name": None})
    for own, given in zip(made.variables, model.variables, strict=True):
        own.assign(given)
    made.carried_plan, made.code_kernels = model.carried_plan, model.code_kernels
    return made
