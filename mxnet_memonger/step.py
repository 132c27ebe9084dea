"""A training step of a zoo model: its planned Symbol bound to the model's own arrays, once for every batch size."""

from __future__ import annotations

from typing import Any

from mxnet_memonger.binding import bind_for_prediction, quiet_binding
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
        self._training: dict[tuple[int, ...], Any] = {}
        self._predicting: dict[tuple[int, ...], Any] = {}

    def train(self, images: Any, labels: Any) -> Any:
        """One forward and backward pass; the probabilities (N, classes)."""
        shape = tuple(images.shape)
        if shape not in self._training:
            self._training[shape] = self._bind_training(shape)
        executor = self._training[shape]
        executor.arg_dict["data"][:] = images
        executor.arg_dict[LABEL][:] = labels
        executor.forward(is_train=True)
        executor.backward()
        return executor.outputs[0]

    def predict(self, images: Any) -> Any:
        """Scores (N, classes), with the weights and running statistics as at the first call of their batch size."""
        shape = tuple(images.shape)
        if shape not in self._predicting:
            inputs = {"data": mx.nd.empty(shape, self.context)}
            model = self.model
            self._predicting[shape] = bind_for_prediction(model.symbol, self.context, model.arrays, inputs)
        executor = self._predicting[shape]
        executor.arg_dict["data"][:] = images
        return executor.forward(is_train=False)[0]

    def forget_predictions(self) -> None:
        """Take over the weights as they are now for what is predicted next."""
        self._predicting.clear()

    def _bind_training(self, shape: tuple[int, ...]) -> Any:
        arrays, sym = self.model.arrays, self.model.for_training(shape)
        arguments = {name: arrays[name] for name in self.gradients}
        arguments["data"] = mx.nd.empty(shape, self.context)
        arguments[LABEL] = mx.nd.empty(shape[:1], self.context)
        with quiet_binding():
            return sym.bind(
                self.context,
                args=arguments,
                args_grad=self.gradients,
                grad_req={name: "write" if name in self.gradients else "null" for name in arguments},
                aux_states={name: arrays[name] for name in sym.list_auxiliary_states()},
            )
