"""The page on what works where: it says what the code does, and the tests that it names exist."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from zoo import frameworks, support
from zoo.__main__ import main
from zoo.frameworks import FRAMEWORKS, why_missing
from zoo.support import FLAGS, OTHERS, TITLES, gaps, why_not
from zoo.support_modes import MODES

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "support.md").read_text(encoding="utf-8")


def part_of_the_page(framework: str) -> str:
    return PAGE.split(f"## {TITLES[framework]}\n")[1].split("\n## ")[0]


def stated(framework: str) -> dict[tuple[str, str], str | None]:
    """By (column, family) the reason that the page gives, None where it says yes."""
    lines = part_of_the_page(framework).splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    families, *rest = [row for row in rows if len(row) == 1 + len(support.FAMILIES)]
    reasons = {line.partition(". ")[0]: line.partition(". ")[2] for line in lines if line[:1].isdigit()}
    return {
        (row[0], family): None if cell == support.YES else reasons[cell.strip("no ()")]
        for row in rest
        for family, cell in zip(families[1:], row[1:], strict=True)
    }


def reason_by_a_step(framework: str, family: str, column: str) -> str | None:
    if column in FLAGS:
        return why_not(framework, family, FLAGS[column])
    package = frameworks.load(framework)
    return OTHERS[column](package, framework, support.FAMILIES[family], True)


def skip_without(framework: str) -> None:
    missing = why_missing(FRAMEWORKS[framework])
    if missing:
        pytest.skip(missing)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_page_says_what_is_built_and_what_is_refused(framework: str) -> None:
    skip_without(framework)
    said = stated(framework)
    built = gaps(framework, measured=False)
    assert said.keys() == built.keys() == {(c, f) for c in (*FLAGS, *OTHERS) for f in support.FAMILIES}
    for (column, family), reason in built.items():
        found = said[column, family]
        if reason is None and found is not None:  # then it is a step that shows it
            reason = reason_by_a_step(framework, family, column)
        assert found == reason, f"{column}, {family}: write the page anew: python -m zoo support --save docs/support.md"


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_page_says_what_is_measured(framework: str) -> None:
    skip_without(framework)
    written = part_of_the_page(framework).strip()
    assert support.section(framework).partition("\n")[2].strip() == written


def test_the_tests_named_exist() -> None:
    for mode in (mode for modes in MODES.values() for mode in modes):
        if not mode.test:
            assert mode.holds.startswith("no: "), mode
            continue
        file, _, name = mode.test.partition("::")
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, mode.test


def test_every_framework_has_its_part() -> None:
    assert MODES.keys() == FRAMEWORKS.keys() == TITLES.keys()


def test_a_flag_that_saves_nothing_is_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    skip_without("torch")
    package = frameworks.load("torch")
    real = package.build_model
    assert why_not("torch", "resnet", {"efficient": True}) is None
    monkeypatch.setattr(package, "build_model", lambda config, policy: real(config))
    assert why_not("torch", "resnet", {"efficient": True}) == "saves less than 10% of what the plain network keeps"


def test_the_command_names_an_unknown_framework(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["support", "tensorflw"]) == 2
    assert "did you mean tensorflow" in capsys.readouterr().err
