"""Plans of eight models at five budgets: is each budget kept, is the prediction right, does one technique do better?

Run: python benchmarks/planner.py [--models resnet20 unet] [--budgets 0.8 0.5 0.3] [--allow recompute compress]
     [--times counted] [--csv FILE]
A row is one (model, budget). "best single" is the least time among what others do with every part alike and whose
measured peak is within the same budget: keep, efficient, keep_bottleneck, every part checkpointed, sqrt(n) segments,
one width of codes. Bytes are measured without computing anything; times are predicted, for plan and methods alike.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

# Python looks first beside this file, where kernels.py is called like a package: look in the project instead.
sys.path[0] = str(Path(__file__).resolve().parents[1])
import zoo  # noqa: E402
from benchmarks.rows import measured_with, write_csv  # noqa: E402
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
TIMES = ("time", "best single", "which")
BUDGETS = (0.8, 0.6, 0.5, 0.3, 0.2)


def rows_of(name: str, budgets: Sequence[float], allow: Sequence[str], times: str) -> Iterator[dict[str, Any]]:
    """One row a budget."""
    start = time.process_time()
    plans, methods = sweep_plans(zoo.create_model(name), MODELS[name], budgets, allow=allow, times=times)
    seconds = (time.process_time() - start) / len(plans)
    for budget, found in zip(budgets, plans, strict=True):
        row: dict[str, Any] = {"model": name, "budget": budget, "plan CPU s": round(seconds, 1)}
        if isinstance(found, InfeasibleBudgetError):
            smallest = f"smallest {found.smallest_bytes / MIB:.1f} MiB"
            yield {
                **row,
                "peak MiB": smallest,
                "of budget": "",
                "prediction": "",
                "time": "",
                "best single": "",
                "which": "",
            }
            continue
        fitting = {key: plan for key, plan in methods.items() if plan.peak_bytes <= found.budget_bytes}
        best = min(fitting, key=lambda key: fitting[key].predicted_seconds, default=None)
        yield {
            **row,
            "peak MiB": f"{found.peak_bytes / MIB:.1f}",
            "of budget": f"{found.peak_bytes / found.budget_bytes:.3f}",
            "prediction": f"{found.predicted_peak_bytes / found.peak_bytes:.3f}",
            "time": f"{found.predicted_seconds / found.plain_seconds:.3f}",
            "best single": f"{fitting[best].predicted_seconds / found.plain_seconds:.3f}" if best else "none fits",
            "which": best or "",
        }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--budgets", nargs="+", type=float, default=list(BUDGETS))
    parser.add_argument("--allow", nargs="+", default=["recompute"])
    parser.add_argument("--times", default="measured", choices=["measured", "counted"])
    parser.add_argument("--csv", type=Path)
    given = parser.parse_args()
    rows = [row for name in given.models for row in rows_of(name, given.budgets, given.allow, given.times)]
    write_csv(given.csv, rows)
    heads = list(rows[0])
    lines = format_table(heads, [[str(row[head]) for head in heads] for row in rows], left={0, len(heads) - 1})
    print(f"{measured_with('cpu')}; times {given.times}, allowed: {', '.join(given.allow)}", *lines, sep="\n")


if __name__ == "__main__":
    main()
