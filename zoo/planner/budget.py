"""Budgets as people write them: 2147483648, "2GiB", "512MB", and 0.3 for a share of what a plain step needs."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from types import MappingProxyType

UNITS: Mapping[str, int] = MappingProxyType(
    {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
)
_BUDGET = re.compile(r"\s*([0-9.]+)\s*([A-Za-z]*)\s*")


def parse_budget(budget: int | float | str, plain_bytes: int | None = None) -> int:
    """A budget in bytes.

    Args:
        budget: bytes, or text with a unit; where `plain_bytes` is given, a fraction or text without a unit between 0
            and 1 is a share of that.
        plain_bytes: what a step needs when nothing is saved.

    Raises:
        TypeError: neither a number nor text.
        ValueError: not a number with a known unit; not above 0.

    Example:
        >>> parse_budget("2GiB"), parse_budget("1.5 MB"), parse_budget(1000), parse_budget(0.3, plain_bytes=1000)
        (2147483648, 1500000, 1000, 300)
    """
    if isinstance(budget, bool) or not isinstance(budget, (int, float, str)):
        raise TypeError(f"budget must be bytes or text such as '2GiB', not {budget!r}")
    unit = ""
    if not isinstance(budget, str):
        number: int | float = budget
    else:
        found = _BUDGET.fullmatch(budget)
        units = {name.lower(): name for name in UNITS}
        if found is None or found.group(1).count(".") > 1 or (found.group(2) or "B").lower() not in units:
            raise ValueError(f"budget must be a number with one of {', '.join(UNITS)}, such as '2GiB', not {budget!r}")
        if found.group(1) == ".":
            raise ValueError(f"budget must be a number, such as '2GiB', not {budget!r}")
        number, unit = float(found.group(1)), units[found.group(2).lower()] if found.group(2) else ""
    if plain_bytes is not None and not unit and not isinstance(number, int) and 0 < number <= 1:
        return max(int(number * plain_bytes), 1)
    size = float(number) * UNITS[unit or "B"]
    if not (math.isfinite(size) and size >= 1):
        raise ValueError(f"budget must be above 0 and finite, not {budget!r}")
    return int(size)
