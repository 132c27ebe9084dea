"""Segments by hand: modules that keep only their inputs for the backward pass, chosen by name or by a switch."""

from __future__ import annotations

import re
import uuid
import warnings
import weakref
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import nn

from pytorch_models.saving.eligibility import PlainPathWarning, graph_is_being_exported, why_call_is_plain
from pytorch_models.segment_call import call_segment
from zoo.choices import unknown
from zoo.schemes import find_scheme
from zoo.weights import strip_wrappers

_BY_SWITCH = "config"


def checkpoint_segments(model: nn.Module, names: str | Iterable[str]) -> Segments:
    """Make modules of any model segments: each keeps its inputs alone, and runs again in the backward pass.

    Outputs, gradients, BatchNorm statistics, dropout masks and the random stream are those of the model without
    segments. Consecutive modules are consecutive segments; segments may lie inside one another, and a module may be
    called several times. Without gradients (eval under `no_grad`) nothing is kept and nothing is done twice. Each
    module gets a `.config` as the zoo's modules have, unless it has one of its own. What else a segment's Python code
    does happens twice: hooks of modules inside it, draws from `random` or NumPy, additions to an object that is passed
    in (so `use_cache=False` for transformers models). `torch.nn.DataParallel` is not supported.

    Args:
        model: any module; its classes are left as they are.
        names: names out of `model.named_modules()`, or globs of them, in which `*` stands for one part of a name
            ("layer*.*" are the blocks of a ResNet) and `**` for any parts; globs leave out containers that are never
            called.

    Returns:
        A handle: `.names`; `.remove()` undoes this call alone, as does leaving it as a context.

    Raises:
        ValueError: a name that no module has, with the nearest; or one of a container that is never called.
        TypeError: names that are not strings; a compiled (TorchScript) module.

    Source:
        Chen et al. 2016, arXiv:1604.06174; the switch is OneFlow's.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> with checkpoint_segments(model, ["0", "1"]) as segments:
        ...     model(torch.ones(1, 4)).sum().backward()
        >>> segments.names
        ('0', '1')
    """
    chosen = find_modules(model, names)
    for name, module in chosen.items():
        _check_callable(name, module)
    return Segments(chosen)


def give_configs(model: nn.Module) -> None:
    """Give every module of a model a `.config` with the switch `activation_checkpointing`; one's own stays.

    This finishes a zoo model: where its policy asks for a scheme, its layers are converted by it now.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
        >>> give_configs(model)
        >>> model[0].config.activation_checkpointing = True
        >>> model[0].config
        ModuleConfig(activation_checkpointing=True)
    """
    for module in model.modules():
        if not hasattr(module, "config"):
            module.config = ModuleConfig(module)  # type: ignore[assignment]
    policy: Any = getattr(model, "policy", None)
    if getattr(policy, "scheme", None) is not None:
        from pytorch_models.compressed.convert import compress  # only where it is asked for

        compress(model, policy.scheme)
    elif getattr(policy, "adapts", False):
        from pytorch_models.compressed.block_bits import give_block_bits

        give_block_bits(model, find_scheme(policy.compressed))


