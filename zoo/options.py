"""How a model is trained, and how that ended: the same frozen values for every framework."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from zoo.field_checks import check_device_name, check_integer, check_switch


class TrainingError(RuntimeError):
    """Training cannot go on; the message says where, why, and what to do. Files written so far are intact."""


class RefusedOptionError(TrainingError, ValueError):
    """Options, or a launch, that a framework cannot train with; nothing was begun."""


@dataclass(frozen=True)
class TrainingOptions:
    """The published recipe (SGD with Nesterov momentum, lr x0.1 at 50 % and 75 % of the epochs) and where it runs.

    Args:
        n_epochs: passes over the training images.
        batch_size: images per optimiser step, over all GPUs together.
        valid_size: training images held back to choose the best epoch; 0 = none, and the last epoch counts as best.
        lr: learning rate of the first half of the epochs.
        wd: weight decay, on every parameter.
        momentum: Nesterov momentum in [0, 1); 0 = plain SGD.
        seed: every random draw derives from (seed, epoch, step).
        device: "auto" (every visible GPU, else the CPU), "cpu", "cuda" (every visible GPU) or one GPU as "cuda:1".
        amp: mixed precision: bfloat16, or float16 with loss scaling on a GPU without bfloat16.
        fp16: mixed precision in float16 with loss scaling, on every device.
        horovod: several processes are joined by Horovod.
        sync_batchnorm: several processes normalise with the joint batch's statistics, not each with its own images'.
        cuda_graphs: on one GPU, capture the step's forward and backward pass once and replay it: fewer launches, the
            same numbers.
        num_workers: processes that prepare batches; 0 = none. The numbers are the same.
        save: folder of the run (checkpoints, metrics.csv, config.json); None = nothing is written.
        resume: go on with the run in `save`.
        progress: write one line per epoch (and, on a terminal, a progress bar).
        tensorboard: write TensorBoard event files into `save` as well.
        description: what else makes this run this run (model, data, flags): goes into config.json,
            and a resumed run must have the same.

    Raises:
        TypeError, ValueError: naming the field, what came and what is needed.

    Example:
        >>> [TrainingOptions(n_epochs=4).learning_rate(epoch) for epoch in (1, 2, 3, 4)]
        [0.1, 0.1, 0.01, 0.001]
    """

    n_epochs: int = 300
    batch_size: int = 64
    valid_size: int = 5000
    lr: float = 0.1
    wd: float = 1e-4
    momentum: float = 0.9
    seed: int = 0
    device: str = "auto"
    amp: bool = False
    fp16: bool = False
    horovod: bool = False
    sync_batchnorm: bool = False
    cuda_graphs: bool = False
    num_workers: int = 0
    save: str | None = None
    resume: bool = False
    progress: bool = True
    tensorboard: bool = False
    description: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, minimum in (("n_epochs", 1), ("batch_size", 1), ("valid_size", 0), ("seed", 0), ("num_workers", 0)):
            check_integer(name, getattr(self, name), minimum)
        if self.seed >= 2**63:
            raise ValueError(f"seed must be below 2**63, not {self.seed}")
        for name in ("lr", "wd", "momentum"):
            _check_number(name, getattr(self, name))
        if self.lr == 0:
            raise ValueError("lr must be above 0, not 0")
        if self.momentum >= 1:
            raise ValueError(f"momentum must be in [0, 1), not {self.momentum}")
        for name in ("amp", "fp16", "horovod", "sync_batchnorm", "cuda_graphs", "resume", "progress", "tensorboard"):
            check_switch(name, getattr(self, name))
        check_device_name(self.device, auto=True)
        if self.amp and self.fp16:
            raise ValueError("amp=True and fp16=True contradict one another: amp chooses the type, fp16 is float16")
        if self.cuda_graphs and self.device == "cpu":
            raise ValueError("cuda_graphs=True needs a GPU, and device is cpu: give device=cuda, or leave one out")
        if self.save is not None and not isinstance(self.save, str | os.PathLike):
            raise TypeError(f"save must be the path of a folder, or None, not {self.save!r}")
        if self.save is not None and not str(self.save).strip():
            raise ValueError("save is empty: give a folder such as runs/first, or leave it out")
        for name in ("resume", "tensorboard"):
            if getattr(self, name) and self.save is None:
                raise ValueError(f"{name}=True needs save=<folder of the run>")

    @property
    def mixed_precision(self) -> bool:
        """Whether it computes in 16 bits."""
        return self.amp or self.fp16

    def learning_rate(self, epoch: int) -> float:
        """Learning rate of an epoch, counted from 1: `lr`, a tenth after half the epochs, a hundredth after 75 %."""
        done = (epoch - 1) / self.n_epochs
        return self.lr / (1 if done < 0.5 else 10 if done < 0.75 else 100)

    def settings(self) -> dict[str, object]:
        """What config.json records: every field, with `description` spread out among them."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "description"}
        return {**self.description, **fields}


@dataclass(frozen=True)
class TrainingResult:
    """How a training run ended.

    Args:
        epochs: epochs trained, earlier parts of a resumed run included.
        best_epoch: the epoch (from 1) whose weights were tested: best by validation accuracy, or the last.
        best_valid_accuracy: its share of right answers on the validation images, 0..1; None without any.
        test_loss, test_accuracy: mean cross entropy (nats) and share of right answers on the test images.
        device: where it ran (the first of several GPUs).
        folder: where the run was saved, if it was.
        metrics: one row per epoch, as in metrics.csv.
    """

    epochs: int
    best_epoch: int
    best_valid_accuracy: float | None
    test_loss: float
    test_accuracy: float
    device: str = "cpu"
    folder: Path | None = None
    metrics: tuple[Mapping[str, float | int | None], ...] = ()

    @property
    def summary(self) -> dict[str, object]:
        """What result.json holds: all but what stands in the folder anyway."""
        return {name: value for name, value in vars(self).items() if name not in ("folder", "metrics")}


def _check_number(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, not {value!r}")
    if value < 0 or not value < math.inf:
        raise ValueError(f"{name} must be a finite number, not negative, not {value}")
