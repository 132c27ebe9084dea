"""The ResNet family: published variants, one frozen config, and its validation; no framework.

He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition" (arXiv:1512.03385), table 1 (ImageNet) and
section 4.2 (CIFAR); "Identity Mappings in Deep Residual Networks" (arXiv:1603.05027; pre-activation); Xie et al.
(arXiv:1611.05431; ResNeXt); Zagoruyko, Komodakis (arXiv:1605.07146; wide).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, NamedTuple

from zoo.field_checks import (
    MOST_LAYERS,
    check_choice,
    check_integer,
    check_integers,
    check_parameters,
    check_switch,
)
from zoo.kept_values import KeptValues, total
from zoo.policy import MemoryPolicy

BLOCKS: Mapping[str, int] = MappingProxyType({"basic": 1, "bottleneck": 4})  # output channels per inner channel
NORM_EPSILON: Mapping[str, float] = MappingProxyType({"torchvision": 1e-5, "keras": 1.001e-5})
SHORTCUTS = ("projection", "padding")


class BlockShape(NamedTuple):
    """One block: its channels and its stride."""

    stage: int
    in_channels: int
    inner_channels: int
    out_channels: int
    stride: int

    @property
    def changes_shape(self) -> bool:
        """Whether the input cannot be added to the output as it is."""
        return self.stride != 1 or self.in_channels != self.out_channels


@dataclass(frozen=True)
class ResNetConfig:
    """A ResNet, independent of any framework.

    Args:
        block: "basic" (two 3x3 convolutions) or "bottleneck" (1x1, 3x3, 1x1).
        layers: blocks in each stage.
        width: channels of the first stage; every stage doubles them (a bottleneck puts out four times as many).
        groups: groups of the bottlenecks' 3x3 convolutions.
        width_per_group: 64 for the plain network; inner channels of a bottleneck are multiplied by
            groups * width_per_group / 64.
        num_classes: outputs of the classifier.
        in_chans: channels of the images.
        small_inputs: True = the CIFAR stem (one 3x3 convolution), False = the ImageNet stem (7x7, pool).
        pre_activation: norm and ReLU before each convolution instead of after it.
        shortcut: where a block changes the shape: "projection" (1x1 convolution) or "padding" (every other pixel,
            new channels zero: no parameters).
        flavour: "torchvision" or "keras": whose constants. Keras strides a bottleneck's first convolution instead
            of its second, gives convolutions biases, and has another epsilon.

    Raises:
        TypeError, ValueError: naming the field, what came and what is needed.

    Example:
        >>> ResNetConfig.from_depth(56).layers
        (9, 9, 9)
    """

    block: str = "basic"
    layers: tuple[int, ...] = (9, 9, 9)
    width: int = 16
    groups: int = 1
    width_per_group: int = 64
    num_classes: int = 10
    in_chans: int = 3
    small_inputs: bool = True
    pre_activation: bool = False
    shortcut: str = "projection"
    flavour: str = "torchvision"
    head: ClassVar[str] = "fc"  # the module whose first size is the number of classes

    def __post_init__(self) -> None:
        check_choice("block", self.block, BLOCKS)
        object.__setattr__(self, "layers", check_integers("layers", self.layers, 1, (3, 4, 6, 3)))
        if sum(self.layers) > MOST_LAYERS:
            raise ValueError(f"layers must hold at most {MOST_LAYERS} blocks together, not {sum(self.layers)}")
        for name in ("width", "groups", "width_per_group", "num_classes", "in_chans"):
            object.__setattr__(self, name, check_integer(name, getattr(self, name), 1))
        for name in ("small_inputs", "pre_activation"):
            check_switch(name, getattr(self, name))
        check_choice("shortcut", self.shortcut, SHORTCUTS)
        check_choice("flavour", self.flavour, NORM_EPSILON)
        if self.block == "basic" and (self.groups, self.width_per_group) != (1, 64):
            raise ValueError("groups and width_per_group are of bottleneck blocks: give block='bottleneck' with them")
        if self.pre_activation and self.shortcut == "padding":
            raise ValueError("pre_activation=True has projections: leave out shortcut='padding'")
        if self.flavour == "keras" and (self.block == "basic" or self.small_inputs or self.pre_activation):
            raise ValueError("flavour='keras' is of the ImageNet bottleneck networks: 50, 101 and 152 layers")
        for shape in self.blocks():
            if shape.inner_channels < 1:
                raise ValueError(f"width_per_group={self.width_per_group} leaves no channel of width {self.width}")
        lower = "width, layers, width_per_group, groups or num_classes"
        check_parameters("ResNet", self.count_parameters(), lower)

    @classmethod
    def from_depth(cls, depth: int, *, block: str = "basic", **fields: object) -> ResNetConfig:
        """The CIFAR network of the paper with `depth` layers in three equal stages.

        `depth` is 6n+2 with basic blocks and 9n+2 with bottlenecks. Other fields may be given by name.

        Raises:
            ValueError: a depth that does not divide so, with the nearest that do.
        """
        check_integer("depth", depth, minimum=1)
        check_choice("block", block, BLOCKS)
        per_step = 6 if block == "basic" else 9
        blocks, rest = divmod(depth - 2, per_step)
        if rest or blocks < 1:
            nearest = [2 + per_step * n for n in (max(blocks, 1), max(blocks, 1) + 1)]
            raise ValueError(
                f"depth={depth}: a ResNet of {block} blocks needs depth = {per_step}n+2 with n >= 1; the nearest are "
                f"{nearest[0]} and {nearest[1]}"
            )
        return cls(block=block, layers=(blocks,) * 3, **fields)  # type: ignore[arg-type]

    def blocks(self) -> Iterator[BlockShape]:
        """Every block's channels and stride, in order."""
        channels = self.width
        for stage, count in enumerate(self.layers):
            plane = self.width << stage
            inner = plane if self.block == "basic" else plane * self.width_per_group // 64 * self.groups
            for index in range(count):
                out = plane * BLOCKS[self.block]
                yield BlockShape(stage, channels, inner, out, 2 if stage > 0 and index == 0 else 1)
                channels = out

    @property
    def out_channels(self) -> int:
        """Channels the classifier reads."""
        return (self.width << (len(self.layers) - 1)) * BLOCKS[self.block]

    @property
    def norm_epsilon(self) -> float:
        """Added to a norm's variance."""
        return NORM_EPSILON[self.flavour]

    @property
    def has_biases(self) -> bool:
        """Whether convolutions have biases, which the norms after them make superfluous."""
        return self.flavour == "keras"

    @property
    def strides_first_convolution(self) -> bool:
        """Whether a bottleneck strides its 1x1 convolution instead of its 3x3 one."""
        return self.flavour == "keras"

    @property
    def image_size(self) -> int:
        """Height and width of the images the network was published for, in pixels."""
        return 32 if self.small_inputs else 224

    def smallest_image_size(self, batch_size: int) -> int:
        """The fewest pixels it can be trained on: sizes are halved rounding up, so one is enough for a batch.

        A single image needs two at the end, because a norm cannot train on one value per channel.
        """
        halvings = len(self.layers) - 1 + (0 if self.small_inputs else 2)
        return 1 if batch_size > 1 else 1 + (1 << halvings)

    def kept_values(self) -> KeptValues:
        """Of the whole network, at one value a pixel of the first stage."""
        stem = 0 if self.pre_activation else self.width * (1 if self.small_inputs else 4)
        # Where a pool's maxima were takes 4 bits an output, of which there are a quarter.
        parts = [KeptValues(stem, stem * (1 if self.small_inputs else 2), 0, 0)]
        for shape in self.blocks():
            after = 0.25**shape.stage
            before = after * shape.stride**2
            into, inner, out = shape.in_channels * before, shape.inner_channels * after, shape.out_channels * after
            # A bottleneck's first convolution leaves the size as it is, in torchvision's networks.
            wide = inner * (before / after if self.block != "basic" and not self.strides_first_convolution else 1)
            inside = inner if self.block == "basic" else wide + inner
            if self.pre_activation:
                activation = into if shape.changes_shape else 0.0
                parts.append(KeptValues(into + inside, into + inside, activation, 0))
                continue
            ends = out * (2 if shape.changes_shape and self.shortcut == "projection" else 1)
            parts.append(KeptValues(inside + ends, inside + out, into, ends))
        if self.pre_activation:
            parts.append(KeptValues(out, out, 0, 0))
        else:
            parts.append(KeptValues(0, 0, 0, 0, last_outputs=out))
        return total(parts)

    def check_policy(self, policy: MemoryPolicy) -> None:
        """Pass what this family is built with.

        Raises:
            ValueError: see `MemoryPolicy.refuse_levels`.
        """
        policy.refuse_levels("ResNet")

    def in_words(self) -> str:
        """The shape of the network, on a line."""
        kind = "pre-activation " if self.pre_activation else ""
        return f"ResNet, {kind}{self.block} blocks {'-'.join(map(str, self.layers))}, width {self.width}"

    def count_parameters(self) -> int:
        """Weights and biases of the whole network.

        Example:
            >>> VARIANTS["resnet50"].count_parameters()
            25557032
        """
        bias = int(self.has_biases)
        stem = self.width * self.in_chans * (9 if self.small_inputs else 49) + bias * self.width
        total = stem + (0 if self.pre_activation else 2 * self.width)
        for shape in self.blocks():
            total += self._count_block(shape, bias)
            if shape.changes_shape and self.shortcut == "projection":
                norm = 0 if self.pre_activation else 2
                total += (shape.in_channels + bias + norm) * shape.out_channels
        total += 2 * self.out_channels if self.pre_activation else 0
        return total + (self.out_channels + 1) * self.num_classes

    def _count_block(self, shape: BlockShape, bias: int) -> int:
        into, inner, out = shape.in_channels, shape.inner_channels, shape.out_channels
        if self.block == "basic":
            weights = 9 * into * inner + 9 * inner * out
            norms = into + inner if self.pre_activation else inner + out
        else:
            weights = into * inner + 9 * inner * inner // self.groups + inner * out + bias * (2 * inner + out)
            norms = into + 2 * inner if self.pre_activation else 2 * inner + out
        return weights + 2 * norms


