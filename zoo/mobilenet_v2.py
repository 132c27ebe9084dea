"""The MobileNetV2 family: published variants, one frozen config, and its validation; no framework.

Sandler, Howard, Zhu, Zhmoginov, Chen, "MobileNetV2: Inverted Residuals and Linear Bottlenecks" (arXiv:1801.04381),
table 2.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, NamedTuple

from zoo.field_checks import check_choice, check_integer, check_number, check_parameters
from zoo.kept_values import KeptValues, total
from zoo.policy import MemoryPolicy

# Table 2: expansion, channels, blocks, stride of the first block.
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
STEM_CHANNELS, HEAD_CHANNELS = 32, 1280
DIVISOR = 8
HALVINGS = 5
NORM_EPSILON: Mapping[str, float] = MappingProxyType({"torchvision": 1e-5, "keras": 1e-3})
NORM_MOMENTUM: Mapping[str, float] = MappingProxyType({"torchvision": 0.1, "keras": 0.001})


class InvertedShape(NamedTuple):
    """One inverted residual: its channels and its stride."""

    in_channels: int
    expansion: int
    out_channels: int
    stride: int

    @property
    def hidden_channels(self) -> int:
        """Channels of the depthwise convolution."""
        return self.in_channels * self.expansion

    @property
    def adds_inputs(self) -> bool:
        """Whether the block's input is added to its output."""
        return self.stride == 1 and self.in_channels == self.out_channels


@dataclass(frozen=True)
class MobileNetV2Config:
    """A MobileNetV2, independent of any framework.

    Args:
        width_mult: every layer's channels are multiplied by it and rounded to a multiple of 8, but the head's if it
            is below 1.
        num_classes: outputs of the classifier.
        in_chans: channels of the images.
        drop_rate: dropout before the classifier, in [0, 1).
        flavour: "torchvision" or "keras": whose constants. Keras pads strided convolutions of even sizes at the
            bottom and right alone, and has another epsilon and momentum.

    Raises:
        TypeError, ValueError: naming the field, what came and what is needed.

    Example:
        >>> MobileNetV2Config(width_mult=0.5).stem_channels
        16
    """

    width_mult: float = 1.0
    num_classes: int = 1000
    in_chans: int = 3
    drop_rate: float = 0.2
    flavour: str = "torchvision"
    head: ClassVar[str] = "classifier.1"  # the module whose first size is the number of classes

    def __post_init__(self) -> None:
        check_number("width_mult", self.width_mult)
        if not 0 < self.width_mult <= 100:
            raise ValueError(f"width_mult must be above 0 and at most 100, not {self.width_mult}")
        for name in ("num_classes", "in_chans"):
            object.__setattr__(self, name, check_integer(name, getattr(self, name), 1))
        check_number("drop_rate", self.drop_rate)
        if not 0 <= self.drop_rate < 1:
            raise ValueError(f"drop_rate must be in [0, 1), not {self.drop_rate}")
        check_choice("flavour", self.flavour, NORM_EPSILON)
        check_parameters("MobileNetV2", self.count_parameters(), "width_mult or num_classes")

    @property
    def stem_channels(self) -> int:
        """Channels of the first convolution."""
        return rounded_channels(STEM_CHANNELS * self.width_mult)

    @property
    def head_channels(self) -> int:
        """Channels the classifier reads."""
        return rounded_channels(HEAD_CHANNELS * max(1.0, self.width_mult))

    @property
    def norm_epsilon(self) -> float:
        """Added to a norm's variance."""
        return NORM_EPSILON[self.flavour]

    @property
    def norm_momentum(self) -> float:
        """Share of a new batch in the running statistics."""
        return NORM_MOMENTUM[self.flavour]

    @property
    def pads_after(self) -> bool:
        """Whether strided convolutions pad even sizes at the bottom and right alone."""
        return self.flavour == "keras"

    @property
    def image_size(self) -> int:
        """Height and width of the images the network was published for, in pixels."""
        return 224

    def smallest_image_size(self, batch_size: int) -> int:
        """The fewest pixels it can be trained on: sizes are halved rounding up, so one is enough for a batch.

        A single image needs two at the end, because a norm cannot train on one value per channel.
        """
        return 1 if batch_size > 1 else 1 + (1 << HALVINGS)

    def kept_values(self) -> KeptValues:
        """Of the whole network, at one value a pixel of the stem's outputs; ReLU6's masks take 2 bits."""
        parts = [KeptValues(self.stem_channels, 2 * self.stem_channels, 0, self.stem_channels)]
        pixels = 1.0
        for into, expansion, out, stride in self.blocks():
            expanded = into * expansion * pixels if expansion != 1 else 0.0
            read, pixels = into * pixels, pixels / stride**2
            wide = expanded + into * expansion * pixels
            parts.append(KeptValues(wide + out * pixels, 2 * wide, read, expanded))
        head = self.head_channels * pixels
        parts.append(KeptValues(head, 2 * head, out * pixels, head, last_outputs=head))
        return total(parts)

    def check_policy(self, policy: MemoryPolicy) -> None:
        """Pass what this family is built with.

        Raises:
            ValueError: see `MemoryPolicy.refuse_levels`.
        """
        policy.refuse_levels("MobileNetV2")

    def in_words(self) -> str:
        """The shape of the network, on a line."""
        return f"MobileNetV2, width {self.width_mult:g}"

    def blocks(self) -> Iterator[InvertedShape]:
        """Every inverted residual's channels and stride, in order."""
        channels = self.stem_channels
        for expansion, width, count, stride in STAGES:
            out = rounded_channels(width * self.width_mult)
            for index in range(count):
                yield InvertedShape(channels, expansion, out, stride if index == 0 else 1)
                channels = out

    def count_parameters(self) -> int:
        """Weights and biases of the whole network.

        Example:
            >>> MobileNetV2Config().count_parameters()
            3504872
        """
        total = (9 * self.in_chans + 2) * self.stem_channels
        last = self.stem_channels
        for into, expansion, out, _ in self.blocks():
            hidden = into * expansion
            expand = 0 if expansion == 1 else (into + 2) * hidden
            total += expand + (9 + 2) * hidden + (hidden + 2) * out
            last = out
        return total + (last + 2) * self.head_channels + (self.head_channels + 1) * self.num_classes


def rounded_channels(channels: float) -> int:
    """The nearest multiple of 8 that is not more than a tenth below, at least 8.

    Example:
        >>> rounded_channels(32 * 0.35), rounded_channels(24 * 0.75)
        (16, 24)
    """
    rounded = max(DIVISOR, int(channels + DIVISOR / 2) // DIVISOR * DIVISOR)
    return rounded + DIVISOR if rounded < 0.9 * channels else rounded


VARIANTS: Mapping[str, MobileNetV2Config] = MappingProxyType(
    {
        "mobilenet_v2": MobileNetV2Config(1.0),
        "mobilenet_v2_035": MobileNetV2Config(0.35),
        "mobilenet_v2_050": MobileNetV2Config(0.5),
        "mobilenet_v2_075": MobileNetV2Config(0.75),
        "mobilenet_v2_130": MobileNetV2Config(1.3),
        "mobilenet_v2_140": MobileNetV2Config(1.4),
    }
)
