"""The page about a plan: all in one file, nothing asked of other machines, searched and sorted in a real browser."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from zoo.plan_page import page_of, write_page
from zoo.planner import Plan, PlannedPart
from zoo.planner.study import PlanStudy, Timeline

pytest.importorskip("matplotlib")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NAMES = ("stem", "layer<1>.0", "layer<1>.1", "head & loss")


@pytest.fixture
def study() -> PlanStudy:
    """Of four parts, with names that are no HTML."""
    kinds, runs = ("keep", "keep", "4 bits", "keep"), (1, 2, 1, 1)
    parts = tuple(
        PlannedPart(name, kind, again, (10 - place) * 2**20, 2**20, 0.5 / (place + 1))
        for place, (name, kind, again) in enumerate(zip(NAMES, kinds, runs, strict=True))
    )
    facts: dict[str, Any] = {"framework": "torch", "model": "Net", "fingerprint": "f00d", "input_shape": (8, 3)}
    facts |= {"budget_bytes": 2**25, "predicted_peak_bytes": 2**24, "peak_bytes": 2**24, "saved_bytes": 5}
    facts |= {"predicted_seconds": 1.5, "plain_seconds": 1.0, "noise": 0.0, "plain_peak_bytes": 2**26}
    plan = Plan(**facts, parts=parts, steps=(0, (1,), 2, 3))
    curve = Timeline((0, 2**24, 0), (0, 0, 2**10), (0, 2**20, 0))
    return PlanStudy(plan, ((2**24, 2.0), (2**26, 1.0)), {"keep": (2**26, 1.0)}, {"plain": curve, "plan": curve})


class Page(HTMLParser):
    """Tags with their attributes, and the table's cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        self.inside = tag == "td"

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag != "td"

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.rows[-1].append(data)


def test_a_page_holds_all_it_shows(study: PlanStudy, tmp_path: Path) -> None:
    path = tmp_path / "folder" / "plan.html"
    write_page(study, path)
    assert [entry.name for entry in path.parent.iterdir()] == ["plan.html"]
    page = Page(path.read_text(encoding="utf-8"))
    rows = [row for row in page.rows if row]
    assert [row[0] for row in rows] == list(NAMES)
    assert rows[1] == ["layer<1>.0", "run again", "2", "9.00", "1.00", "0.25000"]
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 3
    for attributes in images:
        kind, _, data = str(attributes["src"]).partition(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data).startswith(b"\x89PNG")
        assert attributes["alt"]
    links = [value for _, found in page.tags for name, value in found.items() if name in ("src", "href", "action")]
    assert all(str(link).startswith("data:") for link in links)
    assert not {"link", "iframe", "object", "embed", "form"} & {tag for tag, _ in page.tags}
    policy = next(found["content"] for tag, found in page.tags if found.get("http-equiv") == "Content-Security-Policy")
    assert str(policy).startswith("default-src 'none'")
    bare = PlanStudy(study.plan, study.frontier, study.methods, {})
    assert page_of(bare).count("<img") == 2, "memory over a step is not known in every framework"


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt install chromium")
def test_a_browser_searches_and_sorts(study: PlanStudy, tmp_path: Path) -> None:
    write_page(study, tmp_path / "plan.html")

    def opened(*flags: str, asked: str = "") -> str:
        url = (tmp_path / "plan.html").as_uri() + asked
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        words = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", profile, *flags, url]
        return subprocess.run(words, capture_output=True, text=True, timeout=120, check=True).stdout

    def shown(text: str) -> list[str]:
        rows = re.findall(r"<tr class=\"\w+\"( hidden=\"\")?><td>(.*?)</td>", text)
        return [name for hidden, name in rows if not hidden]

    assert shown(opened("--dump-dom")) == ["stem", "layer&lt;1&gt;.0", "layer&lt;1&gt;.1", "head &amp; loss"]
    assert shown(opened("--dump-dom", asked="#search=layer%204")) == ["layer&lt;1&gt;.1"]
    assert shown(opened("--dump-dom", asked="#sort=3"))[0] == "head &amp; loss", "the fewest bytes first"
    opened("--window-size=1100,2400", f"--screenshot={tmp_path / 'page.png'}", asked="#sort=5")
    assert (tmp_path / "page.png").stat().st_size > 20_000
