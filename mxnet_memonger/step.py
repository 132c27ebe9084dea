"""A training step of a zoo model: its planned Symbol bound to the model's own arrays, once for every batch size."""

from __future__ import annotations

from typing import Any

from mxnet_memonger.binding import quiet_binding
from mxnet_memonger.numpy_names import mx
from mxnet_memonger.symbol_model import LABEL, SymbolModel


class StepRunner:
    """Runs forward and backward passes of a model; gradients are in `gradients` afterwards.

    Args:
        model: its arrays are read, and its running statistics moved, in place.
        context: where; the model's arrays must be there.

    Attributes:
        gradients: by parameter name, of the sum of the batch's losses.
    """

    def __init__(self, model: SymbolModel, context: Any) -> None:
        self.model, self.context = model, context
        self.gradients = {name: mx.nd.zeros_like(model.arrays[name]) for name in model.parameter_names()}
        self._executors: dict[tuple[tuple[int, ...], bool], Any] = {}

    def train(self, images: Any, labels: Any) -> Any:
        """One forward and backward pass; the probabilities (N, classes)."""
        executor = self._executor(tuple(images.shape), train=True)
        executor.arg_dict["data"][:] = images
        executor.arg_dict[LABEL][:] = labels
        executor.forward(is_train=True)
        executor.backward()
        return executor.outputs[0]

    def predict(self, images: Any) -> Any:
        """Scores (N, classes), with the running statistics; nothing is kept."""
        executor = self._executor(tuple(images.shape), train=False)
        executor.arg_dict["data"][:] = images
        return executor.forward(is_train=False)[0]

    def _executor(self, shape: tuple[int, ...], train: bool) -> Any:
        key = (shape, train)
        if key not in self._executors:
            model = self.model
            sym = model.for_training(shape) if train else model.symbol
            arguments = {name: model.arrays[name] for name in model.parameter_names()}
            arguments["data"] = mx.nd.empty(shape, self.context)
            if train:
                arguments[LABEL] = mx.nd.empty(shape[:1], self.context)
            with quiet_binding():
                self._executors[key] = sym.bind(
                    self.context,
                    args=arguments,
                    args_grad=self.gradients if train else None,
                    grad_req={name: "write" if train and name in self.gradients else "null" for name in arguments},
                    aux_states={name: model.arrays[name] for name in sym.list_auxiliary_states()},
                )
        return self._executors[key]
