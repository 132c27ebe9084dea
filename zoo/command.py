"""Runs a function as a shell command: help, strict flags, fire; expected errors are one message and an exit code."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import NoReturn

from zoo.flags import Flag, Value, as_arguments, flags_of, help_lines, help_text, parse
from zoo.options import TrainingError
from zoo.run_folder import RunFolderError, holds_run

FAILED, USAGE, INTERRUPTED, TERMINATED = 1, 2, 130, 143

Complete = Callable[[Mapping[str, Value], Mapping[str, Value]], Mapping[str, Value]]


class Stop(Exception):
    """Ends the command with a message and an exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Terminated(KeyboardInterrupt):
    """SIGTERM came: the command ends as after Ctrl-C, with the exit code of a terminated process."""


@contextlib.contextmanager
def expected_errors(code: int) -> Iterator[None]:
    """Inside, errors about values and files are the user's to mend: their message ends the command with `code`."""
    try:
        yield
    except (ValueError, TypeError, OSError) as error:
        raise Stop(str(error), code) from error


def run(
    function: Callable[..., None],
    arguments: Sequence[str],
    *,
    complete: Complete,
    examples: str,
    words: Callable[[Mapping[str, Value]], Mapping[str, str]],
) -> int:
    """Run `function` with the flags in `arguments`; its exit code.

    Args:
        function: every parameter has a default, a plain type and a line in the docstring's Args.
        arguments: without the program's name.
        complete: (flags given, defaults) -> the value of every flag.
        examples: lines for the help.
        words: defaults -> how the help shows them.
    """
    program = "demo.py"
    flags = flags_of(function)
    defaults = {flag.name: flag.default for flag in flags}
    if {"-h", "--help"} & set(arguments):
        sys.stdout.write(help_page(program, function, flags, examples, words(defaults)))
        return 0
    save: Value = None
    try:
        with expected_errors(USAGE):
            values = complete(parse(arguments, flags), defaults)
        save = values.get("save")
        with _sigterm_raises():
            _fire(program, function, values)
    except Stop as stop:
        return _say(program, str(stop), stop.code)
    except RunFolderError as error:
        return _say(program, str(error), USAGE)
    except (TrainingError, OSError, ImportError) as error:
        return _say(program, str(error), FAILED)
    except KeyboardInterrupt as interrupt:
        code = TERMINATED if isinstance(interrupt, Terminated) else INTERRUPTED
        return _say(program, _how_to_go_on(program, save), code)
    return 0


def help_page(
    program: str,
    function: Callable[..., None],
    flags: Sequence[Flag],
    examples: str,
    defaults: Mapping[str, str],
) -> str:
    """What --help prints: what the command is for, examples, and a line per flag."""
    summary = (function.__doc__ or "").strip().splitlines()[0]
    return (
        f"python {program} [--flag value ...]\n\n{summary}\n\n{examples}\n\n"
        f"flags (- and _ are the same; True|False may be left out, --no<flag> is False):\n"
        f"{help_text(flags, help_lines(function), defaults)}\n"
    )


def _fire(program: str, function: Callable[..., None], values: Mapping[str, Value]) -> None:
    try:
        import fire
    except ModuleNotFoundError as error:
        raise ImportError(f"{error.name} is not installed: pip install 'memory-efficient-zoo[demo]'") from None
    # Waiting threads spin by OpenMP's default: a step takes ten times longer when another program wants the cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    fire.Fire(function, command=as_arguments(values), name=program)


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _how_to_go_on(program: str, save: Value) -> str:
    if not isinstance(save, str) or not holds_run(save):
        return "stopped; nothing was saved"
    again = f"python {program} --save {shlex.quote(save)} --resume True"
    return f"stopped; go on from the last finished epoch with: {again}"


def _say(program: str, message: str, code: int) -> int:
    sys.stdout.flush()
    sys.stderr.write(f"{program}: {message}\n")
    return code
