"""Command-line flags read from a function's signature, strictly: nothing runs before every flag is understood."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")
# What other training scripts call a flag: spelling alone would lead from --learning_rate to --drop_rate.
ALSO_CALLED: Mapping[str, str] = types.MappingProxyType(
    {
        other: flag
        for flag, others in (
            ("data", "dataset"),
            ("data_dir", "root"),
            ("save", "output out save_dir"),
            ("model", "arch net network"),
            ("depth", "layers"),
            ("drop_rate", "dropout"),
            ("n_epochs", "epochs"),
            ("batch_size", "batch"),
            ("lr", "learning_rate"),
            ("wd", "weight_decay"),
            ("device", "gpu gpus cuda"),
            ("num_workers", "workers"),
            ("amp", "bf16 mixed_precision"),
            ("compressed", "bits"),
            ("budget", "memory"),
        )
        for other in others.split()
    }
)
_NUMBER = re.compile(r"-\.?\d.*|-(inf|nan)")
_TYPE_NAMES: Mapping[type, str] = {bool: "True|False", int: "INT", float: "FLOAT", str: "TEXT"}
_NEEDS: Mapping[type, str] = {bool: "True or False", int: "an integer", float: "a finite number", str: "a text"}

Value = bool | int | float | str | None


class FlagError(ValueError):
    """A flag that cannot be understood; the message says which, and the nearest valid choice."""


@dataclass(frozen=True)
class Flag:
    """One flag of a command.

    Args:
        name: with underscores, as in Python.
        kind: bool, int, float or str.
        optional: None is a value too.
        default: what the function takes when the flag is not given.
        positional: may also be given by position, without its name.
    """

    name: str
    kind: type
    optional: bool
    default: Value
    positional: bool


def flags_of(function: Callable[..., object]) -> tuple[Flag, ...]:
    """The flags a function takes, from its annotated signature; keyword-only parameters have no position.

    Raises:
        TypeError: a parameter without a default, or annotated with other than bool, int, float, str (or None).
    """
    hints = typing.get_type_hints(function)
    flags = []
    for name, parameter in inspect.signature(function).parameters.items():
        hint = hints[name]
        kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        plain = [kind for kind in kinds if kind is not types.NoneType]
        if len(plain) != 1 or plain[0] not in _TYPE_NAMES or parameter.default is inspect.Parameter.empty:
            raise TypeError(f"{parameter} cannot be a flag: it needs a default and one of bool, int, float, str")
        positional = parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        flags.append(Flag(name, plain[0], len(kinds) > 1, parameter.default, positional))
    return tuple(flags)


def parse(arguments: Sequence[str], flags: Sequence[Flag]) -> dict[str, Value]:
    """The flags that were given, and their values, checked.

    `--name value`, `--name=value`, `--some-name`, `--efficient` (True), `--noefficient` (False); positional values
    fill positional flags in order.

    Raises:
        FlagError: an unknown flag, one given twice or without a value, a value of the wrong type.

    Example:
        >>> def command(depth: int = 100, *, efficient: bool = False) -> None: ...
        >>> parse(["--efficient", "false", "--depth=40"], flags_of(command))
        {'efficient': False, 'depth': 40}
    """
    by_name = {flag.name: flag for flag in flags}
    free = [flag for flag in flags if flag.positional]
    given: dict[str, Value] = {}
    rest = list(arguments)
    while rest:
        token = rest.pop(0)
        if _is_value(token):
            flag = next((flag for flag in free if flag.name not in given), None)
            if flag is None:
                advice = f"write --<flag> {token}" if flags else "this command takes no flags"
                raise FlagError(f"{token!r} belongs to no flag: {advice}")
            given[flag.name] = convert(flag, token)
            continue
        name, equals, text = token.partition("=")
        flag, negated = _find(name, by_name)
        if flag.name in given:
            raise FlagError(f"--{flag.name} is given twice")
        if negated:
            if equals:
                raise FlagError(f"{token}: --no{flag.name} takes no value; write --{flag.name} False")
            given[flag.name] = False
        elif equals:
            given[flag.name] = convert(flag, text)
        elif rest and _is_value(rest[0]):
            given[flag.name] = convert(flag, rest.pop(0))
        elif flag.kind is bool:
            given[flag.name] = True
        else:
            raise FlagError(f"--{flag.name} needs a value: {_NEEDS[flag.kind]}")
    return given


def convert(flag: Flag, text: str) -> Value:
    """The value of a flag from its text.

    Raises:
        FlagError: naming the flag, the text and the type it needs.
    """
    if flag.optional and text == "None":
        return None
    if flag.kind is bool:
        if text.lower() in _TRUE + _FALSE:
            return text.lower() in _TRUE
    elif flag.kind is str:
        return text
    else:
        with contextlib.suppress(ValueError):
            value: int | float = flag.kind(text)
            if isinstance(value, int) or math.isfinite(value):
                return value
    raise FlagError(f"--{flag.name} needs {_NEEDS[flag.kind]}, not {text!r}")


def as_arguments(values: Mapping[str, Value]) -> list[str]:
    """Values as `--name=literal`, in the form that python-fire reads back to the same values.

    Example:
        >>> as_arguments({"save": "runs/1", "efficient": True})
        ["--save='runs/1'", '--efficient=True']
    """
    return [f"--{name}={value!r}" for name, value in values.items()]


def help_lines(function: Callable[..., object]) -> dict[str, str]:
    """What each flag does, from the lines "name: text" under "Args:" in the function's docstring."""
    text = inspect.getdoc(function) or ""
    return dict(re.findall(r"^    (\w+): (.+)$", text.partition("Args:\n")[2], re.MULTILINE))


def help_text(flags: Sequence[Flag], lines: Mapping[str, str], defaults: Mapping[str, str]) -> str:
    """One line per flag: name, type, what it does, default.

    Args:
        flags: of the command.
        lines: what each flag does, one line each.
        defaults: how to show each default.

    Raises:
        KeyError: a flag without its line.
    """
    names = [f"--{flag.name} {_TYPE_NAMES[flag.kind]}" for flag in flags]
    width = max(map(len, names))
    return "\n".join(
        f"  {name:<{width}}  {lines[flag.name]} (default {defaults[flag.name]})"
        for name, flag in zip(names, flags, strict=True)
    )


def _is_value(token: str) -> bool:
    return not token.startswith("-") or bool(_NUMBER.fullmatch(token))


def _find(name: str, by_name: Mapping[str, Flag]) -> tuple[Flag, bool]:
    """The flag `--name` means, and whether it is a boolean switched off by `--noname`."""
    plain = name.removeprefix("--").replace("-", "_")
    if name.startswith("--"):
        if plain in by_name:
            return by_name[plain], False
        negated = by_name.get(plain.removeprefix("no_").removeprefix("no"))
        if plain.startswith("no") and negated is not None and negated.kind is bool:
            return negated, True
    meant = ALSO_CALLED.get(plain.lstrip("-_"))
    close = [meant] if meant in by_name else difflib.get_close_matches(plain.lstrip("-_"), by_name, n=1, cutoff=0.5)
    question = f"; did you mean --{close[0]}?" if close else ""
    advice = " (--help lists all flags)" if by_name else ": this command takes no flags, leave it out"
    raise FlagError(f"unknown flag {name}{question}{advice}")
