"""The kinds of options a plan may choose from, by the names that plans are saved with, for every framework."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from zoo.choices import unknown
from zoo.policy import MemoryPolicy

KEEP, SWAP = "keep", "swap"
ALLOWED = ("recompute", "compress", "swap")
BITS = (8, 4, 2)

# What a part of the zoo is told for each kind. A part of another library knows "keep", "swap" and the bits alone.
KINDS: Mapping[str, MemoryPolicy] = MappingProxyType(
    {
        KEEP: MemoryPolicy(),
        SWAP: MemoryPolicy(),  # what is kept moves to host memory, by hooks from outside
        "efficient, keep_bottleneck": MemoryPolicy(efficient=True, keep_bottleneck=True),
        "efficient": MemoryPolicy(efficient=True),
        **{f"{bits} bits": MemoryPolicy(compressed=bits) for bits in BITS},
        **{f"efficient, {bits} bits": MemoryPolicy(efficient=True, compressed=bits) for bits in BITS},
    }
)


def bits_of(kind: str) -> int | None:
    """How many bits a kind keeps a value in; None = as it is."""
    codec = KINDS[kind].compressed
    return None if codec is None else int(codec)


def rounding_variance(bits: int) -> float:
    """Of values of unit variance, about, by the group quantiser (its step grows with 1 / (2^bits - 1)).

    Example:
        >>> round(rounding_variance(2), 2), round(rounding_variance(4), 3)
        (0.6, 0.024)
    """
    return 5.4 / (2**bits - 1) ** 2


def check_allowed(allow: str | Iterable[str]) -> tuple[str, ...]:
    """What a plan may do beside keeping, checked.

    Raises:
        TypeError: no sequence of words.
        ValueError: a word that means nothing here, with the nearest.
    """
    words = (allow,) if isinstance(allow, str) else allow
    if not isinstance(words, Iterable) or not all(isinstance(word, str) for word in words):
        raise TypeError(f"allow must be words out of {', '.join(ALLOWED)}, not {allow!r}")
    listed = tuple(words)
    for word in listed:
        if word not in ALLOWED:
            raise ValueError(unknown("word in allow", word, ALLOWED))
    return listed


def kinds_for(allow: Iterable[str]) -> list[str]:
    """The kinds that may be chosen; "recompute" is needed for what computes again, "compress" for what rounds, "swap"
    for what moves to host memory.

    Example:
        >>> kinds_for(["swap"])
        ['keep', 'swap']
    """
    listed = set(allow)
    return [
        kind
        for kind, policy in KINDS.items()
        if (not policy.efficient or "recompute" in listed)
        and (policy.compressed is None or "compress" in listed)
        and (kind != SWAP or "swap" in listed)
    ]
