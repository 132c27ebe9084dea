"""Plans of two networks in TensorFlow and MXNet: is each budget kept, and was the peak predicted?

Run: python benchmarks/plan_frameworks.py [--framework tensorflow mxnet] [--budgets 0.7 0.5]
A row is one (framework, model, budget). TensorFlow really runs a step to measure it; MXNet's figure is its planner's.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

# Python looks first beside this file, where kernels.py is called like a package: look in the project instead.
sys.path[0] = str(Path(__file__).resolve().parents[1])
import zoo  # noqa: E402
from zoo import frameworks  # noqa: E402
from zoo.planner import InfeasibleBudgetError  # noqa: E402
from zoo.report import MIB, format_table  # noqa: E402

MODELS: Mapping[str, tuple[str, Mapping[str, Any], tuple[int, ...]]] = MappingProxyType(
    {
        "ResNet 3-2": ("ResNet", {"layers": (3, 2), "width": 16}, (64, 3, 32, 32)),
        "DenseNet 6-6": ("DenseNet", {"block_config": (6, 6), "growth_rate": 12}, (32, 3, 32, 32)),
    }
)


def rows_of(framework: str, budget: float) -> Iterator[list[str]]:
    """One row a model."""
    package = frameworks.load(framework)
    for name, (kind, fields, shape) in MODELS.items():
        model, start = getattr(package, kind)(**fields), time.process_time()
        row = [framework, name, f"{budget:g}"]
        try:
            plan = zoo.plan(model, shape, budget=budget, times="counted")
        except InfeasibleBudgetError as error:
            yield [*row, f"smallest {error.smallest_bytes / MIB:.1f} MiB", "", "", "", ""]
            continue
        yield [
            *row,
            f"{plan.peak_bytes / MIB:.1f}",
            f"{plan.peak_bytes / plan.budget_bytes:.3f}",
            f"{plan.predicted_peak_bytes / plan.peak_bytes:.3f}",
            f"{plan.predicted_seconds / plan.plain_seconds:.3f}",
            f"{time.process_time() - start:.0f}",
        ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--framework", nargs="+", default=["tensorflow", "mxnet"], choices=["tensorflow", "mxnet"])
    parser.add_argument("--budgets", nargs="+", type=float, default=[0.7, 0.5])
    given = parser.parse_args()
    rows = [row for name in given.framework for budget in given.budgets for row in rows_of(name, budget)]
    heads = ("framework", "model", "budget", "peak MiB", "of budget", "prediction", "time", "plan CPU s")
    print("\n".join(format_table(heads, rows, left={0, 1})))


if __name__ == "__main__":
    main()
