"""The training loop in TensorFlow: SGD with the published schedule, checkpoints, resuming; one process."""

from __future__ import annotations

import importlib.util
import json
import time
from typing import Any, cast

import numpy as np

from tf_models.allocations import record
from tf_models.board import board_in
from tf_models.devices import check_device, device_name, is_out_of_memory, tensorflow_device
from tf_models.step import StepRunner, in_mixed_precision
from tf_models.tensorflow_names import tf
from tf_models.weights import SUFFIX, WEIGHTS, canonical_weights, load_arrays, save_arrays, set_canonical_weights
from tf_models.zoo_model import ZooModel
from zoo.batches import EvaluationBatches, TrainingBatches, step_seed
from zoo.data.text_data import Data
from zoo.options import TrainingError, TrainingOptions, TrainingResult
from zoo.progress import Progress
from zoo.run_folder import Row, RunFolder, best_epoch, bits_per_character
from zoo.saved_run import describe_network

MOMENTUM, ROWS = "momentum/", "rows"


def train(model: ZooModel, data: Data, options: TrainingOptions) -> TrainingResult:
    """Train `model` and leave in it the weights of the best epoch.

    On the CPU a resumed run gives the same numbers as one that was never interrupted: the seeds of dropout are set
    anew from (seed, epoch, step) before every step.

    Args:
        model: one of this package's, for images of the data's channels and with its number of classes.
        data: images, or a text.
        options: the recipe, and the folder to save to. `amp` computes in bfloat16; `num_workers` changes nothing:
            batches are prepared in this process.

    Raises:
        TypeError: not one of this package's models.
        ValueError: a device that is not there, a split or folder that does not fit.
        TrainingError: the loss is not finite, memory ran out, or a checkpoint cannot be read.
    """
    if not isinstance(model, ZooModel):
        raise TypeError(f"train: a model of tf_models is needed, not {type(model).__name__}")
    check_device(options.device, options.amp)
    data.split(options.valid_size, options.seed)
    if options.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise ValueError("tensorboard=True needs tensorboard: pip install tensorboard")
    network = describe_network(model.spec)
    folder = RunFolder.open(options.settings(), SUFFIX, network) if options.save is not None else None
    try:
        with tf.device(tensorflow_device(options.device)):
            return Trainer(model, data, options, folder).run()
    except (tf.errors.ResourceExhaustedError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(
            f"out of memory with batch_size={options.batch_size}: try --efficient True, or a smaller --batch_size"
        ) from error


class Trainer:
    """One training run."""

    def __init__(self, model: ZooModel, data: Data, options: TrainingOptions, folder: RunFolder | None) -> None:
        self.given, self.data, self.options, self.folder = model, data, options, folder
        self.model = in_mixed_precision(model) if options.amp else model
        self.runner = StepRunner(self.model, options.momentum, options.wd)
        self.answers_each = data.train_labels[0].size  # 1, or the time steps of a window of a text
        self.train_indices, self.valid_indices = data.split(options.valid_size, options.seed)
        self.rows: list[Row] = []
        self.best_weights: dict[str, np.ndarray] = {}
        self.progress = Progress(options.progress)

    def run(self) -> TrainingResult:
        """All epochs that are left, then the test with the best epoch's weights."""
        if self.options.resume and self.folder is not None and self.folder.last.exists():
            self._restore(self.folder)
        wanted = self.folder.folder if self.options.tensorboard and self.folder is not None else None
        with board_in(wanted) as write:
            for epoch in range(len(self.rows) + 1, self.options.n_epochs + 1):
                self.rows.append(self._epoch(epoch))
                self._keep(epoch)
                self.progress.epoch(self.rows[-1], self.options.n_epochs)
                write(self.rows[-1])
        return self._finish()

    def _epoch(self, epoch: int) -> Row:
        start = time.perf_counter()
        steps, images, loss, accuracy, peak_bytes = self._train_epoch(epoch)
        seconds = time.perf_counter() - start
        valid: tuple[float | None, float | None] = (None, None)
        if len(self.valid_indices):
            indices = self.valid_indices
            valid = self._evaluate(self.data.train_inputs[indices], self.data.train_labels[indices])
        row: Row = {
            "epoch": epoch,
            "lr": self.options.learning_rate(epoch),
            "train_loss": loss,
            "train_accuracy": accuracy,
            "valid_loss": valid[0],
            "valid_accuracy": valid[1],
            "peak_bytes": peak_bytes,
            "step_seconds": round(seconds / steps, 6),
            "images_per_second": round(images / seconds, 2),
        }
        return {**row, **bits_per_character(row)} if self.answers_each > 1 else row

    def _train_epoch(self, epoch: int) -> tuple[int, int, float, float, int]:
        options = self.options
        batches = TrainingBatches(self.data, self.train_indices, options.batch_size, options.seed, epoch)
        steps: Any = (batches[step] for step in range(len(batches)))
        loss_sum, right_sum, images = 0.0, 0, 0
        peak_bytes = int(self.rows[-1]["peak_bytes"] or 0) if self.rows else 0
        for step, (inputs, labels, size) in enumerate(self.progress.bar(steps, len(batches), f"epoch {epoch}")):
            self.runner.seed(step_seed(options.seed, epoch, step))
            arguments = (inputs, labels, options.learning_rate(epoch))
            if not peak_bytes:
                peak_bytes, loss, right = self._measured_step(*arguments)
            else:
                loss, right = self.runner.train(*arguments)
            if not np.isfinite(loss):
                self._refuse(loss / labels.size, epoch, step)
            loss_sum += loss
            right_sum += right
            images += size
        answers = images * self.answers_each
        return len(batches), images, loss_sum / answers, right_sum / answers, peak_bytes

    def _measured_step(self, *arguments: Any) -> tuple[int, float, int]:
        """The first step, and its peak with parameters and momentum, in bytes."""
        results: list[tuple[float, int]] = []
        found = record(lambda: results.append(self.runner.train(*arguments)))
        return found.peak_bytes + self.runner.state_bytes(), *results[0]

    def _evaluate(self, inputs: Any, labels: Any) -> tuple[float, float]:
        """Mean loss and share of right answers."""
        loss, right = 0.0, 0
        batches = EvaluationBatches(inputs, labels, self.data, self.options.batch_size)
        for position in range(len(batches)):
            values, answers, _ = batches[position]
            one, other = self.runner.evaluate(values, answers)
            loss, right = loss + one, right + other
        return loss / labels.size, right / labels.size

    def _refuse(self, loss: float, epoch: int, step: int) -> None:
        kept = "no checkpoint was written before it"
        if self.folder is not None and self.rows:
            kept = f"the checkpoint of epoch {epoch - 1} in {self.folder.folder} is intact"
        advice = f"Try a smaller --lr (now {self.options.lr:g})" + (" or --amp False" if self.options.amp else "")
        raise TrainingError(f"epoch {epoch}, step {step + 1}: the training loss is {loss}; {kept}. {advice}")

    def _restore(self, folder: RunFolder) -> None:
        state = load_arrays(folder.last)
        if ROWS not in state:
            raise TrainingError(
                f"{folder.last} cannot be read as a checkpoint: it has no rows; restore that file, or start a new run "
                "in another --save folder"
            )
        weights = {name.removeprefix(WEIGHTS): array for name, array in state.items() if name.startswith(WEIGHTS)}
        try:
            set_canonical_weights(self.model, weights)
        except ValueError as error:
            raise TrainingError(f"{folder.last} is of another model: {error}") from error
        self.runner.set_momentum(
            {name.removeprefix(MOMENTUM): array for name, array in state.items() if name.startswith(MOMENTUM)}
        )
        self.rows = json.loads(str(state[ROWS]))
        folder.write_metrics(self.rows)
        self.progress.line(f"resumed after epoch {len(self.rows)} of {self.options.n_epochs}")

    def _keep(self, epoch: int) -> None:
        """Write what a finished epoch leaves. Killed between two files, the resumed run writes the same again."""
        weights = canonical_weights(self.model)
        is_best = best_epoch(self.rows) == epoch
        if self.folder is None:
            self.best_weights = weights if is_best else self.best_weights
            return
        if is_best:
            save_arrays(self.folder.best, weights)
        state: dict[str, Any] = {WEIGHTS + name: array for name, array in weights.items()}
        state |= {MOMENTUM + name: array for name, array in self.runner.momentum_arrays().items()}
        save_arrays(self.folder.last, {**state, ROWS: np.array(json.dumps(self.rows))})
        self.folder.write_metrics(self.rows)

    def _finish(self) -> TrainingResult:
        best = best_epoch(self.rows)
        weights = self.best_weights if self.folder is None else load_arrays(self.folder.best)
        set_canonical_weights(self.model, weights)
        loss, accuracy = self._evaluate(self.data.test_inputs, self.data.test_labels)
        if self.given is not self.model:
            set_canonical_weights(self.given, weights)
        result = TrainingResult(
            epochs=len(self.rows),
            best_epoch=best,
            best_valid_accuracy=cast("float | None", self.rows[best - 1]["valid_accuracy"]),
            test_loss=loss,
            test_accuracy=accuracy,
            device=device_name(tensorflow_device(self.options.device)),
            folder=self.folder.folder if self.folder is not None else None,
            metrics=tuple(self.rows),
        )
        if self.folder is not None:
            self.folder.write_result(result.summary)
        return result
