"""One training step of a zoo model, eager, as a graph, or compiled by XLA; and how zoo's batches become its inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tf_models.loss_scale import LossScale
from tf_models.processes import Workers
from tf_models.tensorflow_names import tf
from tf_models.zoo_model import ZooModel

SCALE = "loss_scale"  # in checkpoints
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


def make_step(model: ZooModel, mode: str, scale: Any = None) -> Callable[[Any, Any], tuple[Any, Any, list[Any]]]:
    """A function (inputs, labels) -> (loss summed over the batch, right answers, gradients of the mean loss).

    Args:
        model: its running statistics move.
        mode: "eager", "graph" or "xla".
        scale: a variable by which gradients are multiplied, while they are taken; None = 1.
    """

    def step(inputs: Any, labels: Any) -> tuple[Any, Any, list[Any]]:
        with tf.GradientTape() as tape:
            total, right = loss_and_right(model(inputs, training=True), labels)
            mean = total / tf.cast(tf.size(labels), total.dtype)
            mean = mean if scale is None else mean * tf.cast(scale, mean.dtype)
        return total, right, tape.gradient(mean, [one.value for one in model.trainable_variables])

    if mode == "eager":
        return step
    return as_graph(model, step, jit_compile=mode == "xla")


def as_graph(
    model: ZooModel,
    step: Callable[..., Any],
    jit_compile: bool = False,
    even_out: Callable[[Sequence[Any]], None] | None = None,
) -> Callable[..., Any]:
    """A training step as a graph; of a model whose bits are learnt, as one graph for each choice of bits.

    Args:
        model: that the step trains.
        step: a function of tensors.
        jit_compile: whether XLA compiles it.
        even_out: see `LearntBits.step`.
    """
    how = {"jit_compile": jit_compile, "autograph": False, "reduce_retracing": False}
    learnt = model.learnt_bits
    if learnt is None:
        function: Callable[..., Any] = tf.function(step, **how)
        return function
    by_bits = tf.function(lambda graph, *given: step(*given), **how)

    def run(*given: Any) -> Any:
        with learnt.step(even_out) as graph:
            return by_bits(graph, *given)

    return run


class StepRunner:
    """Trains and evaluates a model batch by batch; a batch of another size makes another graph.

    Args:
        model: its variables are trained in place.
        momentum: Nesterov's, in [0, 1).
        decay: of weights, on every parameter.
        workers: the processes that train together; None = this one alone. Norms normalise with each one's own inputs.

    Attributes:
        loss_scale: of a model that computes in float16; None for others.
    """

    def __init__(self, model: ZooModel, momentum: float, decay: float, workers: Workers | None = None) -> None:
        self.model, self.momentum, self.decay = model, momentum, decay
        self.workers = workers or Workers()
        self.workers.share(model.variables)
        self.velocities = [tf.Variable(tf.zeros_like(one)) for one in model.trainable_variables]
        self.loss_scale = LossScale() if model.compute_dtype == "float16" else None
        self._gradients = make_step(model, "eager", None if self.loss_scale is None else self.loss_scale.value)
        self._train = as_graph(model, self._update)
        self._find = as_graph(model, self._gradients, even_out=self.workers.average)
        self._take = tf.function(self._take_gradients, autograph=False)
        self._evaluate = tf.function(self._scores, autograph=False)

    def seed(self, seed: int) -> None:
        """What dropout and the noise of codes draw from in the next step."""
        for place, name in enumerate(("dropout_seeds", "code_seeds")):
            seeds = getattr(self.model, name, None)
            if seeds is not None:
                seeds.state.assign(np.random.SeedSequence([seed, place]).generate_state(2))

    def train(self, inputs: np.ndarray, labels: np.ndarray, learning_rate: float) -> tuple[float, int]:
        """One optimiser step; the sum of the losses, and how many answers are right, of all processes' inputs."""
        rate = tf.constant(learning_rate, tf.float32)
        batch = tf.constant(shaped_input(self.model, inputs)), tf.constant(labels)
        if self.workers.world == 1:
            loss, right = self._train(*batch, rate)
            return float(loss), int(right)
        loss, right, found = self._find(*batch)
        # Parts may differ in size: each counts by its answers.
        sums = [one * tf.cast(labels.size, one.dtype) for one in map(tf.convert_to_tensor, found)]
        count, loss, right, *sums = self.workers.add_up([tf.cast(labels.size, tf.int64), loss, right, *sums])
        self._take([one / tf.cast(count, one.dtype) for one in sums], rate)
        return float(loss), int(right)

    def evaluate(self, inputs: np.ndarray, labels: np.ndarray) -> tuple[float, int]:
        """Of this process's inputs, as `train`, with the running statistics, and nothing is trained."""
        loss, right = self._evaluate(tf.constant(shaped_input(self.model, inputs)), tf.constant(labels))
        return float(loss), int(right)

    def _update(self, inputs: Any, labels: Any, learning_rate: Any) -> tuple[Any, Any]:
        loss, right, found = self._gradients(inputs, labels)
        self._take_gradients([tf.convert_to_tensor(one) for one in found], learning_rate)
        return loss, right

    def _take_gradients(self, gradients: list[Any], learning_rate: Any) -> None:
        if self.loss_scale is None:
            self._descend(gradients, learning_rate)
        else:
            gradients, finite = self.loss_scale.unscaled(gradients)
            self.loss_scale.step(finite, lambda: self._descend(gradients, learning_rate))

    def _descend(self, gradients: list[Any], learning_rate: Any) -> None:
        for weight, velocity, gradient in zip(self.model.trainable_variables, self.velocities, gradients, strict=True):
            gradient = gradient + self.decay * weight.value
            velocity.assign(self.momentum * velocity + gradient)
            weight.assign_sub(tf.cast(learning_rate, gradient.dtype) * (gradient + self.momentum * velocity))

    def even_out(self) -> None:
        """Give all processes the mean of what each has by its own inputs: running statistics, and what bits are of."""
        moved = [one for one in self.model.non_trainable_variables if one.dtype.startswith("float")]
        self.workers.average(moved if self.model.learnt_bits is None else [*moved, self.model.learnt_bits.found])

    def _scores(self, inputs: Any, labels: Any) -> tuple[Any, Any]:
        return loss_and_right(self.model(inputs, training=False), labels)

    def state_bytes(self) -> int:
        """Of variables and momentum."""
        held = [*self.model.variables, *self.velocities]
        return sum(int(np.prod(one.shape)) * tf.as_dtype(one.dtype).size for one in held)

    def momentum_arrays(self) -> dict[str, np.ndarray]:
        """Copies, by number; the loss's scale, if there is one; and the bits that were learnt."""
        learnt = self.model.learnt_bits
        arrays = {} if learnt is None else {f"learnt_{name}": one for name, one in learnt.arrays().items()}
        if self.loss_scale is not None:
            arrays[SCALE] = self.loss_scale.to_array()
        return arrays | {str(number): one.numpy() for number, one in enumerate(self.velocities)}

    def set_momentum(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take over what `momentum_arrays` gave."""
        for number, one in enumerate(self.velocities):
            one.assign(arrays[str(number)])
        if self.loss_scale is not None:
            self.loss_scale.take_over(arrays[SCALE])
        if self.model.learnt_bits is not None:
            self.model.learnt_bits.set_arrays(
                {name.removeprefix("learnt_"): one for name, one in arrays.items() if name.startswith("learnt_")}
            )


BFLOAT16, FLOAT16 = "mixed_bfloat16", "mixed_float16"  # Keras's names


def in_mixed_precision(model: ZooModel, policy: str = BFLOAT16) -> ZooModel:
    """A model of the same weights that computes in 16 bits and keeps its variables in float32."""
    made = type(model).from_config({**model.get_config(), "dtype": policy, "name": None})
    for own, given in zip(made.variables, model.variables, strict=True):
        own.assign(given)
    made.carried_plan = model.carried_plan
    return made
