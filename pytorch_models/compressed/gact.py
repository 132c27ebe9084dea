"""GACT: what any operator of any model saves for its backward pass, in few bits, by saved-tensor hooks.

`gact(model, bits=4)` is the context manager, `Controller` the object behind it.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from pytorch_models.compressed import codes, dense
from pytorch_models.compressed.automatic import AutomaticBits
from pytorch_models.compressed.codes import Kept
from pytorch_models.compressed.exact import pack_exactly
from pytorch_models.compressed.hooked_forward import HookedForward, hook_forward, unhook_forward
from pytorch_models.compressed.known import KnownTensors
from pytorch_models.compressed.recording import (
    Coded,
    Recording,
    SavedTensor,
    ThreadState,
    check_bits,
    pack_with_own_statistics,
)
from pytorch_models.compressed.saved_by import OperatorWatch, holds_log_probabilities, is_parameter, least_bits
from pytorch_models.compressed.swapping import to_device, to_host
from pytorch_models.compression import NoiseSeeds
from pytorch_models.kernel_arrays import backend_of
from pytorch_models.saving.eligibility import graph_is_being_exported, why_call_is_plain
from pytorch_models.saving.own import is_own
from zoo import bits as bit_rules

SMALLEST = 256  # values; what is smaller gains nothing
LEAST_LOGARITHM = -24.0  # of a probability that float32 gradients tell from 0


@contextlib.contextmanager
def gact(model: nn.Module, bits: int = 4, *, automatic: bool = False) -> Iterator[Controller]:
    """While it is open, what a model's forward pass saves for its backward pass is kept in few bits.

    Outputs do not change. Gradients of weights whose inputs are saved stay unbiased; where a gradient is not linear in
    what is saved (softmax, GELU), at least 8 bits are kept. Other models, other threads and contexts around are not
    touched. Inside a `torch.utils.checkpoint` segment only its inputs are packed, and all is recomputed from those.

    Args:
        model, bits, automatic: see `Controller`.

    Example:
        >>> model = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 1))
        >>> with gact(model, bits=4):
        ...     loss = model(torch.randn(32, 64)).sum()
        >>> loss.backward()
    """
    controller = Controller(model, bits, automatic=automatic)
    controller.install()
    try:
        yield controller
    finally:
        controller.uninstall()


class Controller:
    """Packs and unpacks saved tensors for one model.

    Args:
        model: whose forward pass is watched while installed; None where `quantize` and `dequantize` are given to
            `torch.autograd.graph.saved_tensors_hooks` by hand, as users of MMLab's adapters do. Then the operator that
            saves a tensor is not known: only outputs of activations and softmax are told apart.
        bits: 1, 2, 4 or 8 bits a value for tensors that gradients are linear in; others get at least 8. Masks,
            positions of maxima and shapes are kept exactly.
        default_bit: another name of `bits`.
        automatic: choose 1, 2, 4, 8 bits or none at all for each tensor, so that the average is at most `bits`; from
            what `iterate` learns.
        keep_values: pack nothing that is not exact.
        swap: what is kept of tensors on a GPU moves to host memory.
        seeds: of the rounding noise, where several controllers are not to round alike; None = its own.

    Raises:
        TypeError, ValueError: a model that is none, or bits that cannot be.

    Source:
        GACT (Liu et al. 2022, arXiv:2206.11357).

    Example:
        >>> model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
        >>> controller = Controller(model, bits=4)
        >>> controller.install()
        >>> model(torch.randn(32, 64, requires_grad=True)).sum().backward()
        >>> controller.iterate()
        >>> controller.uninstall()
    """

    def __init__(
        self,
        model: nn.Module | None = None,
        bits: int = 4,
        *,
        default_bit: int | None = None,
        automatic: bool = False,
        keep_values: bool = False,
        swap: bool = False,
        seeds: NoiseSeeds | None = None,
    ) -> None:
        if model is not None and not isinstance(model, nn.Module):
            raise TypeError(f"Controller: model must be a torch.nn.Module, not {model!r}; give bits by name")
        self.bits = check_bits(bits if default_bit is None else default_bit)
        self.model = model
        self.automatic = AutomaticBits(self.bits) if automatic else None
        self._keeps_values, self._swap = keep_values, swap
        self._seeds, self._known, self._kept_out = seeds or NoiseSeeds(), KnownTensors(), dict[int, Any]()
        self._thread = ThreadState()

    def filter_tensors(self, tensors: Iterable[tuple[str, Tensor] | Tensor]) -> None:
        """Leave these, and views of them, as they are: parameters, buffers."""
        for item in tensors:
            storage = (item[1] if isinstance(item, tuple) else item).untyped_storage()
            self._kept_out[storage._cdata] = storage  # kept alive: an address could be given to another tensor

    def install(self) -> None:
        """Watch the model's forward pass from now on.

        Raises:
            RuntimeError: installed already, or another controller is at work on the model.
            ValueError: made without a model.
        """
        if self.model is None:
            raise ValueError("install: this Controller has no model: give one, or use saved_tensors_hooks yourself")
        hook_forward(self.model, self)

    def uninstall(self) -> None:
        """Undo `install`; a second time it does nothing."""
        if self.model is not None:
            unhook_forward(self.model, self)
        self._known.forget()

    @property
    def is_installed(self) -> bool:
        """Whether it watches its model."""
        forward = vars(self.model).get("forward") if self.model is not None else None
        return isinstance(forward, HookedForward) and forward.controller is self

    @contextlib.contextmanager
    def recording(self, model: nn.Module | None = None) -> Iterator[None]:
        """Pack what is saved inside; without gradients, under `torch.func` transforms and export nothing is."""
        plain = why_call_is_plain() is not None or graph_is_being_exported()
        if plain or not torch.is_grad_enabled() or self._thread.recording is not None:
            yield
            return
        self._known.forget()
        self._thread.recording = recording = Recording(OperatorWatch(self._after_operator), Coded())
        self._thread.kept, self._thread.coded = recording.kept, recording.coded
        try:
            with saved_tensors_hooks(self.quantize, self.dequantize), recording.watch:
                yield
        finally:
            self._thread.recording = None
            self._known.forget()

    def quantize(self, tensor: Tensor) -> SavedTensor | Tensor:
        """Pack a tensor that is being saved; what needs no packing comes back as it is."""
        whole, kept = dense.fills_storage(tensor), None
        if not self._stays(tensor):
            kept = self._exact(tensor) or self._coded(tensor)
        if kept is None:
            left = tensor.detach()  # an output would otherwise hold itself alive through its own node
            self._thread.kept.append(weakref.ref(left))
            return left
        return SavedTensor(kept, tuple(tensor.shape), tensor.stride(), whole, tensor.device)

    def dequantize(self, saved: SavedTensor | Tensor) -> Tensor:
        """The tensor that `quantize` packed, with rounding noise of mean 0 or exactly."""
        if isinstance(saved, Tensor):
            return saved
        tensor = saved.kept.code.unpack(to_device(saved.kept.parts, saved.device))
        if saved.whole and (tuple(tensor.shape), tensor.stride()) != (saved.shape, saved.stride):
            return tensor.as_strided(saved.shape, saved.stride)
        return tensor

    def iterate(self, step: Callable[[], object] | None = None) -> None:
        """End of an optimiser step.

        Args:
            step: runs forward and backward on the batch of this step again; with `automatic`, what the tensors that
                are no input of a convolution or linear layer are worth is found by calling it twice, one of them a
                step, with other rounding noise. Gradients and buffers are put back.
        """
        self._known.forget()
        if self.automatic is not None:
            if step is not None and self.model is not None:
                self.automatic.probe(self.model, step)
            self.automatic.allocate()

    def state_dict(self) -> dict[str, Any]:
        """What was learnt so far and where the rounding noise stands, for a checkpoint."""
        chosen = None if self.automatic is None else self.automatic.state_dict()
        return {"seeds": self._seeds.state_dict(), "automatic": chosen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave.

        Raises:
            ValueError: automatic bits in one of both alone.
        """
        if (state["automatic"] is None) != (self.automatic is None):
            raise ValueError("Controller.load_state_dict: the state and this Controller must both be automatic or not")
        self._seeds.load_state_dict(state["seeds"])
        if self.automatic is not None:
            self.automatic.load_state_dict(state["automatic"])

    def kept(self) -> list[Tensor]:
        """What this thread's last forward pass saved and still keeps: parts of what was packed, and the rest."""
        alive = [kept for reference in self._thread.kept if (kept := reference()) is not None]
        return [part for kept in alive for part in ((kept,) if isinstance(kept, Tensor) else kept.parts)]

    @property
    def coded(self) -> Coded:
        """Values that this thread's last forward pass coded, and their bits; what is kept exactly is not counted."""
        return self._thread.coded

    def _stays(self, tensor: Tensor) -> bool:
        if tensor.dim() < 2 or tensor.numel() < SMALLEST or tensor.layout != torch.strided or is_own(tensor):
            return True
        if tensor.untyped_storage()._cdata in self._kept_out or is_parameter(tensor):
            return True
        return tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size()  # expanded

    def _exact(self, tensor: Tensor) -> Kept | None:
        recording = self._thread.recording
        watch = None if recording is None else recording.watch
        purpose = f"exact {None if watch is None else watch.name}"
        if tensor.dtype == torch.bool:
            found = self._known.find(tensor, purpose)
            if found is not None:
                return found
        found = pack_exactly(tensor, watch)
        return None if found is None else self._remember(tensor, purpose, found)

    def _remember(self, tensor: Tensor, purpose: str, kept: Kept) -> Kept:
        if self._swap:
            kept = replace(kept, parts=to_host(kept.parts))
        self._known.add(tensor, purpose, kept)
        self._thread.kept.append(weakref.ref(kept))
        return kept

    def _coded(self, tensor: Tensor) -> Kept | None:
        if not tensor.requires_grad or not dense.can_be_coded(tensor):
            return None
        recording = self._thread.recording
        watch = None if recording is None else recording.watch
        floor = least_bits(watch, tensor)
        if floor is None:
            return None
        normalised = watch is not None and watch.name in ("batch_norm", "instance_norm") and tensor.dim() > 2
        logarithms = holds_log_probabilities(watch, tensor)
        purpose = "normalised" if normalised else "log probabilities" if logarithms else f"values {floor}"
        found = self._known.find(tensor, purpose)
        if found is not None:
            return found
        if self._keeps_values:
            return self._remember(tensor, purpose, Kept(codes.AsIs(), (dense.dense(tensor.detach()),)))
        backend_of(tensor)
        seed, bits = self._seeds.next(), max(self.bits, floor)
        if recording is not None:
            slot, recording.slots = recording.slots, recording.slots + 1
            if self.automatic is not None:
                seed, bits = self.automatic.choose(slot, tensor.numel(), floor, seed)
        if bits >= bit_rules.KEEP:
            return None
        values = tensor.detach().clamp_min(LEAST_LOGARITHM) if logarithms else tensor
        kept = pack_with_own_statistics(values, bits, seed) if normalised else codes.pack_values(values, (bits,), seed)
        kept = self._remember(tensor, purpose, kept)
        if recording is not None:
            recording.packed.append((slot, kept))
            recording.coded.add(tensor.numel(), bits)
        return kept

    def _after_operator(self, name: str, arguments: Sequence[Any], keywords: Mapping[str, Any], result: Any) -> None:
        recording = self._thread.recording
        if recording is None:
            return
        packed, recording.packed = recording.packed, []
        if self.automatic is not None and len(packed) == 1 and isinstance(result, Tensor):
            self.automatic.watch_gradient(*packed[0], name, arguments, keywords, result)

    def for_copy(self, memo: dict[int, Any]) -> None:
        """What stands in a copy of the model: nothing, a copy is not watched."""
