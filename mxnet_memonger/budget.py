"""Byte budgets as people write them: 2147483648, "2GiB", "512MB"."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from types import MappingProxyType

UNITS: Mapping[str, int] = MappingProxyType(
    {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
)
_BUDGET = re.compile(r"\s*([0-9.]+)\s*([A-Za-z]*)\s*")


def parse_budget(budget: int | float | str) -> int:
    """A budget in bytes.

    Raises:
        TypeError: neither a number nor text.
        ValueError: not a number with a known unit; not above 0.

    Example:
        >>> parse_budget("2GiB"), parse_budget("1.5 MB"), parse_budget(1000)
        (2147483648, 1500000, 1000)
    """
    if isinstance(budget, bool) or not isinstance(budget, (int, float, str)):
        raise TypeError(f"budget must be bytes or text such as '2GiB', not {budget!r}")
    number, unit = budget, "B"
    if isinstance(budget, str):
        found = _BUDGET.fullmatch(budget)
        units = {name.lower(): name for name in UNITS}
        if found is None or found.group(1).count(".") > 1 or (found.group(2) or "B").lower() not in units:
            raise ValueError(f"budget must be a number with one of {', '.join(UNITS)}, such as '2GiB', not {budget!r}")
        number, unit = float(found.group(1)), units[(found.group(2) or "B").lower()]
    size = float(number) * UNITS[unit]
    if not (math.isfinite(size) and size >= 1):
        raise ValueError(f"budget must be above 0 and finite, not {budget!r}")
    return int(size)
