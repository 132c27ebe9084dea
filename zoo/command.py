"""Runs a function as a shell command: help, strict flags, fire; expected errors are one message and an exit code."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from zoo.atomic_write import DiskFullError
from zoo.broken_pipe import BROKEN_PIPE, give_up_output
from zoo.flags import Flag, Value, as_arguments, flags_of, help_lines, help_text, parse
from zoo.options import TrainingError
from zoo.run_folder import RunFolderError, finished_epochs, holds_run, read_result

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
    save: Value = None
    try:
        if {"-h", "--help"} & set(arguments):
            sys.stdout.write(help_page(program, function, flags, examples, words(defaults)))
            sys.stdout.flush()
            return 0
        with expected_errors(USAGE):
            values = complete(parse(arguments, flags), defaults)
        save = values.get("save")
        with _sigterm_raises():
            _fire(program, function, values)
            sys.stdout.flush()
    except BrokenPipeError:
        give_up_output()
        return _say(program, _how_to_go_on(program, save), BROKEN_PIPE) if isinstance(save, str) else BROKEN_PIPE
    except DiskFullError as error:
        return _say(program, f"{error}\n{_how_to_go_on(program, save)}", FAILED)
    except Stop as stop:
        return _say(program, str(stop), stop.code)
    except RunFolderError as error:
        return _say(program, str(error), USAGE)
    except ImportError as error:
        return _say(program, _with_what_works_here(str(error)), FAILED)
    except (TrainingError, OSError) as error:
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


def silence_tensorflow() -> None:
    """Before TensorFlow is loaded by a command: its notes on every step's profile stay out, unless its user wants them.

    Example:
        >>> silence_tensorflow()
        >>> os.environ["TF_CPP_MIN_LOG_LEVEL"]
        '2'
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def _fire(program: str, function: Callable[..., None], values: Mapping[str, Value]) -> None:
    try:
        import fire
    except ModuleNotFoundError as error:
        raise ImportError(f"{error.name} is not installed: pip install 'memory-efficient-zoo[demo]'") from None
    # Waiting threads spin by OpenMP's default: a step takes ten times longer when another program wants the cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    silence_tensorflow()
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
    if read_result(save) is not None:
        return f"stopped; the training itself is finished and saved in {save}"
    again = f"python {program} --save {shlex.quote(save)} --resume True"
    if not finished_epochs(save):
        return f"stopped before the first epoch was finished; start it again with: {again}"
    return f"stopped; go on from the last finished epoch with: {again}"


def _with_what_works_here(message: str) -> str:
    """A message with the commands that really install what is missing, where this is a checkout of the project."""
    root = Path(__file__).resolve().parent.parent
    if not (root / "demo.py").is_file():
        return message
    return re.sub(r"pip install 'memory-efficient-zoo\[[\w,]+\]'", lambda _: how_to_install(root), message)


def how_to_install(root: Path) -> str:
    """The commands that bring what the demo needs, in a checkout of the project: its own .venv first, if it has all."""
    own = root / ".venv" / "bin" / "python"
    has_all = all(any(root.glob(f".venv/lib/python*/site-packages/{name}")) for name in ("fire", "torch", "matplotlib"))
    here = Path(sys.prefix).resolve() == (root / ".venv").resolve()
    if own.exists() and has_all and not here:
        return f"run it as `.venv/bin/python demo.py ...` in {root}, where everything is installed"
    return f"in {root}, run `make demo`, or `pip install -c constraints.txt -e '.[torch,demo]'`"


def _say(program: str, message: str, code: int) -> int:
    sys.stdout.flush()
    sys.stderr.write(f"{program}: {message}\n")
    return code
