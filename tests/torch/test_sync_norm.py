"""SyncBatchNorm on a CPU: two processes with a share of the batch each get what one gets with the whole of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from families import assert_same
from gloo_processes import run_processes
from sync_worker import joint_batch, network, step
from torch import nn


@pytest.mark.quick
def test_two_processes_equal_one(tmp_path: Path) -> None:
    run_processes("sync_worker.py", tmp_path)
    model = network()
    step(model, *joint_batch(), 1)
    expected = {name: parameter.grad for name, parameter in model.named_parameters()} | dict(model.named_buffers())
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert_same(found, expected)
    assert int(found["bn1.num_batches_tracked"]) == 1


def test_alone_it_is_a_norm_like_others_on_a_cpu() -> None:
    model = nn.SyncBatchNorm.convert_sync_batchnorm(network())
    plain = network()
    for one in (model, plain):
        step(one, *joint_batch(), 1)
    assert_same(*({name: p.grad for name, p in one.named_parameters()} for one in (model, plain)))
