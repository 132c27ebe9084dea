"""The LSTM family: published variants, one frozen config, and its validation; no framework.

Hochreiter and Schmidhuber, "Long short-term memory" (Neural Computation 9, 1997), with forget gates (Gers et al. 2000).
Sequential MNIST: Le, Jaitly, Hinton, arXiv:1504.00941, section 4.2. Language models: Zaremba, Sutskever, Vinyals,
arXiv:1409.2329, section 4.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from zoo.field_checks import (
    MOST_LAYERS,
    check_choice,
    check_integer,
    check_number,
    check_parameters,
    check_switch,
)
from zoo.policy import MemoryPolicy
from zoo.schemes import FIXED

READS = ("rows", "pixels", "tokens")
MNIST_SIZE = 28  # pixels
TOKENS = 256  # time steps that a language model is measured with


@dataclass(frozen=True)
class LSTMConfig:
    """An LSTM with its head, independent of any framework.

    Args:
        reads: what a time step is: "rows" of an image (each of channels * width values), its "pixels" (each of
            channels values), or "tokens" of a text, of which the next one is to be told.
        input_size: values of a time step: of a row, of a pixel, or of a token's embedding.
        hidden_size: of each layer and direction (H).
        num_layers: LSTMs on top of one another.
        bidirectional: a second LSTM a layer, which reads backward; not for tokens, whose answer it would read.
        drop_rate: dropout between layers, in [0, 1).
        num_classes: outputs of the head; for tokens the size of the vocabulary.

    Raises:
        TypeError, ValueError: naming the field, what came and what is needed.

    Example:
        >>> LSTMConfig(reads="pixels", input_size=1, hidden_size=100, num_layers=1).count_parameters()
        42210
    """

    reads: str = "rows"
    input_size: int = 28
    hidden_size: int = 128
    num_layers: int = 2
    bidirectional: bool = False
    drop_rate: float = 0.0
    num_classes: int = 10

    def __post_init__(self) -> None:
        check_choice("reads", self.reads, READS)
        for name in ("input_size", "hidden_size", "num_layers", "num_classes"):
            object.__setattr__(self, name, check_integer(name, getattr(self, name), minimum=1))
        if self.num_layers > MOST_LAYERS:
            raise ValueError(f"num_layers must be at most {MOST_LAYERS}, not {self.num_layers}")
        check_switch("bidirectional", self.bidirectional)
        if self.bidirectional and self.is_language_model:
            raise ValueError("bidirectional=True with reads='tokens' would read the token it is to tell: leave it out")
        check_number("drop_rate", self.drop_rate)
        if not 0 <= self.drop_rate < 1:
            raise ValueError(f"drop_rate must be in [0, 1), not {self.drop_rate}")
        if self.drop_rate > 0 and self.num_layers == 1:
            raise ValueError(f"drop_rate={self.drop_rate} is between layers, and there is one: leave it out")
        check_parameters("LSTM", self.count_parameters(), "hidden_size, num_layers, input_size or num_classes")

    @property
    def is_language_model(self) -> bool:
        """Whether it tells the next token instead of the class of a whole sequence."""
        return self.reads == "tokens"

    @property
    def directions(self) -> int:
        """LSTMs in each layer."""
        return 2 if self.bidirectional else 1

    @property
    def in_chans(self) -> int:
        """Channels of images whose rows or pixels are read."""
        return self.input_size if self.reads == "pixels" else 1

    @property
    def image_size(self) -> int:
        """Height and width of the images it is measured with, in pixels."""
        return self.input_size if self.reads == "rows" else MNIST_SIZE

    @property
    def head(self) -> str:
        """The submodule whose size is the number of classes."""
        return "classifier"

    def check_policy(self, policy: MemoryPolicy) -> None:
        """Pass what this family is built with.

        Raises:
            ValueError: a level of `opt_memory`, or keep_bottleneck, which an LSTM has none of; a scheme of AC-GC's.
        """
        policy.refuse_levels("LSTM")
        policy.refuse_adaptive("LSTM")
        if policy.scheme is not None and policy.scheme.way == FIXED:
            raise ValueError(
                f"compressed={policy.compressed!r}: AC-GC's schemes know convolutions, linear layers and norms, "
                "not what an LSTM keeps: give efficient=True, or, where the framework codes LSTMs, 1, 2, 4, 8, L3, "
                "gact:4 or fixed:2 to fixed:16"
            )
        if policy.keep_bottleneck:
            raise ValueError("keep_bottleneck=True: an LSTM has no bottlenecks; give efficient=True alone")

    def in_words(self) -> str:
        """The shape of the network, on a line."""
        kind = "bidirectional " if self.bidirectional else ""
        return f"{kind}LSTM, {self.num_layers} x {self.hidden_size}, reads {self.reads}"

    def count_parameters(self) -> int:
        """Weights and biases (two a gate, as cuDNN's) of embedding, layers and head.

        Example:
            >>> VARIANTS["lstm_ptb_small"].count_parameters()
            4653200
        """
        hidden, total = self.hidden_size, 0
        for layer in range(self.num_layers):
            inputs = self.input_size if layer == 0 else hidden * self.directions
            total += self.directions * 4 * hidden * (inputs + hidden + 2)
        total += self.num_classes * self.input_size if self.is_language_model else 0
        return total + (hidden * self.directions + 1) * self.num_classes

    def reading(self, shape: tuple[int, ...]) -> LSTMConfig:
        """This network for images (C, H, W): time steps as wide as theirs. For a text, unchanged.

        Example:
            >>> LSTMConfig().reading((3, 32, 32)).input_size
            96
        """
        if self.is_language_model:
            return self
        return replace(self, input_size=shape[0] if self.reads == "pixels" else shape[0] * shape[2])

    def sequence_shape(self, steps: int, batch_size: int) -> tuple[int, ...]:
        """The shape of a batch of inputs with so many time steps: of images, or (batch_size, steps) of tokens.

        Example:
            >>> LSTMConfig().sequence_shape(steps=28, batch_size=64)
            (64, 1, 28, 28)
        """
        if self.is_language_model:
            return (batch_size, steps)
        channels, width = (self.input_size, 1) if self.reads == "pixels" else (1, self.input_size)
        return (batch_size, channels, steps, width)


def _language(vocabulary: int, hidden: int, drop_rate: float, embedding: int | None = None) -> LSTMConfig:
    return LSTMConfig("tokens", embedding or hidden, hidden, 2, drop_rate=drop_rate, num_classes=vocabulary)


VARIANTS: Mapping[str, LSTMConfig] = MappingProxyType(
    {
        "lstm_row_mnist": LSTMConfig(),
        "lstm_row_mnist_bidirectional": LSTMConfig(bidirectional=True),
        "lstm_pixel_mnist": LSTMConfig("pixels", input_size=1, hidden_size=100, num_layers=1),
        "lstm_text": _language(vocabulary=256, hidden=512, drop_rate=0.0, embedding=128),
        "lstm_ptb_small": _language(vocabulary=10_000, hidden=200, drop_rate=0.0),
        "lstm_ptb_medium": _language(vocabulary=10_000, hidden=650, drop_rate=0.5),
        "lstm_ptb_large": _language(vocabulary=10_000, hidden=1500, drop_rate=0.65),
    }
)
FAMILY_DEFAULTS: Mapping[str, str] = MappingProxyType({"rows": "lstm_row_mnist", "tokens": "lstm_text"})
