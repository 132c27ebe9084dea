"""`zoo bench`: every predecessor's table measured again here, its published figures beside; loads no framework.

Example:
    >>> from zoo import bench
    >>> bench.find("luatorch").framework
    'torch'
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from zoo import frameworks
from zoo.atomic_write import check_folder
from zoo.bench.catalogue import BENCHES
from zoo.bench.output import machine, write
from zoo.bench.picture import check_can_draw, draw
from zoo.bench.table import Bench, BenchResult, Place
from zoo.choices import unknown
from zoo.field_checks import check_device_name
from zoo.report import format_table

__all__ = ["BENCHES", "Bench", "BenchResult", "check", "find", "list_text", "run"]

QUICK, WHOLE = "quick", "whole"


def find(table: str) -> Bench:
    """A table by its name.

    Raises:
        ValueError: no such table, with the nearest.
    """
    if table not in BENCHES:
        raise ValueError(unknown("table", table, BENCHES))
    return BENCHES[table]


def list_text() -> str:
    """The tables: what each reproduces, which framework it needs, how long its two forms take on two cores."""
    rows = [(one.name, one.reproduces, one.framework, *one.takes) for one in BENCHES.values()]
    heads = ("table", "reproduces", "needs", "--quick takes", "whole form (an estimate)")
    usage = "zoo bench TABLE --quick: on two cores; without it in the published sizes; --times False: bytes alone."
    return "\n".join([*format_table(heads, rows, left={0, 1, 2, 3, 4}), usage])


def check(bench: Bench, folder: Path, device: str = "cpu", picture: bool = True) -> None:
    """Refuse before any work what would fail after it; makes the folder.

    Raises:
        ValueError: a device that cannot be, or a folder that cannot be written to.
        ImportError: the framework, or matplotlib for the picture, is not installed.
    """
    check_device_name(device, auto=False)
    missing = frameworks.why_missing(frameworks.find(bench.framework))
    if missing:
        raise ImportError(f"the table {bench.name} is measured in {bench.framework}: {missing}")
    if picture:
        check_can_draw()
    check_folder("--out", folder)


def run(
    bench: Bench,
    folder: str | Path,
    *,
    quick: bool = False,
    device: str = "cpu",
    picture: bool = True,
    times: bool = True,
    on_row: Callable[[str], None] = lambda words: None,
) -> tuple[BenchResult, list[Path]]:
    """Measure a table; write CSV and JSON after every row, and a PNG at the end, into a folder.

    Files are called `<table>-quick.csv` or `<table>-whole.csv`, and replace those of an earlier run.

    Args:
        bench: of `BENCHES`, or one with other sizes.
        folder: for the files; made if it is not there.
        quick: its quick form.
        device: cpu, cuda or cuda:<number>.
        picture: also draw it.
        times: False = bytes alone, which are exact on a busy machine too; nothing is computed but by several processes
            and by TensorFlow.
        on_row: is told what is done, in words.

    Returns:
        The result, and the files.

    Raises:
        ValueError, ImportError: as `check`; a device that is not there; a table whose times come along anyway.
        zoo.atomic_write.DiskFullError: no room for the files.
    """
    folder = Path(folder).expanduser()
    work, form = (bench.quick, QUICK) if quick else (bench.whole, WHOLE)
    work = work if times else work.untimed()
    check(bench, folder, device, picture)
    frameworks.load(bench.framework).check_device(device, False)
    conditions = {**work.conditions, "dtype": "float32", **machine(bench.framework, device)}
    result = BenchResult(bench, form, conditions, tuple(work.columns))
    for row in work.rows(Place(bench.framework, device, folder)):
        result = dataclasses.replace(result, rows=(*result.rows, row))
        write(result, folder)
        on_row(", ".join(str(row[key]) for key in ("axis", "network", "case") if row.get(key)))
    result = dataclasses.replace(result, complete=True)
    files = write(result, folder)
    return result, [*files, draw(result, folder)] if picture else files
