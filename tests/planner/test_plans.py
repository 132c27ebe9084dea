"""Budgets, steps, known methods, the price on noise, and plans as files: what needs no framework."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from zoo.planner import (
    ChainSolver,
    CostGraph,
    InfeasibleBudgetError,
    Option,
    Part,
    Plan,
    PlannedPart,
    Schedule,
    nested_steps,
    noise_of,
    parse_budget,
    replay,
    runs_of,
    solve_quietly,
)
from zoo.planner.methods import known_methods
from zoo.planner.steps import operations_of, parts_of

Chains = Callable[..., CostGraph]


@pytest.mark.quick
def test_budgets_as_people_write_them() -> None:
    assert [parse_budget(text) for text in ("2GiB", "512 MB", "1kb", 7)] == [2**31, 512 * 10**6, 1000, 7]
    assert [parse_budget(share, 1000) for share in (0.3, "0.3", 1.0)] == [300, 300, 1000]
    assert parse_budget(1, 1000) == 1, "a whole number is bytes"
    for bad in ("", "GiB", "2 GB GB", "1.2.3", ".", 0, -1, 0.0, "0", math.nan, math.inf, "nan", -0.5):
        with pytest.raises(ValueError, match="budget must be"):
            parse_budget(bad, 1000)
    for bad in (None, True, [1], 3j):
        with pytest.raises(TypeError, match="budget must be"):
            parse_budget(bad)  # type: ignore[arg-type]


@pytest.mark.quick
@pytest.mark.parametrize("rigid", [False, True])
def test_steps_say_what_a_schedule_does(rigid: bool, random_chain: Chains) -> None:
    """From operations to steps and back: the same peak and seconds; every part once, in order."""
    compared = 0
    for seed in range(8):
        chain = random_chain(seed, 6, 2, False, rigid)
        solver = ChainSolver(chain)
        for budget in np.linspace(solver.smallest.peak_bytes, solver.fastest.peak_bytes, 4).astype(int):
            schedule = solver.solve(int(budget))
            steps = nested_steps(schedule.operations)
            assert parts_of(steps) == list(range(6))
            again = operations_of(steps, chain, schedule.options())
            assert replay(chain, again) == (schedule.peak_bytes, schedule.seconds)
            forwards = sum(runs * chain.parts[part].rerun.forward_seconds for part, runs in runs_of(steps).items())
            assert forwards <= schedule.seconds
            compared += 1
    assert compared == 32


def test_known_methods_are_schedules_of_the_graph(random_chain: Chains) -> None:
    chain = random_chain(1, 9, 1)
    methods = known_methods(chain)
    assert set(methods) == {"kept", "checkpoint every part", "sqrt(n) segments"}
    assert methods["checkpoint every part"].seconds > methods["kept"].seconds
    solver = ChainSolver(chain)
    for name, schedule in methods.items():
        assert solver.solve(schedule.peak_bytes).seconds <= schedule.seconds, name


def coded_chain(parts: int, seed: int = 0) -> CostGraph:
    """Parts that may be kept, or kept as codes of two widths, each with noise of its own."""
    rng = np.random.default_rng(seed)
    listed = []
    for index in range(parts):
        output, loud = int(rng.integers(2, 6)), float(rng.uniform(0.1, 1))
        options = (
            Option("keep", output + int(rng.integers(10, 30)), 1.0, 2.0),
            Option("4 bits", output + 4, 1.2, 2.2, noise=loud / 10),
            Option("2 bits", output + 2, 1.2, 2.2, noise=loud),
        )
        listed.append(Part(str(index), output, options, reruns=False))
    return CostGraph.chain(listed)


def test_noise_is_limited_and_costs_little_more_than_the_best() -> None:
    """Against every choice of options of six parts."""
    slowest = 0.0
    for seed in range(4):
        chain = coded_chain(6, seed)
        solver = ChainSolver(chain)
        budget = (solver.smallest.peak_bytes + solver.fastest.peak_bytes) // 2
        loud = noise_of(chain, solve_quietly(chain, budget))
        everything = tuple(range(6))
        all_schedules = [
            Schedule.of(chain, operations_of(everything, chain, dict(enumerate(chosen))))
            for chosen in itertools.product(range(3), repeat=6)
        ]
        for limit in (0.0, 0.2 * loud, 0.6 * loud, loud):
            fitting = [s for s in all_schedules if s.peak_bytes <= budget and noise_of(chain, s) <= limit]
            if not fitting:
                with pytest.raises(InfeasibleBudgetError):
                    solve_quietly(chain, budget, limit)
                continue
            found = solve_quietly(chain, budget, limit)
            assert found.peak_bytes <= budget
            assert noise_of(chain, found) <= limit
            slowest = max(slowest, found.seconds / min(s.seconds for s in fitting))
    assert 1 <= slowest <= 1.05


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf, "much", None])
def test_a_noise_that_is_none_is_refused(bad: object) -> None:
    if bad is None:
        assert noise_of(coded_chain(2), solve_quietly(coded_chain(2), 10**6, None)) == 0
        return
    with pytest.raises((TypeError, ValueError), match="max_noise"):
        solve_quietly(coded_chain(2), 10**6, bad)  # type: ignore[arg-type]


@pytest.fixture
def plan() -> Plan:
    """Of three parts, two of which run again together."""
    parts = tuple(PlannedPart(name, "keep", runs, 2**20, 0, 0.5) for name, runs in (("a", 2), ("b", 2), ("c", 1)))
    facts = {"framework": "torch", "model": "Net", "fingerprint": "f00d", "input_shape": (8, 3), "budget_bytes": 2**21}
    peaks = {"predicted_peak_bytes": 2**20, "peak_bytes": 2**20, "saved_bytes": 5, "plain_peak_bytes": 2**22}
    seconds = {"predicted_seconds": 1.5, "plain_seconds": 1.0, "noise": 0.0}
    return Plan(**facts, **peaks, **seconds, parts=parts, steps=((0, 1), 2))  # type: ignore[arg-type]


def test_a_plan_is_a_file_and_a_table(plan: Plan, tmp_path: Path) -> None:
    path = tmp_path / "folder" / "plan.json"
    plan.save(path)
    assert Plan.load(path) == plan
    assert [entry.name for entry in path.parent.iterdir()] == ["plan.json"]
    text = str(plan)
    assert "peak 1.0 MiB (25% of plain) of a budget of 2.0 MiB" in text
    assert "1.50x of plain" in text
    assert "exact" in text
    assert text.splitlines()[-3].split()[:4] == ["a", "run", "again", "2"]
    assert len(plan.table().splitlines()) == 2 + 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.steps = ()  # type: ignore[misc]


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "not json",
        lambda text: "[1, 2]",
        lambda text: "null",
        lambda text: json.dumps({**json.loads(text), "format": 99}),
        lambda text: json.dumps({**json.loads(text), "framework": "jax"}),
        lambda text: json.dumps({name: value for name, value in json.loads(text).items() if name != "steps"}),
        lambda text: json.dumps({**json.loads(text), "steps": [0, [1]]}),
        lambda text: text[: len(text) // 2],
    ],
)
def test_a_file_that_holds_no_plan_is_refused(damage: Callable[[str], str], plan: Plan, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    plan.save(path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(ValueError, match="holds no plan"):
        Plan.load(path)
    with pytest.raises(FileNotFoundError):
        Plan.load(tmp_path / "nothing.json")
