"""A table's picture: what was measured beside what was published, as bars; drawn without a display."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.bench.output import path_of
from zoo.bench.table import BenchResult, Row
from zoo.pictures import BLUE, ORANGE, save_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def check_can_draw() -> None:
    """Refuse before any work what could not be drawn after it.

    Raises:
        ImportError: matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError(
            "a picture of the table needs matplotlib: pip install 'memory-efficient-zoo[demo]', or give --picture False"
        )


def draw(result: BenchResult, folder: Path) -> Path:
    """Write the PNG file; its path."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    figure = Figure(figsize=(9, 1.8 + 0.42 * len(result.rows)), layout="constrained")
    axes = figure.subplots()
    measured, published = result.bench.pictured
    for place, row in enumerate(result.rows):
        shown = [(row.get(measured), BLUE), (row.get(published), ORANGE)]
        told = [(value, colour) for value, colour in shown if value is not None]
        offsets = (-0.2, 0.2) if len(told) == 2 or row.get("published") else (0.0,)  # alone, in the row's middle
        for (value, colour), offset in zip(told, offsets, strict=False):
            axes.bar_label(
                axes.barh(place + offset, value, 0.38, color=colour), fmt="%.2f", padding=3, fontsize="small"
            )
        if row.get(published) is None and row.get("published"):
            axes.annotate(f" published: {row['published']}", (0, place + 0.2), va="center", fontsize="small")
    _frame(axes, result)
    kinds = [(measured, "measured", BLUE), (published, "published", ORANGE)]
    kinds = [kind for kind in kinds if any(row.get(kind[0]) is not None for row in result.rows)]
    handles = [Patch(color=colour, label=label) for _, label, colour in kinds]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize="small")
    png = path_of(result.bench, result.form, folder, ".png")
    save_png(figure, png)
    return png


def _frame(axes: Axes, result: BenchResult) -> None:
    several = len({row.get("network") for row in result.rows}) > 1
    axes.set_yticks(range(len(result.rows)), [_name(row, several) for row in result.rows], fontsize="small")
    axes.set_ylim(len(result.rows) - 0.4, -0.6)
    axes.margins(x=0.12)
    axes.set_xlabel(result.bench.picture_label)
    only = "" if several else f"{result.rows[0].get('network', '')}, ".removeprefix(", ")
    axes.set_title(f"{result.bench.reproduces}\n({only}{result.form} form)", fontsize="medium")
    axes.spines[["top", "right"]].set_visible(False)


def _name(row: Row, several: bool) -> str:
    keys = ("axis", "network", "case") if several else ("axis", "case")
    return ": ".join(str(row[key]) for key in keys if row.get(key))
