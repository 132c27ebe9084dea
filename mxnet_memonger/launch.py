"""Start one command many times on this machine, joined by MXNet's kvstore: `python -m mxnet_memonger.launch`.

    python -m mxnet_memonger.launch --workers 2 demo.py --framework mxnet --data cifar10 --save runs/x

MXNet needs a scheduler and a server beside the workers; they are started and ended too.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
from collections.abc import Sequence

HERE = "127.0.0.1"
SERVE = "import mxnet_memonger.numpy_names"  # with such a role, importing MXNet is to serve until all workers are done
SECONDS_TO_END = 20


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as found:
        found.bind((HERE, 0))
        return int(found.getsockname()[1])


def launch(workers: int, command: Sequence[str]) -> int:
    """Run `python command...` so many times; the first exit code that is not 0, or 0."""
    port = str(free_port())
    common = {"DMLC_PS_ROOT_URI": HERE, "DMLC_PS_ROOT_PORT": port, "DMLC_NUM_SERVER": "1"}
    common |= {"DMLC_NUM_WORKER": str(workers), "WORLD_SIZE": str(workers), "MASTER_ADDR": HERE, "MASTER_PORT": port}
    helpers = [
        subprocess.Popen([sys.executable, "-c", SERVE], env={**os.environ, **common, "DMLC_ROLE": role})
        for role in ("scheduler", "server")
    ]
    own = [
        subprocess.Popen(
            [sys.executable, *command], env={**os.environ, **common, "DMLC_ROLE": "worker", "RANK": str(rank)}
        )
        for rank in range(workers)
    ]
    code = 1
    try:
        code = _wait(own)
    finally:  # after success scheduler and server end by themselves; with a worker missing they never would
        for process in (*own, *helpers):
            _end(process, patient=process in helpers and code == 0)
    return code


def _wait(processes: Sequence[subprocess.Popen[bytes]]) -> int:
    """Until all are done, or one has failed: the others would wait for it for ever."""
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


def _end(process: subprocess.Popen[bytes], patient: bool) -> None:
    if patient:
        try:
            process.wait(timeout=SECONDS_TO_END if process.poll() is None else 0)
        except subprocess.TimeoutExpired:
            process.kill()
    elif process.poll() is None:
        process.kill()
    process.wait()


def main(arguments: Sequence[str]) -> int:
    """Run the launcher; its exit code."""
    parser = argparse.ArgumentParser(prog="python -m mxnet_memonger.launch", description=__doc__.partition("\n")[0])
    parser.add_argument("--workers", type=int, required=True, help="how many processes train")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="a script and its arguments")
    given = parser.parse_args(arguments)
    if given.workers < 1 or not given.command:
        parser.error("needed are --workers of at least 1 and a script, such as: --workers 2 demo.py --framework mxnet")
    return launch(given.workers, given.command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
