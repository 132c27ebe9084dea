"""One plan for another framework: the same choices for its parts, and a list of what had to be replaced."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from zoo.planner.graph import CostGraph, Part
from zoo.planner.kinds import KEEP
from zoo.planner.plan import Plan
from zoo.planner.rounds import Search
from zoo.planner.schedule import Schedule
from zoo.planner.steps import Steps, operations_of, parts_of

Path = tuple[int, ...]  # of a part: the stretches around it, from the outermost, by number


class PlanChangedWarning(UserWarning):
    """A plan is carried out otherwise than it says, because the framework cannot do all of it."""


@dataclass(frozen=True)
class Adapted:
    """A plan's choices for the parts of another framework.

    Args:
        steps: the forward pass as numbers of those parts.
        kinds: what each is kept by, as the plan says.
    """

    steps: Steps
    kinds: tuple[str, ...]


def fingerprint_of_spec(spec: Any) -> str:
    """Of a zoo model of a family's config, the same in every framework."""
    return hashlib.sha256(repr(spec).encode()).hexdigest()[:16]


def adapt(plan: Plan, names: Sequence[str]) -> Adapted:
    """A plan's steps and kinds for parts of these names, in the order they run.

    A part is the plan's part of its name, else the plan's first that it holds, else the one that holds it. What the
    plan knows nothing of is kept, and runs again only in the middle of a stretch.

    Example:
        >>> from zoo.planner.plan import PlannedPart
        >>> parts = [PlannedPart(name, "keep", 1, 0, 0, 0.0) for name in ("conv1", "bn1", "layer1.0", "(loss)")]
        >>> zeros = dict.fromkeys(("budget_bytes", "predicted_peak_bytes", "peak_bytes", "saved_bytes"), 0)
        >>> zeros |= dict.fromkeys(("predicted_seconds", "plain_peak_bytes", "plain_seconds", "noise"), 0)
        >>> made = {"framework": "torch", "model": "a net", "fingerprint": "f00d", "input_shape": (8, 3)}
        >>> plan = Plan(**made, **zeros, parts=tuple(parts), steps=((0, 1, 2), 3))
        >>> adapt(plan, ["conv1", "layer1.0"]).steps
        ((0, 1),)
    """
    paths = _paths(plan.steps)
    sources = [_source(plan, name) for name in names]
    found: list[Path] = []
    for place, source in enumerate(sources):
        if source is not None:
            found.append(paths[source])
            continue
        known = [paths[one] for one in sources[:place] if one is not None][-1:]
        known += [paths[one] for one in sources[place + 1 :] if one is not None][:1]
        found.append(_common(*known) if len(known) == 2 else ())
    kinds = tuple(KEEP if source is None else plan.parts[source].choice for source in sources)
    return Adapted(_nested(list(enumerate(found)), 0), kinds)


def adapted_plan(plan: Plan, search: Search) -> Plan:
    """A plan with the choices of `plan`, predicted and measured on another framework's parts.

    What that framework lacks is replaced by the exact option that keeps least, and said in a `PlanChangedWarning`; so
    is a stretch that it cannot run again, and a peak above the plan's budget.
    """
    graph = search.graph
    wanted = adapt(plan, [part.name for part in graph.parts])
    options, changes = {}, list[str]()
    for place, (part, kind) in enumerate(zip(graph.parts, wanted.kinds, strict=True)):
        options[place], replaced = _option(part, kind)
        if replaced:
            changes.append(replaced)
    steps = _possible(wanted.steps, graph, changes)
    found = search.plan(Schedule.of(graph, operations_of(steps, graph, options)))
    found = replace(found, budget_bytes=plan.budget_bytes)
    if found.peak_bytes > plan.budget_bytes:
        changes.append(f"a step needs {found.peak_bytes:,} bytes there, more than the budget of {plan.budget_bytes:,}")
    if changes:
        warnings.warn(
            f"this plan was made for {plan.framework}; in {found.framework}: {'; '.join(changes)}",
            PlanChangedWarning,
            stacklevel=4,
        )
    return found


def _option(part: Part, kind: str) -> tuple[int, str]:
    """The place of a part's option of a kind, and what stands in for a kind that it lacks."""
    kinds = [option.kind for option in part.options]
    if kind in kinds:
        return kinds.index(kind), ""
    exact = [place for place, option in enumerate(part.options) if not option.noise]
    chosen = min(exact, key=lambda place: part.options[place].resident_bytes)
    if kind == KEEP or not part.options[0].resident_bytes:
        return 0, ""
    return chosen, f"{part.name} is kept by {kinds[chosen]!r}, which stands in for {kind!r}"


def _possible(steps: Steps, graph: CostGraph, changes: list[str]) -> Steps:
    """Steps that the graph allows: what cannot run again is taken out of its stretch."""
    found: list[int | Steps] = []
    for step in steps:
        if isinstance(step, int):
            found.append(step)
            continue
        inner = _possible(step, graph, changes)
        listed = parts_of(inner)
        bad = [i for n, i in enumerate(listed) if not graph.parts[i].reruns or (n and not graph.parts[i].joins)]
        if not bad:
            found.append(inner)
            continue
        changes.append(f"{graph.parts[bad[0]].name} cannot run again with what is before it: its stretch is divided")
        found += _divided(listed, graph)
    return tuple(found)


def _divided(listed: Sequence[int], graph: CostGraph) -> list[int | Steps]:
    found: list[int | Steps] = []
    current: list[int] = []
    for index in listed:
        part = graph.parts[index]
        if current and (not part.joins or not part.reruns):
            found.append(tuple(current))
            current = []
        if part.reruns:
            current.append(index)
        else:
            found.append(index)
    return [*found, tuple(current)] if current else found


def _source(plan: Plan, name: str) -> int | None:
    names = [part.name for part in plan.parts]
    if name in names:
        return names.index(name)
    held = [place for place, one in enumerate(names) if name and one.startswith(f"{name}.")]
    held += [place for place, one in enumerate(names) if one and name.startswith(f"{one}.")]
    return held[0] if held else None


def _paths(steps: Steps) -> dict[int, Path]:
    """For each part, the stretches around it; a stretch's number is its first part's, which nobody else begins with at
    its depth."""
    found: dict[int, Path] = {}
    waiting: list[tuple[Steps, Path]] = [(steps, ())]
    while waiting:
        listed, path = waiting.pop()
        for step in listed:
            if isinstance(step, int):
                found[step] = path
            else:
                waiting.append((step, (*path, parts_of(step)[0])))
    return found


def _common(first: Path, second: Path) -> Path:
    shared = []
    for a, b in zip(first, second, strict=False):
        if a != b:
            break
        shared.append(a)
    return tuple(shared)


def _nested(listed: Sequence[tuple[int, Path]], depth: int) -> Steps:
    """Steps from (part, path) in order."""
    found: list[int | Steps] = []
    place = 0
    while place < len(listed):
        index, path = listed[place]
        if len(path) <= depth:
            found.append(index)
            place += 1
            continue
        end = place
        while end < len(listed) and len(listed[end][1]) > depth and listed[end][1][depth] == path[depth]:
            end += 1
        found.append(_nested(listed[place:end], depth + 1))
        place = end
    return tuple(found)
