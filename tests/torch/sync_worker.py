"""One of two gloo processes that take the batch statistics of their joint batch on a CPU; for test_sync_norm.py."""

from __future__ import annotations

from pathlib import Path

import torch
from gloo_processes import main
from torch import distributed as dist
from torch import nn

from pytorch_models import ResNet

SHAPE = {"block": "bottleneck", "layers": (1, 1), "width": 8, "small_inputs": False, "num_classes": 3}
SHARES = (slice(0, 5), slice(5, 8))  # of different sizes: statistics are of all images, not of means of shares


def joint_batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Eight images and labels."""
    images = torch.randn(8, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return images, torch.arange(8) % 3


def network() -> ResNet:
    """The same weights in every process."""
    torch.manual_seed(0)
    return ResNet(**SHAPE, efficient=True).double()


def step(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, world: int) -> None:
    """Gradients of the mean loss over the joint batch; processes average theirs."""
    (nn.functional.cross_entropy(model(images), labels, reduction="sum") * world / 8).backward()


def work(rank: int, world: int, folder: Path) -> None:
    """Write this process's gradients and buffers."""
    model = nn.SyncBatchNorm.convert_sync_batchnorm(network())
    images, labels = joint_batch()
    step(model, images[SHARES[rank]], labels[SHARES[rank]], world)
    for parameter in model.parameters():  # by hand: DistributedDataParallel refuses this norm's type on a CPU
        dist.all_reduce(parameter.grad)
        parameter.grad /= world
    found = {name: parameter.grad for name, parameter in model.named_parameters()} | dict(model.named_buffers())
    torch.save(found, folder / f"{rank}.pt")


if __name__ == "__main__":
    main(work)
