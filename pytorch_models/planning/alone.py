"""What one part costs when it runs alone: bytes by the tracker on tensors without data, seconds by a small real run."""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import flop_registry

from pytorch_models.planning.coding import Coded
from pytorch_models.planning.trace import device_type_of, storage_of, storages_of, tensors_in
from pytorch_models.tracker import MemoryTracker

Configured: TypeAlias = Callable[[nn.Module], contextlib.AbstractContextManager[Any]]
FLOPS_PER_SECOND, BYTES_PER_SECOND = 5e10, 1e10  # of one core, about: only their ratio matters to a plan
HOST_BYTES_PER_SECOND = BYTES_PER_SECOND / 50  # a bus beside a GPU's own memory, about
SAMPLE_SECONDS = 0.1  # of work that one timed run of a part is cut down to: less, and calls are timed, not work
REPEATS = 3


@dataclass(frozen=True)
class Cost:
    """What a part costs by one kind of keeping.

    Args:
        output_bytes, gradient_bytes: of what it gives, and of the gradients of that.
        resident_bytes, forward_bytes, backward_bytes, keeps_output, needs_input: as `zoo.planner.Option` has them.
        left_bytes: gradients of its parameters.
        forward_seconds, backward_seconds: by operations and bytes.
    """

    output_bytes: int
    gradient_bytes: int
    resident_bytes: int
    forward_bytes: int
    backward_bytes: int
    left_bytes: int
    keeps_output: bool
    needs_input: bool
    forward_seconds: float
    backward_seconds: float


def cost_of(run: Callable[..., Any], parameters: Sequence[Tensor], args: Any, kwargs: Any) -> Cost:
    """Run a part forward and backward on its own, counting; everything is on FakeTensors."""
    torch.clear_autocast_cache()  # weights that another run has cast
    args, kwargs = fresh((args, kwargs))
    inputs = tensors_in((args, kwargs))
    given = {storage_of(tensor) for tensor in inputs}
    for parameter in parameters:
        parameter.grad = None
    work, seen_input = Work(), [False]

    def pack(tensor: Tensor) -> Tensor:
        seen_input[0] = seen_input[0] or storage_of(tensor) in given
        return tensor.detach()

    with MemoryTracker((*parameters, *inputs), device_type_of((*inputs, *parameters))) as tracker:
        with saved_tensors_hooks(pack, lambda tensor: tensor), work:
            outputs = run(*args, **kwargs)
        # A part with codes has hooks of its own, which see what is saved in the place of these.
        seen_input[0] = seen_input[0] or any(storage_of(tensor) in given for tensor in _kept_by(run))
        forward_peak, forward_seconds = tracker.peak_bytes, work.take()
        made = [tensor for tensor in tensors_in(outputs) if storage_of(tensor) not in given]
        # An operator in place hands its input on: that is its output, and what it keeps of it is its own.
        taken_over = {k: size for k, size in storages_of(tensors_in(outputs)).items() if k in given}
        output_bytes = sum(storages_of(made).values()) + sum(taken_over.values())
        wanting = [tensor for tensor in tensors_in(outputs) if tensor.requires_grad]
        gradient_bytes = sum(tensor.numel() * tensor.element_size() for tensor in wanting)
        end = _End.apply(*wanting) if wanting else None
        births = [allocation for tensor in made if (allocation := tracker.allocation_of(tensor)) is not None]
        del outputs, made, wanting, args, kwargs
        keeps_output = bool(births) and all(birth.died is None for birth in births)
        resident = tracker.live_bytes
        tracker.peak_bytes = resident
        if end is not None:
            with work:
                end.backward()
        backward_peak, backward_seconds = tracker.peak_bytes, work.take()
    left = sum(storages_of([p.grad for p in parameters if p.grad is not None]).values())
    for parameter in parameters:
        parameter.grad = None
    before = sum(tensor.numel() * tensor.element_size() for tensor in inputs if tensor.requires_grad)
    scratch = backward_peak - resident - gradient_bytes - before - left
    if taken_over and seen_input[0]:
        resident, keeps_output = resident + sum(taken_over.values()), True
    return Cost(
        output_bytes,
        gradient_bytes,
        resident,
        max(0, forward_peak - resident - (0 if keeps_output else output_bytes)),
        scratch,
        left,
        keeps_output or not output_bytes,
        seen_input[0] and not taken_over,
        forward_seconds,
        backward_seconds,
    )


def backward_bytes_beside(
    run: Callable[..., Any], reader: Callable[[Any], Any], parameters: Sequence[Tensor], args: Any, kwargs: Any
) -> int:
    """A part's scratch in the backward pass where `reader`, which runs after it, hands it the gradient itself."""
    torch.clear_autocast_cache()  # weights that another run has cast
    args, kwargs = fresh((args, kwargs))
    inputs, at_start = tensors_in((args, kwargs)), [0]
    with MemoryTracker((*parameters, *inputs), device_type_of((*inputs, *parameters))) as tracker:

        def start(gradient: Tensor) -> None:
            at_start[0] = tracker.peak_bytes = tracker.live_bytes

        outputs = run(*args, **kwargs)
        outputs.register_hook(start)
        end = _End.apply(reader(outputs))
        del outputs, args, kwargs
        end.backward()
        peak = tracker.peak_bytes
    left = sum(storages_of([p.grad for p in parameters if p.grad is not None]).values())
    for parameter in parameters:
        parameter.grad = None
    before = sum(tensor.numel() * tensor.element_size() for tensor in inputs if tensor.requires_grad)
    return peak - at_start[0] - before - left


