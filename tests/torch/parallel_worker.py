"""One of two processes that train a model together; started by test_parallel.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from gloo_processes import main
from tiny_densenet import images, pair
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from pytorch_models import DenseNet, checkpoint_segments

STEPS, SAMPLES = 3, 8
KINDS = tuple((parallel, segments) for parallel in ("ddp", "fsdp2") for segments in ("none", "stages", "blocks"))


def prepared(checkpointing: str) -> DenseNet:
    """The same efficient model in every process; norms use their running statistics, which see the joint batch."""
    _, model = pair(efficient=True)
    if checkpointing == "stages":
        model.set_grad_checkpointing()
    elif checkpointing == "blocks":
        checkpoint_segments(model, ["features.denseblock*", "features.transition*"])
    return model.eval()


def train(model: nn.Module, rank: int = 0, world: int = 1) -> list[float]:
    """A few steps on this process's share of each batch; the losses of the joint batches."""
    optimizer = torch.optim.SGD(model.parameters(), 0.02, momentum=0.9)
    losses = []
    for seed in range(STEPS):
        pixels, labels = images(SAMPLES, seed=seed)[rank::world], (torch.arange(SAMPLES) % 5)[rank::world]
        loss = F.cross_entropy(model(pixels), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        joint = loss.detach() / world
        if world > 1:
            distributed.all_reduce(joint)
        losses.append(float(joint))
    return losses


def whole(state: dict[str, Any]) -> dict[str, Tensor]:
    """Sharded parameters put together."""
    return {name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in state.items()}


def work(rank: int, world: int, folder: Path) -> None:
    """Train once per kind, (how it is made parallel, what is a segment), and leave what came out in `folder`."""
    for parallel, checkpointing in KINDS:
        model = prepared(checkpointing)
        if parallel == "ddp":
            losses = train(DistributedDataParallel(model), rank, world)
        else:
            for block in (model.features.denseblock1, model.features.denseblock2):
                fully_shard(block)
            fully_shard(model)
            assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
            losses = train(model, rank, world)
        content = {"losses": losses, "state": whole(model.state_dict())}
        torch.save(content, folder / f"{parallel}-{checkpointing}-{rank}.pt")


if __name__ == "__main__":
    main(work)
