"""Pictures of training runs, drawn with matplotlib's object interface: no display, no global state."""

from __future__ import annotations

import csv
import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.atomic_write import atomic_write
from zoo.report import MIB, MemoryReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

# Okabe and Ito's palette: told apart with any colour vision, and in grey.
BLUE, ORANGE = "#0072B2", "#E69F00"
PART_COLOURS = (BLUE, ORANGE, "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999")
MARKERS_UP_TO_EPOCHS = 30
TITLE_COLUMNS = 110


def draw_training(metrics_csv: Path, png: Path, comparison: Sequence[MemoryReport] = (), title: str = "") -> None:
    """See `zoo.report.plot_training`."""
    columns = read_metrics(metrics_csv)
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ImportError(
            f"a picture of the run needs matplotlib ({error}): pip install 'memory-efficient-zoo[demo]'"
        ) from None
    heights = [3.6, 1.7 + 0.45 * len(comparison)] if comparison else [3.6]
    figure = Figure(figsize=(10, sum(heights)), layout="constrained")
    # Separate layouts, so that long policy names do not squeeze the curves.
    panels = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    loss, accuracy = panels[0].subplots(1, 2)
    _draw_curves(loss, columns, "loss", "nats", scale=1)
    _draw_curves(accuracy, columns, "accuracy", "%", scale=100)
    if len(columns["epoch"]) == 1:  # around a single point matplotlib would choose limits that say nothing
        loss.set_ylim(0, 1.1 * loss.get_ylim()[1])
        accuracy.set_ylim(0, 101)
    accuracy.set_ylim(top=min(accuracy.get_ylim()[1], 101))
    if accuracy.lines:  # below both, where it covers no curve
        panels[0].legend(handles=accuracy.lines, frameon=False, loc="outside lower center", ncols=2)
    if title:
        figure.suptitle(textwrap.fill(title, TITLE_COLUMNS), fontsize="medium")
    if comparison:
        _draw_memory(panels[1], comparison)
    save_png(figure, png)


def read_metrics(metrics_csv: Path) -> dict[str, list[float]]:
    """Columns of a metrics.csv as numbers; an empty field is NaN.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no epochs, a missing column, or a field that is no number.
    """
    with open(metrics_csv, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise ValueError(f"{metrics_csv} holds no epochs yet: train at least one before drawing it")
    missing = {"epoch", "train_loss", "train_accuracy"} - set(rows[0])
    if missing:
        raise ValueError(f"{metrics_csv} has no column {', '.join(sorted(missing))}: is it the metrics.csv of a run?")
    names = [name for name in rows[0] if name is not None]
    try:
        return {name: [float(row[name]) if row[name] else math.nan for row in rows] for name in names}
    except ValueError as error:
        raise ValueError(f"{metrics_csv}: {error}; every field must be a number or empty") from None


def _draw_curves(axes: Axes, columns: Mapping[str, list[float]], quantity: str, unit: str, scale: float) -> None:
    from matplotlib.ticker import MaxNLocator

    epochs = columns["epoch"]
    marker = "o" if len(epochs) <= MARKERS_UP_TO_EPOCHS else ""
    curves = (("train", "training", BLUE, "-"), ("valid", "validation", ORANGE, "--"))
    for part, label, colour, dash in curves:
        values = [scale * value for value in columns.get(f"{part}_{quantity}", [])]
        if any(math.isfinite(value) for value in values):
            # The dash differs as well as the colour, for black-and-white prints.
            axes.plot(epochs, values, dash, color=colour, marker=marker, markersize=4, label=label)
    axes.set_title(f"{quantity.capitalize()} per epoch")
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"{quantity} ({unit})")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(epochs) == 1:
        axes.set_xlim(epochs[0] - 1, epochs[0] + 1)
        axes.set_xticks(epochs)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_memory(panel: SubFigure, comparison: Sequence[MemoryReport]) -> None:
    """A bar per report, of the parts of its peak; the first, with which others are compared, on top."""
    axes = panel.subplots()
    names = list(dict.fromkeys(name for report in comparison for name in report.parts))
    left = [0.0] * len(comparison)
    for index, name in enumerate(names):
        widths = [report.parts.get(name, 0) / MIB for report in comparison]
        colour = PART_COLOURS[index % len(PART_COLOURS)]
        axes.barh(range(len(comparison)), widths, left=left, height=0.6, color=colour, label=name)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    first = comparison[0].peak_bytes
    for position, (report, end) in enumerate(zip(comparison, left, strict=True)):
        text = f"{report.peak_bytes / MIB:.1f} MiB"
        if position and first:
            text += f" ({report.peak_bytes / first:.2f}x)"
        axes.annotate(text, (end, position), xytext=(5, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(comparison)), [report.policy for report in comparison])
    axes.invert_yaxis()
    axes.set_xlim(0, max([*left, 1e-3]) * 1.2)
    axes.set_xlabel("memory allocated at the peak (MiB), model and input excluded")
    shape = " x ".join(str(size) for size in comparison[0].input_shape)
    axes.set_title(f"Memory of one training step of {comparison[0].model}, input {shape}, {comparison[0].dtype}")
    axes.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False, loc="outside lower center", ncols=min(len(names), 4))


def save_png(figure: Figure, png: Path) -> None:
    """Write a figure in one step, in at most 128 colours, a third of the bytes of all; its folder is made."""
    from PIL import Image  # matplotlib needs it, so that it is there

    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=120)
    png.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(drawn) as image, atomic_write(png) as file:
        image.convert("RGB").quantize(128).save(file, format="png", optimize=True)
