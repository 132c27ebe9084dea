"""The training loop in TensorFlow: SGD with the published schedule, checkpoints, resuming; one process or several."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from tf_models.allocations import record
from tf_models.board import board_in
from tf_models.devices import check_device, device_name, is_out_of_memory, tensorflow_device
from tf_models.processes import Workers, join_workers
from tf_models.step import BFLOAT16, FLOAT16, StepRunner, in_mixed_precision
from tf_models.tensorflow_names import tf
from tf_models.weights import canonical_weights, set_canonical_weights
from tf_models.zoo_model import ZooModel
from zoo.batches import EvaluationBatches, TrainingBatches, step_seed
from zoo.data.text_data import Data
from zoo.launch import Launch
from zoo.options import TrainingError, TrainingOptions, TrainingResult
from zoo.refusals import Request, check_offered
from zoo.run_folder import Row, RunFolder
from zoo.saved_run import describe_network
from zoo.training_loop import ArrayTrainingLoop, EpochTotals
from zoo.weight_files import SUFFIX


def train(model: ZooModel, data: Data, options: TrainingOptions, workers: Workers | None = None) -> TrainingResult:
    """Train `model` and leave in it the weights of the best epoch.

    On the CPU a resumed run gives the same numbers as one that was never interrupted: the seeds of dropout are set
    anew from (seed, epoch, step) before every step.

    Args:
        model: one of this package's, for images of the data's channels and with its number of classes.
        data: images, or a text.
        options: the recipe, and the folder to save to. `amp` computes in bfloat16, `fp16` in float16 with loss
            scaling: a step whose gradients overflow is left out; `num_workers` changes nothing: batches are prepared
            in this process.
        workers: of several processes, what `join_workers` gave before the model was built.

    Raises:
        TypeError: not one of this package's models.
        ValueError: a device that is not there, a split or folder that does not fit.
        RefusedOptionError: several processes that were not joined; fewer inputs a batch than processes.
        TrainingError: the loss, or float16's gradients at any scale, are not finite; memory ran out, or a checkpoint
            cannot be read.
    """
    if not isinstance(model, ZooModel):
        raise TypeError(f"train: a model of tf_models is needed, not {type(model).__name__}")
    launch = Launch.from_environment() if workers is None else Launch(workers.rank, workers.world)
    check_offered("tensorflow", Request(model.spec, model.policy, options, launch=launch))
    check_device(options.device, options.mixed_precision)
    data.split(options.valid_size, options.seed)
    if options.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise ValueError("tensorboard=True needs tensorboard: pip install tensorboard")
    network = describe_network(model.spec)
    workers = join_workers(options) if workers is None else workers
    folder = None
    if options.save is not None and workers.rank == 0:
        folder = RunFolder.open(options.settings(), SUFFIX, network)
    elif options.save is not None:
        folder = RunFolder(Path(options.save).expanduser(), SUFFIX)
    try:
        with tf.device(tensorflow_device(options.device)):
            workers.wait()  # the first process has made the folder
            return Trainer(model, data, options, folder, workers).run()
    except (tf.errors.ResourceExhaustedError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(
            f"out of memory with batch_size={options.batch_size}: try --efficient True, or a smaller --batch_size"
        ) from error


class Trainer(ArrayTrainingLoop):
    """One training run."""

    def __init__(
        self, model: ZooModel, data: Data, options: TrainingOptions, folder: RunFolder | None, workers: Workers
    ) -> None:
        super().__init__(data, options, folder, workers.rank)
        self.workers = workers
        self.given = model
        self.model = model
        if options.mixed_precision:
            self.model = in_mixed_precision(model, FLOAT16 if options.fp16 else BFLOAT16)
        self.runner = StepRunner(self.model, options.momentum, options.wd, workers)

    @property
    def device_name(self) -> str:
        """CPU or GPU."""
        return device_name(tensorflow_device(self.options.device))

    def board_in(self, folder: Path | None) -> AbstractContextManager[Callable[[Row], None]]:
        """TensorBoard files in the folder."""
        return board_in(folder)

    def train_epoch(self, epoch: int) -> EpochTotals:
        """All steps of one epoch."""
        options = self.options
        place = (self.workers.rank, self.workers.world)
        batches = TrainingBatches(self.data, self.train_indices, options.batch_size, options.seed, epoch, *place)
        steps: Any = (batches[step] for step in range(len(batches)))
        loss_sum, right_sum, images = 0.0, 0, 0
        peak_bytes = int(self.rows[-1]["peak_bytes"] or 0) if self.rows else 0
        for step, (inputs, labels, size) in enumerate(self.progress.bar(steps, len(batches), f"epoch {epoch}")):
            self.runner.seed(step_seed(options.seed, epoch, step, self.workers.rank))
            arguments = (inputs, labels, options.learning_rate(epoch))
            if not peak_bytes:
                peak_bytes, loss, right = self._measured_step(*arguments)
            else:
                loss, right = self.runner.train(*arguments)
            if not np.isfinite(loss):
                self.refuse_loss(loss / labels.size, epoch, step)
            if self.runner.loss_scale is not None and self.runner.loss_scale.is_exhausted:
                self.refuse_loss("not finite even where the loss is not scaled", epoch, step, "a gradient")
            loss_sum += loss
            right_sum += right
            images += size
        self.runner.even_out()
        answers = images * self.answers_each
        return EpochTotals(len(batches), images, loss_sum / answers, right_sum / answers, peak_bytes)

    def _measured_step(self, *arguments: Any) -> tuple[int, float, int]:
        """The first step, and its peak with parameters and momentum, in bytes."""
        results: list[tuple[float, int]] = []
        found = record(lambda: results.append(self.runner.train(*arguments)))
        return found.peak_bytes + self.runner.state_bytes(), *results[0]

    def evaluate(self, inputs: Any, labels: Any) -> tuple[float, float]:
        """Mean loss and share of right answers."""
        loss, right = 0.0, 0
        place = (self.workers.rank, self.workers.world)
        batches = EvaluationBatches(inputs, labels, self.data, self.options.batch_size, *place)
        for position in range(len(batches)):
            values, answers, _ = batches[position]
            one, other = self.runner.evaluate(values, answers)
            loss, right = loss + one, right + other
        sums = self.workers.add_up([tf.constant([loss, right], tf.float64)])[0].numpy()
        return float(sums[0]) / labels.size, float(sums[1]) / labels.size

    def copy_weights(self) -> dict[str, np.ndarray]:
        """By canonical name."""
        return canonical_weights(self.model)

    def set_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """Into the model that trains, and into the one that was given."""
        set_canonical_weights(self.model, weights)
        if self.given is not self.model:
            set_canonical_weights(self.given, weights)

    def momentum_arrays(self) -> dict[str, np.ndarray]:
        """By the name of the parameter."""
        return self.runner.momentum_arrays()

    def set_momentum(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Put momentum back."""
        self.runner.set_momentum(arrays)

    def load_best(self, folder: RunFolder) -> dict[str, np.ndarray]:
        """The best epoch's weights, when they are on disk."""
        self.workers.wait()
        return super().load_best(folder)
