"""GACT's automatic bits: what each saved tensor's rounding costs the gradient, and bits within an average."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pytorch_models.compressed.codes import Kept
from pytorch_models.compressed.noise_of import linear_noise
from pytorch_models.compression import derived_seed
from zoo import bits as bit_rules

WIDTHS = (1, 2, 4, 8, bit_rules.KEEP)


@dataclass
class Slot:
    """The n-th tensor packed in a forward pass.

    Args:
        cost: variance it adds to the gradient, times (2^b - 1)^2; None = not known yet.
        analytic: known from formulas in every step, so that it needs no probe.
    """

    count: int
    floor: int
    bits: int
    cost: float | None = None
    analytic: bool = False


@dataclass
class AutomaticBits:
    """Chooses bits for the tensors of a model so that their average is at most `average`.

    What an input of a convolution or a linear layer costs follows from its measured rounding energy and its output's
    gradient (`noise_of`); for the others, `probe` rounds one of them differently in two equal steps: half the squared
    difference of the gradients estimates the variance.
    """

    average: float
    slots: list[Slot] = field(default_factory=list)
    _choice: random.Random = field(default_factory=lambda: random.Random(0))
    _probed: tuple[int, int, int] | None = None  # slot, salt, base seed
    _pending: list[Callable[[], tuple[int, float]]] = field(default_factory=list)

    def choose(self, index: int, count: int, floor: int, seed: int) -> tuple[int, int]:
        """Seed and bits for the index-th tensor."""
        if index >= len(self.slots):
            bits = max(bit_rules.WIDTHS[0], floor, int(self.average))
            self.slots.append(Slot(count, floor, next(width for width in WIDTHS if width >= bits)))
        slot = self.slots[index]
        slot.count, slot.floor = count, floor
        if self._probed is not None:
            probed, salt, base = self._probed
            seed = derived_seed(base, 2 * index + (salt if index == probed else 0))
            # A tensor that is kept as it is shows no noise: probe it at 8 bits.
            return seed, min(slot.bits, 8) if index == probed else slot.bits
        return seed, slot.bits

    def watch_gradient(
        self, index: int, kept: Kept, name: str, arguments: Sequence[Any], keywords: Mapping[str, Any], result: Tensor
    ) -> None:
        """Learn what a convolution's or linear layer's input costs, in the backward pass."""
        if not result.requires_grad or kept.energy is None:
            return
        noise = linear_noise(name, arguments, keywords, result)
        if noise is None:
            return
        slot, energy = self.slots[index], kept.energy.sum()
        slot.analytic, levels = True, (2**slot.bits - 1) ** 2

        def learn(gradient: Tensor) -> None:
            square = gradient.detach().float().square().sum()
            self._pending.append(lambda: (index, noise(float(energy), float(square)) * levels))

        result.register_hook(learn)

    def probe(self, model: nn.Module, step: Callable[[], object]) -> None:
        """Run `step` twice, with one of the tensors that formulas say nothing about rounded differently."""
        unknown = [index for index, slot in enumerate(self.slots) if not slot.analytic]
        if not unknown:
            return
        index, base = self._choice.choice(unknown), torch.initial_seed()
        unvisited = [one for one in unknown if self.slots[one].cost is None]
        index = unvisited[0] if unvisited else index
        gradients, learned = [], list(self._pending)
        for salt in (0, 1):
            self._probed = (index, salt, base)
            try:
                gradients.append(_gradients_of(model, step))
            finally:
                self._probed = None
        self._pending = learned
        difference = sum(float((a - b).float().square().sum()) for a, b in zip(*gradients, strict=True))
        slot = self.slots[index]
        slot.cost = difference / 2 * (2 ** min(slot.bits, 8) - 1) ** 2

    def allocate(self) -> None:
        """Choose every slot's bits anew from what is known; a step with infinite or NaN gradients teaches nothing."""
        for find in self._pending:
            index, cost = find()
            if cost < float("inf"):
                self.slots[index].cost = cost
        self._pending.clear()
        known = [slot for slot in self.slots if slot.cost is not None]
        if not known:
            return
        typical = sum(slot.cost or 0.0 for slot in known) / sum(slot.count for slot in known)
        costs = [slot.cost if slot.cost is not None else typical * slot.count for slot in self.slots]
        counts, floors = [slot.count for slot in self.slots], [slot.floor for slot in self.slots]
        chosen = bit_rules.allocate(costs, counts, self.average, WIDTHS, floors)
        for slot, bits in zip(self.slots, chosen, strict=True):
            slot.bits = int(bits)

    def state_dict(self) -> dict[str, Any]:
        """What was learnt by the last `allocate`, and which tensor is probed next."""
        return {"slots": [asdict(slot) for slot in self.slots], "choice": self._choice.getstate()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.slots = [Slot(**slot) for slot in state["slots"]]
        self._choice.setstate(state["choice"])
        self._pending.clear()

    @property
    def average_bits(self) -> float:
        """Mean of the chosen bits over all values."""
        total = sum(slot.count for slot in self.slots)
        return sum(slot.bits * slot.count for slot in self.slots) / max(total, 1)


def _gradients_of(model: nn.Module, step: Callable[[], object]) -> list[Tensor]:
    """The parameters' gradients of one step, which leaves gradients, buffers and random streams as they were."""
    with _put_back(model), torch.random.fork_rng():
        for parameter in model.parameters():
            parameter.grad = None
        step()
        return [parameter.grad.detach() for parameter in model.parameters() if parameter.grad is not None]


@contextlib.contextmanager
def _put_back(model: nn.Module) -> Iterator[None]:
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        for parameter, gradient in gradients:
            parameter.grad = gradient
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
