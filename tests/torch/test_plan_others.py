"""save_on_cpu and torch.compile's budget beside a plan: real steps; what cannot be followed is left out aloud."""

from __future__ import annotations

import pytest
import torch
from test_planning import plain_stack, planned
from torch import Tensor, nn

from pytorch_models.planning.others import OtherMissingWarning, points_of_others
from zoo.planning import study


@pytest.mark.slow
def test_points_of_others_are_measured_and_the_model_is_not_touched() -> None:
    torch.manual_seed(0)
    layers = [
        nn.Sequential(nn.Conv2d(8 if i else 3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(True)) for i in range(2)
    ]
    model, shape = nn.Sequential(*layers), (4, 3, 16, 16)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    found = points_of_others(model, shape)
    plain = planned(model, shape, budget=2**40)
    assert set(found) == {
        "save_on_cpu (saves nothing on a CPU)",
        "torch.compile's budget 0.5",
        "torch.compile's budget 0.1",
    }
    on_cpu, half, tenth = found.values()
    assert on_cpu[0] >= 0.99 * plain.plain_peak_bytes
    assert tenth[1] >= half[1] > on_cpu[1], "what is kept no more is computed again"
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


def test_a_model_that_torch_cannot_follow_is_left_out_aloud() -> None:
    class Deciding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, values: Tensor) -> Tensor:
            return self.layer(values) if float(values.sum()) > 0 else self.layer(-values)

    with pytest.warns(OtherMissingWarning, match=r"torch.compile's budget 0\.\d is left out"):
        found = points_of_others(Deciding(), (4, 8))
    assert len(found) == 1


def test_others_are_asked_for_in_pytorch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.frameworks.load", lambda name: pytest)
    with pytest.raises(ValueError, match="others are methods of PyTorch, and pytest is not"):
        study(plain_stack(), (4, 3, 32, 32), budget=0.5, others=True)
