"""The command `zoo` (or `python -m zoo`): list, measure or plan models, run a benchmark, see what is installed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from zoo import flags
from zoo.atomic_write import DiskFullError
from zoo.broken_pipe import give_up_output
from zoo.choices import unknown
from zoo.command import silence_tensorflow
from zoo.options import TrainingError
from zoo.subcommands import COMMANDS, DEFAULT_HELP, DONE, SOMETHING_BROKEN

USER_ERROR, INTERRUPTED = 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 2 for a mistake in the command line, which is one line on stderr."""
    try:
        status = _run(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
    except BrokenPipeError:
        return give_up_output()
    return status


def _run(words: list[str]) -> int:
    name = words[0] if words else "--help"
    if name in ("--help", "-h", "help"):
        print(help_text())
        return DONE if words else USER_ERROR
    if name not in COMMANDS:
        return _refuse("zoo", unknown("command", name, COMMANDS))
    command = COMMANDS[name]
    if {"--help", "-h"} & set(words):
        print(help_text(name))
        return DONE
    silence_tensorflow()
    try:
        return command(**flags.parse(words[1:], flags.flags_of(command)))
    except (ValueError, TypeError, ImportError) as error:
        return _refuse(f"zoo {name}", str(error).removeprefix(f"{name}: "))
    except (TrainingError, DiskFullError) as error:
        return _refuse(f"zoo {name}", str(error), SOMETHING_BROKEN)
    except MemoryError as error:
        return _refuse(f"zoo {name}", str(error) or "out of memory", SOMETHING_BROKEN)
    except KeyboardInterrupt:
        return INTERRUPTED


def help_text(name: str | None = None) -> str:
    """What one command takes, or which commands there are."""
    if name is None:
        lines = [f"  zoo {key:<8} {_summary(command)}" for key, command in COMMANDS.items()]
        return "\n".join(
            ["usage: zoo COMMAND [FLAGS]   (or python -m zoo)", *lines, "zoo COMMAND --help lists its flags."]
        )
    command = COMMANDS[name]
    taken = flags.flags_of(command)
    if not taken:
        return f"usage: zoo {name}\n{_summary(command)}"
    defaults = {flag.name: DEFAULT_HELP.get(flag.name, str(flag.default)) for flag in taken}
    return f"usage: zoo {name} [FLAGS]\n{_summary(command)}\n" + flags.help_text(
        taken, flags.help_lines(command), defaults
    )


def _summary(command: Callable[..., int]) -> str:
    return str(command.__doc__).partition("\n")[0]


def _refuse(who: str, message: str, status: int = USER_ERROR) -> int:
    sys.stderr.write(f"{who}: {message}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
