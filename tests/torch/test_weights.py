"""Weights in and out of files: safetensors and torch's own, strictly but for a head of another number of classes."""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_densenet import TINY, images
from torch import nn

import zoo
from pytorch_models import DenseNet, build_model, load_weights, save_weights
from pytorch_models.weights import canonical_weights
from zoo import weights
from zoo.weights import HeadResizedWarning, WeightsError

# Made by building each of torchvision's models and hashing its state_dict's names and shapes.
PUBLISHED = {
    name: (int(count), digest)
    for name, count, digest in (
        line.split() for line in Path(__file__).with_name("torchvision_keys.txt").read_text().splitlines()[1:]
    )
}
OURS = sorted(set(PUBLISHED) & set(zoo.list_models()))


def trained(seed: int = 0, **shape: Any) -> DenseNet:
    """A model whose every parameter and statistic differs from a new one's."""
    torch.manual_seed(seed)
    model = DenseNet(**{**TINY, **shape})
    with torch.no_grad():
        for tensor in (*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())):
            tensor.add_(torch.rand_like(tensor))
    return model


def same(one: nn.Module, other: nn.Module, but: str = "no name") -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().values(), strict=True)
    return all(torch.equal(value, twin) for (name, value), twin in pairs if not name.startswith(but))


@pytest.mark.quick
@pytest.mark.parametrize("efficient", [False, True])
@pytest.mark.parametrize("name", OURS)
def test_names_and_shapes_are_torchvisions(name: str, efficient: bool) -> None:
    with torch.device("meta"):
        state = zoo.create_model(name, efficient=efficient).state_dict()
    lines = [f"{key} {tuple(value.shape)}" for key, value in state.items()]
    assert (len(lines), hashlib.sha256("\n".join(lines).encode()).hexdigest()) == PUBLISHED[name]


def test_the_families_torchvision_has_are_compared() -> None:
    assert {"densenet121", "densenet161", "densenet169", "densenet201"} <= set(OURS)


@pytest.mark.quick
@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_a_round_trip_changes_no_bit(tmp_path: Path, suffix: str, dtype: torch.dtype) -> None:
    source, target = trained().to(dtype), DenseNet(**TINY, efficient=True).to(dtype)
    save_weights(source, tmp_path / f"w{suffix}")
    load_weights(target, tmp_path / f"w{suffix}")
    assert same(target, source)
    assert next(target.parameters()).dtype == dtype
    assert [path.name for path in tmp_path.iterdir()] == [f"w{suffix}"]


def test_safetensors_are_read_without_a_framework(tmp_path: Path) -> None:
    model = trained()
    save_weights(model, tmp_path / "w.safetensors")
    arrays, network = weights.read(tmp_path / "w.safetensors")
    assert arrays.keys() == model.state_dict().keys()
    assert all(np.array_equal(arrays[name], value.numpy()) for name, value in model.state_dict().items())
    assert network is not None
    assert (network["family"], network["flavour"], network["growth_rate"]) == ("densenet", "torchvision", 4)
    weights.write(tmp_path / "again.safetensors", arrays, model.spec)
    load_weights(twin := DenseNet(**TINY), tmp_path / "again.safetensors")
    assert same(twin, model)


