"""A plan at work in a model: each module's `forward` is replaced by one that keeps, recomputes or codes as planned.

A stretch of several modules that is to run again as one runs when its first module is called; the others then hand on
what they are given. The model's own forward sees to it that they were called as planned, with the very tensors.
"""

from __future__ import annotations

import contextvars
import copy
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pytorch_models.compression import NoiseSeeds
from pytorch_models.planning.coding import Coded
from pytorch_models.planning.fingerprint import fingerprint_of
from pytorch_models.planning.settings import give_back, needs_hooks, set_policy
from pytorch_models.saving.eligibility import graph_is_being_exported, has_hooks, warn_plain
from pytorch_models.segments import run_as_segment
from zoo.planner import Plan, Steps
from zoo.planner.asked import check_made_for
from zoo.planner.kinds import KEEP, KINDS, bits_of
from zoo.planner.steps import parts_of
from zoo.weights import strip_wrappers


def apply_plan(plan: Plan, model: nn.Module) -> nn.Module:
    """See `zoo.planner.Plan.apply`."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"Plan.apply: needed is a torch.nn.Module, not a {type(model).__name__}")
    if planned_root(model) is not None:
        raise ValueError("Plan.apply: this model has a plan already: remove that one first")
    check_made_for(plan, fingerprint_of(model), model, "Plan.apply")
    unused, root = [part.name for part in plan.parts], PlannedRoot(plan)
    names = {strip_wrappers(name): name for name, _ in model.named_modules(remove_duplicate=False)}
    missing = [name for name in unused if not name.startswith("(") and name not in names]
    if missing:
        raise ValueError(f"Plan.apply: the model has no module {missing[0]!r}")
    modules = {i: names[part.name] for i, part in enumerate(plan.parts) if not part.name.startswith("(")}
    _install(root, model, modules)
    return model


def remove_plan(plan: Plan, model: nn.Module) -> nn.Module:
    """See `zoo.planner.Plan.remove`."""
    root = planned_root(model)
    if root is not None and plan.undoes(root.plan):
        _uninstall(root, model)
    return model


def planned_root(model: nn.Module) -> PlannedRoot | None:
    """What stands as a model's forward while a plan is applied to it, or None."""
    forward = vars(model).get("forward")
    return forward.root if isinstance(forward, PlannedForward) and forward.is_root else None


@dataclass
class _Running:
    """What the model whose forward runs expects to happen next; or that a stretch runs, whose modules are themselves.

    Args:
        root: the plan's.
        inside: a stretch is running.
        waiting: parts that a stretch already ran, which will be called next and hand on `value`.
    """

    root: PlannedRoot
    inside: bool = False
    waiting: tuple[int, ...] = ()
    value: Tensor | None = None


_running: contextvars.ContextVar[_Running | None] = contextvars.ContextVar("running planned model", default=None)


