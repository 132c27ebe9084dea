"""What a training run does whatever the framework: epochs and their rows, best and last checkpoints, the test."""

from __future__ import annotations

import abc
import json
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from zoo.data.text_data import Data
from zoo.options import TrainingError, TrainingOptions, TrainingResult
from zoo.progress import Progress
from zoo.run_folder import Row, RunFolder, best_epoch, bits_per_character
from zoo.weight_files import MOMENTUM, WEIGHTS, load_arrays, named, save_arrays

ROWS = "rows"


class EpochTotals(NamedTuple):
    """What training for an epoch came to, over all processes; peak bytes with the model and the optimiser's state."""

    steps: int
    images: int
    loss: float
    accuracy: float
    peak_bytes: int


class TrainingLoop(abc.ABC):
    """One process's part of a training run (the only one, or one of several); a framework adds the steps.

    Args:
        data: images, or a text.
        options: the recipe.
        folder: where it is saved, or None.
        rank: of this process; the first one writes.
    """

    def __init__(self, data: Data, options: TrainingOptions, folder: RunFolder | None, rank: int = 0) -> None:
        self.data, self.options, self.folder, self.rank = data, options, folder, rank
        self.answers_each = data.train_labels[0].size  # 1, or the time steps of a window of a text
        self.train_indices, self.valid_indices = data.split(options.valid_size, options.seed)
        self.rows: list[Row] = []
        self.progress = Progress(options.progress and rank == 0)
        self._best_weights: Any = None

    @property
    @abc.abstractmethod
    def device_name(self) -> str:
        """Where it trains, in words."""

    @abc.abstractmethod
    def train_epoch(self, epoch: int) -> EpochTotals:
        """All steps of one epoch, counted from 1."""

    @abc.abstractmethod
    def evaluate(self, inputs: Any, labels: Any) -> tuple[float, float]:
        """Mean loss and share of right answers, over all processes."""

    @abc.abstractmethod
    def copy_weights(self) -> Any:
        """The model's weights, in arrays of their own."""

    @abc.abstractmethod
    def set_weights(self, weights: Any) -> None:
        """Put weights, of `copy_weights` or `load_best`, into the model."""

    @abc.abstractmethod
    def write(self, folder: RunFolder, is_best: bool) -> None:
        """Write the last checkpoint, with the rows, and the best one if the epoch is that; in one process only."""

    @abc.abstractmethod
    def restore(self, folder: RunFolder) -> None:
        """Go on from the last checkpoint: model, optimiser, `rows`.

        Raises:
            TrainingError: it cannot be read, or is of another model.
        """

    @abc.abstractmethod
    def load_best(self, folder: RunFolder) -> Any:
        """The best epoch's weights."""

    def board_in(self, folder: Path | None) -> AbstractContextManager[Callable[[Row], None]]:
        """Inside, rows can be written as TensorBoard files; None = they go nowhere."""
        return nullcontext(lambda row: None)

    def run(self) -> TrainingResult:
        """All epochs that are left, then the test with the best epoch's weights."""
        folder, options = self.folder, self.options
        if options.resume and folder is not None and folder.last.exists():
            self.restore(folder)
            if self.rank == 0:
                folder.write_metrics(self.rows)
            self.progress.line(f"resumed after epoch {len(self.rows)} of {options.n_epochs}")
        wanted = options.tensorboard and folder is not None and self.rank == 0
        with self.board_in(folder.folder if wanted and folder is not None else None) as write:
            for epoch in range(len(self.rows) + 1, options.n_epochs + 1):
                self.rows.append(self._epoch(epoch))
                self._keep(epoch)
                self.progress.epoch(self.rows[-1], options.n_epochs)
                write(self.rows[-1])
        return self._finish()

    def _epoch(self, epoch: int) -> Row:
        start = time.perf_counter()
        totals = self.train_epoch(epoch)
        seconds = time.perf_counter() - start
        valid: tuple[float | None, float | None] = (None, None)
        if len(self.valid_indices):
            indices = self.valid_indices
            valid = self.evaluate(self.data.train_inputs[indices], self.data.train_labels[indices])
        row: Row = {
            "epoch": epoch,
            "lr": self.options.learning_rate(epoch),
            "train_loss": totals.loss,
            "train_accuracy": totals.accuracy,
            "valid_loss": valid[0],
            "valid_accuracy": valid[1],
            "peak_bytes": totals.peak_bytes,
            "step_seconds": round(seconds / totals.steps, 6),
            "images_per_second": round(totals.images / seconds, 2),
        }
        return {**row, **bits_per_character(row)} if self.answers_each > 1 else row

    def _keep(self, epoch: int) -> None:
        """Write what a finished epoch leaves. Killed between two files, the resumed run writes the same again."""
        is_best = best_epoch(self.rows) == epoch
        if self.folder is not None:
            self.write(self.folder, is_best)
            if self.rank == 0:
                self.folder.write_metrics(self.rows)
        elif is_best:
            self._best_weights = self.copy_weights()

    def _finish(self) -> TrainingResult:
        best = best_epoch(self.rows)
        self.set_weights(self._best_weights if self.folder is None else self.load_best(self.folder))
        loss, accuracy = self.evaluate(self.data.test_inputs, self.data.test_labels)
        result = TrainingResult(
            epochs=len(self.rows),
            best_epoch=best,
            best_valid_accuracy=cast("float | None", self.rows[best - 1]["valid_accuracy"]),
            test_loss=loss,
            test_accuracy=accuracy,
            device=self.device_name,
            folder=self.folder.folder if self.folder is not None else None,
            metrics=tuple(self.rows),
        )
        if self.folder is not None and self.rank == 0:
            self.folder.write_result(result.summary)
        return result

    def refuse_loss(self, value: object, epoch: int, step: int, what: str = "the training loss") -> None:
        """Refuse to go on after a loss, or what else is said, that is no number; steps are counted from 0.

        Raises:
            TrainingError: names the step, what came, and what is left.
        """
        kept = "no checkpoint was written before it"
        if self.folder is not None and self.rows:
            kept = f"the checkpoint of epoch {epoch - 1} in {self.folder.folder} is intact"
        narrow = next((f" or --{name} False" for name in ("amp", "fp16") if getattr(self.options, name)), "")
        advice = f"Try a smaller --lr (now {self.options.lr:g}){narrow}"
        raise TrainingError(f"epoch {epoch}, step {step + 1}: {what} is {value}; {kept}. {advice}")


