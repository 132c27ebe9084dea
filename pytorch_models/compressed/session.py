"""One model's compression: its scheme, its rounding noise, what is packed already, and how bits are shared out."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from pytorch_models.compressed.codes import Kept, ViewCode
from pytorch_models.compressed.gact import Controller
from pytorch_models.compressed.known import KnownTensors
from pytorch_models.compressed.sites import Packed, Site
from pytorch_models.compression import NoiseSeeds
from pytorch_models.saving.eligibility import graph_is_being_exported, why_call_is_plain
from zoo import bits as bit_rules
from zoo.schemes import Scheme, find_scheme

INTERVAL = 10  # steps between two distributions of the bits among layers
DEFAULT_SCHEME = "2"  # of layers that are built by hand


class Compression:
    """Shared by all layers of one model, and by nothing else.

    Args:
        scheme: see `zoo.schemes.find_scheme`.
        samples: with per-sample gradients (ActNN's `use_gradient`): how many samples the training set has; 0 = the
            batch's mean is used.
    """

    def __init__(self, scheme: str | int | Scheme = DEFAULT_SCHEME, samples: int = 0) -> None:
        self.scheme = find_scheme(scheme)
        self.samples = samples
        self.indices: Tensor | None = None
        self.seeds, self.known = NoiseSeeds(), KnownTensors()
        self.sites: list[Site] = []
        self.hooks: Mapping[str, Any] | None = None  # options of the controller for what is no layer
        self.controller: Controller | None = None
        self.steps = 0
        self.unconverted: tuple[str, ...] = ()

    def new_site(self, name: str) -> Site:
        """A place where a layer packs one tensor a call."""
        site = Site(name, self.scheme, self.samples)
        self.sites.append(site)
        return site

    @contextlib.contextmanager
    def recording(self, model: nn.Module) -> Iterator[None]:
        """One forward pass of the whole model."""
        if self.known.is_open or why_call_is_plain() is not None or graph_is_being_exported():
            yield
            return
        self.begin()
        self._make_controller()
        self.known.is_open = True
        try:
            with contextlib.nullcontext() if self.controller is None else self.controller.recording(model):
                yield
        finally:
            self.known.is_open = False
            self.known.forget()

    def own_hooks(self) -> contextlib.AbstractContextManager[None]:
        """Hooks at 8 bits for a layer that is built by hand, in no model that has some."""
        self.hooks = self.hooks or {"bits": 8, "swap": self.scheme.swap}
        self._make_controller()
        assert self.controller is not None, "just made"
        return self.controller.recording()

    def begin(self) -> None:
        """Forget what was packed in the last forward pass, and share out the bits if it is time."""
        self.known.forget()
        if self.scheme.adaptive and torch.is_grad_enabled() and any(site.is_measured for site in self.sites):
            if self.steps % INTERVAL == 0:
                self._share_out()
            self.steps += 1

    def kept(self) -> list[Tensor]:
        """What hooks packed in the last forward pass and still keep (for measuring)."""
        return [] if self.controller is None else self.controller.kept()

    def set_indices(self, indices: Sequence[int] | Tensor | None) -> None:
        """Which samples of the training set the next batch holds; see `IndexedLoader`.

        Raises:
            ValueError: indices outside the training set, or a model compressed without `num_samples`.
        """
        if indices is None:
            self.indices = None
            return
        if not self.samples:
            raise ValueError("set_indices: give num_samples=<size of the training set> to compress() first")
        found = torch.as_tensor(indices, dtype=torch.long)
        if found.numel() and not 0 <= int(found.min()) <= int(found.max()) < self.samples:
            raise ValueError(f"set_indices: indices must be 0 to {self.samples - 1}, not up to {int(found.max())}")
        self.indices = found

    def find(self, tensor: Tensor) -> Packed | None:
        """What stands for this tensor's values already."""
        found = self.known.find(tensor, "values") if self.known.is_open else None
        if found is None:
            return None
        packed, shape, stride = found
        own = tuple(tensor.shape), tensor.stride()
        if (shape, stride) == own:
            return packed
        # The same values in another order (a transpose): which sample a row belongs to is no longer told.
        return replace(packed, kept=Kept(ViewCode(packed.kept.code, stride, *own), packed.kept.parts))

    def pack(self, tensor: Tensor, site: Site) -> Packed:
        """A tensor's values by the scheme, once for all layers that read it."""
        found = self.find(tensor)
        if found is None:
            found = site.pack(tensor.detach(), self.seeds.next(), self.indices)
            self.derive(tensor, found)
        return found

    def derive(self, tensor: Tensor, packed: Packed) -> None:
        """Say that a tensor's values can be made from what is kept already."""
        if self.known.is_open:
            self.known.add(tensor, "values", (packed, tuple(tensor.shape), tensor.stride()))

    @property
    def average_bits(self) -> float:
        """Mean bits a value over everything that layers and hooks coded in the last step."""
        values, bits = (self.controller.coded.values, self.controller.coded.bits) if self.controller else (0, 0.0)
        sites = [site for site in self.sites if site.count]
        values, bits = values + sum(site.count for site in sites), bits + sum(s.last_bits * s.count for s in sites)
        return bits / max(values, 1)

    @property
    def published_bits(self) -> float:
        """`average_bits` by AC-GC's own counting (f + 1 a value, signed or not, no steps); NaN of other schemes."""
        sites = [site for site in self.sites if site.count and site.published_bits is not None]
        total = sum(site.count for site in sites)
        return sum((site.published_bits or 0.0) * site.count for site in sites) / total if total else float("nan")

    def report(self) -> list[dict[str, Any]]:
        """A row a layer: name, values, average bits; of AC-GC's schemes also bits by its own counting, and where a

        bound is in use, the error measured and the bound.
        """
        return [site.as_row() for site in self.sites if site.count]

    def _share_out(self) -> None:
        """Layers' average bits from all (layer, sample) items of the last backward pass."""
        measured = [site for site in self.sites if site.is_measured and site.items]
        # A backward pass may be older than the last forward pass, which was of another batch.
        costs = [site.costs().cpu() for site in measured]
        sizes = [torch.full((len(cost),), site.count / site.items) for site, cost in zip(measured, costs, strict=True)]
        assert self.scheme.bits is not None, "adaptive schemes have an average"
        least = [site.least for site, cost in zip(measured, costs, strict=True) for _ in cost]
        chosen = bit_rules.allocate(
            torch.cat(costs).numpy(), torch.cat(sizes).numpy(), self.scheme.bits, least=least
        )  # fmt: skip
        start = 0
        for site, cost in zip(measured, costs, strict=True):
            site.average = float(chosen[start : start + len(cost)].mean())
            start += len(cost)

    def state_dict(self) -> dict[str, Any]:
        """What was learnt so far, for a checkpoint: tensors on the CPU, numbers, lists and dictionaries.

        It is not in the model's own `state_dict()`, whose keys do not depend on compression. What a scheme that learns
        nothing (a fixed number of bits) has here is its noise alone.

        Example:
            >>> from pytorch_models.compressed import compress
            >>> model = compress(nn.Sequential(nn.Linear(64, 8)), "L3")
            >>> model(torch.randn(4, 64)).sum().backward()
            >>> state = model.compression.state_dict()
            >>> model.compression.load_state_dict(state)
            >>> state["scheme"], list(state["layers"])
            ('L3', ['0'])
        """
        return {
            "scheme": str(self.scheme),
            "steps": self.steps,
            "seeds": self.seeds.state_dict(),
            "layers": {site.name: site.state_dict() for site in self.sites},
            "controller": None if self.controller is None else self.controller.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave: the same bits and the same rounding noise as without an interruption.

        Raises:
            ValueError: the state of another scheme or of other layers; then nothing is changed.
        """
        where = "compression.load_state_dict"
        missing = [key for key in ("scheme", "steps", "seeds", "layers", "controller") if key not in state]
        if missing:
            raise ValueError(f"{where}: the state has no {', '.join(missing)}: give what state_dict() returned")
        if state["scheme"] != str(self.scheme):
            raise ValueError(
                f"{where}: the state was learnt by {state['scheme']}, the model is compressed by {self.scheme}: "
                f"compress it by {state['scheme']}, or leave the state out and learn anew"
            )
        names = [site.name for site in self.sites]
        if set(state["layers"]) != set(names):
            other = sorted(set(state["layers"]) ^ set(names))
            raise ValueError(f"{where}: the state is of other layers (they differ in {', '.join(other[:4])})")
        self.steps = state["steps"]
        self.seeds.load_state_dict(state["seeds"])
        for site in self.sites:
            site.load_state_dict(state["layers"][site.name], f"{where}: layer {site.name!r}")
        if state["controller"] is not None:
            self._make_controller()
            assert self.controller is not None, "schemes that have one have it in their state"
            self.controller.load_state_dict(state["controller"])

    def _make_controller(self) -> None:
        if self.hooks is not None and self.controller is None:
            self.controller = Controller(**self.hooks)

    def for_copy(self, memo: dict[int, Any]) -> Compression:
        """What stands in a deep copy of the model."""
        return copy.deepcopy(self, memo)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "controller": None}


def compression_of(model: nn.Module) -> Compression | None:
    """A model's compression, or None.

    Example:
        >>> compression_of(nn.Linear(2, 2)) is None
        True
    """
    found = vars(model).get("compression")
    return found if isinstance(found, Compression) else None
