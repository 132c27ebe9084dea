"""Several processes that torchrun starts train as one; one that is killed is started again and goes on exactly."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'memory-efficient-zoo[torch]'")

from small_run import REPOSITORY, SmallNet, small_data, small_options  # noqa: E402

from pytorch_models.devices import device_of, set_seed  # noqa: E402
from pytorch_models.distributed import train_distributed  # noqa: E402
from zoo.launch import VARIABLES, Launch  # noqa: E402
from zoo.run_folder import RunFolder  # noqa: E402

CLOCK = ("step_seconds", "images_per_second", "peak_bytes")
TWO_CPUS = (torch.device("cpu"), torch.device("cpu"))


def torchrun(*arguments: str, restarts: int = 0) -> subprocess.CompletedProcess[str]:
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*start, f"--max-restarts={restarts}", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=250)


def metrics(folder: Path) -> list[dict[str, str]]:
    rows = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
    return [{name: value for name, value in row.items() if name not in CLOCK} for row in rows]


@pytest.mark.slow
def test_a_killed_process_is_started_again_and_the_run_ends_with_the_same_numbers(tmp_path: Path) -> None:
    options = small_options(save=str(tmp_path / "whole"), valid_size=17)
    set_seed(0)
    model = SmallNet(drop_rate=0.2)
    whole = train_distributed(model, small_data(), options, TWO_CPUS, RunFolder.open(options.settings()))
    script = str(Path(__file__).with_name("small_launch.py"))
    done = torchrun(script, str(tmp_path / "killed"), "8", restarts=1)  # five steps an epoch: in the second epoch
    assert done.returncode == 0, done.stderr
    assert "round 1" in done.stdout, "it was not killed"
    assert done.stdout.count("resumed after epoch 1 of 3") == 1
    assert done.stdout.count("epoch 2/3") == 1
    assert metrics(tmp_path / "killed") == metrics(tmp_path / "whole")
    for name in ("best.pt", "last.pt"):
        one, two = (torch.load(tmp_path / run / name, weights_only=True) for run in ("killed", "whole"))
        one, two = (state.get("model", state) for state in (one, two))
        assert all(torch.equal(one[key], two[key]) for key in two)
    for rank in (0, 1):
        assert f"process {rank} tested {whole.test_loss:.6f}" in done.stdout
    config = json.loads((tmp_path / "killed" / "config.json").read_text())
    assert config["flags"]["resume"] is False


def test_the_demo_speaks_and_writes_once(tmp_path: Path) -> None:
    shape = ["--depth", "10", "--growth_rate", "4", "--efficient", "True"]
    recipe = ["--data", "digits", "--n_epochs", "1", "--batch_size", "512", "--device", "cpu"]
    done = torchrun("demo.py", *shape, *recipe, "--save", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    lines = [line.split()[0] for line in done.stdout.splitlines()]
    assert lines == ["data", "model", "train", "epoch", "test", "saved"]
    assert [row["epoch"] for row in metrics(tmp_path / "run")] == ["1"]


@pytest.mark.quick
def test_the_launchers_variables() -> None:
    variables = dict(zip(VARIABLES, ("3", "4", "localhost", "29500"), strict=True))
    assert Launch.from_environment({}) == Launch()
    assert Launch.from_environment({"RANK": "3", "WORLD_SIZE": "4"}) == Launch()  # a scheduler's, for another purpose
    assert Launch.from_environment(variables) == Launch(3, 4, 3, 0, launched=True, by="torchrun")
    elastic = {**variables, "LOCAL_RANK": "1", "TORCHELASTIC_RESTART_COUNT": "2"}
    assert Launch.from_environment(elastic) == Launch(3, 4, 1, 2, launched=True, by="torchrun")
    assert Launch.from_environment({**elastic, "GROUP_WORLD_SIZE": "2"}).machines == 2
    assert not Launch.from_environment(elastic).is_first
    with pytest.raises(ValueError, match="RANK must be a number, not 'one'"):
        Launch.from_environment({**variables, "RANK": "one"})
    with pytest.raises(ValueError, match="RANK=4 must be below WORLD_SIZE=4"):
        Launch.from_environment({**variables, "RANK": "4"})


@pytest.mark.quick
def test_only_a_run_that_was_started_again_goes_on(tmp_path: Path) -> None:
    again, first = Launch(restarts=1, launched=True), Launch(launched=True)
    RunFolder.open(small_options(save=str(tmp_path / "run")).settings())
    assert again.goes_on(tmp_path / "run")
    assert not first.goes_on(tmp_path / "run")
    assert not again.goes_on(tmp_path / "other")
    assert not again.goes_on(None)


@pytest.mark.quick
def test_the_device_of_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    launch = Launch(rank=5, world=8, local_rank=1, launched=True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of("auto", launch) == device_of("cpu", launch) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_of("auto", launch) == device_of("cuda", launch) == torch.device("cuda", 1)
    assert device_of("cuda:0", Launch(launched=True)) == torch.device("cuda", 0)
    with pytest.raises(ValueError, match="device=cuda:0 with 8 processes: give device=cuda"):
        device_of("cuda:0", launch)
    with pytest.raises(ValueError, match="process 2 of this machine has no GPU: 2 are visible"):
        device_of("cuda", Launch(2, 4, 2, launched=True))