def run_as_segment(
    modules: nn.Module | Sequence[nn.Module], forward: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    """`forward(*args, **kwargs)`, which uses `modules`, as one segment; without gradients, just that."""
    if not torch.is_grad_enabled() or graph_is_being_exported():
        return forward(*args, **kwargs)
    reason = why_call_is_plain()
    if reason is not None:
        warnings.warn(f"a segment runs the plain way and saves no memory: {reason}", PlainPathWarning, stacklevel=3)
        return forward(*args, **kwargs)
    return call_segment(modules, forward, args, kwargs)


def is_segment(module: nn.Module) -> bool:
    """Whether a module keeps only its inputs."""
    return isinstance(vars(module).get("forward"), SegmentForward)


class ModuleConfig:
    """One module's switches: `activation_checkpointing`, whether it is a segment that keeps its inputs alone."""

    temporary: bool  # given by `checkpoint_segments`, and taken away with the last segment

    def __init__(self, module: nn.Module, temporary: bool = False) -> None:
        # Weak: a cycle would delay the freeing of a dropped model's memory.
        vars(self).update(module=weakref.ref(module), temporary=temporary)

    @property
    def activation_checkpointing(self) -> bool:
        """Whether the module is a segment; see `checkpoint_segments`."""
        return is_segment(_alive(self))

    def __setattr__(self, name: str, value: object) -> None:
        module = _alive(self)
        if name != "activation_checkpointing":
            raise AttributeError(unknown("setting of a module's config", name, ("activation_checkpointing",)))
        if not isinstance(value, bool):
            raise TypeError(f"activation_checkpointing must be True or False, not {value!r}")
        if value:
            _check_callable("this module", module)
            mark_segment(module, _BY_SWITCH)
        else:
            unmark_segment(module)

    def __repr__(self) -> str:
        return f"ModuleConfig(activation_checkpointing={self.activation_checkpointing})"

    def __deepcopy__(self, memo: dict[int, Any]) -> ModuleConfig:
        return ModuleConfig(memo.get(id(_alive(self)), _alive(self)), self.temporary)

    def __reduce__(self) -> tuple[Any, ...]:
        return ModuleConfig, (_alive(self), self.temporary)


class SegmentForward:
    """What stands as `forward` of a module that is a segment, in place of its own."""

    def __init__(self, module: nn.Module, own: Any, owners: Iterable[str]) -> None:
        self.module = weakref.ref(module)
        self.own = own  # a forward set on the instance before; None = its class's
        self.owners = set(owners)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        module = _alive(self)
        forward = self.own if self.own is not None else type(module).forward.__get__(module)
        return run_as_segment(module, forward, *args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> SegmentForward:
        import copy

        module = memo.get(id(_alive(self)), _alive(self))
        return SegmentForward(module, copy.deepcopy(self.own, memo), self.owners)

    def __reduce__(self) -> tuple[Any, ...]:
        return SegmentForward, (_alive(self), self.own, sorted(self.owners))


class Segments:
    """The modules one call of `checkpoint_segments` chose; leaving it as a context, or `.remove()`, undoes that."""

    def __init__(self, chosen: dict[str, nn.Module]) -> None:
        self.names = tuple(chosen)
        self._owner = uuid.uuid4().hex
        self._modules = [weakref.ref(module) for module in chosen.values()]
        for module in chosen.values():
            mark_segment(module, self._owner)
            if not hasattr(module, "config"):
                module.config = ModuleConfig(module, temporary=True)  # type: ignore[assignment]

    def remove(self) -> None:
        """Undo the call; segments that others asked for stay. A second time, it does nothing."""
        for reference in self._modules:
            module = reference()
            if module is None:
                continue
            unmark_segment(module, self._owner)
            config = vars(module).get("config")
            if isinstance(config, ModuleConfig) and config.temporary and not is_segment(module):
                del module.config
        self._modules = []

    def __enter__(self) -> Segments:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


def find_modules(model: nn.Module, names: str | Iterable[str]) -> dict[str, nn.Module]:
    """The modules that names or globs choose, in the model's order; see `checkpoint_segments`.

    Raises:
        ValueError, TypeError: as `checkpoint_segments`.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"segments are parts of a torch.nn.Module, not of {model!r}")
    if not isinstance(names, Iterable):
        raise TypeError(f"names of modules must be a string or several, not {names!r}")
    patterns = [names] if isinstance(names, str) else list(names)
    modules = {strip_wrappers(name): module for name, module in model.named_modules()}
    chosen: set[str] = set()
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise TypeError(f"names of modules must be strings, not {pattern!r}")
        expression = _as_expression(strip_wrappers(pattern))
        found = [name for name in modules if expression.fullmatch(name)]
        if not found:
            raise ValueError(unknown("module", pattern, [name for name in modules if name]))
        # A glob means what can be a segment: no container, and not the model itself.
        chosen.update([name for name in found if name and not _never_called(modules[name])] or found)
    return {name: module for name, module in modules.items() if name in chosen}


def _as_expression(glob: str) -> re.Pattern[str]:
    parts = re.split(r"(\*\*|\*|\?)", glob)
    meaning = {"**": ".*", "*": r"[^.]*", "?": r"[^.]"}
    return re.compile("".join(meaning.get(part, re.escape(part)) for part in parts))


def _never_called(module: nn.Module) -> bool:
    return type(module).forward is nn.Module.forward and "forward" not in vars(module)


def _check_callable(name: str, module: nn.Module) -> None:
    if isinstance(module, torch.jit.ScriptModule):
        raise TypeError(f"{name} is a compiled TorchScript module: it cannot be a segment; choose before compiling")
    if _never_called(module):
        kind = type(module).__name__
        called, children = (name, f"{name}.*") if name else ("the model", "*")
        raise ValueError(f"{called} is a {kind}, which is never called itself: choose its children ({children})")


def mark_segment(module: nn.Module, owner: str) -> None:
    """Make a module a segment in an owner's name; it stays one until no owner is left."""
    own = vars(module).get("forward")
    if isinstance(own, SegmentForward):
        own.owners.add(owner)
    else:
        module.forward = SegmentForward(module, own, (owner,))


def unmark_segment(module: nn.Module, owner: str | None = None) -> None:
    """Take one owner's mark away, or everyone's."""
    marked = vars(module).get("forward")
    if not isinstance(marked, SegmentForward):
        return
    marked.owners.discard(owner) if owner is not None else marked.owners.clear()
    if marked.owners:
        return
    del module.forward
    if marked.own is not None:
        module.forward = marked.own


def _alive(holder: ModuleConfig | SegmentForward) -> nn.Module:
    module = vars(holder)["module"]()
    if module is None:
        raise ReferenceError("the module that this belongs to is gone")
    return module
