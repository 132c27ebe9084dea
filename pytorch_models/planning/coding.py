"""A part of any library that keeps what its convolutions and matrix products need in few bits.

Only what enters the gradient linearly is rounded: inputs of convolutions, linear layers and matrix products, each with
noise of its own, so that weight gradients stay unbiased. Of a ReLU's output the signs are kept, exactly. Everything
else (a norm's input, a softmax) stays as it is.
"""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from pytorch_models import kernel_ops
from pytorch_models.compression import NoiseSeeds

LEAST_VALUES = 1024
GROUP = 256
LINEAR = frozenset(
    (
        F.conv1d,
        F.conv2d,
        F.conv3d,
        F.linear,
        torch.conv1d,
        torch.conv2d,
        torch.conv3d,
        torch.matmul,
        torch.bmm,
        torch.mm,
        torch.addmm,
        Tensor.matmul,
        Tensor.bmm,
        Tensor.__matmul__,
    )
)
MASKED = frozenset((F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_))


def coded(
    module: nn.Module, bits: int, seeds: NoiseSeeds, forward: Callable[..., Any] | None = None
) -> Callable[..., Any]:
    """`module` (or its `forward`) as a function that keeps in `bits` bits what may be rounded; outputs are unchanged.

    Args:
        seeds: of the rounding; one for all parts of a model, so that no two parts round alike.

    Example:
        >>> layer = nn.Conv2d(8, 8, 3)
        >>> images = torch.randn(4, 8, 16, 16)
        >>> bool((coded(layer, 4, NoiseSeeds())(images) == layer(images)).all())
        True
    """
    return functools.partial(_run, module, bits, seeds, forward or module)


def _run(
    module: nn.Module, bits: int, seeds: NoiseSeeds, forward: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    weights = frozenset(_storage(parameter) for parameter in module.parameters())
    # Only the innermost hooks see what is saved: codes are handed on to those around, which may not keep them at all.
    around = torch._C._autograd._top_saved_tensors_default_hooks(False)
    keep, give = around if around is not None else (_same, _same)
    with _Names() as names:
        coder = _Coder(names, weights, bits, seeds, keep)
        with saved_tensors_hooks(coder.pack, functools.partial(_unpack, bits, give)):
            return forward(*args, **kwargs)


def _same(tensor: Any) -> Any:
    return tensor


class _Names(TorchFunctionMode):
    """Which function of torch is running, so that a hook knows what it packs for."""

    def __init__(self) -> None:
        super().__init__()
        self.running: list[Any] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.running.append(function)
        try:
            return function(*args, **(kwargs or {}))
        finally:
            self.running.pop()


@dataclass(frozen=True)
class _Codes:
    """One tensor in few bits."""

    parts: tuple[Any, ...]  # as the hooks around keep them
    like: Tensor  # of no bytes: dtype and device
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True)
class _Signs:
    """Where a tensor is positive, a bit a value."""

    mask: Any
    like: Tensor
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True)
class _Other:
    """A tensor that is not rounded."""

    tensor: Any


@dataclass
class _Coder:
    """One call of a part: packs what it saves, and the same tensor once."""

    names: _Names
    weights: frozenset[int]
    bits: int
    seeds: NoiseSeeds
    keep: Callable[[Tensor], Any]
    packed: dict[tuple[Any, ...], tuple[weakref.ref[Any], Any]] = field(default_factory=dict)

    def pack(self, tensor: Tensor) -> Any:
        """What to keep of a tensor that the running function saves."""
        running = set(self.names.running)
        linear = bool(running & LINEAR)
        if not (linear or running & MASKED) or not tensor.is_floating_point() or tensor.numel() < LEAST_VALUES:
            return _Other(self.keep(tensor))
        flat = _flat(tensor)
        if flat is None or _storage(tensor) in self.weights:
            return _Other(self.keep(tensor))
        key = (linear, _storage(tensor), tensor.storage_offset(), tensor.shape, tensor.stride(), tensor._version)
        alive, packed = self.packed.get(key, (lambda: None, None))
        if alive() is None:
            packed = self._codes(tensor, flat) if linear else self._signs(tensor, flat)
            self.packed[key] = weakref.ref(tensor.untyped_storage()), packed
        return packed

    def _codes(self, tensor: Tensor, flat: Tensor) -> _Codes:
        zero, one = _vector(tensor, 0.0), _vector(tensor, 1.0)
        parts = kernel_ops.normalize_quantize(flat, zero, one, self.bits, GROUP, self.seeds.next())
        return _Codes(
            tuple(self.keep(part) for part in parts), tensor.new_empty(0), tuple(tensor.shape), tensor.stride()
        )

    def _signs(self, tensor: Tensor, flat: Tensor) -> _Signs:
        mask = torch.empty(-(-tensor.numel() // 8), dtype=torch.uint8, device=tensor.device)
        kernel_ops.pack_positive_(flat.view(-1), mask)
        return _Signs(self.keep(mask), tensor.new_empty(0), tuple(tensor.shape), tensor.stride())


def _unpack(bits: int, give: Callable[[Any], Tensor], kept: Any) -> Tensor:
    """The tensor, with rounding noise of mean 0; of signs, a tensor of ones and zeros."""
    if isinstance(kept, _Codes):
        out = torch.empty_strided(kept.shape, kept.stride, dtype=kept.like.dtype, device=kept.like.device)
        flat = _flat(out)
        assert flat is not None, "only dense tensors are coded"
        zero, one = _vector(out, 0.0), _vector(out, 1.0)
        parts = (give(part) for part in kept.parts)
        kernel_ops.dequantize_affine_(*parts, bits, GROUP, one, zero, flat)
        return out
    if isinstance(kept, _Signs):
        flags = kernel_ops.unpack_bits(give(kept.mask), math.prod(kept.shape)).to(kept.like.dtype)
        return flags.as_strided(kept.shape, kept.stride)
    assert isinstance(kept, _Other), "nothing else is packed"
    return give(kept.tensor)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _vector(tensor: Tensor, value: float) -> Tensor:
    dtype = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    return torch.full((1,), value, dtype=dtype, device=tensor.device)


def _flat(tensor: Tensor) -> Tensor | None:
    """The elements of a dense tensor, (1, 1, count), in the order of memory; None where there are gaps."""
    expected = 1
    for size, stride in sorted(zip(tensor.shape, tensor.stride(), strict=True), key=lambda pair: pair[1]):
        if size == 1:
            continue
        if stride != expected:
            return None
        expected *= size
    return tensor.detach().as_strided((1, 1, tensor.numel()), (tensor.numel(), tensor.numel(), 1))
