"""The LSTM family's config: published sizes, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest

import zoo
from zoo.lstm import VARIANTS, LSTMConfig
from zoo.policy import MemoryPolicy


@pytest.mark.quick
@pytest.mark.parametrize("name", VARIANTS)
def test_parameters_are_counted_as_built(name: str) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'memory-efficient-zoo[torch]'")
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        model = zoo.create_model(name)
        assert sum(p.numel() for p in model.parameters()) == VARIANTS[name].count_parameters()


def test_published_sizes() -> None:
    """Zaremba et al. 2014: 4 million (small), 19.8 (medium) and 66 (large) parameters, rounded."""
    counts = [VARIANTS[f"lstm_ptb_{size}"].count_parameters() / 1e6 for size in ("small", "medium", "large")]
    assert counts == [pytest.approx(4.65, abs=0.05), pytest.approx(19.8, abs=0.1), pytest.approx(66, abs=0.1)]


@pytest.mark.parametrize(
    ("fields", "kind", "words"),
    [
        ({"reads": "columns"}, ValueError, "reads must be one of rows, pixels, tokens"),
        ({"hidden_size": 0}, ValueError, "hidden_size must be at least 1"),
        ({"num_layers": 2.0}, TypeError, "num_layers must be an integer"),
        ({"num_layers": 10**6}, ValueError, "num_layers must be at most"),
        ({"bidirectional": 1}, TypeError, "bidirectional must be True or False"),
        ({"bidirectional": True, "reads": "tokens"}, ValueError, "would read the token"),
        ({"drop_rate": 1.0}, ValueError, r"drop_rate must be in \[0, 1\)"),
        ({"drop_rate": "x"}, TypeError, "drop_rate must be a number"),
        ({"drop_rate": 0.5, "num_layers": 1}, ValueError, "between layers"),
        ({"hidden_size": 10**6}, ValueError, "parameters, more than"),
    ],
)
def test_values_that_cannot_be_are_refused(fields: dict[str, Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        LSTMConfig(**fields)


@pytest.mark.parametrize("flags", [{"opt_memory": 3}, {"efficient": True, "keep_bottleneck": True}])
def test_flags_of_other_families_are_refused(flags: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="LSTM"):
        VARIANTS["lstm_row_mnist"].check_policy(MemoryPolicy(**flags))


def test_shapes_of_a_batch() -> None:
    assert VARIANTS["lstm_pixel_mnist"].sequence_shape(784, 2) == (2, 1, 784, 1)
    assert VARIANTS["lstm_text"].sequence_shape(256, 2) == (2, 256)
    assert LSTMConfig("pixels", input_size=3).reading((1, 8, 8)).input_size == 1
