"""What the memory flags ask for, model-wide, as one frozen value; every framework reads the same one."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from zoo.schemes import GROUP_WIDTHS, SCHEMES, Scheme, find_scheme, is_scheme

if TYPE_CHECKING:
    from kernels.codecs import Codec

OPT_MEMORY_LEVELS = range(5)
ADAPTIVE = "L3"  # the scheme that goes with efficient=True


class PolicyNotOfferedError(ValueError):
    """A framework's model of a family does not offer a policy that is sound in itself."""


@dataclass(frozen=True)
class MemoryPolicy:
    """What a model keeps for its backward pass.

    Args:
        efficient: exact saving, least memory. One tensor is kept per convolution or less, everything cheap is
            recomputed: DenseNet's 1x1 convolutions, the last convolution of a ResNet's or MobileNetV2's block,
            MobileNetV2's expansions.
        keep_bottleneck: with `efficient`, keep every convolution's output: more bytes, less time.
        opt_memory: one of the five classic DenseNet levels instead of `efficient`:
            0 plain; 1 in-place activations; 2 shared gradient buffers; 3 shared feature storage;
            4 BatchNorm outputs recomputed as well (what `efficient` with `keep_bottleneck` does).
        compressed: what is kept is stored in few bits, lossy but unbiased; the forward pass does not change.
            1, 2, 4 or 8 bits a value, "fixed:3" (fixed point of 2..16 bits), "half" or "bfloat16".
            With `efficient` a part is kept the cheaper of both ways. Or a scheme for any network (`zoo.schemes`),
            by which the plain network's layers are converted: "L3", "gact:4", "autoquantz", "autoquant-sr".
            "L3" with `efficient` (ResNet, MobileNetV2): norms' inputs in 2 bits, what blocks read in 2 on average.

    Raises:
        TypeError: a flag of the wrong type.
        ValueError: flags that contradict one another, or a level that does not exist.

    Example:
        >>> MemoryPolicy(efficient=True).recompute_bottleneck
        True
        >>> print(MemoryPolicy(efficient=True, compressed=2))
        efficient, compressed 2
    """

    efficient: bool = False
    keep_bottleneck: bool = False
    opt_memory: int | None = None
    compressed: int | str | None = None

    def __post_init__(self) -> None:
        for name in ("efficient", "keep_bottleneck"):
            value = getattr(self, name)
            if not isinstance(value, bool):
                raise TypeError(f"{name} must be True or False, not {value!r}")
        if self.keep_bottleneck and not self.efficient:
            raise ValueError("keep_bottleneck=True changes nothing without efficient=True: set both, or neither")
        self._check_opt_memory()
        if self.compressed is not None:
            # One spelling, so that equal policies are equal: 2, "2" and " 2" are "2".
            by_scheme = is_scheme(self.compressed)
            name = str(find_scheme(self.compressed) if by_scheme else _norm_codec(self.compressed))
            object.__setattr__(self, "compressed", name)
            if by_scheme and self.efficient and name != ADAPTIVE:
                raise ValueError(
                    f"compressed={name!r} converts the layers of the plain network, of which efficient=True has none "
                    f"left: give compressed=2 (or 1, 4, 8, {ADAPTIVE}) with efficient=True, or the scheme alone"
                )

    def _check_opt_memory(self) -> None:
        if self.opt_memory is None:
            return
        if isinstance(self.opt_memory, bool) or not isinstance(self.opt_memory, int):
            raise TypeError(f"opt_memory must be an integer 0..4 or None, not {self.opt_memory!r}")
        if self.opt_memory not in OPT_MEMORY_LEVELS:
            raise ValueError(f"opt_memory must be one of 0, 1, 2, 3, 4, not {self.opt_memory}")
        if self.efficient:
            raise ValueError(
                f"efficient=True and opt_memory={self.opt_memory} both say what to keep: give one of them "
                "(efficient=True, keep_bottleneck=True is opt_memory=4; efficient=True alone keeps less still)"
            )
        if self.compressed is not None:
            raise ValueError(
                f"compressed={self.compressed!r} and opt_memory={self.opt_memory} both say what to keep: give one of "
                "them (compressed goes together with efficient=True)"
            )

    def __str__(self) -> str:
        if self.opt_memory is not None:
            return f"opt_memory {self.opt_memory}"
        parts = [name for name in ("efficient", "keep_bottleneck") if getattr(self, name)]
        if self.compressed is not None:
            parts.append(f"compressed {self.compressed}")
        return ", ".join(parts) or "plain"

    @property
    def codec(self) -> Codec | None:
        """How kept values are stored, or None as they are."""
        if self.compressed is None or self.scheme is not None:
            return None
        return _norm_codec(find_scheme(ADAPTIVE).bits or 0) if self.adapts else _norm_codec(self.compressed)

    @property
    def adapts(self) -> bool:
        """Whether bits of what blocks read differ by block and sample, within the codec's on average."""
        return self.efficient and self.compressed == ADAPTIVE

    @property
    def scheme(self) -> Scheme | None:
        """The scheme by which the plain network's layers are converted, or None."""
        if self.compressed is None or self.adapts or not is_scheme(self.compressed):
            return None
        return find_scheme(self.compressed)

    def refuse_adaptive(self, family: str) -> None:
        """For families and frameworks whose kept values have one width.

        Raises:
            ValueError: bits that differ were asked for.
        """
        if self.adapts:
            raise ValueError(
                f"efficient=True with compressed={ADAPTIVE!r} is for ResNet and MobileNetV2 in PyTorch: give "
                f"compressed=2 with efficient=True for {family}, or {ADAPTIVE!r} alone in PyTorch"
            )

    def refuse_levels(self, family: str) -> None:
        """For families that are built without the classic levels.

        Raises:
            ValueError: a level was asked for.
        """
        if self.opt_memory is not None:
            raise ValueError(
                f"opt_memory={self.opt_memory}: the levels are DenseNet's; give efficient=True (least memory), "
                f"or efficient=True, keep_bottleneck=True (only elementwise work is done again) for {family}"
            )

    @property
    def inplace_activations(self) -> bool:
        """Activations overwrite the norm's output (it changes no byte in PyTorch, whose norm keeps its input)."""
        return self.opt_memory is not None and self.opt_memory >= 1

    @property
    def share_features(self) -> bool:
        """A dense block keeps its features once, in one buffer, and accumulates gradients in one more."""
        return self._saves or (self.opt_memory is not None and self.opt_memory >= 3)

    @property
    def recompute_activations(self) -> bool:
        """Outputs of norm+activation are rebuilt in the backward pass instead of kept."""
        return self._saves or self.opt_memory == 4

    @property
    def recompute_bottleneck(self) -> bool:
        """Outputs of the 1x1 convolutions are computed again in the backward pass instead of kept."""
        return self.efficient and not self.keep_bottleneck

    @property
    def recomputes(self) -> bool:
        """The forward pass may be arranged anew; without, compression leaves the plain model's outputs to the bit."""
        return self.efficient or self.opt_memory is not None

    @property
    def _saves(self) -> bool:
        return self.efficient or (self.compressed is not None and self.scheme is None)


