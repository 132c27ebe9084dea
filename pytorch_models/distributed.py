"""Training in several processes, one per device: started from one plain command, or by torchrun."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import gc
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
    the launcher starts all processes again because one had failed, a saved run goes on from its last checkpoint (on
    several machines, start it again with `resume=True`).

    Raises:
        ValueError: more processes than GPUs, or than images in a batch.
        RunFolderError: a folder that cannot take the run.
        TrainingError: as `pytorch_models.train`.
    """
    device = device_of(options.device, launch)
    if options.batch_size < launch.world:
        raise ValueError(f"batch_size={options.batch_size} is less than one image for each of {launch.world} processes")
    with _process_group(device, launch):
        folder, resume = _open_together(options, describe_network(getattr(model, "spec", None)), launch)
        options = dataclasses.replace(options, resume=resume)
        with explain_out_of_memory(model, data, options, device), _explain_sync_batchnorm():
            return Trainer(model, data, options, Worker(device, launch.rank, launch.world), folder).run()


@contextlib.contextmanager
def _explain_sync_batchnorm() -> Iterator[None]:
    """Inside, torch's refusal of a norm over several processes' batch on a CPU says what can be done."""
    try:
        yield
    except ValueError as error:
        if "SyncBatchNorm expected input tensor to be on" not in str(error):
            raise
        raise TrainingError(
            "sync_batchnorm on a CPU: torch's norm over several processes needs GPUs; leave it out, or train a model "
            "whose norms keep their inputs alone (efficient=True), which take joint statistics on any device"
        ) from None


@contextlib.contextmanager
def _process_group(device: torch.device, launch: Launch) -> Iterator[None]:
    """The group that the launcher's variables describe, unless the caller has made one."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if dist.is_initialized():
        yield
        return
    timeout = timedelta(minutes=10)
    store, rank, world = next(dist.rendezvous("env://", launch.rank, launch.world, timeout=timeout))
    if launch.machines == 1:
        # The launcher keeps its store from round to round, and with it the addresses of processes that are dead.
        store = dist.PrefixStore(f"round-{launch.restarts}", store)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=timeout)
    yield
    leave_group()


def leave_group() -> None:
    """Destroy the group after work that succeeded; a process that failed ends without.

    torch's DistributedDataParallel lets go of its group while it holds the interpreter's lock, and gloo's destructor
    joins threads that may be waiting for that lock: the wrapper must not be the last that holds the group. One that an
    exception's traceback still holds would be.
    """
    gc.collect()
    dist.destroy_process_group()


def _open_together(
    options: TrainingOptions, network: dict[str, Any] | None, launch: Launch
) -> tuple[RunFolder | None, bool]:
    """The run's folder, made by the first process, and whether a run there goes on; its error is everyone's."""
    if options.save is None:
        return None, options.resume
    resume = options.resume or launch.goes_on(options.save)
    outcome: list[Any] = [None, resume, None]
    if launch.is_first:
        try:
            settings = dataclasses.replace(options, resume=resume).settings()
            outcome[0] = RunFolder.open(settings, network=network)
        except RunFolderError as error:
            outcome[2] = str(error)
    dist.broadcast_object_list(outcome, 0)
    folder, resume, refusal = outcome
    if refusal is not None:
        raise RunFolderError(refusal)
    return folder, resume


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
        with explain_out_of_memory(model, job.data, job.options, device), _explain_sync_batchnorm():
            result = Trainer(model, job.data, job.options, worker, job.folder).run()
        if rank == 0:
            outcome = {**asdict(result), "folder": None, "metrics": list(result.metrics)}
            checkpoint.save(job.exchange / "outcome.pt", {"model": model.state_dict(), "result": outcome})
    except TrainingError as error:
        (job.exchange / f"error-{rank}").write_text(str(error), encoding="utf-8")
        sys.exit(1)  # the others may be waiting for this process: the parent ends them
    leave_group()
