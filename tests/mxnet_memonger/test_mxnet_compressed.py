"""Codes in the place of activations: the forward pass to the bit, unbiased gradients, and the bytes that are kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from mxnet_networks import mx

import mxnet_memonger
from mxnet_memonger import DenseNet, MobileNetV2, ResNet, measure_step
from mxnet_memonger.coded_operators import normalised_gradient
from mxnet_memonger.step import StepRunner
from mxnet_memonger.weights import canonical_weights

SHAPE = (8, 3, 32, 32)
SMALL: dict[str, tuple[Any, dict[str, Any]]] = {
    "DenseNet": (DenseNet, {"growth_rate": 16, "block_config": (4, 3), "num_init_features": 32}),
    "DenseNet, padded": (DenseNet, {"growth_rate": 12, "block_config": (3, 3)}),
    "DenseNet, dropout": (DenseNet, {"growth_rate": 16, "block_config": (2, 2), "drop_rate": 0.2}),
    "DenseNet, images": (DenseNet, {"growth_rate": 16, "block_config": (2, 2), "small_inputs": False}),
    "ResNet": (ResNet, {"layers": (2, 2), "width": 16}),
    "ResNet, bottlenecks": (ResNet, {"block": "bottleneck", "layers": (2, 2), "width": 16}),
    "ResNet, pre-activation": (ResNet, {"layers": (2, 2), "width": 16, "pre_activation": True}),
    "ResNet, images": (ResNet, {"layers": (1, 1), "width": 16, "small_inputs": False, "num_classes": 10}),
    "MobileNetV2": (MobileNetV2, {"width_mult": 0.35, "num_classes": 10}),
}
# MKL-DNN chooses how to compute by how arrays happen to lie: docs/mxnet.md
ROUNDED = ("DenseNet, padded", "DenseNet, dropout", "DenseNet, images")


def step(model: Any, images: np.ndarray) -> dict[str, np.ndarray]:
    """Probabilities, gradients and running statistics after a training step; the model's own stay as they were."""
    before = {name: model.arrays[name].copy() for name in model.state_names}
    runner = StepRunner(model, mx.cpu())
    mxnet_memonger.set_seed(1)
    found = {"output": runner.train(images, np.arange(len(images)) % 10)[0].asnumpy()}
    mx.nd.waitall()
    found |= {f"gradient {name}": array.asnumpy() for name, array in runner.gradients.items()}
    found |= {f"state {name}": model.arrays[name].asnumpy() for name in model.state_names}
    for name, array in before.items():
        model.arrays[name][:] = array
    return found


