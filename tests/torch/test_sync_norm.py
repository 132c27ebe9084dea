"""SyncBatchNorm on a CPU: two processes with a share of the batch each get what one gets with the whole of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from families import assert_same
from sync_worker import joint_batch, network, step
from torch import nn

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.quick
def test_two_processes_equal_one(tmp_path: Path) -> None:
    worker = Path(__file__).with_name("sync_worker.py")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    commands = [[sys.executable, str(worker), str(rank), str(tmp_path / "store"), str(tmp_path)] for rank in range(2)]
    workers = [subprocess.Popen(c, env=environment, stderr=subprocess.PIPE, text=True) for c in commands]
    for process in workers:
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors
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
