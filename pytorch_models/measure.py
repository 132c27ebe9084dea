"""Saved bytes, peak bytes and time of a training step, by the one tracker every figure of PyTorch comes from."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from pytorch_models.compressed.hooked_forward import kept_by_hooks
from pytorch_models.compressed.session import compression_of
from pytorch_models.operators import NAMESPACE
from pytorch_models.planning.step import default_loss
from pytorch_models.segments import is_segment
from pytorch_models.tracker import Allocation, MemoryTracker, track_peak
from zoo.policy import MemoryPolicy
from zoo.report import LayerRow, MemoryReport

__all__ = ["MemoryTracker", "measure_step", "track_peak"]


@dataclass
class SavedTensorLog:
    """Which module saved which storage for the backward pass, while its context is open."""

    tracker: MemoryTracker
    names: dict[nn.Module, str]
    stack: list[nn.Module] = field(default_factory=list)

    @contextlib.contextmanager
    def record(self) -> Iterator[None]:
        """Watch a forward pass."""
        with contextlib.ExitStack() as stack:
            # Hooks on all modules, not on each: a module's own hooks would change which path it takes.
            stack.callback(register_module_forward_pre_hook(self._enter).remove)
            stack.callback(register_module_forward_hook(self._leave, always_call=True).remove)
            stack.enter_context(saved_tensors_hooks(self._pack, lambda tensor: tensor))
            yield

    def claim(self, parts: Iterable[Tensor]) -> None:
        """Count what hooks inside the model packed, out of this log's sight."""
        for allocation in map(self.tracker.allocation_of, parts):
            if allocation is not None and not allocation.owner:
                allocation.owner, allocation.kept = "(saved-tensor hooks)", "codes of what any operator saves"

    def _enter(self, module: nn.Module, _: Any) -> None:
        if module in self.names:
            self.stack.append(module)

    def _leave(self, module: nn.Module, *_: Any) -> None:
        if self.stack and self.stack[-1] is module:
            self.stack.pop()

    def _pack(self, tensor: Tensor) -> Tensor:
        allocation = self.tracker.allocation_of(tensor)
        if allocation is not None and not allocation.owner:
            module = self.stack[-1] if self.stack else None
            allocation.owner = self.names[module] if module is not None else "loss"
            allocation.kept = _how_kept(module)
        # Detached: a saved output would otherwise hold itself alive through its own node.
        return tensor.detach()


def _how_kept(module: nn.Module | None) -> str:
    if module is not None and is_segment(module):
        return "a segment: its input, the rest is computed again"
    describe = getattr(module, "how_kept", None)
    return describe() if describe is not None else "kept by autograd"


def measure_step(
    model: nn.Module,
    input_shape: Sequence[int],
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    repeats: int = 3,
    execute: bool = True,
    policy: str = "",
) -> MemoryReport:
    """Measure one training step (forward, cross-entropy, backward) of a classifier or language model on random inputs.

    The model's parameters, buffers, gradients and device, and the random streams, end as they were.

    Args:
        model: (N, ...) -> (N, classes), or a zoo language model; moved to `device` for the measurement.
        input_shape: of one batch, with the batch size first.
        repeats: timed steps after one warm-up; the median is reported. 0 = measure no time.
        execute: False = bytes only, under FakeTensorMode: nothing is computed, any size can be measured.
        policy: what to call this configuration in the report; by default the model's own policy.

    Returns:
        A report. Peak bytes count activations, gradients and scratch; parameters, buffers and inputs are not in it.

    Raises:
        ValueError: a shape that is no batch.

    Example:
        >>> report = measure_step(nn.Sequential(nn.Flatten(), nn.Linear(48, 10)), (8, 3, 4, 4), repeats=0)
        >>> report.parts["parameter gradients"] // 4
        490
    """
    if isinstance(input_shape, str):
        raise TypeError(f"input_shape must be a sequence of sizes, not {input_shape!r}")
    shape = tuple(int(size) for size in input_shape)
    if not shape or min(shape) < 1:
        raise ValueError(f"input_shape must be positive sizes with the batch first, not {input_shape!r}")
    if repeats < 0:
        raise ValueError(f"repeats must be 0 or more, not {repeats}")
    with _left_as_it_was(model):
        model.to(device)
        if not execute:
            with FakeTensorMode() as mode:
                found = _tracked_step(model, _random_batch(model, shape, device, dtype), mode)
        else:
            batch = _random_batch(model, shape, device, dtype)
            found = _tracked_step(model, batch)
            seconds = [_timed_step(model, batch) for _ in range(repeats + 1 if repeats else 0)][1:]
            found["step_seconds"] = statistics.median(seconds) if seconds else None
    return MemoryReport(
        model=type(model).__name__,
        policy=policy or _policy_in_words(model),
        input_shape=shape,
        dtype=str(dtype).removeprefix("torch."),
        device=device,
        model_bytes=sum(t.untyped_storage().nbytes() for t in (*model.parameters(), *model.buffers())),
        **found,
    )


