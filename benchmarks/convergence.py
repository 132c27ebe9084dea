"""Test accuracy of a network on real images, trained exactly and with compression, over several seeds.

Run: python benchmarks/convergence.py [--schemes 2 4] [--seeds 3] [--epochs 8] [--depth 40] [--csv FILE]
     python benchmarks/convergence.py --model resnet20 --schemes 8 4 2 L3 gact:4 autoquantz autoquant-sr --workers 2
     python benchmarks/convergence.py --model resnet20 --grid           GridQuantZ: the narrowest quantz that does
     python benchmarks/convergence.py --model resnet50 --data cifar10 --epochs 300 --lr 0.1 --device cuda \\
         --schemes quant8 quantz8 autoquant autoquantz autoquant-sr L3  AC-GC's table (days on a CPU)
Data are mnist5k's 4,000 training and 1,000 test images of handwritten digits, which need no download. DenseNets train
with `efficient=True`, so that outputs are the same to the bit and only gradients differ. Differences are in percentage
points to the exact network of the same seed.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Python looks first beside this file, where kernels.py is called like a package: look in the project instead.
sys.path[0] = str(Path(__file__).resolve().parents[1])
import pytorch_models  # noqa: E402
import zoo  # noqa: E402
import zoo.data  # noqa: E402
from benchmarks.rows import measured_with, new_csv, write_csv  # noqa: E402
from pytorch_models.compressed import compress  # noqa: E402
from zoo.densenet import DenseNetConfig  # noqa: E402
from zoo.experiment import in_colour  # noqa: E402
from zoo.options import TrainingOptions  # noqa: E402
from zoo.policy import MemoryPolicy  # noqa: E402
from zoo.report import MIB  # noqa: E402
from zoo.schemes import is_scheme  # noqa: E402

EXACT = "exact"
GRID = tuple(f"quantz{bits}" for bits in range(2, 17))
WITHIN = 0.1  # points of the exact network's mean, for GridQuantZ
# AC-GC's published table: CIFAR-10, ResNet-50, 300 epochs; accuracy and average bits by its own counting.
PUBLISHED = (
    "published (AC-GC, CIFAR-10, ResNet-50): baseline 95.16 %; quant8 94.90 @ 8.00 bits; quantz8 94.82 @ 7.43; "
    "autoquant 94.73 @ 7.31; autoquantz 94.91 @ 6.69"
)


def build(scheme: str, arguments: argparse.Namespace, classes: int) -> Any:
    """A fresh network that is trained by a scheme."""
    compressed = None if scheme == EXACT else scheme
    if arguments.model != "densenet":
        model = zoo.create_model(arguments.model, num_classes=classes)
        return model if compressed is None else compress(model, compressed)
    policy = MemoryPolicy(efficient=compressed is None or not is_scheme(scheme), compressed=compressed)
    config = DenseNetConfig.from_depth(arguments.depth, 12, num_classes=classes)
    return pytorch_models.build_model(config, policy)


def read(arguments: argparse.Namespace) -> Any:
    """The data set, cut to `--limit`."""
    data = in_colour(zoo.data.load(arguments.data))
    if arguments.limit is None:
        return data
    images, labels = (part[: arguments.limit] for part in (data.train_images, data.train_labels))
    return dataclasses.replace(data, train_images=images, train_labels=labels)


def train(scheme: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """One run: test accuracy of the last epoch's weights in percent, seconds, saved bytes of a step."""
    data = read(arguments)
    pytorch_models.set_seed(seed)
    model = build(scheme, arguments, len(data.classes))
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
    seconds = time.perf_counter() - start
    # After training: some schemes learn their bits on the way.
    report = pytorch_models.measure_step(model, (arguments.batch, 3, 32, 32), repeats=0, device=arguments.device)
    compression = getattr(model, "compression", None)
    return {
        "scheme": scheme,
        "seed": seed,
        "accuracy": 100 * result.test_accuracy,
        "seconds": seconds,
        "bits": compression.average_bits if compression is not None else float("nan"),
        "published_bits": compression.published_bits if compression is not None else float("nan"),
        "saved_mib": report.saved_bytes / MIB,
        "peak_mib": report.peak_bytes / MIB,
    }


