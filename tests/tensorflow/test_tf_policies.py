"""Policies of ActNN and AC-GC in TensorFlow, and codecs by name: the forward pass to the bit, fewer bytes, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from small_networks import batch, network, one_step
from test_tf_compressed import cosine

from tf_models import ResNet, measure_step
from tf_models.compression import forms_of
from tf_models.weights import canonical_weights
from zoo.policy import MemoryPolicy

CASES = (
    ("resnet", "L1", "eager", 0.99),
    ("resnet", "quantz8", "graph", 0.9999),
    pytest.param("resnet", "quant8", "xla", 0.9999, marks=pytest.mark.slow),
    pytest.param("mobilenet_v2", "quant8", "eager", 0.999, marks=pytest.mark.slow),
    ("densenet", "quantz6", "eager", 0.99),
    ("densenet", "bfloat16", "eager", 0.9999),
    pytest.param("densenet of the ImageNet stem", "fixed:6", "eager", 0.99, marks=pytest.mark.slow),
)


@pytest.mark.parametrize(("name", "compressed", "mode", "least"), CASES)
def test_outputs_and_statistics_are_the_plain_models_to_the_bit(
    name: str, compressed: str, mode: str, least: float
) -> None:
    inputs, labels = batch(name, "float32")
    found = []
    for asked in (None, compressed):
        model = network(name, dtype="float32", compressed=asked)
        loss, *gradients = one_step(model, inputs, labels, mode)[: 1 + len(model.trainable_variables)]
        kept = {key: value for key, value in canonical_weights(model).items() if "running" in key}
        found.append((loss, gradients, kept))
    (loss, gradients, kept), (coded_loss, coded_gradients, coded_kept) = found
    assert loss == coded_loss
    assert all(np.array_equal(value, coded_kept[key]) for key, value in kept.items())
    assert least < cosine(coded_gradients, gradients) < 1


def test_l1_keeps_norms_as_they_are() -> None:
    """All that a DenseNet keeps are norms' inputs: nothing is rounded."""
    inputs, labels = batch("densenet", "float32")
    gradients = []
    for compressed in (None, "L1"):
        model = network("densenet", dtype="float32", compressed=compressed)
        gradients.append(one_step(model, inputs, labels, "eager")[1 : 1 + len(model.trainable_variables)])
    assert 1 - cosine(*gradients) < 1e-9


def test_bytes_follow_the_widths() -> None:
    saved = {}
    for compressed in (None, "L1", "quant6", "quantz6", "half"):
        model = ResNet(layers=(1, 1), width=32, compressed=compressed)
        saved[compressed] = measure_step(model, (8, 3, 64, 64), mode="eager", repeats=0).saved_bytes
    assert saved["half"] < 0.5 * saved[None]
    assert saved["L1"] < 0.5 * saved[None]
    assert 0.9 * 6 / 16 < saved["quant6"] / saved["half"] < 1.1 * 6 / 16
    # A block reads what a ReLU gave, of which about half is 0.
    assert saved["quantz6"] < 0.95 * saved["quant6"]


def test_forms_by_name() -> None:
    forms = {name: forms_of(MemoryPolicy(compressed=name)) for name in ("L2", "quant1", "quantz3", "fixed:5")}
    assert {name: str(one) for name, one in forms.items()} == {
        "L2": "Forms(norms=GroupForm(bits=4, shared=False), inputs=GroupForm(bits=4, shared=False))",
        "quant1": "Forms(norms=FixedForm(bits=2, stochastic=False, zeros=False), "
        "inputs=FixedForm(bits=2, stochastic=False, zeros=False))",
        "quantz3": "Forms(norms=FixedForm(bits=3, stochastic=False, zeros=False), "
        "inputs=FixedForm(bits=3, stochastic=False, zeros=True))",
        "fixed:5": "Forms(norms=FixedForm(bits=5, stochastic=True, zeros=False), "
        "inputs=FixedForm(bits=5, stochastic=True, zeros=False))",
    }


def test_zeros_apart_are_refused_where_xla_compiles() -> None:
    inputs, labels = batch("resnet", "float32")
    with pytest.raises(ValueError, match="give quant8, or jit_compile=False"):
        one_step(network("resnet", dtype="float32", compressed="quantz8"), inputs, labels, "xla")
    with pytest.raises(ValueError, match="give quant8"):
        measure_step(network("resnet", compressed="quantz8"), (4, 3, 16, 16), execute=False)
