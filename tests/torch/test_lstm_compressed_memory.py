"""What a compressed LSTM saves, in bytes: a small part of what a plain one does, never more than efficient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_lstm_compressed import EFFICIENT, WIDE
from tiny_lstm import TINY, batch

from pytorch_models import LSTM, measure_step
from pytorch_models.measure import MemoryTracker


def saved_bytes(steps: int, **flags: Any) -> int:
    model = LSTM(**{**WIDE, **flags})
    return measure_step(model, model.spec.sequence_shape(steps, 8), execute=False).saved_bytes


@pytest.mark.quick
@pytest.mark.parametrize("bidirectional", [False, True])
def test_saved_bytes_are_a_small_part_of_plains(bidirectional: bool) -> None:
    plain = saved_bytes(64, bidirectional=bidirectional)
    found = [saved_bytes(64, bidirectional=bidirectional, compressed=c) / plain for c in (1, 2, 8)]
    assert all(ratio <= limit for ratio, limit in zip(found, (0.032, 0.044, 0.115), strict=True)), found


@pytest.mark.parametrize("steps", [1, 5, 28, 60])
@pytest.mark.parametrize("compressed", [1, 8])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_both_flags_keep_no_more_than_either(steps: int, compressed: int, bidirectional: bool) -> None:
    flags: tuple[dict[str, Any], ...] = ({"compressed": compressed}, EFFICIENT, {"compressed": compressed, **EFFICIENT})
    codes, states, both = (saved_bytes(steps, **f, bidirectional=bidirectional, hidden_size=64) for f in flags)
    assert both <= min(codes, states)
    if bidirectional and compressed == 1 and steps == 60:
        assert both < 0.9 * min(codes, states)


@pytest.mark.parametrize("shape", [{}, {"bidirectional": True}, {"reads": "tokens"}], ids=str)
def test_all_that_is_kept_passes_through_hooks_and_fake_steps_cost_what_real_ones_do(shape: dict[str, Any]) -> None:
    model = LSTM(**{**TINY, "hidden_size": 32, **shape}, compressed=2)
    inputs = model.spec.sequence_shape(150, 4)
    real, fake = measure_step(model, inputs, repeats=0), measure_step(model, inputs, execute=False)
    assert real.saved_bytes == fake.saved_bytes
    assert "codes (2)" in {row.name: row.kept for row in real.rows}["recurrent"]
    values, seen = batch(model, 150), []
    with (
        torch.autograd.graph.saved_tensors_hooks(lambda t: seen.append(t) or t, lambda t: t),
        MemoryTracker((*model.parameters(), *values)) as tracker,
    ):
        outputs = model(*values)
        outputs = outputs[0] if isinstance(outputs, tuple) else outputs
        kept = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in seen if tracker.allocation_of(t)}
        assert sum(kept.values()) >= tracker.live_bytes - outputs.untyped_storage().nbytes()