def _kept_by(run: Callable[..., Any]) -> list[Tensor]:
    return run.kept() if isinstance(run, Coded) else []


def seconds_of(
    module: nn.Module,
    configured: Configured,
    args: Any,
    kwargs: Any,
    batch: int,
    estimate: float,
) -> tuple[float, float]:
    """Least forward and backward seconds of a real part, timed on a part of the batch and scaled to all of it.

    Args:
        configured: gives a module as a function that keeps by the kind to be timed.
        args, kwargs: tensors without data, of which shapes, dtypes and devices are read.
        batch: the size of the batch, which is a factor of the tensors' first dimension, or nothing is cut down.
        estimate: seconds of the whole batch, by operations and bytes.
    """
    share = min(batch, max(2, int(batch * SAMPLE_SECONDS / estimate))) if estimate > 0 else batch
    with unset_fake_temporarily(), torch.random.fork_rng():
        part = copy.deepcopy(module)
        return _real_seconds(part, configured, args, kwargs, batch, share)


def _real_seconds(
    part: nn.Module, configured: Configured, args: Any, kwargs: Any, batch: int, share: int
) -> tuple[float, float]:
    with configured(part) as run:
        args, kwargs = fresh((args, kwargs), lambda tensor: random_share(tensor, batch, share))
        forward, backward = zip(*(_timed(run, part, args, kwargs) for _ in range(REPEATS + 1)), strict=True)
    scale = batch / share
    return min(forward[1:]) * scale, min(backward[1:]) * scale


def _timed(run: Callable[..., Any], part: nn.Module, args: Any, kwargs: Any) -> tuple[float, float]:
    for parameter in part.parameters():
        parameter.grad = None
    devices = {tensor.device for tensor in tensors_in((args, kwargs))}
    args, kwargs = tree_map_only(Tensor, lambda t: _Start.apply(t, t.clone()) if t.requires_grad else t, (args, kwargs))
    start = _now(devices)
    outputs = run(*args, **kwargs)
    middle = _now(devices)
    wanting = [tensor for tensor in tensors_in(outputs) if tensor.requires_grad]
    if wanting:
        torch.autograd.backward(wanting, [torch.ones_like(tensor) for tensor in wanting])
    return middle - start, _now(devices) - middle


def _now(devices: set[torch.device]) -> float:
    return now("cuda" if any(device.type == "cuda" for device in devices) else "cpu")


def now(device_type: str) -> float:
    """Seconds, when all is done: of the clock; on one thread of a CPU, of the process, whatever others do."""
    if device_type == "cuda":
        torch.cuda.synchronize()
    return time.process_time() if device_type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter()


def random_share(tensor: Tensor, batch: int, share: int) -> Tensor:
    """A tensor like one that is of a batch, of so many of its samples, and with values: floats drawn, the rest 0."""
    shape = list(tensor.shape)
    if shape and batch and shape[0] % batch == 0:
        shape[0] = shape[0] // batch * share
    made = torch.zeros(shape, dtype=tensor.dtype, device=tensor.device)
    if tensor.is_floating_point():
        made.normal_()
    channels_last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return made.contiguous(memory_format=torch.channels_last) if channels_last and not tensor.is_contiguous() else made


def fresh(values: Any, make: Callable[[Tensor], Tensor] | None = None) -> Any:
    """The same nested values with tensors of their own; one that wants a gradient is no leaf, as inside a network."""

    def again(tensor: Tensor) -> Tensor:
        if id(tensor) not in made:
            like = (
                make(tensor)
                if make
                else torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)
            )
            leaf = like.requires_grad_(tensor.requires_grad)
            made[id(tensor)] = leaf if make or not leaf.requires_grad else _Start.apply(leaf, torch.empty_like(leaf))
        return made[id(tensor)]

    made: dict[int, Tensor] = {}
    return tree_map_only(Tensor, again, values)


class _Start(torch.autograd.Function):
    """What a part reads: the second argument, as the output of an operator whose gradient is dropped."""

    @staticmethod
    def forward(ctx: Any, leaf: Tensor, values: Tensor) -> Tensor:
        ctx.mark_dirty(values)
        return values

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None]:
        return None, None


class _End(torch.autograd.Function):
    """The end of a part: a number whose backward pass makes the gradients of what the part gave."""

    @staticmethod
    def forward(ctx: Any, *outputs: Tensor) -> Tensor:
        ctx.facts = [(tensor.shape, tensor.dtype, tensor.device) for tensor in outputs]
        return outputs[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty(shape, dtype=dtype, device=device) for shape, dtype, device in ctx.facts)


class Work(TorchDispatchMode):
    """Seconds by operations and bytes moved, of the operators that run while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = function(*args, **(kwargs or {}))
        counted = flop_registry.get(function._overloadpacket)
        if counted is not None:
            self.seconds += counted(*args, **(kwargs or {}), out_val=results) / FLOPS_PER_SECOND
        given = {storage_of(tensor) for tensor in tensors_in((args, kwargs))}
        made = [tensor for tensor in tensors_in(results) if storage_of(tensor) not in given]
        if made or function._schema.is_mutable:
            moved = sum(tensor.numel() * tensor.element_size() for tensor in tensors_in((args, kwargs, results)))
            away = len({tensor.device.type for tensor in tensors_in((args, results))}) > 1
            self.seconds += moved / (HOST_BYTES_PER_SECOND if away else BYTES_PER_SECOND)
        return results

    def take(self) -> float:
        """The seconds so far; starts again at 0."""
        seconds, self.seconds = self.seconds, 0.0
        return seconds
