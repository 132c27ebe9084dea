"""A network of the zoo in MXNet: its Symbol, its parameters, and the planned Symbol that a training step runs."""

from __future__ import annotations

import abc
import inspect
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from mxnet_memonger import memonger
from mxnet_memonger.binding import VALUE, bind_for_prediction, saved_bytes
from mxnet_memonger.compression import compress
from mxnet_memonger.numpy_names import mx
from zoo.choices import refuse_unknown_arguments
from zoo.policy import POLICY_FIELDS, MemoryPolicy
from zoo.refusals import Request, check_offered

LABEL = "softmax_label"
HALF_A_PASS = 0.5  # of the forward work, what keep_bottleneck lets be done again


class SymbolModel(abc.ABC):
    """What every network of the zoo is in MXNet.

    A family names its `config_type` and says how its Symbol is built.

    Args:
        efficient: `for_training` gives a planned Symbol: least memory, same numbers to the bit.
        keep_bottleneck: with `efficient`, at most half of a forward pass is done again: more bytes, less time.
        compressed: `for_training` gives a Symbol that keeps codes: 1, 2, 4, 8 bits a value, "fixed:3", "half"; lossy,
            unbiased, the forward pass stays as it is. With `efficient`, whichever of the two holds fewer bytes.
        opt_memory: not of MXNet.
        fields: of the family's config.

    Attributes:
        spec: the family's config.
        arrays: parameters and running statistics by canonical name, freshly initialised; trained in place.
        state_names: of the running statistics among them.
        carried_plan: instead of the policy, a plan of `zoo.plan` that was applied; None = none was.

    Raises:
        TypeError: an argument that does not exist, with the nearest that does.
        zoo.policy.PolicyNotOfferedError: a level of `opt_memory` other than 0; `compressed` of an LSTM, or a scheme.
    """

    config_type: ClassVar[type]

    def __init__(
        self,
        *,
        efficient: bool = False,
        keep_bottleneck: bool = False,
        opt_memory: int | None = None,
        compressed: int | str | None = None,
        **fields: Any,
    ) -> None:
        known = [*inspect.signature(self.config_type).parameters, *POLICY_FIELDS]
        refuse_unknown_arguments(type(self).__name__, fields, known)
        policy = MemoryPolicy(efficient, keep_bottleneck, opt_memory, compressed)
        config = self.config_type(**fields)
        check_offered("mxnet", Request(config, policy))
        self.spec, self.policy = config, policy
        self._planned: dict[tuple[int, ...], Any] = {}
        self.carried_plan: Any = None
        shape = self.input_shape(config)
        smallest = self.symbol_for(shape)
        self.arrays = initial_arrays(smallest, {"data": shape})
        self._parameters = [name for name in smallest.list_arguments() if name != "data"]
        self.state_names: list[str] = smallest.list_auxiliary_states()

    @staticmethod
    @abc.abstractmethod
    def build(config: Any) -> Any:
        """The Symbol of a config."""

    @staticmethod
    def input_shape(config: Any) -> tuple[int, ...]:
        """Of a small batch, from which the parameters' shapes follow."""
        return (2, getattr(config, "in_chans", 3), config.image_size, config.image_size)

    @cached_property
    def symbol(self) -> Any:
        """From "data" to scores (N, num_classes); for prediction, or to build upon."""
        return self.build(self.spec)

    def symbol_for(self, input_shape: tuple[int, ...]) -> Any:
        """`symbol`, for "data" of this shape, where it depends on that."""
        return self.symbol

    @classmethod
    def from_config(cls, config: Any, policy: MemoryPolicy) -> SymbolModel:
        """Build from zoo's values."""
        return cls(**vars(config), **vars(policy))

    def with_loss(self, input_shape: tuple[int, ...] | None = None) -> Any:
        """The Symbol with a softmax cross entropy against "softmax_label" (N,) at its end, not planned.

        Args:
            input_shape: of "data", where the Symbol depends on it; by default that of the network's usual inputs.
        """
        scores = self.symbol if input_shape is None else self.symbol_for(input_shape)
        return mx.sym.SoftmaxOutput(scores, label=mx.sym.Variable(LABEL), name="softmax")

    def random_inputs(self, shape: tuple[int, ...], draw: np.random.Generator) -> np.ndarray:
        """Values of a normal distribution, to measure with."""
        return draw.standard_normal(shape, dtype=np.float32)

    def label_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Of "softmax_label", for "data" of a shape."""
        return input_shape[:1]

    def shapes(self, input_shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Of the inputs of `with_loss`, by name."""
        return {"data": input_shape, LABEL: self.label_shape(input_shape)}

    def loss_and_right(self, outputs: Sequence[Any], labels: Any) -> tuple[float, int]:
        """What the outputs of `with_loss` say: the losses' sum in nats, and the number of right answers.

        The loss is infinite or NaN if the network's values are.
        """
        probabilities = outputs[0].asnumpy()
        chosen = probabilities[np.arange(len(labels)), labels].astype(np.float64)
        loss = -np.log(np.maximum(chosen, np.finfo(np.float32).tiny)).sum()
        return float(loss), int((probabilities.argmax(1) == labels).sum())

    def for_training(self, input_shape: tuple[int, ...], ntrial: int = 0) -> Any:
        """`with_loss` as the policy has it for batches of `input_shape`: planned, compressed, or the cheaper of both.

        Cheaper is what holds fewer bytes from the forward pass to the backward pass.

        Args:
            input_shape: of "data", batch first.
            ntrial: as in `memonger.search_plan`; 0 = the best of the plans that are found without a search, in about
                a second for a network of 50 layers.
        """
        shape = tuple(input_shape)
        if self.carried_plan is not None:
            return self.carried_plan.symbol(self, shape)
        if shape not in self._planned or ntrial:
            found = []
            if self.policy.efficient:
                found.append(self._plan(shape, ntrial))
            if self.policy.compressed is not None:
                found.append(compress(self.with_loss(shape), str(self.policy.compressed)))
            if len(found) > 1:
                found.sort(key=lambda sym: saved_bytes(sym, self.shapes(shape)))
            self._planned[shape] = found[0] if found else self.with_loss(shape)
        return self._planned[shape]

    def _plan(self, shape: tuple[int, ...], ntrial: int) -> Any:
        shapes: dict[str, Any] = dict(self.shapes(shape))
        return memonger.search_plan(
            self.with_loss(shape),
            ntrial,
            most_recomputed=HALF_A_PASS if self.policy.keep_bottleneck else None,
            workers=None if ntrial else 0,
            **shapes,
        )

    def set_arrays(self, arrays: Mapping[str, Any]) -> None:
        """Take over values by canonical name (NumPy or MXNet arrays).

        Raises:
            ValueError: names that are missing or not the model's, or another shape; nothing is changed then.
        """
        problems = [f"{name} is missing" for name in self.arrays if name not in arrays]
        problems += [f"{name} is not one of the model's" for name in arrays if name not in self.arrays]
        problems += [
            f"{name} has the shape {tuple(arrays[name].shape)}, the model's is {own.shape}"
            for name, own in self.arrays.items()
            if name in arrays and tuple(arrays[name].shape) != own.shape
        ]
        if problems:
            raise ValueError(f"these are not the model's weights: {'; '.join(problems[:5])}")
        for name, value in arrays.items():
            self.arrays[name][:] = value

    def bound_arrays(self, symbol: Any) -> dict[str, Any]:
        """The model's arrays by the names that a Symbol of `for_training` has for them, some of them twice."""
        names = [*symbol.list_arguments(), *symbol.list_auxiliary_states()]
        known = ((name, name.removesuffix(VALUE)) for name in names)
        return {name: self.arrays[plain] for name, plain in known if plain in self.arrays}

    def parameter_names(self) -> list[str]:
        """Of what is trained, in the Symbol's order."""
        return list(self._parameters)

    def parameter_bytes(self) -> int:
        """Of parameters and running statistics."""
        return sum(4 * math.prod(array.shape) for array in self.arrays.values())

    def predict(self, images: Any) -> Any:
        """Scores (N, num_classes) of images (N, C, H, W), with the running statistics."""
        symbol, inputs = self.symbol_for(tuple(images.shape)), {"data": mx.nd.array(images)}
        return bind_for_prediction(symbol, mx.cpu(), self.arrays, inputs).forward(is_train=False)[0]


def initial_arrays(symbol: Any, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Fresh values for all but the inputs, by what each Variable says of itself; drawn from MXNet's generator."""
    argument_shapes, _, state_shapes = symbol.infer_shape(**shapes)
    attributes = symbol.attr_dict()
    names = [*symbol.list_arguments(), *symbol.list_auxiliary_states()]
    arrays: dict[str, Any] = {}
    initialise = mx.init.Uniform()
    for name, shape in zip(names, (*argument_shapes, *state_shapes), strict=True):
        if name not in shapes:
            arrays[name] = mx.nd.zeros(shape)
            initialise(mx.init.InitDesc(name, attributes.get(name, {})), arrays[name])
    return arrays
