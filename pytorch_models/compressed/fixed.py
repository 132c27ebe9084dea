"""AC-GC: saved tensors in fixed point of any width, a step a channel, and widths that follow from an error bound.

With e the relative squared error of a gradient, E|g_hat - g|^2 <= e |g|^2, the largest rounding step follows from norms
of gradients that the ordinary backward pass has anyway. They are read in the first step, which is exact, after 1, 2, 4
... 64 more, and in every hundredth.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from kernels.checks import MAX_WIDTH
from pytorch_models import packing_ops
from pytorch_models.channels import row
from pytorch_models.compressed import dense, learnt
from pytorch_models.compressed.codes import AsIs, Kept, NormalisedCode, Parts
from pytorch_models.compression import derived_seed
from pytorch_models.kernel_arrays import DenseLike
from zoo.fixed_widths import published_widths, widths_for_step
from zoo.schemes import Scheme

EVERY, MEAN_OF = 100, 10
LEARNT = ("square", "measured", "steps", "_history", "_above", "_below")


@dataclass
class Bound:
    """The rounding step that an error bound allows at one place, learnt from backward passes.

    Args:
        square: the step's square (one number, or (C,)), as published half of it; None = not known yet.
        measured: the last measured error of the gradient, relative and squared.
    """

    square: Tensor | None = None
    measured: float | None = None
    energy: Tensor | None = None  # of the rounding, where this step measures it
    steps: int = 0
    sources: int = 1  # norms in the model
    _history: list[Tensor] = field(default_factory=list)
    _above: Tensor | None = None
    _below: Tensor | None = None

    @property
    def is_due(self) -> bool:
        """Whether this step's backward pass is asked for its norms: early ones change fast and are asked more often."""
        done = self.steps - 1
        return done % EVERY == 0 or (done < EVERY and done & (done - 1) == 0)

    def begin(self) -> None:
        """A new step: what the last one learnt counts from now on."""
        if self._above is not None and self._below is not None:
            found = (self._above / self._below.clamp_min(1e-30)).cpu()  # few numbers, read on the CPU
            if bool(torch.isfinite(found).all()):
                self._history = [*self._history, found][-MEAN_OF:]
                self.square = torch.stack(self._history).mean(0)
        self._above = self._below = self.energy = None
        self.steps += 1

    def add(self, above: Tensor, below: Tensor) -> None:
        """One reader's share in the bound's fraction; several readers' are summed."""
        self._above = above if self._above is None else self._above + above
        self._below = below if self._below is None else self._below + below

    def state_dict(self) -> dict[str, Any]:
        """What was learnt, for a checkpoint."""
        return learnt.taken(self, LEARNT)

    def load_state_dict(self, state: Mapping[str, Any], where: str) -> None:
        """Go on from what `state_dict` gave."""
        learnt.given(self, LEARNT, state, where)

    def learn_convolution(
        self, scheme: Scheme, weight_gradient: Tensor, gradient: Tensor, taps: int, stride: int, shape: torch.Size,
        groups: int,
    ) -> None:  # fmt: skip
        """From a convolution (or, with taps and stride 1, a linear layer): see numerics of AC-GC, section 4."""
        if scheme.error is None or not self.is_due or isinstance(gradient, FakeTensor):
            return
        d_weight, d_out = _square(weight_gradient), _square(gradient)
        if scheme.stochastic:
            channels = shape[1] if len(shape) > 2 else shape[-1]
            self.add(4 * scheme.error * d_weight, channels / groups * taps * d_out)
        else:
            self.add(scheme.error * d_weight, 2 * math.prod(shape) * taps / stride**2 * d_out)
        if self.energy is not None:
            rows = math.prod(shape) / (shape[1] if len(shape) > 2 else shape[-1])
            error = taps / (groups * rows) * self.energy * d_out / d_weight.clamp_min(1e-30)
            self.measured = float(error)

    def learn_norm(
        self, scheme: Scheme, gradient: Tensor, d_inputs: Tensor, d_weight: Tensor, gain: Tensor, top: Tensor
    ) -> None:
        """From a norm, channel by channel.

        Args:
            gradient, d_inputs: of its outputs and inputs.
            d_weight: (C,).
            gain: (C,), weight * inv_std.
            top: (C,), the largest |zhat|.
        """
        if scheme.error is None or not self.is_due or isinstance(gradient, FakeTensor):
            return
        others = [dimension for dimension in range(gradient.dim()) if dimension != 1]
        channels, values = gradient.shape[1], gradient.numel() / gradient.shape[1]
        target = scheme.error * _square(d_inputs) * values / channels
        if scheme.stochastic:
            target = target / self.sources  # each norm's noise disturbs all layers below: e is shared out
            per_channel = gradient.float().square().sum(others)
            self.add((4 * target).expand(channels), gain.square() * (d_weight.float().square() + per_channel))
            return
        nonzero = (gradient != 0).sum(others).float()
        largest = gradient.float().square().amax(others)
        worst = nonzero.square() * largest * (top / 2).square()
        self.add(target.expand(channels), gain.square() * (d_weight.float().square() + worst))


