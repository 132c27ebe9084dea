"""Memory and time of DenseNet-BC-100 (k=12) in PyTorch, every way of saving beside plain; prints the README's table.

Run: python benchmarks/densenet_torch.py [--batch 16 64] [--repeats 7] [--device cpu] [--csv FILE] [--readme]
Bytes come from the project's tracker. Every row is timed in a process of its own, as when one trains: how a process
has used memory before decides how much of a step is the system mapping pages. Machines are noisy: compare ratios, not
seconds. Percentiles are over the repeats.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from pytorch_models import DenseNet, measure_step
from pytorch_models.densenet import DenseLayer
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


def measure_row(name: str, batch: int, repeats: int, device: str) -> dict[str, Any]:
    """One way of saving, in this process: MiB, median and 10th/90th percentile seconds after one warm-up step."""
    model = (checkpointed_model() if name == CHECKPOINTED else DenseNet(**ROWS[name])).to(device)
    images, labels = torch.randn(batch, 3, 32, 32, device=device), torch.arange(batch, device=device) % 10
    times = sorted([seconds_of_step(model, images, labels) for _ in range(repeats + 1)][1:])
    report = measure_step(model, (batch, 3, 32, 32), device=device, repeats=0)
    return {
        "batch": batch,
        "kept": name,
        "saved_mib": report.saved_bytes / MIB,
        "peak_mib": report.peak_bytes / MIB,
        "seconds": statistics.median(times),
        "seconds_p10": times[len(times) // 10],
        "seconds_p90": times[-1 - len(times) // 10],
    }


def measure(batch: int, repeats: int, device: str) -> list[dict[str, Any]]:
    """All rows, each in a process of its own, with ratios to plain."""
    rows = []
    for name in (*ROWS, CHECKPOINTED):
        command = [sys.executable, __file__, "--row", name, "--batch", str(batch)]
        command += ["--repeats", str(repeats), "--device", device]
        rows.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        print(f"  batch {batch}, {name}: {rows[-1]['seconds']:.2f} s", file=sys.stderr, flush=True)
    for row in rows:
        row["peak_ratio"] = row["peak_mib"] / rows[0]["peak_mib"]
        row["time_ratio"] = row["seconds"] / rows[0]["seconds"]
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
    parser.add_argument("--row", choices=(*ROWS, CHECKPOINTED), help="measure this row alone and print it as JSON")
    arguments = parser.parse_args()
    if arguments.row:
        print(json.dumps(measure_row(arguments.row, arguments.batch[0], arguments.repeats, arguments.device)))
        return
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
