"""LSTM classifiers and language models as Symbols, unrolled over time; parameter names and shapes are PyTorch's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from mxnet_memonger.layers import linear_of, linear_parameters, parameter
from mxnet_memonger.numpy_names import mx
from mxnet_memonger.symbol_model import LABEL, SymbolModel
from zoo.lstm import TOKENS, LSTMConfig

FORGET_BIAS = 0.5  # in each of two: forget gates are open at first (Jozefowicz et al. 2015)
Shape = tuple[int, ...]


class LSTM(SymbolModel):
    """Stacked LSTMs that read rows or pixels of images, or tokens of a text, unrolled, for MXNet.

    The Symbol depends on the number of time steps: `symbol_for(shape)` gives that of a batch; `symbol` is for the
    network's usual inputs. All of them have the same parameters.

    Args:
        efficient: `for_training` gives a planned Symbol: least memory, same numbers to the bit.
        keep_bottleneck, opt_memory, compressed: not of LSTMs.
        fields: of `zoo.lstm.LSTMConfig`.

    Input "data": images (N, C, H, W), a sequence (N, T, input_size), or tokens (N, T). Output: scores
    (N, num_classes), for tokens (N, T, num_classes).

    Example:
        >>> model = LSTM(hidden_size=16, efficient=True)
        >>> model.symbol_for((4, 1, 28, 28)).infer_shape(data=(4, 1, 28, 28))[1]
        [(4, 10)]
    """

    config_type = LSTMConfig

    @staticmethod
    def build(config: LSTMConfig) -> Any:
        """The Symbol for the inputs that the network was published for."""
        return lstm_symbol(config, usual_shape(config))

    @staticmethod
    def input_shape(config: LSTMConfig) -> Shape:
        """Of the shortest sequence that every parameter is used for: they are told by it."""
        return config.sequence_shape(steps=2, batch_size=2)

    def symbol_for(self, input_shape: Shape) -> Any:
        """From "data" of this shape to scores."""
        return lstm_symbol(self.spec, tuple(input_shape))

    def with_loss(self, input_shape: Shape | None = None) -> Any:
        """See `SymbolModel.with_loss`. For tokens: the summed loss and the number of right answers, (2,)."""
        if not self.spec.is_language_model:
            return super().with_loss(input_shape)
        return language_loss(self.spec, tuple(input_shape or usual_shape(self.spec)))

    def random_inputs(self, shape: Shape, draw: np.random.Generator) -> np.ndarray:
        """Tokens, or values of a normal distribution, to measure with."""
        if self.spec.is_language_model:
            return draw.integers(0, self.spec.num_classes, shape).astype(np.float32)
        return super().random_inputs(shape, draw)

    def label_shape(self, input_shape: Shape) -> Shape:
        """One label a sequence, or for tokens one a time step."""
        return input_shape if self.spec.is_language_model else input_shape[:1]

    def loss_and_right(self, outputs: Sequence[Any], labels: Any) -> tuple[float, int]:
        """See `SymbolModel.loss_and_right`."""
        if not self.spec.is_language_model:
            return super().loss_and_right(outputs, labels)
        loss, right = outputs[0].asnumpy()
        return float(loss), int(right)

    def bucketing(self, batch_size: int) -> Callable[[int], tuple[Any, tuple[str], tuple[str]]]:
        """What `mx.mod.BucketingModule` takes as `sym_gen`: the Symbol with its loss for a number of time steps.

        Example:
            >>> sym_gen = LSTM(reads="tokens", num_classes=5, efficient=True).bucketing(batch_size=2)
            >>> symbol, data_names, label_names = sym_gen(7)
            >>> symbol.infer_shape(data=(2, 7), softmax_label=(2, 7))[1]
            [(2,)]
        """

        def sym_gen(steps: int) -> tuple[Any, tuple[str], tuple[str]]:
            shape = self.spec.sequence_shape(steps, batch_size)
            return self.for_training(shape), ("data",), (LABEL,)

        return sym_gen


class Cell(NamedTuple):
    """Weights that all time steps of a layer and direction share; gates in the order input, forget, cell, output."""

    weight_ih: Any
    weight_hh: Any
    bias_ih: Any
    bias_hh: Any

    @classmethod
    def named(cls, suffix: str, hidden: int) -> Cell:
        """Freshly initialised as torch.nn.LSTM's."""
        weight, bias = mx.init.Uniform(float(hidden**-0.5)), mx.init.LSTMBias(FORGET_BIAS)
        weights = [parameter(f"recurrent.weight_{kind}_{suffix}", weight) for kind in ("ih", "hh")]
        biases = [parameter(f"recurrent.bias_{kind}_{suffix}", bias) for kind in ("ih", "hh")]
        return cls(*weights, *biases)


