"""Which modules may run inside one fused Function, and the reason, in words, when they may not.

A Function calls no submodule, so a hook on one would never fire and a replaced layer would be ignored.
Both are looked for here; the caller then takes the plain path and says so.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn.modules.conv import _ConvNd

from pytorch_models.saving.activation import ACTIVATIONS, Activation


class PlainPathWarning(UserWarning):
    """A part that was asked to save memory runs the plain way; the message says which and why."""


_HOOK_TABLES = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_TAIL = (nn.Conv2d, nn.AvgPool2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.Flatten)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def warn_plain(what: str, reason: str) -> None:
    """Say that a part runs the plain way."""
    warnings.warn(f"{what} runs the plain way and saves no memory: {reason}", PlainPathWarning, stacklevel=4)


def has_hooks(module: nn.Module) -> bool:
    """Whether any forward or backward hook is registered on this module itself."""
    return any(getattr(module, table, None) for table in _HOOK_TABLES)


def _why_unusable(name: str, module: nn.Module, expected: tuple[type[nn.Module], ...]) -> str | None:
    if has_hooks(module):
        return f"a hook is registered on {name}"
    kind = next((kind for kind in expected if isinstance(module, kind)), None)
    if kind is None or type(module).forward is not kind.forward or "forward" in vars(module):
        wanted = " or ".join(kind.__name__ for kind in expected)
        return f"{name} is a {type(module).__name__}, not a plain {wanted}"
    if isinstance(module, _ConvNd):
        if type(module)._conv_forward is not vars(kind)["_conv_forward"] or "_conv_forward" in vars(module):
            return f"{name} is a {type(module).__name__} with a convolution of its own"
        if module.padding_mode != "zeros":
            return f"{name} pads by {module.padding_mode!r}"
        if isinstance(module.padding, str):
            return f"{name} has padding={module.padding!r} instead of numbers"
    return None


def _why_layer_is_plain(layer: Any) -> str | None:
    expected: dict[str, type[nn.Module]] = {"norm1": nn.BatchNorm2d, "relu1": nn.ReLU, "conv1": nn.Conv2d}
    if layer.bottleneck:
        expected |= {"norm2": nn.BatchNorm2d, "relu2": nn.ReLU, "conv2": nn.Conv2d}
    children = dict(layer.named_children())
    if list(children) != list(expected):
        return f"it has the children {list(children)} instead of {list(expected)}"
    reasons = (_why_unusable(name, child, (expected[name],)) for name, child in children.items())
    return next((reason for reason in reasons if reason), None)


def why_block_is_plain(block: nn.ModuleDict, layer_type: type[nn.Module]) -> str | None:
    """None if a dense block may run as one Function, else the reason it may not."""
    for name, layer in block.items():
        if type(layer) is not layer_type:
            return f"{name} is a {type(layer).__name__}"
        if "forward" in vars(layer):
            return f"{name} is a segment, or has a forward of its own"
        if has_hooks(layer):
            return f"a hook is registered on {name}"
        reason = _why_layer_is_plain(layer)
        if reason:
            return f"in {name} {reason}"
    return None


def why_norm_act_is_plain(norm: nn.Module, activation: nn.Module, *tail: nn.Module) -> str | None:
    """None if norm, activation and the modules after them may run as one Function, else the reason they may not."""
    reasons = [_why_unusable("norm", norm, (nn.BatchNorm2d, nn.SyncBatchNorm))]
    reasons += [_why_unusable("relu", activation, (nn.ReLU,))]
    reasons += [_why_unusable(type(module).__name__, module, _TAIL) for module in tail]
    return next((reason for reason in reasons if reason), None)


def why_chain_is_plain(steps: Sequence[Any], owner: nn.Module | None, ends_in_a_sum: bool) -> str | None:
    """None if these `chain_call.Step`s may run as one Function, else the reason they may not.

    Args:
        owner: the module they belong to, which knows their names.
        ends_in_a_sum: a shortcut is added.
    """
    named = {} if owner is None else {module: name for name, module in owner.named_modules()}
    for index, step in enumerate(steps):
        if (step.norm is None and (index > 0 or step.activation is not None)) or (
            step.convolution is None and index + 1 < len(steps)
        ):
            return f"step {index + 1} of {len(steps)} lacks its norm or its convolution"
        kinds = (_NORMS, ACTIVATIONS, _CONVOLUTIONS)
        for module, expected in zip((step.norm, step.activation, step.convolution), kinds, strict=True):
            if module is None:
                continue
            name = named.get(module, type(module).__name__)
            reason = _why_unusable(name, module, expected)
            if reason:
                return reason
    after_sum = steps[-1].activation if ends_in_a_sum and steps[-1].convolution is None else None
    if after_sum is not None and not Activation.of(after_sum).by_output:
        return f"a {type(after_sum).__name__} after a sum needs its input"
    return None


def why_containers_are_needed(owner: nn.Module, *names: str) -> str | None:
    """None if what these submodules hold may run without them, else the reason it may not."""
    for name in names:
        container = owner.get_submodule(name)
        if has_hooks(container):
            return f"a hook is registered on {name}"
        if "forward" in vars(container):
            return f"{name} is a {type(container).__name__} with a forward of its own"
    return None


def why_call_is_plain() -> str | None:
    """None if an autograd Function without rules for transforms may run now, else the reason it may not."""
    if torch._C._are_functorch_transforms_active():
        return "a torch.func transform (grad, vmap, jvp) is at work"
    if forward_ad._current_level >= 0:
        return "forward-mode derivatives are being taken"
    return None


def graph_is_being_exported() -> bool:
    """Whether the forward pass is traced for inference, where there is nothing to save."""
    return torch.compiler.is_exporting() or torch.jit.is_tracing()


def refuse_second_derivative(what: str) -> None:
    """In a Function's backward pass: refuse to be recorded, for what is recomputed there has no graph.

    Raises:
        RuntimeError: gradients of gradients are asked for.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(
            f"{what} cannot be differentiated twice (create_graph=True): "
            "build the model with efficient=False and compressed=None where gradients of gradients are needed"
        )
