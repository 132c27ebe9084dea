"""Every example in a docstring runs and gives what it says."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import zoo
from zoo.frameworks import FRAMEWORKS, why_missing

ROOT = Path(__file__).resolve().parent.parent
# Modules that need what is no dependency of this project.
OPTIONAL = {
    "pytorch_models.adapters.mmengine_hook": "mmengine",
    "pytorch_models.adapters.lightning_callback": "lightning",
    "pytorch_models.adapters.transformers_callback": "transformers",
}
REASONS = {row.package: why_missing(row) for row in FRAMEWORKS.values()}


def modules() -> list[str]:
    """Found as files: importing them already here would load frameworks for every run of any test."""
    folders = ["zoo", *(package for package, reason in REASONS.items() if reason is None)]
    paths = [path.relative_to(ROOT) for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in paths if path.stem != "__main__"]


@pytest.mark.parametrize("name", modules())
def test_examples_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if name in OPTIONAL:
        pytest.importorskip(OPTIONAL[name], reason=f"{name} needs {OPTIONAL[name]}: make test-full installs it")
    module = importlib.import_module(name)
    result = doctest.testmod(module, extraglobs={"zoo": zoo}, optionflags=doctest.ELLIPSIS)
    assert result.failed == 0


def test_packages_are_looked_into() -> None:
    assert {"zoo", "zoo.densenet", "zoo.data.datasets"} <= set(modules())
    assert ("pytorch_models.densenet" in modules()) == (REASONS["pytorch_models"] is None)


def test_examples_are_found() -> None:
    examples = [example for test in doctest.DocTestFinder().find(zoo) for example in test.examples]
    assert len(examples) >= 3
