"""Memory and time of the zoo's models in TensorFlow, plain and efficient, in one mode; ratios are to the plain model.

Steps of the compared models alternate in one process, so that a slow moment of the machine slows all of them.

    python benchmarks/tensorflow_models.py densenet_bc_100_12 --batch 16 --mode graph
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import zoo
from zoo import frameworks
from zoo.policy import MemoryPolicy
from zoo.report import MIB

POLICIES = (MemoryPolicy(), MemoryPolicy(efficient=True, keep_bottleneck=True), MemoryPolicy(efficient=True))


def main(arguments: list[str]) -> None:
    """Print the table of one model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=zoo.list_models())
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, help="height and width in pixels, or time steps")
    parser.add_argument("--mode", choices=("eager", "graph", "xla"), default="graph")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args(arguments)
    package = frameworks.load("tensorflow")
    config = zoo.find_config(given.model)
    shape = _shape(config, given.batch, given.size)
    reports, steps = [], []
    for policy in POLICIES:
        if policy.keep_bottleneck and hasattr(config, "sequence_shape"):
            continue  # an LSTM has none
        package.set_seed(0)
        model = package.build_model(config, policy)
        reports.append(package.measure_step(model, shape, mode=given.mode, repeats=0))
        steps.append(_step(model, shape, given.mode))
    seconds = _alternating(steps, given.repeats)
    version = frameworks.installed_version(frameworks.find("tensorflow").distribution)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, TensorFlow {version}"
    print(f"{given.model}, input {shape}, float32, {given.mode}; {machine}")
    print("| policy | saved MiB | peak MiB | of plain | step s (least-most) | of plain |\n|---|---|---|---|---|---|")
    for report, own in zip(reports, seconds, strict=True):
        first, middle = reports[0], statistics.median(own)
        spread = f"{min(own):.2f}-{max(own):.2f}"
        print(
            f"| {report.policy} | {report.saved_bytes / MIB:.0f} | {report.peak_bytes / MIB:.0f} | "
            f"{report.peak_bytes / first.peak_bytes:.2f} | {middle:.2f} ({spread}) | "
            f"{middle / statistics.median(seconds[0]):.2f} |"
        )


def _shape(config: Any, batch: int, size: int | None) -> tuple[int, ...]:
    if hasattr(config, "sequence_shape"):
        shape: tuple[int, ...] = config.sequence_shape(size or 256, batch)
        return shape
    pixels = size or config.image_size
    return batch, config.in_chans, pixels, pixels


def _step(model: Any, shape: tuple[int, ...], mode: str) -> Any:
    from tf_models.measure import random_batch
    from tf_models.step import make_step

    inputs, labels = random_batch(model, shape, "float32")
    step = make_step(model, mode)
    step(inputs, labels)
    return lambda: float(step(inputs, labels)[0])


def _alternating(steps: list[Any], repeats: int) -> list[list[float]]:
    seconds: list[list[float]] = [[] for _ in steps]
    for _ in range(repeats):
        for own, step in zip(seconds, steps, strict=True):
            start = time.perf_counter()
            step()
            own.append(time.perf_counter() - start)
    return seconds


if __name__ == "__main__":
    main(sys.argv[1:])
