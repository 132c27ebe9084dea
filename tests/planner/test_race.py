"""Real steps have the last word on time: the fastest of what fits is the plan, whatever was predicted."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from zoo.planner import CostGraph, Option, Part, Plan
from zoo.planner.race import fastest
from zoo.planner.rounds import Search
from zoo.planner.study import planned, swept

Race = Callable[[Sequence[Plan]], Sequence[float]]


def search_of(race: Race | None, max_noise: float | None = None, efficient: float = 2.5, reruns: bool = True) -> Search:
    """Three parts with three ways to keep, of which codes are noisy; a plan is seen by what it keeps its parts by."""
    options = (
        Option("keep", 30, 1.0, 2.0),
        Option("efficient", 12, 1.0, efficient),
        Option("4 bits", 10, 1.0, 2.2, noise=1.0),
    )
    parts = [Part(name, 4, options, reruns=reruns) for name in ("first", "second", "third")]
    words: dict[str, Any] = {"framework": "torch", "model": "Net", "fingerprint": "f00d", "input_shape": (8, 3)}
    words |= {"budget_bytes": 80, "plain_peak_bytes": 150}
    return Search(CostGraph.chain(parts), lambda plan: (plan.predicted_peak_bytes, 0), words, max_noise, race=race)


def choices(plan: Plan) -> set[str]:
    return {part.choice for part in plan.parts}


class FastBy:
    """Real steps in which whatever keeps by one kind alone is faster than all else; what ran is noted."""

    def __init__(self, kind: str) -> None:
        self.kind, self.ran = kind, list[Plan]()

    def __call__(self, plans: Sequence[Plan]) -> list[float]:
        self.ran += plans
        return [1.0 if choices(plan) == {self.kind} else 2.0 for plan in plans]


@pytest.mark.quick
def test_what_is_faster_in_a_real_step_is_the_plan() -> None:
    """Though slower by prediction; and it fits the budget, is quiet enough, and not beyond hope."""
    assert choices(planned(search_of(None))) != {"efficient"}
    race = FastBy("efficient")
    found = planned(search_of(race))
    assert choices(found) == {"efficient"}
    assert found.step_seconds == found.seconds == 1.0
    assert fastest([found], found.peak_bytes) is found, "to the byte"
    assert fastest([found], found.peak_bytes - 1) is None
    assert "1 s measured" in found.summary()
    assert all(plan.peak_bytes <= 80 for plan in race.ran), "nothing that does not fit takes a step"
    assert len(race.ran) == len({(plan.steps, *(part.choice for part in plan.parts)) for plan in race.ran})
    assert 1 < len(race.ran) <= 4
    loud = FastBy("4 bits")
    assert choices(planned(search_of(loud, max_noise=1.5))) != {"4 bits"}
    assert all(plan.noise <= 1.5 for plan in loud.ran)
    slow = FastBy("efficient")
    assert choices(planned(search_of(slow, None, 20.0, reruns=False))) != {"efficient"}, (
        "no step for what is far slower"
    )


@pytest.mark.quick
def test_one_rival_is_enough_and_none_is_the_plan_again() -> None:
    assert choices(planned(search_of(FastBy("efficient"), 0.0, reruns=False))) == {"efficient"}
    race = FastBy("efficient")
    search = search_of(race)
    plain = planned(replace(search, words={**search.words, "budget_bytes": 150}))
    assert choices(plain) == {"efficient"}
    assert len(race.ran) == len({(plan.steps, *(part.choice for part in plan.parts)) for plan in race.ran})


@pytest.mark.quick
def test_no_step_is_taken_where_least_memory_is_asked_for_or_none_can_be() -> None:
    race = FastBy("keep")
    assert planned(search_of(race), "memory").step_seconds is None
    assert race.ran == []
    assert planned(search_of(lambda plans: [])).step_seconds is None, "a step would take too long"


@pytest.mark.quick
def test_in_a_sweep_every_budget_gets_the_fastest_that_fits_it() -> None:
    found = swept(search_of(FastBy("efficient")), [60, 80, 150])
    assert [choices(plan) for plan in found.plans] == [{"efficient"}] * 3  # type: ignore[arg-type]
    assert [plan.budget_bytes for plan in found.plans] == [60, 80, 150]
    assert found.best_single(80) == "efficient"
    assert swept(search_of(None), [80]).best_single(80) == "4 bits", "by prediction"


def test_a_plan_file_tells_a_real_step_and_older_files_tell_none(tmp_path: Path) -> None:
    path, plan = tmp_path / "plan.json", planned(search_of(FastBy("efficient")))
    plan.save(path)
    assert Plan.load(path) == plan
    older = {name: value for name, value in json.loads(path.read_text()).items() if name != "step_seconds"}
    path.write_text(json.dumps(older))
    assert Plan.load(path) == replace(plan, step_seconds=None)
    for bad in (-1, "soon"):
        path.write_text(json.dumps({**older, "step_seconds": bad}))
        with pytest.raises(ValueError, match="step_seconds"):
            Plan.load(path)
