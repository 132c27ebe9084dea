"""What MXNet asks about the operators of codes before they run: arguments, shapes, what backward passes read.

MXNet knows operators of Python's by registration alone: this module registers its own when it is imported.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from kernels import checks
from mxnet_memonger import coded_operators as work
from mxnet_memonger.codes import CodeLayout, ConvolutionShape, sizes, words
from mxnet_memonger.numpy_names import mx

KINDS = "zoo_"  # what the names of all of them begin with
ENCODE, UNIT, CONVOLUTION, MASK, MAX_POOL, AVERAGE_POOL, JOIN = (
    f"{KINDS}{name}" for name in ("encode", "norm_unit", "convolution", "mask", "max_pool", "average_pool", "join")
)
Shapes = Sequence[Sequence[int]]
_CARRIERS = ("codes", "statistics")
_OF_NORMS = ("gamma", "beta", "mean", "inv_std")


class _Dependencies(list[int]):
    """What a backward pass reads, which a loop sees as empty.

    MXNet 1.9.1 takes the dependencies from the list, and then walks over it to remember, of all operators in the
    process, those of the last one alone. By them every operator asks for the kind of arrays that it may not have got,
    and fails ("unknown storage type: -1"). With nothing remembered, arrays are taken to be dense, as all of these are.
    """

    def __iter__(self) -> Iterator[int]:
        return iter(())


class Kind(mx.operator.CustomOpProp):  # type: ignore[name-defined]
    """What MXNet asks about an operator before it runs. `settings`, in JSON, say all that the arguments do not."""

    operator: type[work.Operator] = work.Operator

    def __init__(self, settings: str) -> None:
        super().__init__(need_top_grad=True)
        self.settings: dict[str, Any] = json.loads(settings)
        given = self.settings.get("convolution")
        self.convolution = None if given is None else ConvolutionShape(given)
        self.activation: str = self.settings.get("activation", "identity")
        self._layouts: dict[int, CodeLayout] = {}

    def code_layout(self, shape: Sequence[int]) -> CodeLayout:
        """Of codes of an array of a shape."""
        count = math.prod(shape)
        return self._layouts.setdefault(count, CodeLayout(self.settings["codec"], count))

    @property
    def window(self) -> tuple[Any, ...]:
        """Of a pool: kernel, stride, padding, dilation."""
        pool = self.settings["pool"]
        texts = (pool["kernel"], pool.get("stride", "(1,1)"), pool.get("pad", "(0,0)"))
        return (*map(sizes, texts), (1, 1))

    def position_bytes(self, outputs: int) -> int:
        """Of a max pool's codes."""
        bits = max(1, math.ceil(math.log2(math.prod(self.window[0]))))
        return checks.packed_bytes(outputs, bits)

    def list_arguments(self) -> list[str]:
        return ["data"]

    def list_outputs(self) -> list[str]:
        return ["output"]

    def create_operator(self, ctx: Any, in_shapes: Shapes, in_dtypes: Any) -> work.Operator:
        return self.operator(self, in_shapes)

    def infer_shape(self, in_shape: Any) -> tuple[Any, Any, Any]:
        return in_shape, [in_shape[0]], []

    def infer_type(self, in_type: Any) -> tuple[Any, Any, Any]:
        """Codes, masks and statistics are carried by float32; a norm's own arrays are, too, beside float16 values."""
        values = in_type[0]
        of_norms = np.float32 if values is np.float16 else values

        def kind(name: str, found: Any) -> Any:
            if name.startswith(_CARRIERS):
                return np.float32
            return found or (of_norms if name in _OF_NORMS else values)

        arguments = [kind(name, found) for name, found in zip(self.list_arguments(), in_type, strict=True)]
        outputs = [values if name == "output" else np.float32 for name in self.list_outputs()]
        return arguments, outputs, [of_norms] * len(self.list_auxiliary_states())

    def declare_backward_dependency(self, out_grad: Any, in_data: Any, out_data: Any) -> list[int]:
        return _Dependencies([*out_grad[:1], *in_data[1:], *out_data[1:]])


class _EncodeKind(Kind):
    operator = work.Encode

    def list_outputs(self) -> list[str]:
        return ["codes", "statistics"]

    def infer_shape(self, in_shape: Any) -> tuple[Any, Any, Any]:
        channels = 1 if self.settings["eps"] is None else in_shape[0][1]
        return in_shape, [[self.code_layout(in_shape[0]).words], [2, channels]], []

    def declare_backward_dependency(self, out_grad: Any, in_data: Any, out_data: Any) -> list[int]:
        return _Dependencies(out_grad)


