"""A controller's place in a model: its `forward` runs inside the controller's recording."""

from __future__ import annotations

import copy
import inspect
import weakref
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn


class HookedForward:
    """What stands as `forward` of a model under a controller; a copy of the model has what `for_copy` gives."""

    def __init__(self, module: nn.Module, own: Any, controller: Any) -> None:
        self.module, self.own, self.controller = weakref.ref(module), own, controller
        self.__signature__ = inspect.signature(self._inner())  # trainers look which arguments a model takes

    @torch.compiler.disable(reason="what a controller packs is not part of a graph")
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.controller is None:
            return self._inner()(*args, **kwargs)
        with self.controller.recording(self.module()):
            return self._inner()(*args, **kwargs)

    @property
    def __code__(self) -> CodeType:
        """Of the forward inside: `torch.export` looks at it."""
        return self._inner().__code__

    def _alive(self) -> nn.Module:
        module = self.module()
        if module is None:
            raise ReferenceError("the model that this forward belongs to is gone")
        return module

    def _inner(self) -> Any:
        module = self._alive()
        return self.own if self.own is not None else type(module).forward.__get__(module)

    def __deepcopy__(self, memo: dict[int, Any]) -> HookedForward:
        module = self._alive()
        controller = None if self.controller is None else self.controller.for_copy(memo)
        return HookedForward(memo.get(id(module), module), copy.deepcopy(self.own, memo), controller)

    def __reduce__(self) -> tuple[Any, ...]:
        controller = None if self.controller is None else self.controller.for_copy({})
        return HookedForward, (self.module(), self.own, None if controller is None else self.controller)


def hook_forward(model: nn.Module, controller: Any) -> None:
    """Run a model's forward inside `controller.recording()`.

    Raises:
        RuntimeError: a controller is at work on the model already.
    """
    own = vars(model).get("forward")
    if isinstance(own, HookedForward) and own.controller is not None:
        again = "installed already" if own.controller is controller else "another Controller is at work on this model"
        raise RuntimeError(f"install: {again}: uninstall that one first")
    model.forward = HookedForward(model, own, controller)


def unhook_forward(model: nn.Module, controller: Any) -> None:
    """Take a controller away, also from beneath what was put over it since; nothing if it is not there."""
    forward = vars(model).get("forward")
    if isinstance(forward, HookedForward) and forward.controller is controller:
        del model.forward
        if forward.own is not None:
            model.forward = forward.own
        return
    while forward is not None:
        if isinstance(forward, HookedForward) and forward.controller is controller:
            forward.controller = None
        forward = getattr(forward, "own", None)


def kept_by_hooks(model: nn.Module) -> list[Tensor]:
    """What controllers at work in a model have packed in this thread's last forward pass."""
    forwards = [vars(module).get("forward") for module in model.modules()]
    return [
        part for one in forwards if isinstance(one, HookedForward) and one.controller for part in one.controller.kept()
    ]
