"""Tables of what fits: the largest batch, image, depth or width whose training step fits a given memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import zoo
from zoo import frameworks
from zoo.bench.published import NOTHING, Published
from zoo.bench.steps import StepCase
from zoo.bench.table import SEED, Column, Place, Row, with_ratios
from zoo.largest import largest_that_fits
from zoo.report import MIB

COLUMNS: tuple[Column, ...] = (
    Column("axis", "what grows"),
    Column("network", "network"),
    Column("case", "kept"),
    Column("published", "published"),
    Column("published_growth", "published growth", "ratio"),
    Column("largest", "largest", "count"),
    Column("growth", "of plain", "ratio"),
    Column("bytes", "needs MiB", "mib"),
    Column("next_bytes", "one more MiB", "mib"),
    Column("published_largest", ""),
)
RATIOS: Mapping[str, str] = MappingProxyType({"growth": "largest", "published_growth": "published_largest"})
GROWS = ("batch", "image size", "depth", "width")


@dataclass(frozen=True)
class Axis:
    """What grows, and what stays.

    Args:
        grows: one of `GROWS`: samples, pixels of height and width, blocks of each stage, channels of the first stage.
        model: a name of `zoo.list_models()`.
        batch: samples, where they stay.
        image_size: pixels, where they stay.
        least: the smallest to try.
        layers: blocks of each stage, where they stay; () = the model's own.
        published: what was reported, case by case.
    """

    grows: str
    model: str
    batch: int
    image_size: int
    least: int = 2
    layers: tuple[int, ...] = (3, 3, 3)
    published: Mapping[str, Published] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def stays(self) -> str:
        """What does not grow, in words.

        Example:
            >>> Axis("batch", "resnet20", 0, 32).stays
            ', 32 px, blocks (3, 3, 3)'
        """
        words = {
            "batch": f"batch {self.batch}",
            "image size": f"{self.image_size} px",
            "depth": f"blocks {self.layers}" if self.layers else "",
        }
        return "".join(f", {text}" for grows, text in words.items() if text and grows != self.grows)

    def at(self, size: int) -> tuple[dict[str, Any], tuple[int, ...]]:
        """Fields of the config that change, and the input's shape.

        Example:
            >>> Axis("depth", "resnet20", 16, 32).at(9)
            ({'layers': (9, 9, 9)}, (16, 3, 32, 32))
        """
        batch = size if self.grows == "batch" else self.batch
        pixels = size if self.grows == "image size" else self.image_size
        layers = (size,) * len(self.layers) if self.grows == "depth" else self.layers
        fields: dict[str, Any] = {"layers": layers} if layers else {}
        return fields | ({"width": size} if self.grows == "width" else {}), (batch, 3, pixels, pixels)


@dataclass(frozen=True)
class LargestWork:
    """The largest of each axis in a given memory.

    Args:
        axes: one after the other.
        cases: ways to keep; the first one is plain.
        memory_bytes: for a step and the model: parameters, buffers, activations, gradients.
        line: None = every answer is measured: it fits and one more does not (nothing is computed for it). Two sizes =
            steps of both are run, and the answer lies on the straight line through them.
    """

    axes: tuple[Axis, ...]
    cases: tuple[StepCase, ...]
    memory_bytes: int
    line: tuple[int, int] | None = None

    @property
    def columns(self) -> Sequence[Column]:
        """Of what fits."""
        return COLUMNS

    @property
    def conditions(self) -> Mapping[str, str]:
        """Memory, and what stays as it is."""
        found = {axis.grows: f"{axis.model}{axis.stays}" for axis in self.axes}
        how = "measured: it fits, one more does not"
        if self.line is not None:
            how = f"extrapolated on a straight line through steps run with {self.line[0]} and {self.line[1]}"
        memory = f"{self.memory_bytes / MIB:,.0f} MiB for a step and the model, without optimiser state and input"
        return {**found, "memory": memory, "largest": how, "seed": str(SEED)}

    def untimed(self) -> LargestWork:
        """As it is: nothing of it is timed."""
        return self

    def rows(self, place: Place) -> Iterator[Row]:
        """Axis by axis; growth is of its first case."""
        for axis in self.axes:
            yield from with_ratios([self._row(axis, case, place) for case in self.cases], RATIOS)

    def _row(self, axis: Axis, case: StepCase, place: Place) -> dict[str, Any]:
        def needs(size: int) -> int:
            return _needs(axis, case, size, place, execute=self.line is not None)

        row = {"axis": axis.grows, "network": axis.model, "case": case.name}
        row |= axis.published.get(case.name, NOTHING).row()
        if self.line is None:
            largest, own, over = largest_that_fits(needs, self.memory_bytes, axis.least)
            return {**row, "largest": largest, "bytes": own, "next_bytes": over}
        low, high = self.line
        first, second = needs(low), needs(high)
        slope = (second - first) / (high - low)
        largest = math.floor(low + (self.memory_bytes - first) / slope)
        return {**row, "largest": largest, "bytes": round(first + slope * (largest - low))}


def _needs(axis: Axis, case: StepCase, size: int, place: Place, execute: bool) -> int:
    """Bytes of a step and the model."""
    package = frameworks.load(place.framework)
    package.set_seed(SEED)
    overrides, shape = axis.at(size)
    model = zoo.create_model(axis.model, place.framework, **case.flags, **overrides)
    found = package.measure_step(model, shape, device=place.device, repeats=0, execute=execute)
    return int(found.peak_bytes + found.model_bytes)
