"""What to do when a training step does not fit: the flags that need less, with the bytes they need."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator

import torch
from torch import nn

from pytorch_models.measure import measure_step
from zoo.data.text_data import Data
from zoo.options import TrainingError, TrainingOptions
from zoo.policy import MemoryPolicy
from zoo.report import MIB

# Other than on a GPU, PyTorch has no exception type for it.
_SIGNS = ("can't allocate memory", "not enough memory", "bad_alloc", "could not create a memory object")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on a GPU or a CPU."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


@contextlib.contextmanager
def explain_out_of_memory(
    model: nn.Module, data: Data, options: TrainingOptions, device: torch.device
) -> Iterator[None]:
    """Inside, running out of memory becomes a TrainingError that names flags which need less, and how much."""
    try:
        yield
    except TrainingError:
        raise
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        traceback.clear_frames(error.__traceback__)  # they hold the tensors of the failed step
        advice = "try --efficient True, or a smaller --batch_size"
        with contextlib.suppress(MemoryError, RuntimeError):  # no memory is left for measuring: the short advice it is
            lines = alternatives(model, data.train_inputs.shape[1:], options.batch_size)
            advice = "\n".join(
                ["memory of a training step in float32, model excluded:", *(f"  {line}" for line in lines)]
            )
        raise TrainingError(
            f"out of memory on {device} with batch_size={options.batch_size} ({reason});\n{advice}"
        ) from None


def alternatives(model: nn.Module, image_shape: tuple[int, ...], batch_size: int) -> list[str]:
    """Lines of flags and the bytes of a step with them: as it is, saving more, with smaller batches.

    The bytes are counted without computing anything (`measure_step` with `execute=False`), in float32.
    """
    from pytorch_models import build_model  # that package imports this module

    twins = {"": model}
    own = getattr(model, "policy", None)
    if isinstance(own, MemoryPolicy) and not own.recompute_bottleneck and hasattr(model, "spec"):
        flags = "--efficient True --keep_bottleneck False" if own.efficient else "--efficient True"
        twins[flags] = build_model(model.spec, MemoryPolicy(efficient=True))
    lines = []
    for flags, twin in twins.items():
        for batch in sorted({batch_size, max(batch_size // 2, 1), max(batch_size // 4, 1)}, reverse=True):
            smaller = f"--batch_size {batch}" if batch != batch_size else ""
            device = next(iter(twin.parameters())).device
            report = measure_step(twin, (batch, *image_shape), device=str(device), repeats=0, execute=False)
            name = f"{flags} {smaller}".strip() or "as it is"
            lines.append(f"{name}: about {report.peak_bytes / MIB:.0f} MiB")
    return lines
