"""Gluon blocks trained by a plan: hybridised blocks ignore mirror marks, a bound Symbol does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mxnet_memonger.binding import quiet_binding
from mxnet_memonger.memonger import search_plan
from mxnet_memonger.numpy_names import mx
from mxnet_memonger.shapes import fill

DATA, LABEL = "data", "label"


class GluonStep:
    """Forward and backward passes of a block and its loss, planned, on the block's own parameters and gradients.

    Afterwards the parameters' `grad()` hold the gradients, as after `loss.backward()`, so that `Trainer.step` works.

    Args:
        block: a HybridBlock of one input, initialised, its shapes known.
        loss: a HybridBlock of scores and labels, such as `mx.gluon.loss.SoftmaxCrossEntropyLoss()`.
        data_shape, label_shape: of a batch.
        context: where the parameters are.
        search: settings of `memonger.search_plan`, such as `budget`; `ntrial` is 1 unless given.

    Raises:
        TypeError: not HybridBlocks.
        ValueError: a parameter that is not initialised, parameters of several types, or shapes that do not fit.

    Example:
        >>> net = mx.gluon.nn.Dense(2, in_units=3)
        >>> net.initialize()
        >>> step = GluonStep(net, mx.gluon.loss.SoftmaxCrossEntropyLoss(), (4, 3), (4,))
        >>> loss, scores = step(mx.nd.ones((4, 3)), mx.nd.zeros(4))
        >>> scores.shape, bool(net.weight.grad().abs().sum() > 0)
        ((4, 2), True)
    """

    def __init__(
        self,
        block: Any,
        loss: Any,
        data_shape: Sequence[int],
        label_shape: Sequence[int],
        context: Any = None,
        search: Mapping[str, Any] | None = None,
    ) -> None:
        for name, value in (("block", block), ("loss", loss)):
            if not isinstance(value, mx.gluon.HybridBlock):
                raise TypeError(f"{name} must be a HybridBlock, which can be traced, not {type(value).__name__}")
        self.context = context or mx.cpu()
        parameters = {parameter.name: parameter for parameter in block.collect_params().values()}
        arrays = {name: self._array(parameter) for name, parameter in parameters.items()}
        dtype = _common_dtype(arrays)
        scores = block(mx.sym.Variable(DATA, dtype=dtype))
        losses = mx.sym.MakeLoss(loss(scores, mx.sym.Variable(LABEL)), name="losses")
        shapes = {DATA: data_shape, LABEL: label_shape}
        settings: dict[str, Any] = {"ntrial": 1, "type_dict": {DATA: dtype}, **(search or {}), **shapes}
        planned = search_plan(mx.sym.Group([losses, mx.sym.BlockGrad(scores)]), **settings)
        arguments = {name: arrays[name] for name in planned.list_arguments() if name in arrays}
        types = {DATA: dtype, LABEL: "float32"}
        inputs = {name: mx.nd.empty(tuple(size), self.context, types[name]) for name, size in shapes.items()}
        asked = {name: parameters[name].grad_req if name in parameters else "null" for name in (*arguments, *inputs)}
        self._trained = [arguments[name] for name in arguments if asked[name] != "null"]
        with quiet_binding():
            self.executor = planned.bind(
                self.context,
                args={**arguments, **inputs},
                args_grad={n: parameters[n].grad(self.context) for n in arguments if asked[n] != "null"},
                grad_req=asked,
                aux_states={name: arrays[name] for name in planned.list_auxiliary_states()},
            )

    def _array(self, parameter: Any) -> Any:
        try:
            return parameter.data(self.context)
        except (RuntimeError, mx.gluon.parameter.DeferredInitializationError) as error:
            raise ValueError(
                f"parameter {parameter.name} has no values yet: call block.initialize() and run one batch through it"
            ) from error

    def __call__(self, data: Any, label: Any) -> tuple[Any, Any]:
        """One forward and backward pass: each sample's loss, and the scores. Gradients are of the losses' sum.

        Raises:
            ValueError: a batch of another shape than the one this step was made for.
        """
        advice = "bind another GluonStep for it, or drop the last batch"
        fill(self.executor.arg_dict[DATA], data, "data", advice)
        fill(self.executor.arg_dict[LABEL], label, "label", advice)
        self.executor.forward(is_train=True)
        self.executor.backward()
        for array in self._trained:  # what a Trainer looks at before it updates
            array._fresh_grad = True
        losses, scores = self.executor.outputs
        return losses, scores


def _common_dtype(arrays: Mapping[str, Any]) -> str:
    """Of a block's parameters; "float32" where it has none."""
    found = sorted({np.dtype(array.dtype).name for array in arrays.values()}) or ["float32"]
    if len(found) > 1:
        raise ValueError(f"the block's parameters are of several types ({', '.join(found)}): cast it to one")
    return found[0]
