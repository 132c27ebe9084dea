"""The message for a name that does not exist: what came, the nearest that do, and all of them when they are few."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MOST_LISTED = 60


def unknown(kind: str, came: object, valid: Iterable[str]) -> str:
    """A message such as "unknown model 'densenet_121': did you mean densenet121?".

    Example:
        >>> unknown("framework", "touch", ["torch"])
        "unknown framework 'touch': did you mean torch? Known: torch"
    """
    names = list(valid)
    plain = {_plain(name): name for name in names}
    close = [plain[key] for key in difflib.get_close_matches(_plain(str(came)), plain, n=3, cutoff=0.5)]
    hint = f": did you mean {' or '.join(close)}?" if close else ""
    if len(names) > MOST_LISTED:
        return f"unknown {kind} {came!r}{hint or f'; there are {len(names)}, such as {names[0]} and {names[1]}'}"
    return f"unknown {kind} {came!r}{f'{hint} Known: ' if hint else '; known: '}{', '.join(names)}"


def refuse_unknown_arguments(owner: str, given: Iterable[str], valid: Iterable[str]) -> None:
    """Raise TypeError for the first keyword argument that does not exist, with the nearest that does.

    Example:
        >>> refuse_unknown_arguments("DenseNet", ["efficent"], ["efficient"])
        Traceback (most recent call last):
        ...
        TypeError: DenseNet: unknown argument 'efficent': did you mean efficient? Known: efficient
    """
    names = list(valid)
    for name in given:
        if name not in names:
            raise TypeError(f"{owner}: {unknown('argument', name, names)}")


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")