class _UnitKind(Kind):
    operator = work.Unit

    def list_arguments(self) -> list[str]:
        names = ["data", "activation", "gamma", "beta", "mean", "inv_std"]
        if self.convolution is not None:
            names += ["weight", "bias"] if self.convolution.has_bias else ["weight"]
        return names + [f"{what}{part}" for part in range(self.settings["parts"]) for what in ("codes", "statistics")]

    def list_outputs(self) -> list[str]:
        return ["output", "mask"]

    def list_auxiliary_states(self) -> list[str]:
        return ["moving_mean", "moving_var"]

    def infer_shape(self, in_shape: Any) -> tuple[Any, Any, Any]:
        channels = [in_shape[0][1]]
        in_shape[1:6] = [in_shape[0], *[channels] * 4]
        outputs = in_shape[0]
        if self.convolution is not None:
            outputs = self.convolution.outputs(in_shape[0])
            parameters = self.convolution.parameters(in_shape[0])
            in_shape[6 : 6 + len(parameters)] = parameters
        bits = checks.mask_bytes(self.activation, math.prod(in_shape[0])) if self.activation != "identity" else 1
        return in_shape, [outputs, [words(bits)]], [channels] * 2

    def declare_backward_dependency(self, out_grad: Any, in_data: Any, out_data: Any) -> list[int]:
        return _Dependencies([out_grad[0], *in_data[2:], out_data[1]])


class _ConvolutionKind(Kind):
    operator = work.Convolution

    def list_arguments(self) -> list[str]:
        assert self.convolution is not None, "this kind has one"
        codes = [] if self.settings["codec"] is None else ["codes", "statistics"]
        return ["data", "weight", *(["bias"] if self.convolution.has_bias else []), *codes]

    def declare_backward_dependency(self, out_grad: Any, in_data: Any, out_data: Any) -> list[int]:
        return _Dependencies([out_grad[0], *in_data[self.settings["codec"] is not None :]])

    def infer_shape(self, in_shape: Any) -> tuple[Any, Any, Any]:
        assert self.convolution is not None, "this kind has one"
        parameters = self.convolution.parameters(in_shape[0])
        in_shape[1 : 1 + len(parameters)] = parameters
        return in_shape, [self.convolution.outputs(in_shape[0])], []


class _MaskKind(Kind):
    operator = work.Mask

    def list_arguments(self) -> list[str]:
        return ["data", "activation"]

    def list_outputs(self) -> list[str]:
        return ["output", "mask"]

    def infer_shape(self, in_shape: Any) -> tuple[Any, Any, Any]:
        size = words(checks.mask_bytes(self.activation, math.prod(in_shape[0])))
        return in_shape, [in_shape[0], [size]], []

    def declare_backward_dependency(self, out_grad: Any, in_data: Any, out_data: Any) -> list[int]:
        return _Dependencies([out_grad[0], out_data[1]])


class _JoinKind(Kind):
    operator = work.Join

    def list_arguments(self) -> list[str]:
        return [f"part{number}" for number in range(self.settings["parts"])]

    def infer_shape(self, in_shape: Any) -> tuple[Any, Any, Any]:
        axis, outputs = self.settings["dim"], list(in_shape[0])
        outputs[axis] = sum(shape[axis] for shape in in_shape)
        return in_shape, [outputs], []

    def declare_backward_dependency(self, out_grad: Any, in_data: Any, out_data: Any) -> list[int]:
        return _Dependencies(out_grad)


class _PoolKind(Kind):
    def outputs(self, shape: Sequence[int]) -> list[int]:
        """(N, C, H, W) -> the outputs' shape."""
        pool = self.settings["pool"]
        if pool.get("global_pool") in ("True", "1"):
            return [*shape[:2], *(1 for _ in shape[2:])]
        windows = zip(shape[2:], *self.window[:3], strict=True)
        return [*shape[:2], *((size + 2 * pad - kernel) // stride + 1 for size, kernel, stride, pad in windows)]

    def infer_shape(self, in_shape: Any) -> tuple[Any, Any, Any]:
        return in_shape, [self.outputs(in_shape[0])], []


class _AveragePoolKind(_PoolKind):
    operator = work.AveragePool


class _MaxPoolKind(_PoolKind):
    operator = work.MaxPool

    def list_arguments(self) -> list[str]:
        return ["data", "values"]

    def list_outputs(self) -> list[str]:
        return ["output", "positions"]

    def declare_backward_dependency(self, out_grad: Any, in_data: Any, out_data: Any) -> list[int]:
        return _Dependencies([out_grad[0], out_data[1]])

    def infer_shape(self, in_shape: Any) -> tuple[Any, Any, Any]:
        outputs = self.outputs(in_shape[0])
        return in_shape, [outputs, [words(self.position_bytes(math.prod(outputs)))]], []


for _name, _kind in (
    (ENCODE, _EncodeKind),
    (UNIT, _UnitKind),
    (CONVOLUTION, _ConvolutionKind),
    (MASK, _MaskKind),
    (MAX_POOL, _MaxPoolKind),
    (AVERAGE_POOL, _AveragePoolKind),
    (JOIN, _JoinKind),
):
    mx.operator.register(_name)(_kind)