def _imagenet(block: str, layers: tuple[int, ...], groups: int = 1, width_per_group: int = 64) -> ResNetConfig:
    return ResNetConfig(block, layers, 64, groups, width_per_group, num_classes=1000, small_inputs=False)


def _cifar(depth: int, block: str = "basic") -> ResNetConfig:
    return ResNetConfig.from_depth(depth, block=block, shortcut="padding")


def _pre_activation(depth: int, block: str = "basic") -> ResNetConfig:
    return ResNetConfig.from_depth(depth, block=block, pre_activation=True)


VARIANTS: Mapping[str, ResNetConfig] = MappingProxyType(
    {
        "resnet18": _imagenet("basic", (2, 2, 2, 2)),
        "resnet34": _imagenet("basic", (3, 4, 6, 3)),
        "resnet50": _imagenet("bottleneck", (3, 4, 6, 3)),
        "resnet101": _imagenet("bottleneck", (3, 4, 23, 3)),
        "resnet152": _imagenet("bottleneck", (3, 8, 36, 3)),
        "wide_resnet50_2": _imagenet("bottleneck", (3, 4, 6, 3), width_per_group=128),
        "wide_resnet101_2": _imagenet("bottleneck", (3, 4, 23, 3), width_per_group=128),
        "resnext50_32x4d": _imagenet("bottleneck", (3, 4, 6, 3), groups=32, width_per_group=4),
        "resnext101_32x8d": _imagenet("bottleneck", (3, 4, 23, 3), groups=32, width_per_group=8),
        "resnet20": _cifar(20),
        "resnet32": _cifar(32),
        "resnet44": _cifar(44),
        "resnet56": _cifar(56),
        "resnet110": _cifar(110),
        "resnet164": _cifar(164, "bottleneck"),
        "preact_resnet56": _pre_activation(56),
        "preact_resnet110": _pre_activation(110),
        "preact_resnet164": _pre_activation(164, "bottleneck"),
        "preact_resnet1001": _pre_activation(1001, "bottleneck"),
    }
)