def as_table(rows: list[dict[str, Any]]) -> str:
    """Markdown: one line a scheme."""
    exact = {row["seed"]: row["accuracy"] for row in rows if row["scheme"] == EXACT}
    lines = [
        "| scheme | test accuracy %, mean (lowest-highest) | points to exact, mean | bits | bits as AC-GC counts "
        "| saved MiB | peak MiB | time of exact |",
        "|---|---|---|---|---|---|---|---|",
    ]
    exact_seconds = statistics.fmean(row["seconds"] for row in rows if row["scheme"] == EXACT)
    for scheme in dict.fromkeys(row["scheme"] for row in rows):
        mine = [row for row in rows if row["scheme"] == scheme]
        found = [row["accuracy"] for row in mine]
        points = statistics.fmean(row["accuracy"] - exact[row["seed"]] for row in mine)
        seconds = statistics.fmean(row["seconds"] for row in mine) / exact_seconds
        bits, published = (statistics.fmean(row[name] for row in mine) for name in ("bits", "published_bits"))
        bytes_and_time = f"{mine[0]['saved_mib']:.1f} | {mine[0]['peak_mib']:.1f} | {seconds:.2f} |"
        row = (
            f"| {scheme} | {statistics.fmean(found):.2f} ({min(found):.1f}-{max(found):.1f}) | {points:+.2f} "
            f"| {bits:.2f} | {published:.2f} | {bytes_and_time}"
        )
        lines.append(row.replace("nan", ""))
    return "\n".join(lines)


def narrowest(rows: list[dict[str, Any]]) -> str | None:
    """The scheme of fewest bits whose mean accuracy is within `WITHIN` points of the exact network's; None if none."""
    means = {
        scheme: statistics.fmean(row["accuracy"] for row in rows if row["scheme"] == scheme)
        for scheme in dict.fromkeys(row["scheme"] for row in rows)
    }
    return next((s for s in GRID if s in means and means[s] >= means[EXACT] - WITHIN), None)


def train_all(
    schemes: Sequence[str], arguments: argparse.Namespace, before: Sequence[dict[str, Any]] = ()
) -> list[dict[str, Any]]:
    """Every scheme with every seed, in processes of their own; told, and written to `--csv`, as they end.

    Args:
        before: rows that are there already, which come first.
    """
    workers = max(arguments.workers, 1)
    os.environ["OMP_NUM_THREADS"] = str(max((os.cpu_count() or 1) // workers, 1))  # read when a process starts
    runs = [(scheme, seed) for seed in range(arguments.seeds) for scheme in schemes]
    found: dict[tuple[str, int], dict[str, Any]] = {}
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, context) as pool:
        asked = {pool.submit(train, *run, arguments): run for run in runs}
        for done in concurrent.futures.as_completed(asked):
            scheme, seed = asked[done]
            found[scheme, seed] = row = done.result()
            print(f"{scheme:>12} seed {seed}: {row['accuracy']:.2f} %, {row['seconds']:.0f} s", flush=True)
            write_csv(arguments.csv, [*before, *(found[run] for run in runs if run in found)])
    return [*before, *(found[run] for run in runs)]


def search_grid(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """From the narrowest width upwards, to the first that does."""
    rows = train_all((EXACT, GRID[0]), arguments)
    for scheme in GRID[1:]:
        if narrowest(rows) is not None:
            break
        rows = train_all((scheme,), arguments, rows)
    return rows


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--schemes", nargs="+", default=["2", "4"], help="values of compressed=; exact always runs")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each scheme (default 3)")
    parser.add_argument("--model", default="densenet", help="densenet (of --depth), or a name of python -m zoo list")
    parser.add_argument("--data", default="mnist5k", help="a data set of images (default mnist5k)")
    parser.add_argument(
        "--grid",
        action="store_true",
        help="GridQuantZ: quantz2, quantz3 ... quantz16, up to the first within 0.1 points of exact",
    )
    parser.add_argument("--epochs", type=int, default=8, help="passes over the images (default 8)")
    parser.add_argument("--depth", type=int, default=40, help="of DenseNet-BC, growth rate 12 (default 40)")
    parser.add_argument("--limit", type=int, help="so many training images, for a quick look (default all)")
    parser.add_argument("--batch", type=int, default=64, help="images per step (default 64)")
    parser.add_argument("--lr", type=float, default=0.1, help="learning rate (default 0.1)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    parser.add_argument("--workers", type=int, default=1, help="runs at once, which share the cores (default 1)")
    parser.add_argument("--csv", type=new_csv, help="also write every run to this file")
    arguments = parser.parse_args()
    name = f"DenseNet-BC-{arguments.depth} k=12" if arguments.model == "densenet" else arguments.model
    print(
        f"{name} on {arguments.data}, {arguments.epochs} epochs, batch {arguments.batch}, "
        f"{arguments.seeds} seeds, {arguments.workers} at once; {measured_with(arguments.device)}",
        flush=True,
    )
    schemes = [EXACT, *(scheme for scheme in arguments.schemes if scheme != EXACT)]
    rows = search_grid(arguments) if arguments.grid else train_all(schemes, arguments)
    print(as_table(rows))
    if arguments.data == "cifar10":
        print(PUBLISHED)
    if arguments.grid:
        print(f"GridQuantZ: {narrowest(rows) or 'none is near enough'}")


if __name__ == "__main__":
    main()
