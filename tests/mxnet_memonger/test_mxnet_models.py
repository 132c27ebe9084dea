"""The zoo's networks as Symbols: the published shapes, planned = unplanned to the bit, and PyTorch's outputs."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
from mxnet_networks import assert_same_bits, mx

import mxnet_memonger
import zoo
from mxnet_memonger import LSTM, DenseNet, MobileNetV2, ResNet, build_model, measure_step
from mxnet_memonger.step import StepRunner
from mxnet_memonger.weights import canonical_weights, load_weights, save_weights, set_canonical_weights
from zoo.__main__ import main
from zoo.densenet import VARIANTS as DENSENETS
from zoo.frameworks import FRAMEWORKS, why_missing
from zoo.mobilenet_v2 import VARIANTS as MOBILENETS
from zoo.options import TrainingError
from zoo.policy import MemoryPolicy, PolicyNotOfferedError
from zoo.resnet import VARIANTS as RESNETS
from zoo.weights import HeadResizedWarning, WeightsError

SHAPE = (4, 3, 32, 32)
SMALL: dict[str, tuple[Any, dict[str, Any]]] = {
    "DenseNet": (DenseNet, {"growth_rate": 12, "block_config": (4, 4), "drop_rate": 0.2}),
    "DenseNet of blocks": (DenseNet, {"growth_rate": 16, "block_config": (4, 3), "num_init_features": 32}),
    "DenseNet without bottlenecks": (DenseNet, {"growth_rate": 8, "block_config": (3, 3), "bn_size": 0}),
    "ResNet": (ResNet, {"layers": (2, 2), "width": 8}),
    "ResNet, padded": (ResNet, {"layers": (2, 2), "width": 8, "shortcut": "padding"}),
    "ResNet, bottlenecks": (ResNet, {"block": "bottleneck", "layers": (2, 2), "width": 8}),
    "ResNet, pre-activation": (ResNet, {"layers": (2, 2), "width": 8, "pre_activation": True}),
    "MobileNetV2": (MobileNetV2, {"width_mult": 0.35, "num_classes": 10}),
}


# Its channels fill no blocks of 16: MKL-DNN chooses how to compute by how a recomputed array happens to lie.
ROUNDED = ("DenseNet",)


def assert_same_numbers(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert np.abs(found[name] - array).max() <= 1e-5 * np.abs(array).max(), name


def step(model: Any, seed: int = 1) -> dict[str, np.ndarray]:
    """Probabilities, gradients and running statistics after one training step."""
    draw = np.random.default_rng(0)
    runner = StepRunner(model, mx.cpu())
    mxnet_memonger.set_seed(seed)
    images = draw.standard_normal(SHAPE).astype(np.float32)
    found = {"output 0": runner.train(images, np.arange(SHAPE[0]) % 10)[0].asnumpy()}
    found |= {f"gradient {name}": array.asnumpy() for name, array in runner.gradients.items()}
    mx.nd.waitall()
    states = model.symbol.list_auxiliary_states()
    return found | {f"state {name}": model.arrays[name].asnumpy() for name in states}


@pytest.mark.parametrize("name", SMALL)
def test_efficient_gives_the_same_bits_in_fewer_bytes(name: str) -> None:
    kind, fields = SMALL[name]
    plain, efficient = kind(**fields), kind(**fields, efficient=True)
    efficient.set_arrays(canonical_weights(plain))
    if name in ROUNDED:
        assert_same_numbers(step(efficient), step(plain))
    else:
        assert_same_bits(step(efficient), step(plain))
    reports = [measure_step(model, SHAPE, repeats=0) for model in (plain, efficient)]
    assert reports[1].saved_bytes < 0.5 * reports[0].saved_bytes
    assert reports[1].peak_bytes < 0.85 * reports[0].peak_bytes
    assert str(reports[1].policy) == "efficient"


def test_keeping_bottlenecks_does_less_again_in_more_bytes() -> None:
    shape = (8, 3, 32, 32)
    fields = {"block": "bottleneck", "layers": (3, 3), "width": 16}
    sizes = [
        measure_step(ResNet(**fields, **flags), shape, repeats=0).peak_bytes
        for flags in ({}, {"efficient": True, "keep_bottleneck": True}, {"efficient": True})
    ]
    assert sizes[2] < sizes[1] < sizes[0]


@pytest.mark.parametrize("variants", [DENSENETS, RESNETS, MOBILENETS], ids=["densenet", "resnet", "mobilenet_v2"])
def test_every_variant_has_the_published_parameters(variants: Any) -> None:
    """Counted from inferred shapes: nothing is allocated."""
    for name, config in variants.items():
        if config.count_parameters() > 30e6 or "1001" in name:
            continue
        symbol = symbol_of(config)
        shapes, _, _ = symbol.infer_shape(data=(2, 3, config.image_size, config.image_size))
        total = sum(int(np.prod(shape)) for shape in shapes) - 2 * 3 * config.image_size**2
        assert total == config.count_parameters(), name


def symbol_of(config: Any) -> Any:
    family = type(config).__name__.removesuffix("Config")
    module = {"DenseNet": "densenet", "ResNet": "resnet", "MobileNetV2": "mobilenet_v2"}[family]
    return getattr(importlib.import_module(f"mxnet_memonger.{module}"), f"{module}_symbol")(config)


@pytest.mark.skipif(why_missing(FRAMEWORKS["torch"]) is not None, reason="PyTorch is not installed")
@pytest.mark.parametrize("name", SMALL)
def test_weights_of_pytorch_give_the_same_outputs(name: str) -> None:
    torch = pytest.importorskip("torch")
    import pytorch_models

    kind, fields = SMALL[name]
    model = kind(**fields)
    twin = getattr(pytorch_models, kind.__name__)(**vars(model.spec))
    torch.manual_seed(0)
    for buffer_name, buffer in twin.named_buffers():
        if "running" in buffer_name:
            buffer.copy_(torch.rand_like(buffer) + 0.5)
    set_canonical_weights(model, {key: value.numpy() for key, value in twin.state_dict().items()})
    images = np.random.default_rng(2).standard_normal(SHAPE).astype(np.float32)
    with torch.no_grad():
        expected = twin.eval()(torch.from_numpy(images)).numpy()
    found = model.predict(images).asnumpy()
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_weights_go_through_files(tmp_path: Any, suffix: str) -> None:
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    one, other = ResNet(layers=(1, 1), width=4), ResNet(layers=(1, 1), width=4)
    path = tmp_path / f"weights{suffix}"
    save_weights(one, path)
    load_weights(other, path)
    before, after = canonical_weights(one), canonical_weights(other)
    assert all(np.array_equal(after[name], before[name]) for name in before)
    with pytest.raises(WeightsError, match=r"not the model's weights: layer1\.1\.conv1\.weight is missing"):
        load_weights(ResNet(layers=(2, 1), width=4), path)
    with pytest.warns(HeadResizedWarning, match="fc was not loaded"):
        load_weights(ResNet(layers=(1, 1), width=4, num_classes=3), path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises((TrainingError, WeightsError), match=r"cannot be read|not a whole"):
        load_weights(other, path)


def test_a_symbol_trains_in_a_module_by_itself() -> None:
    """Its Variables say how they are initialised; `Module.fit` needs no more than the Symbol."""
    sym = ResNet(layers=(1, 1), width=8, efficient=True).for_training((8, 3, 16, 16))
    draw = np.random.default_rng(0)
    labels = np.arange(32) % 2
    images = draw.standard_normal((32, 3, 16, 16)) * 0.1 + labels[:, None, None, None]
    module = mx.mod.Module(sym)
    batches = mx.io.NDArrayIter(images.astype(np.float32), labels.astype(np.float32), batch_size=8)
    module.fit(batches, num_epoch=4, optimizer="sgd", optimizer_params={"learning_rate": 0.05}, eval_metric="acc")
    assert dict(module.score(batches, "acc"))["accuracy"] > 0.9
    assert float(module.get_params()[0]["bn1.weight"].asnumpy().mean()) == pytest.approx(1, abs=0.3)


def test_the_front_of_zoo_reaches_mxnet() -> None:
    model = zoo.create_model("densenet_bc_40_12", "mxnet", efficient=True)
    assert model.policy == MemoryPolicy(efficient=True)
    report = zoo.measure("densenet_bc_40_12", framework="mxnet", batch_size=2, efficient=True)
    assert report.step_seconds is not None
    assert report.parts["parameter gradients"] == 4 * model.spec.count_parameters()


def test_a_comparison_leaves_out_what_mxnet_does_not_offer(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["measure", "lstm_row_mnist", "--framework", "mxnet", "--batch_size", "2"]
    assert main([*command, "--compare", "True"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("not in the comparison: compressed=2")
    assert [line.split()[0] for line in lines if line.startswith(("plain", "efficient"))] == ["plain", "efficient"]


def test_what_mxnet_does_not_offer_is_refused() -> None:
    with pytest.raises(PolicyNotOfferedError, match="opt_memory=3"):
        DenseNet(opt_memory=3)
    with pytest.raises(PolicyNotOfferedError, match="compressed=4"):
        LSTM(compressed=4)
    with pytest.raises(PolicyNotOfferedError, match="compressed=L3: MXNet has no schemes"):
        ResNet(compressed="L3")
    with pytest.raises(ValueError, match="features_only=True: mxnet offers no feature maps"):
        zoo.create_model("resnet20", "mxnet", features_only=True)
    with pytest.raises(TypeError, match="no model in MXNet for a int"):
        build_model(3)
    with pytest.raises(TypeError, match="a model of mxnet_memonger"):
        measure_step(mx.sym.Variable("data"), SHAPE)
    with pytest.raises(ValueError, match="amp=True"):
        mxnet_memonger.check_device("cpu", amp=True)
    with pytest.raises(ValueError, match=r"built without CUDA|sees"):
        mxnet_memonger.check_device("cuda:7")
    with pytest.raises(ValueError, match="device must be auto, cpu, cuda or"):
        mxnet_memonger.check_device("gpu")
