"""Test accuracy of a small DenseNet on real images, trained exactly and with compression, over several seeds.

Run: python benchmarks/convergence.py [--schemes 2 4] [--seeds 3] [--epochs 8] [--depth 40] [--alone] [--csv FILE]
Data are mnist5k's 4,000 training and 1,000 test images of handwritten digits, which need no download. Every scheme
trains with `efficient=True` or, with --alone, without it, where all that is kept is coded; outputs are the same to the
bit as those of the exact network with the same flag, and only gradients differ. Differences are in percentage points
to the exact network of the same seed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

# Python looks first beside this file, where kernels.py is called like a package: look in the project instead.
sys.path[0] = str(Path(__file__).resolve().parents[1])
import pytorch_models  # noqa: E402
import zoo.data  # noqa: E402
from benchmarks.rows import measured_with, write_csv  # noqa: E402
from zoo.densenet import DenseNetConfig  # noqa: E402
from zoo.experiment import in_colour  # noqa: E402
from zoo.options import TrainingOptions  # noqa: E402
from zoo.policy import MemoryPolicy  # noqa: E402
from zoo.report import MIB  # noqa: E402

EXACT = "exact"


def train(scheme: str, seed: int, arguments: argparse.Namespace, data: Any) -> dict[str, Any]:
    """One run: test accuracy of the last epoch's weights in percent, seconds, saved bytes of a step."""
    policy = MemoryPolicy(efficient=not arguments.alone, compressed=None if scheme == EXACT else scheme)
    config = DenseNetConfig.from_depth(arguments.depth, 12, num_classes=len(data.classes))
    pytorch_models.set_seed(seed)
    model = pytorch_models.build_model(config, policy)
    report = pytorch_models.measure_step(model, (arguments.batch, 3, 32, 32), repeats=0, execute=False)
    options = TrainingOptions(
        n_epochs=arguments.epochs,
        batch_size=arguments.batch,
        valid_size=0,
        lr=arguments.lr,
        seed=seed,
        device=arguments.device,
        progress=False,
    )
    start = time.perf_counter()
    result = pytorch_models.train(model, data, options)
    return {
        "scheme": scheme,
        "seed": seed,
        "accuracy": 100 * result.test_accuracy,
        "seconds": time.perf_counter() - start,
        "saved_mib": report.saved_bytes / MIB,
    }


def as_table(rows: list[dict[str, Any]]) -> str:
    """Markdown: one line a scheme."""
    exact = {row["seed"]: row["accuracy"] for row in rows if row["scheme"] == EXACT}
    lines = [
        "| scheme | test accuracy %, mean (lowest-highest) | points to exact, mean | saved MiB | time of exact |",
        "|---|---|---|---|---|",
    ]
    exact_seconds = statistics.fmean(row["seconds"] for row in rows if row["scheme"] == EXACT)
    for scheme in dict.fromkeys(row["scheme"] for row in rows):
        mine = [row for row in rows if row["scheme"] == scheme]
        found = [row["accuracy"] for row in mine]
        points = statistics.fmean(row["accuracy"] - exact[row["seed"]] for row in mine)
        seconds = statistics.fmean(row["seconds"] for row in mine) / exact_seconds
        lines.append(
            f"| {scheme} | {statistics.fmean(found):.2f} ({min(found):.1f}-{max(found):.1f}) | {points:+.2f} "
            f"| {mine[0]['saved_mib']:.1f} | {seconds:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--schemes", nargs="+", default=["2", "4"], help="values of compressed=; exact always runs")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each scheme (default 3)")
    parser.add_argument("--epochs", type=int, default=8, help="passes over the images (default 8)")
    parser.add_argument("--depth", type=int, default=40, help="of DenseNet-BC, growth rate 12 (default 40)")
    parser.add_argument("--batch", type=int, default=64, help="images per step (default 64)")
    parser.add_argument("--lr", type=float, default=0.1, help="learning rate (default 0.1)")
    parser.add_argument("--alone", action="store_true", help="compress without efficient=True")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    parser.add_argument("--csv", type=Path, help="also write every run to this file")
    arguments = parser.parse_args()
    data = in_colour(zoo.data.load("mnist5k"))
    flag = "without efficient" if arguments.alone else "efficient"
    print(
        f"DenseNet-BC-{arguments.depth} k=12, {flag}, on mnist5k, {arguments.epochs} epochs, batch {arguments.batch}, "
        f"{arguments.seeds} seeds; {measured_with(arguments.device)}",
        flush=True,
    )
    schemes = [EXACT, *(scheme for scheme in arguments.schemes if scheme != EXACT)]
    rows = []
    for seed in range(arguments.seeds):
        for scheme in schemes:
            rows.append(train(scheme, seed, arguments, data))
            print(f"{scheme:>10} seed {seed}: {rows[-1]['accuracy']:.2f} %, {rows[-1]['seconds']:.0f} s", flush=True)
    print(as_table(rows))
    write_csv(arguments.csv, rows)


if __name__ == "__main__":
    main()
