"""Every family in TensorFlow with `efficient`: what holds of a training step holds in the other ways to use a model.

Traps of TensorFlow 2.21, and the tests that each would fail:

* recomputation that moves running statistics twice, or draws dropout anew: `test_five_steps_end_alike`;
  `test_tf_exact.py`, where statistics move once
* recomputation that grappler or XLA undoes, so that nothing is saved: `test_tf_memory.py`, in eager, graph and XLA;
  of codes, `test_tf_compressed.py`
* `tf.recompute_grad` and `keras.RematScope`, which do the first: `test_nothing_is_built_on_what_recomputes_wrongly`
* bytes of eager, graph and XLA, which are counted differently: `test_counts_of_different_kinds_are_not_compared`
* Keras's fit, which takes no strategy over several workers: `test_tf_processes.py`, `test_tf_workers.py`
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_networks import CLASSES, batch, keras, largest_difference, network, tf

import tf_models
from tf_models import ResNet, measure_step
from tf_models.step import make_step
from zoo.report import format_comparison

FAMILIES = ["densenet", "resnet", pytest.param("mobilenet_v2", marks=pytest.mark.slow), "lstm"]


def both(name: str, **flags: Any) -> list[Any]:
    """The plain network and the efficient one, in float64."""
    return [network(name, dtype="float64", efficient=efficient, **flags) for efficient in (False, True)]


def state(model: Any) -> list[np.ndarray]:
    """All weights and running statistics, and where the stream of dropout is."""
    return [np.zeros(1), *(np.asarray(one.numpy(), np.float64) for one in model.variables)]


@pytest.mark.parametrize("name", FAMILIES)
def test_five_steps_end_alike(name: str) -> None:
    inputs, labels = batch(name)
    # Its last norms see 4 values each: a change of 1e-15 grows fifty times and more a step, in the plain model too.
    rate, most = (1e-6, 1e-4) if name == "mobilenet_v2" else (0.01, 1e-9)
    ends = []
    for model in both(name):
        step = make_step(model, "eager")
        for _ in range(5):
            _, _, gradients = step(inputs, labels)
            for weight, gradient in zip(model.trainable_variables, gradients, strict=True):
                weight.assign_sub(rate * tf.convert_to_tensor(gradient))
        ends.append(state(model))
    assert largest_difference(ends[1], ends[0]) < most


@pytest.mark.parametrize("name", FAMILIES)
def test_two_forwards_then_two_backwards_and_a_tape_asked_twice(name: str) -> None:
    inputs, _ = batch(name)
    found = []
    for model in both(name):
        with tf.GradientTape(persistent=True) as tape:
            first, second = (tf.reduce_sum(tf.square(model(part, training=True))) for part in (inputs, 2 * inputs))
        sources = [one.value for one in model.trainable_variables]
        gradients = [tape.gradient(loss, sources) for loss in (second, first, first)]
        arrays = [[tf.convert_to_tensor(one).numpy() for one in part] for part in gradients]
        assert all(np.array_equal(a, b) for a, b in zip(arrays[1], arrays[2], strict=True))
        found.append([np.zeros(1), *arrays[0], *arrays[1]])
    assert largest_difference(found[1], found[0]) < 1e-12


@pytest.mark.parametrize("name", FAMILIES)
def test_frozen_layers_and_gradients_of_the_input(name: str) -> None:
    inputs, _ = batch(name)
    found = []
    for model in both(name):
        for part in list(model.parts.values())[: len(model.parts) // 2]:
            part.trainable = False
        frozen = sum(int(np.prod(one.shape)) for one in model.variables if not one.trainable)
        assert frozen > 0
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            loss = tf.reduce_sum(tf.square(model(inputs, training=True)))
        gradients = tape.gradient(loss, [inputs, *(one.value for one in model.trainable_variables)])
        found.append([np.zeros(1), *(tf.convert_to_tensor(one).numpy() for one in gradients)])
    assert largest_difference(found[1], found[0]) < 1e-12


@pytest.mark.parametrize("name", FAMILIES)
def test_a_copy_by_config_is_the_same_network(name: str) -> None:
    inputs, _ = batch(name)
    model = network(name, dtype="float64", efficient=True)
    copy = type(model).from_config(model.get_config())
    copy.set_weights(model.get_weights())
    assert (copy.spec, copy.policy, copy.dtype_policy) == (model.spec, model.policy, model.dtype_policy)
    assert np.array_equal(copy(inputs), model(inputs))


@pytest.mark.parametrize("name", ["resnet", pytest.param("lstm", marks=pytest.mark.slow)])
def test_a_graph_takes_batches_of_any_size(name: str) -> None:
    inputs, labels = batch(name)
    model = network(name, dtype="float64", efficient=True, **({} if name == "resnet" else {"drop_rate": 0.0}))
    signature = [tf.TensorSpec((None, *inputs.shape[1:]), tf.float64), tf.TensorSpec((None,), tf.int64)]
    step = tf.function(make_step(model, "eager"), input_signature=signature, autograph=False)
    for size in (2, 3):
        kept = model.get_weights()
        loss, _, gradients = step(inputs[:size], tf.cast(labels[:size], tf.int64))
        model.set_weights(kept)
        expected = make_step(model, "eager")(inputs[:size], labels[:size])
        arrays = [
            [part[0], *(tf.convert_to_tensor(one) for one in part[2])] for part in ((loss, 0, gradients), expected)
        ]
        assert largest_difference(*([one.numpy() for one in part] for part in arrays)) < 1e-12


@pytest.mark.parametrize("flags", [{"efficient": True}, {"compressed": 2}], ids=["efficient", "compressed"])
@pytest.mark.parametrize("name", ["densenet", "lstm"])
def test_an_empty_batch_has_gradients_of_zero(name: str, flags: dict[str, Any]) -> None:
    """As an uneven last batch gives to one of several replicas."""
    inputs, _ = batch(name)
    model = network(name, dtype="float64", **flags)
    assert model(inputs[:0], training=False).shape == (0, CLASSES)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(model(inputs[:0], training=True))
    gradients = tape.gradient(total, [one.value for one in model.trainable_variables])
    assert all(np.all(tf.convert_to_tensor(one) == 0) for one in gradients)


def test_an_exported_model_gives_the_same_scores(tmp_path: Path) -> None:
    """A SavedModel holds gradients of all that it holds, also of what has no second one."""
    inputs = batch("densenet", "float32")[0]
    model = network("densenet", dtype="float32", efficient=True)
    with pytest.raises(ValueError, match=r"^DenseNet\.export: how large its inputs are is not known"):
        model.export(tmp_path / "densenet", verbose=False)
    specified = [keras.InputSpec(shape=(None, *inputs.shape[1:]), dtype="float32")]
    model.export(tmp_path / "densenet", input_signature=specified, verbose=False)
    exported = tf.saved_model.load(str(tmp_path / "densenet"))
    assert np.allclose(exported.serve(inputs), model(inputs), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["resnet", "lstm"])
def test_a_model_that_has_run_is_exported_for_batches_of_any_size(name: str, tmp_path: Path) -> None:
    inputs = batch(name, "float32")[0]
    model = network(name, dtype="float32")
    model.predict(inputs, verbose=0)
    model.export(tmp_path / name, verbose=False)
    exported = tf.saved_model.load(str(tmp_path / name))
    assert np.allclose(exported.serve(inputs[:3]), model(inputs)[:3], rtol=1e-5, atol=1e-7)


def test_nothing_is_built_on_what_recomputes_wrongly() -> None:
    sources = [path.read_text() for path in Path(tf_models.__file__).parent.rglob("*.py")]
    assert not any(name in text for text in sources for name in ("tf.recompute_grad(", "RematScope"))


def test_counts_of_different_kinds_are_not_compared() -> None:
    model = ResNet(layers=(1,), width=16)
    graph, xla = (measure_step(model, (16, 3, 32, 32), mode=mode, repeats=0) for mode in ("graph", "xla"))
    assert "plain" in format_comparison([graph, graph])
    with pytest.raises(ValueError, match="graph and xla"):
        format_comparison([graph, xla])


@pytest.mark.parametrize("name", ["resnet", "lstm", pytest.param("mobilenet_v2", marks=pytest.mark.slow)])
def test_fit_ends_alike(name: str) -> None:
    inputs, labels = batch(name)
    losses = []
    for model in both(name, **({} if name == "resnet" else {"drop_rate": 0.0})):
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.01), loss, jit_compile=False, run_eagerly=True)
        losses.append(model.fit(inputs, labels, batch_size=4, epochs=2, verbose=0, shuffle=False).history["loss"])
    assert np.allclose(*losses, rtol=1e-9)
    assert losses[0][1] < losses[0][0]
