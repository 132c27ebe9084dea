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

    figure = Figure(figsize=(9, 1.6 + 0.42 * len(result.rows)), layout="constrained")
    axes = figure.subplots()
    measured, published = result.bench.pictured
    kinds = ((measured, "measured", BLUE, -0.2), (published, "published", ORANGE, 0.2))
    for key, label, colour, offset in kinds:
        places = [place for place, row in enumerate(result.rows) if row.get(key) is not None]
        if places:
            bars = axes.barh(
                [place + offset for place in places],
                [result.rows[place][key] for place in places],
                height=0.38,
                color=colour,
                label=label,
            )
            axes.bar_label(bars, fmt="%.2f", padding=3, fontsize="small")
    _frame(axes, result)
    png = path_of(result.bench, result.form, folder, ".png")
    save_png(figure, png)
    return png


def _frame(axes: Axes, result: BenchResult) -> None:
    axes.set_yticks(range(len(result.rows)), [_name(row) for row in result.rows], fontsize="small")
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel(result.bench.picture_label)
    axes.set_title(f"{result.bench.reproduces}\n({result.form} form)", fontsize="medium")
    axes.legend(frameon=False, fontsize="small")
    axes.spines[["top", "right"]].set_visible(False)


def _name(row: Row) -> str:
    return ": ".join(str(row[key]) for key in ("axis", "network", "case") if row.get(key))
