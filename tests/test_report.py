"""The tables and the picture of a measurement: what they say, and that a picture needs no display and is whole."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from zoo.pictures import read_metrics
from zoo.report import MIB, LayerRow, MemoryReport, format_comparison, format_report, plot_training
from zoo.run_folder import METRICS_COLUMNS

EPOCH = {"lr": 0.1, "train_loss": 0.5, "train_accuracy": 0.8, "valid_loss": 0.6, "valid_accuracy": 0.7}
TIMES = {"peak_bytes": 1000, "step_seconds": 0.1, "images_per_second": 640}


def report(
    policy: str = "plain", saved: float = 2000, other: float = 138.4, seconds: float | None = 1.5
) -> MemoryReport:
    parts = {"saved tensors": int(saved * MIB), "scratch and gradients": int(other * MIB)}
    rows = (
        LayerRow("features.conv0", 6 * MIB, "input"),
        LayerRow("features.denseblock1", 60 * MIB, "features once, in one buffer"),
    )
    return MemoryReport(
        "densenet_bc_100_12", policy, (64, 3, 32, 32), "float32", "cpu", int(saved * MIB), sum(parts.values()), parts,
        3 * MIB, seconds, rows,
    )  # fmt: skip


def write_metrics(path: Path, epochs: int, **changes: object) -> Path:
    rows = [{"epoch": epoch, **EPOCH, **TIMES, **changes} for epoch in range(1, epochs + 1)]
    lines = [",".join(METRICS_COLUMNS), *(",".join(str(row[name]) for name in METRICS_COLUMNS) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.quick
def test_a_report_reads_as_a_table() -> None:
    assert format_report(report()).splitlines() == [
        "densenet_bc_100_12, plain: one training step, input 64 x 3 x 32 x 32, float32, cpu",
        "",
        "at the peak                        MiB  share",
        "------------------------------  ------  -----",
        "saved tensors                   2000.0   94 %",
        "scratch and gradients            138.4    6 %",
        "peak, model and input excluded  2138.4",
        "model (parameters and buffers)     3.0",
        "",
        "saved for the backward pass, at the end of the forward pass: 2000.0 MiB "
        "(the parts above are those of the moment of the peak)",
        "median time of a step: 1.50 s",
        "",
        "layer                 saved MiB  kept",
        "--------------------  ---------  ----------------------------",
        "features.conv0              6.0  input",
        "features.denseblock1       60.0  features once, in one buffer",
    ]


def test_a_report_leaves_out_what_was_not_measured_or_asked_for() -> None:
    text = format_report(report(seconds=None), rows=False)
    assert "time of a step" not in text
    assert "features.conv0" not in text
    assert "layer" not in format_report(dataclasses.replace(report(), rows=()))


@pytest.mark.quick
def test_a_comparison_gives_ratios_to_the_first() -> None:
    text = format_comparison([report(), report("efficient", 180, 128.4, 0.75)])
    lines = text.splitlines()
    assert lines[:-1] == [
        "policy     saved MiB  saved ratio  peak MiB  peak ratio  median step s  time ratio",
        "---------  ---------  -----------  --------  ----------  -------------  ----------",
        "plain         2000.0        1.00x    2138.4       1.00x           1.50       1.00x",
        "efficient      180.0        0.09x     308.4       0.14x           0.75       0.50x",
    ]
    assert lines[-1].startswith("saved = kept for the backward pass when the forward pass ends; peak = the most")
    assert "0.0042  " in format_comparison([report(seconds=0.00421)]), "a GPU's step is not 0.00 s"


def test_a_comparison_without_times_says_so() -> None:
    assert format_comparison([report(seconds=None)]).splitlines()[-2].split() == [
        *("plain", "2000.0", "1.00x", "2138.4", "1.00x", "-", "-")
    ]


def test_a_comparison_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no reports"):
        format_comparison([])


def test_parts_must_add_up_to_the_peak() -> None:
    with pytest.raises(ValueError, match="add up to"):
        dataclasses.replace(report(), peak_bytes=3000 * MIB)
    dataclasses.replace(report(), peak_bytes=int(2138.4 * MIB * 1.04))


def test_bytes_are_not_negative() -> None:
    with pytest.raises(ValueError, match="saved_bytes"):
        dataclasses.replace(report(), saved_bytes=-1)


def test_a_report_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        report().peak_bytes = 0  # type: ignore[misc]


def pixels(png: Path) -> np.ndarray:
    matplotlib_image = pytest.importorskip("matplotlib.image", reason="pictures need matplotlib (extra: demo)")
    return np.asarray(matplotlib_image.imread(png))


@pytest.mark.parametrize(
    ("epochs", "changes", "bars"),
    [
        (8, {}, 3),
        (1, {"valid_loss": "", "valid_accuracy": ""}, 0),
        (300, {}, 2),
        (2, {"train_loss": "nan", "valid_loss": "inf"}, 1),
        (2, {"peak_bytes": ""}, 0),
    ],
)
def test_a_picture_is_drawn_in_colours_anyone_can_tell_apart(
    tmp_path: Path, epochs: int, changes: dict[str, object], bars: int
) -> None:
    csv = write_metrics(tmp_path / "metrics.csv", epochs, **changes)
    png = tmp_path / "new" / "run.png"
    plot_training(csv, png, [report(f"policy {index}", 100 + index) for index in range(bars)])
    image = pixels(png)
    assert image.shape[1] >= 1000
    blue, orange = (
        np.all(np.abs(image[..., :3] - colour) < 0.01, -1).sum() for colour in ((0, 0.447, 0.698), (0.902, 0.624, 0))
    )
    # Without a curve of the validation and without bars nothing is orange.
    assert blue > 20
    assert (orange > 20) == (bars > 0 or changes.get("valid_accuracy") != "")
    assert [path.name for path in png.parent.iterdir()] == ["run.png"]


def test_a_picture_needs_no_display(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need matplotlib (extra: demo)")
    csv = write_metrics(tmp_path / "metrics.csv", 2)
    code = (
        "import sys; from pathlib import Path; from zoo.report import plot_training\n"
        f"plot_training(Path({str(csv)!r}), Path({str(tmp_path / 'run.png')!r}))\n"
        "assert 'matplotlib.pyplot' not in sys.modules, 'pyplot is global state, and picks a display'"
    )
    root = Path(__file__).resolve().parent.parent
    subprocess.run(
        [sys.executable, "-c", code], cwd=root, env={"MPLBACKEND": "TkAgg", "HOME": str(tmp_path)}, check=True
    )
    assert (tmp_path / "run.png").stat().st_size > 1000


def test_a_failed_picture_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = pytest.importorskip("matplotlib.figure", reason="pictures need matplotlib (extra: demo)")
    csv, png = write_metrics(tmp_path / "metrics.csv", 2), tmp_path / "run.png"
    png.write_bytes(b"old")

    def fails(self: object, file: object, **settings: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise OSError("disk full")

    monkeypatch.setattr(figure.Figure, "savefig", fails)
    with pytest.raises(OSError, match="disk full"):
        plot_training(csv, png)
    assert png.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.csv", "run.png"]


def spoil_header(text: str) -> str:
    return text.replace("train_loss", "loss")


def spoil_number(text: str) -> str:
    return text.replace("0.5", "half")


def drop_rows(text: str) -> str:
    return text.splitlines()[0] + "\n"


@pytest.mark.parametrize(
    ("spoil", "words"),
    [(spoil_header, "train_loss"), (spoil_number, "half"), (drop_rows, "no epochs"), (lambda text: "", "no epochs")],
)
def test_bad_metrics_are_refused(tmp_path: Path, spoil: Callable[[str], str], words: str) -> None:
    csv = write_metrics(tmp_path / "metrics.csv", 2)
    csv.write_text(spoil(csv.read_text()))
    with pytest.raises(ValueError, match=rf"metrics\.csv.*{words}"):
        plot_training(csv, tmp_path / "run.png")


def test_a_missing_metrics_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        plot_training(tmp_path / "nowhere.csv", tmp_path / "run.png")


def test_a_short_row_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    csv = write_metrics(tmp_path / "metrics.csv", 2)
    csv.write_text(csv.read_text() + "3,0.1\n")
    columns = read_metrics(csv)
    assert columns["epoch"] == [1, 2, 3]
    assert np.isnan(columns["train_loss"][2])


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'memory-efficient-zoo\[demo\]'"):
        plot_training(write_metrics(tmp_path / "metrics.csv", 1), tmp_path / "run.png")


def test_a_picture_says_what_was_run_and_hides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure_module = pytest.importorskip("matplotlib.figure", reason="pictures need matplotlib (extra: demo)")
    drawn = []
    monkeypatch.setattr("zoo.pictures.save_png", lambda figure, png: drawn.append(figure))
    title = "digits: DenseNet, efficient (runs/x)"
    for epochs in (1, 5):
        plot_training(write_metrics(tmp_path / "metrics.csv", epochs), tmp_path / "run.png", (), title)
    single, several = drawn
    assert isinstance(single, figure_module.Figure)
    for figure in drawn:
        assert figure.get_suptitle() == title
        assert all(axes.get_legend() is None for axes in figure.axes), "a legend in the axes may lie on a curve"
        assert len(figure.subfigs[0].legends) == 1
    loss, accuracy = single.axes
    assert loss.get_xticks().tolist() == [1]
    assert loss.get_ylim()[0] == 0
    assert loss.get_ylim()[1] > 0.6, "the validation loss lies inside"
    assert accuracy.get_ylim() == (0, 101)
    assert several.axes[0].get_ylim()[0] > 0
