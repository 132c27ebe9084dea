"""What `compressed=` may ask for on any model, by name, as one frozen value: ActNN's levels, GACT, AC-GC's schemes."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

GROUP_WIDTHS = (1, 2, 4, 8)
LAYERS, HOOKS, FIXED, NOTHING = "layers", "hooks", "fixed point", "nothing"
_FIXED = re.compile(r"(quantz?)(\d+)")


@dataclass(frozen=True)
class Scheme:
    """How saved tensors are stored.

    Args:
        name: as a flag gives it.
        way: LAYERS (ActNN: layers know what they keep), HOOKS (GACT: whatever operators save), FIXED (AC-GC: layers,
            in fixed point), NOTHING.
        bits: a value, on average where `adaptive`; None = from an error bound.
        norms: inputs of norms are coded as well.
        adaptive: bits differ by layer and sample, so that the gradient's noise is least at this average.
        swap: what is kept moves to host memory.
        chunks: convolutions run backward in pieces of the batch, with smaller workspaces.
        defragment: wants PyTorch's expandable segments on a GPU.
        zeros: convolution inputs store their zeros apart (a bit each) and bits for the others.
        stochastic: rounded without bias; False = to nearest, as AC-GC published it.
        error: AC-GC's e, the largest relative squared error of the gradient, where bits follow from it.

    Example:
        >>> find_scheme("L3").bits, find_scheme("L3").adaptive
        (2, True)
        >>> find_scheme("quantz6")
        Scheme(name='quantz6', way='fixed point', bits=6, ..., zeros=True, stochastic=False, error=None)
    """

    name: str
    way: str
    bits: int | None = None
    norms: bool = True
    adaptive: bool = False
    swap: bool = False
    chunks: bool = False
    defragment: bool = False
    zeros: bool = False
    stochastic: bool = True
    error: float | None = None

    @property
    def learns(self) -> bool:
        """Whether bits follow from what backward passes tell."""
        return self.adaptive or self.error is not None

    def __str__(self) -> str:
        return self.name


_L3 = Scheme("L3", LAYERS, 2, adaptive=True)
_AUTO = Scheme("autoquant", FIXED, stochastic=False, error=1.0)
SCHEMES: Mapping[str, Scheme] = MappingProxyType(
    {
        scheme.name: scheme
        for scheme in (
            Scheme("L0", NOTHING),
            Scheme("L1", LAYERS, 4, norms=False),
            Scheme("L2", LAYERS, 4),
            _L3,
            replace(_L3, name="L3.1", chunks=True),
            replace(_L3, name="L4", swap=True),
            replace(_L3, name="L5", swap=True, defragment=True),
            Scheme("swap", NOTHING, swap=True),
            Scheme("gact", HOOKS, 4),
            _AUTO,
            replace(_AUTO, name="autoquantz", zeros=True),
            replace(_AUTO, name="autoquant-sr", stochastic=True),
        )
    }
)


def find_scheme(text: object) -> Scheme:
    """The scheme of a name: L0 to L5, L3.1, swap, gact, gact:2, quant8, quantz8, autoquant, autoquantz, autoquant-sr;

    1, 2, 4 or 8 is so many bits in every layer.

    Raises:
        TypeError: neither text nor a number.
        ValueError: no such scheme, with the nearest.
    """
    if isinstance(text, Scheme):
        return text
    if isinstance(text, bool) or not isinstance(text, str | int):
        raise TypeError(f"compressed: the name of a scheme or a number of bits is needed, not {text!r}")
    name = str(text).strip()
    by_lower = {key.lower(): scheme for key, scheme in SCHEMES.items()}
    if name.lower() in by_lower:
        return by_lower[name.lower()]
    if name.isdecimal() and int(name) in GROUP_WIDTHS:
        return Scheme(name, LAYERS, int(name))
    start, _, rest = name.lower().partition(":")
    if start == "gact" and rest.isdecimal() and int(rest) in GROUP_WIDTHS:
        return replace(SCHEMES["gact"], name=f"gact:{int(rest)}", bits=int(rest))
    fixed = _FIXED.fullmatch(name.lower())
    if fixed is not None and 1 <= int(fixed[2]) <= 16:
        return Scheme(name.lower(), FIXED, int(fixed[2]), zeros=fixed[1] == "quantz", stochastic=False)
    raise ValueError(_unknown(name, start, fixed))


def is_scheme(text: object) -> bool:
    """Whether a name is a scheme's, and not bits or a codec of the zoo's own models.

    Example:
        >>> is_scheme("L3"), is_scheme("gact:5"), is_scheme("2"), is_scheme("fixed:4")
        (True, True, False, False)
    """
    name = str(text).strip().lower()
    known = {key.lower() for key in SCHEMES}
    return name in known or name.startswith(("gact", "quant", "autoquant")) or bool(re.fullmatch(r"l\d.*", name))


def _unknown(name: str, start: str, fixed: re.Match[str] | None) -> str:
    there = f"1, 2, 4, 8, {', '.join(SCHEMES)}, gact:<1|2|4|8>, quant<1..16>, quantz<1..16>"

    def nearest(text: str) -> str:
        return str(min(GROUP_WIDTHS, key=lambda width: abs(width - int(text))))

    if start == "gact":
        close = ["gact:" + (nearest(name[5:]) if name[5:].isdecimal() else "4")]
    elif fixed is not None:
        close = [f"{fixed[1]}{min(max(int(fixed[2]), 1), 16)}"]
    elif name.isdecimal():
        close = [nearest(name)]
    else:
        close = difflib.get_close_matches(name, [*SCHEMES, "quant8", "quantz8"], n=1, cutoff=0.5)
    question = f" did you mean {close[0]}?" if close else ""
    return f"compressed: unknown scheme {name!r}:{question} Known: {there}"
