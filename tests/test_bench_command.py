"""`zoo bench` before it measures: what it lists, what it refuses, and that nothing heavy is loaded for that."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from zoo import bench, frameworks
from zoo.__main__ import main
from zoo.bench import picture

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.quick
def test_without_a_table_all_are_listed_with_what_they_need(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for table, one in bench.BENCHES.items():
        line = next(line for line in lines if line.startswith(f"{table} "))
        assert one.reproduces in line
        assert f" {one.framework} " in line
        assert one.takes[0] in line


@pytest.mark.quick
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lua_torch"], "did you mean luatorch?"),
        (["acgc", "--quik"], "did you mean --quick?"),
        (["acgc", "--quick", "maybe"], "--quick needs True or False"),
        (["luatorch", "--device", "gpu"], "device must be cpu, cuda or cuda:<number>"),
        (["luatorch", "twice"], "belongs to no flag"),
        (["acgc", "--times", "False"], "times come along: leave the flag out"),
    ],
)
def test_nonsense_is_refused_in_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *words]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = tmp_path / "taken"
    taken.write_text("a file")
    for out in (taken, taken / "below"):
        assert main(["bench", "luatorch", "--out", str(out)]) == 2
        said = capsys.readouterr().err
        assert f"--out {out}: nothing can be written there" in said
        assert len(said.splitlines()) == 1


def test_a_missing_framework_is_named_with_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(frameworks, "why_missing", lambda row: f"{row.name} is not installed: pip install x")
    out = tmp_path / "out"
    assert main(["bench", "memonger", "--out", str(out)]) == 2
    assert "the table memonger is measured in mxnet: mxnet is not installed" in capsys.readouterr().err
    assert not out.exists()


def test_without_matplotlib_the_picture_can_be_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frameworks, "why_missing", lambda row: None)
    monkeypatch.setattr(picture.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="--picture False"):
        bench.check(bench.find("luatorch"), tmp_path)
    bench.check(bench.find("luatorch"), tmp_path, picture=False)


@pytest.mark.quick
def test_listing_and_refusing_load_nothing_heavy() -> None:
    heavy = ("torch", "tensorflow", "mxnet", "numba", "matplotlib", "pytorch_models")
    code = (
        "import sys; from zoo.__main__ import main; main(['bench']); main(['bench', 'luatorhc']);"
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "[]"
