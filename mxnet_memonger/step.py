"""A training step of a zoo model: its planned Symbol bound to the model's own arrays, once for every batch size."""

from __future__ import annotations

from typing import Any

from mxnet_memonger.binding import bind_for_prediction, quiet_binding
from mxnet_memonger.numpy_names import mx
from mxnet_memonger.shapes import fill
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

    def train(self, images: Any, labels: Any) -> list[Any]:
        """One forward and backward pass; the outputs of the model's `with_loss`."""
        shape = tuple(images.shape)
        if shape not in self._training:
            self._training[shape] = self._bind_training(shape)
        executor = self._training[shape]
        fill(executor.arg_dict["data"], images, "images")
        fill(executor.arg_dict[LABEL], labels, "labels")
        executor.forward(is_train=True)
        executor.backward()
        return list(executor.outputs)

    def evaluate(self, images: Any, labels: Any) -> list[Any]:
        """The outputs of `with_loss` without dropout, with the running statistics.

        Weights and statistics are those at the first call of their batch size, until `forget_predictions`.
        """
        model, shape = self.model, tuple(images.shape)
        if shape not in self._predicting:
            inputs = self._inputs(shape)
            self._predicting[shape] = bind_for_prediction(model.with_loss(shape), self.context, model.arrays, inputs)
        executor = self._predicting[shape]
        fill(executor.arg_dict["data"], images, "images")
        fill(executor.arg_dict[LABEL], labels, "labels")
        return list(executor.forward(is_train=False))

    def forget_predictions(self) -> None:
        """Take over the weights as they are now for what is predicted next."""
        self._predicting.clear()

    def _bind_training(self, shape: tuple[int, ...]) -> Any:
        sym = self.model.for_training(shape)
        given = {**self.model.bound_arrays(sym), **self._inputs(shape)}
        states = {name: given.pop(name) for name in sym.list_auxiliary_states()}
        with quiet_binding():
            return sym.bind(
                self.context,
                args=given,
                args_grad=self.gradients,
                grad_req={name: "write" if name in self.gradients else "null" for name in given},
                aux_states=states,
            )

    def _inputs(self, shape: tuple[int, ...]) -> dict[str, Any]:
        return {name: mx.nd.empty(size, self.context) for name, size in self.model.shapes(shape).items()}
