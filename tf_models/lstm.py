"""LSTM classifiers and language models in TensorFlow; the recurrent part has torch.nn.LSTM's parameters and names."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tf_models.carry_out import NamedPart
from tf_models.forward_pass import Pass
from tf_models.recurrence import StackedSettings, lstm_plan, run_plain
from tf_models.saving.coded_lstm import CodedStack
from tf_models.saving.over_time import run_recomputed
from tf_models.tensorflow_names import keras, tf
from tf_models.zoo_model import PACKAGE, ZooModel
from zoo.lstm import LSTMConfig


class RecurrentLayer(keras.layers.Layer):
    """Stacked LSTMs' weights, kernels as (inputs, 4H): the transposes of torch.nn.LSTM's; gates i, f, g, o.

    Args:
        config: sizes, layers, directions.
    """

    def __init__(self, config: LSTMConfig, **given: Any) -> None:
        super().__init__(**given)
        self.own: dict[str, Any] = {}
        hidden, bound = config.hidden_size, 1 / math.sqrt(config.hidden_size)
        for layer in range(config.num_layers):
            into = config.input_size if layer == 0 else hidden * config.directions
            for suffix in suffixes(config, layer):
                for kind, size in (("ih", into), ("hh", hidden)):
                    fresh = keras.initializers.RandomUniform(-bound, bound)
                    name = f"weight_{kind}_{suffix}"
                    self.own[name] = self.add_weight(shape=(size, 4 * hidden), initializer=fresh, name=name)
                for kind in ("ih", "hh"):
                    name = f"bias_{kind}_{suffix}"
                    self.own[name] = self.add_weight(shape=(4 * hidden,), initializer=_open_forget_gates, name=name)
        self.built = True

    def canonical_variables(self) -> dict[str, tuple[Any, str]]:
        """By torch.nn.LSTM's names, with their layouts."""
        return {name: (one, "linear" if name.startswith("weight") else "as it is") for name, one in self.own.items()}

    def of_layer(self, suffix: str) -> list[Any]:
        """Tensors of one layer and direction."""
        names = (f"{word}_{kind}_{suffix}" for word in ("weight", "bias") for kind in ("ih", "hh"))
        return [tf.convert_to_tensor(self.own[name]) for name in names]


class EmbeddingLayer(keras.layers.Layer):
    """Tokens (N, T) -> (N, T, size)."""

    def __init__(self, tokens: int, size: int, **given: Any) -> None:
        super().__init__(**given)
        normal = keras.initializers.RandomNormal(stddev=1.0)
        self.table = self.add_weight(shape=(tokens, size), initializer=normal, name="table")
        self.built = True

    def canonical_variables(self) -> dict[str, tuple[Any, str]]:
        """By torch.nn.Embedding's name."""
        return {"weight": (self.table, "as it is")}

    def call(self, tokens: Any) -> Any:
        """See the class."""
        return tf.gather(tf.convert_to_tensor(self.table), tokens)


