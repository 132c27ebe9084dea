"""One process of a DistributedDataParallel test: importable, because spawned processes import what they run."""

from __future__ import annotations

from pathlib import Path

import torch
from tiny_densenet import images, pair
from torch import distributed
from torch.nn.parallel import DistributedDataParallel


def gradients_of_shard(rank: int, processes: int, folder: str) -> None:
    """Train one step on this rank's images and leave the averaged gradients in `folder`."""
    store = distributed.FileStore(str(Path(folder) / "store"), processes)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=processes)
    try:
        _, model = pair(efficient=True)
        wrapped = DistributedDataParallel(model)
        wrapped(images(8).chunk(processes)[rank]).square().mean().backward()
        torch.save({n: p.grad for n, p in model.named_parameters()}, Path(folder) / f"{rank}.pt")
    finally:
        distributed.destroy_process_group()
