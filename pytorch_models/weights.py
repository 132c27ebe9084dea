"""Parameter names: what other publishers call DenseNet's parameters, and what they are called here (torchvision's)."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

# torchvision's first releases wrote "denselayer1.norm.1.weight" for today's "denselayer1.norm1.weight".
_DOTTED_LAYER = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12])\.(\w+)$")
_WRAPPERS = ("module.", "_orig_mod.")


def canonical_densenet_name(name: str) -> str:
    """Translate one parameter name, e.g. "module.features.norm_final.weight" -> "features.norm5.weight"."""
    stripped = True
    while stripped:
        stripped = False
        for prefix in _WRAPPERS:
            if name.startswith(prefix):
                name, stripped = name[len(prefix) :], True
    name = name.replace("features.norm_final.", "features.norm5.")
    return _DOTTED_LAYER.sub(r"\1\2.\3", name)


def adopt_densenet_names(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """`load_state_dict` pre-hook: rename the keys below `prefix`, keeping their order."""
    renamed = {
        prefix + canonical_densenet_name(name[len(prefix) :]) if name.startswith(prefix) else name: value
        for name, value in state_dict.items()
    }
    state_dict.clear()
    state_dict.update(renamed)
