"""Where one layer packs one tensor: in how many bits each sample, and what that cost the gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from pytorch_models.compressed import codes, dense, fixed, learnt
from pytorch_models.compressed.codes import Kept
from pytorch_models.kernel_arrays import backend_of
from zoo import bits as bit_rules
from zoo.schemes import FIXED, Scheme

FEW = 64
LEARNT = ("average", "least", "count", "items", "last_bits", "published_bits", "_cost", "_per_index")


@dataclass(frozen=True)
class Packed:
    """A kept tensor, where it was packed, and how much of its rounding reaches the values that it stands for.

    Args:
        gain: energy of the values' noise over that of the packed ones, a tensor of one number; None = 1.
        levels: (2^b - 1)^2 of each sample, where bits are adaptive.
    """

    kept: Kept
    site: Site
    gain: Tensor | None = None
    levels: Tensor | None = None

    @property
    def without_parts(self) -> Packed:
        """The same for a Function's context, which gives the parts to `save_for_backward`."""
        return replace(self, kept=Kept(self.kept.code, (), self.kept.energy))


@dataclass(eq=False)
class Site:
    """State of one place; `pack` is called once a step.

    Args:
        name: of the layer.
        average: bits a value here, on average over samples.
        least: the fewest bits of a sample. Rounding a norm's input disturbs the gradient of every layer below, which
            its own cost does not tell: a norm never gets fewer than the scheme's average.
    """

    name: str
    scheme: Scheme
    samples: int = 0
    average: float = 0.0
    least: int = 1
    count: int = 0
    items: int = 0
    last_bits: float = 0.0
    published_bits: float | None = None  # by AC-GC's own counting
    bound: fixed.Bound = field(default_factory=fixed.Bound)
    _cost: Tensor | None = None  # (samples,) variance times levels, from the last backward pass
    _measured: Tensor | None = None  # the levels of the forward pass that it belongs to
    _variance: Tensor | None = None  # added to the weights' gradients in the last backward pass
    _per_index: Tensor | None = None  # with indices: |dY|^2 of every sample, running half-half
    _indices: Tensor | None = None

    def __post_init__(self) -> None:
        self.average = float(self.scheme.bits or 0)
        if self.samples:
            self._per_index = torch.full((self.samples,), math.nan)

    @property
    def is_measured(self) -> bool:
        """Whether a backward pass has told what rounding costs here."""
        return self._cost is not None

    def costs(self) -> Tensor:
        """(samples,): c of each sample in c / (2^b - 1)^2, from the last backward pass."""
        assert self._cost is not None, "asked for after a backward pass"
        return self._cost

    @property
    def variance(self) -> float:
        """What rounding here adds to the weights' gradients, as predicted in the last backward pass; else NaN."""
        return math.nan if self._variance is None else float(self._variance)

    def pack(self, tensor: Tensor, seed: int, indices: Tensor | None) -> Packed:
        """Keep the values of a tensor, (N, ...)."""
        self._note(tensor, indices)
        if self.scheme.way == FIXED:
            kept = fixed.pack(tensor, self.scheme, self.bound, seed)
            return self._counted(kept, tensor.numel())
        widths = self._widths(tensor)
        return self._packed(codes.pack_values(tensor, widths, seed), widths)

    def pack_normalised(
        self, tensor: Tensor, mean: Tensor, inv_std: Tensor, seed: int, indices: Tensor | None
    ) -> Packed:
        """Keep a norm's input, (N, C, ...), as normalised."""
        self.least = max(int(self.scheme.bits or 1), 1)
        self._note(tensor, indices)
        if self.scheme.way == FIXED:
            kept = fixed.pack_normalised(tensor, mean, inv_std, self.scheme, self.bound, seed)
            return self._counted(kept, tensor.numel())
        per_channel = tensor.numel() // max(tensor.shape[1], 1)
        floor = 4 if per_channel < FEW else 1
        widths = self._widths(tensor, floor)
        return self._packed(codes.pack_normalised(tensor, mean, inv_std, widths, seed), widths)

    def _counted(self, kept: Kept, count: int) -> Packed:
        self.last_bits = fixed.average_bits(kept, count)
        self.published_bits = fixed.published_bits(kept, self.scheme, count)
        return Packed(kept, self)

    def pack_rows(self, zhat: Tensor, seed: int, indices: Tensor | None, row: int) -> Packed:
        """Keep a row norm's input, (N, ...), given normalised, of `row` values each."""
        self.least = max(int(self.scheme.bits or 1), 1)
        self._note(zhat, indices)
        floor = 4 if row < FEW else 1
        widths = self._widths(zhat, floor)
        return self._packed(codes.pack_values(zhat, widths, seed), widths)

    def _packed(self, kept: Kept, widths: tuple[int, ...]) -> Packed:
        levels = torch.tensor([(2.0**width - 1) ** 2 for width in widths]) if self.scheme.adaptive else None
        return Packed(kept, self, levels=levels)

    def add_cost(self, packed: Packed, gradient: Tensor, noise: Callable[..., Any]) -> None:
        """Learn, in the backward pass, what the rounding cost.

        Args:
            gradient: of the layer's output, (N, ...).
            noise: (energy of each sample, |dY|^2 of each) -> variance of the weight's gradient, each (N,).
        """
        if packed.kept.energy is None or gradient.dim() < 2 or isinstance(gradient, FakeTensor):
            return
        self.add_squares(packed, torch.linalg.vector_norm(gradient.detach().flatten(1).float(), dim=1).square(), noise)

    def add_squares(self, packed: Packed, square: Tensor, noise: Callable[..., Any]) -> None:
        """As `add_cost`, from the gradient's squared norm in each sample, (N,)."""
        energy, levels = packed.kept.energy, packed.levels
        if energy is None or levels is None or len(energy) != len(square) or isinstance(square, FakeTensor):
            return
        if packed.gain is not None:
            energy = energy * packed.gain
        if not bool(torch.isfinite(square).all()):
            return  # a step that the loss scaler will skip
        again = self._measured is levels  # another layer that reads the same values
        found = noise(energy.float(), square.to(energy.device)).sum()
        self._variance = self._variance + found if again and self._variance is not None else found
        if self._per_index is not None and self._indices is not None:
            square = self._running(square.cpu())
        elif self.scheme.adaptive:
            square = square.mean().expand(len(square))
        cost = noise(energy.float(), square.to(energy.device)) * levels.to(energy.device)
        self._cost = self._cost + cost if again and self._cost is not None else cost
        self._measured = levels

    def state_dict(self) -> dict[str, Any]:
        """What was learnt, for a checkpoint."""
        return {**learnt.taken(self, LEARNT), "bound": self.bound.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any], where: str) -> None:
        """Go on from what `state_dict` gave."""
        learnt.given(self, LEARNT, state, where)
        self.bound.load_state_dict(state["bound"], where)

    def as_row(self) -> dict[str, Any]:
        """For a report."""
        row: dict[str, Any] = {"layer": self.name, "values": self.count, "bits": round(self.last_bits, 2)}
        if self.published_bits is not None:
            row["published_bits"] = round(self.published_bits, 2)
        if self.bound.measured is not None:
            row |= {"error": self.bound.measured, "bound": self.scheme.error}
        return row

    def _note(self, tensor: Tensor, indices: Tensor | None) -> None:
        if tensor.is_meta:
            backend_of(tensor)  # says that there are no kernels
        self.count, self.items = tensor.numel(), tensor.shape[0] if tensor.dim() else 1
        self._indices = indices

    def _widths(self, tensor: Tensor, floor: int = 0) -> tuple[int, ...]:
        """Bits of every sample, or one width for all; none below `floor`."""
        if not self.scheme.adaptive or tensor.dim() < 2 or tensor.shape[0] == 0:
            width = max(int(self.scheme.bits or 0), floor)
            self.last_bits = float(width)
            return (width,)
        flat = dense.rows(tensor, tensor.shape[0]) if dense.samples_lie_apart(tensor) else tensor.flatten(1)
        weights = torch.linalg.vector_norm(flat.float(), dim=1).square()
        if self._per_index is not None and self._indices is not None and len(self._indices) == len(weights):
            known = self._per_index[self._indices]
            typical = known[~known.isnan()].mean() if bool((~known.isnan()).any()) else torch.tensor(1.0)
            weights = weights * torch.where(known.isnan(), typical, known).to(weights.device)
        if isinstance(tensor, FakeTensor):
            widths = [int(self.scheme.bits or 1)] * tensor.shape[0]
        else:
            average, sizes = max(self.average, 1.0), [1.0] * len(weights)
            widths = bit_rules.allocate(weights.cpu().numpy(), sizes, average, least=self.least).tolist()
        found = tuple(max(int(width), floor) for width in widths)
        self.last_bits = sum(found) / len(found)
        return found

    def _running(self, square: Tensor) -> Tensor:
        """Half of what is known of each sample and half of what came; all of what came at the first visit."""
        assert self._per_index is not None
        assert self._indices is not None
        known = self._per_index[self._indices]
        mixed = torch.where(known.isnan(), square, (known + square) / 2)
        self._per_index[self._indices] = mixed
        return mixed
