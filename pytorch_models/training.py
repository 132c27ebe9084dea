"""The training loop in PyTorch: SGD with the published schedule, checkpoints, resuming, one process per GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset

from pytorch_models import checkpoint
from pytorch_models.board import tensorboard_in
from pytorch_models.devices import Worker, amp_dtype, devices_for
from pytorch_models.graphed_step import GraphedStep, check_capturable
from pytorch_models.training_checks import check_training
from zoo.batches import EvaluationBatches, TrainingBatches, step_seed
from zoo.data.text_data import Data
from zoo.launch import Launch
from zoo.options import TrainingOptions, TrainingResult
from zoo.run_folder import Row, RunFolder
from zoo.saved_run import describe_network
from zoo.training_loop import EpochTotals, TrainingLoop

CHECK_EVERY = 20  # steps between looks at the loss on a GPU: each look waits for the GPU to catch up


def train(model: nn.Module, data: Data, options: TrainingOptions) -> TrainingResult:
    """Train `model` and leave in it the weights of the best epoch; several GPUs get one process each.

    Started by torchrun, this is one of the processes; see `pytorch_models.distributed.train_launched`.

    On the CPU a resumed run gives the same numbers, to the bit, as one that was never interrupted.

    Args:
        model: takes float32 (n, C, H, W), gives logits (n, classes); for a text it takes tokens and targets (n, T) and
            gives the summed loss and the number of right answers.
        data: images with the model's channels and number of classes, or a text.
        options: the recipe, and the folder to save to.

    Raises:
        ValueError: a device that is not there, a split or folder that does not fit.
        TrainingError: the loss is not finite, memory ran out, or a checkpoint cannot be read.
    """
    from pytorch_models.distributed import train_distributed, train_launched
    from pytorch_models.out_of_memory import explain_out_of_memory

    check_training(model, data, options)
    launch = Launch.from_environment()
    if launch.launched:
        if options.cuda_graphs:
            raise ValueError("cuda_graphs=True needs one process: start demo.py without a launcher, or leave it out")
        return train_launched(model, data, options, launch)
    devices = devices_for(options.device)
    if options.cuda_graphs:
        check_capturable(model, devices)
    if options.batch_size < len(devices):
        raise ValueError(f"batch_size={options.batch_size} is less than one image for each of {len(devices)} GPUs")
    network = describe_network(getattr(model, "spec", None))
    folder = RunFolder.open(options.settings(), network=network) if options.save is not None else None
    if len(devices) > 1:
        return train_distributed(model, data, options, devices, folder)
    with explain_out_of_memory(model, data, options, devices[0]):
        return Trainer(model, data, options, Worker(devices[0]), folder).run()


class Trainer(TrainingLoop):
    """One process's part of a training run (the only one, or one of several)."""

    def __init__(
        self,
        model: nn.Module,
        data: Data,
        options: TrainingOptions,
        worker: Worker,
        folder: RunFolder | None,
    ) -> None:
        super().__init__(data, options, folder, worker.rank)
        self.worker = worker
        self.model = model.to(worker.device)
        self.replica: nn.Module = self.model
        if worker.world > 1:
            ids = [worker.device] if worker.device.type == "cuda" else None
            self.replica = DistributedDataParallel(self.model, device_ids=ids)
            if options.sync_batchnorm:  # the same parameters and buffers; before, DDP would refuse it on a CPU
                nn.SyncBatchNorm.convert_sync_batchnorm(self.model)
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.SGD(
            parameters, options.lr, options.momentum, weight_decay=options.wd, nesterov=options.momentum > 0
        )
        self.graphed = GraphedStep(self._gradients, parameters) if options.cuda_graphs else None
        self.amp_dtype = amp_dtype(worker.device)
        scaled = options.amp and self.amp_dtype == torch.float16
        self.scaler = torch.amp.GradScaler(worker.device.type, enabled=scaled)

    @property
    def device_name(self) -> str:
        """Of this process."""
        return str(self.worker.device)

    def board_in(self, folder: Path | None) -> contextlib.AbstractContextManager[Callable[[Row], None]]:
        """TensorBoard files in the folder."""
        return tensorboard_in(folder, len(self.rows))

    def train_epoch(self, epoch: int) -> EpochTotals:
        """All steps of one epoch."""
        if self.worker.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.worker.device)
        options, worker = self.options, self.worker
        for group in self.optimizer.param_groups:
            group["lr"] = options.learning_rate(epoch)
        batches = TrainingBatches(
            self.data, self.train_indices, options.batch_size, options.seed, epoch, worker.rank, worker.world
        )
        losses = torch.zeros(len(batches), device=worker.device)
        correct = torch.zeros((), dtype=torch.int64, device=worker.device)
        look_every = CHECK_EVERY if worker.device.type == "cuda" else 1
        images = 0
        peak_bytes = int(self.rows[-1]["peak_bytes"] or 0) if self.rows else 0
        self.replica.train()
        for step, (pixels, labels, size) in enumerate(self._feed(batches, f"epoch {epoch}")):
            torch.manual_seed(step_seed(options.seed, epoch, step, worker.rank))
            # The second step: its momentum lies there before it starts.
            with self._peak_on_cpu(epoch == 1 and step == min(1, len(batches) - 1)) as peak:
                losses[step], right = self._step(pixels, labels, size)
            peak_bytes = max(peak_bytes, *peak)
            correct += right
            images += size
            if (step + 1) % look_every == 0 or step + 1 == len(batches):
                self._check_finite(losses[: step + 1], epoch)
        loss, right_share = self._mean(
            torch.stack([losses.double().sum(), correct.double()]), images * self.answers_each
        )
        if worker.device.type == "cuda":
            peak_bytes = torch.cuda.max_memory_allocated(worker.device)
        return EpochTotals(len(batches), images, loss, right_share, peak_bytes)

    def _check_finite(self, losses: Tensor, epoch: int) -> None:
        """Refuse to go on after a loss of the steps so far, (steps,), that is no number."""
        finite = torch.isfinite(losses)
        if not bool(finite.all()):
            step = int((~finite).nonzero()[0])
            self.refuse_loss(float(losses[step]), epoch, step)

    def _step(self, inputs: Tensor, labels: Tensor, global_size: int) -> tuple[Tensor, Tensor]:
        """One optimiser step; the sum of this process's losses and the number of its right answers."""
        if self.graphed is not None:
            outputs = self.graphed(inputs, labels)
        else:
            outputs = self._gradients(inputs, labels, global_size)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return outputs

    def _gradients(self, inputs: Tensor, labels: Tensor, global_size: int | None = None) -> tuple[Tensor, Tensor]:
        """The forward and backward pass of a step; `global_size` is the batch of all processes, None if alone."""
        loss_sum, right = self._loss(self.replica, inputs, labels)
        self.optimizer.zero_grad(set_to_none=True)
        # Processes average their gradients, and their shares of a last batch may differ in size.
        share = self.worker.world / ((len(inputs) if global_size is None else global_size) * self.answers_each)
        self.scaler.scale(loss_sum * share).backward()
        return loss_sum.detach(), right

    def _loss(self, model: nn.Module, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The sum of losses and the number of right answers; with an answer a time step, the model makes both."""
        with torch.autocast(self.worker.device.type, self.amp_dtype, enabled=self.options.amp):
            if labels.dim() > 1:
                return model(inputs, labels)
            logits = model(inputs).float()
        return F.cross_entropy(logits, labels, reduction="sum"), (logits.detach().argmax(1) == labels).sum()

    def evaluate(self, inputs: Any, labels: Any) -> tuple[float, float]:
        """Mean loss and share of right answers; every image counts once, whatever the number of processes."""
        if self.worker.world > 1:  # each process has moved its own running statistics: all go on with the first one's
            for buffer in self.model.buffers():
                dist.broadcast(buffer, 0)
        sums = torch.zeros(2, dtype=torch.float64, device=self.worker.device)
        batches = EvaluationBatches(
            inputs, labels, self.data, self.options.batch_size, self.worker.rank, self.worker.world
        )
        self.model.eval()
        with torch.no_grad():
            for pixels, answers, _ in self._feed(batches, "evaluating"):
                loss_sum, right = self._loss(self.model, pixels, answers)
                sums += torch.stack([loss_sum.double(), right.double()])
        return self._mean(sums, labels.size)

    def _feed(self, batches: TrainingBatches | EvaluationBatches, label: str) -> Iterator[tuple[Tensor, Tensor, int]]:
        device = self.worker.device
        loader: DataLoader[Any] = DataLoader(
            cast(Dataset[Any], batches),
            batch_size=None,
            num_workers=self.options.num_workers,
            pin_memory=device.type == "cuda",
        )
        for pixels, labels, size in self.progress.bar(loader, len(batches), label):
            yield pixels.to(device, non_blocking=True), labels.to(device, non_blocking=True), int(size)

    def _mean(self, sums: Tensor, count: int) -> tuple[float, float]:
        if self.worker.world > 1:
            dist.all_reduce(sums)
        first, second = (sums / count).tolist()
        return first, second

    @contextlib.contextmanager
    def _peak_on_cpu(self, wanted: bool) -> Iterator[list[int]]:
        """On a CPU, count one step's memory: a list of 0, then model + optimiser state + step, bytes."""
        peaks = [0]
        if not wanted or self.worker.device.type != "cpu":
            yield peaks
            return
        from pytorch_models.measure import track_peak

        with track_peak() as peak:
            yield peaks
        momentum = [state.get("momentum_buffer") for state in self.optimizer.state.values()]
        kept = (*self.model.parameters(), *self.model.buffers(), *momentum)
        peaks.append(peak.bytes + sum(tensor.nbytes for tensor in kept if tensor is not None))

    def copy_weights(self) -> dict[str, Tensor]:
        """By name."""
        return {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    def set_weights(self, weights: dict[str, Tensor]) -> None:
        """Into the model."""
        self.model.load_state_dict(weights)

    def restore(self, folder: RunFolder) -> None:
        """Go on from the last checkpoint."""
        state = checkpoint.load_last(folder, self.worker.device)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        checkpoint.give_learnt(self.model, state.get("compression", ()), self.worker.rank)
        self.rows = state["rows"]

    def write(self, folder: RunFolder, is_best: bool) -> None:
        """Write the last checkpoint, and the best one if the epoch is that; in the first process."""
        learnt = checkpoint.take_learnt(self.model, self.worker.world)  # by all processes together
        if self.worker.rank:
            return
        weights = self.model.state_dict()
        if is_best:
            checkpoint.save(folder.best, weights)
        state = {"model": weights, "optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}
        checkpoint.save(folder.last, {**state, "compression": learnt, "rows": self.rows})

    def load_best(self, folder: RunFolder) -> dict[str, Tensor]:
        """The best epoch's weights, when they are on disk."""
        if self.worker.world > 1:
            dist.barrier()
        return checkpoint.load(folder.best, self.worker.device)
