"""How this package's operators come into PyTorch: one library, one way to define a name in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

NAMESPACE = "memory_efficient_zoo"
_library = torch.library.Library(NAMESPACE, "DEF")


def define_operator(schema: str, run: Callable[..., Any], fake: Callable[..., Any] | None = None) -> Any:
    """Define an operator whose first argument says where it runs; without `fake` it only writes into arguments."""
    name = schema.partition("(")[0]
    _library.define(schema)
    for key in ("CPU", "CUDA"):
        _library.impl(name, run, key)
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake or _writes_only, lib=_library)
    return getattr(getattr(torch.ops, NAMESPACE), name).default


def _writes_only(*_: Any) -> None:
    return None
