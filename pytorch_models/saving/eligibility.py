"""Which modules may run inside one fused Function, and the reason, in words, when they may not.

A Function calls no submodule, so a hook on one would never fire and a replaced layer would be ignored.
Both are looked for here; the caller then takes the plain path and says so.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.autograd import forward_ad


class PlainPathWarning(UserWarning):
    """A part that was asked to save memory runs the plain way; the message says which and why."""


_HOOK_TABLES = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_BATCH_NORM_FORWARD = nn.modules.batchnorm._BatchNorm.forward
_TAIL = (nn.Conv2d, nn.AvgPool2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.Flatten)


def has_hooks(module: nn.Module) -> bool:
    """Whether any forward or backward hook is registered on this module itself."""
    return any(getattr(module, table, None) for table in _HOOK_TABLES)


def _why_unusable(name: str, module: nn.Module, expected: tuple[type[nn.Module], ...]) -> str | None:
    if has_hooks(module):
        return f"a hook is registered on {name}"
    kinds = [kind for kind in expected if isinstance(module, kind)]
    forward = _BATCH_NORM_FORWARD if nn.BatchNorm2d in kinds else kinds[0].forward if kinds else None
    if not kinds or type(module).forward is not forward or "forward" in vars(module):
        wanted = " or ".join(kind.__name__ for kind in expected)
        return f"{name} is a {type(module).__name__}, not a plain {wanted}"
    if isinstance(module, nn.Conv2d):
        if type(module)._conv_forward is not nn.Conv2d._conv_forward or "_conv_forward" in vars(module):
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
        if type(layer) is not layer_type or "forward" in vars(layer):
            return f"{name} is a {type(layer).__name__}"
        if has_hooks(layer):
            return f"a hook is registered on {name}"
        reason = _why_layer_is_plain(layer)
        if reason:
            return f"in {name} {reason}"
    return None


def why_norm_act_is_plain(norm: nn.Module, relu: nn.Module, *tail: nn.Module) -> str | None:
    """None if norm, ReLU and the modules after them may run as one Function, else the reason they may not."""
    reasons = [_why_unusable("norm", norm, (nn.BatchNorm2d,)), _why_unusable("relu", relu, (nn.ReLU,))]
    reasons += [_why_unusable(type(module).__name__, module, _TAIL) for module in tail]
    return next((reason for reason in reasons if reason), None)


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
