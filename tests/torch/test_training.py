"""The training loop: its numbers, its files, and that a run that was killed goes on to the same numbers."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'memory-efficient-zoo[torch]'")

from small_run import REPOSITORY, SmallNet, small_data, small_options  # noqa: E402

from pytorch_models.devices import set_seed  # noqa: E402
from pytorch_models.training import train  # noqa: E402
from zoo.data.image_data import ImageData  # noqa: E402
from zoo.options import TrainingError, TrainingResult  # noqa: E402
from zoo.run_folder import RunFolderError  # noqa: E402

CLOCK = ("step_seconds", "images_per_second")


def run(folder: Path | None = None, **options: object) -> tuple[TrainingResult, SmallNet]:
    set_seed(0)
    model = SmallNet(drop_rate=0.2)
    save = None if folder is None else str(folder)
    return train(model, small_data(), small_options(save=save, **options)), model


def normalised(images: np.ndarray, data: ImageData) -> torch.Tensor:
    mean, std = (torch.tensor(values)[:, None, None] for values in (data.mean, data.std))
    return (torch.from_numpy(images).float() / 255 - mean) / std


def metrics_without_clock(folder: Path) -> list[dict[str, str]]:
    rows = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
    return [{name: value for name, value in row.items() if name not in CLOCK} for row in rows]


def assert_same_weights(first: Path, second: Path) -> None:
    for name in ("last.pt", "best.pt"):
        one, two = (torch.load(folder / name, weights_only=True) for folder in (first, second))
        one, two = (state.get("model", state) for state in (one, two))
        assert one.keys() == two.keys()
        for key in one:
            assert torch.equal(one[key], two[key]), f"{name}: {key}"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    run(folder)
    return folder


@pytest.mark.quick
def test_one_step_is_nesterov_sgd_with_weight_decay() -> None:
    set_seed(0)
    model, data = SmallNet(), replace(small_data(train=8), augmentation="none")
    options = small_options(n_epochs=1, batch_size=8, valid_size=0, lr=0.5, wd=0.01, momentum=0.8)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    twin = SmallNet()
    twin.load_state_dict(model.state_dict())
    torch.nn.functional.cross_entropy(
        twin(normalised(data.train_images, data)), torch.from_numpy(data.train_labels)
    ).backward()
    train(model, data, options)
    for start, end, other in zip(before, model.parameters(), twin.parameters(), strict=True):
        direction = other.grad + 0.01 * start
        expected = start - 0.5 * (direction + 0.8 * direction)  # the first momentum buffer is the direction itself
        torch.testing.assert_close(end.detach(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.quick
def test_schedule_is_the_published_one() -> None:
    result, _ = run(n_epochs=8, lr=0.1, valid_size=80)
    assert [row["lr"] for row in result.metrics] == pytest.approx([0.1] * 4 + [0.01] * 2 + [0.001] * 2)


def test_learns_and_reports(finished: Path) -> None:
    rows = list(csv.DictReader((finished / "metrics.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])
    assert float(rows[-1]["valid_accuracy"]) > 0.5
    for name in ("images_per_second", "step_seconds", "peak_bytes"):
        assert all(float(row[name]) > 0 for row in rows)
    result = json.loads((finished / "result.json").read_text())
    assert result["test_accuracy"] > 0.5
    config = json.loads((finished / "config.json").read_text())
    assert config["flags"]["batch_size"] == 16
    assert config["versions"]["torch"]


def test_peak_bytes_counts_model_optimiser_and_step(finished: Path) -> None:
    model = SmallNet()
    parameters = sum(parameter.nbytes for parameter in model.parameters())
    activations = 16 * 8 * 16 * 16 * 4  # one convolution's output
    # Parameters, momentum, gradients; the loop keeps norm, mask and dropout outputs too, and their gradients.
    peak = int(metrics_without_clock(finished)[0]["peak_bytes"])
    assert 3 * parameters + activations < peak < 3 * parameters + 20 * activations


def test_same_seed_same_files_and_workers_change_nothing(finished: Path, tmp_path: Path) -> None:
    run(tmp_path / "again", num_workers=2)
    assert metrics_without_clock(tmp_path / "again") == metrics_without_clock(finished)
    assert_same_weights(tmp_path / "again", finished)
    run(tmp_path / "other", seed=1)
    assert metrics_without_clock(tmp_path / "other") != metrics_without_clock(finished)


def test_the_best_epoch_is_kept_and_tested(tmp_path: Path) -> None:
    """From the second epoch on the outputs have the wrong sign, so the first is the best."""
    alone, first = run(n_epochs=1)
    for folder in (None, tmp_path / "run"):
        set_seed(0)
        model = SmallNet(drop_rate=0.2)
        model.spoil_after_calls, model.spoil_by = 6, -1.0
        save = None if folder is None else str(folder)
        result = train(model, small_data(), small_options(n_epochs=2, save=save))
        accuracies = [row["valid_accuracy"] for row in result.metrics]
        assert accuracies[0] > accuracies[1]
        assert (result.best_epoch, result.best_valid_accuracy, result.epochs) == (1, accuracies[0], 2)
        weights = [model.state_dict()]
        if folder is not None:
            weights.append(torch.load(folder / "best.pt", weights_only=True))
            assert len(torch.load(folder / "last.pt", weights_only=True)["rows"]) == 2
        for state in weights:
            assert all(torch.equal(state[name], value) for name, value in first.state_dict().items())
    assert alone.folder is None


def test_the_test_result_is_that_of_the_best_weights_on_all_test_images(finished: Path) -> None:
    result = json.loads((finished / "result.json").read_text())
    model, data = SmallNet(), small_data()
    model.load_state_dict(torch.load(finished / "best.pt", weights_only=True))
    logits = model.eval()(normalised(data.test_images, data)).detach()
    labels = torch.from_numpy(data.test_labels)
    assert result["test_loss"] == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)), rel=1e-5)
    assert result["test_accuracy"] == pytest.approx(float((logits.argmax(1) == labels).double().mean()))


def test_without_validation_images_the_last_epoch_counts(tmp_path: Path) -> None:
    result, _ = run(tmp_path / "run", n_epochs=2, valid_size=0)
    assert result.best_epoch == 2
    assert result.best_valid_accuracy is None
    assert metrics_without_clock(tmp_path / "run")[0]["valid_loss"] == ""
    best, last = (torch.load(tmp_path / "run" / name, weights_only=True) for name in ("best.pt", "last.pt"))
    assert all(torch.equal(best[name], last["model"][name]) for name in best)


def kill_and_resume(folder: Path, random: np.random.Generator, most: int) -> int:
    """Train in processes of which at most so many are killed, until one ends well; how many were killed."""
    command = [sys.executable, str(Path(__file__).with_name("small_run.py")), str(folder)]
    kills = 0
    while True:
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "starts\n"  # PyTorch is imported: from here on it is about the run
        time.sleep(float(random.uniform(0.05, 0.4)))
        if process.poll() is None and kills < most:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.communicate()
        if process.returncode == 0:
            return kills
        assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("most", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_any_moment_and_resumed_is_the_uninterrupted_run(finished: Path, tmp_path: Path, most: int) -> None:
    random, kills = np.random.default_rng(0), 0
    for attempt in range(1 + most // 4):  # a run is over after a few processes, however often it is killed
        folder = tmp_path / f"killed{attempt}"
        kills += kill_and_resume(folder, random, most - kills)
        assert metrics_without_clock(folder) == metrics_without_clock(finished)
        assert_same_weights(folder, finished)
        results = [json.loads((path / "result.json").read_text()) for path in (folder, finished)]
        assert results[0] == results[1]
        assert not list(folder.glob(".*"))
        if kills == most:
            break
    assert kills > most // 2


def test_stopped_between_the_files_of_an_epoch(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every place where an epoch's files can be cut off, without the luck of a clock."""
    from pytorch_models import checkpoint
    from zoo.run_folder import RunFolder

    class Cut(Exception):
        pass

    def cutting(function: object, at: int) -> object:
        calls = iter(range(100))

        def wrapped(*arguments: object) -> None:
            if next(calls) == at:
                raise Cut
            function(*arguments)  # type: ignore[operator]

        return wrapped

    for owner, name, at in (
        (checkpoint, "save", 0),  # before anything
        (checkpoint, "save", 3),  # the second epoch's best checkpoint is new, its last one is not
        (RunFolder, "write_metrics", 1),  # both are, the metrics are not
    ):
        folder = tmp_path / f"{name}{at}"
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, cutting(getattr(owner, name), at))
            with pytest.raises(Cut):
                run(folder)
        run(folder, resume=True)
        assert metrics_without_clock(folder) == metrics_without_clock(finished)
        assert_same_weights(folder, finished)


