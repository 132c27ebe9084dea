"""What a benchmark's table is: what it reproduces, its columns, how it is measured, and what came out; no framework."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from zoo.report import MIB

SEED = 0
Row = Mapping[
    str, Any
]  # a value a column, in bytes, seconds and plain ratios; a missing key = not measured or published


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Args:
        key: of a row's value; the name in CSV and JSON.
        head: over the printed column; "" = it is in the files alone.
        form: how a value is printed: text, mib, ratio, seconds, percent, points, bits or count.
    """

    key: str
    head: str
    form: str = "text"

    def shown(self, value: Any) -> str:
        """A value for people; "-" where there is none.

        Example:
            >>> Column("peak_bytes", "peak MiB", "mib").shown(3 * 2**20)
            '3.0'
        """
        if value is None:
            return "-"
        if self.form == "mib":
            return f"{value / MIB:.1f}"
        if self.form == "seconds":
            return f"{value:.2f}" if value >= 0.1 else f"{value:.4f}"
        return PATTERNS[self.form].format(value)


PATTERNS: Mapping[str, str] = MappingProxyType(
    {"text": "{}", "ratio": "{:.2f}x", "percent": "{:.2f}", "points": "{:+.2f}", "bits": "{:.2f}", "count": "{:,}"}
)


@dataclass(frozen=True)
class Place:
    """Where a table is measured.

    Args:
        framework: a name of `zoo.frameworks`.
        device: cpu, cuda or cuda:<number>.
        folder: for what a measurement itself leaves, such as runs that can be resumed.
    """

    framework: str
    device: str
    folder: Path


class Work(Protocol):
    """How one form of a table, the quick or the whole one, is measured."""

    @property
    def columns(self) -> Sequence[Column]:
        """Of the rows."""

    @property
    def conditions(self) -> Mapping[str, str]:
        """Batches, image sizes, rounds, seeds: what the figures hold for, in words."""

    def rows(self, place: Place) -> Iterator[Row]:
        """Measure, row by row."""

    def untimed(self) -> Work:
        """The same without times, for a busy or a slow machine.

        Raises:
            ValueError: its times come along with the rest.
        """


@dataclass(frozen=True)
class Bench:
    """One table that can be measured by `zoo bench`.

    Args:
        name: what people type.
        reproduces: whose table, in words.
        framework: what it needs.
        quick: a form for two cores and a minute or two.
        whole: the form whose sizes are the published ones.
        takes: how long the quick form took, and the whole form is estimated to take, on two cores, in words.
        pictured: keys of the measured and the published values that the picture shows as bars.
        picture_label: what those values are.
        notes: what to know when published and measured figures are compared.
    """

    name: str
    reproduces: str
    framework: str
    quick: Work
    whole: Work
    takes: tuple[str, str]
    pictured: tuple[str, str]
    picture_label: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class BenchResult:
    """What one form of a table came to.

    Args:
        bench: the table.
        form: "quick" or "whole".
        conditions: machine, versions, dtype, sizes, seeds, when: by name, in words.
        columns: of the rows.
        rows: as far as they are measured.
        complete: whether they all are.
    """

    bench: Bench
    form: str
    conditions: Mapping[str, str]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...] = field(default=())
    complete: bool = False


def with_ratios(rows: Sequence[Row], ratios: Mapping[str, str]) -> list[dict[str, Any]]:
    """Rows with ratios to the first of them, of which the others are savings.

    Args:
        rows: of one network; the first one is plain.
        ratios: key of a ratio -> key of the value it is made of.

    Example:
        >>> with_ratios([{"peak": 8}, {"peak": 2}, {}], {"of_plain": "peak"})
        [{'peak': 8, 'of_plain': 1.0}, {'peak': 2, 'of_plain': 0.25}, {}]
    """
    first = rows[0] if rows else {}
    found = []
    for row in rows:
        made = {
            ratio: row[key] / first[key] for ratio, key in ratios.items() if row.get(key) is not None and first.get(key)
        }
        found.append({**row, **made})
    return found
