"""One HTML file about a plan: its pictures, and a table to search and sort; it asks nothing of any other machine."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path
from string import Template

from zoo.atomic_write import atomic_write
from zoo.plan_pictures import figure_of, pictures_of
from zoo.planner.plan import PlannedPart
from zoo.planner.study import PlanStudy
from zoo.report import MIB

CAPTIONS = (
    ("memory", "Memory over one training step: plain and planned"),
    ("frontier", "Time against memory: plans of all budgets, and what others do"),
    ("parts", "What each part keeps for the backward pass"),
)
# What a column is called, whether it sorts as a number, and its text.
COLUMNS = (
    ("part", False),
    ("choice", False),
    ("forward runs", True),
    ("plain MiB", True),
    ("kept MiB", True),
    ("seconds", True),
)


def write_page(study: PlanStudy, path: Path) -> None:
    """Write a study as one self-contained HTML file, in one step; its folder is made.

    Raises:
        ImportError: matplotlib is not installed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(page_of(study).encode())


def page_of(study: PlanStudy) -> str:
    """The page as text: what the plan costs, the pictures, and a row for every part.

    Without scripts the page still shows all of it; searching and sorting need them.
    """
    draws = pictures_of(study)
    figures = [_figure(study, name, caption) for name, caption in CAPTIONS if name in draws]
    heads = [
        f'<th scope="col"{" data-number" if is_number else ""}><button type="button">{name}</button></th>'
        for name, is_number in COLUMNS
    ]
    title = f"Plan of {study.plan.model} within {study.plan.budget_bytes / MIB:.1f} MiB"
    return Template(_PAGE).substitute(
        title=html.escape(title),
        summary="".join(f"<p>{html.escape(line)}</p>" for line in study.plan.summary().splitlines()),
        figures="\n".join(figures),
        heads="".join(heads),
        rows="\n".join(_row(part) for part in study.plan.parts),
        count=len(study.plan.parts),
        style=_STYLE,
        script=_SCRIPT,
    )


def _figure(study: PlanStudy, name: str, caption: str) -> str:
    file = io.BytesIO()
    figure_of(study, name).savefig(file, format="png", dpi=120)
    data = base64.b64encode(file.getvalue()).decode()
    text = html.escape(caption)
    image = f'<img alt="{text}" src="data:image/png;base64,{data}">'
    return f'<figure id="{name}">{image}<figcaption>{text}</figcaption></figure>'


def _row(part: PlannedPart) -> str:
    cells = [html.escape(part.name), html.escape(part.decision), str(part.runs)]
    cells += [f"{part.plain_bytes / MIB:.2f}", f"{part.kept_bytes / MIB:.2f}", f"{part.seconds:.5f}"]
    kind = "again" if part.runs > 1 else "kept" if part.choice == "keep" else "saving"
    return f'<tr class="{kind}">{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>$title</title>
<style>$style</style>
</head>
<body>
<h1>$title</h1>
$summary
$figures
<h2>Parts</h2>
<p><label>Search parts and choices: <input id="search" type="search" autocomplete="off"></label>
<output id="shown">$count of $count</output></p>
<table id="parts-table">
<thead><tr>$heads</tr></thead>
<tbody>
$rows
</tbody>
</table>
<script>$script</script>
</body>
</html>
"""

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #222;
  background: #fff; }
h1 { font-size: 1.5rem; } p { margin: .25rem 0; }
figure { margin: 1.5rem 0; } img { max-width: 100%; height: auto; } figcaption { color: #555; font-size: .9rem; }
table { border-collapse: collapse; width: 100%; margin-top: .5rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #ddd; text-align: left; }
td:nth-child(n+3), th:nth-child(n+3) { text-align: right; }
thead { position: sticky; top: 0; background: #fff; }
th button { font: inherit; font-weight: 600; background: none; border: 0; padding: 0; cursor: pointer; color: inherit; }
th button::after { content: " \\2195"; color: #999; }
th[aria-sort=ascending] button::after { content: " \\2191"; color: #0072B2; }
th[aria-sort=descending] button::after { content: " \\2193"; color: #0072B2; }
tr.again td:nth-child(3) { color: #D55E00; } tr.saving td:nth-child(2) { color: #0072B2; }
"""

_SCRIPT = """
"use strict";
const table = document.getElementById("parts-table"), body = table.tBodies[0];
const rows = Array.from(body.rows), search = document.getElementById("search");
function show() {
  const words = search.value.toLowerCase().split(/\\s+/).filter(Boolean);
  let count = 0;
  for (const row of rows) {
    const text = (row.cells[0].textContent + " " + row.cells[1].textContent).toLowerCase();
    row.hidden = !words.every(word => text.includes(word));
    count += row.hidden ? 0 : 1;
  }
  document.getElementById("shown").textContent = count + " of " + rows.length;
}
function sort(head, column) {
  const up = head.getAttribute("aria-sort") !== "ascending", number = head.hasAttribute("data-number");
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  const value = row => row.cells[column].textContent;
  const order = (a, b) => number ? value(a) - value(b) : value(a).localeCompare(value(b), "en", {numeric: true});
  body.append(...rows.slice().sort((a, b) => up ? order(a, b) : order(b, a)));
}
search.addEventListener("input", show);
Array.from(table.tHead.rows[0].cells).forEach((head, column) =>
  head.firstElementChild.addEventListener("click", () => sort(head, column)));
const asked = new URLSearchParams(location.hash.slice(1));
if (asked.has("search")) { search.value = asked.get("search"); show(); }
if (asked.has("sort")) table.tHead.rows[0].cells[asked.get("sort")].firstElementChild.click();
"""
