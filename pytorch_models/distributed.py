"""Training in several processes, one per device: started from one plain command, or by torchrun."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist
from torch import multiprocessing, nn

from pytorch_models import checkpoint
from pytorch_models.devices import Worker, device_of
from pytorch_models.out_of_memory import explain_out_of_memory
from pytorch_models.training import Trainer
from zoo.data.text_data import Data
from zoo.launch import Launch
from zoo.options import TrainingError, TrainingOptions, TrainingResult
from zoo.run_folder import RunFolder, RunFolderError
from zoo.saved_run import describe_network


@dataclass(frozen=True)
class _Job:
    """What every process gets."""

    model: nn.Module
    data: Data
    options: TrainingOptions
    devices: tuple[torch.device, ...]
    folder: RunFolder | None
    exchange: Path


def train_distributed(
    model: nn.Module,
    data: Data,
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


def train_launched(model: nn.Module, data: Data, options: TrainingOptions, launch: Launch) -> TrainingResult:
    """This process's part of `pytorch_models.train`, where torchrun has started several.

    The first process makes the run's folder and writes its files; on several machines all must see that folder. When
    the launcher starts all processes again because one had failed, a saved run goes on from its last checkpoint.

    Raises:
        ValueError: more processes than GPUs, or than images in a batch.
        RunFolderError: a folder that cannot take the run.
        TrainingError: as `pytorch_models.train`.
    """
    device = device_of(options.device, launch)
    if options.batch_size < launch.world:
        raise ValueError(f"batch_size={options.batch_size} is less than one image for each of {launch.world} processes")
    if launch.goes_on(options.save):
        options = dataclasses.replace(options, resume=True)
    with _process_group(device):
        folder = _open_together(options, describe_network(getattr(model, "spec", None)), launch)
        with explain_out_of_memory(model, data, options, device):
            return Trainer(model, data, options, Worker(device, launch.rank, launch.world), folder).run()


@contextlib.contextmanager
def _process_group(device: torch.device) -> Iterator[None]:
    """The group that the launcher's variables describe, unless the caller has made one."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if dist.is_initialized():
        yield
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(minutes=10))
    try:
        yield
    finally:
        dist.destroy_process_group()


def _open_together(options: TrainingOptions, network: dict[str, Any] | None, launch: Launch) -> RunFolder | None:
    """The run's folder, made by the first process; its error is everyone's."""
    if options.save is None:
        return None
    outcome: list[Any] = [None, None]
    if launch.is_first:
        try:
            outcome[0] = RunFolder.open(options.settings(), network=network)
        except RunFolderError as error:
            outcome[1] = str(error)
    dist.broadcast_object_list(outcome, 0)
    if outcome[1] is not None:
        raise RunFolderError(outcome[1])
    return outcome[0]


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
