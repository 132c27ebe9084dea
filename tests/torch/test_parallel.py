"""Two processes (DistributedDataParallel, FSDP2) train a model that saves memory as one does on the joint batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from gloo_processes import run_processes
from parallel_worker import KINDS, prepared, train
from tiny_densenet import assert_same, pair

PROCESSES = 2


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parallel")
    run_processes("parallel_worker.py", folder, PROCESSES)
    return folder


@pytest.mark.parametrize(("parallel", "segments"), KINDS)
def test_two_processes_are_as_one_with_the_joint_batch(trained: Path, parallel: str, segments: str) -> None:
    alone = pair()[0].eval()
    losses = train(alone)
    for rank in range(PROCESSES):
        found = torch.load(trained / f"{parallel}-{segments}-{rank}.pt", weights_only=True)
        assert found["losses"] == pytest.approx(losses, rel=1e-12)
        assert_same(found["state"], dict(alone.state_dict()))


def test_the_prepared_models_are_segments() -> None:
    """Else the cases above would be one case."""
    assert prepared("stages").is_gradient_checkpointing
    assert prepared("blocks").features.denseblock1.config.activation_checkpointing
    assert not prepared("none").is_gradient_checkpointing
