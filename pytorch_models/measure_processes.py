"""What one of several processes holds that train a model together on shares of a batch: measured on a real step."""

from __future__ import annotations

import copy
import dataclasses
import os
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from pytorch_models.distributed import leave_group
from pytorch_models.measure import measure_step
from zoo.report import MemoryReport


@dataclass(frozen=True)
class _Share:
    """What every process gets."""

    model: nn.Module
    shape: tuple[int, ...]
    processes: int
    device: str
    repeats: int
    exchange: Path


def measure_in_processes(
    model: nn.Module,
    input_shape: Sequence[int],
    processes: int,
    *,
    device: str = "cpu",
    repeats: int = 3,
) -> MemoryReport:
    """`measure_step` of the first of several processes (DistributedDataParallel), each with its share of a batch.

    Gradients are averaged while they are made (NCCL on GPUs, one a process; gloo on a CPU, whose cores they share);
    DistributedDataParallel's own buffers, which it holds all the time, are not in a step's bytes.

    Args:
        model: as `measure_step`'s; stays as it is.
        input_shape: of the joint batch; its first size is a multiple of `processes`.
        processes: 2 or more.
        device: "cpu" or "cuda".
        repeats: as `measure_step`'s.

    Returns:
        The first process's report, without rows.

    Raises:
        ValueError: a batch that cannot be shared out equally, or a number of processes below 2.
        RuntimeError: a process failed; with its words.
    """
    shape = tuple(input_shape)
    if processes < 2 or shape[0] % processes:
        raise ValueError(
            f"measure_in_processes: a batch of {shape[0]} is not shared out equally over {processes} processes: "
            "give 2 processes or more, and a multiple of them as the batch"
        )
    with tempfile.TemporaryDirectory(prefix="zoo-measure-") as exchange:
        share = (shape[0] // processes, *shape[1:])
        # A model in shared memory would be one for all processes.
        job = _Share(copy.deepcopy(model).cpu(), share, processes, device, repeats, Path(exchange))
        reports = multiprocessing.get_context("spawn").SimpleQueue()
        multiprocessing.spawn(_measure_share, (job, reports), nprocs=processes)
        found: MemoryReport = reports.get()
    return found


def _measure_share(rank: int, job: _Share, reports: Any) -> None:
    on_gpu = job.device.startswith("cuda")
    device = f"cuda:{rank}" if on_gpu else "cpu"
    if on_gpu:
        torch.cuda.set_device(rank)
    else:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // job.processes))
    distributed.init_process_group(
        "nccl" if on_gpu else "gloo",
        init_method=(job.exchange / "rendezvous").as_uri(),
        rank=rank,
        world_size=job.processes,
    )
    # A 1x1 convolution's gradient has one layout and two ways to write its strides: torch warns of it as of two.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    model = copy.deepcopy(job.model).to(device)
    report = measure_step(
        DistributedDataParallel(model), job.shape, device=device, repeats=job.repeats, policy=str(job.model.policy)
    )
    if rank == 0:
        reports.put(dataclasses.replace(report, rows=()))  # a pipe holds so much before anybody reads it
    distributed.barrier()
    leave_group()
