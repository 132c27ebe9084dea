"""DistributedDataParallel averages the gradients of a model that saves memory like those of a plain one."""

from __future__ import annotations

from pathlib import Path

import torch
from gloo_processes import run_processes
from tiny_densenet import assert_same, images, pair

PROCESSES = 2


def test_two_processes_average_what_the_plain_model_computes(tmp_path: Path) -> None:
    plain, _ = pair()
    shards = images(8).chunk(PROCESSES)
    for shard in shards:
        buffers = {name: buffer.clone() for name, buffer in plain.named_buffers()}
        (plain(shard).square().mean() / PROCESSES).backward()
        for name, buffer in plain.named_buffers():
            buffer.copy_(buffers[name])
    run_processes("ddp_worker.py", tmp_path, PROCESSES)
    expected = {n: p.grad for n, p in plain.named_parameters()}
    for rank in range(PROCESSES):
        assert_same(torch.load(tmp_path / f"{rank}.pt", weights_only=True), expected)
