"""Memory and time of a 2-layer LSTM (hidden 512) over long sequences in PyTorch: plain, efficient and compressed.

Run: python benchmarks/lstm_torch.py [--steps 1024 4096] [--repeats 3] [--device cpu] [--csv FILE]
Peaks hold parameters and gradients, counted by the project's tracker; the second table needs no computing. Times are
taken in turns within one process, because machines are noisy: compare ratios, not seconds.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

# Python looks first beside this file, where kernels.py is called like a package: look in the project instead.
sys.path[0] = str(Path(__file__).resolve().parents[1])
from benchmarks.rows import measured_with, new_csv, write_csv  # noqa: E402
from pytorch_models import LSTM, measure_step  # noqa: E402
from zoo.report import MIB  # noqa: E402

SHAPE: Mapping[str, Any] = MappingProxyType({"input_size": 28, "hidden_size": 512, "num_layers": 2})
BATCH = 8
CHECKPOINTED = "checkpoint over time (the usual way)"
GROWTH_STEPS = (256, 1024, 4096, 16384, 65536)


class CheckpointedLSTM(LSTM):
    """The usual way: chunks of 64 time steps, each in a torch.utils.checkpoint."""

    def forward(self, inputs: Tensor, targets: Tensor | None = None) -> Tensor:
        """Images (N, C, H, W) -> scores (N, num_classes)."""
        values = self.as_sequence(inputs)
        state = self.recurrent.initial_state(values.transpose(0, 1))

        def run(chunk: Tensor, *state: Tensor) -> tuple[Tensor, Tensor]:
            return self.recurrent(chunk, state)[1]

        for chunk in values.split(64, dim=1):
            state = checkpoint(run, chunk, *state, use_reentrant=False)
        return self.classifier(state[0][-1])


ROWS: tuple[tuple[str, Callable[[], LSTM]], ...] = (
    ("plain (torch.nn.LSTM)", lambda: LSTM(**SHAPE)),
    (CHECKPOINTED, lambda: CheckpointedLSTM(**SHAPE)),
    ("efficient", lambda: LSTM(**SHAPE, efficient=True)),
    ("compressed 2", lambda: LSTM(**SHAPE, compressed=2)),
    ("compressed 8", lambda: LSTM(**SHAPE, compressed=8)),
    ("plain, bidirectional", lambda: LSTM(**SHAPE, bidirectional=True)),
    ("efficient, bidirectional", lambda: LSTM(**SHAPE, bidirectional=True, efficient=True)),
    ("compressed 2, bidirectional", lambda: LSTM(**SHAPE, bidirectional=True, compressed=2)),
    (
        "efficient, compressed 2, bidirectional",
        lambda: LSTM(**SHAPE, bidirectional=True, efficient=True, compressed=2),
    ),
)


def seconds_of_step(model: LSTM, inputs: Tensor, labels: Tensor) -> float:
    """One forward and backward pass."""
    model.zero_grad()
    gc.collect()
    if inputs.is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    F.cross_entropy(model(inputs), labels).backward()
    if inputs.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_mib(model: LSTM, steps: int, device: str, execute: bool) -> tuple[float, float]:
    """(saved, peak with parameters and gradients) of one step."""
    shape = model.spec.sequence_shape(steps, BATCH)
    report = measure_step(model, shape, device=device, repeats=0, execute=execute)
    return report.saved_bytes / MIB, (report.peak_bytes + report.model_bytes) / MIB


def measure(steps: int, repeats: int, device: str, bidirectional: bool) -> list[dict[str, Any]]:
    """One row per way of saving; ratios are to the plain row of the same kind."""
    kinds = [row for row in ROWS if ("bidirectional" in row[0]) == bidirectional]
    models = {name: make().to(device) for name, make in kinds}
    inputs = torch.randn(BATCH, 1, steps, SHAPE["input_size"], device=device)
    labels = torch.arange(BATCH, device=device) % 10
    times: dict[str, list[float]] = {name: [] for name in models}
    for repeat in range(repeats + 1):
        for name, model in models.items():
            seconds = seconds_of_step(model, inputs, labels)
            if repeat:
                times[name].append(seconds)
    rows: list[dict[str, Any]] = []
    for name, model in models.items():
        # A checkpoint finds its chunk's sizes by running it, and a GPU's fused LSTM tells its workspace only so; of
        # compressed ones a backward pass goes step by step, which is faster with numbers than without.
        saved, peak = peak_mib(
            model, steps, device, execute=name == CHECKPOINTED or "compressed" in name or device != "cpu"
        )
        seconds, fastest = statistics.median(times[name]), min(times[name])
        rows.append(
            {"steps": steps, "kept": name, "saved": saved, "peak": peak, "seconds": seconds, "fastest": fastest}
        )
    for row in rows:
        row["peak_ratio"] = row["peak"] / rows[0]["peak"]
        row["time_ratio"] = row["fastest"] / rows[0]["fastest"]
    return rows


def print_rows(rows: list[dict[str, Any]]) -> None:
    """The table of a README."""
    print("| steps | kept for the backward pass | saved MiB | peak MiB | of plain | step s | of plain (fastest) |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['steps']} | {row['kept']} | {row['saved']:.1f} | {row['peak']:.1f} | {row['peak_ratio']:.3f} "
            f"| {row['seconds']:.2f} | {row['time_ratio']:.2f} |"
        )


def print_growth() -> None:
    """Peak memory against the number of time steps, counted without computing."""
    print("\n| steps | plain peak MiB | efficient peak MiB | of plain | without parameters and gradients |")
    print("|---|---|---|---|---|")
    for steps in GROWTH_STEPS:
        plain, efficient = (LSTM(**SHAPE, efficient=flag) for flag in (False, True))
        peaks = [peak_mib(model, steps, "cpu", execute=False)[1] for model in (plain, efficient)]
        rest = peaks[1] - 2 * 4 * plain.spec.count_parameters() / MIB
        print(f"| {steps} | {peaks[0]:.0f} | {peaks[1]:.1f} | {peaks[1] / peaks[0]:.4f} | {rest:.1f} |")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, nargs="+", default=[1024, 4096], help="time steps (default 1024 4096)")
    parser.add_argument("--repeats", type=int, default=3, help="timed steps of each row (default 3)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    parser.add_argument("--csv", type=new_csv, help="also write the rows to this file")
    parser.add_argument("--bidirectional", action="store_true", help="rows of a bidirectional LSTM too")
    arguments = parser.parse_args()
    network = f"LSTM 2 x 512, batch {BATCH}, input 28, float32, class from the last state"
    print(f"{network}; {measured_with(arguments.device)}\n")
    rows = []
    for steps in arguments.steps:
        for bidirectional in (False, True) if arguments.bidirectional else (False,):
            rows += measure(steps, arguments.repeats, arguments.device, bidirectional)
    print_rows(rows)
    print_growth()
    write_csv(arguments.csv, rows)


if __name__ == "__main__":
    main()
