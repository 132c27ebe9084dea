"""Plans of eight models at five budgets: is each budget kept, is the prediction right, does one technique do better?

Run: python benchmarks/planner.py [--models resnet20 resnet56] [--budgets 0.5 0.3] [--allow recompute compress]
     [--times counted] [--csv FILE] [--dominance [--rounds 5]]
A row is one (model, budget). Budgets are shares of the plain peak; without --budgets five of each model: the smallest
that a plan needs, and 10, 25, 50 and 80 % of the way from there to the plain peak. "best single" is the least time
among what others do with every part alike and whose measured peak is within the same budget: keep, efficient,
keep_bottleneck, every part checkpointed, sqrt(n) segments, one width of codes. "of optimum" is the plan's time over
the least that is predicted for any schedule within the budget, where by prediction one is. Bytes are measured without
computing anything; times are predicted, for plan and methods alike. Under the table stands, model by model, what no
plan can be below. With --dominance: at 50, 30 and 20 % of the plain peak of small batches (or --budgets), plan and best
single technique also take real steps, in turns.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

# Python looks first beside this file, where kernels.py is called like a package: look in the project instead.
sys.path[0] = str(Path(__file__).resolve().parents[1])
import zoo  # noqa: E402
from benchmarks import plan_dominance  # noqa: E402
from benchmarks.rows import measured_with, new_csv, write_csv  # noqa: E402
from pytorch_models.planning import sweep_plans  # noqa: E402
from zoo.planner import InfeasibleBudgetError  # noqa: E402
from zoo.report import MIB, format_table  # noqa: E402

MODELS: Mapping[str, tuple[int, ...]] = MappingProxyType(  # name, and the shape of a batch
    {
        "resnet20": (64, 3, 32, 32),
        "resnet56": (64, 3, 32, 32),
        "preact_resnet56": (64, 3, 32, 32),
        "resnet18": (16, 3, 128, 128),
        "resnet50": (16, 3, 128, 128),
        "mobilenet_v2": (16, 3, 128, 128),
        "densenet_bc_40_12": (64, 3, 32, 32),
        "lstm_pixel_mnist": (64, 1, 28, 28),
    }
)
HEADS = (
    "model",
    "budget",
    "plan CPU s",
    "peak MiB",
    "of budget",
    "prediction",
    "time",
    "of optimum",
    "best single",
    "which",
)
BETWEEN = (0.8, 0.5, 0.25, 0.1, 0.0)  # of the way from the smallest to the plain peak


def rows_of(name: str, given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row a budget."""
    start = time.process_time()
    between = () if given.budgets else BETWEEN
    asked = {"between": between, "allow": given.allow, "times": given.times}
    sweep = sweep_plans(zoo.create_model(name), MODELS[name], given.budgets, **asked)
    seconds = (time.process_time() - start) / len(sweep.plans)
    plain = sweep.smallest.plain_peak_bytes
    for found, optimum in zip(sweep.plans, sweep.optima, strict=True):
        row: dict[str, Any] = dict.fromkeys(HEADS, "")
        row |= {"model": name, "budget": f"{found.budget_bytes / plain:.3f}", "plan CPU s": f"{seconds:.1f}"}
        if isinstance(found, InfeasibleBudgetError):
            yield {**row, "peak MiB": f"smallest {found.smallest_bytes / MIB:.1f}"}
            continue
        best = sweep.best_single(found.budget_bytes)
        yield {
            **row,
            "peak MiB": f"{found.peak_bytes / MIB:.1f}",
            "of budget": f"{found.peak_bytes / found.budget_bytes:.3f}",
            "prediction": f"{found.predicted_peak_bytes / found.peak_bytes:.3f}",
            "time": f"{found.predicted_seconds / found.plain_seconds:.3f}",
            "of optimum": f"{found.predicted_seconds / optimum:.3f}" if math.isfinite(optimum) else "measured alone",
            "best single": f"{sweep.methods[best].predicted_seconds / found.plain_seconds:.3f}"
            if best
            else "none fits",
            "which": best or "",
        }


def bound_of(name: str, given: argparse.Namespace) -> str:
    """What no plan of a model can be below."""
    asked = {"allow": given.allow, "times": "counted", "budget": 1}
    try:
        zoo.plan(zoo.create_model(name), MODELS[name], **asked)
    except InfeasibleBudgetError as error:
        floors = [words for words in str(error).split("; ") if words.startswith("whatever")]
        return f"{name}: {floors[0] if floors else 'the smallest plan needs less than is predicted for any'}"
    raise AssertionError("one byte is enough for no model")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--budgets", nargs="+", type=float, default=[])
    parser.add_argument("--allow", nargs="+", default=["recompute"])
    parser.add_argument("--times", default="measured", choices=["measured", "counted"])
    parser.add_argument("--csv", type=new_csv)
    parser.add_argument("--dominance", action="store_true", help="take real steps by plan and best single technique")
    parser.add_argument("--rounds", type=int, default=5, help="steps by each, with --dominance")
    given = parser.parse_args()
    if given.dominance:
        print(f"{measured_with('cpu')}; times {given.times}, allowed: {', '.join(given.allow)}")
        asked = (given.budgets or plan_dominance.BUDGETS, given.allow, given.times, given.rounds)
        table = [row for name in given.models for row in plan_dominance.rows_of(name, *asked)]
        print(*format_table(plan_dominance.HEADS, table, left={0, len(plan_dominance.HEADS) - 1}), sep="\n")
        return
    rows = [row for name in given.models for row in rows_of(name, given)]
    write_csv(given.csv, rows)
    lines = format_table(HEADS, [[row[head] for head in HEADS] for row in rows], left={0, len(HEADS) - 1})
    print(f"{measured_with('cpu')}; times {given.times}, allowed: {', '.join(given.allow)}", *lines, sep="\n")
    print("", *(bound_of(name, given) for name in given.models), sep="\n")


if __name__ == "__main__":
    main()
