"""What segments keep and free, in bytes."""

from __future__ import annotations

import pytest
import torch
from segment_net import small_net
from tiny_densenet import images
from torch import Tensor, nn

from pytorch_models import checkpoint_segments, measure_step
from pytorch_models.tracker import MemoryTracker, track_peak


@pytest.mark.quick
def test_only_the_inputs_are_kept() -> None:
    model, shape = small_net().float(), (4, 3, 12, 12)
    plain_bytes = measure_step(model, shape, repeats=0).saved_bytes
    with checkpoint_segments(model, ["0", "1"]):
        report = measure_step(model, shape, repeats=0)
        assert measure_step(model, shape, execute=False).saved_bytes == report.saved_bytes
    rows = {row.name: row.saved_bytes for row in report.rows}
    assert rows["1"] == 4 * 8 * 12 * 12 * 4  # the images are the caller's and are not counted
    assert "0" not in rows
    assert not [name for name in rows if "." in name]
    assert next(row.kept for row in report.rows if row.name == "1").startswith("a segment: its input")
    assert report.saved_bytes < 0.35 * plain_bytes
    assert measure_step(model, shape, repeats=0).saved_bytes == plain_bytes


def test_segments_in_segments_keep_the_outer_input_and_lower_the_peak() -> None:
    deep = nn.Sequential(
        *(nn.Sequential(*(nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Sigmoid()) for _ in range(8))) for _ in "ab")
    )
    whole = nn.Sequential(nn.Linear(48, 64), deep, nn.Linear(64, 5))

    def peak_and_saved() -> tuple[int, int]:
        report = measure_step(nn.Sequential(nn.Flatten(), whole), (512, 3, 4, 4), execute=False)
        return report.peak_bytes, report.saved_bytes

    checkpoint_segments(whole, "1.*")
    outer_peak, outer_saved = peak_and_saved()
    checkpoint_segments(whole, "1.*.*")
    nested_peak, nested_saved = peak_and_saved()
    assert nested_saved == outer_saved
    assert nested_peak < outer_peak - 5 * 512 * 64 * 4  # of the 16 results in an outer segment, half are gone


@pytest.mark.quick
def test_without_gradients_nothing_is_kept_or_done_twice() -> None:
    model, calls = small_net(), []
    model[0][0].register_forward_hook(lambda *_: calls.append(1))
    packed: list[Tensor] = []
    checkpoint_segments(model, ["0", "1"])
    with torch.autograd.graph.saved_tensors_hooks(lambda t: packed.append(t) or t, lambda t: t):
        for context in (torch.no_grad(), torch.inference_mode()):
            with context:
                assert torch.equal(model.eval()(images()), small_net().eval()(images()))
    assert (len(calls), packed) == (2, [])


def test_the_second_runs_memory_is_freed_as_the_backward_pass_goes() -> None:
    def peak(segments: str | None) -> int:
        layers = [nn.Sequential(*[nn.Sigmoid(), nn.Tanh()] * 2) for _ in range(6)]
        model = nn.Sequential(*layers)
        if segments:
            checkpoint_segments(model, segments)
        inputs = torch.randn(4, 8, 32, 32, requires_grad=True)
        with track_peak([inputs]) as found:
            model(inputs).sum().backward()
        return found.bytes

    one = 4 * 8 * 32 * 32 * 4
    assert peak(None) > 24 * one  # 24 operators' results
    assert peak("*") < 14 * one  # 6 inputs, then a segment's 4 results and gradients on their way


def test_a_buffer_that_does_not_change_is_not_kept_twice() -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("shift", torch.ones(10_000))

        def forward(self, values: Tensor) -> Tensor:
            return (values.sigmoid() + self.shift.mean()).tanh()

    model = Shifted()
    checkpoint_segments(model, "")
    values = torch.randn(10, requires_grad=True)
    with MemoryTracker([values, model.shift]) as tracker:
        outputs = model(values)
    assert tracker.live_bytes == outputs.nbytes
