"""Processes that train together over gloo, started for a test; one that hangs tells where.

A worker is a file of this folder; started as a script, it calls `main(<function>)`, and gets the rank, the number of
processes and the folder where they meet and leave what they found.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from torch import distributed

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 200.0


def main(work: Callable[[int, int, Path], None]) -> None:
    """Run one process's part; the arguments are those of the command line."""
    faulthandler.enable()
    rank, processes, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    store = distributed.FileStore(str(folder / "store"), processes)
    timeout = timedelta(seconds=PATIENCE_SECONDS / 2)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=processes, timeout=timeout)
    work(rank, processes, folder)
    # What `work` wrapped is gone by now: a wrapper that lets go of the group last can hang, see leave_group.
    gc.collect()
    distributed.destroy_process_group()


def run_processes(worker: str, folder: Path, processes: int = 2) -> None:
    """Run a worker's file in several processes at once.

    Raises:
        AssertionError: one failed, or hung; with what it printed, and for those that hung, where they were.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    outputs = [(folder / f"output-{rank}.txt").open("w+", encoding="utf-8") for rank in range(processes)]
    script = str(Path(__file__).with_name(worker))
    with contextlib.ExitStack() as open_files:
        started = [
            subprocess.Popen(
                [sys.executable, script, str(rank), str(processes), str(folder)],
                env=environment,
                stdout=open_files.enter_context(output),
                stderr=subprocess.STDOUT,
            )
            for rank, output in enumerate(outputs)
        ]
        try:
            for process in started:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(PATIENCE_SECONDS)
        finally:
            for process in started:
                if process.poll() is None:
                    process.send_signal(signal.SIGABRT)  # faulthandler prints the stacks
            for process in started:
                process.wait(20)
        codes = [process.returncode for process in started]
    printed = [(folder / f"output-{rank}.txt").read_text(encoding="utf-8") for rank in range(processes)]
    assert codes == [0] * processes, "\n".join(f"process {r}: {c}\n{printed[r]}" for r, c in enumerate(codes))