def _square(tensor: Tensor) -> Tensor:
    return torch.linalg.vector_norm(tensor.detach().float()).square()


@dataclass(frozen=True)
class ChannelCode:
    """Fixed point with a step a channel; channels of one width lie together, `groups` says which.

    Parts are the steps (C,), and for every group its codes, with `zeros` also the mask of what is not zero.
    """

    like: DenseLike
    channels: int  # 1 where the tensor has no channels of its own
    groups: tuple[tuple[int, tuple[int, ...]], ...]
    signed: bool
    zeros: bool
    counts: tuple[int, ...]  # values that are coded, by group

    def unpack(self, parts: Parts) -> Tensor:
        step, *rest = parts
        shape = (self.like.shape[0], self.channels, -1) if self.channels > 1 else (1, 1, -1)
        inner = self.like.shape.numel() // max(shape[0] * self.channels, 1)
        made = []
        for (width, chosen), count in zip(self.groups, self.counts, strict=True):
            steps = step if len(chosen) == self.channels else step[list(chosen)]
            codes = rest.pop(0)
            flat = torch.empty(count, dtype=self.like.dtype, device=codes.device)
            if self.zeros:
                packing_ops.dequantize_channels_(codes, torch.ones_like(step[:1]), width, self.signed, 1, flat)
                size = shape[0] * len(chosen) * inner
                flat = packing_ops.zero_expand(rest.pop(0), flat, size).view(shape[0], len(chosen), inner)
                made.append(flat.mul_(row(steps, 3).to(flat.dtype)))
            else:
                packing_ops.dequantize_channels_(codes, steps, width, self.signed, inner, flat)
                made.append(flat.view(shape[0], len(chosen), inner))
        if len(made) == 1:
            return made[0].view(self.like.shape)
        out = made[0].new_empty(shape[0], self.channels, inner)
        for (_, chosen), values in zip(self.groups, made, strict=True):
            out.index_copy_(1, torch.tensor(chosen, device=out.device), values)
        return out.view(self.like.shape)


def pack(tensor: Tensor, scheme: Scheme, bound: Bound, seed: int) -> Kept:
    """A layer's input by an AC-GC scheme; as it is while the bound is not known."""
    bound.begin()
    if scheme.error is not None and (bound.square is None or isinstance(tensor, FakeTensor)):
        return Kept(AsIs(), (tensor,))
    kept = _pack_channels(tensor, scheme, bound.square, seed, zeros=scheme.zeros)
    if scheme.error is not None and bound.is_due:
        bound.energy = (kept.unpack().float() - tensor.float()).square().sum()
    return kept


def pack_normalised(tensor: Tensor, mean: Tensor, inv_std: Tensor, scheme: Scheme, bound: Bound, seed: int) -> Kept:
    """A norm's input, normalised, by an AC-GC scheme; as it is while the bound is not known."""
    bound.begin()
    if scheme.error is not None and (bound.square is None or isinstance(tensor, FakeTensor)):
        return Kept(AsIs(), (tensor,))
    dims = tensor.dim()
    zhat = torch.addcmul(row(-mean * inv_std, dims), tensor, row(inv_std, dims))
    square = None if bound.square is None else bound.square.clamp(2.0**-16 if not scheme.stochastic else 0.0, 4.0)
    kept = _pack_channels(zhat, scheme, square, seed, zeros=False)
    return Kept(NormalisedCode(kept.code, tensor.dtype), (*kept.parts, inv_std.reciprocal(), mean))


