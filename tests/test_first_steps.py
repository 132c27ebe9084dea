"""What newcomers do first and get wrong: refused in one sentence before work begins, or done as they expect."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import demo
import zoo
from zoo import weight_files
from zoo.__main__ import main
from zoo.atomic_write import atomic_write
from zoo.options import TrainingError
from zoo.weights import WeightsError


@pytest.mark.quick
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["plan", "resnet20", "0.5", "--times", "measure"], "did you mean measured"),
        (["plan", "resnet20", "0.5", "--allow", "compres"], "did you mean compress"),
        (["plan", "resnet20", "0.5", "--save", "{file}/plan.json"], "--save {file}: nothing can be written there"),
        (["plan", "resnet20", "0.5", "--save", "{folder}"], "--save {folder} is a folder: give the name of a file"),
        (["plan", "resnet20", "0.5", "--html", "{file}/plan.html"], "--html {file}: nothing can be written there"),
        (["plan", "resnet20", "0.5", "--pictures", "{file}"], "--pictures {file}: nothing can be written there"),
        (["support", "--save", "{file}/support.md"], "--save {file}: nothing can be written there"),
    ],
)
def test_mistakes_are_found_before_a_framework_is_loaded(
    words: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(zoo.frameworks, "load", lambda name: pytest.fail(f"{name} was loaded"))
    file = tmp_path / "file"
    file.touch()
    places = {"file": file, "folder": tmp_path}
    assert main([word.format(**places) for word in words]) == 2
    said = capsys.readouterr().err
    assert message.format(**places) in said
    assert len(said.splitlines()) == 1


@pytest.mark.quick
def test_the_first_error_of_a_write_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(path: Path, missing_ok: bool = False) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", read_only)
    with pytest.raises(RuntimeError, match="the first"), atomic_write(tmp_path / "file"):
        raise RuntimeError("the first")


@pytest.mark.quick
def test_a_framework_by_another_name() -> None:
    with pytest.raises(ValueError, match=r"unknown framework 'keras'.*\(keras is tensorflow here\)"):
        zoo.create_model("resnet20", "keras")


@pytest.mark.quick
def test_a_file_of_weights_of_another_library_is_refused_with_a_way(tmp_path: Path) -> None:
    needed = {"fc.weight": (2, 2)}
    (tmp_path / "weights.pth").touch()
    with pytest.raises(WeightsError, match=r"needed is a \.npz or \.safetensors file"):
        weight_files.load(tmp_path / "weights.pth", needed, None, "fc")
    with pytest.raises(FileNotFoundError):
        weight_files.load(tmp_path / "missing.pth", needed, None, "fc")
    np.savez(tmp_path / "arrays.npz", fc=np.zeros(2))
    assert list(weight_files.load_arrays(tmp_path / "arrays.npz")) == ["fc"]
    with zipfile.ZipFile(tmp_path / "other.npz", "w") as file:
        file.writestr("data.pkl", b"no array")
    with pytest.raises(TrainingError, match=r"'data\.pkl' in it is no array"):
        weight_files.load_arrays(tmp_path / "other.npz")


@pytest.mark.quick
def test_a_run_is_loaded_where_it_was_trained(tmp_path: Path) -> None:
    from zoo.densenet import VARIANTS
    from zoo.saved_run import describe_network

    network = describe_network(VARIANTS["densenet_bc_40_12"])
    (tmp_path / "config.json").write_text(json.dumps({"flags": {"framework": "tensorflow"}, "network": network}))
    with pytest.raises(ValueError, match="was trained with framework=tensorflow, not torch: leave framework out"):
        zoo.load_run(tmp_path, "torch")


def test_cuda_graphs_without_a_gpu_are_refused_before_data_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert demo.main(["--data", "cifar10", "--cuda_graphs", "True"]) == 2
    said = capsys.readouterr()
    assert "cuda_graphs=True needs a GPU: leave it out" in said.err
    assert said.out == ""


def test_any_network_is_measured() -> None:
    torch = pytest.importorskip("torch")
    pictures = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 2, 1))
    report = zoo.measure(pictures, batch_size=2, image_size=8)  # a map of scores, as of a U-Net
    assert report.saved_bytes == 4 * 2 * 36 * (4 + 2)  # what ReLU gives, and the map for the loss
    frozen = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3)).requires_grad_(False)
    with pytest.raises(ValueError, match="is anything in it trained"):
        zoo.measure(frozen, batch_size=2, image_size=4)


def test_a_compressed_model_is_called_so_and_a_saving_one_is_not_converted() -> None:
    torch = pytest.importorskip("torch")
    from pytorch_models import measure_step
    from pytorch_models.compressed import compress

    model = compress(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()), "L2")
    assert measure_step(model, (2, 3, 8, 8), repeats=0, execute=False).policy == "compressed L2"
    tiny = {"layers": (1, 1), "width": 4}
    for flags in ({"efficient": True}, {"compressed": 2}):
        saving = zoo.create_model("resnet20", **tiny, **flags)
        with pytest.raises(ValueError, match="saves memory its own way"):
            compress(saving, "L2")
        compress(saving, "gact:4")  # hooks leave alone what the model's own Functions keep


def test_measuring_follows_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    class Loaded(Exception):
        pass

    def load(name: str) -> None:
        raise Loaded(name)

    monkeypatch.setattr(zoo.frameworks, "framework_of", lambda model: "tensorflow")
    monkeypatch.setattr(zoo.frameworks, "load", load)
    with pytest.raises(Loaded, match="tensorflow"):
        zoo.measure(object(), batch_size=2, image_size=8)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("shape", "budget", "message"),
    [(32, "40MB", r"as \(3, 32, 32\), not 32"), ((3, 32, 32), 0.5, "a share of which batch's bytes")],
)
def test_the_largest_batch_is_asked_for_with_a_shape_and_bytes(shape: Any, budget: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        zoo.max_batch(object(), shape, budget)


@pytest.mark.quick
def test_channels_last_is_told_apart() -> None:
    class Images:
        spec = zoo.find_config("resnet20")

    needed = r"channels first here, in every framework: give \(1, 3, 24, 16\), or of one sample \(3, 24, 16\)"
    with pytest.raises(ValueError, match=needed):
        zoo.max_batch(Images(), (24, 16, 3), "40MB", framework="torch")
    with pytest.raises(ValueError, match=r"give \(2, 3, 24, 16\)"):
        zoo.plan(Images(), (2, 24, 16, 3), budget=0.5, framework="torch")


def test_a_printed_model_tells_its_flags() -> None:
    pytest.importorskip("torch")
    tiny = {"layers": (1, 1), "width": 4}
    plain, saving = (str(zoo.create_model("resnet20", **tiny, efficient=efficient)) for efficient in (False, True))
    assert plain == saving.replace("  efficient\n", "") != saving
