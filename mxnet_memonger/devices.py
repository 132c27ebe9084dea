"""Where MXNet computes: seeds, devices, and what its errors say."""

from __future__ import annotations

from typing import Any

import numpy as np

from mxnet_memonger.numpy_names import mx
from zoo.options import TrainingOptions
from zoo.refusals import Request, check_offered

_SIGNS = ("memory allocation failed", "failed to allocate", "out of memory", "cannot allocate memory", "bad_alloc")


def set_seed(seed: int) -> None:
    """Seed everything MXNet draws from; call it before the model is built.

    MXNet takes 32 bits: a larger seed is mixed into them. Its initialisers draw from NumPy's global generator in
    parts, which is seeded too.

    Example:
        >>> set_seed(2**40); first = mx.nd.random.uniform(shape=2); set_seed(2**40)
        >>> bool((first == mx.nd.random.uniform(shape=2)).asnumpy().all())
        True
    """
    mixed = int(np.random.SeedSequence(seed).generate_state(1)[0])
    mx.random.seed(mixed & 0x7FFFFFFF)
    np.random.seed(mixed)


def check_device(device: str, amp: bool = False) -> None:
    """Refuse a device or precision that is not there, before any work.

    Args:
        device: "auto", "cpu", "cuda" or "cuda:<number>".
        amp: mixed precision, which this package does not offer in MXNet.

    Raises:
        ValueError: another word; a GPU is asked for and this MXNet has none, or mixed precision is.
    """
    check_offered("mxnet", Request(options=TrainingOptions(amp=amp, device=device)))
    if not device.startswith("cuda"):
        return
    count = mx.context.num_gpus() if mx.runtime.Features().is_enabled("CUDA") else 0
    if int(device.partition(":")[2] or 0) >= count:
        built = "built without CUDA" if not count else f"sees {count} GPU(s)"
        raise ValueError(f"device={device}: MXNet {mx.__version__} is {built}; use device=cpu, or framework=torch")


def context_of(device: str) -> Any:
    """MXNet's context for a device; "auto" is the first GPU if there is one."""
    check_device(device if device != "auto" else "cpu")
    has_gpu = mx.runtime.Features().is_enabled("CUDA") and mx.context.num_gpus() > 0
    if device == "cpu" or (device == "auto" and not has_gpu):
        return mx.cpu()
    return mx.gpu(int(device.partition(":")[2] or 0))


def device_name(context: Any) -> str:
    """A context as this project names devices."""
    return "cpu" if context.device_type == "cpu" else f"cuda:{context.device_id}"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out.

    Example:
        >>> is_out_of_memory(MemoryError()), is_out_of_memory(ValueError("cannot allocate memory"))
        (True, False)
    """
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, mx.MXNetError) and any(sign in str(error).lower() for sign in _SIGNS)
