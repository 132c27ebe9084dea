"""Tables of what fits: the largest batch, image, depth or width whose training step fits a given memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import zoo
from zoo import frameworks
from zoo.bench.published import NOTHING, Published
from zoo.bench.steps import StepCase
from zoo.bench.table import SEED, Column, Place, Row, with_ratios
from zoo.report import MIB

COLUMNS: tuple[Column, ...] = (
    Column("axis", "what grows"),
    Column("network", "network"),
    Column("case", "kept"),
    Column("published", "published"),
    Column("published_growth", "its growth", "ratio"),
    Column("largest", "largest", "count"),
    Column("growth", "of plain", "ratio"),
    Column("bytes", "needs MiB", "mib"),
    Column("next_bytes", "one more MiB", "mib"),
    Column("published_largest", ""),
)
RATIOS: Mapping[str, str] = MappingProxyType({"growth": "largest", "published_growth": "published_largest"})
GROWS = ("batch", "image size", "depth", "width")
MOST = 2**20
PATIENCE = 60  # measurements of one search; twenty are many


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


def largest_that_fits(needs: Callable[[int], int], limit: int, least: int = 1) -> tuple[int, int | None, int | None]:
    """The largest size whose bytes fit, those bytes, and the bytes of the next size, which do not fit.

    Bytes that grow like a power of the size, as those of batches (1) and image sizes (2) nearly do, take about five
    measurements.

    Args:
        needs: size -> bytes; grows with the size.
        limit: bytes.
        least: the smallest size to try; if it does not fit, the answer is (0, None, its bytes).

    Raises:
        ValueError: bytes that do not grow: more than 2^20 would fit.

    Example:
        >>> largest_that_fits(lambda size: 7 * size**2 + 100, 10_000)
        (37, 9683, 10208)
    """
    known = {least: needs(least)}
    if known[least] > limit:
        return 0, None, known[least]
    best, over = least, MOST + 1
    guess = 2 * least
    for tried in range(PATIENCE):
        known[guess] = needs(guess)
        if known[guess] <= limit:
            best = guess
        else:
            over = guess
        if over == best + 1:
            return best, known[best], known[over]
        if best >= MOST:
            raise ValueError(f"largest_that_fits: {MOST} fit {limit:,} bytes: bytes do not grow with what grows")
        ends = [best, over if over in known else max(size for size in known if size < best)]
        # Where a constant part weighs most, the law is too bold: then steps of eight, or halves of what is left.
        middle, bold = (math.isqrt(best * over), over - 1) if over in known else (4 * best, 8 * best)
        guess = middle if tried % 4 == 3 else _by_power_law(known, ends, limit)
        guess = min(max(guess, best + 1), bold)
    raise ValueError(f"largest_that_fits: no answer after {PATIENCE} measurements: bytes do not grow with what grows")


def _by_power_law(known: Mapping[int, int], sizes: Sequence[int], limit: int) -> int:
    (low, high) = sorted(sizes)
    power = math.log(known[high] / known[low]) / math.log(high / low)
    return MOST if power < 0.05 else int(low * (limit / known[low]) ** (1 / power))