def images(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def gradients(found: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([array.ravel() for name, array in found.items() if name.startswith("gradient")])


@pytest.mark.parametrize("name", SMALL)
def test_forward_stays_and_gradients_are_near(name: str) -> None:
    kind, fields = SMALL[name]
    plain, coded = kind(**fields), kind(**fields, compressed="fixed:16")
    coded.set_arrays(canonical_weights(plain))
    expected, found = step(plain, images()), step(coded, images())
    if name in ROUNDED:
        assert np.allclose(found["output"], expected["output"], rtol=1e-5, atol=1e-7)
    else:
        assert np.array_equal(found["output"], expected["output"])
    for key in expected:
        if key.startswith("state"):
            assert np.allclose(found[key], expected[key], rtol=1e-5, atol=1e-6), key
    one, other = gradients(found), gradients(expected)
    assert np.linalg.norm(one - other) <= 0.01 * np.linalg.norm(other)


def reports_of(name: str, *flags: dict[str, Any]) -> list[Any]:
    kind, fields = SMALL[name]
    return [measure_step(kind(**fields, **given), SHAPE, repeats=0) for given in flags]


def test_both_flags_hold_no_more_than_either() -> None:
    for name in ("ResNet, bottlenecks", "DenseNet, padded"):
        two, both, efficient = reports_of(
            name, {"compressed": 2}, {"compressed": 2, "efficient": True}, {"efficient": True}
        )
        assert both.saved_bytes <= min(two.saved_bytes, efficient.saved_bytes)


@pytest.mark.parametrize(("name", "share"), [("DenseNet", 0.05), ("ResNet, bottlenecks", 0.1), ("MobileNetV2", 0.12)])
def test_few_bytes_are_held_and_the_plan_shows_them(name: str, share: float) -> None:
    plain, two, eight = reports_of(name, {}, {"compressed": 2}, {"compressed": 8})
    assert two.saved_bytes < share * plain.saved_bytes
    assert two.saved_bytes < eight.saved_bytes < 0.4 * plain.saved_bytes
    assert two.peak_bytes < plain.peak_bytes


def test_a_channel_may_have_more_than_65535_values() -> None:
    zhat = np.random.default_rng(0).standard_normal((70, 2, 1000)).astype(np.float32)
    d_out, scale = np.roll(zhat, 1), np.ones(2, np.float32)
    found, d_weight, d_bias = normalised_gradient(d_out, zhat, scale, "identity", None)
    means = [array[:, None] / np.float32(zhat.size / 2) for array in (d_bias, d_weight)]
    assert found.dtype == np.float32
    assert np.allclose(found, d_out - means[0] - zhat * means[1], atol=1e-5)


def test_gradients_of_weights_are_unbiased() -> None:
    """One unit behind another: the mean over many roundings of the same values nears the exact gradient.

    Images that differ in their last bits are rounded anew.
    """
    fields: dict[str, Any] = {"layers": (1,), "width": 16}
    plain, coded = ResNet(**fields), ResNet(**fields, compressed=2)
    coded.set_arrays(canonical_weights(plain))
    shape, draws = (8, 3, 16, 16), 48
    given = images(shape)
    name = "gradient layer1.0.conv2.weight"
    exact = step(plain, given)[name].ravel()
    found = np.stack([step(coded, given * np.float32(1 + 1e-6 * draw))[name].ravel() for draw in range(draws)])
    error = (found.mean(0) - exact) / (found.std(0, ddof=1) / draws**0.5)
    assert found.std(0).min() > 0
    assert 0.8 < np.sqrt(np.mean(error**2)) < 1.2
    assert abs(error.mean()) < 4 / len(error) ** 0.5 + 0.05


def test_rounding_is_drawn_from_values_alone() -> None:
    """A run that is resumed rounds as the one that was not; MXNet's generator is left alone."""
    model = ResNet(layers=(1,), width=16, compressed=2)
    one, again = step(model, images()), step(model, images())
    assert all(np.array_equal(one[name], again[name]) for name in one)
    other = step(model, images() * np.float32(1 + 1e-6))
    assert not np.allclose(gradients(other), gradients(one), rtol=1e-3)


def test_a_norm_with_a_fixed_weight_and_one_alone() -> None:
    values = mx.sym.Convolution(mx.sym.Variable("data"), num_filter=16, kernel=(3, 3), name="a")
    values = mx.sym.BatchNorm(values, name="fixed")
    values = mx.sym.BatchNorm(values, fix_gamma=False, name="free")
    sym = mx.sym.SoftmaxOutput(mx.sym.FullyConnected(values, num_hidden=3, name="fc"), name="softmax")
    found = []
    for one in (sym, mxnet_memonger.compress(sym, "fixed:16")):
        shapes = dict(zip(one.list_arguments(), one.infer_shape(data=(4, 3, 8, 8))[0], strict=True))
        arguments = {}
        for name, shape in shapes.items():
            draw = np.random.default_rng(len(name.removesuffix(".value")))
            arguments[name] = mx.nd.array(draw.standard_normal(shape)) if "label" not in name else mx.nd.zeros(shape)
        asked = {n: "null" if n.endswith(".value") or n in ("data", "softmax_label") else "write" for n in arguments}
        states = [mx.nd.zeros((16,)) for _ in one.list_auxiliary_states()]
        grads = {name: mx.nd.zeros(shapes[name]) for name, kind in asked.items() if kind == "write"}
        executor = one.bind(mx.cpu(), args=arguments, args_grad=grads, grad_req=asked, aux_states=states)
        executor.forward(is_train=True)
        executor.backward()
        mx.nd.waitall()
        found.append({name: array.asnumpy() for name, array in grads.items()})
    assert not found[1]["fixed_gamma"].any()
    for name in ("a_weight", "free_gamma", "free_beta", "fc_weight"):
        assert np.abs(found[1][name] - found[0][name]).max() <= 2e-3 * np.abs(found[0][name]).max(), name


def test_training_with_codes_learns() -> None:
    from test_mxnet_training import options, small_data

    mxnet_memonger.set_seed(0)
    model = ResNet(layers=(1, 1), width=16, num_classes=2, compressed=4)
    assert mxnet_memonger.train(model, small_data(), options()).test_accuracy > 0.9


def test_module_fits_codes_without_twins() -> None:
    """Each parameter is one argument; gradients are those of the Symbol with twins, to the bit."""
    model = ResNet(layers=(1, 1), width=16, num_classes=2)
    shape = (8, 3, 16, 16)
    sym = model.with_loss(shape)
    coded = [mxnet_memonger.compress(sym, "4", twins=twins) for twins in (True, False)]
    assert coded[1].list_arguments() == sym.list_arguments()
    found = []
    for one in coded:
        arrays = {name: model.arrays[name].copy() for name in model.arrays}
        given = {name: arrays.get(name.removesuffix(".value")) for name in one.list_arguments()}
        given |= {"data": mx.nd.array(images(shape)), "softmax_label": mx.nd.array(np.arange(8) % 2)}
        grads = {name: mx.nd.zeros_like(arrays[name]) for name in model.parameter_names()}
        asked = {name: "write" if name in grads else "null" for name in given}
        states = {name: arrays[name] for name in one.list_auxiliary_states()}
        executor = one.bind(mx.cpu(), args=given, args_grad=grads, grad_req=asked, aux_states=states)
        executor.forward(is_train=True)
        executor.backward()
        mx.nd.waitall()
        found.append({name: array.asnumpy() for name, array in (*grads.items(), *states.items())})
    assert all(np.array_equal(found[1][name], found[0][name]) for name in found[0])
    module = mx.mod.Module(coded[1])
    labels = np.arange(32) % 2
    bright = images((32, *shape[1:])) * 0.1 + labels[:, None, None, None]
    batches = mx.io.NDArrayIter(bright.astype(np.float32), labels.astype(np.float32), batch_size=8)
    module.fit(batches, num_epoch=4, optimizer="sgd", optimizer_params={"learning_rate": 0.05}, eval_metric="acc")
    assert dict(module.score(batches, "acc"))["accuracy"] > 0.9


@pytest.mark.parametrize("wrong", ["3", "zero:4", "fixed:1", "L3", "gact:4"])
def test_codecs_that_do_not_suit_are_named(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"compressed|codec"):
        ResNet(layers=(1,), width=8, compressed=wrong)


def test_labels_of_another_number_are_not_spread_over_the_batch() -> None:
    runner = StepRunner(ResNet(layers=(1,), width=8), mx.cpu())
    with pytest.raises(ValueError, match=r"labels has the shape \(1,\)"):
        runner.train(images((4, 3, 8, 8)), np.zeros(1))


def test_an_argument_that_does_not_exist_is_named() -> None:
    with pytest.raises(TypeError, match=r"ResNet: unknown argument 'efficent': did you mean efficient\?"):
        ResNet(efficent=True)
