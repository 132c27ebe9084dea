"""A table's results as text, CSV and JSON, with what they were measured with."""

from __future__ import annotations

import csv
import io
import json
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import zoo
from zoo import frameworks
from zoo.atomic_write import atomic_write
from zoo.bench.table import Bench, BenchResult, Column
from zoo.report import format_table


def machine(framework: str, device: str) -> dict[str, str]:
    """Machine, versions, device and day, in words."""
    row = frameworks.find(framework)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = os.environ.get("OMP_NUM_THREADS")
    return {
        "machine": f"{platform.system()} {platform.machine()}, {cores} cores"
        + (f", OMP_NUM_THREADS={threads}" if threads else ""),
        "versions": f"memory-efficient-zoo {zoo.__version__}, Python {platform.python_version()}, "
        f"{framework} {frameworks.installed_version(row.distribution) or 'unknown'}",
        "device": device,
        "measured on": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def as_text(result: BenchResult) -> str:
    """The table, and under it what it was measured with; columns without any value are left out."""
    columns = _printed(result)
    rows = [[one.shown(row.get(one.key)) for one in columns] for row in result.rows]
    left = {place for place, one in enumerate(columns) if one.form == "text"}
    lines = [f"{result.bench.name}: {result.bench.reproduces} ({result.form} form)", ""]
    lines += format_table([one.head for one in columns], rows, left)
    lines += ["", *(f"{name}: {value}" for name, value in result.conditions.items())]
    lines += [f"note: {note}" for note in result.bench.notes]
    return "\n".join(lines)


def as_markdown(result: BenchResult) -> str:
    """The table for a page of the docs."""
    columns = _printed(result)
    lines = [[one.head for one in columns], ["---"] * len(columns)]
    lines += [[one.shown(row.get(one.key)) for one in columns] for row in result.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _printed(result: BenchResult) -> list[Column]:
    """Columns that have a value; the network's only where there are several, for the conditions name it."""
    found = []
    for column in result.columns:
        values = {row.get(column.key) for row in result.rows} - {None}
        if column.head and values and (column.key != "network" or len(values) > 1):
            found.append(column)
    return found


def as_csv(result: BenchResult) -> str:
    """Rows in bytes, seconds and plain ratios; an empty field was not measured, or not published."""
    text = io.StringIO()
    keys = [one.key for one in result.columns]
    writer = csv.DictWriter(text, keys, extrasaction="raise", lineterminator="\n")
    writer.writeheader()
    writer.writerows(result.rows)
    return text.getvalue()


def as_json(result: BenchResult) -> str:
    """Everything: conditions, notes, rows."""
    content: Mapping[str, Any] = {
        "table": result.bench.name,
        "reproduces": result.bench.reproduces,
        "form": result.form,
        "complete": result.complete,
        "conditions": dict(result.conditions),
        "notes": list(result.bench.notes),
        "rows": [dict(row) for row in result.rows],
    }
    return json.dumps(content, indent=2) + "\n"


def path_of(bench: Bench, form: str, folder: Path, suffix: str) -> Path:
    """Of one file of a table."""
    return folder / f"{bench.name}-{form}{suffix}"


def write(result: BenchResult, folder: Path) -> list[Path]:
    """Write the CSV and the JSON file, each in one step; their paths.

    Raises:
        zoo.atomic_write.DiskFullError: no room.
    """
    written = []
    for suffix, text in ((".csv", as_csv(result)), (".json", as_json(result))):
        written.append(path_of(result.bench, result.form, folder, suffix))
        with atomic_write(written[-1]) as file:
            file.write(text.encode())
    return written