class PlannedRoot:
    """A plan in a model: what to undo, and where its modules are."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.model: Callable[[], nn.Module | None] = lambda: None
        self.names: dict[int, str] = {}
        self.policies: dict[str, Any] = {}
        self.seeds = NoiseSeeds()

    def part(self, index: int) -> nn.Module:
        """The module of a part."""
        model = self.model()
        if model is None:
            raise ReferenceError("the model that this plan was applied to is gone")
        return model.get_submodule(self.names[index])

    def __deepcopy__(self, memo: dict[int, Any]) -> PlannedRoot:
        copied = PlannedRoot(self.plan)
        memo[id(self)] = copied
        copied.names, copied.policies = dict(self.names), dict(self.policies)
        model = self.model()
        copied.model = weakref.ref(memo.get(id(model), model))
        return copied

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "model": self.model()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, model=weakref.ref(state["model"]))


class PlannedForward:
    """Stands as `forward` of a part, of the model, or of both."""

    def __init__(self, module: nn.Module, own: Any, root: PlannedRoot) -> None:
        self.module: Callable[[], nn.Module | None] = weakref.ref(module)
        self.own = own  # a forward set on the instance before; None = its class's
        self.root = root
        self.is_root = False
        self.index: int | None = None
        self.stretch: Steps = ()
        self.coded = ""  # the kind that is brought about from outside

    @torch.compiler.disable(reason="a stretch runs ahead of the modules in it, which then hand on what they are given")
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run as planned; under `torch.compile`, operator by operator."""
        if self.is_root and (_now() is None or _now().root is not self.root):  # type: ignore[union-attr]
            return self._whole(*args, **kwargs)
        running = _now()
        ours = running is not None and running.root is self.root and not running.inside
        if running is not None and ours and running.waiting:
            return self._hand_on(running, *args, **kwargs)
        alone = len(parts_of(self.stretch)) == 1
        inside = running is not None and running.root is self.root and running.inside
        if not self.stretch or inside or not (ours or alone) or not torch.is_grad_enabled():
            return self.keeping(*args, **kwargs)
        return self._run_stretch(running if ours else None, *args, **kwargs)

    def keeping(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module itself, keeping what its part keeps."""
        module = _alive(self)
        forward = self.own if self.own is not None else type(module).forward.__get__(module)
        running = _now()
        if not self.coded or (running is not None and running.inside):
            return forward(*args, **kwargs)
        return Coded(module, bits_of(self.coded), self.root.seeds, forward)(*args, **kwargs)

    def _whole(self, *args: Any, **kwargs: Any) -> Any:
        """The model's forward: what stretches ran ahead must have been called by its end."""
        running = _Running(self.root)
        token = _running.set(running)
        try:
            outputs = self(*args, **kwargs)
        finally:
            _running.reset(token)
        if running.waiting:
            raise _otherwise(self.root, running.waiting[0], "was not called")
        return outputs

    def _hand_on(self, running: _Running, *args: Any, **kwargs: Any) -> Any:
        expected, *rest = running.waiting
        if self.index != expected or kwargs or len(args) != 1 or args[0] is not running.value:
            raise _otherwise(self.root, expected, "was not called next with what the part before it gave")
        running.waiting = tuple(rest)
        if not rest:
            running.value = None  # nothing here is to keep a tensor alive
        return args[0]

    def _run_stretch(self, running: _Running | None, *args: Any, **kwargs: Any) -> Any:
        indices = parts_of(self.stretch)
        hooked = [index for index in indices if len(indices) > 1 and has_hooks(self.root.part(index))]
        if hooked or graph_is_being_exported():
            if hooked:
                warn_plain(self.root.names[hooked[0]], "a hook is registered on it, and others would run with it")
            return self.keeping(*args, **kwargs)
        outputs = _segment(self.root, self.stretch, *args, **kwargs)
        if running is not None and len(indices) > 1:
            running.waiting, running.value = tuple(indices[1:]), outputs
        return outputs

    def __deepcopy__(self, memo: dict[int, Any]) -> PlannedForward:
        module = _alive(self)
        own, root = copy.deepcopy(self.own, memo), copy.deepcopy(self.root, memo)
        copied = PlannedForward(memo.get(id(module), module), own, root)
        copied.is_root, copied.index, copied.stretch, copied.coded = self.is_root, self.index, self.stretch, self.coded
        return copied

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "module": self.module()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, module=weakref.ref(state["module"]))


def _segment(root: PlannedRoot, steps: Steps, *args: Any, **kwargs: Any) -> Any:
    """Run a stretch keeping its input alone; in the backward pass the steps inside run."""
    modules = [root.part(index) for index in parts_of(steps)]
    return run_as_segment(modules, _run_steps, root, steps, *args, **kwargs)


def _run_steps(root: PlannedRoot, steps: Steps, *args: Any, **kwargs: Any) -> Any:
    token = _running.set(_Running(root, inside=True))
    try:
        for step in steps:
            if isinstance(step, int):
                outputs = root.part(step)(*args, **kwargs)
            else:
                outputs = _segment(root, step, *args, **kwargs)
            args, kwargs = (outputs,), {}
    finally:
        _running.reset(token)
    return outputs


def _install(root: PlannedRoot, model: nn.Module, modules: dict[int, str]) -> None:
    root.model, root.names = weakref.ref(model), modules
    root.policies = set_policy(model, KINDS[KEEP])
    try:
        for index, name in modules.items():
            module, kind = model.get_submodule(name), root.plan.parts[index].choice
            if needs_hooks(module, model, kind):
                _forward_of(module, root).coded = kind
            else:
                set_policy(module, KINDS[kind])
        for step in root.plan.steps:
            for index in () if isinstance(step, int) else parts_of(step):
                _forward_of(root.part(index), root).index = index
            if not isinstance(step, int):
                _forward_of(root.part(parts_of(step)[0]), root).stretch = step
        _forward_of(model, root).is_root = True
    except BaseException:
        _uninstall(root, model)
        raise


def _uninstall(root: PlannedRoot, model: nn.Module) -> None:
    for module in model.modules():
        forward = vars(module).get("forward")
        if isinstance(forward, PlannedForward) and forward.root is root:
            del module.forward
            if forward.own is not None:
                module.forward = forward.own
    give_back(model, root.policies)


def _forward_of(module: nn.Module, root: PlannedRoot) -> PlannedForward:
    own = vars(module).get("forward")
    if isinstance(own, PlannedForward) and own.root is root:
        return own
    made = PlannedForward(module, own, root)
    module.forward = made
    return made


def _now() -> _Running | None:
    return _running.get()


def _alive(planned: PlannedForward) -> nn.Module:
    module = planned.module()
    if module is None:
        raise ReferenceError("the module that this belongs to is gone")
    return module


def _otherwise(root: PlannedRoot, index: int, what: str) -> RuntimeError:
    return RuntimeError(
        f"the model runs otherwise than when it was planned: {root.names[index]} {what}; remove the plan and make a "
        "new one in the mode (train or eval) and with the kind of inputs that it is for"
    )
