"""One call of a segment: its inputs are kept, and everything else is computed again in the backward pass.

`torch.utils.checkpoint` does the keeping and the recomputing. What it leaves to its caller is done here: the second
run sees the parameters and buffers of the first, and moves no running statistic; arguments may be nested; a segment
that changes its own inputs, or whose weights changed in between, is noticed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.checkpoint import checkpoint

RUNNING_STATISTICS = frozenset(("running_mean", "running_var", "num_batches_tracked"))


@torch.compiler.disable(reason="a segment runs again in the backward pass")
def call_segment(
    module: nn.Module | Sequence[nn.Module],
    forward: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any] = MappingProxyType({}),
) -> Any:
    """`forward(*args, **kwargs)`, of whose saved tensors only the tensors among the arguments are kept.

    Args:
        module: one or more in order of use, whose parameters and buffers `forward` reads.
        forward: what to run; runs once more in the backward pass, with the random numbers and autocast of now.
        args, kwargs: tensors, at any depth of lists, tuples and dicts, among any other values.

    Raises:
        RuntimeError: the segment changed an argument in place; or, in the backward pass, a parameter has changed.
    """
    modules = (module,) if isinstance(module, nn.Module) else tuple(module)
    leaves, layout = tree_flatten((tuple(args), dict(kwargs)))
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    copies_inputs = begins_in_place(modules[0])
    kept = [tensor.clone() if copies_inputs else tensor for tensor in tensors]
    run = _SegmentRun(
        forward,
        _ModuleState(modules),
        layout,
        [None if isinstance(leaf, Tensor) else leaf for leaf in leaves],
        tuple(index for index, leaf in enumerate(leaves) if isinstance(leaf, Tensor)),
        copies_inputs,
        (tuple(args), dict(kwargs)),
    )
    versions = [version(tensor) for tensor in tensors]
    outputs = checkpoint(run, *kept, *_on_other_devices(modules, tensors), use_reentrant=False)
    if not copies_inputs and versions != [version(tensor) for tensor in tensors]:
        raise RuntimeError(
            f"this segment, a {type(modules[0]).__name__}, changed its input in place, so that it cannot be run again "
            "from it: give its first activation inplace=False, or let the segment begin one module earlier"
        )
    run.state.settle()
    return outputs


@dataclass
class _SegmentRun:
    """The segment's forward pass: run on its own arguments first, rebuilt from what was kept after that."""

    forward: Callable[..., Any]
    state: _ModuleState
    layout: Any
    leaves: list[Any]  # None where a tensor stands
    positions: tuple[int, ...]
    copies_inputs: bool
    first: tuple[tuple[Any, ...], dict[str, Any]] | None

    def __call__(self, *tensors: Tensor) -> Any:
        if self.first is not None:
            (args, kwargs), self.first = self.first, None
            return self.forward(*args, **kwargs)
        leaves = list(self.leaves)
        for index, tensor in zip(self.positions, tensors, strict=False):
            leaves[index] = tensor.clone() if self.copies_inputs else tensor
        args, kwargs = tree_unflatten(leaves, self.layout)
        with self.state.restored():
            return self.forward(*args, **kwargs)


@dataclass
class _Slot:
    """One parameter or buffer, as the first run saw it."""

    name: str
    table: dict[str, Tensor | None]  # the module's own, in which it stands
    key: str
    tensor: Tensor
    version: int | None
    is_parameter: bool
    moves: bool = False  # a running statistic, which the first run moves and does not read
    before: Tensor | None = None  # its values before the first run, if that changed them

    def value(self) -> Tensor:
        """What a second run is to find."""
        if self.moves:
            return self.tensor.clone()
        if self.before is not None:
            return self.before.clone()
        if self.version is not None and self.version != version(self.tensor):
            kind, advice = "buffer", "call it in training mode"
            if self.is_parameter:
                kind, advice = "parameter", "step the optimizer"
            raise RuntimeError(
                f"{kind} {self.name} of a segment was modified by an inplace operation between the forward and the "
                f"backward pass, so that the segment cannot be run again: {advice} after backward() only"
            )
        return self.tensor


class _ModuleState:
    """Parameters, buffers and modes (training or eval) of modules at the time of a call."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self.slots: list[_Slot] = []
        self.modes: list[tuple[nn.Module, bool]] = []
        for path, child in (pair for module in modules for pair in module.named_modules()):
            self.modes.append((child, child.training))
            moving = isinstance(child, _NormBase) and child.training and child.track_running_stats
            for table, is_parameter in ((child._parameters, True), (child._buffers, False)):
                for key, tensor in table.items():
                    if tensor is not None:
                        name = f"{path}.{key}" if path else key
                        moves = moving and key in RUNNING_STATISTICS
                        slot = _Slot(name, table, key, tensor, version(tensor), is_parameter, moves)
                        if not (is_parameter or moves) and child.training:
                            slot.before = tensor.detach().clone()
                        self.slots.append(slot)

    def settle(self) -> None:
        """After the first run: of the buffers copied before it, only those that it changed stay copied."""
        for slot in self.slots:
            if slot.before is not None and slot.version is not None and slot.version == version(slot.tensor):
                slot.before = None

    @contextlib.contextmanager
    def restored(self) -> Iterator[None]:
        """Inside, the module has its mode, parameters and buffers of the first run, and moves none of the present."""
        present = []
        modes = [(child, child.training) for child, _ in self.modes]
        try:
            _set_modes(self.modes)
            for slot in self.slots:
                found, wanted = slot.table.get(slot.key), slot.value()
                # Sharded parameters are put in place, whole or in shards, by those who shard them.
                if found is not wanted and not (is_sharded(found) or is_sharded(wanted)):
                    present.append((slot, found))
                    slot.table[slot.key] = wanted
            yield
        finally:
            _set_modes(modes)
            for slot, found in present:
                slot.table[slot.key] = found


def _set_modes(modes: Sequence[tuple[nn.Module, bool]]) -> None:
    for module, training in modes:
        module.training = training


def version(tensor: Tensor) -> int | None:
    """How often a tensor has been changed in place; None where that is not counted."""
    return None if tensor.is_inference() else tensor._version


def is_sharded(tensor: Tensor | None) -> bool:
    """Whether a tensor is a DTensor, a piece of one that several processes hold."""
    return hasattr(tensor, "placements")  # importing the class takes half a second


def begins_in_place(module: nn.Module) -> bool:
    """Whether a module's first operation is an activation that overwrites its input, as far as its structure tells."""
    while isinstance(module, nn.Sequential) and len(module) and type(module).forward is nn.Sequential.forward:
        module = module[0]
    return getattr(module, "inplace", False) is True


def _on_other_devices(modules: Sequence[nn.Module], tensors: Sequence[Tensor]) -> list[Tensor]:
    """Empty tensors on devices that only the module's parameters are on: random streams kept are the arguments'."""
    devices = {parameter.device for module in modules for parameter in module.parameters()}
    devices -= {tensor.device for tensor in tensors}
    return [torch.empty(0, device=device) for device in devices if device.type not in ("cpu", "meta")]
