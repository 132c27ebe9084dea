"""Where PyTorch computes: seeds, the devices a training run uses, and their type for mixed precision."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from zoo.launch import Launch


@dataclass(frozen=True)
class Worker:
    """One of the processes that train together: its device, its number, and how many there are."""

    device: torch.device
    rank: int = 0
    world: int = 1


def set_seed(seed: int) -> None:
    """Seed everything PyTorch draws from; call it before the model is built.

    Example:
        >>> set_seed(0); first = torch.rand(2); set_seed(0); bool((torch.rand(2) == first).all())
        True
    """
    torch.manual_seed(seed)


def check_device(device: str, amp: bool = False) -> None:
    """Refuse a device that is not there, before any work.

    Args:
        device: "auto", "cpu", "cuda" or "cuda:<number>".
        amp: mixed precision; every device has a type for it (bfloat16, or float16 with loss scaling).

    Raises:
        ValueError: a GPU is asked for and this PyTorch sees none, or not so many.
    """
    if not device.startswith("cuda"):
        return
    if not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        raise ValueError(
            f"device={device}: PyTorch {torch.__version__.split('+')[0]} ({built}) sees no GPU; "
            "use device=cpu, or install a CUDA build of PyTorch and check nvidia-smi"
        )
    number, count = int(device.partition(":")[2] or 0), torch.cuda.device_count()
    if number >= count:
        raise ValueError(f"device={device}: only {count} GPU(s) are visible, cuda:0 to cuda:{count - 1}")


def devices_for(device: str) -> list[torch.device]:
    """The devices to train on: every visible GPU for "auto" and "cuda", else the one named."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        return [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
    return [torch.device(device)]


def device_of(device: str, launch: Launch) -> torch.device:
    """The device of one process of a launch: the GPU of its number on this machine, or the CPU.

    Raises:
        ValueError: one GPU is asked for by number; or the machine has fewer GPUs than processes.
    """
    if launch.world > 1 and ":" in device:
        raise ValueError(
            f"device={device} with {launch.world} processes: give device=cuda, each takes a GPU of its own"
        )
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if ":" in device:
        return torch.device(device)
    if launch.local_rank >= torch.cuda.device_count():
        raise ValueError(
            f"process {launch.local_rank} of this machine has no GPU: {torch.cuda.device_count()} are visible; "
            "start as many processes as there are GPUs (--nproc-per-node), or give device=cpu"
        )
    return torch.device("cuda", launch.local_rank)


def amp_dtype(device: torch.device) -> torch.dtype:
    """The type of mixed precision: bfloat16 where the device computes in it, else float16 (with loss scaling)."""
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float16
    return torch.bfloat16
