"""One forward pass of a model on tensors without data: which module runs when, on what, and who reads what it gives.

The model is a copy on FakeTensors: nothing is computed, the user's model is not touched, and any size can be planned.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeCopyMode,
    FakeTensorMode,
)
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only


@dataclass
class Call:
    """One call of one module.

    Args:
        name, module: which.
        parent: the call inside which it ran.
        args, kwargs, output: of the call.
        start, end: numbers of its first operator, and of the first after it.
        modes: what surrounded it: gradients, autocast.
    """

    name: str
    module: nn.Module
    parent: Call | None
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    start: int
    modes: tuple[Any, ...]
    end: int = 0
    output: Any = None
    children: list[Call] = field(default_factory=list)

    @property
    def inputs(self) -> list[Tensor]:
        """The tensors among its arguments."""
        return tensors_in((self.args, dict(self.kwargs)))

    @property
    def outputs(self) -> list[Tensor]:
        """The tensors in what it gave."""
        return tensors_in(self.output)


@dataclass
class Trace:
    """What was seen of one forward pass and its loss.

    Args:
        root: the model's own call.
        born, read: per storage, at which operator it came, and at which ones it was read.
        saved: per storage, the first operator that saved it for the backward pass, and its bytes.
        calls: how often each module was called.
    """

    root: Call
    born: dict[int, int]
    read: dict[int, list[int]]
    saved: dict[int, tuple[int, int]]
    calls: dict[nn.Module, int]
    alive: list[Any] = field(default_factory=list, repr=False)  # the storages: an id alone could be given again

    def saved_bytes(self, start: int, end: int) -> int:
        """Bytes born by operators start..end-1 and kept for the backward pass."""
        return sum(size for key, (_, size) in self.saved.items() if start <= self.born.get(key, -1) < end)


class DataDependentError(ValueError):
    """A model whose forward pass depends on values: no step of it can be followed without computing it."""


@contextlib.contextmanager
def fake_copy(model: nn.Module, batch: Any) -> Iterator[tuple[nn.Module, Any]]:
    """The model and its batch without data, inside a mode in which nothing is computed.

    Raises:
        TypeError: the model cannot be copied.
    """
    mode = FakeTensorMode()
    try:
        with FakeCopyMode(mode):
            copied = copy.deepcopy(model)
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise TypeError(f"plan: a {type(model).__name__} cannot be copied, which planning needs: {error}") from error
    for module in copied.modules():
        if isinstance(module, _BatchNorm) and module.momentum is None:
            module.momentum = 0.5  # a running average reads how many steps there were; its bytes are the same
    with mode:
        yield copied, tree_map_only(Tensor, mode.from_tensor, batch)


def trace(model: nn.Module, run: Callable[[], Tensor]) -> Trace:
    """Follow `run()`, which calls the model once and gives a loss. `model` is a fake copy: hooks are put on it.

    Raises:
        DataDependentError: naming the module whose control flow depends on values.
        ValueError: the batch is none for the model, naming the module where it fails; or the model's own forward was
            not called, or more than once.
    """
    watcher = _Watcher({module: name for name, module in model.named_modules()})
    with watcher.hooked(model), watcher, _unlogged():
        try:
            end = run()
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            raise DataDependentError(
                f"plan: {watcher.place()} decides by values what it computes, which cannot be planned for: {error}; "
                "plan a module that does not contain it"
            ) from None
        except RuntimeError as error:
            shapes = ", ".join(str(tuple(one.shape)) for one in watcher.given())
            raise ValueError(
                f"plan: {watcher.place()} cannot run on a batch of shape {shapes}: {error}; give a batch that the "
                "model can be called with"
            ) from error
    if not isinstance(end, Tensor) or not end.requires_grad:
        raise ValueError(
            "plan: what the loss gives has no gradient: is anything in the model trained, and is the loss a tensor "
            "made of what the model gives?"
        )
    if len(watcher.roots) != 1:
        raise ValueError(f"plan: the model's forward ran {len(watcher.roots)} times in one step, needed is once")
    found = watcher.roots[0]
    return Trace(found, watcher.born, watcher.read, watcher.saved, watcher.counts, watcher.alive)


@contextlib.contextmanager
def _unlogged() -> Iterator[None]:
    """Torch also logs, with its traceback, what an operator on tensors without data raises: not in this thread."""
    thread = threading.get_ident()

    def is_of_others(record: logging.LogRecord) -> bool:
        return record.thread != thread

    log = logging.getLogger(FakeTensorMode.__module__)
    log.addFilter(is_of_others)
    try:
        yield
    finally:
        log.removeFilter(is_of_others)


class _Watcher(TorchDispatchMode):
    """Numbers operators, and notes modules' calls, storages' births and reads, and what is saved."""

    def __init__(self, names: dict[nn.Module, str]) -> None:
        super().__init__()
        self.names, self.clock = names, itertools.count()
        self.now = 0
        self.stack: list[Call] = []
        self.roots: list[Call] = []
        self.born: dict[int, int] = {}
        self.read: dict[int, list[int]] = {}
        self.saved: dict[int, tuple[int, int]] = {}
        self.counts: dict[nn.Module, int] = {}
        self.alive: list[Any] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        number = self.now
        self.now += 1
        for tensor in tensors_in((args, kwargs)):
            self.read.setdefault(storage_of(tensor), []).append(number)
        results = function(*args, **(kwargs or {}))
        for tensor in tensors_in(results):
            key = storage_of(tensor)
            if key not in self.born and key not in self.read:
                self.born[key] = number
                self.alive.append(tensor.untyped_storage())
        return results

    def place(self) -> str:
        """The module that is running, in words."""
        if not self.stack:
            return "the loss" if self.roots else "the model"
        return f"{self.stack[-1].name or 'the model'} ({type(self.stack[-1].module).__name__})"

    def given(self) -> list[Tensor]:
        """What the model was called with."""
        return self.roots[0].inputs if self.roots else []

    @contextlib.contextmanager
    def hooked(self, model: nn.Module) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for module in self.names:
                enter = module.register_forward_pre_hook(self._enter, with_kwargs=True, prepend=False)
                stack.callback(enter.remove)
                leave = module.register_forward_hook(self._leave, with_kwargs=False, prepend=True)
                stack.callback(leave.remove)
            stack.enter_context(saved_tensors_hooks(self._pack, lambda tensor: tensor))
            yield

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        parent = self.stack[-1] if self.stack else None
        call = Call(self.names[module], module, parent, args, kwargs, self.now, modes_now())
        (self.roots if parent is None else parent.children).append(call)
        self.stack.append(call)
        self.counts[module] = self.counts.get(module, 0) + 1

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        call = self.stack.pop()
        call.end, call.output = self.now, output

    def _pack(self, tensor: Tensor) -> Tensor:
        key = storage_of(tensor)
        if key in self.born:
            self.saved.setdefault(key, (self.now, tensor.untyped_storage().nbytes()))
        return tensor.detach()


def modes_now() -> tuple[Any, ...]:
    """What surrounds a call and changes what it does."""
    kinds = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    casts = tuple(torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None for kind in kinds)
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), casts


def tensors_in(values: Any) -> list[Tensor]:
    """The tensors in nested values, each once."""
    found = (leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor))
    return list({id(tensor): tensor for tensor in found}.values())


def device_type_of(tensors: Sequence[Tensor]) -> str:
    """Where a model computes: of the first of its tensors that is not in host memory, if any is not."""
    return next((tensor.device.type for tensor in tensors if tensor.device.type != "cpu"), "cpu")


def storage_of(tensor: Tensor) -> int:
    """An id of what a tensor and its views share, while that is alive."""
    return tensor.untyped_storage()._cdata


def storages_of(tensors: Sequence[Tensor]) -> dict[int, int]:
    """Bytes of the storages behind tensors, by id."""
    return {storage_of(tensor): tensor.untyped_storage().nbytes() for tensor in tensors}
