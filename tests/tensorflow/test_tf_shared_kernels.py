"""The shared kernels in TensorFlow: the operators' bytes and gradients, eagerly and in graphs; refused under XLA."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_networks import batch, keras, network, one_step, tf

from kernels import reference
from tf_models.saving.shared_kernels import dequantize_shared, quantize_shared
from tf_models.step import in_mixed_precision

pytest.importorskip("numba", reason="the shared kernels need numba on a CPU")


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_codes_are_the_references(mode: str) -> None:
    values = np.random.default_rng(0).standard_normal((3, 391)).astype(np.float32)
    values[1, 7] = np.nan
    seed = 2**63 + 9
    expected = reference.quantize(values, 2, seed=seed)

    def both(x: Any) -> Any:
        coded = quantize_shared(x, 2, seed)
        return coded, dequantize_shared(coded, 2, values.size if mode == "eager" else tf.size(x))

    specified = [tf.TensorSpec([None, 391])]
    run = both if mode == "eager" else tf.function(both, input_signature=specified, autograph=False)
    coded, decoded = run(tf.constant(values))
    for name in ("codes", "minima", "steps"):
        assert np.array_equal(getattr(coded, name), getattr(expected, name))
    back = reference.dequantize(expected.codes, expected.minima, expected.steps, 2, values.size)
    assert np.allclose(decoded, back, rtol=1e-6, equal_nan=True)


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_a_network_has_the_operators_gradients(mode: str) -> None:
    inputs, labels = batch("resnet", "float32")
    found = []
    for kernels in ("operators", "shared"):
        model = network("resnet", dtype="float32", compressed=4)
        model.code_kernels = kernels
        found.append(one_step(model, inputs, labels, mode)[: 1 + len(model.trainable_variables)])
    assert found[0][0] == found[1][0]
    assert all(np.allclose(*pair, rtol=1e-4, atol=1e-6) for pair in zip(*found, strict=True))


def test_copies_and_files_keep_the_choice(tmp_path: Path) -> None:
    model = network("resnet", dtype="float32", compressed=4)
    model.code_kernels = "shared"
    model.save(tmp_path / "resnet.keras")
    copies = [keras.models.load_model(tmp_path / "resnet.keras"), keras.models.clone_model(model)]
    assert [one.code_kernels for one in (*copies, in_mixed_precision(model))] == ["shared"] * 3
    older = model.get_config()
    del older["code_kernels"]
    assert type(model).from_config(older).code_kernels == "operators"


def test_what_cannot_be_is_refused() -> None:
    inputs, labels = batch("resnet", "float32")
    model = network("resnet", dtype="float32", compressed=4)
    model.code_kernels = "shared"
    with pytest.raises(ValueError, match="XLA compiles TensorFlow's own operators alone"):
        one_step(model, inputs, labels, "xla")
    model.code_kernels = "cupy"
    with pytest.raises(ValueError, match="code_kernels"):
        model(inputs, training=True)
    for compressed in ("quant8", "L3", "L1"):
        model = network("resnet", dtype="float32", compressed=compressed)
        model.code_kernels = "shared"
        with pytest.raises(ValueError, match=re.escape(f"compressed={compressed}")):
            model(inputs, training=True)
