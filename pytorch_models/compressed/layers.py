"""ActNN's layers: PyTorch's own, under the names its users know, that keep what they need in few bits.

Each is a subclass of its namesake with the same arguments, parameters, state and output to the bit, so that a model
becomes one of them by changing classes in place. Built by hand, a layer has a compression of its own.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from pytorch_models.compressed.checkpointed import inside_checkpoint
from pytorch_models.compressed.codes import Kept
from pytorch_models.compressed.exact_functions import (
    AveragePoolFunction,
    DropoutFunction,
    MaxPoolFunction,
    ReluFunction,
    SmoothFunction,
    masked,
)
from pytorch_models.compressed.norm_function import JointNormFunction, NormCall, NormFunction
from pytorch_models.compressed.product_functions import CHUNKS, ConvolutionCall, ConvolutionFunction, LinearFunction
from pytorch_models.compressed.session import Compression
from pytorch_models.compressed.sites import Packed, Site
from pytorch_models.kernel_arrays import DTYPES
from pytorch_models.saving.eligibility import graph_is_being_exported, why_call_is_plain
from pytorch_models.saving.norm import uses_batch_statistics
from pytorch_models.saving.pool_codes import coded_pool
from pytorch_models.saving.sync import group_of
from pytorch_models.saving.unit_call import autocast_dtype_of


class Compressed:
    """What the layers share: whose compression they belong to, and whether it applies to a call."""

    compression: Compression | None = None
    site: Site | None = None
    parts: ClassVar[tuple[str, ...]] = ()  # names of the tensors that are packed beside the first
    more: tuple[Site, ...] = ()  # their places

    def _shared(self) -> tuple[Compression, Site]:
        if self.compression is None or self.site is None:
            self.compression = Compression()
            self.site = self.compression.new_site(type(self).__name__)
        if not self.compression.known.is_open:
            self.compression.begin()  # built by hand: each call is a step
        return self.compression, self.site


def is_plain(inputs: Tensor) -> bool:
    """Whether nothing is to be kept, or nothing may be."""
    if not torch.is_grad_enabled() or inputs.dtype not in DTYPES or inputs.numel() == 0:
        return True
    return why_call_is_plain() is not None or graph_is_being_exported() or inside_checkpoint()


def packed_if(needed: bool, inputs: Tensor, compression: Compression, site: Site) -> tuple[Packed | None, Any]:
    if not needed:
        return None, ()
    packed = compression.pack(inputs, site)
    return packed.without_parts, packed.kept.parts


class _Convolution(Compressed):
    def _convolve(self, inputs: Tensor, padding: tuple[int, ...], output_padding: tuple[int, ...]) -> Tensor:
        assert isinstance(self, _ConvNd)
        compression, site = self._shared()
        batched = inputs if inputs.dim() == self.weight.dim() else inputs.unsqueeze(0)
        packed, parts = packed_if(self.weight.requires_grad, batched, compression, site)
        scheme = compression.scheme
        call = ConvolutionCall(
            stride=tuple(self.stride),
            padding=padding,
            dilation=tuple(self.dilation),
            transposed=self.transposed,
            output_padding=output_padding,
            groups=self.groups,
            dtype=autocast_dtype_of(inputs.device) or inputs.dtype,
            packed=packed,
            chunks=CHUNKS if scheme.chunks else 1,
            swap=scheme.swap,
        )
        outputs = ConvolutionFunction.apply(batched, self.weight, self.bias, call, parts)
        return outputs if batched is inputs else outputs.squeeze(0)

    def _pad(self, inputs: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """Inputs padded by hand where the mode is not zeros or the sides differ, and what is left to pad."""
        assert isinstance(self, _ConvNd)
        sides = self._reversed_padding_repeated_twice
        if self.padding_mode != "zeros":
            return F.pad(inputs, sides, mode=self.padding_mode), (0,) * len(self.stride)
        if not isinstance(self.padding, str):
            return inputs, tuple(self.padding)
        pairs = list(zip(sides[::2], sides[1::2], strict=True))[::-1]
        if all(low == high for low, high in pairs):
            return inputs, tuple(low for low, _ in pairs)
        return F.pad(inputs, sides), (0,) * len(self.stride)


class _PlainConvolution(_Convolution):
    def forward(self, inputs: Tensor) -> Tensor:
        """As the namesake's."""
        assert isinstance(self, _ConvNd)
        if is_plain(inputs):
            return super().forward(inputs)  # type: ignore[misc]
        padded, padding = self._pad(inputs)
        return self._convolve(padded, padding, (0,) * len(self.stride))


