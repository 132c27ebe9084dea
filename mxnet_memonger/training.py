"""The training loop in MXNet: SGD with the published schedule, checkpoints, resuming; one process or several."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mxnet_memonger.binding import plan_bytes
from mxnet_memonger.devices import check_device, context_of, device_name, is_out_of_memory, set_seed
from mxnet_memonger.numpy_names import mx
from mxnet_memonger.step import StepRunner
from mxnet_memonger.symbol_model import SymbolModel
from mxnet_memonger.weights import canonical_weights, set_canonical_weights
from mxnet_memonger.workers import Workers
from zoo.batches import EvaluationBatches, TrainingBatches, step_seed
from zoo.data.text_data import Data
from zoo.launch import Launch
from zoo.options import TrainingError, TrainingOptions, TrainingResult
from zoo.refusals import Request, check_offered
from zoo.report import MIB
from zoo.run_folder import RunFolder
from zoo.saved_run import describe_network
from zoo.training_loop import ArrayTrainingLoop, EpochTotals
from zoo.weight_files import SUFFIX


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
    check_offered("mxnet", Request(model.spec, model.policy, options, launch=Launch.from_environment()))
    check_device(options.device)
    data.split(options.valid_size, options.seed)
    workers = Workers.from_environment()
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


class Trainer(ArrayTrainingLoop):
    """One training run."""

    def __init__(
        self, model: SymbolModel, data: Data, options: TrainingOptions, folder: RunFolder | None, workers: Workers
    ) -> None:
        super().__init__(data, options, folder, workers.rank)
        self.model, self.workers = model, workers
        self.context = context_of(options.device)
        for name, array in model.arrays.items():
            model.arrays[name] = array.as_in_context(self.context)
        workers.share(model.arrays)
        self.runner = StepRunner(model, self.context)
        self.momentum = {name: mx.nd.zeros_like(gradient) for name, gradient in self.runner.gradients.items()}
        batch = min(options.batch_size, len(self.train_indices))
        shape = (-(-batch // workers.world), *data.train_inputs.shape[1:])
        # What is allocated for a full batch: the plan, parameters with gradients and momentum, and the batch.
        arrays = 4 * sum(3 * gradient.size for gradient in self.runner.gradients.values())
        pool = plan_bytes(model.for_training(shape), None, model.shapes(shape))
        self.peak_bytes = pool + arrays + 4 * int(np.prod(shape))

    @property
    def device_name(self) -> str:
        """CPU or GPU."""
        return device_name(self.context)

    def train_epoch(self, epoch: int) -> EpochTotals:
        """All steps of one epoch."""
        options = self.options
        place = (self.workers.rank, self.workers.world)
        batches = TrainingBatches(self.data, self.train_indices, options.batch_size, options.seed, epoch, *place)
        steps: Any = (batches[step] for step in range(len(batches)))
        loss_sum, right, images = 0.0, 0, 0
        for step, (pixels, labels, size) in enumerate(self.progress.bar(steps, len(batches), f"epoch {epoch}")):
            set_seed(step_seed(options.seed, epoch, step, self.workers.rank))
            loss, told = self.model.loss_and_right(self.runner.train(pixels, labels), labels)
            if not np.isfinite(loss):
                self.refuse_loss(loss / labels.size, epoch, step)
            self.workers.add_up(self.runner.gradients)
            self._update(options.learning_rate(epoch), size * self.answers_each)
            loss_sum += loss
            right += told
            images += size
        means = self._mean(loss_sum, right, images * self.answers_each)
        return EpochTotals(len(batches), images, *means, self.peak_bytes)

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

    def evaluate(self, inputs: Any, labels: Any) -> tuple[float, float]:
        """Mean loss and share of right answers."""
        # Each process has moved its own running statistics: all go on with the first one's.
        self.workers.share({name: self.model.arrays[name] for name in self.model.state_names})
        loss, right = 0.0, 0
        self.runner.forget_predictions()
        place = (self.workers.rank, self.workers.world)
        batches = EvaluationBatches(inputs, labels, self.data, self.options.batch_size, *place)
        for position in range(len(batches)):
            pixels, answers, _ = batches[position]
            lost, told = self.model.loss_and_right(self.runner.evaluate(pixels, answers), answers)
            loss += lost
            right += told
        return self._mean(loss, right, labels.size)

    def copy_weights(self) -> dict[str, np.ndarray]:
        """By canonical name."""
        return canonical_weights(self.model)

    def set_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """Into the model."""
        set_canonical_weights(self.model, weights)

    def momentum_arrays(self) -> dict[str, np.ndarray]:
        """By the name of the parameter."""
        return {name: array.asnumpy() for name, array in self.momentum.items()}

    def set_momentum(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Put momentum back."""
        for name, momentum in self.momentum.items():
            momentum[:] = arrays[name]

    def load_best(self, folder: RunFolder) -> dict[str, np.ndarray]:
        """The best epoch's weights, when they are on disk."""
        self.workers.wait()
        return super().load_best(folder)
