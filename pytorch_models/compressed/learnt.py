"""What a scheme has learnt, as a checkpoint holds it: tensors on the CPU, numbers, lists, dictionaries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor


def taken(owner: Any, names: Sequence[str]) -> dict[str, Any]:
    """Copies of some attributes, by name.

    Example:
        >>> from pytorch_models.compressed.fixed import Bound
        >>> taken(Bound(steps=3), ("steps", "square"))
        {'steps': 3, 'square': None}
    """
    return {name: _copied(getattr(owner, name)) for name in names}


def given(owner: Any, names: Sequence[str], state: Mapping[str, Any], where: str) -> None:
    """Set what `taken` took; `where` says whose state it is.

    Raises:
        ValueError: a state without one of the names.
    """
    missing = [name for name in names if name not in state]
    if missing:
        raise ValueError(f"{where}: the state has no {', '.join(missing)}: give what state_dict() returned")
    for name in names:
        setattr(owner, name, _copied(state[name]))


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, list):
        return [_copied(one) for one in value]
    return value
