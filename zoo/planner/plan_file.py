"""A plan's fields out of a JSON file: every one checked, so that what is no plan is refused by the field's name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from types import MappingProxyType
from typing import Any, TypeAlias

from zoo.choices import unknown
from zoo.field_checks import check_integer, check_number
from zoo.frameworks import FRAMEWORKS
from zoo.planner.kinds import KINDS

FORMAT = 1
Check: TypeAlias = Callable[[str, Any], Any]  # (name, value) -> the value as a plan has it


def checked_fields(found: Any, of_plan: type, of_part: type) -> dict[str, Any]:
    """The arguments of a plan; its parts as arguments of parts, lists as tuples.

    Args:
        found: what `json.loads` gave.
        of_plan, of_part: the dataclasses that the fields are of.

    Raises:
        TypeError, ValueError: naming the field, what came and what is needed.
    """
    if not isinstance(found, dict):
        raise TypeError(f"needed is an object with a plan's fields, not {_short(found)}")
    if found.get("format") != FORMAT or isinstance(found.get("format"), bool):
        raise ValueError(f"format is {_short(found.get('format'))}, needed is {FORMAT}")
    known = _checked(found, of_plan, "", PLAN_FIELDS)
    known["parts"] = [_checked(part, of_part, f"parts[{n}].", PART_FIELDS) for n, part in enumerate(known["parts"])]
    return known


def _checked(found: Any, of: type, where: str, checks: Mapping[str, Check]) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise TypeError(f"{where.removesuffix('.')} must be an object, not {_short(found)}")
    names = [field.name for field in fields(of) if field.name in found or field.default is MISSING]
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(f"{where}{missing[0]} is missing")
    more = set(found) - {*names, *(() if where else ("format",))}
    if more:
        raise ValueError(f"{where}{min(more)} is no field of a plan")
    counted: Mapping[str, Check] = dict.fromkeys(names, _bytes)
    return {name: {**counted, **checks}[name](f"{where}{name}", found[name]) for name in names}


def _bytes(name: str, value: Any) -> int:
    return check_integer(name, value, 0)


def _seconds(name: str, value: Any) -> float:
    if not 0 <= check_number(name, value) < math.inf:
        raise ValueError(f"{name} must be finite and at least 0, not {value}")
    return float(value)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be text, not {_short(value)}")
    return value


def _kind(name: str, value: Any) -> str:
    if _text(name, value) not in KINDS:
        raise ValueError(unknown(name, value, KINDS))
    return str(value)


def _shape(name: str, value: Any) -> tuple[int, ...]:
    return tuple(check_integer(f"{name}[{n}]", size, 0) for n, size in enumerate(_listed(name, value)))


def _steps(name: str, value: Any) -> Any:
    steps = _listed(name, value)
    return tuple(
        _steps(f"{name}[{n}]", step) if isinstance(step, list) else check_integer(f"{name}[{n}]", step, 0)
        for n, step in enumerate(steps)
    )


def _listed(name: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{name} must be a list, not {_short(value)}")
    if not value and name != "input_shape":
        raise ValueError(f"{name} is empty")
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def _framework(name: str, value: Any) -> str:
    if _text(name, value) not in FRAMEWORKS:
        raise ValueError(unknown(name, value, FRAMEWORKS))
    return str(value)


PLAN_FIELDS: Mapping[str, Check] = MappingProxyType(
    {
        **dict.fromkeys(("model", "fingerprint"), _text),
        "framework": _framework,
        **dict.fromkeys(("predicted_seconds", "plain_seconds", "noise"), _seconds),
        "step_seconds": lambda name, value: None if value is None else _seconds(name, value),
        "input_shape": _shape,
        "parts": _listed,
        "steps": _steps,
    }
)
PART_FIELDS: Mapping[str, Check] = MappingProxyType(
    {"name": _text, "choice": _kind, "runs": lambda name, value: check_integer(name, value, 1), "seconds": _seconds}
)
