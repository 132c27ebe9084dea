"""The training command where it cannot go on: nobody reads, the disk or memory is full, nothing is left to do."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'memory-efficient-zoo[torch]'")
pytest.importorskip("fire", reason="fire is not installed: pip install 'memory-efficient-zoo[demo]'")
pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'memory-efficient-zoo[demo]'")

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import demo  # noqa: E402
import zoo  # noqa: E402

TINY = ("--data", "digits", "--depth", "10", "--growth_rate", "4", "--valid_size", "1300", "--device", "cpu")


def run(*line: str) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = demo.main([*line])
    return code, out.getvalue(), err.getvalue()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_nobody_reads_while_it_trains(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = [sys.executable, "demo.py", *TINY, "--n_epochs", "50", "--save", str(folder)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    assert any("1/50" in line for line in process.stdout)
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 141
    again = f"python demo.py --save {folder} --resume True"
    assert err == f"demo.py: stopped; go on from the last finished epoch with: {again}\n"
    assert len(list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))) >= 1
    assert (folder / "last.pt").exists()


def test_a_full_disk_while_it_trains(tmp_path: Path) -> None:
    """In small: no file may become longer than 20 kB."""
    program = (
        "import resource, signal, sys, demo; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)); sys.exit(demo.main(sys.argv[1:]))\n"
    )
    folder = tmp_path / "run"
    command = [sys.executable, "-c", program, *TINY, "--save", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert f"demo.py: no room for best.pt in {folder} (File too large); what was there before is intact" in done.stderr
    assert f"start it again with: python demo.py --save {folder} --resume True" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(contents(folder)) == ["config.json"]


def test_a_finished_run_is_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    assert run(*TINY, "--n_epochs", "1", "--save", str(folder))[0] == 0
    again = ("--save", str(folder), "--resume")
    before = contents(folder)
    with monkeypatch.context() as patch:
        patch.setattr("zoo.frameworks.load", lambda framework: pytest.fail("nothing is left to do"))
        code, out, err = run(*again)
    assert (code, err) == (0, "")
    assert out.startswith(f"done    {folder}: 1 of 1 epoch trained, nothing is left to do; test accuracy ")
    assert contents(folder) == before
    code, out, _ = run(*again, "--compare")  # that is left
    assert code == 0
    assert (folder / "memory.txt").read_text() in out
    assert run(*again, "--compare")[1].startswith("done ")
    (folder / "last.pt").unlink()
    code, _, err = run(*again)
    assert code == 2
    assert "holds 1 finished epoch, but not their checkpoint" in err


def test_what_a_framework_does_not_offer_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import pytorch_models

    def build_model(config: object, policy: object) -> object:
        raise ValueError("compressed=2: not offered")

    monkeypatch.setattr(pytorch_models, "build_model", build_model)
    assert run(*TINY, "--compressed", "2") == (2, "", "demo.py: compressed=2: not offered\n")


def test_a_comparison_that_does_not_fit_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pytorch_models

    folder, real, pictures = tmp_path / "run", pytorch_models.measure_step, []

    def measure_step(model: object, shape: tuple[int, ...], **how: object) -> object:
        pictures.append((folder / "training.png").exists())
        assert shape[0] == 142, "no larger than the training set"
        if str(model.policy) == "plain" and how.get("execute", True):  # type: ignore[attr-defined]
            raise MemoryError
        return real(model, shape, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(pytorch_models, "measure_step", measure_step)
    line = (*TINY, "--n_epochs", "1", "--batch_size", "400", "--compare", "--save", str(folder))
    code, out, err = run(*line)
    assert (code, err) == (0, "")
    assert "note    batch 400 is more than the 142 training images" in out
    assert pictures == [True] * 5
    told = [line for line in out.splitlines() if line.startswith("memory  plain is not in the comparison")]
    assert len(told) == 1
    assert "out of memory on cpu: a step of 142 images of 32 x 32 pixels needs " in told[0]
    assert "\nefficient, keep_bottleneck  " in out


def test_a_saved_run_gives_its_model(tmp_path: Path) -> None:
    import torch

    from pytorch_models import DenseNet

    folder = tmp_path / "run"
    shape = ("--bottleneck", "False", "--depth", "7", "--compression", "0.7", "--drop_rate", "0.1", "--efficient")
    assert run(*TINY[:2], *TINY[4:], *shape, "--n_epochs", "2", "--save", str(folder))[0] == 0
    network = json.loads((folder / "config.json").read_text())["network"]
    assert (network["family"], network["compression"], network["bn_size"]) == ("densenet", 0.7, 0)
    for epoch, file in (("best", "best.pt"), ("last", "last.pt")):
        model = zoo.load_run(folder, epoch=epoch)
        assert isinstance(model, DenseNet)
        assert (model.spec.block_config, model.spec.drop_rate, model.policy.efficient) == ((1, 1, 1), 0.1, True)
        saved = torch.load(folder / file, weights_only=True)
        saved = saved.get("model", saved)
        assert all(torch.equal(saved[name], value) for name, value in model.state_dict().items())
    with pytest.raises(ValueError, match="epoch must be one of best, last, not 'first'"):
        zoo.load_run(folder, epoch="first")


@pytest.mark.quick
def test_a_run_without_its_network_says_so(tmp_path: Path) -> None:
    from zoo.run_folder import RunFolderError

    with pytest.raises(RunFolderError, match=r"config\.json does not exist"):
        zoo.load_run(tmp_path)
    for network, words in ((None, "does not say which network"), ({"family": "gru"}, "no family 'gru'")):
        (tmp_path / "config.json").write_text(json.dumps({"flags": {}, "network": network}))
        with pytest.raises(RunFolderError, match=words):
            zoo.load_run(tmp_path)


@pytest.mark.quick
def test_what_is_said_when_no_epoch_was_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pytorch_models.training.Trainer", lambda *_: SimpleNamespace(run=interrupted))
    code, _, err = run(*TINY, "--save", str(tmp_path / "run"))
    again = f"python demo.py --save {tmp_path / 'run'} --resume True"
    assert (code, err) == (130, f"demo.py: stopped before the first epoch was finished; start it again with: {again}\n")
    assert run(*TINY)[2] == "demo.py: stopped; nothing was saved\n"