class _TransposedConvolution(_Convolution):
    def forward(self, inputs: Tensor, output_size: list[int] | None = None) -> Tensor:
        """As the namesake's."""
        assert isinstance(self, _ConvTransposeNd)
        if is_plain(inputs):
            return super().forward(inputs, output_size)  # type: ignore[misc]
        if self.padding_mode != "zeros":
            raise ValueError(f"{type(self).__name__}: only zeros padding exists, not {self.padding_mode!r}")
        find: Any = self._output_padding  # annotated for lists, called with tuples by PyTorch itself
        sizes = (self.stride, self.padding, self.kernel_size, len(self.stride), self.dilation)
        extra = find(inputs, output_size, *sizes)
        return self._convolve(inputs, tuple(self.padding), tuple(extra))  # type: ignore[arg-type]


class QConv1d(_PlainConvolution, nn.Conv1d):
    """`torch.nn.Conv1d` that keeps its input in few bits."""


class QConv2d(_PlainConvolution, nn.Conv2d):
    """`torch.nn.Conv2d` that keeps its input in few bits.

    Example:
        >>> layer = QConv2d(3, 8, 3, padding=1)
        >>> layer(torch.randn(2, 3, 8, 8)).sum().backward()
        >>> layer.weight.grad.shape
        torch.Size([8, 3, 3, 3])
    """


class QConv3d(_PlainConvolution, nn.Conv3d):
    """`torch.nn.Conv3d` that keeps its input in few bits."""


class QConvTranspose1d(_TransposedConvolution, nn.ConvTranspose1d):
    """`torch.nn.ConvTranspose1d` that keeps its input in few bits."""


class QConvTranspose2d(_TransposedConvolution, nn.ConvTranspose2d):
    """`torch.nn.ConvTranspose2d` that keeps its input in few bits."""


class QConvTranspose3d(_TransposedConvolution, nn.ConvTranspose3d):
    """`torch.nn.ConvTranspose3d` that keeps its input in few bits."""


class QLinear(Compressed, nn.Linear):
    """`torch.nn.Linear` that keeps its input in few bits."""

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        if is_plain(inputs):
            return super().forward(inputs)
        compression, site = self._shared()
        packed, parts = packed_if(self.weight.requires_grad, inputs, compression, site)
        dtype = autocast_dtype_of(inputs.device) or inputs.dtype
        swap = compression.scheme.swap
        return LinearFunction.apply(inputs, self.weight, self.bias, packed, parts, dtype, swap)


class _Norm(Compressed):
    def forward(self, inputs: Tensor) -> Tensor:
        """As the namesake's."""
        assert isinstance(self, _BatchNorm)
        joint = group_of(self) is not None
        if is_plain(inputs):
            return super().forward(inputs)  # type: ignore[misc]
        self._check_input_dim(inputs)
        compression, site = self._shared()
        if self.training and not joint and inputs.numel() == inputs.shape[1]:
            raise ValueError(f"Expected more than 1 value per channel when training, got input size {inputs.shape}")
        call = NormCall(self, compression, site, uses_batch_statistics(self), 0.0 if joint else _factor(self))
        left: list[Packed] = []
        function = JointNormFunction if joint else NormFunction
        outputs = function.apply(inputs, self.weight, self.bias, call, left)
        for packed in left:
            compression.derive(outputs, packed)
        return outputs


def _factor(norm: _BatchNorm) -> float:
    """How far running statistics move now; counts the batch."""
    if not (norm.training and norm.track_running_stats):
        return 0.0 if norm.momentum is None else norm.momentum
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    if norm.momentum is not None:
        return norm.momentum
    return 0.0 if norm.num_batches_tracked is None else 1.0 / float(norm.num_batches_tracked)


