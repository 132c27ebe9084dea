"""Memory and time of the zoo's models in TensorFlow, plain, efficient and compressed, in one mode.

Ratios are to the plain model. Steps of the compared models alternate in one process, so that a slow moment of the
machine slows all of them.

    python benchmarks/tensorflow_models.py densenet_bc_100_12 --batch 16 --mode graph
    python benchmarks/tensorflow_models.py resnet50 --batch 8 --policies efficient --repeats 3
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

sys.path[0] = str(Path(__file__).resolve().parents[1])
import zoo  # noqa: E402
from zoo import frameworks  # noqa: E402
from zoo.choices import unknown  # noqa: E402
from zoo.policy import MemoryPolicy  # noqa: E402
from zoo.report import MIB  # noqa: E402

POLICIES = (
    MemoryPolicy(),
    MemoryPolicy(efficient=True, keep_bottleneck=True),
    MemoryPolicy(efficient=True),
    MemoryPolicy(compressed=2),
    MemoryPolicy(efficient=True, compressed=2),
)


def main(arguments: list[str]) -> None:
    """Print the table of one model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=zoo.list_models())
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, help="height and width in pixels, or time steps")
    parser.add_argument("--mode", choices=("eager", "graph", "xla"), default="graph")
    parser.add_argument("--repeats", type=int, default=5, help="timed steps; 0 = bytes alone")
    parser.add_argument("--policies", nargs="+", metavar="POLICY", help="of those in the table, beside plain")
    given = parser.parse_args(arguments)
    names = [str(policy) for policy in POLICIES]
    asked = given.policies or names
    for name in asked:
        if name not in names:
            parser.error(unknown("policy", name, names))
    package = frameworks.load("tensorflow")
    config = zoo.find_config(given.model)
    shape = _shape(config, given.batch, given.size)
    reports, steps = [], []
    for policy in (policy for policy in POLICIES if policy == MemoryPolicy() or str(policy) in asked):
        if hasattr(config, "sequence_shape") and (policy.keep_bottleneck or policy.compressed):
            continue  # an LSTM has neither
        package.set_seed(0)
        model = package.build_model(config, policy)
        reports.append(package.measure_step(model, shape, mode=given.mode, repeats=0))
        steps += [_step(model, shape, given.mode)] if given.repeats else []
    seconds = _alternating(steps, given.repeats)
    version = frameworks.installed_version(frameworks.find("tensorflow").distribution)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, TensorFlow {version}"
    print(f"{given.model}, input {shape}, float32, {given.mode}; {machine}")
    print("| policy | saved MiB | peak MiB | of plain | step s (least-most) | of plain |\n|---|---|---|---|---|---|")
    for place, report in enumerate(reports):
        ratio = report.peak_bytes / reports[0].peak_bytes
        sizes = f"{report.saved_bytes / MIB:.0f} | {report.peak_bytes / MIB:.0f} | {ratio:.2f}"
        print(f"| {report.policy} | {sizes} | {_times(seconds, place)} |")


def _times(seconds: list[list[float]], place: int) -> str:
    """Two columns, of one policy's steps."""
    if not seconds:
        return " | "
    own, first = seconds[place], statistics.median(seconds[0])
    middle = statistics.median(own)
    return f"{middle:.2f} ({min(own):.2f}-{max(own):.2f}) | {middle / first:.2f}"


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
