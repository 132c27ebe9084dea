"""Memory and time of ResNet-50 and MobileNetV2 in PyTorch, every way of saving beside plain; prints a table.

Run: python benchmarks/image_models_torch.py [--models resnet50 mobilenet_v2] [--batch 32] [--timed-batch 8]
     [--image-size 224] [--repeats 5] [--device cpu] [--csv FILE]
Bytes are of a step of --batch images, by the project's tracker, without computing anything. Times are of a step of
--timed-batch images, which fits easily: all rows in turns within one process, because machines are noisy, and the
fastest of the repeats counts. Compare ratios, not seconds.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

# Python looks first beside this file, where kernels.py is called like a package: look in the project instead.
sys.path[0] = str(Path(__file__).resolve().parents[1])
import zoo  # noqa: E402
from benchmarks.rows import measured_with, new_csv, write_csv  # noqa: E402
from pytorch_models import build_model, measure_step  # noqa: E402
from zoo.policy import MemoryPolicy  # noqa: E402
from zoo.report import MIB  # noqa: E402


@dataclass(frozen=True)
class Way:
    """One way of running a model."""

    policy: MemoryPolicy = MemoryPolicy()  # noqa: RUF009 - frozen
    segments: bool = False
    channels_last: bool = False


KEEP, LEAST = MemoryPolicy(efficient=True, keep_bottleneck=True), MemoryPolicy(efficient=True)
WAYS: Mapping[str, Way] = MappingProxyType(
    {
        "plain": Way(),
        "efficient, keep_bottleneck": Way(KEEP),
        "efficient": Way(LEAST),
        "compressed 8": Way(MemoryPolicy(compressed=8)),
        "compressed 2": Way(MemoryPolicy(compressed=2)),
        "efficient, compressed 2": Way(MemoryPolicy(efficient=True, compressed=2)),
        "plain, segments": Way(segments=True),
        "efficient, segments": Way(LEAST, segments=True),
        "plain, channels_last": Way(channels_last=True),
    }
)


def build(name: str, way: Way) -> Any:
    """The model of a published name, run in one way."""
    model = build_model(zoo.find_config(name), way.policy)
    model.set_grad_checkpointing(way.segments)
    return model.to(memory_format=torch.channels_last) if way.channels_last else model


def seconds_of_step(model: Any, images: Tensor, labels: Tensor) -> float:
    """One forward and backward pass."""
    for parameter in model.parameters():
        parameter.grad = None
    if images.is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    F.cross_entropy(model(images), labels).backward()
    if images.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def fastest_steps(name: str, shape: tuple[int, ...], repeats: int, device: str) -> dict[str, float]:
    """Seconds of a step of each way: the fastest of the repeats, after one that warms up."""
    models = {key: build(name, way).to(device) for key, way in WAYS.items()}
    images, labels = torch.randn(shape, device=device), torch.arange(shape[0], device=device) % 10
    found: dict[str, list[float]] = {key: [] for key in models}
    for repeat in range(repeats + 1):
        for key, model in models.items():
            given = images.contiguous(memory_format=torch.channels_last) if WAYS[key].channels_last else images
            seconds = seconds_of_step(model, given, labels)
            if repeat:
                found[key].append(seconds)
    return {key: min(seconds) for key, seconds in found.items()}


def measure(name: str, shape: tuple[int, ...], timed_batch: int, repeats: int, device: str) -> list[dict[str, Any]]:
    """One row a way: MiB, seconds, ratios to plain."""
    seconds = fastest_steps(name, (timed_batch, *shape[1:]), repeats, device)
    rows: list[dict[str, Any]] = []
    for key, way in WAYS.items():
        report = measure_step(build(name, way), shape, execute=False)
        row = {"model": name, "kept": key, "saved_mib": report.saved_bytes / MIB, "peak_mib": report.peak_bytes / MIB}
        rows.append(row | {"seconds": seconds[key]})
    for row in rows:
        for value, ratio in (("saved_mib", "saved_ratio"), ("peak_mib", "peak_ratio"), ("seconds", "time_ratio")):
            row[ratio] = row[value] / rows[0][value]
    return rows


def heading(shape: tuple[int, ...], timed_batch: int, device: str) -> str:
    """What the figures were measured with."""
    pixels = f"{shape[-1]}x{shape[-2]}"
    return f"{pixels}, float32; bytes at batch {shape[0]}, time at batch {timed_batch}; {measured_with(device)}"


def as_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table."""
    lines = [
        "| model | kept for the backward pass | saved MiB | of plain | peak MiB | of plain | step s | of plain |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['model']} | {row['kept']} | {row['saved_mib']:.0f} | {row['saved_ratio']:.2f} "
        f"| {row['peak_mib']:.0f} | {row['peak_ratio']:.2f} | {row['seconds']:.2f} | {row['time_ratio']:.2f} |"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["resnet50", "mobilenet_v2"], help="names of `zoo list`")
    parser.add_argument("--batch", type=int, default=32, help="images of the step whose bytes are counted (default 32)")
    parser.add_argument("--timed-batch", type=int, default=8, help="images of the timed step (default 8)")
    parser.add_argument("--image-size", type=int, default=224, help="pixels (default 224)")
    parser.add_argument("--repeats", type=int, default=5, help="timed steps of each row (default 5: some 3 minutes)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    parser.add_argument("--csv", type=new_csv, help="also write the rows to this file")
    arguments = parser.parse_args()
    shape = (arguments.batch, 3, arguments.image_size, arguments.image_size)
    print(heading(shape, arguments.timed_batch, arguments.device), flush=True)
    rows = []
    for name in arguments.models:
        rows += measure(name, shape, arguments.timed_batch, arguments.repeats, arguments.device)
    print(as_markdown(rows))
    write_csv(arguments.csv, rows)


if __name__ == "__main__":
    main()
