"""One process of a DistributedDataParallel test; started by test_densenet_ddp.py."""

from __future__ import annotations

from pathlib import Path

import torch
from gloo_processes import main
from tiny_densenet import images, pair
from torch.nn.parallel import DistributedDataParallel


def gradients_of_shard(rank: int, processes: int, folder: Path) -> None:
    """Train one step on this rank's images and leave the averaged gradients in `folder`."""
    _, model = pair(efficient=True)
    wrapped = DistributedDataParallel(model)
    wrapped(images(8).chunk(processes)[rank]).square().mean().backward()
    torch.save({n: p.grad for n, p in model.named_parameters()}, folder / f"{rank}.pt")


if __name__ == "__main__":
    main(gradients_of_shard)
