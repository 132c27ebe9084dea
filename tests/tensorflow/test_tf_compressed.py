"""compressed=... in TensorFlow: outputs to the bit, gradients without bias, new noise each step, fewer bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from small_networks import CLASSES, NETWORKS, batch, keras, network, one_step, tf

from tf_models import DenseNet, build_model, load_weights, measure_step, save_weights
from tf_models.compression import block_prefers_codes, forms_of
from tf_models.saving.forms import Forms, GroupForm
from tf_models.step import make_step
from tf_models.weights import canonical_weights
from zoo.densenet import DenseNetConfig
from zoo.policy import MemoryPolicy

# resnet and resnext run what others run.
CASES = [(name, "eager") for name in NETWORKS if "lstm" not in name and name not in ("resnet", "resnext")]
CASES += [("densenet without bottlenecks", "graph"), ("resnet", "graph")]
CASES += [pytest.param("resnet", "xla", marks=pytest.mark.slow)]


def cosine(ours: list[np.ndarray], theirs: list[np.ndarray]) -> float:
    """Of two whole gradients."""
    one, other = (np.concatenate([part.ravel() for part in parts]) for parts in (ours, theirs))
    return float(one @ other / np.sqrt((one @ one) * (other @ other)))


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_outputs_and_statistics_are_those_without_codes_to_the_bit(name: str, mode: str) -> None:
    inputs, labels = batch(name, "float32")
    count = len(network(name).trainable_variables)
    for flags in ({}, {"efficient": True}) if name.startswith("densenet") and mode == "eager" else ({},):
        found = []
        for bits in (None, 8):
            model = network(name, dtype="float32", compressed=bits, **flags)
            loss, *gradients = one_step(model, inputs, labels, mode)[: 1 + count]
            kept = {key: value for key, value in canonical_weights(model).items() if "running" in key}
            found.append((loss, gradients, kept))
        assert found[0][0] == found[1][0]
        assert all(np.array_equal(value, found[1][2][key]) for key, value in found[0][2].items())
        assert cosine(found[1][1], found[0][1]) > 0.999


# Deviations of the gradients that norms pass on are of order 1 / (values a channel): large images, or many bits.
UNBIASED = {"densenet": (2, (8, 16, 16, 3)), "resnet of bottlenecks": (8, (4, 64, 64, 3))}


@pytest.mark.parametrize("name", UNBIASED)
def test_gradients_of_weights_have_no_bias(name: str) -> None:
    bits, shape = UNBIASED[name]
    model, exact = (network(name, dtype="float32", compressed=width) for width in (bits, None))
    inputs = tf.constant(np.random.default_rng(1).standard_normal(shape).astype(np.float32))
    labels = tf.constant(np.arange(shape[0]) % CLASSES)
    count, draws = len(model.trainable_variables), 48
    expected = one_step(exact, inputs, labels, "eager")[1 : 1 + count]
    step, found = make_step(model, "graph"), []
    for _ in range(draws):
        if getattr(model, "dropout_seeds", None) is not None:
            model.dropout_seeds.state.assign([5, 6])
        found.append([one.numpy().astype(np.float64) for one in step(inputs, labels)[2]])
    noisy = 0
    for place, truth in enumerate(expected):
        # Along the gradient itself: a bias of its size shows most there.
        along = np.array([(one[place] * truth).sum() for one in found]) - (truth**2).sum()
        error = along.std(ddof=1) / np.sqrt(draws)
        assert abs(along.mean()) < 4 * error + 1e-5 * (truth**2).sum(), model.trainable_variables[place].path
        noisy += bool(error > 1e-5 * (truth**2).sum())
    assert noisy > count / 2


def test_noise_is_new_each_step_and_the_same_in_each_run() -> None:
    inputs, labels = batch("resnet", "float32")
    runs = []
    for _ in range(2):
        step = make_step(network("resnet", dtype="float32", compressed=2), "eager")
        runs.append([step(inputs, labels)[2][0].numpy() for _ in range(2)])
    assert np.array_equal(runs[0][0], runs[1][0])
    assert np.array_equal(runs[0][1], runs[1][1])
    assert not np.array_equal(runs[0][0], runs[0][1])


def test_building_and_running_move_no_other_random_stream() -> None:
    drawn = []
    for bits in (None, 2):
        keras.utils.set_random_seed(3)
        model = DenseNet(block_config=(1,), growth_rate=4, num_init_features=6, compressed=bits)
        model(tf.zeros((1, 8, 8, 3)), training=True)
        drawn.append((model.trainable_variables[0].numpy(), keras.random.normal([2]).numpy()))
    assert all(np.array_equal(*pair) for pair in zip(*drawn, strict=True))


def test_frozen_norms_and_evaluation() -> None:
    inputs, labels = batch("densenet", "float32")
    results = []
    for bits in (None, 8):
        model = network("densenet", dtype="float32", compressed=bits)
        for number, (name, part) in enumerate(model.parts.items()):
            part.trainable = "norm" not in name or number % 3 == 0
        model.dropout_seeds.state.assign([5, 6])
        count = len(model.trainable_variables)
        results.append((one_step(model, inputs, labels, "eager")[: 1 + count], model(inputs).numpy()))
    (plain, outputs), (coded, coded_outputs) = results
    assert coded[0] == plain[0]
    assert cosine(coded[1:], plain[1:]) > 0.999
    assert np.array_equal(outputs, coded_outputs)


def test_keras_fits_and_weights_pass_between_flags(tmp_path: Any) -> None:
    inputs, labels = batch("resnet", "float32")
    model = network("resnet", compressed=2)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    before = model.code_seeds.state.numpy()
    model.fit(inputs, labels, batch_size=2, epochs=1, verbose=0)
    assert model.code_seeds.state.numpy()[1] == before[1] + 2
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    assert again.policy.compressed == "2"
    save_weights(again, tmp_path / "w.npz")
    plain = network("resnet")
    load_weights(plain, tmp_path / "w.npz")
    assert np.array_equal(plain(inputs), model(inputs))


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "float64"])
def test_other_dtypes(policy: str) -> None:
    inputs, labels = batch("resnet", "float32")
    found = one_step(network("resnet", dtype=policy, compressed=4), inputs, labels, "eager")
    plain = one_step(network("resnet", dtype=policy), inputs, labels, "eager")
    count = len(network("resnet").trainable_variables)
    assert found[0] == plain[0]
    assert cosine(found[1 : 1 + count], plain[1 : 1 + count]) > 0.95


REFUSED: tuple[tuple[Any, str], ...] = (
    ("L3.1", "L3"),
    ("swap", "host memory"),
    ("gact:4", "framework=torch"),
    (3, "did you mean"),
)


@pytest.mark.parametrize(("compressed", "message"), REFUSED)
def test_what_is_not_offered_is_refused_with_what_is(compressed: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DenseNet(block_config=(1,), compressed=compressed)


def test_levels_are_taken() -> None:
    config = DenseNetConfig(block_config=(1,))
    levels = [forms_of(build_model(config, MemoryPolicy(compressed=name)).policy) for name in ("L0", "L2")]
    assert levels == [None, Forms(GroupForm(4), GroupForm(4))]


DENSE: dict[str, Any] = {"growth_rate": 32, "block_config": (4,), "num_init_features": 32}


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_bytes_fall_in_every_mode(mode: str) -> None:
    shape = (8, 3, 48, 48)
    plain, coded = (
        measure_step(DenseNet(**DENSE, **flags), shape, mode=mode, repeats=0, execute=mode != "xla")
        for flags in ({}, {"compressed": 2})
    )
    assert coded.peak_bytes < {"eager": 0.65, "graph": 0.52, "xla": 0.52}[mode] * plain.peak_bytes
    if mode != "xla":
        pixels, bits = 8 * 48 * 48, 2 + 32 / 256
        features = 32 + 32 * 3
        masks = sum(32 + 32 * layer for layer in range(4))
        codes = features * bits + masks + 4 * 128 * (bits + 1) + (features + 32) * (bits + 1)
        # Of tensors below 256 KiB, such as a layer's own features, TensorFlow tells nothing.
        assert 0.5 * codes < 8 * coded.saved_bytes / pixels < 1.05 * codes
        assert coded.saved_bytes < 0.12 * plain.saved_bytes


@pytest.mark.parametrize("bits", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_both_flags_keep_no_more_than_either(bits: int) -> None:
    saved = []
    for flags in ({"efficient": True}, {"compressed": bits}, {"efficient": True, "compressed": bits}):
        model = DenseNet(**DENSE, **flags)
        saved.append(measure_step(model, (8, 3, 48, 48), mode="eager", repeats=0).saved_bytes)
    assert saved[2] <= min(saved[:2])
    assert block_prefers_codes(GroupForm(bits).width, 32, 32, 128, 4, 32, False) == (bits == 2)
