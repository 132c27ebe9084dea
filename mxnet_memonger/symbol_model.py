"""A network of the zoo in MXNet: its Symbol, its parameters, and the planned Symbol that a training step runs."""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping
from typing import Any, ClassVar

from mxnet_memonger import memonger
from mxnet_memonger.binding import bind_for_prediction
from mxnet_memonger.numpy_names import mx
from zoo.policy import MemoryPolicy

LABEL = "softmax_label"
HALF_A_PASS = 0.5  # of the forward work, what keep_bottleneck lets be done again


class SymbolModel(abc.ABC):
    """What every network of the zoo is in MXNet.

    A family names its `config_type` and says how its Symbol is built.

    Args:
        efficient: `for_training` gives a planned Symbol: least memory, same numbers to the bit.
        keep_bottleneck: with `efficient`, at most half of a forward pass is done again: more bytes, less time.
        opt_memory, compressed: not of MXNet.
        fields: of the family's config.

    Attributes:
        spec: the family's config.
        symbol: from "data" to scores (N, num_classes); for prediction, or to build upon.
        arrays: parameters and running statistics by canonical name, freshly initialised; trained in place.

    Raises:
        ValueError: a level of `opt_memory` other than 0, or `compressed`.
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
        policy = MemoryPolicy(efficient, keep_bottleneck, opt_memory, compressed)
        config = self.config_type(**fields)
        if policy.opt_memory:
            raise ValueError(
                f"opt_memory={policy.opt_memory}: the classic levels are of PyTorch's DenseNet; in MXNet give "
                "efficient=True (least memory) or efficient=True, keep_bottleneck=True (less work)"
            )
        if policy.compressed is not None:
            raise ValueError(
                f"compressed={policy.compressed}: not offered in MXNet; use framework=torch, or efficient=True here"
            )
        self.spec, self.policy, self.symbol = config, policy, self.build(config)
        self._planned: dict[tuple[int, ...], Any] = {}
        shape = (2, getattr(config, "in_chans", 3), config.image_size, config.image_size)
        self.arrays = initial_arrays(self.symbol, {"data": shape})

    @staticmethod
    @abc.abstractmethod
    def build(config: Any) -> Any:
        """The Symbol of a config."""

    @classmethod
    def from_config(cls, config: Any, policy: MemoryPolicy) -> SymbolModel:
        """Build from zoo's values."""
        return cls(**vars(config), **vars(policy))

    def with_loss(self) -> Any:
        """The Symbol with a softmax cross entropy against "softmax_label" (N,) at its end, not planned."""
        return mx.sym.SoftmaxOutput(self.symbol, label=mx.sym.Variable(LABEL), name="softmax")

    def for_training(self, input_shape: tuple[int, ...], ntrial: int = 0) -> Any:
        """`with_loss`, planned for batches of `input_shape` if the policy is efficient.

        Args:
            input_shape: of "data", batch first.
            ntrial: as in `memonger.search_plan`; 0 = the best of the plans that are found without a search, in about
                a second for a network of 50 layers.
        """
        shape = tuple(input_shape)
        if not self.policy.efficient:
            return self.with_loss()
        if shape not in self._planned or ntrial:
            self._planned[shape] = memonger.search_plan(
                self.with_loss(),
                ntrial,
                most_recomputed=HALF_A_PASS if self.policy.keep_bottleneck else None,
                workers=None if ntrial else 0,
                data=shape,
            )
        return self._planned[shape]

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

    def parameter_names(self) -> list[str]:
        """Of what is trained, in the Symbol's order."""
        return [name for name in self.symbol.list_arguments() if name != "data"]

    def parameter_bytes(self) -> int:
        """Of parameters and running statistics."""
        return sum(4 * math.prod(array.shape) for array in self.arrays.values())

    def predict(self, images: Any) -> Any:
        """Scores (N, num_classes) of images (N, C, H, W), with the running statistics."""
        executor = bind_for_prediction(self.symbol, mx.cpu(), self.arrays, {"data": mx.nd.array(images)})
        return executor.forward(is_train=False)[0]


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
