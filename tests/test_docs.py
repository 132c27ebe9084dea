"""The documentation: its links lead somewhere, its table of tests names real ones, its code runs, its site builds."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from zoo.frameworks import FRAMEWORKS, why_missing

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
NAMED = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
READERS_OWN = {"mxnet.md"}  # its code is about networks that the reader has
BLOCKS = [
    (page.relative_to(ROOT).as_posix(), number, code)
    for page in PAGES
    if page.name not in READERS_OWN
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL))
]
ACCEPTANCE = (ROOT / "docs" / "acceptance.md").read_text(encoding="utf-8")


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", head.lower()).strip()) for head in heads}


def broken_links(page: Path) -> list[str]:
    """Relative links of a page that lead to no file, or to no heading of one."""
    found = []
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text(encoding="utf-8"))):
        if re.match(r"https?://|mailto:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            found.append(f"{page.relative_to(ROOT) if page.is_relative_to(ROOT) else page.name}: {link}")
    return found


@pytest.mark.quick
def test_links_lead_somewhere() -> None:
    assert [link for page in (*PAGES, *NAMED) for link in broken_links(page)] == []


def test_a_broken_link_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A head\n[a](none.md) [b](page.md#a-head) [c](#b-head) [d](https://e.org) `[e](f.md)`\n")
    assert broken_links(page) == ["page.md: none.md", "page.md: #b-head"]


@pytest.mark.quick
def test_every_line_of_acceptance_names_tests_that_exist() -> None:
    rows = re.findall(r"^\| (\d+) \|.*\| (.*) \|$", ACCEPTANCE, re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 34))
    for number, shown in rows:
        named = re.findall(r"`([\w/]+\.py)::(\w+)`", shown)
        assert named, f"line {number} names no test"
        for file, test in named:
            tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
            assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{file}::{test}"


@pytest.mark.parametrize(("page", "number", "code"), BLOCKS, ids=[f"{page}-{number}" for page, number, _ in BLOCKS])
def test_code_runs(page: str, number: int, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = {row.name for row in FRAMEWORKS.values() if re.search(rf"\b{row.package}\b", code)} or {"torch"}
    for framework in named:
        missing = why_missing(FRAMEWORKS[framework])
        if missing:
            pytest.skip(missing)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, f"{page}, block {number}", "exec"), {"__name__": "docs"})


def test_every_page_is_in_the_sites_menu() -> None:
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = set(re.findall(r": ([\w/]+\.md)$", menu, re.MULTILINE))
    there = {page.relative_to(ROOT / "docs").as_posix() for page in PAGES}
    assert listed == there, "add the page to nav in mkdocs.yml"


@pytest.mark.quick
def test_pictures_are_small_and_each_is_shown() -> None:
    shown = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    for picture in sorted((ROOT / "docs").rglob("*.png")):
        name, content = picture.relative_to(ROOT / "docs").as_posix(), picture.read_bytes()
        assert len(content) < 150_000, name
        assert content[25] == 3, f"{name} is no palette PNG: draw it by the command that its page names"
        assert f"]({name})" in shown, f"no page shows {name}"


def test_the_site_builds(tmp_path: Path) -> None:
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("mkdocs is not installed: pip install 'memory-efficient-zoo[dev]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "site" / "porting" / "index.html").exists()
