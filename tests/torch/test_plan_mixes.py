"""Plans that mix codes, stretches that run again and parts kept as they are: predicted right, and run as planned."""

from __future__ import annotations

import pytest
import torch
from foreign_models import UNet
from torch import Tensor, nn

from pytorch_models.compression import NoiseSeeds
from pytorch_models.planning import sweep_plans
from pytorch_models.planning.coding import Coded
from pytorch_models.segments import run_as_segment


def test_a_model_with_skips_is_predicted_within_ten_percent_in_any_mix() -> None:
    """Skips lie there until they are read, and a container's argument until it returns, whoever needs them."""
    torch.manual_seed(0)
    found = sweep_plans(UNet(), (4, 3, 32, 32), [0.8, 0.65, 0.5], allow=("recompute", "compress"), times="counted")
    for plan in (*found.plans, *found.methods.values()):
        assert plan.predicted_peak_bytes == pytest.approx(plan.peak_bytes, rel=0.1)  # type: ignore[union-attr]
        assert plan.peak_bytes <= plan.budget_bytes  # type: ignore[union-attr]


def test_codes_beside_a_stretch_do_not_run_it_again_in_the_forward_pass() -> None:
    runs = []

    class Counted(nn.Sequential):
        def forward(self, values: Tensor) -> Tensor:
            runs.append(len(runs))
            return super().forward(values)

    stretch = Counted(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
    layer = Coded(nn.Conv2d(8, 8, 3, padding=1), 4, NoiseSeeds())
    images = torch.randn(4, 8, 16, 16, requires_grad=True)
    outputs = layer(run_as_segment([stretch], lambda values: stretch(values), images))
    assert len(runs) == 1
    outputs.sum().backward()
    assert len(runs) == 2
