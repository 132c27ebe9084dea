"""ResNet and MobileNetV2 compute what torchvision's networks of the same weights compute, with every memory flag."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fixed_weights import fill, fixed_images

import zoo
from pytorch_models import build_model
from zoo.policy import MemoryPolicy

LINES = Path(__file__).with_name("torchvision_scores.txt").read_text().splitlines()[1:]
SCORES = {name: [float(score) for score in scores] for name, *scores in (line.split() for line in LINES)}


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("policy", [MemoryPolicy(), MemoryPolicy(efficient=True)], ids=str)
def test_scores_are_torchvisions(name: str, policy: MemoryPolicy) -> None:
    with torch.no_grad():
        scores = fill(build_model(zoo.find_config(name), policy))(fixed_images())
    assert scores[1, :4].tolist() == pytest.approx(SCORES[name], rel=1e-9)
