"""Start the same command several times on this machine: free ports, waiting for all, ending all when one has failed."""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

HERE = "127.0.0.1"
SECONDS_TO_END = 20


def free_ports(count: int) -> list[int]:
    """Different ports of this machine that nobody listens on."""
    held = [socket.socket() for _ in range(count)]
    try:
        for one in held:
            one.bind((HERE, 0))
        return [int(one.getsockname()[1]) for one in held]
    finally:
        for one in held:
            one.close()


def run_together(command: Sequence[str], environments: Sequence[Mapping[str, str]]) -> int:
    """Run `python command...` once in each environment; the first exit code that is not 0, or 0.

    When one has failed the others are ended: they would wait for it for ever.
    """
    started = [subprocess.Popen([sys.executable, *command], env=dict(one)) for one in environments]
    try:
        return wait_for_all(started)
    finally:
        for process in started:
            end(process)


def wait_for_all(processes: Sequence[subprocess.Popen[bytes]]) -> int:
    """Until all are done, or one has failed; its exit code."""
    running = list(processes)
    while running:
        for process in list(running):
            try:
                code = process.wait(timeout=0.2)
            except subprocess.TimeoutExpired:
                continue
            if code:
                return code
            running.remove(process)
    return 0


def end(process: subprocess.Popen[bytes], patient: bool = False) -> None:
    """End a process; a patient end waits for it to end by itself, for a while."""
    if patient and process.poll() is None:
        try:
            process.wait(timeout=SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            process.kill()
    elif process.poll() is None:
        process.kill()
    process.wait()


def launcher_main(module: str, what: str, launch: Callable[[int, Sequence[str]], int], arguments: Sequence[str]) -> int:
    """The command line of a framework's launcher, `python -m <module> --workers N script...`; its exit code."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=what)
    parser.add_argument("--workers", type=int, required=True, help="how many processes train")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="a script and its arguments")
    given = parser.parse_args(arguments)
    if given.workers < 1 or not given.command:
        parser.error("needed are --workers of at least 1 and a script, such as: --workers 2 demo.py ...")
    return launch(given.workers, given.command)