def usual_shape(config: LSTMConfig, batch_size: int = 2) -> Shape:
    """Of a batch of the inputs that the network was published for."""
    size = config.image_size
    steps = TOKENS if config.is_language_model else size**2 if config.reads == "pixels" else size
    return config.sequence_shape(steps, batch_size)


def lstm_symbol(config: LSTMConfig, shape: Shape) -> Any:
    """The network for inputs of a shape, of which the number of time steps counts."""
    head = linear_parameters("classifier")
    if config.is_language_model:
        scores = [
            mx.sym.expand_dims(linear_of(output, head, config.num_classes, f"t{step}.classifier"), axis=1)
            for step, output in enumerate(_recur(_tokens(config, shape), config)[0])
        ]
        return mx.sym.Concat(*scores, dim=1, name="scores")
    last = _recur(_image_steps(config, shape), config)[1]
    values = last[0] if len(last) == 1 else mx.sym.Concat(*last, dim=1, name="recurrent.last")
    return linear_of(values, head, config.num_classes, "classifier")


def language_loss(config: LSTMConfig, shape: Shape) -> Any:
    """(2,): cross entropy of every next token against "softmax_label" (N, T), summed; and how many were told right.

    Both are added up time step by time step, so that the scores of one step alone are there at once. A token whose
    probability is below 1e-8 counts as if it were 1e-8 in the loss (not in its gradient): MXNet's operator has it so.
    """
    head, labels = linear_parameters("classifier"), _time_steps(mx.sym.Variable(LABEL), shape[1], "label")
    total = None
    for step, output in enumerate(_recur(_tokens(config, shape), config)[0]):
        scores = linear_of(output, head, config.num_classes, f"t{step}.classifier")
        loss = mx.sym.softmax_cross_entropy(scores, labels[step], name=f"t{step}.loss")
        right = mx.sym.sum(mx.sym.BlockGrad(mx.sym.argmax(scores, axis=1)) == labels[step])
        both = mx.sym.Concat(loss, right, dim=0, name=f"t{step}.loss_and_right")
        total = both if total is None else total + both
    return mx.sym.MakeLoss(total, name="loss_and_right")


def _tokens(config: LSTMConfig, shape: Shape) -> list[Any]:
    """The embedding of each time step's tokens."""
    if len(shape) != 2:
        raise ValueError(f"LSTM: an LSTM that reads tokens needs an input of shape (N, T), not {shape}")
    weight = parameter("embedding.weight", mx.init.Normal(1))
    return [
        mx.sym.Embedding(
            tokens,
            weight=weight,
            input_dim=config.num_classes,
            output_dim=config.input_size,
            name=f"t{step}.embedding",
        )
        for step, tokens in enumerate(_time_steps(mx.sym.Variable("data"), shape[1], "data"))
    ]


def _image_steps(config: LSTMConfig, shape: Shape) -> list[Any]:
    """Rows (N, C * W), pixels (N, C) row by row, or the steps of a sequence as they are."""
    values, sizes = mx.sym.Variable("data"), shape
    if len(shape) == 4 and config.reads == "pixels":
        values = mx.sym.transpose(mx.sym.Reshape(values, shape=(0, 0, -1)), axes=(0, 2, 1))
        sizes = (shape[0], shape[2] * shape[3], shape[1])
    elif len(shape) == 4:
        values = mx.sym.Reshape(mx.sym.transpose(values, axes=(0, 2, 1, 3)), shape=(0, 0, -1))
        sizes = (shape[0], shape[2], shape[1] * shape[3])
    if len(sizes) != 3 or sizes[2] != config.input_size:
        raise ValueError(
            f"LSTM: an LSTM that reads {config.reads} of {config.input_size} values got an input of shape {shape}: "
            f"give images (N, C, H, W) or a sequence (N, T, {config.input_size})"
        )
    return _time_steps(values, sizes[1], "data")


