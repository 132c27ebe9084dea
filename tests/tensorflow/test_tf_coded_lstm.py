"""compressed=... of LSTMs in TensorFlow: outputs to the bit, gradients without bias, fewer bytes, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from small_networks import batch, network, one_step
from test_tf_compressed import cosine

from tf_models import LSTM, measure_step
from tf_models.step import make_step

CASES = (
    ("lstm", 8, "graph"),
    ("bidirectional lstm", 8, "eager"),
    ("lstm", "fixed:10", "eager"),
    ("bidirectional lstm", "half", "eager"),
    pytest.param("lstm", 8, "xla", marks=pytest.mark.slow),
)


@pytest.mark.parametrize(("name", "compressed", "mode"), CASES)
def test_outputs_are_those_without_codes_to_the_bit(name: str, compressed: Any, mode: str) -> None:
    inputs, labels = batch(name, "float32")
    plain, coded = (network(name, dtype="float32", compressed=one) for one in (None, compressed))
    count = len(plain.trainable_variables)
    expected, found = (one_step(model, inputs, labels, mode)[: 1 + count] for model in (plain, coded))
    assert expected[0] == found[0]
    assert 0.9999 < cosine(found[1:], expected[1:]) < 1
    assert np.array_equal(plain(inputs), coded(inputs))


@pytest.mark.parametrize("name", ["lstm"])
def test_gradients_of_weights_have_no_bias(name: str) -> None:
    inputs, labels = batch(name, "float32")
    model, exact = (network(name, dtype="float32", compressed=bits) for bits in (2, None))
    count, draws = len(model.trainable_variables), 64
    expected = one_step(exact, inputs, labels, "graph")[1 : 1 + count]
    step, found = make_step(model, "graph"), []
    for _ in range(draws):
        model.dropout_seeds.state.assign([5, 6])
        found.append([one.numpy().astype(np.float64) for one in step(inputs, labels)[2]])
    for place, truth in enumerate(expected):
        along = np.array([(one[place] * truth).sum() for one in found]) - (truth**2).sum()
        error = along.std(ddof=1) / np.sqrt(draws)
        assert abs(along.mean()) < 4 * error + 1e-5 * (truth**2).sum(), model.trainable_variables[place].path
        assert "weight" not in model.trainable_variables[place].path or error > 1e-5 * (truth**2).sum()


@pytest.mark.parametrize("mode", ["eager", "graph", pytest.param("xla", marks=pytest.mark.slow)])
def test_bytes_fall(mode: str) -> None:
    peaks, saved = {}, {}
    for bits in (None, 2):
        model = LSTM(input_size=8, hidden_size=512, num_layers=1, compressed=bits)
        report = measure_step(model, (128, 1, 16, 8), mode=mode, repeats=0, execute=mode != "xla")
        peaks[bits], saved[bits] = report.peak_bytes, report.saved_bytes
    if mode != "xla":
        assert saved[2] < 0.2 * saved[None]
    # What one chunk is coded by is a large part of so few steps.
    assert peaks[2] < {"eager": 0.97, "graph": 0.85, "xla": 0.9}[mode] * peaks[None]


def test_efficient_keeps_less_and_is_done_alone() -> None:
    inputs, labels = batch("lstm", "float32")
    both, alone = (
        one_step(network("lstm", dtype="float32", efficient=True, compressed=bits), inputs, labels, "eager")
        for bits in (2, None)
    )
    count = len(network("lstm").trainable_variables)
    assert all(np.array_equal(*pair) for pair in zip(both[: 1 + count], alone[: 1 + count], strict=True))


def test_what_is_not_offered_is_refused() -> None:
    with pytest.raises(ValueError, match="bits are not learnt for LSTM"):
        LSTM(hidden_size=4, compressed="L3")
    with pytest.raises(ValueError, match="convolutions, linear layers and norms"):
        LSTM(hidden_size=4, compressed="quant8")
