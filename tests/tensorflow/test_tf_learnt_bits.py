"""Bits that are learnt in TensorFlow (L3, AC-GC's automatic schemes): what is learnt, when it changes, and refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from small_networks import batch, keras, network, one_step, tf
from test_tf_compressed import cosine

from tf_models import ResNet, measure_step
from tf_models.norms import Norm
from tf_models.operators import Convolution
from tf_models.saving.bounds import ConvolutionPass, NormPass, input_needs, norm_needs
from tf_models.step import StepRunner, make_step
from zoo.schemes import find_scheme

DRAW = np.random.default_rng(0)
SIZES = (4, 5, 6, 3)


def draw(*shape: int) -> np.ndarray:
    return DRAW.standard_normal(shape).astype(np.float32)


def square(values: np.ndarray) -> float:
    return float(np.square(values, dtype=np.float64).sum())


@pytest.mark.parametrize("name", ["autoquant", "autoquant-sr"])
def test_bounds_are_those_of_the_paper(name: str) -> None:
    scheme, (n, h, w, c) = find_scheme(name), SIZES
    values, of_outputs, of_inputs, of_gamma = draw(*SIZES), draw(*SIZES), 3 * draw(*SIZES), draw(c)
    of_outputs[of_outputs < 0] = 0
    gamma, inverse, reader = draw(c), np.abs(draw(c)), (draw(n, h, w, 7), draw(3, 3, c, 7))
    went = ConvolutionPass(Convolution(3, 2), tf.constant(reader[0]), tf.constant(reader[1]))
    top, axes, count = np.abs(values).max((0, 1, 2)), (0, 1, 2), n * h * w
    if name == "autoquant":
        step = square(reader[1]) / (2 * values.size * (9 / 4) * square(reader[0]))
        worst = (of_outputs != 0).sum(axes) ** 2 * np.square(of_outputs).max(axes) * (top / 2) ** 2
        below = np.square(gamma * inverse) * (np.square(of_gamma) + worst)
        own = np.clip(square(of_inputs) * count / c / below, 2**-16, 4)
    else:
        step = 4 * square(reader[1]) / (c * 9 * square(reader[0]))
        below = np.square(gamma * inverse) * (np.square(of_gamma) + np.square(of_outputs).sum(axes))
        own = np.minimum(4 * square(of_inputs) / 5 * count / c / below, 4)
    found = input_needs(scheme, tf.constant(values), went)
    assert np.allclose(found, top**2 / step, rtol=1e-4)
    assert np.allclose(input_needs(scheme, tf.abs(values), went), top**2 / step / 4, rtol=1e-4)
    norm = NormPass(
        Norm(1e-5, True), *(tf.constant(one) for one in (values, of_outputs, of_inputs, of_gamma)), gamma, inverse, 5
    )
    assert np.allclose(norm_needs(scheme, norm, None), top**2 / own, rtol=1e-4)
    both = np.minimum(own, step / np.square(gamma))
    assert np.allclose(norm_needs(scheme, norm, went), top**2 / both, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "scheme", "mode"),
    [
        ("densenet", "autoquantz", "eager"),
        ("resnet", "autoquant-sr", "graph"),
        ("resnet", "L3", "eager"),
        pytest.param("resnet", "autoquant", "xla", marks=pytest.mark.slow),
    ],
)
def test_bits_are_learnt_in_the_first_step_and_the_forward_pass_stays(name: str, scheme: str, mode: str) -> None:
    inputs, labels = batch(name, "float32")
    model, plain = (network(name, dtype="float32", compressed=one) for one in (scheme, None))
    count = len(plain.trainable_variables)
    loss, *exact = one_step(plain, inputs, labels, mode)[: 1 + count]
    step, likeness = make_step(model, mode), []
    for number in range(2):
        if model.dropout_seeds is not None:
            model.dropout_seeds.state.assign([5, 6])
        found, _, gradients = step(inputs, labels)
        assert len(model.learnt_bits.bits) == (0 if number == 0 else len(model.learnt_bits.places))
        assert float(found) == loss
        likeness.append(cosine([one.numpy().astype(float) for one in gradients], exact))
    bits = model.learnt_bits.bits.values()
    if scheme == "L3":
        places = model.learnt_bits.places.values()
        total = sum(place.count * model.learnt_bits.bits[place.number] for place in places)
        assert len(set(bits)) > 1
        assert total <= 2 * sum(place.count for place in places)
        assert min(model.learnt_bits.bits[place.number] for place in places if place.is_norm) == 2
    else:
        assert likeness[0] > 1 - 1e-6
        assert 0.95 < likeness[1] < 1 - 1e-6
        assert 2 <= min(bits) < max(bits) <= 16


@pytest.mark.slow
def test_bytes_fall_once_bits_are_learnt() -> None:
    saved = {}
    for compressed in (None, "L3", "autoquant-sr"):
        model = ResNet(layers=(1, 1), width=32, compressed=compressed)
        saved[compressed] = measure_step(model, (8, 3, 64, 64), mode="graph", repeats=0).saved_bytes
    assert saved["L3"] < 0.08 * saved[None]
    assert saved["autoquant-sr"] < 0.4 * saved[None]
    with pytest.raises(ValueError, match="leave execute out"):
        measure_step(model, (8, 3, 64, 64), execute=False)


def test_fit_makes_a_graph_for_other_bits_and_keras_loads_the_model(tmp_path: Any) -> None:
    inputs, labels = batch("resnet", "float32")
    model = network("resnet", compressed="autoquant-sr")
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    model.fit(inputs, labels, batch_size=2, epochs=2, verbose=0)
    assert model.learnt_bits.steps == 4
    assert len(model.train_function.graphs) == 2
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    assert str(again.learnt_bits.scheme) == "autoquant-sr"


@pytest.mark.slow
def test_a_resumed_run_has_the_same_bits() -> None:
    inputs, labels = (one.numpy() for one in batch("resnet", "float32"))
    inputs = inputs.transpose(0, 3, 1, 2)
    runners = [StepRunner(network("resnet", compressed="autoquant-sr"), 0.9, 0.0) for _ in range(2)]
    runners[0].train(inputs, labels, 0.1)
    runners[0].train(inputs, labels, 0.1)
    runners[1].set_momentum(runners[0].momentum_arrays())
    for ours, theirs in zip(runners[1].model.variables, runners[0].model.variables, strict=True):
        ours.assign(theirs)
    assert runners[1].model.learnt_bits.bits == runners[0].model.learnt_bits.bits != {}
    ends = []
    for runner in runners:
        runner.seed(3)
        runner.train(inputs, labels, 0.1)
        ends.append([one.numpy() for one in runner.model.trainable_variables])
    assert all(np.array_equal(*pair) for pair in zip(*ends, strict=True))


def test_what_was_learnt_passes_to_another_model() -> None:
    inputs, labels = batch("resnet", "float32")
    models = [network("resnet", dtype="float32", compressed="autoquant-sr") for _ in range(2)]
    steps = [make_step(model, "eager") for model in models]
    steps[0](inputs, labels)
    models[1].learnt_bits.set_arrays(models[0].learnt_bits.arrays())
    models[1].code_seeds.state.assign(models[0].code_seeds.state)
    gradients = [step(inputs, labels)[2] for step in steps]
    assert models[0].learnt_bits.bits == models[1].learnt_bits.bits != {}
    assert all(np.array_equal(*pair) for pair in zip(*gradients, strict=True))


def test_what_would_never_learn_is_refused() -> None:
    inputs, _ = batch("resnet", "float32")
    model = network("resnet", compressed="L3")
    with pytest.raises(ValueError, match="of your own: bits change"):
        tf.function(lambda values: model(values, training=True), autograph=False)(inputs)
    assert tf.function(lambda values: model(values, training=False), autograph=False)(inputs).shape == (4, 5)
    with pytest.raises(ValueError, match="efficient=True"):
        network("resnet", compressed="L3", efficient=True)


@pytest.mark.slow
def test_processes_that_train_together_have_the_bits_of_what_they_found_on_average(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inputs, labels = (one.numpy() for one in batch("resnet", "float32"))
    inputs = inputs.transpose(0, 3, 1, 2)
    alone, twins = (StepRunner(network("resnet", compressed="autoquant-sr"), 0.9, 0.0) for _ in range(2))
    twins.workers.world = 2
    monkeypatch.setattr(twins.workers, "add_up", lambda tensors: [2 * tf.convert_to_tensor(one) for one in tensors])
    for runner in (alone, twins):
        for step in range(2):  # the second one has bits
            runner.seed(step)
            runner.train(inputs, labels, 0.0)
    assert twins.model.learnt_bits.bits == alone.model.learnt_bits.bits != {}
    found = twins.model.learnt_bits.found
    found.assign(tf.ones_like(found))
    monkeypatch.setattr(twins.workers, "add_up", lambda tensors: [4 * tf.convert_to_tensor(one) for one in tensors])
    twins.even_out()  # before a checkpoint: the first process's holds for all
    assert np.all(found == 2)