def _time_steps(values: Any, steps: int, name: str) -> list[Any]:
    """(N, T, ...) -> T times (N, ...)."""
    if steps == 1:  # of one output a slice is not indexed
        return [mx.sym.Reshape(values, shape=(-3, -2), name=f"{name}.steps")]
    sliced = mx.sym.SliceChannel(values, num_outputs=steps, axis=1, squeeze_axis=True, name=f"{name}.steps")
    return [sliced[step] for step in range(steps)]


def _recur(values: list[Any], config: LSTMConfig) -> tuple[list[Any], list[Any]]:
    """Every layer over all time steps: the last layer's outputs, and its last state of each direction."""
    last: list[Any] = []
    for layer in range(config.num_layers):
        if layer and config.drop_rate:
            values = [
                mx.sym.Dropout(value, p=config.drop_rate, name=f"t{step}.l{layer}.drop")
                for step, value in enumerate(values)
            ]
        if config.bidirectional:
            values, last = _both_directions(values, config.hidden_size, layer)
        else:
            values = _unroll(values, Cell.named(f"l{layer}", config.hidden_size), config.hidden_size, f"l{layer}")
            last = values[-1:]
    return values, last


def _both_directions(values: list[Any], hidden: int, layer: int) -> tuple[list[Any], list[Any]]:
    """A layer's outputs, each a stage of its own (the next layer begins at both ends), and its two last states."""
    sides = []
    for suffix, order in ((f"l{layer}", 1), (f"l{layer}_reverse", -1)):
        states = _unroll(values[::order], Cell.named(suffix, hidden), hidden, suffix, f"{suffix}.")
        sides.append(states[::order])
    both = [
        mx.sym.Concat(*pair, dim=1, name=f"t{step}.l{layer}.both") for step, pair in enumerate(zip(*sides, strict=True))
    ]
    for value in both:
        value._set_attr(mirror_stage="True")
    return both, [sides[0][-1], sides[1][0]]


def _unroll(values: Sequence[Any], cell: Cell, hidden: int, name: str, stages: str = "") -> list[Any]:
    """One layer in one direction: its states. Layers with the same `stages` are walked together."""
    state = memory = mx.sym.zeros(shape=(0, hidden), name=f"{name}.start")
    states = []
    for step, value in enumerate(values):
        place, stage = f"t{step}.{name}", f"{stages}{step}"
        state, memory = lstm_step(value, state, memory, cell, hidden, place, stage, first=step == 0)
        states.append(state)
    return states


def lstm_step(
    inputs: Any, state: Any, memory: Any, cell: Cell, hidden: int, name: str, stage: str, first: bool
) -> tuple[Any, Any]:
    """One time step: the next state and the next memory, marked as (part of) a stage for memonger.

    MXNet runs a network in the order in which its outputs ask for it, and its backward pass in the order in which the
    gradients of its arguments do. So the state's product comes first: all layers of a time step run before any of the
    next. But in the first step that of the inputs does: the lowest layer's weights are the first arguments, whose
    gradients ask for a time step's backward passes through all layers before those of the step before. Either way
    little is alive between two time steps. The other way round, twice as much memory is needed.
    """
    of_inputs = linear_of(inputs, (cell.weight_ih, cell.bias_ih), 4 * hidden, f"{name}.i2h")
    of_state = linear_of(state, (cell.weight_hh, cell.bias_hh), 4 * hidden, f"{name}.h2h")
    products = of_inputs + of_state if first else of_state + of_inputs
    gates = mx.sym.SliceChannel(products, num_outputs=4, axis=1, name=f"{name}.gates")
    write, forget, read = (mx.sym.Activation(gates[place], act_type="sigmoid") for place in (0, 1, 3))
    memory = forget * memory + write * mx.sym.Activation(gates[2], act_type="tanh")
    state = read * mx.sym.Activation(memory, act_type="tanh")
    for value in (state, memory):
        value._set_attr(mirror_stage=stage)
    return state, memory
