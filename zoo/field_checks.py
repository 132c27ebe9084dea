"""Checks of a config's fields, shared by the families: the right type first, then the range."""

from __future__ import annotations

import numbers
import re
from collections.abc import Iterable

# Ten times what anybody has published, and less than exhausts a machine before training begins.
MOST_LAYERS = 10_000
MOST_PARAMETERS = 2 * 10**9


def check_integer(name: str, value: object, minimum: int) -> int:
    """The value as an int.

    Raises:
        TypeError, ValueError: not an integer, or below `minimum`; names the field and what came.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be an integer, not {value!r}")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, not {value}")
    return int(value)


def check_integers(name: str, values: object, minimum: int, example: tuple[int, ...]) -> tuple[int, ...]:
    """The values as a tuple of ints; at least one.

    Raises:
        TypeError, ValueError: as `check_integer`, naming the position; or no sequence, or an empty one.
    """
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise TypeError(f"{name} must be a sequence of layer counts such as {example}, not {values!r}")
    checked = tuple(check_integer(f"{name}[{i}]", count, minimum) for i, count in enumerate(values))
    if not checked:
        raise ValueError(f"{name} is empty: give at least one number, as in {example}")
    return checked


def check_number(name: str, value: object) -> float:
    """The value, a number.

    Raises:
        TypeError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, not {value!r}")
    return value


def check_switch(name: str, value: object) -> None:
    """Pass True and False.

    Raises:
        TypeError: it is neither.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {value!r}")


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Pass one of the choices.

    Raises:
        ValueError: it is none of them; names them.
    """
    if value not in tuple(choices):
        raise ValueError(f"{name} must be one of {', '.join(choices)}, not {value!r}")


def check_device_name(device: object, *, auto: bool, where: str = "") -> None:
    """Pass what may be the name of a device, there or not.

    Args:
        auto: whether "auto" is one.
        where: begins the message.

    Raises:
        ValueError: it is none; says what would be.
    """
    if isinstance(device, str) and (re.fullmatch(r"cpu|cuda(:\d+)?", device) or (auto and device == "auto")):
        return
    raise ValueError(f"{where}device must be {'auto, ' if auto else ''}cpu, cuda or cuda:<number>, not {device!r}")


def check_parameters(family: str, parameters: int, what_lowers_it: str) -> None:
    """Pass a network that a machine can hold.

    Raises:
        ValueError: more than `MOST_PARAMETERS`; says how many, and what would lower it.
    """
    if parameters > MOST_PARAMETERS:
        raise ValueError(
            f"this {family} would have {parameters:,} parameters, more than {MOST_PARAMETERS:,}: lower {what_lowers_it}"
        )
