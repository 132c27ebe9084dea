"""A run's folder: what is refused, what is written, and that nothing is ever half there."""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path

import pytest

from zoo.atomic_write import DiskFullError, atomic_write
from zoo.run_folder import (
    METRICS_COLUMNS,
    RunFolder,
    RunFolderError,
    best_epoch,
    check_save_folder,
    read_flags,
    versions,
)

pytestmark = pytest.mark.quick


def started(folder: Path, **settings: object) -> RunFolder:
    return RunFolder.open({"save": str(folder), "lr": 0.1, "shape": (1, 2), **settings})


def test_a_new_run_writes_its_settings_and_versions(tmp_path: Path) -> None:
    run = started(tmp_path / "deep" / "run")
    config = json.loads((run.folder / "config.json").read_text())
    assert config["flags"] == {"save": str(run.folder), "lr": 0.1, "shape": [1, 2]}
    assert config["versions"] == versions()
    assert "numpy" in config["versions"]
    assert read_flags(run.folder)["lr"] == 0.1


def test_checking_a_folder_leaves_no_trace(tmp_path: Path) -> None:
    check_save_folder(tmp_path / "not" / "yet")
    check_save_folder(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["config.json", "metrics.csv", "result.json", "last.pt", "best.pt", "last.npz"])
def test_anything_of_an_earlier_run_is_refused_and_stays(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("precious")
    with pytest.raises(RunFolderError, match=f"already holds a run \\({name}\\).*--resume True"):
        started(tmp_path)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["precious"]


def test_other_files_are_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    started(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("kind", ["a file", "below a file", "no file system"])
def test_where_nothing_can_be_written(tmp_path: Path, kind: str) -> None:
    (tmp_path / "file").write_text("")
    places = {"a file": tmp_path / "file", "below a file": tmp_path / "file" / "x" / "y"}
    folder = places.get(kind, Path("/proc/nothing/here"))
    with pytest.raises(RunFolderError, match=r"cannot write there"):
        check_save_folder(folder)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="permission bits bind neither root nor Windows")
def test_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(RunFolderError, match="cannot write there"):
        check_save_folder(tmp_path / "run")


def test_resuming_nothing(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"nothing to resume: .*config\.json does not exist"):
        check_save_folder(tmp_path / "run", resume=True)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"flags": 3}', "\xff"])
def test_a_config_that_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(RunFolderError, match=r"is not the config\.json of a run"):
        check_save_folder(tmp_path, resume=True)


def test_resuming_with_other_flags_lists_them(tmp_path: Path) -> None:
    run = started(tmp_path / "run", n_epochs=3)
    run.last.write_text("checkpoint")
    with pytest.raises(RunFolderError, match=r"lr was 0\.1, now 0\.2; n_epochs was 3, now 4\. "):
        started(tmp_path / "run", resume=True, lr=0.2, n_epochs=4)


def test_what_may_change_is_recorded(tmp_path: Path) -> None:
    started(tmp_path / "run", num_workers=0, efficient=False).last.write_text("checkpoint")
    started(tmp_path / "run", num_workers=2, efficient=True, resume=True)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["resumed_with"] == [{"efficient": True, "num_workers": 2}]
    assert config["flags"]["num_workers"] == 0


def test_a_run_without_a_checkpoint_may_start_over_with_other_flags(tmp_path: Path) -> None:
    started(tmp_path / "run")
    started(tmp_path / "run", resume=True, lr=0.5)
    assert read_flags(tmp_path / "run")["lr"] == 0.5


def test_metrics_have_the_promised_columns(tmp_path: Path) -> None:
    run = started(tmp_path / "run")
    row = dict.fromkeys(METRICS_COLUMNS, 1)
    run.write_metrics([row, {**row, "valid_loss": None}])
    lines = (run.folder / "metrics.csv").read_text().splitlines()
    assert lines[0].split(",") == list(METRICS_COLUMNS)
    assert lines[2] == "1,1,1,1,,1,1,1,1"
    assert {"epoch", "lr", "train_loss", "train_accuracy", "peak_bytes"} < set(METRICS_COLUMNS)
    assert METRICS_COLUMNS[-2:] == ("step_seconds", "images_per_second")


def test_a_file_is_whole_or_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with atomic_write(path) as file:
        file.write(b"old")

    def interrupted() -> None:
        with atomic_write(path) as file:
            file.write(b"half of the ne")
            file.flush()
            assert path.read_bytes() == b"old"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_what_a_killed_writer_left_does_not_stay(tmp_path: Path) -> None:
    (tmp_path / ".file.partial").write_bytes(b"left behind by a killed process")
    with atomic_write(tmp_path / "file") as file:
        file.write(b"new")
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("file", b"new")]


@pytest.mark.parametrize(
    ("accuracies", "losses", "best"),
    [
        ([0.1, 0.5, 0.3], [1, 2, 0], 2),
        ([0.5, 0.5, 0.4], [2, 1, 0], 2),
        ([0.5, 0.5], [1, 2], 1),
        ([0.5, 0.5], [1, 1], 1),
        ([0.5, 0.5], [math.nan, 9], 2),
        ([None, None, None], [None, None, None], 3),
        ([0.0], [1], 1),
    ],
)
def test_best_epoch_is_the_most_accurate_then_the_one_of_lower_loss(
    accuracies: list[float | None], losses: list[float | None], best: int
) -> None:
    pairs = zip(accuracies, losses, strict=True)
    assert best_epoch([{"valid_accuracy": accuracy, "valid_loss": loss} for accuracy, loss in pairs]) == best


def test_finished_epochs_without_their_checkpoint_are_not_started_over(tmp_path: Path) -> None:
    run = started(tmp_path / "run")
    run.best.write_text("weights of a first epoch whose last.pt was never written")
    check_save_folder(run.folder, resume=True)
    run.write_metrics([dict.fromkeys(METRICS_COLUMNS, 1)])
    before = {path: path.read_bytes() for path in run.folder.iterdir()}
    for flags in ({}, {"lr": 0.1}):
        with pytest.raises(RunFolderError, match=r"holds 1 finished epoch, but not their checkpoint .*another --save"):
            started(run.folder, resume=True, **flags)
    assert {path: path.read_bytes() for path in run.folder.iterdir()} == before
    run.last.write_text("checkpoint")
    started(run.folder, resume=True)


def test_a_damaged_config_says_what_is_left(tmp_path: Path) -> None:
    run = started(tmp_path / "run")
    (run.folder / "config.json").write_text("{")
    with pytest.raises(RunFolderError, match=r"restore it, or give another --save folder to start anew$"):
        read_flags(run.folder)
    run.best.write_text("weights")
    with pytest.raises(RunFolderError, match=r"best\.pt still holds the best weights"):
        read_flags(run.folder)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_full_disk_names_the_folder_and_keeps_the_old_file(tmp_path: Path, wrapped: bool) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fill() -> None:
        with atomic_write(path):
            try:
                raise OSError(errno.ENOSPC, "No space left on device")
            except OSError:
                if not wrapped:
                    raise
                raise RuntimeError("the writer's own words")  # noqa: B904

    with pytest.raises(
        DiskFullError, match=rf"no room for file in {tmp_path} \(No space left on device\); .*make room"
    ):
        fill()
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("file", b"old")]
