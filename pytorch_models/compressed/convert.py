"""Any model's layers become ActNN's, in place: `QModule(model)` and `compress(model, ...)`."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pytorch_models.compressed import layers, transformer_layers
from pytorch_models.compressed.hooked_forward import hook_forward
from pytorch_models.compressed.layers import Compressed
from pytorch_models.compressed.session import Compression
from zoo.policy import MemoryPolicy
from zoo.schemes import FIXED, HOOKS, LAYERS, NOTHING, Scheme, find_scheme

CLASSES: Mapping[type[nn.Module], type[nn.Module]] = MappingProxyType(
    {
        plain: getattr(transformer_layers, f"Q{plain.__name__}", None) or getattr(layers, f"Q{plain.__name__}")
        for plain in (
            *(nn.LayerNorm, nn.MultiheadAttention, nn.Softmax),
            *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
            *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
            *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
            *(nn.Linear, nn.ReLU, nn.Dropout, nn.MaxPool2d, nn.AvgPool2d, nn.GELU, nn.SiLU),
        )
    }
)
HOOK_BITS: Mapping[str, int] = MappingProxyType({LAYERS: 8, FIXED: 8})
DEFAULT = "L3"


def QModule(model: nn.Module, scheme: str | int | Scheme = DEFAULT, **options: Any) -> nn.Module:
    """`compress`, by the name that ActNN's users know."""
    return compress(model, scheme, **options)


def compress(
    model: nn.Module, scheme: str | int | Scheme = DEFAULT, *, bits: int | None = None, num_samples: int = 0
) -> nn.Module:
    """Store what a model saves for its backward pass in few bits; converts its layers in place, and returns it.

    Weights, names, hooks, device, dtype, training flags and shared layers stay as they are; outputs too, to the bit.
    What layers of other classes and functional calls save is packed by saved-tensor hooks, at 8 bits or exactly
    (`gact`); `model.compression.unconverted` names layers with parameters that stayed what they were.

    Args:
        model: any module; an optimiser that has its parameters already keeps them.
        scheme: "L0" to "L5", "L3.1", "swap", 1, 2, 4, 8, "gact:4", "quant8", "quantz8", "autoquant", "autoquantz",
            "autoquant-sr": see `zoo.schemes`.
        bits: instead of a scheme, so many bits in every layer (ActNN's L2 has 4).
        num_samples: of the training set, to tell samples apart (ActNN's `use_gradient`): train with `IndexedLoader`.

    Returns:
        The same model; `model.compression` reports.

    Raises:
        TypeError, ValueError: no model, an unknown scheme, a model that is compressed already, or a model of the zoo
            with `efficient` or codes of its own, whose plain layers a scheme would need.

    Source:
        ActNN (Chen et al. 2021, arXiv:2104.14129).

    Example:
        >>> model = compress(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), "L3")
        >>> model[0]
        QConv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"compress: a torch.nn.Module is needed, not {type(model).__name__}")
    if bits is not None:
        scheme = bits
    if isinstance(num_samples, bool) or not isinstance(num_samples, int):
        raise TypeError(f"compress: num_samples must be the training set's size, an integer, not {num_samples!r}")
    if num_samples < 0:
        raise ValueError(f"compress: num_samples must be the training set's size, or 0 for none, not {num_samples}")
    asked = find_scheme(scheme)
    _refuse_again(model)
    if asked.way in (LAYERS, FIXED):
        _refuse_saving(model, asked)
    _say_what_is_missing(model, asked)
    compression = Compression(asked, num_samples)
    if asked.way in (LAYERS, FIXED):
        _convert(model, compression)
    if asked.way != NOTHING or asked.swap:
        width = asked.bits or 4 if asked.way == HOOKS else HOOK_BITS.get(asked.way, 8)
        compression.hooks = {"bits": width, "keep_values": asked.way == NOTHING, "swap": asked.swap}
        hook_forward(model, compression)
    model.compression = compression  # type: ignore[assignment]
    return model


def _refuse_again(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(vars(module).get("compression"), Compression):
            where = f"its part {name!r}" if name else "it"
            raise ValueError(
                f"compress: {where} is compressed already ({module.compression.scheme}): build the model anew"
            )


def _refuse_saving(model: nn.Module, scheme: Scheme) -> None:
    for name, module in model.named_modules():
        policy = getattr(module, "policy", None)
        if isinstance(policy, MemoryPolicy) and policy.share_features:  # efficient, own codes, levels 3 and 4
            where = f"its part {name!r}" if name else "it"
            raise ValueError(
                f"compress: {where} saves memory its own way ({policy}), of which {scheme.name} would leave nothing: "
                "build the model without, or with compressed=2 beside efficient=True, or give 'gact:4'"
            )


def _convert(model: nn.Module, compression: Compression) -> None:
    unconverted, inside = [], set[str]()
    for name, module in model.named_modules():
        kind = CLASSES.get(type(module))
        if kind is None or "forward" in vars(module):
            if name not in inside and any(True for _ in module.parameters(recurse=False)):
                unconverted.append(name or "(model)")
            continue
        module.__class__ = kind
        assert isinstance(module, Compressed), "every class of the table is one"
        own = name or type(module).__name__
        module.compression, module.site = compression, compression.new_site(own)
        module.more = tuple(compression.new_site(f"{own}.{part}") for part in module.parts)
        if isinstance(module, nn.MultiheadAttention):
            inside.add(f"{name}.out_proj" if name else "out_proj")  # whose weight it uses itself
    compression.unconverted = tuple(unconverted)
    norms = sum(isinstance(module, _BatchNorm) for module in model.modules())
    for site in compression.sites:
        site.bound.sources = max(norms, 1)


def _say_what_is_missing(model: nn.Module, scheme: Scheme) -> None:
    """Warn where a part of a scheme does nothing here."""
    on_gpu = any(parameter.device.type == "cuda" for parameter in model.parameters())
    if scheme.swap and scheme.way == NOTHING and not on_gpu:
        warnings.warn(
            "compress: 'swap' moves what a GPU would keep to host memory; this model is not on a GPU, and while it is "
            "not, nothing is moved and no byte saved: give 'L3' or a number of bits",
            stacklevel=3,
        )
    set_up = " ".join(os.environ.get(name, "") for name in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"))
    if scheme.defragment and torch.cuda.is_available() and "expandable_segments:true" not in set_up.lower():
        # PyTorch reads it when its first tensor on a GPU is made, for the whole process: no model can set it.
        warnings.warn(
            f"compress: {scheme} wants PyTorch's expandable segments, which are off: start the process with "
            "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True; all else of it is at work",
            stacklevel=3,
        )
