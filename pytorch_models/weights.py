"""Parameter names: what other publishers call a model's parameters, and what they are called here (torchvision's)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from torch import nn

# torchvision's first releases wrote "denselayer1.norm.1.weight" for today's "denselayer1.norm1.weight".
_DOTTED_LAYER = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12])\.(\w+)$")
_WRAPPERS = ("module.", "_orig_mod.")


def unwrapped_name(name: str) -> str:
    """Without the prefixes that wrappers add, e.g. "module._orig_mod.fc.weight" -> "fc.weight"."""
    while name.startswith(_WRAPPERS):
        name = name.split(".", 1)[1]
    return name


def canonical_densenet_name(name: str) -> str:
    """Translate one parameter name, e.g. "module.features.norm_final.weight" -> "features.norm5.weight"."""
    name = unwrapped_name(name)
    name.replace("features.norm_final.", "features.norm5.")
    return _DOTTED_LAYER.sub(r"\1\2.\3", name)


def adopt_densenet_names(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """`load_state_dict` pre-hook: rename the keys below `prefix`, keeping their order."""
    _rename(state_dict, prefix, canonical_densenet_name)


def adopt_wrapped_names(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """`load_state_dict` pre-hook: strip wrappers' prefixes from the keys below `prefix`, keeping their order."""
    _rename(state_dict, prefix, unwrapped_name)


def _rename(state_dict: dict[str, Any], prefix: str, canonical: Callable[[str], str]) -> None:
    renamed = {
        prefix + canonical(name[len(prefix) :]) if name.startswith(prefix) else name: value
        for name, value in state_dict.items()
    }
    state_dict.clear()
    state_dict.update(renamed)
