"""What others do with every model alike, as schedules on a cost graph: the points that a plan is compared with."""

from __future__ import annotations

import math

from zoo.planner.graph import CostGraph
from zoo.planner.schedule import Schedule
from zoo.planner.steps import Steps, operations_of


def known_methods(graph: CostGraph) -> dict[str, Schedule]:
    """Schedules by name: everything kept; every part by one kind; every part run again; sqrt(n) stretches (Chen 2016).

    A part that has no such option, or cannot be run again, is kept.

    Example:
        >>> from zoo.planner import Option, Part
        >>> parts = [Part(str(i), 4, (Option("keep", 10, 1.0, 2.0),)) for i in range(9)]
        >>> {name: s.seconds for name, s in known_methods(CostGraph.chain(parts)).items()}
        {'keep': 27.0, 'checkpoint every part': 35.0, 'sqrt(n) segments': 35.0}
    """
    count = len(graph.parts)
    everything: Steps = tuple(range(count))
    kinds = list(dict.fromkeys(option.kind for part in graph.parts for option in part.options))
    found = {}
    for kind in kinds:
        chosen = {}
        for index, part in enumerate(graph.parts):
            named = [place for place, option in enumerate(part.options) if option.kind == kind]
            chosen[index] = named[0] if named else 0
        found[kind] = Schedule.of(graph, operations_of(everything, graph, chosen))
    if any(part.reruns for part in graph.parts):
        found["checkpoint every part"] = Schedule.of(graph, operations_of(stretches(graph, 1), graph))
        length = max(2, round(math.sqrt(count)))
        found["sqrt(n) segments"] = Schedule.of(graph, operations_of(stretches(graph, length), graph))
    return found


def stretches(graph: CostGraph, length: int) -> Steps:
    """All parts in stretches of at most `length` that run again; the last part, and what cannot run again, is kept."""
    steps: list[int | Steps] = []
    place, last = 0, len(graph.parts) - 1
    furthest = graph.furthest_rerun
    while place <= last:
        end = min(place + length, furthest[place], last)
        if end <= place:
            steps.append(place)
            place += 1
        else:
            steps.append(tuple(range(place, end)))
            place = end
    return tuple(steps)
