"""Names of codecs, as flags give them: 2, "fixed:6", "zero:fixed:4", "swap:2"."""

from __future__ import annotations

import difflib

from kernels import checks
from kernels.codecs import Codec, FixedPoint, GroupQuantizer, Half, HostSwap, Identity, Mask, ZeroValue


def parse_codec(text: str | int | Codec) -> Codec:
    """The codec that a flag asks for.

    Args:
        text: 1, 2, 4 or 8 (bits of the group quantiser); "fixed:6" (1..16 bits); "zero" or "zero:fixed:4" (zeros
            apart, the rest by the codec named); "half" (float16), "bfloat16"; "mask"; "identity"; "swap" or "swap:2"
            (in host memory, as it is or by the codec named). A codec is itself.

    Raises:
        TypeError: neither text, nor an integer, nor a codec.
        ValueError: no such codec; says which is nearest.

    Example:
        >>> parse_codec("zero:fixed:4")
        ZeroValue(inner=FixedPoint(bits=4, channel_axis=None, stochastic=True))
        >>> str(parse_codec(2))
        '2'
    """
    if isinstance(text, Codec):
        return text
    if isinstance(text, bool) or not isinstance(text, str | int):
        raise TypeError(f"compressed: a number of bits or the name of a codec is needed, not {text!r}")
    name, _, rest = str(text).strip().lower().partition(":")
    plain: dict[str, Codec] = {
        "identity": Identity(),
        "mask": Mask(),
        "half": Half("float16"),
        "float16": Half("float16"),
        "bfloat16": Half("bfloat16"),
        **{str(bits): GroupQuantizer(bits) for bits in checks.GROUP_BITS},
    }
    if name in plain and not rest:
        return plain[name]
    if name == "zero":
        return ZeroValue(parse_codec(rest)) if rest else ZeroValue()
    if name == "swap":
        return HostSwap(parse_codec(rest) if rest else Identity())
    if name == "fixed" and rest.isdecimal() and 1 <= int(rest) <= checks.MAX_WIDTH:
        return FixedPoint(int(rest))
    raise ValueError(_unknown(str(text), name, rest, list(plain)))


def _unknown(text: str, name: str, rest: str, plain: list[str]) -> str:
    """What is wrong with a codec's name, and which one was perhaps meant."""
    there = "1, 2, 4, 8, fixed:1 to fixed:16, zero, zero:<codec>, swap, swap:<codec>, half, bfloat16, mask, identity"
    wanted = rest if name == "fixed" else name
    if wanted.removeprefix("-").isdecimal():
        bits = int(wanted)
        near = str(min(checks.GROUP_BITS, key=lambda one: abs(one - bits)))
        fixed = f"fixed:{min(max(bits, 1), checks.MAX_WIDTH)}"
        close = [fixed] if name == "fixed" else [near, fixed]
    else:
        close = difflib.get_close_matches(name, [*plain, "fixed", "zero", "swap"], n=1, cutoff=0.5)
        close = [f"fixed:{rest if rest.isdecimal() else 4}" if one == "fixed" else one for one in close]
    question = f" did you mean {' or '.join(close)}?" if close else ""
    return f"compressed: unknown codec {text!r}:{question} Known: {there}"