def _policy_in_words(model: nn.Module) -> str:
    """The model's own policy, or how `compress` converted it."""
    policy, compression = getattr(model, "policy", None), compression_of(model)
    if compression is not None and getattr(policy, "compressed", None) is None:
        return str(MemoryPolicy(compressed=compression.scheme.name))
    return "plain" if policy is None else str(policy)


def _random_batch(model: nn.Module, shape: tuple[int, ...], device: str, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Random inputs; for a language model random tokens, and what comes after each."""
    spec = getattr(model, "spec", None)
    if not getattr(spec, "is_language_model", False):
        return (torch.randn(shape, device=device, dtype=dtype),)
    vocabulary = spec.num_classes  # type: ignore[union-attr]
    return tuple(torch.randint(vocabulary, shape, device=device) for _ in ("tokens", "targets"))


def _loss(model: Any, batch: tuple[Tensor, ...]) -> Tensor:
    if len(batch) == 2:  # a model that makes its own loss, chunk by chunk
        loss_sum, _ = model(*batch)
        return loss_sum / batch[1].numel()
    return default_loss(model(*batch))


def _tracked_step(model: nn.Module, batch: tuple[Tensor, ...], mode: FakeTensorMode | None = None) -> dict[str, Any]:
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    call: Any = model
    if mode is not None:
        tensors = {name: mode.from_tensor(tensor) for name, tensor in tensors.items()}
        call = lambda *batch: torch.func.functional_call(model, tensors, batch)  # noqa: E731
    with MemoryTracker((*tensors.values(), *batch)) as tracker:
        log = SavedTensorLog(tracker, {module: name or "(model)" for name, module in model.named_modules()})
        with log.record():
            loss = _loss(call, batch)
        log.claim(kept_by_hooks(model))
        saved = [a for a in tracker.allocations if a.owner and a.died is None]
        loss.backward()
        gradients = [tracker.allocation_of(t.grad) for t in tensors.values() if t.grad is not None]
    del loss
    return {
        "saved_bytes": sum(a.storage_bytes for a in saved),
        "peak_bytes": tracker.peak_bytes,
        "parts": _parts(tracker.alive_at_peak(), [a for a in gradients if a is not None]),
        "rows": tuple(_rows(saved)),
        "ran_on": _ran_on(tracker, model, batch[0]),
    }


def _ran_on(tracker: MemoryTracker, model: nn.Module, inputs: Tensor) -> str:
    """Which kernels ran, as seen; PyTorch's operators in a saving model that needs none; "" for a plain one."""
    if tracker.operators[NAMESPACE]:
        return {"cpu": "numba kernels", "cuda": "CUDA kernels"}.get(inputs.device.type, "kernels")
    return "PyTorch's operators" if getattr(getattr(model, "policy", None), "recompute_activations", False) else ""


def _parts(alive: list[Allocation], gradients: list[Allocation]) -> dict[str, int]:
    parts = {"saved tensors": 0, "parameter gradients": 0, "other gradients and scratch": 0}
    of_parameters = {id(a) for a in gradients}
    for allocation in alive:
        if allocation.owner:
            name = "saved tensors"
        elif id(allocation) in of_parameters:
            name = "parameter gradients"
        else:
            name = "other gradients and scratch"
        parts[name] += allocation.storage_bytes
    return parts


def _rows(saved: list[Allocation]) -> Iterator[LayerRow]:
    owners: dict[tuple[str, str], int] = {}
    for allocation in saved:
        key = (allocation.owner, allocation.kept)
        owners[key] = owners.get(key, 0) + allocation.storage_bytes
    for (owner, kept), size in owners.items():
        yield LayerRow(owner, size, kept)


def _timed_step(model: nn.Module, batch: tuple[Tensor, ...]) -> float:
    for parameter in model.parameters():
        parameter.grad = None
    _synchronise(batch[0])
    start = time.perf_counter()
    _loss(model, batch).backward()
    _synchronise(batch[0])
    return time.perf_counter() - start


def _synchronise(tensor: Tensor) -> None:
    if tensor.device.type == "cuda":
        torch.cuda.synchronize(tensor.device)


@contextlib.contextmanager
def _left_as_it_was(model: nn.Module) -> Iterator[None]:
    """Give the model its device, buffers and gradients back, and the process its random streams."""
    gradients = {parameter: parameter.grad for parameter in model.parameters()}
    buffers = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
    homes = {tensor.device for tensor in (*gradients, *buffers.values())}
    try:
        with torch.random.fork_rng():
            for parameter in gradients:
                parameter.grad = None
            yield
    finally:
        for parameter in gradients:
            parameter.grad = None
        if len(homes) == 1:
            model.to(homes.pop())
        for parameter, gradient in gradients.items():
            parameter.grad = gradient
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])
