"""The training loop in MXNet: SGD with the published schedule, checkpoints, resuming; one process or several."""

from __future__ import annotations

import importlib.util
import json
import time
from pathlib import Path
from typing import Any, cast

import numpy as np

from mxnet_memonger.binding import plan_bytes
from mxnet_memonger.devices import check_device, context_of, device_name, is_out_of_memory, set_seed
from mxnet_memonger.numpy_names import mx
from mxnet_memonger.step import StepRunner
from mxnet_memonger.symbol_model import SymbolModel
from mxnet_memonger.weights import SUFFIX, WEIGHTS, canonical_weights, load_arrays, save_arrays, set_canonical_weights
from mxnet_memonger.workers import Workers
from zoo.batches import EvaluationBatches, TrainingBatches, step_seed
from zoo.data.text_data import Data
from zoo.options import RefusedOptionError, TrainingError, TrainingOptions, TrainingResult
from zoo.progress import Progress
from zoo.report import MIB
from zoo.run_folder import Row, RunFolder, best_epoch, bits_per_character
from zoo.saved_run import describe_network

MOMENTUM, ROWS = "momentum/", "rows"


def train(model: SymbolModel, data: Data, options: TrainingOptions) -> TrainingResult:
    """Train `model` and leave in it the weights of the best epoch.

    Started by `python -m mxnet_memonger.launch`, this is one of several processes: each takes its share of every batch,
    and their gradients are added up.

    On the CPU a resumed run gives the same numbers, to the bit, as one that was never interrupted: MXNet's generator
    cannot be saved, so it is seeded anew from (seed, epoch, step) before every step.

    Args:
        model: one of this package's, for the data's inputs and with its number of classes.
        data: the images, or a text.
        options: the recipe, and the folder to save to. `num_workers` changes nothing: batches are prepared in this
            process; TensorBoard files are not offered.

    Raises:
        TypeError: not one of this package's models.
        ValueError: a device that is not there, mixed precision, a split or folder that does not fit.
        RefusedOptionError: TensorBoard, fewer inputs a batch than processes, or a launcher that is not MXNet's.
        TrainingError: the loss is not finite, memory ran out, or a checkpoint cannot be read.
    """
    if not isinstance(model, SymbolModel):
        raise TypeError(f"train: a model of mxnet_memonger is needed, not {type(model).__name__}")
    check_device(options.device, options.amp)
    data.split(options.valid_size, options.seed)
    if options.tensorboard:
        known = "" if importlib.util.find_spec("tensorboard") else " (and the package is not installed)"
        raise RefusedOptionError(f"tensorboard=True is not offered in MXNet{known}: metrics.csv holds the same numbers")
    workers = Workers.from_environment()
    if options.batch_size < workers.world:
        raise RefusedOptionError(
            f"batch_size={options.batch_size} is less than one input for each of {workers.world} processes"
        )
    network = describe_network(model.spec)
    folder = None
    if options.save is not None and workers.rank == 0:
        folder = RunFolder.open(options.settings(), SUFFIX, network)
    elif options.save is not None:
        folder = RunFolder(Path(options.save).expanduser(), SUFFIX)
    workers.wait()  # the first process has made the folder
    trainer = Trainer(model, data, options, folder, workers)
    try:
        return trainer.run()
    except (mx.MXNetError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        shape = (options.batch_size, *data.train_inputs.shape[1:])
        size = plan_bytes(model.for_training(shape), None, model.shapes(shape)) / MIB
        raise TrainingError(
            f"out of memory with batch_size={options.batch_size}: activations need {size:.0f} MiB in MXNet's plan; "
            "try --efficient True, or a smaller --batch_size"
        ) from error


class Trainer:
    """One training run."""

    def __init__(
        self, model: SymbolModel, data: Data, options: TrainingOptions, folder: RunFolder | None, workers: Workers
    ) -> None:
        self.model, self.data, self.options, self.folder, self.workers = model, data, options, folder, workers
        self.context = context_of(options.device)
        for name, array in model.arrays.items():
            model.arrays[name] = array.as_in_context(self.context)
        workers.share(model.arrays)
        self.runner = StepRunner(model, self.context)
        self.momentum = {name: mx.nd.zeros_like(gradient) for name, gradient in self.runner.gradients.items()}
        self.answers_each = data.train_labels[0].size  # 1, or the time steps of a window of a text
        self.train_indices, self.valid_indices = data.split(options.valid_size, options.seed)
        self.rows: list[Row] = []
        self.best_weights: dict[str, np.ndarray] = {}
        self.progress = Progress(options.progress and workers.rank == 0)
        batch = min(options.batch_size, len(self.train_indices))
        shape = (-(-batch // workers.world), *data.train_inputs.shape[1:])
        # What is allocated for a full batch: the plan, parameters with gradients and momentum, and the batch.
        arrays = 4 * sum(3 * gradient.size for gradient in self.runner.gradients.values())
        pool = plan_bytes(model.for_training(shape), None, model.shapes(shape))
        self.peak_bytes = pool + arrays + 4 * int(np.prod(shape))

    def run(self) -> TrainingResult:
        """All epochs that are left, then the test with the best epoch's weights."""
        if self.options.resume and self.folder is not None and self.folder.last.exists():
            self._restore(self.folder)
        for epoch in range(len(self.rows) + 1, self.options.n_epochs + 1):
            self.rows.append(self._epoch(epoch))
            self._keep(epoch)
            self.progress.epoch(self.rows[-1], self.options.n_epochs)
        return self._finish()

    def _epoch(self, epoch: int) -> Row:
        start = time.perf_counter()
        steps, images, loss, accuracy = self._train_epoch(epoch)
        seconds = time.perf_counter() - start
        # Each process has moved its own running statistics: all go on with the first one's.
        self.workers.share({name: self.model.arrays[name] for name in self.model.state_names})
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
            "peak_bytes": self.peak_bytes,
            "step_seconds": round(seconds / steps, 6),
            "images_per_second": round(images / seconds, 2),
        }
        return {**row, **bits_per_character(row)} if self.answers_each > 1 else row

    def _train_epoch(self, epoch: int) -> tuple[int, int, float, float]:
        options = self.options
        place = (self.workers.rank, self.workers.world)
        batches = TrainingBatches(self.data, self.train_indices, options.batch_size, options.seed, epoch, *place)
        steps: Any = (batches[step] for step in range(len(batches)))
        loss_sum, right, images = 0.0, 0, 0
        for step, (pixels, labels, size) in enumerate(self.progress.bar(steps, len(batches), f"epoch {epoch}")):
            set_seed(step_seed(options.seed, epoch, step, self.workers.rank))
            loss, told = self.model.loss_and_right(self.runner.train(pixels, labels), labels)
            if not np.isfinite(loss):
                self._refuse(loss / labels.size, epoch, step)
            self.workers.add_up(self.runner.gradients)
            self._update(options.learning_rate(epoch), size * self.answers_each)
            loss_sum += loss
            right += told
            images += size
        return len(batches), images, *self._mean(loss_sum, right, images * self.answers_each)

    def _mean(self, loss: float, right: int, answers: int) -> tuple[float, float]:
        """Of all processes' answers."""
        if self.workers.world > 1:
            sums = mx.nd.array([loss, right])
            self.workers.add_up({"loss and right": sums})
            loss, right = sums.asnumpy().tolist()
        return loss / answers, right / answers

    def _update(self, learning_rate: float, answers: int) -> None:
        """Nesterov momentum on the mean of the gradients of a batch's answers."""
        options = self.options
        for name, gradient in self.runner.gradients.items():
            weight, momentum = self.model.arrays[name], self.momentum[name]
            settings = {"lr": learning_rate, "wd": options.wd, "rescale_grad": 1 / answers}
            if options.momentum:
                mx.nd.nag_mom_update(weight, gradient, momentum, momentum=options.momentum, out=weight, **settings)
            else:
                mx.nd.sgd_update(weight, gradient, out=weight, **settings)

    def _evaluate(self, images: Any, labels: Any) -> tuple[float, float]:
        """Mean loss and share of right answers."""
        loss, right = 0.0, 0
        self.runner.forget_predictions()
        place = (self.workers.rank, self.workers.world)
        batches = EvaluationBatches(images, labels, self.data, self.options.batch_size, *place)
        for position in range(len(batches)):
            pixels, answers, _ = batches[position]
            lost, told = self.model.loss_and_right(self.runner.evaluate(pixels, answers), answers)
            loss += lost
            right += told
        return self._mean(loss, right, labels.size)

    def _refuse(self, loss: float, epoch: int, step: int) -> None:
        kept = "no checkpoint was written before it"
        if self.folder is not None and self.rows:
            kept = f"the checkpoint of epoch {epoch - 1} in {self.folder.folder} is intact"
        advice = f"Try a smaller --lr (now {self.options.lr:g})"
        raise TrainingError(f"epoch {epoch}, step {step + 1}: the training loss is {loss}; {kept}. {advice}")

    def _restore(self, folder: RunFolder) -> None:
        state = load_arrays(folder.last)
        if ROWS not in state:
            raise TrainingError(
                f"{folder.last} cannot be read as a checkpoint: it has no rows; restore that file, or start a new run "
                "in another --save folder"
            )
        try:
            weights = {n.removeprefix(WEIGHTS): array for n, array in state.items() if n.startswith(WEIGHTS)}
            set_canonical_weights(self.model, weights)
        except ValueError as error:
            raise TrainingError(f"{folder.last} is of another model: {error}") from error
        for name, momentum in self.momentum.items():
            momentum[:] = state[MOMENTUM + name]
        self.rows = json.loads(str(state[ROWS]))
        if self.workers.rank == 0:
            folder.write_metrics(self.rows)
        self.progress.line(f"resumed after epoch {len(self.rows)} of {self.options.n_epochs}")

    def _keep(self, epoch: int) -> None:
        """Write what a finished epoch leaves. Killed between two files, the resumed run writes the same again."""
        weights = canonical_weights(self.model)
        is_best = best_epoch(self.rows) == epoch
        if self.folder is None:
            self.best_weights = weights if is_best else self.best_weights
            return
        if self.workers.rank:
            return
        if is_best:
            save_arrays(self.folder.best, weights)
        state: dict[str, Any] = {WEIGHTS + name: array for name, array in weights.items()}
        state |= {MOMENTUM + name: array.asnumpy() for name, array in self.momentum.items()}
        save_arrays(self.folder.last, {**state, ROWS: np.array(json.dumps(self.rows))})
        self.folder.write_metrics(self.rows)

    def _finish(self) -> TrainingResult:
        self.workers.wait()  # the best weights are on disk
        best = best_epoch(self.rows)
        weights = self.best_weights if self.folder is None else load_arrays(self.folder.best)
        set_canonical_weights(self.model, weights)
        loss, accuracy = self._evaluate(self.data.test_inputs, self.data.test_labels)
        result = TrainingResult(
            epochs=len(self.rows),
            best_epoch=best,
            best_valid_accuracy=cast("float | None", self.rows[best - 1]["valid_accuracy"]),
            test_loss=loss,
            test_accuracy=accuracy,
            device=device_name(self.context),
            folder=self.folder.folder if self.folder is not None else None,
            metrics=tuple(self.rows),
        )
        if self.folder is not None and self.workers.rank == 0:
            self.folder.write_result(result.summary)
        return result
