"""One measured training step, refused in plain words where no such step can run."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from zoo.report import MIB, MemoryReport

SMALL_IMAGE_SIZE, LARGE_IMAGE_SIZE, IMAGE_CHANNELS = 32, 224, 3
MOST_INPUT_VALUES = 2**50  # more are a slip of the pen, and overflow what counts the bytes


def measure_or_explain(package: ModuleType, model: Any, shape: tuple[int, ...], device: str) -> MemoryReport:
    """`package.measure_step`; where memory runs out, an error that says how much the step needs.

    Raises:
        MemoryError: with the bytes, and what needs less.
    """
    try:
        report: MemoryReport = package.measure_step(model, shape, device=device)
    except (RuntimeError, MemoryError) as error:
        if not package.is_out_of_memory(error):
            raise
    else:
        return report
    # Outside the handler: the error there holds the frames, and with them the memory, of the step that failed.
    needed = package.measure_step(model, shape, device=device, repeats=0, execute=False)
    policy = getattr(model, "policy", None)
    saving = "" if getattr(policy, "efficient", False) else "--efficient, or "
    raise MemoryError(
        f"out of memory on {device}: a step of {shape[0]} images of {shape[-2]} x {shape[-1]} pixels needs "
        f"{needed.peak_bytes / MIB:,.0f} MiB ({needed.peak_bytes:,} bytes) beside the model: "
        f"try {saving}a smaller batch_size or image_size"
    )


def image_size_for(model: Any, image_size: int | None, batch_size: int) -> int:
    """The height and width to measure with: as asked for, else what the network was published for.

    Raises:
        ValueError: too small for the network, with the smallest that works; too large for any machine; unknown.
    """
    spec = getattr(model, "spec", None)
    small_inputs = getattr(spec, "small_inputs", None)
    size = image_size
    if size is None:
        if small_inputs is None:
            kind = type(model).__name__
            raise ValueError(f"measure: {kind} has no spec that tells its image size: give image_size=<pixels>")
        size = SMALL_IMAGE_SIZE if small_inputs else LARGE_IMAGE_SIZE
    if small_inputs is not None:
        least = smallest_image_size(len(getattr(spec, "block_config", ())), small_inputs, batch_size)
        if size < least:
            raise ValueError(
                f"measure: image_size={size} is too small: this network halves it until nothing is left; "
                f"with batch_size={batch_size} the smallest that works is {least}"
            )
    if batch_size * IMAGE_CHANNELS * size**2 > MOST_INPUT_VALUES:
        raise ValueError(
            f"measure: batch_size={batch_size} images of {size} x {size} pixels are more than any machine holds: "
            "give a smaller batch_size or image_size"
        )
    return size


def smallest_image_size(blocks: int, small_inputs: bool, batch_size: int) -> int:
    """The fewest pixels that a DenseNet of so many blocks can be trained on.

    Every transition halves the size, rounding down; the ImageNet stem quarters it before, rounding up. A single
    image needs two pixels at the end, because a norm cannot train on one value per channel.

    Example:
        >>> smallest_image_size(3, small_inputs=True, batch_size=64), smallest_image_size(4, False, 64)
        (4, 29)
    """
    after_stem = (1 if batch_size > 1 else 2) << max(blocks - 1, 0)
    return after_stem if small_inputs else 4 * after_stem - 3