# Keras loads a model's class from a file only by this registry of its own.
@keras.saving.register_keras_serializable(package=PACKAGE)
class LSTM(ZooModel):
    """Stacked LSTMs that read rows or pixels of images, or tokens of a text, with exact memory saving over time.

    Args:
        efficient: keep only states between chunks of time steps, and run each chunk again in the backward pass; same
            outputs and gradients as without, memory grows like the square root of the time steps.
        compressed: 1, 2, 4, 8 bits a value that is kept of each step (forget gates 8 or more), "fixed:4", "half"; the
            outputs are the same to the bit, gradients without bias. `efficient` keeps less: of both it is done alone.
        keep_bottleneck, opt_memory: not of LSTMs.
        data_format, dtype, name: see `tf_models.zoo_model.ZooModel`.
        fields: of `zoo.lstm.LSTMConfig`.

    Input: images in `data_format`, whose rows or pixels (row by row) are the time steps, a sequence
    (N, T, input_size), or tokens (N, T) int64. The number of steps must be fixed, and the batch as well for
    `fit` with steps of different sizes makes a graph for each. Output: scores (N, num_classes), for tokens
    (N, T, num_classes).

    Example:
        >>> model = LSTM(reads="rows", input_size=28, hidden_size=16, efficient=True)
        >>> model(tf.zeros((2, 28, 28, 1))).shape
        TensorShape([2, 10])
    """

    config_type = LSTMConfig
    learns_bits = False

    def _build_parts(self) -> None:
        config: LSTMConfig = self.spec
        if config.is_language_model:
            self.parts["embedding"] = EmbeddingLayer(
                config.num_classes, config.input_size, name="embedding", dtype=self.dtype_policy
            )
        self.parts["recurrent"] = RecurrentLayer(config, name="recurrent", dtype=self.dtype_policy)
        self._linear("classifier", config.hidden_size * config.directions, config.num_classes)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """See the class."""
        return self.parts["classifier"](self.run_parts(inputs, self.new_pass(training)))

    def part_functions(self) -> list[NamedPart]:
        """All time steps of all layers are one part."""
        return [("recurrent", self._recurrent)]

    def _recurrent(self, inputs: Any, run: Pass) -> Any:
        """Images or tokens -> the last hidden states; of a language model, those of all steps (N, T, H)."""
        config: LSTMConfig = self.spec
        values = tf.transpose(self._as_sequence(inputs), [1, 0, 2])
        layers = self._both_directions if config.bidirectional else self._one_direction
        outputs, last = layers(values, run)
        return tf.transpose(outputs, [1, 0, 2]) if config.is_language_model else last

    def _as_sequence(self, inputs: Any) -> Any:
        """Whatever comes, as (N, T, input_size).

        Raises:
            ValueError: time steps of another size, or of an unknown number.
        """
        config, values = self.spec, inputs
        if config.is_language_model:
            if inputs.shape.rank != 2 or inputs.dtype.is_floating:
                raise ValueError(
                    f"LSTM needs tokens (N, T) of an integer dtype, not {inputs.shape} {inputs.dtype.name}"
                )
            values = self.parts["embedding"](inputs)
        elif inputs.shape.rank == 4:
            # As (N, H, C, W): a row is all of its first channel, then all of its second.
            order = [0, 1, 3, 2] if self.data_format == "channels_last" else [0, 2, 1, 3]
            values = tf.transpose(inputs, order)
            _, height, channels, width = values.shape
            if config.reads == "pixels":
                values = tf.reshape(tf.transpose(values, [0, 1, 3, 2]), (-1, height * width, channels))
            else:
                values = tf.reshape(values, (-1, height, channels * width))
        if values.shape.rank != 3 or values.shape[2] != config.input_size or not values.shape[1]:
            raise ValueError(
                f"an LSTM that reads {config.reads} of {config.input_size} values got an input of shape "
                f"{tuple(inputs.shape)}: give images, or a sequence (N, T, {config.input_size}), with a fixed T above 0"
            )
        return values

    def _settings(self, values: Any, layers: int, first: int, turned: bool, seed: Any) -> StackedSettings:
        samples = values.shape[1] or 1
        plan = lstm_plan(int(values.shape[0]), int(samples), self.spec.hidden_size, layers, values.dtype.size)
        return StackedSettings(layers, self.spec.drop_rate if seed is not None else 0.0, first, turned, plan)

    def _start(self, values: Any, count: int) -> list[Any]:
        samples = tf.shape(values)[1] if values.shape[1] is None else values.shape[1]
        return [tf.zeros((samples, self.spec.hidden_size), values.dtype)] * count

    def _one_direction(self, values: Any, run: Pass) -> tuple[Any, Any]:
        layers = self.spec.num_layers
        weights = [one for layer in range(layers) for one in self.parts["recurrent"].of_layer(f"l{layer}")]
        over_time = _over_time(run)
        how = self._settings(values, layers, 0, False, run.dropout)
        outputs, ends = over_time(values, self._start(values, 2 * layers), weights, run.dropout, how)
        return outputs, ends[-2]

    def _both_directions(self, values: Any, run: Pass) -> tuple[Any, Any]:
        """Layer by layer: the second layer's first step reads what the first one read last."""
        last: list[Any] = []
        below: list[Any] = []
        for layer in range(self.spec.num_layers):
            sides, last, made = [], [], []
            for turned, suffix in enumerate(suffixes(self.spec, layer)):
                how = self._settings(values, 1, layer, bool(turned), run.dropout)
                weights = self.parts["recurrent"].of_layer(suffix)
                made.append(_over_time(run, below))
                outputs, ends = made[-1](values, self._start(values, 2), weights, run.dropout, how)
                sides.append(outputs)
                last.append(ends[0])
            values, below = tf.concat(sides, 2), made
        return values, tf.concat(last, 1)


def _over_time(run: Pass, below: Sequence[Any] = ()) -> Callable[..., tuple[Any, list[Any]]]:
    """How layers are run: what `efficient` keeps is less than codes.

    Args:
        run: the forward pass.
        below: how the layers were run whose outputs, side by side, these read.
    """
    if run.policy.efficient:
        return run_recomputed
    coder = run.coder()
    return run_plain if coder is None else CodedStack(coder, [one for one in below if isinstance(one, CodedStack)])


def suffixes(config: LSTMConfig, layer: int) -> list[str]:
    """Of the names of a layer's parameters, a direction each."""
    return [f"l{layer}", f"l{layer}_reverse"] if config.bidirectional else [f"l{layer}"]


def _open_forget_gates(shape: tuple[int, ...], dtype: Any = None) -> Any:
    """Zeros, but a half for forget gates: two biases make them one (Jozefowicz et al. 2015)."""
    hidden = shape[0] // 4
    return tf.concat(
        [tf.zeros(hidden, dtype), tf.fill([hidden], tf.constant(0.5, dtype)), tf.zeros(2 * hidden, dtype)], 0
    )