class ArrayTrainingLoop(TrainingLoop):
    """A training run whose weights and momentum are NumPy arrays by canonical name, in `.npz` files."""

    @abc.abstractmethod
    def copy_weights(self) -> dict[str, np.ndarray]:
        """The model's weights by canonical name."""

    @abc.abstractmethod
    def momentum_arrays(self) -> dict[str, np.ndarray]:
        """The optimiser's momentum by the name of the parameter, and whatever else its next step depends on."""

    @abc.abstractmethod
    def set_momentum(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Put momentum back."""

    def write(self, folder: RunFolder, is_best: bool) -> None:
        """Write the last checkpoint, and the best one if the epoch is that; in the first process."""
        if self.rank:
            return
        weights = self.copy_weights()
        if is_best:
            save_arrays(folder.best, weights)
        state: dict[str, Any] = {WEIGHTS + name: array for name, array in weights.items()}
        state |= {MOMENTUM + name: array for name, array in self.momentum_arrays().items()}
        save_arrays(folder.last, {**state, ROWS: np.array(json.dumps(self.rows))})

    def restore(self, folder: RunFolder) -> None:
        """Go on from the last checkpoint.

        Raises:
            TrainingError: it cannot be read, or is of another model.
        """
        state = load_arrays(folder.last)
        if ROWS not in state:
            raise TrainingError(
                f"{folder.last} cannot be read as a checkpoint: it has no rows; restore that file, or start a new run "
                "in another --save folder"
            )
        try:
            self.set_weights(named(WEIGHTS, state))
        except ValueError as error:
            raise TrainingError(f"{folder.last} is of another model: {error}") from error
        self.set_momentum(named(MOMENTUM, state))
        self.rows = json.loads(str(state[ROWS]))

    def load_best(self, folder: RunFolder) -> dict[str, np.ndarray]:
        """The best epoch's weights."""
        return load_arrays(folder.best)