POLICY_FIELDS = tuple(field.name for field in fields(MemoryPolicy))  # its arguments, which every model takes
# The flags that a comparison measures beside one another.
COMPARED: tuple[Mapping[str, Any], ...] = (
    MappingProxyType({}),
    MappingProxyType({"efficient": True, "keep_bottleneck": True}),
    MappingProxyType({"efficient": True}),
    MappingProxyType({"efficient": True, "compressed": 2}),
)


def compared_flags(config: Any) -> list[dict[str, Any]]:
    """Those of `COMPARED` that the family of a config is built with.

    Example:
        >>> from zoo.lstm import LSTMConfig
        >>> compared_flags(LSTMConfig())
        [{}, {'efficient': True}, {'efficient': True, 'compressed': 2}]
    """
    found = []
    for flags in COMPARED:
        with contextlib.suppress(ValueError):
            config.check_policy(MemoryPolicy(**flags))
            found.append(dict(flags))
    return found


def _norm_codec(text: int | str) -> Codec:
    """The codec for the normalised inputs of norms.

    Raises:
        TypeError: neither a number nor text.
        ValueError: no such codec, or one that loses what a gradient needs.
    """
    from kernels.codec_names import parse_codec  # `import zoo` needs no codecs
    from kernels.codecs import FixedPoint, GroupQuantizer, Half

    if isinstance(text, bool) or not isinstance(text, str | int):
        raise TypeError(f"compressed: a number of bits, or the name of a codec or scheme is needed, not {text!r}")
    codec = None
    with contextlib.suppress(ValueError):  # it would list codecs that do not suit here
        codec = parse_codec(text)
    if isinstance(codec, FixedPoint) and codec.bits == 1:
        raise ValueError("compressed='fixed:1' holds no negative values: give fixed:2 or more, or 1")
    if isinstance(codec, FixedPoint | GroupQuantizer | Half):
        return codec
    if codec is not None:
        raise ValueError(
            f"compressed={text!r} does not suit normalised values, of which few are zero and half are negative: "
            f"give {_ACCEPTED}"
        )
    close = _nearest(str(text).strip().lower())
    hint = f": did you mean {' or '.join(close)}?" if close else ":"
    schemes = ", ".join((*SCHEMES, "gact:<1|2|4|8>", "quant<1..16>", "quantz<1..16>"))
    raise ValueError(
        f"compressed={text!r} is unknown{hint} Known: {_ACCEPTED}; for the plain network's layers {schemes}"
    )


_ACCEPTED = "1, 2, 4, 8, fixed:2 to fixed:16, half, bfloat16"


def _nearest(name: str) -> list[str]:
    """Values of `compressed` that a name was perhaps meant for."""
    number = name.rpartition(":")[2].removeprefix("-")
    if number.isdecimal() and name.removeprefix("-") == number:
        near = min(GROUP_WIDTHS, key=lambda width: abs(width - int(number)))
        return [str(near), f"fixed:{min(max(int(number), 2), 16)}"]
    widths = [f"fixed:{bits}" for bits in range(2, 17)]
    if name.startswith("fix") and number.isdecimal():
        return [f"fixed:{min(max(int(number), 2), 16)}"]
    known = {one.lower(): one for one in ("fixed:4", *widths, "half", "bfloat16", *SCHEMES)}
    return [known[one] for one in difflib.get_close_matches(name, known, n=1, cutoff=0.5)]
