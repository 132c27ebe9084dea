"""Saved tensors that few bits hold exactly: masks of activations and dropout, positions of maxima, shapes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pytorch_models.compressed import codes, dense
from pytorch_models.compressed.codes import Kept, MaskCode, Parts
from pytorch_models.compressed.saved_by import (
    DROPOUTS,
    MASKED_BY_RANGE,
    SHAPE_ONLY,
    OperatorWatch,
    is_own_output,
    made_by,
)


@dataclass(frozen=True)
class ScaledMaskCode:
    """A mask times a number, which is the second part."""

    mask: MaskCode

    def unpack(self, parts: Parts) -> Tensor:
        mask, scale = parts
        return self.mask.unpack((mask,)).mul_(scale)


def pack_exactly(tensor: Tensor, watch: OperatorWatch | None) -> Kept | None:
    """What holds a saved tensor exactly, or for its operator's gradient as well as exactly; None = nothing short."""
    name = None if watch is None else watch.name
    if tensor.dtype == torch.bool:
        return codes.pack_mask(tensor)
    if not tensor.is_floating_point():
        return _positions(tensor, watch) if watch is not None and name in SHAPE_ONLY else None
    if name in DROPOUTS and not tensor.requires_grad:
        kept = codes.pack_mask(tensor)
        assert isinstance(kept.code, MaskCode)
        return Kept(ScaledMaskCode(kept.code), (*kept.parts, tensor.amax()))
    if not tensor.requires_grad:
        return None
    if made_by(tensor) == "Relu" and is_own_output(tensor):
        return codes.pack_mask(tensor)
    if watch is None:
        return None
    if name in ("leaky_relu", "leaky_relu_") and watch.argument(1, "negative_slope", 0.01) >= 0:
        return codes.pack_mask(tensor, on=1.0, off=-1.0)  # of its input or, in place, of its output: signs are the same
    if is_own_output(tensor):
        return None
    if name in SHAPE_ONLY:
        return codes.pack_shape(tensor)
    if name in MASKED_BY_RANGE:
        low, high = watch.argument(1, "min_val", -1.0), watch.argument(2, "max_val", 1.0)
        low, high = (0.0, 6.0) if name == "relu6" else (low, high)
        inside = dense.dense((tensor > low) & (tensor < high)).to(tensor.dtype)
        return codes.pack_mask(inside, on=(low + high) / 2, off=high + 1)
    return None


def _positions(tensor: Tensor, watch: OperatorWatch) -> Kept | None:
    pooled = watch.argument(0, "input", None)
    if not isinstance(pooled, Tensor):
        return None
    spatial = 3 if watch.name is not None and "3d" in watch.name else 2 if watch.name and "2d" in watch.name else 1
    return codes.pack_indices(tensor, math.prod(pooled.shape[-spatial:]))
