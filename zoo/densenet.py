"""The DenseNet family: published variants, one frozen config, and its validation; no framework.

Huang, Liu, van der Maaten, Weinberger, "Densely Connected Convolutional Networks" (arXiv:1608.06993),
tables 1 (ImageNet) and 2 (CIFAR).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

from zoo.field_checks import (
    MOST_LAYERS,
    check_choice,
    check_integer,
    check_integers,
    check_number,
    check_parameters,
    check_switch,
)
from zoo.policy import MemoryPolicy

NORM_EPSILON: Mapping[str, float] = MappingProxyType({"torchvision": 1e-5, "keras": 1.001e-5})


@dataclass(frozen=True)
class DenseNetConfig:
    """A DenseNet, independent of any framework.

    Args:
        growth_rate: channels every layer adds (k in the paper).
        block_config: layers in each dense block.
        compression: channels kept by a transition, as a fraction in (0, 1].
        num_init_features: channels of the first convolution.
        bn_size: width of the 1x1 bottleneck in units of `growth_rate`; 0 = no bottleneck (DenseNet without "B").
        drop_rate: dropout after each layer, in [0, 1).
        num_classes: outputs of the classifier.
        small_inputs: True = the CIFAR stem (one 3x3 convolution), False = the ImageNet stem (7x7, pool).
        flavour: "torchvision" or "keras": which published network's constants (the norm's epsilon) are used.
        in_chans: channels of the images.

    Raises:
        TypeError, ValueError: naming the field, what came and what is needed.

    Example:
        >>> DenseNetConfig.from_depth(100, growth_rate=12).block_config
        (16, 16, 16)
    """

    growth_rate: int = 12
    block_config: tuple[int, ...] = (16, 16, 16)
    compression: float = 0.5
    num_init_features: int = 24
    bn_size: int = 4
    drop_rate: float = 0.0
    num_classes: int = 10
    small_inputs: bool = True
    flavour: str = "torchvision"
    in_chans: int = 3
    head: ClassVar[str] = "classifier"  # the module whose first size is the number of classes

    def __post_init__(self) -> None:
        layers = check_integers("block_config", self.block_config, 1, (16, 16, 16))
        object.__setattr__(self, "block_config", layers)
        if sum(layers) > MOST_LAYERS:
            raise ValueError(f"block_config must hold at most {MOST_LAYERS} layers together, not {sum(layers)}")
        for name in ("growth_rate", "num_init_features", "bn_size", "num_classes", "in_chans"):
            least = 0 if name == "bn_size" else 1
            object.__setattr__(self, name, check_integer(name, getattr(self, name), least))
        check_switch("small_inputs", self.small_inputs)
        check_number("compression", self.compression)
        if not 0 < self.compression <= 1:
            raise ValueError(f"compression must be in (0, 1], not {self.compression}")
        check_number("drop_rate", self.drop_rate)
        if not 0 <= self.drop_rate < 1:
            raise ValueError(f"drop_rate must be in [0, 1), not {self.drop_rate}")
        check_choice("flavour", self.flavour, NORM_EPSILON)
        for width in self.block_widths()[:-1]:
            if int(width * self.compression) < 1:
                raise ValueError(f"compression={self.compression} leaves no channel of {width} after a transition")
        lower = "growth_rate, block_config, bn_size, num_init_features or num_classes"
        check_parameters("DenseNet", self.count_parameters(), lower)

    @classmethod
    def from_depth(
        cls, depth: int, growth_rate: int = 12, *, bottleneck: bool = True, **fields: object
    ) -> DenseNetConfig:
        """The CIFAR network of the paper with `depth` layers in three equal blocks.

        `depth` is 6n+4 with bottlenecks (DenseNet-BC: compression 0.5, 2k initial channels) and 3n+4 without
        (compression 1, 16 initial channels). Other fields may be overridden by name.

        Raises:
            ValueError: a depth that does not divide so, with the nearest that do.
        """
        check_integer("depth", depth, minimum=1)
        per_step = 6 if bottleneck else 3
        layers, rest = divmod(depth - 4, per_step)
        if rest or layers < 1:
            nearest = [4 + per_step * n for n in (max(layers, 1), max(layers, 1) + 1)]
            kind = "DenseNet-BC" if bottleneck else "DenseNet without bottleneck"
            raise ValueError(
                f"depth={depth}: {kind} needs depth = {per_step}n+4 with n >= 1; the nearest are "
                f"{nearest[0]} and {nearest[1]}"
            )
        own: dict[str, object] = (
            {"compression": 0.5, "num_init_features": 2 * growth_rate}
            if bottleneck
            else {"compression": 1.0, "num_init_features": 16, "bn_size": 0}
        )
        values: dict[str, object] = {"growth_rate": growth_rate, "block_config": (layers,) * 3, **own, **fields}
        return cls(**values)  # type: ignore[arg-type]

    def count_parameters(self) -> int:
        """Weights and biases of the whole network.

        Example:
            >>> DenseNetConfig.from_depth(100, growth_rate=12).count_parameters()
            769162
        """
        total = self.in_chans * self.num_init_features * (9 if self.small_inputs else 49)
        total += 0 if self.small_inputs else 2 * self.num_init_features
        channels, k = self.num_init_features, self.growth_rate
        for index, layers in enumerate(self.block_config):
            inputs = layers * channels + k * layers * (layers - 1) // 2  # of all layers together
            width = self.bn_size * k
            if width:
                total += 2 * inputs + inputs * width + layers * (2 * width + 9 * width * k)
            else:
                total += 2 * inputs + 9 * inputs * k
            channels += layers * k
            if index + 1 < len(self.block_config):
                kept = int(channels * self.compression)
                total += 2 * channels + channels * kept
                channels = kept
        return total + 2 * channels + (channels + 1) * self.num_classes

    @property
    def norm_epsilon(self) -> float:
        """Added to a norm's variance."""
        return NORM_EPSILON[self.flavour]

    @property
    def image_size(self) -> int:
        """Height and width of the images the network was published for, in pixels."""
        return 32 if self.small_inputs else 224

    def smallest_image_size(self, batch_size: int) -> int:
        """The fewest pixels it can be trained on.

        Every transition halves the size, rounding down; the ImageNet stem quarters it before, rounding up. A single
        image needs two pixels at the end, because a norm cannot train on one value per channel.

        Example:
            >>> DenseNetConfig().smallest_image_size(batch_size=64), VARIANTS["densenet121"].smallest_image_size(64)
            (4, 29)
        """
        after_stem = (1 if batch_size > 1 else 2) << (len(self.block_config) - 1)
        return after_stem if self.small_inputs else 4 * after_stem - 3

    def check_policy(self, policy: MemoryPolicy) -> None:
        """Pass what this family is built with.

        Raises:
            ValueError: see `MemoryPolicy.refuse_adaptive`.
        """
        policy.refuse_adaptive("DenseNet")

    def in_words(self) -> str:
        """The shape of the network, on a line."""
        return f"DenseNet, blocks {'-'.join(map(str, self.block_config))}, growth rate {self.growth_rate}"

    def block_widths(self) -> tuple[int, ...]:
        """Channels at the end of each dense block."""
        widths, channels = [], self.num_init_features
        for layers in self.block_config:
            widths.append(channels + layers * self.growth_rate)
            channels = int(widths[-1] * self.compression)
        return tuple(widths)


def _imagenet(growth_rate: int, blocks: tuple[int, ...], stem: int) -> DenseNetConfig:
    return DenseNetConfig(growth_rate, blocks, num_init_features=stem, num_classes=1000, small_inputs=False)


VARIANTS: Mapping[str, DenseNetConfig] = MappingProxyType(
    {
        "densenet_bc_40_12": DenseNetConfig.from_depth(40, 12),
        "densenet_bc_100_12": DenseNetConfig.from_depth(100, 12),
        "densenet_bc_190_40": DenseNetConfig.from_depth(190, 40),
        "densenet_bc_250_24": DenseNetConfig.from_depth(250, 24),
        "densenet_40_12": DenseNetConfig.from_depth(40, 12, bottleneck=False),
        "densenet121": _imagenet(32, (6, 12, 24, 16), 64),
        "densenet161": _imagenet(48, (6, 12, 36, 24), 96),
        "densenet169": _imagenet(32, (6, 12, 32, 32), 64),
        "densenet201": _imagenet(32, (6, 12, 48, 32), 64),
        "densenet264": _imagenet(32, (6, 12, 64, 48), 64),
    }
)
