"""The cost of plans, as MXNet's own planner counts it: in this process, or in several that work at once."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np

from mxnet_memonger.binding import Binder
from mxnet_memonger.mirror_plan import MirrorPlan, PlanSpace, planned_symbol
from mxnet_memonger.replay import Replay
from mxnet_memonger.symbol_graph import SymbolGraph

MOST_RSS_BYTES = 3 * 2**30  # a worker that has grown beyond it is replaced by a fresh one
BIG = 100  # operators from which several processes are worth their start of about two seconds
MOST_WORKERS = 4
# A process that only binds needs none of the engine's threads: so it binds five times as fast. Figures are the same.
QUICK: Mapping[str, str] = MappingProxyType(
    {"MXNET_ENGINE_TYPE": "NaiveEngine", "MXNET_EXEC_BULK_EXEC_TRAIN": "0", "MXNET_SUBGRAPH_BACKEND": "NONE"}
)


class Costs(Protocol):
    """Something that binds plans."""

    batch: int  # how many plans it binds at once

    def many(self, plans: Sequence[MirrorPlan]) -> list[int]:
        """Bytes for each plan."""


class LocalCosts:
    """Binds in this process, one plan after the other."""

    batch = 1

    def __init__(self, space: PlanSpace, binder: Binder) -> None:
        self.space, self.binder = space, binder

    def many(self, plans: Sequence[MirrorPlan]) -> list[int]:
        """Bytes for each plan."""
        return [self.binder.cost_bytes(self.space.symbol(plan)) for plan in plans]


class ReplayedCosts:
    """Replays MXNet's planner, in this process."""

    batch = 1

    def __init__(self, replay: Replay) -> None:
        self.replay = replay

    def many(self, plans: Sequence[MirrorPlan]) -> list[int]:
        """Bytes for each plan, but for a few percent."""
        return [self.replay.bytes_of(plan) for plan in plans]


class WorkerCosts:
    """Binds in processes of its own, which end with `close`.

    They are plain subprocesses that run one module of this package: a script that calls the search needs no
    `if __name__ == "__main__"`, and what a bind leaves behind is gone when they end.
    """

    def __init__(self, space: PlanSpace, setting: Mapping[str, Any], workers: int) -> None:
        self.space, self.setting, self.batch = space, setting, workers
        self.workers: list[subprocess.Popen[str] | None] = [None] * workers
        self.threads = ThreadPoolExecutor(workers)

    def many(self, plans: Sequence[MirrorPlan]) -> list[int]:
        """Bytes for each plan."""
        results = [0] * len(plans)

        def work(slot: int) -> None:
            for place in range(slot, len(plans), self.batch):
                results[place] = self._ask(slot, plans[place])

        list(self.threads.map(work, range(min(self.batch, len(plans)))))
        return results

    def close(self) -> None:
        """End the processes."""
        self.threads.shutdown()
        for worker in self.workers:
            if worker is not None:
                _end(worker)

    def _ask(self, slot: int, plan: MirrorPlan) -> int:
        worker = self.workers[slot] or self._start()
        self.workers[slot] = worker
        assert worker.stdin is not None
        assert worker.stdout is not None
        request = {"mirrored": sorted(self.space.mirrored(plan)), "copied": sorted(plan.copied)}
        try:
            worker.stdin.write(json.dumps(request) + "\n")
            worker.stdin.flush()
            answer = json.loads(worker.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError) as error:
            self.workers[slot] = None
            worker.kill()
            code = worker.wait()
            raise RuntimeError(
                f"the process that binds plans ended with code {code}: search with workers=0 to bind in this process"
            ) from error
        if answer["rss_bytes"] > MOST_RSS_BYTES:
            self.workers[slot] = None
            _end(worker)
        return int(answer["bytes"])

    def _start(self) -> subprocess.Popen[str]:
        environment = {**os.environ, **QUICK, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
        worker = subprocess.Popen(
            [sys.executable, "-m", "mxnet_memonger.bind_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        assert worker.stdin is not None
        worker.stdin.write(json.dumps(dict(self.setting)) + "\n")
        worker.stdin.flush()
        return worker


def _end(worker: subprocess.Popen[str]) -> None:
    for pipe in (worker.stdin, worker.stdout):
        if pipe is not None:
            pipe.close()
    worker.wait()


@contextmanager
def open_costs(space: PlanSpace, binder: Binder, setting: Mapping[str, Any], workers: int | None) -> Iterator[Costs]:
    """Something that binds plans: `workers` processes, 0 = this one, None = one per core for a large network.

    Args:
        space: the network.
        binder: of the network in this process.
        setting: what `bind_worker` needs to make its own.
        workers: how many.
    """
    if workers is None:
        cores = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1, MOST_WORKERS)
        workers = cores if len(space.operators) >= BIG and cores > 1 else 0
    if workers == 0:
        yield LocalCosts(space, binder)
        return
    pool = WorkerCosts(space, setting, workers)
    try:
        yield pool
    finally:
        pool.close()


def worker_setting(
    sym: Any, type_dict: Mapping[str, Any] | None, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Any]:
    """What a worker process needs to know, as JSON values."""
    types = {name: np.dtype(kind).name for name, kind in (type_dict or {}).items()}
    return {"symbol": sym.tojson(), "types": types, "shapes": {name: list(shape) for name, shape in shapes.items()}}


def answer(graph: SymbolGraph, binder: Binder, request: Mapping[str, Any]) -> dict[str, int]:
    """What a worker replies to one request."""
    sym = planned_symbol(graph, frozenset(request["mirrored"]), frozenset(request["copied"]))
    scale = 1 if sys.platform == "darwin" else 1024
    return {
        "bytes": binder.cost_bytes(sym),
        "rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale,
    }
