"""Memory and time of DenseNet-BC-100 (k=12) in PyTorch, every way of saving beside plain; prints the README's table.

Run: python benchmarks/densenet_torch.py [--batch 16 64] [--repeats 7] [--device cpu] [--csv FILE] [--readme]
Bytes come from the project's tracker; times of all rows are taken in turns within one process, because machines are
noisy: compare ratios, not seconds. Percentiles are over the repeats.
"""

from __future__ import annotations

import argparse
import csv
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from pytorch_models import DenseNet, measure_step
from pytorch_models.densenet_blocks import DenseLayer
from zoo.report import MIB

ROWS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "plain (opt_memory 0)": {},
        "opt_memory 1": {"opt_memory": 1},
        "opt_memory 2": {"opt_memory": 2},
        "opt_memory 3": {"opt_memory": 3},
        "opt_memory 4 = efficient, keep_bottleneck": {"efficient": True, "keep_bottleneck": True},
        "efficient": {"efficient": True},
    }
)
BEGIN, END = "<!-- table:begin -->", "<!-- table:end -->"
CHECKPOINTED = "checkpointed norm+concatenation (the usual way)"


class CheckpointedLayer(DenseLayer):
    """The usual way: concatenation, norm, ReLU and 1x1 convolution of every layer are recomputed by a checkpoint."""

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        """All features before this layer, each (N, c, H, W) -> (N, growth_rate, H, W)."""
        new = checkpoint(lambda *p: self.conv1(self.relu1(self.norm1(torch.cat(p, 1)))), *features, use_reentrant=False)
        return self.conv2(self.relu2(self.norm2(new)))


def checkpointed_model() -> DenseNet:
    """DenseNet-BC-100 whose layers are checkpointed one by one, reading a list of features."""
    model = DenseNet()

    def forward_of(block: torch.nn.ModuleDict):
        def forward(inputs: torch.Tensor) -> torch.Tensor:
            features = [inputs]
            for layer in block.values():
                features.append(CheckpointedLayer.forward(layer, features))
            return torch.cat(features, 1)

        return forward

    for name, block in model.features.named_children():
        if name.startswith("denseblock"):
            block.forward = forward_of(block)
    return model


def seconds_of_step(model: DenseNet, images: torch.Tensor, labels: torch.Tensor) -> float:
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


def measure(batch: int, repeats: int, device: str) -> list[dict[str, Any]]:
    """One row per way of saving: MiB, ratios to plain, median and 10th/90th percentile seconds."""
    models = {name: DenseNet(**flags).to(device) for name, flags in ROWS.items()}
    models[CHECKPOINTED] = checkpointed_model().to(device)
    images, labels = torch.randn(batch, 3, 32, 32, device=device), torch.arange(batch, device=device) % 10
    times: dict[str, list[float]] = {name: [] for name in models}
    for repeat in range(repeats + 1):
        for name, model in models.items():
            seconds = seconds_of_step(model, images, labels)
            if repeat:
                times[name].append(seconds)
    rows = []
    for name, model in models.items():
        report = measure_step(model, (batch, 3, 32, 32), device=device, repeats=0)
        ordered = sorted(times[name])
        rows.append(
            {
                "batch": batch,
                "kept": name,
                "saved_mib": report.saved_bytes / MIB,
                "peak_mib": report.peak_bytes / MIB,
                "seconds": statistics.median(ordered),
                "seconds_p10": ordered[len(ordered) // 10],
                "seconds_p90": ordered[-1 - len(ordered) // 10],
            }
        )
    plain = rows[0]
    for row in rows:
        row["peak_ratio"] = row["peak_mib"] / plain["peak_mib"]
        row["time_ratio"] = row["seconds"] / plain["seconds"]
    return rows


def heading(device: str) -> str:
    """What the figures were measured with."""
    versions = f"Python {platform.python_version()}, torch {torch.__version__.split('+')[0]}"
    machine = f"{device}, {platform.machine()}, {torch.get_num_threads()} threads"
    return f"DenseNet-BC-100 k=12, 32x32, float32; {machine}; {versions}"


def as_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table of the README."""
    lines = [
        "| batch | kept for the backward pass | saved MiB | peak MiB | of plain | step s (p10-p90) | of plain |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['batch']} | {row['kept']} | {row['saved_mib']:.0f} | {row['peak_mib']:.0f} "
        f"| {row['peak_ratio']:.2f} | {row['seconds']:.2f} ({row['seconds_p10']:.2f}-{row['seconds_p90']:.2f}) "
        f"| {row['time_ratio']:.2f} |"
        for row in rows
    ]
    return "\n".join(lines)


def write_readme(text: str) -> None:
    """Put the table between the README's markers."""
    readme = Path(__file__).parents[1] / "README.md"
    before, rest = readme.read_text().split(BEGIN)
    _, after = rest.split(END)
    readme.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, nargs="+", default=[16, 64], help="images per step (default 16 64)")
    parser.add_argument("--repeats", type=int, default=7, help="timed steps of each row (default 7: some 2 minutes)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    parser.add_argument("--csv", type=Path, help="also write the rows to this file")
    parser.add_argument("--readme", action="store_true", help="also put the table into README.md")
    arguments = parser.parse_args()
    print(heading(arguments.device), flush=True)
    rows = [row for batch in arguments.batch for row in measure(batch, arguments.repeats, arguments.device)]
    print(as_markdown(rows))
    if arguments.readme:
        write_readme(f"{heading(arguments.device)}:\n\n{as_markdown(rows)}")
    if arguments.csv:
        with arguments.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
