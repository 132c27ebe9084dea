"""What a measurement found, as a frozen value, and its tables for people to read; pictures are in `zoo.pictures`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

MIB = 2**20
COLUMNS_MEAN = (
    "saved = kept for the backward pass when the forward pass ends; peak = the most allocated at any moment "
    "of the step, model and input excluded."
)


@dataclass(frozen=True)
class LayerRow:
    """One part of a model: the bytes it saves for the backward pass, and how they are kept.

    Args:
        name: the part's name in the model.
        saved_bytes: unique storage; what two parts share counts for the first of them.
        kept: how, in words ("features once, in one buffer").
    """

    name: str
    saved_bytes: int
    kept: str


@dataclass(frozen=True)
class MemoryReport:
    """Memory and time of one training step.

    Args:
        model: its name.
        policy: the memory flags in words ("plain", "efficient").
        input_shape: shape of the input, batch first.
        dtype: of the input and the parameters.
        device: where the step ran.
        saved_bytes: unique storage held for the backward pass when the forward pass ends.
        peak_bytes: the most allocated during the step, model and inputs excluded.
        parts: what was allocated at the peak; adds up to `peak_bytes`.
        model_bytes: parameters and buffers.
        step_seconds: time of one step, the median of several; None = not measured.
        rows: saved bytes layer by layer; may be empty.
        ran_on: what ran the parts that save memory, in words ("numba kernels"); "" where nothing of the kind ran.
        counted: how bytes were counted, where a framework knows several ways ("graph"): only equal ones compare.

    Raises:
        ValueError: a negative number of bytes, or parts that do not add up to the peak within 5 %.
    """

    model: str
    policy: str
    input_shape: tuple[int, ...]
    dtype: str
    device: str
    saved_bytes: int
    peak_bytes: int
    parts: Mapping[str, int]
    model_bytes: int
    step_seconds: float | None = None
    rows: tuple[LayerRow, ...] = field(default=())
    ran_on: str = ""
    counted: str = ""

    def __post_init__(self) -> None:
        for name in ("saved_bytes", "peak_bytes", "model_bytes"):
            if getattr(self, name) < 0:
                raise ValueError(f"MemoryReport.{name} must not be negative, not {getattr(self, name)}")
        total = sum(self.parts.values())
        if abs(total - self.peak_bytes) > 0.05 * self.peak_bytes:
            raise ValueError(
                f"MemoryReport.parts add up to {total} bytes, but peak_bytes is {self.peak_bytes}: "
                "name what else was allocated at the peak"
            )


def format_report(report: MemoryReport, rows: bool = True) -> str:
    """One measurement as text: the parts of the peak, then (with `rows`) the layers, if there are any."""
    shape = " x ".join(str(size) for size in report.input_shape)
    lines = [
        f"{report.model}, {report.policy}: one training step, input {shape}, {report.dtype}, {report.device}",
        "",
    ]
    parts = [(name, _mib(size), _share(size, report.peak_bytes)) for name, size in report.parts.items()]
    parts.append(("peak, model and input excluded", _mib(report.peak_bytes), ""))
    parts.append(("model (parameters and buffers)", _mib(report.model_bytes), ""))
    lines += format_table(("at the peak", "MiB", "share"), parts, left={0})
    saved = f"saved for the backward pass, at the end of the forward pass: {_mib(report.saved_bytes)} MiB"
    lines += ["", f"{saved} (the parts above are those of the moment of the peak)"]
    if report.step_seconds is not None:
        lines.append(f"median time of a step: {_seconds(report.step_seconds)} s")
    if report.ran_on:
        lines.append(f"norms, masks and codes ran on: {report.ran_on}")
    if rows and report.rows:
        layers = [(row.name, _mib(row.saved_bytes), row.kept) for row in report.rows]
        lines += ["", *format_table(("layer", "saved MiB", "kept"), layers, left={0, 2})]
    return "\n".join(lines)


def format_comparison(reports: Sequence[MemoryReport]) -> str:
    """Several measurements of one model as a table, and what its columns mean; ratios are to the first.

    Raises:
        ValueError: no reports, or bytes that were counted in different ways.
    """
    if not reports:
        raise ValueError("format_comparison: no reports; give at least one, the first is what others are compared with")
    first = reports[0]
    ways = list(dict.fromkeys(report.counted for report in reports))
    if len(ways) > 1:
        raise ValueError(f"format_comparison: bytes counted as {' and '.join(ways)} do not compare: measure all alike")
    rows = [
        (
            report.policy,
            _mib(report.saved_bytes),
            _ratio(report.saved_bytes, first.saved_bytes),
            _mib(report.peak_bytes),
            _ratio(report.peak_bytes, first.peak_bytes),
            _seconds(report.step_seconds),
            _ratio(report.step_seconds, first.step_seconds),
        )
        for report in reports
    ]
    heads = ("policy", "saved MiB", "saved ratio", "peak MiB", "peak ratio", "median step s", "time ratio")
    return "\n".join([*format_table(heads, rows, left={0}), COLUMNS_MEAN])


def plot_training(metrics_csv: Path, png: Path, comparison: Sequence[MemoryReport] = (), title: str = "") -> None:
    """Write a picture of a run: loss and accuracy per epoch, and the memory of `comparison`, if any, as bars.

    `title`, if any, stands above it all and says what was run.
    Needs matplotlib (imported only here) and no display; `png` is replaced in one step.

    Raises:
        FileNotFoundError: no such metrics file.
        ValueError: a metrics file without epochs, or without the columns of a training run.
        ImportError: matplotlib is not installed.
    """
    from zoo.pictures import draw_training

    draw_training(Path(metrics_csv), Path(png), comparison, title)


def _mib(size: int) -> str:
    return f"{size / MIB:.1f}"


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds:.2f}" if seconds >= 0.1 else f"{seconds:.4f}"  # a GPU's step may take milliseconds


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "-"


def _ratio(value: float | None, reference: float | None) -> str:
    return f"{value / reference:.2f}x" if value is not None and reference else "-"


def format_table(heads: Sequence[str], rows: Sequence[Sequence[str]], left: set[int]) -> list[str]:
    """Lines of an aligned table; the columns in `left` are left-aligned (words), the others right-aligned (numbers)."""
    lines = [heads, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    lines.insert(1, ["-" * width for width in widths])
    return [
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