def average_bits(kept: Kept, count: int) -> float:
    """Bits a value that are really kept, steps and masks included."""
    return 8 * kept.nbytes / max(count, 1)


def published_bits(kept: Kept, scheme: Scheme, count: int) -> float:
    """Bits a value as AC-GC's tables count them: f + 1 whether signed or not, a bit of mask, no steps.

    `average_bits` counts what is kept: f + 2 where there are signs, and the steps.
    """
    code = kept.code.inner if isinstance(kept.code, NormalisedCode) else kept.code
    if not isinstance(code, ChannelCode):  # not known yet: kept as it is
        return average_bits(kept, count)
    sign = int(code.signed and scheme.error is not None)
    coded = sum((width - sign) * number for (width, _), number in zip(code.groups, code.counts, strict=True))
    return coded / max(count, 1) + code.zeros


def _pack_channels(tensor: Tensor, scheme: Scheme, square: Tensor | None, seed: int, *, zeros: bool) -> Kept:
    tensor = tensor.contiguous()
    # What reads (N, T, C) or (N, C) tells one bound for all; a norm over (N, C, T) or (N, C) one a channel.
    has_channels = tensor.dim() > 3 or (tensor.dim() > 1 and square is not None and square.numel() > 1)
    channels = tensor.shape[1] if has_channels else 1
    values = tensor.view(tensor.shape[0], channels, -1) if channels > 1 else tensor.view(1, 1, -1)
    low, high = torch.aminmax(values.float().transpose(0, 1).flatten(1), dim=1) if values.numel() else (
        values.new_zeros(1), values.new_zeros(1))  # fmt: skip
    top = torch.maximum(low.abs(), high.abs()).float()
    signed = False if isinstance(tensor, FakeTensor) else bool((low < 0).any())
    widths = _widths(scheme, square, top, signed, channels)
    levels = torch.tensor([2.0 ** (width - signed) - 1 for width in widths], device=tensor.device)
    # A channel of zeros, or with a NaN in it: the first decodes to zeros whatever its step, the second to NaN.
    step = torch.where(top == 0, torch.ones_like(top), top / levels.clamp_min(1))
    return _coded(tensor, values, widths, step, signed, zeros, seed if scheme.stochastic else packing_ops.NEAREST)


def _coded(
    tensor: Tensor, values: Tensor, widths: list[int], step: Tensor, signed: bool, zeros: bool, seed: int
) -> Kept:
    parts, groups, counts = [step], [], []
    for number, width in enumerate(sorted(set(widths))):
        chosen = tuple(index for index, one in enumerate(widths) if one == width)
        whole = len(chosen) == len(widths)
        part = values if whole else values[:, list(chosen)]
        steps = step if whole else step[list(chosen)]
        own = seed if seed == packing_ops.NEAREST else derived_seed(seed, number)
        inner = part.shape[2]
        if zeros:
            scaled = (part.float() / row(steps, 3)).reshape(-1)
            mask, flat = packing_ops.zero_compress(scaled)
            codes = packing_ops.quantize_channels(flat, torch.ones_like(step[:1]), width, signed, 1, own)
            parts += [codes, mask]
        else:
            flat = part.reshape(-1)
            parts.append(packing_ops.quantize_channels(flat, steps, width, signed, inner, own))
        groups.append((width, chosen))
        counts.append(flat.numel())
    code = ChannelCode(dense.like(tensor), len(widths), tuple(groups), signed, zeros, tuple(counts))
    return Kept(code, tuple(parts))


def _widths(scheme: Scheme, square: Tensor | None, top: Tensor, signed: bool, channels: int) -> list[int]:
    if scheme.error is None or square is None:
        return [max(int(scheme.bits or 1), 2 if signed else 1)] * channels
    largest = top.cpu().numpy()
    if scheme.stochastic:
        found = widths_for_step(square.sqrt().cpu().numpy(), largest, signed)
    else:
        found = published_widths(square.cpu().numpy(), largest, signed)
    return [min(max(int(width), 2 if signed else 1), MAX_WIDTH) for width in found.tolist()]
