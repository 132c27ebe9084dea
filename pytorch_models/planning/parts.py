"""Which modules of a model are the parts of a plan, and what lies between them.

A module is taken apart as long as its children are a chain: each reads what the one before gave, and nothing earlier is
read again. A residual or dense block is no chain inside, and stays one part; so does a block of the zoo, which has
options of its own. A model that holds most of the bytes in a module that is no chain is taken apart all the same: its
parts are then run again one by one, never together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from pytorch_models.planning.trace import Call, Trace, storage_of, storages_of, tensors_in
from pytorch_models.saving.eligibility import has_hooks
from pytorch_models.zoo_model import ZooModel

SMALL = 0.002  # of all saved bytes: what is less is not taken apart further
LARGE = 0.5  # of all saved bytes: what is more is taken apart though it is no chain


@dataclass(frozen=True)
class FoundPart:
    """One part.

    Args:
        name: the module's; in brackets for what lies between modules.
        call: of the module; None for what lies between.
        joins: it reads what the part before gave, nobody else does, and both may run as one.
        fixed: why it can only be kept as it is; "" = it has other options.
        saved_bytes, output_bytes: of what lies between: what it keeps, and what it gives to the next part.
    """

    name: str
    call: Call | None
    joins: bool = False
    fixed: str = ""
    saved_bytes: int = 0
    output_bytes: int = 0


def find_parts(found: Trace) -> list[FoundPart]:
    """The parts of a model in the order they run, and what lies between them where it keeps something."""
    total = sum(size for _, size in found.saved.values())
    calls = _expand(found, found.root, total)
    parts: list[FoundPart] = []
    for number, call in enumerate(calls):
        before = calls[number - 1] if number else None
        parts += _between(found, before, call)
        joins = before is not None and parts[-1].call is before and _joins(found, before, call)
        parts.append(FoundPart(call.name, call, joins, _why_fixed(found, call)))
    return parts + _between(found, calls[-1], None)


def _expand(found: Trace, call: Call, total: int) -> list[Call]:
    if call.end == call.start and call.parent is not None and len(call.args) == 1 and call.args[0] is call.output:
        return []  # it does nothing
    if not call.children or _is_whole(call):
        return [call]
    size = found.saved_bytes(call.start, call.end)
    is_root = call.parent is None
    if not is_root and size < SMALL * total:
        return [call]
    if not (is_root or size > LARGE * total or _is_chain(found, call)):
        return [call]
    return [part for child in call.children for part in _expand(found, child, total)]


def _is_whole(call: Call) -> bool:
    """A block of the zoo with a policy of its own, or a language model that makes its loss chunk by chunk."""
    module = call.module
    if isinstance(module, ZooModel):
        return bool(getattr(module.spec, "is_language_model", False))
    return "policy" in vars(module) and hasattr(module, "how_kept")


def _is_chain(found: Trace, call: Call) -> bool:
    """Whether, where each child begins, nothing is read later but what it is given."""
    outside = {storage_of(tensor) for tensor in call.inputs}
    for child in call.children[1:]:
        given = {storage_of(tensor) for tensor in child.inputs}
        if _crossing(found, call, child.start, outside) - given:
            return False
    return True


def _crossing(found: Trace, call: Call, moment: int, outside: set[int]) -> set[int]:
    """Storages that exist when an operator of a call runs, and are read in the call at it or later."""
    known = outside | {key for key, born in found.born.items() if call.start <= born < moment}
    return {key for key in known if any(moment <= number < call.end for number in found.read.get(key, ()))}


def _joins(found: Trace, before: Call, call: Call) -> bool:
    """Whether two calls may run as one function of the first one's inputs."""
    given, gave = call.inputs, before.outputs
    if before.end != call.start or before.modes != call.modes or len(call.args) != 1 or call.kwargs:
        return False
    if len(given) != 1 or call.args[0] is not before.output or len(gave) != 1:
        return False
    if any(found.calls[one.module] > 1 or has_hooks(one.module) for one in (before, call)):
        return False
    passed_on = {storage_of(tensor) for tensor in call.outputs}
    inner = {key for key, born in found.born.items() if before.start <= born < before.end} | {storage_of(gave[0])}
    return not any(number >= call.end for key in inner - passed_on for number in found.read.get(key, ()))


def _why_fixed(found: Trace, call: Call) -> str:
    if found.calls[call.module] > 1:
        return f"called {found.calls[call.module]} times in a step"
    if not tensors_in(call.output) or not any(tensor.requires_grad for tensor in call.outputs):
        return "needs no gradient"
    return ""


def _between(found: Trace, before: Call | None, after: Call | None) -> list[FoundPart]:
    """What operators between two parts keep and give, as a part, or nothing."""
    start = found.root.start if before is None else before.end
    end = found.root.end if after is None else after.start
    if end <= start:
        return []
    given: list[Any] = after.inputs if after is not None else found.root.outputs
    gives = {key: size for key, size in storages_of(given).items() if start <= found.born.get(key, -1) < end}
    saved = {k: size for k, (_, size) in found.saved.items() if start <= found.born.get(k, -1) < end and k not in gives}
    if not gives and not saved:
        return []
    name = (
        f"(before {after.name})" if after is not None and before is None else f"(after {getattr(before, 'name', '')})"
    )
    return [FoundPart(name, None, False, "between modules", sum(saved.values()), sum(gives.values()))]


def modules_of(parts: list[FoundPart]) -> dict[str, nn.Module]:
    """The modules among the parts, by name."""
    return {part.name: part.call.module for part in parts if part.call is not None}
