"""How a module is told what a plan's kind of option asks of it, and how that is undone."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from pytorch_models.compression import NoiseSeeds
from pytorch_models.planning.coding import Coded
from pytorch_models.stacked_lstm import StackedLSTM
from zoo.planner.kinds import KEEP, KINDS, SWAP, bits_of
from zoo.policy import MemoryPolicy


def has_policy(module: nn.Module) -> bool:
    """Whether a module, or one inside it, is the zoo's and reads a policy."""
    return any("policy" in vars(child) or isinstance(child, StackedLSTM) for child in module.modules())


def kinds_of(module: nn.Module, model: nn.Module, kinds: list[str]) -> list[str]:
    """Those kinds that a module can be told to keep by, "keep" first.

    A part of the zoo takes what its family is built with; any part without codes of its own takes the bits.
    """
    if not has_policy(module):
        return [kind for kind in kinds if not KINDS[kind].efficient]
    spec = getattr(model, "spec", None)
    return [kind for kind in kinds if _takes(spec, KINDS[kind]) or (bits_of(kind) and not KINDS[kind].efficient)]


def _takes(spec: Any, policy: MemoryPolicy) -> bool:
    if spec is None:
        return policy.compressed is None
    try:
        spec.check_policy(policy)
    except ValueError:
        return False
    return True


def needs_hooks(module: nn.Module, model: nn.Module, kind: str) -> bool:
    """Whether a kind is to be brought about from outside, by `coding.Coded`: host memory, or bits."""
    return kind == SWAP or (
        bits_of(kind) is not None and not (has_policy(module) and _takes(getattr(model, "spec", None), KINDS[kind]))
    )


def set_policy(module: nn.Module, policy: MemoryPolicy) -> dict[str, Any]:
    """Give a module of the zoo, and all inside it, a policy; what they had before, by name."""
    before: dict[str, Any] = {}
    for name, child in module.named_modules():
        if "policy" in vars(child):
            before[name], child.policy = child.policy, policy
        elif isinstance(child, StackedLSTM):
            before[name], child.efficient = child.efficient, policy.efficient
    return before


def give_back(module: nn.Module, before: dict[str, Any]) -> None:
    """Undo `set_policy`."""
    for name, value in before.items():
        child = module.get_submodule(name)
        setattr(child, "efficient" if isinstance(value, bool) else "policy", value)


@contextlib.contextmanager
def set_to(module: nn.Module, model: nn.Module, kind: str) -> Iterator[Callable[..., Any]]:
    """A module as a function that keeps by a kind, inside the context."""
    if needs_hooks(module, model, kind):
        before = set_policy(module, KINDS[KEEP])
        run: Callable[..., Any] = Coded(module, bits_of(kind), NoiseSeeds())
    else:
        before, run = set_policy(module, KINDS[kind]), module
    try:
        yield run
    finally:
        give_back(module, before)
