"""efficient=True in TensorFlow gives the plain model's numbers, in every mode and for every family."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from small_networks import NETWORKS, batch, largest_difference, network, one_step

from tf_models import LSTM, DenseNet, ResNet, build_model, measure_step
from tf_models.tensorflow_names import keras, tf
from zoo.densenet import DenseNetConfig
from zoo.policy import MemoryPolicy

MODES = dict.fromkeys(NETWORKS, ("graph",)) | {"densenet": ("eager", "graph", "xla"), "lstm": ("eager", "graph", "xla")}
MODES |= {"resnet of bottlenecks": ("graph",), "resnet": ("eager", "graph", "xla")}
CASES = [
    pytest.param(name, mode, marks=[pytest.mark.slow] * ((name, mode) == ("lstm", "xla")))
    for name, modes in MODES.items()
    for mode in modes
]


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_gradients_and_statistics_are_the_plain_models(name: str, mode: str) -> None:
    inputs, labels = batch(name)
    plain = one_step(network(name, dtype="float64"), inputs, labels, mode)
    found = one_step(network(name, dtype="float64", efficient=True), inputs, labels, mode)
    assert largest_difference(found, plain) < 1e-12


@pytest.mark.parametrize("name", ["densenet", "resnet of bottlenecks"])
def test_keep_bottleneck_is_exact_too(name: str) -> None:
    inputs, labels = batch(name)
    plain = one_step(network(name, dtype="float64"), inputs, labels, "graph")
    flags = {"efficient": True, "keep_bottleneck": True}
    assert largest_difference(one_step(network(name, dtype="float64", **flags), inputs, labels, "graph"), plain) < 1e-12


@pytest.mark.parametrize("name", ["densenet", "resnet of bottlenecks"])
def test_float32_is_as_near_to_the_truth_as_the_plain_model(name: str) -> None:
    exact = one_step(network(name, dtype="float64"), *batch(name), "graph")
    inputs, labels = batch(name, "float32")
    errors = []
    for efficient in (False, True):
        found = one_step(network(name, dtype="float32", efficient=efficient), inputs, labels, "graph")
        errors.append(np.sqrt(sum(((a - b) ** 2).sum() for a, b in zip(found, exact, strict=True))))
    assert errors[1] <= 1.2 * errors[0]


def test_channels_first_is_channels_last_under_xla() -> None:
    name = "resnet of bottlenecks"
    inputs, labels = batch(name)
    flags = {"dtype": "float64", "efficient": True}
    last = one_step(network(name, **flags), inputs, labels, "graph")
    turned = tf.transpose(inputs, [0, 3, 1, 2])
    first = one_step(network(name, data_format="channels_first", **flags), turned, labels, "xla")
    assert largest_difference(first, last) < 1e-12


def test_frozen_norms_use_their_running_statistics_and_do_not_move_them() -> None:
    inputs, labels = batch("densenet")
    results = []
    for efficient in (False, True):
        model = network("densenet", dtype="float64", efficient=efficient)
        for name, part in model.parts.items():
            part.trainable = "norm" not in name
        before = [one.numpy() for one in model.non_trainable_variables if "moving" in one.path]
        results.append(one_step(model, inputs, labels, "graph"))
        after = [one.numpy() for one in model.non_trainable_variables if "moving" in one.path]
        assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert largest_difference(results[1], results[0]) < 1e-12


def test_statistics_move_once_and_as_pytorchs() -> None:
    model = network("resnet", dtype="float64", efficient=True)
    inputs, labels = batch("resnet")
    values = model.parts["conv1"](inputs).numpy()
    one_step(model, inputs, labels, "graph")
    norm = model.parts["bn1"]
    assert np.allclose(norm.moving_mean.numpy(), 0.1 * values.mean((0, 1, 2)), rtol=1e-12)
    assert np.allclose(norm.moving_variance.numpy(), 0.9 + 0.1 * values.var((0, 1, 2), ddof=1), rtol=1e-12)


def test_evaluation_does_not_depend_on_the_flag() -> None:
    inputs, _ = batch("densenet")
    plain, efficient = (network("densenet", dtype="float64", efficient=flag)(inputs) for flag in (False, True))
    assert np.allclose(plain, efficient, rtol=1e-12, atol=1e-12)


def test_dropout_draws_another_mask_in_the_next_step() -> None:
    model = network("densenet", dtype="float64", efficient=True)
    inputs, labels = batch("densenet")
    first, second = (one_step(model, inputs, labels, "eager")[0] for _ in range(2))
    assert first != second


def test_a_second_derivative_is_refused() -> None:
    model = network("resnet", dtype="float64", efficient=True)
    inputs, _ = batch("resnet")
    with tf.GradientTape() as outer:
        outer.watch(inputs)
        with tf.GradientTape() as inner:
            inner.watch(inputs)
            loss = tf.reduce_sum(tf.square(model(inputs, training=True)))
        gradient = inner.gradient(loss, inputs)
    with pytest.raises(NotImplementedError, match="second derivative"):
        outer.gradient(gradient, inputs)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_keeps_variables_in_float32(policy: str) -> None:
    inputs, labels = batch("densenet", "float32")
    model = network("densenet", dtype=policy, efficient=True)
    assert {str(one.dtype) for one in model.trainable_variables} == {"float32"}
    plain = one_step(network("densenet", dtype="float32"), inputs, labels, "graph")
    found = one_step(model, inputs, labels, "graph")
    assert abs(found[0] - plain[0]) < 0.1 * abs(plain[0])
    assert all(np.isfinite(one).all() for one in found)


REFUSED: tuple[tuple[dict[str, Any], type[Exception], str], ...] = (
    ({"data_format": "channels_fist"}, ValueError, "channels_first"),
    ({"growth": 4}, TypeError, "growth_rate"),
    ({"efficient": 1}, TypeError, "efficient must be True or False"),
    ({"dtype": "int32"}, ValueError, "unknown dtype 'int32'"),
    ({"opt_memory": 4}, ValueError, "efficient=True"),
    ({"flavour": "kears"}, ValueError, "keras"),
)


@pytest.mark.parametrize(("arguments", "error", "message"), REFUSED)
def test_what_cannot_be_is_refused_with_advice(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        DenseNet(block_config=(1, 1), **arguments)


def test_inputs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"channels_last.*\(N, height, width, 3\)"):
        ResNet(layers=(1, 1), width=4)(tf.zeros((1, 3, 32, 32)))
    with pytest.raises(TypeError, match="floating point numbers, not uint8: give"):
        ResNet(layers=(1, 1), width=4)(tf.zeros((1, 8, 8, 3), tf.uint8))
    with pytest.raises(ValueError, match="fixed T"):
        LSTM(hidden_size=4)(tf.zeros((1, 5, 7)))
    with pytest.raises(ValueError, match="T above 0"):
        LSTM(input_size=7, hidden_size=4)(tf.zeros((1, 0, 7)))
    with pytest.raises(ValueError, match="device must be auto, cpu, cuda or"):
        measure_step(ResNet(layers=(1, 1), width=4), (1, 3, 8, 8), device="gpu")
    with pytest.raises(ValueError, match="height and width must be fixed"):
        network("densenet")(keras.Input((None, None, 3)))
    with pytest.raises(TypeError, match="DenseNetConfig"):
        build_model(object())


def test_the_protocol_builds_from_zoos_values() -> None:
    model = build_model(DenseNetConfig(block_config=(2, 2)), MemoryPolicy(efficient=True, keep_bottleneck=True))
    assert str(model.policy) == "efficient, keep_bottleneck"
    assert model.count_params() - sum(int(np.prod(one.shape)) for one in model.non_trainable_variables) == (
        model.spec.count_parameters()
    )