def test_resuming_a_finished_run_changes_nothing(finished: Path, tmp_path: Path) -> None:
    before = (finished / "metrics.csv").read_bytes()
    result, _ = run(finished, resume=True)
    assert (finished / "metrics.csv").read_bytes() == before
    assert result.epochs == 3


def test_a_folder_with_a_run_is_refused_untouched(finished: Path) -> None:
    before = {path: path.read_bytes() for path in finished.iterdir()}
    with pytest.raises(RunFolderError, match=r"already holds a run.*--resume True"):
        run(finished)
    with pytest.raises(RunFolderError, match=r"lr was 0.1, now 0.2; n_epochs was 3, now 9"):
        run(finished, resume=True, lr=0.2, n_epochs=9)
    assert {path: path.read_bytes() for path in finished.iterdir()} == before


@pytest.mark.parametrize("damage", [b"", b"no checkpoint", None])
def test_a_damaged_checkpoint_is_named(finished: Path, tmp_path: Path, damage: bytes | None) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for path in finished.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    whole = (folder / "last.pt").read_bytes()
    (folder / "last.pt").write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    with pytest.raises(TrainingError, match=r"last\.pt cannot be read as .*another --save folder; .*best\.pt is whole"):
        run(folder, resume=True)
    (folder / "best.pt").write_bytes(b"damaged too")
    with pytest.raises(TrainingError, match=r"start a new run in another --save folder$"):
        run(folder, resume=True)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    set_seed(0)
    model = SmallNet()
    model.spoil_after_calls = 6  # 5 training steps and the validation batch of the first epoch pass
    with pytest.raises(TrainingError, match=r"epoch 2, step 1: the training loss is nan; the checkpoint of epoch 1"):
        train(model, small_data(), small_options(save=str(tmp_path / "run"), lr=0.01))
    kept = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    assert len(kept["rows"]) == 1
    assert all(bool(torch.isfinite(tensor).all()) for tensor in kept["model"].values())
