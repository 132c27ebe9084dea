"""Training in several processes, one per device, started from one plain command."""

from __future__ import annotations

import copy
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed as dist
from torch import multiprocessing, nn

from pytorch_models import checkpoint
from pytorch_models.devices import Worker
from pytorch_models.out_of_memory import explain_out_of_memory
from pytorch_models.training import Trainer
from zoo.data.image_data import ImageData
from zoo.options import TrainingError, TrainingOptions, TrainingResult
from zoo.run_folder import RunFolder


@dataclass(frozen=True)
class _Job:
    """What every process gets."""

    model: nn.Module
    data: ImageData
    options: TrainingOptions
    devices: tuple[torch.device, ...]
    folder: RunFolder | None
    exchange: Path


def train_distributed(
    model: nn.Module,
    data: ImageData,
    options: TrainingOptions,
    devices: Sequence[torch.device],
    folder: RunFolder | None = None,
) -> TrainingResult:
    """`pytorch_models.train` with one process per device (NCCL on GPUs, gloo on CPUs).

    Each step's batch is shared out; gradients are averaged; BatchNorm normalises with each process's own images,
    as usual, and the first process's running statistics are the model's. Loss and accuracy count every image once.

    Raises:
        TrainingError: a process failed; the message is that process's.
    """
    with tempfile.TemporaryDirectory(prefix="zoo-train-") as exchange:
        job = _Job(model.cpu(), data, options, tuple(devices), folder, Path(exchange))
        context = multiprocessing.spawn(_work, (job,), nprocs=len(devices), join=False)
        assert context is not None
        try:
            while not context.join():
                pass
        except (multiprocessing.ProcessRaisedException, multiprocessing.ProcessExitedException) as error:
            messages = sorted(job.exchange.glob("error-*"))
            if messages:
                raise TrainingError(messages[0].read_text(encoding="utf-8")) from None
            raise TrainingError(f"one of {len(devices)} training processes failed: {error}") from error
        finally:
            for process in context.processes:
                process.terminate()
        outcome = checkpoint.load(job.exchange / "outcome.pt")
    model.load_state_dict(outcome["model"])
    result = {**outcome["result"], "folder": folder.folder if folder is not None else None}
    return TrainingResult(**{**result, "metrics": tuple(result["metrics"])})


def _work(rank: int, job: _Job) -> None:
    device = job.devices[rank]
    backend = "gloo"
    if device.type == "cuda":
        backend = "nccl"
        torch.cuda.set_device(device)
    else:  # the processes share the cores
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // len(job.devices)))
    dist.init_process_group(
        backend,
        init_method=(job.exchange / "rendezvous").as_uri(),
        rank=rank,
        world_size=len(job.devices),
        timeout=timedelta(minutes=10),
    )
    try:
        # A CPU model arrives in memory shared by all processes: each needs its own.
        model = copy.deepcopy(job.model)
        worker = Worker(device, rank, len(job.devices))
        with explain_out_of_memory(model, job.data, job.options, device):
            result = Trainer(model, job.data, job.options, worker, job.folder).run()
        if rank == 0:
            outcome = {**asdict(result), "folder": None, "metrics": list(result.metrics)}
            checkpoint.save(job.exchange / "outcome.pt", {"model": model.state_dict(), "result": outcome})
    except TrainingError as error:
        (job.exchange / f"error-{rank}").write_text(str(error), encoding="utf-8")
        sys.exit(1)  # the others may be waiting for this process: the parent ends them
    dist.destroy_process_group()
