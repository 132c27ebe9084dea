"""Where the time of a DenseNet-BC-100 (k=12) step goes in PyTorch: convolutions, and everything else.

Run: python benchmarks/densenet_time.py [--batch 64] [--steps 5] [--device cpu]
Convolutions are oneDNN's or cuDNN's, so their share of a plain step is a floor for every way of saving that computes
the same network: no way can be faster than its convolutions alone. Seconds are the fastest step's, by PyTorch's
profiler; ways take turns within one process.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

# Python looks first beside this file, where kernels.py is called like a package: look in the project instead.
sys.path[0] = str(Path(__file__).resolve().parents[1])
from benchmarks.rows import measured_with  # noqa: E402
from pytorch_models import DenseNet  # noqa: E402

WAYS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "plain": {},
        "efficient, keep_bottleneck": {"efficient": True, "keep_bottleneck": True},
        "efficient": {"efficient": True},
    }
)


def seconds_of(model: DenseNet, images: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """(all operators, convolutions alone) of one forward and backward pass."""
    on_gpu = images.is_cuda
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as found:
        model.zero_grad()
        F.cross_entropy(model(images), labels).backward()
    spent = {row.key: row.self_device_time_total if on_gpu else row.self_cpu_time_total for row in found.key_averages()}
    convolutions = sum(time for name, time in spent.items() if any(part in name for part in ("conv", "cudnn", "gemm")))
    return sum(spent.values()) / 1e6, convolutions / 1e6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=64, help="images per step (default 64)")
    parser.add_argument("--steps", type=int, default=5, help="steps of each way, after one that warms up (default 5)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    arguments = parser.parse_args()
    images = torch.randn(arguments.batch, 3, 32, 32, device=arguments.device)
    labels = torch.arange(arguments.batch, device=arguments.device) % 10
    models = {way: DenseNet(**flags).to(arguments.device) for way, flags in WAYS.items()}
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for _ in range(arguments.steps + 1):
        for way, model in models.items():
            found[way].append(seconds_of(model, images, labels))
    fastest = {way: min(steps[1:]) for way, steps in found.items()}
    plain = fastest["plain"][0]
    print(f"DenseNet-BC-100 k=12, 32x32, batch {arguments.batch}, float32; {measured_with(arguments.device)}\n")
    print("| kept | step s | of plain | convolutions s | of a plain step | the rest s | of a plain step |")
    print("|---|---|---|---|---|---|---|")
    for way, (whole, convolutions) in fastest.items():
        rest = whole - convolutions
        seconds = (whole, convolutions, rest)
        print(f"| {way} | " + " | ".join(f"{value:.2f} | {value / plain:.2f}" for value in seconds) + " |")


if __name__ == "__main__":
    main()
