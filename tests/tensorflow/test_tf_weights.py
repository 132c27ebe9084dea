"""Weights between TensorFlow, PyTorch and files: same outputs, and what does not fit is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_networks import NETWORKS, network

from tf_models import load_weights, save_weights
from tf_models.tensorflow_names import tf
from tf_models.weights import canonical_weights
from zoo.weights import HeadResizedWarning, WeightsError


@pytest.mark.parametrize("name", list(NETWORKS))
def test_a_pytorch_models_weights_give_the_same_outputs(name: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    import pytorch_models

    kind, fields, shape = NETWORKS[name]
    torch.manual_seed(0)
    theirs = getattr(pytorch_models, kind.__name__)(**fields, num_classes=5)
    images = torch.randn(shape[0], shape[3], *shape[1:3])
    theirs.train()(images)  # moves running statistics
    theirs.eval()
    pytorch_models.save_weights(theirs, tmp_path / "w.safetensors")
    ours = network(name)
    load_weights(ours, tmp_path / "w.safetensors")
    with torch.no_grad():
        expected = theirs(images).numpy()
    found = ours(tf.constant(images.permute(0, 2, 3, 1).numpy()))
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
    save_weights(ours, tmp_path / "back.safetensors")
    again = getattr(pytorch_models, kind.__name__)(**fields, num_classes=5)
    pytorch_models.load_weights(again, tmp_path / "back.safetensors")
    with torch.no_grad():
        assert torch.equal(again.eval()(images), theirs(images))


def test_running_statistics_move_as_pytorchs(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    import pytorch_models

    kind, fields, shape = NETWORKS["resnet"]
    theirs = pytorch_models.ResNet(**fields, num_classes=5)
    ours = network("resnet", efficient=True)
    pytorch_models.save_weights(theirs, tmp_path / "w.safetensors")
    load_weights(ours, tmp_path / "w.safetensors")
    images = torch.randn(shape[0], shape[3], *shape[1:3])
    theirs.train()(images)
    ours(tf.constant(images.permute(0, 2, 3, 1).numpy()), training=True)
    expected = pytorch_models.weights.canonical_weights(theirs)
    for key, value in canonical_weights(ours).items():
        assert np.allclose(value, expected[key], rtol=1e-4, atol=1e-5), key
    assert kind is type(ours)


def test_a_head_for_other_classes_is_left_out_and_said(tmp_path: Path) -> None:
    save_weights(network("resnet"), tmp_path / "w.npz")
    other = network("resnet", num_classes=7)
    head = canonical_weights(other)["fc.weight"]
    with pytest.warns(HeadResizedWarning, match="fc was not loaded"):
        load_weights(other, tmp_path / "w.npz")
    assert np.array_equal(canonical_weights(other)["fc.weight"], head)
    with pytest.raises(WeightsError, match="fc"):
        load_weights(other, tmp_path / "w.npz", resize_head=False)


def refused(name: str, flavour: str) -> Any:
    return network(name, flavour=flavour)


def test_weights_of_another_network_or_flavour_are_refused(tmp_path: Path) -> None:
    save_weights(network("densenet"), tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match="flavour"):
        load_weights(refused("densenet", "keras"), tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match="family"):
        load_weights(network("resnet"), tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="must end with"):
        save_weights(network("resnet"), tmp_path / "w.h5")
    assert not (tmp_path / "w.h5").exists()
    for name in ("v.npz", "v.safetensors"):
        with pytest.raises(FileNotFoundError, match=rf"{name} does not exist.*: give a file"):
            load_weights(network("resnet"), tmp_path / name)


def test_bfloat16_is_written_as_float32(tmp_path: Path) -> None:
    model, other = network("resnet", dtype="bfloat16"), network("resnet", dtype="bfloat16")
    other.parts["fc"].kernel.assign(tf.zeros_like(other.parts["fc"].kernel))
    save_weights(model, tmp_path / "w.npz")
    load_weights(other, tmp_path / "w.npz")
    assert all(bool(tf.reduce_all(a == b)) for a, b in zip(model.variables, other.variables, strict=True))
