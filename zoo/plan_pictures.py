"""Pictures of a plan: memory over one step, time against memory for every budget, and each part's share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from zoo.pictures import BLUE, ORANGE, PART_COLOURS, save_png
from zoo.planner.kinds import KEEP
from zoo.planner.plan import PlannedPart
from zoo.planner.study import PlanStudy, Timeline
from zoo.report import MIB

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Draw: TypeAlias = "Callable[[Figure, PlanStudy], None]"
MOST_BARS = 40
KINDS_OF_BYTES = ("saved", "gradients", "other")


def draw_study(study: PlanStudy, folder: Path) -> list[Path]:
    """Write memory.png (where it is known), frontier.png and parts.png into a folder; their paths.

    Needs matplotlib (imported only here) and no display; each file is replaced in one step.

    Raises:
        ImportError: matplotlib is not installed.
    """
    written = []
    for name in pictures_of(study):
        written.append(folder / f"{name}.png")
        save_png(figure_of(study, name), written[-1])
    return written


def figure_of(study: PlanStudy, name: str) -> Figure:
    """One picture, drawn; `name` is one of `pictures_of`.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ImportError(
            f"pictures of a plan need matplotlib ({error}): pip install 'memory-efficient-zoo[demo]'"
        ) from None
    figure = Figure(figsize=(9, 5), layout="constrained")
    pictures_of(study)[name](figure, study)
    return figure


def pictures_of(study: PlanStudy) -> dict[str, Draw]:
    """What draws each picture of a study, by name; memory over a step only where that is known."""
    found: dict[str, Draw] = {"memory": _draw_memory} if study.timelines else {}
    return {**found, "frontier": _draw_frontier, "parts": _draw_parts}


def _draw_memory(figure: Figure, study: PlanStudy) -> None:
    """Plain as a line, the plan as areas by what is allocated, the budget as a dashed line."""
    axes = figure.subplots()
    planned, plain = study.timelines["plan"], study.timelines["plain"]
    areas = [[size / MIB for size in getattr(planned, kind)] for kind in KINDS_OF_BYTES]
    names = ("plan: kept for the backward pass", "plan: gradients of parameters", "plan: everything else")
    axes.stackplot(_shares(planned), *areas, labels=names, colors=PART_COLOURS[:3], alpha=0.85)
    axes.plot(_shares(plain), [size / MIB for size in plain.total], color="black", linewidth=1, label="plain")
    budget = study.plan.budget_bytes / MIB
    axes.axhline(budget, color=PART_COLOURS[5], linestyle="--", label=f"budget {budget:.1f} MiB")
    axes.set_xlabel("allocations of one training step, first to last (%)")
    axes.set_ylabel("allocated (MiB), model and input excluded")
    axes.set_title(f"Memory of one step of {study.plan.model}: plain and planned")
    axes.legend(frameon=False, fontsize="small")
    _plain_frame(axes)


def _shares(timeline: Timeline) -> list[float]:
    count = max(len(timeline.total) - 1, 1)
    return [100 * place / count for place in range(len(timeline.total))]


def _draw_frontier(figure: Figure, study: PlanStudy) -> None:
    """Predicted time against predicted peak: the plans of all budgets, and what others do."""
    axes = figure.subplots()
    plain = study.plan.plain_seconds or 1.0
    sizes, seconds = zip(*study.frontier, strict=True)
    axes.plot(
        [size / MIB for size in sizes], [s / plain for s in seconds], "o-", color=BLUE, markersize=4, label="plans"
    )
    markers = "s^vDPX*h<>"
    for place, (name, (size, taken)) in enumerate(study.methods.items()):
        colour = PART_COLOURS[2 + place % (len(PART_COLOURS) - 2)]
        axes.plot(size / MIB, taken / plain, markers[place % len(markers)], color=colour, label=name)
    own = study.plan
    axes.plot(
        own.predicted_peak_bytes / MIB,
        own.predicted_seconds / plain,
        "o",
        color=ORANGE,
        markeredgecolor="black",
        markersize=9,
        label="this plan",
    )
    axes.axvline(own.budget_bytes / MIB, color=PART_COLOURS[5], linestyle="--", label="budget")
    axes.set_xlabel("predicted peak of a step (MiB), model and input excluded")
    axes.set_ylabel("predicted time of a step, of the plain model's")
    axes.set_title(f"{own.model}: time against memory")
    axes.legend(frameon=False, fontsize="small")
    axes.grid(alpha=0.3)
    _plain_frame(axes)


def _draw_parts(figure: Figure, study: PlanStudy) -> None:
    """What each part keeps, plain and planned; the largest parts alone where there are many."""
    axes = figure.subplots()
    largest = sorted(study.plan.parts, key=lambda part: -max(part.plain_bytes, part.kept_bytes))[:MOST_BARS]
    shown = [part for part in study.plan.parts if part in largest]
    figure.set_figheight(1.5 + 0.3 * len(shown))
    places = range(len(shown))
    axes.barh(places, [part.plain_bytes / MIB for part in shown], color="#cccccc", height=0.8, label="plain")
    axes.barh(places, [part.kept_bytes / MIB for part in shown], color=BLUE, height=0.5, label="planned")
    axes.set_yticks(places, [f"{part.name}: {_how_kept(part)}" for part in shown], fontsize="small")
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlabel("kept for the backward pass (MiB)")
    axes.set_title(f"{study.plan.model}: what each part keeps")
    axes.legend(frameon=False)
    _plain_frame(axes)


def _how_kept(part: PlannedPart) -> str:
    again = f"runs {part.runs} times" if part.runs > 1 else ""
    return ", ".join(filter(None, (again, "" if again and part.choice == KEEP else part.choice)))


def _plain_frame(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
