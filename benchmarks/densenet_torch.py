"""Memory and time of DenseNet-BC-100 (k=12) in PyTorch, every way of saving beside plain; prints the README's table.

Run: python benchmarks/densenet_torch.py [--batch 16 64] [--rounds 3] [--steps 4] [--csv FILE] [--readme]
On a GPU: python benchmarks/densenet_torch.py --device cuda --batch 64 256 [--cuda_graphs] --csv FILE
Bytes come from the project's tracker; on a GPU, what PyTorch's allocator had given out at most stands beside them.
Every row runs alone in a process of its own, as training does, for what one network leaves in the allocator makes the
next one faster; rows take turns, round by round, because machines are noisy: compare ratios, not seconds. Percentiles
are over all steps but each process's first ones.
"""

from __future__ import annotations

import argparse
import json
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

# Python looks first beside this file, where kernels.py is called like a package: look in the project instead.
sys.path[0] = str(Path(__file__).resolve().parents[1])
from benchmarks.rows import measured_with, new_csv, write_csv  # noqa: E402
from pytorch_models import DenseNet, measure_step  # noqa: E402
from pytorch_models.densenet_blocks import DenseLayer  # noqa: E402
from pytorch_models.graphed_step import WARM_UP_STEPS, GraphedStep  # noqa: E402
from zoo.report import MIB  # noqa: E402

ROWS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "plain (opt_memory 0)": {},
        "opt_memory 1": {"opt_memory": 1},
        "opt_memory 2": {"opt_memory": 2},
        "opt_memory 3": {"opt_memory": 3},
        "opt_memory 4 = efficient, keep_bottleneck": {"efficient": True, "keep_bottleneck": True},
        "efficient": {"efficient": True},
        "efficient, compressed 8": {"efficient": True, "compressed": 8},
        "efficient, compressed 2": {"efficient": True, "compressed": 2},
        "compressed 4": {"compressed": 4},
        "compressed 2": {"compressed": 2},
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


def model_of(row: str) -> DenseNet:
    """The model of a row."""
    return checkpointed_model() if row == CHECKPOINTED else DenseNet(**ROWS[row])


def run_steps(row: str, batch: int, steps: int, device: str, cuda_graphs: bool) -> dict[str, Any]:
    """Forward and backward passes of one row in this process: seconds without the first ones, and allocated bytes."""
    model = model_of(row).to(device)
    images, labels = torch.randn(batch, 3, 32, 32, device=device), torch.arange(batch, device=device) % 10

    def step(images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        model.zero_grad()
        logits = model(images)
        loss = F.cross_entropy(logits, labels)
        loss.backward()
        return loss.detach(), (logits.detach().argmax(1) == labels).sum()

    captured = cuda_graphs and model.policy.compressed is None and row != CHECKPOINTED
    run = GraphedStep(step, list(model.parameters())) if captured else step
    seconds = []
    first = WARM_UP_STEPS + 1 if device.startswith("cuda") else 1
    for _ in range(steps + first):
        synchronise(device)
        start = time.perf_counter()
        run(images, labels)
        synchronise(device)
        seconds.append(time.perf_counter() - start)
    allocated = torch.cuda.max_memory_allocated(device) if device.startswith("cuda") else None
    return {"seconds": seconds[first:], "allocated": allocated}


def synchronise(device: str) -> None:
    """Wait for a GPU."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def run_in_a_process(row: str, batch: int, steps: int, device: str, cuda_graphs: bool) -> dict[str, Any]:
    """`run_steps` in a new process."""
    command = [sys.executable, __file__, "--alone", row, "--batch", str(batch), "--steps", str(steps)]
    command += ["--device", device, *(["--cuda_graphs"] * cuda_graphs)]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(found.stdout)


def measure(batch: int, rounds: int, steps: int, device: str, cuda_graphs: bool) -> list[dict[str, Any]]:
    """One row per way of saving: MiB, ratios to plain, median and 10th/90th percentile seconds."""
    names = [*ROWS, CHECKPOINTED]
    times: dict[str, list[float]] = {name: [] for name in names}
    allocated: dict[str, int] = {}
    for _ in range(rounds):
        for name in names:
            found = run_in_a_process(name, batch, steps, device, cuda_graphs)
            times[name] += found["seconds"]
            if found["allocated"] is not None:
                allocated[name] = found["allocated"]
    rows = []
    for name in names:
        report = measure_step(model_of(name), (batch, 3, 32, 32), device=device, repeats=0)
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
                **({"allocated_mib": allocated[name] / MIB} if name in allocated else {}),
            }
        )
    plain = rows[0]
    for row in rows:
        row["peak_ratio"] = row["peak_mib"] / plain["peak_mib"]
        row["time_ratio"] = row["seconds"] / plain["seconds"]
        if "allocated_mib" in row:
            row["allocated_ratio"] = row["allocated_mib"] / plain["allocated_mib"]
    return rows


def heading(device: str, cuda_graphs: bool) -> str:
    """What the figures were measured with."""
    graphs = "; exact rows as CUDA graphs" if cuda_graphs else ""
    return f"DenseNet-BC-100 k=12, 32x32, float32{graphs}; {measured_with(device)}"


def as_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table of the README."""
    on_gpu = "allocated_mib" in rows[0]
    digits = 4 if on_gpu else 2
    lines = [
        "| batch | kept for the backward pass | saved MiB | peak MiB | of plain | step s (p10-p90) | of plain |"
        + " max_memory_allocated MiB | of plain |" * on_gpu,
        "|---" * (9 if on_gpu else 7) + "|",
    ]
    lines += [
        f"| {row['batch']} | {row['kept']} | {row['saved_mib']:.0f} | {row['peak_mib']:.0f} "
        f"| {row['peak_ratio']:.2f} | {row['seconds']:.{digits}f} "
        f"({row['seconds_p10']:.{digits}f}-{row['seconds_p90']:.{digits}f}) | {row['time_ratio']:.2f} |"
        + (f" {row['allocated_mib']:.0f} | {row['allocated_ratio']:.2f} |" if on_gpu else "")
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
    parser.add_argument("--rounds", type=int, default=3, help="processes of each row (default 3: some 10 minutes)")
    parser.add_argument("--steps", type=int, default=4, help="timed steps of each process (default 4)")
    parser.add_argument("--alone", metavar="ROW", help="run one row's steps in this process and print JSON")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    parser.add_argument("--cuda_graphs", action="store_true", help="capture the steps of rows that can be captured")
    parser.add_argument("--csv", type=new_csv, help="also write the rows to this file")
    parser.add_argument("--readme", action="store_true", help="also put the table into README.md")
    arguments = parser.parse_args()
    rounds, steps, how = arguments.rounds, arguments.steps, (arguments.device, arguments.cuda_graphs)
    if arguments.cuda_graphs and arguments.device == "cpu":
        parser.error("--cuda_graphs needs --device cuda")
    if arguments.alone:
        print(json.dumps(run_steps(arguments.alone, arguments.batch[0], steps, *how)))
        return
    print(heading(*how), flush=True)
    rows = [row for batch in arguments.batch for row in measure(batch, rounds, steps, *how)]
    print(as_markdown(rows))
    if arguments.readme:
        write_readme(f"{heading(*how)}:\n\n{as_markdown(rows)}")
    write_csv(arguments.csv, rows)


if __name__ == "__main__":
    main()