def test_files_of_the_safetensors_library(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = trained()
    save_file(model.bfloat16().state_dict(), tmp_path / "theirs.safetensors")
    load_weights(twin := DenseNet(**TINY), tmp_path / "theirs.safetensors")
    assert same(twin.bfloat16(), model)
    save_weights(model.float(), tmp_path / "ours.safetensors")
    assert same_tensors(load_file(tmp_path / "ours.safetensors"), model.state_dict())


def same_tensors(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.quick
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("where", [None, "state_dict", "model"])
def test_wrapped_and_nested_checkpoints(tmp_path: Path, prefix: str, where: str | None) -> None:
    model = trained()
    state: dict[str, Any] = {prefix + name: value for name, value in model.state_dict().items()}
    torch.save({where: state, "epoch": 3} if where else state, tmp_path / "theirs.pth")
    load_weights(twin := DenseNet(**TINY), tmp_path / "theirs.pth")
    assert same(twin, model)


def test_a_wrapped_model_is_saved_under_its_own_names(tmp_path: Path) -> None:
    model = trained()
    for suffix in (".safetensors", ".pth"):
        save_weights(torch.compile(model), tmp_path / f"w{suffix}")
        load_weights(twin := DenseNet(**TINY), tmp_path / f"w{suffix}")
        assert same(twin, model)
    assert weights.read(tmp_path / "w.safetensors")[1] is not None


def test_old_files_without_counters_of_batches(tmp_path: Path) -> None:
    model = trained()
    state = {name: value for name, value in model.state_dict().items() if "num_batches" not in name}
    torch.save(state, tmp_path / "old.pth")
    load_weights(twin := DenseNet(**TINY), tmp_path / "old.pth")
    assert same(twin, model)


@pytest.mark.quick
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_head_for_other_classes_is_left_out_and_named(tmp_path: Path, suffix: str) -> None:
    source, path = trained(num_classes=9), tmp_path / f"w{suffix}"
    save_weights(source, path)
    torch.manual_seed(4)
    model = DenseNet(**TINY)
    head = model.classifier.weight.clone()
    with pytest.warns(HeadResizedWarning, match=r"classifier was not loaded: .* 9 classes, the model has 5.*afresh"):
        load_weights(model, path)
    assert torch.equal(model.classifier.weight, head)
    assert same(model, source, but="classifier")
    with pytest.raises(WeightsError, match=r"classifier\.weight has the shape \(9, 17\), the model's is \(5, 17\)"):
        load_weights(model, path, resize_head=False)
    with pytest.raises(RuntimeError, match=r"classifier here is for 5 classes, there for 9: .*load_weights"):
        model.load_state_dict(source.state_dict())


def test_anything_else_that_differs_is_refused(tmp_path: Path) -> None:
    state = trained().state_dict()
    before = canonical_weights(model := DenseNet(**TINY))
    renamed = {name.replace("norm5.weight", "norm5.weigth"): value for name, value in state.items()}
    wider = {**state, "features.conv0.weight": torch.zeros(7, 3, 3, 3)}
    narrower = {**state, "classifier.weight": torch.zeros(9, 16), "classifier.bias": torch.zeros(9)}
    for content, words in (
        (narrower, r"classifier\.weight has the shape \(9, 16\), the model's is \(5, 17\)"),
        (renamed, r"features\.norm5\.weight is missing; .*did you mean features\.norm5\.weight"),
        (wider, r"features\.conv0\.weight has the shape \(7, 3, 3, 3\), the model's is \(6, 3, 3, 3\)"),
        ({**state, "fc.bias": torch.zeros(3)}, r"fc\.bias is not one of the model's"),
        ({"epoch": 3}, r"holds no state_dict, but entries epoch"),
    ):
        torch.save(content, tmp_path / "w.pth")
        with pytest.raises(WeightsError, match=words):
            load_weights(model, tmp_path / "w.pth")
    assert all(np.array_equal(value, before[name]) for name, value in canonical_weights(model).items())


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_files_that_cannot_be_read(tmp_path: Path, suffix: str) -> None:
    model, path = DenseNet(**TINY), tmp_path / f"w{suffix}"
    with pytest.raises(FileNotFoundError, match=rf"load_weights: .*w{suffix} does not exist: give a file"):
        load_weights(model, path)
    save_weights(model, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match=r"w\.\w+ (is not a whole safetensors file|cannot be read as weights)"):
        load_weights(model, path)


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save(DenseNet(**TINY), tmp_path / "whole.pth")
    with pytest.raises(WeightsError, match="cannot be read as weights: Weights only load failed"):
        load_weights(DenseNet(**TINY), tmp_path / "whole.pth")


def test_weights_of_another_flavour_or_family_are_refused(tmp_path: Path) -> None:
    save_weights(trained(flavour="keras"), tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match="of the flavour 'keras', the model is of the flavour 'torchvision'"):
        load_weights(DenseNet(**TINY), tmp_path / "w.safetensors")


def test_a_missing_safetensors_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "installed_version", lambda name: None)
    for act in (lambda: save_weights(trained(), tmp_path / "w.safetensors"), lambda: weights.read(tmp_path / "w")):
        with pytest.raises(ImportError, match="safetensors is not installed: pip install safetensors"):
            act()


def test_an_unknown_dtype_is_named(tmp_path: Path) -> None:
    header = json.dumps({"x": {"dtype": "F8_E5M2", "shape": [2], "data_offsets": [0, 2]}}).encode()
    (tmp_path / "w.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0")
    with pytest.raises(WeightsError, match="x has the dtype F8_E5M2"):
        weights.read(tmp_path / "w.safetensors")


@pytest.mark.quick
def test_create_model_loads_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    config = zoo.find_config("densenet_bc_40_12", block_config=(2, 2), growth_rate=4, num_init_features=8)
    save_weights(source := build_model(config), path)
    shape = {"block_config": (2, 2), "growth_rate": 4, "num_init_features": 8}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = zoo.create_model("densenet_bc_40_12", checkpoint_path=path, efficient=True, **shape)
    assert same(model, source)
    with pytest.warns(HeadResizedWarning, match="has 3"):
        model = zoo.create_model("densenet_bc_40_12", checkpoint_path=str(path), num_classes=3, **shape)
    assert model(images().float()).shape == (5, 3)
    with pytest.raises(FileNotFoundError, match="checkpoint_path: there is no file"):
        zoo.create_model("densenet_bc_40_12", checkpoint_path=tmp_path / "none.pth")


@pytest.mark.parametrize("network", ["{", "3", "[1]", "null", ""])
def test_what_others_say_of_a_network_is_not_looked_at(tmp_path: Path, network: str) -> None:
    from safetensors.torch import save_file

    source, target = trained(), DenseNet(**TINY)
    save_file(source.state_dict(), tmp_path / "w.safetensors", metadata={"network": network})
    load_weights(target, tmp_path / "w.safetensors")
    assert same_tensors(source.state_dict(), target.state_dict())


def test_one_parameter_under_two_names_is_refused(tmp_path: Path) -> None:
    state = trained().state_dict()
    torch.save(state | {"module.classifier.bias": state["classifier.bias"] + 1}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"classifier\.bias and module\.classifier\.bias are names of one and the"):
        load_weights(DenseNet(**TINY), tmp_path / "w.pth")


def test_a_suffix_that_tells_no_format_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    model = DenseNet(**TINY)
    for name in ("w.npz", "w.safetensor", "w"):
        with pytest.raises(ValueError, match=rf"{name} must end with .*\.pth.* or \.safetensors"):
            save_weights(model, tmp_path / name)
    assert not list(tmp_path.iterdir())
    save_weights(model, tmp_path / "w.pth")
    with pytest.raises(FileNotFoundError, match=r"v\.pth does not exist; there are w\.pth: give"):
        load_weights(model, tmp_path / "v.pth")
    with pytest.raises(FileNotFoundError, match=r"is a folder, not a file; there are w\.pth"):
        load_weights(model, tmp_path)
