"""`train` in several processes: joined by TensorFlow's collectives or by Horovod, they train as one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_networks import network
from train_worker import run

from tf_models import Workers, join_workers
from tf_models.launch import launch, main
from tf_models.step import StepRunner
from zoo.launch import Launch
from zoo.options import RefusedOptionError, TrainingOptions
from zoo.processes import run_together

HERE = Path(__file__).resolve().parent
WORKER = str(HERE / "train_worker.py")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """What one process comes to in two epochs."""
    return run(str(tmp_path_factory.mktemp("alone")), 2)


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("PYTHONPATH", str(HERE.parents[1])), ("OMP_NUM_THREADS", "1"), ("TF_CPP_MIN_LOG_LEVEL", "3")):
        monkeypatch.setenv(name, value)


def check_as_one(folder: Path, alone: dict[str, np.ndarray]) -> None:
    first, second = (dict(np.load(folder / f"{rank}.npz")) for rank in (0, 1))
    for name, array in alone.items():
        assert np.array_equal(first[name], second[name]), name
        assert np.allclose(first[name], array, rtol=1e-4, atol=1e-6), name
    lines = (folder / "run" / "metrics.csv").read_text().splitlines()
    assert len(lines) == 1 + len(alone["rows"])


@pytest.mark.usefixtures("quiet")
def test_two_processes_go_on_as_one_with_what_one_began(tmp_path: Path, alone: dict[str, np.ndarray]) -> None:
    run(str(tmp_path), 1)
    config = tmp_path / "run" / "config.json"
    told = json.loads(config.read_text())
    told["flags"]["n_epochs"] = 2
    config.write_text(json.dumps(told))
    assert launch(2, [WORKER, str(tmp_path), "2"]) == 0
    check_as_one(tmp_path, alone)


@pytest.mark.slow
@pytest.mark.usefixtures("quiet")
def test_horovods_processes_train_as_one(tmp_path: Path, alone: dict[str, np.ndarray]) -> None:
    base = {**os.environ, "HOROVOD_SIZE": "2", "HOROVOD_FOLDER": str(tmp_path)}
    places = [{**base, "HOROVOD_RANK": rank} for rank in ("0", "1")]
    assert run_together([WORKER, str(tmp_path), "2", str(HERE / "horovod_stand_in")], places) == 0
    check_as_one(tmp_path, alone)


def test_running_statistics_are_the_mean_of_the_processes() -> None:
    """Of two processes that are one: the sum of two equal parts is twice a part."""
    runner = StepRunner(network("resnet"), 0.9, 0.0)
    runner.workers = Workers(1, 2, lambda vector: 2 * vector + 2)
    before = runner.model.parts["bn1"].moving_mean.numpy()
    weight = runner.model.parts["conv1"].kernel.numpy()
    runner.even_out()
    assert np.allclose(runner.model.parts["bn1"].moving_mean.numpy(), before + 1)
    assert np.array_equal(runner.model.parts["conv1"].kernel.numpy(), weight)


def test_sums_are_one_message_a_dtype_and_keep_their_shapes() -> None:
    messages = []
    workers = Workers(0, 2, lambda vector: messages.append(vector) or 2 * vector)
    given = [np.float32(1.5), np.ones((2, 3), np.float32), np.int64(4), np.ones(2, np.float64)]
    for value, found in zip(given, workers.add_up(given), strict=True):
        assert np.array_equal(found, 2 * value)
        assert found.dtype == np.asarray(value).dtype
        assert found.shape == np.asarray(value).shape
    assert len(messages) == 3


def test_what_cannot_be_joined_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ImportError, match=r"HOROVOD_WITH_TENSORFLOW=1 pip install 'horovod\[tensorflow\]'"):
        join_workers(TrainingOptions(horovod=True))
    cluster = {"cluster": {"worker": ["127.0.0.1:1", "127.0.0.1:2"]}, "task": {"type": "worker", "index": 1}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(cluster))
    with pytest.raises(RefusedOptionError, match="TF_CONFIG joins these processes"):
        join_workers(TrainingOptions(horovod=True))
    with pytest.raises(RefusedOptionError, match="less than one input"):
        join_workers(TrainingOptions(batch_size=1))
    monkeypatch.delenv("TF_CONFIG")
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "x"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    with pytest.raises(RefusedOptionError, match=r"python -m tf_models\.launch"):
        join_workers(TrainingOptions())
    with pytest.raises(SystemExit, match="2"):
        main(["--workers", "0", "demo.py"])


def test_the_command_says_what_horovod_needs(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.syspath_prepend(str(HERE.parents[1]))
    import demo

    assert demo.main(["--framework", "tensorflow", "--data", "digits", "--horovod", "True"]) == 1
    assert "--horovod True needs horovod: pip install 'horovod[tensorflow]'" in capsys.readouterr().err


def test_processes_are_joined_before_tensorflow_is_used() -> None:
    cluster = {"cluster": {"worker": ["127.0.0.1:1", "127.0.0.1:2"]}, "task": {"type": "worker", "index": 1}}
    code = (
        "import tensorflow as tf; tf.zeros(1); import tf_models; from zoo.options import *\n"
        "try: tf_models.join_workers(TrainingOptions(device='cpu'))\n"
        "except RefusedOptionError as error: print(error)"
    )
    environment = {**os.environ, "TF_CONFIG": json.dumps(cluster), "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=HERE.parents[1], env=environment, capture_output=True, text=True, timeout=120
    )
    assert "then build the model, then train(..., workers=workers)" in done.stdout, done.stderr


def test_launchers_are_told_apart() -> None:
    def told(**variables: str) -> Launch:
        return Launch.from_environment(variables)

    cluster = {"chief": ["a:1"], "worker": ["a:2", "b:1"]}
    second = told(TF_CONFIG=json.dumps({"cluster": cluster, "task": {"type": "worker", "index": 0}}))
    assert second == Launch(1, 3, 1, 0, True, 2, "tensorflow")
    assert (
        told(TF_CONFIG=json.dumps({"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}})) == Launch()
    )
    assert told(HOROVOD_RANK="1", HOROVOD_SIZE="2", HOROVOD_LOCAL_RANK="0") == Launch(1, 2, 0, 0, True, 1, "horovod")
    assert told(OMPI_COMM_WORLD_RANK="0", OMPI_COMM_WORLD_SIZE="1") == Launch()
    for wrong in ("{", '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "evaluator", "index": 0}}'):
        with pytest.raises(ValueError, match="TF_CONFIG must be like"):
            told(TF_CONFIG=wrong)