class QBatchNorm1d(_Norm, nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d` that keeps its input normalised, in few bits."""


class QBatchNorm2d(_Norm, nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` that keeps its input normalised, in few bits."""


class QBatchNorm3d(_Norm, nn.BatchNorm3d):
    """`torch.nn.BatchNorm3d` that keeps its input normalised, in few bits."""


class QSyncBatchNorm(_Norm, nn.SyncBatchNorm):
    """`torch.nn.SyncBatchNorm` that keeps its input normalised, in few bits; runs on CPUs too."""


class QReLU(Compressed, nn.ReLU):
    """`torch.nn.ReLU` that keeps one bit a value."""

    def forward(self, inputs: Tensor) -> Tensor:
        """max(inputs, 0)."""
        if is_plain(inputs) or not inputs.requires_grad:
            return super().forward(inputs)
        compression, _ = self._shared()
        known = compression.find(inputs)
        left: list[Kept] = []
        outputs = ReluFunction.apply(inputs, self.inplace, left, compression.scheme.swap)
        if known is not None and compression.scheme.way == "layers":
            compression.derive(outputs, masked(known, left[0]))
        return outputs


class QDropout(Compressed, nn.Dropout):
    """`torch.nn.Dropout` that keeps the generator's state instead of a mask."""

    def forward(self, inputs: Tensor) -> Tensor:
        """As the namesake's, on the global random stream."""
        if is_plain(inputs) or self.inplace or not self.training or not 0 < self.p < 1 or not inputs.requires_grad:
            return super().forward(inputs)
        return DropoutFunction.apply(inputs, self.p)


class QMaxPool2d(Compressed, nn.MaxPool2d):
    """`torch.nn.MaxPool2d` that keeps where each maximum was, in ceil(log2(window)) bits an output."""

    def forward(self, inputs: Tensor) -> Any:
        """As the namesake's."""
        uncoded = self.ceil_mode or self.return_indices or inputs.dim() != 4
        if is_plain(inputs) or uncoded or not inputs.requires_grad:
            return super().forward(inputs)
        compression, _ = self._shared()
        pool = coded_pool([self])
        assert pool is not None, "it is a max-pool"
        return MaxPoolFunction.apply(inputs, pool, compression.scheme.swap)


class QAvgPool2d(Compressed, nn.AvgPool2d):
    """`torch.nn.AvgPool2d` that keeps nothing."""

    def forward(self, inputs: Tensor) -> Tensor:
        """As the namesake's."""
        if is_plain(inputs) or not inputs.requires_grad:
            return super().forward(inputs)
        options = (self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad)
        return AveragePoolFunction.apply(inputs, (*options, self.divisor_override))


class QGELU(Compressed, nn.GELU):
    """`torch.nn.GELU` that keeps its derivative in few bits."""

    def forward(self, inputs: Tensor) -> Tensor:
        """As the namesake's."""
        if is_plain(inputs) or not inputs.requires_grad:
            return super().forward(inputs)
        how = self.approximate
        slope = lambda ones, values: torch.ops.aten.gelu_backward(ones, values, approximate=how)  # noqa: E731
        return _smooth(self, inputs, super().forward, slope)


class QSiLU(Compressed, nn.SiLU):
    """`torch.nn.SiLU` that keeps its derivative in few bits."""

    def forward(self, inputs: Tensor) -> Tensor:
        """As the namesake's."""
        if is_plain(inputs) or self.inplace or not inputs.requires_grad:
            return super().forward(inputs)
        return _smooth(self, inputs, super().forward, torch.ops.aten.silu_backward)


def _smooth(layer: Compressed, inputs: Tensor, activation: Any, derivative: Any) -> Tensor:
    compression, site = layer._shared()
    pack = lambda slope: site.pack(slope, compression.seeds.next(), compression.indices)  # noqa: E731
    return SmoothFunction.apply(inputs, activation, derivative, pack)
