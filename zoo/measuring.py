"""One measured training step, refused in plain words where no such step can run."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from zoo.report import MIB, MemoryReport

IMAGE_CHANNELS = 3
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


def image_shape_for(model: Any, image_size: int | None, batch_size: int) -> tuple[int, ...]:
    """The shape of the images to measure with: of the size asked for, else of what the network was published for.

    Raises:
        ValueError: too small for the network, with the smallest that works; too large for any machine; unknown.
    """
    spec = getattr(model, "spec", None)
    if getattr(spec, "is_language_model", False):
        return _tokens_shape(spec, image_size, batch_size)
    size = image_size
    if size is None:
        size = getattr(spec, "image_size", None)
        if size is None:
            kind = type(model).__name__
            raise ValueError(f"measure: {kind} has no spec that tells its image size: give image_size=<pixels>")
    smallest = getattr(spec, "smallest_image_size", None)
    least = 1 if smallest is None else smallest(batch_size)
    if size < least:
        raise ValueError(
            f"measure: image_size={size} is too small: this network halves it until nothing is left; "
            f"with batch_size={batch_size} the smallest that works is {least}"
        )
    channels = getattr(spec, "in_chans", IMAGE_CHANNELS)
    if batch_size * channels * size**2 > MOST_INPUT_VALUES:
        raise ValueError(
            f"measure: batch_size={batch_size} images of {size} x {size} pixels are more than any machine holds: "
            "give a smaller batch_size or image_size"
        )
    return batch_size, channels, size, size


def _tokens_shape(spec: Any, image_size: int | None, batch_size: int) -> tuple[int, ...]:
    from zoo.lstm import TOKENS

    if image_size is not None:
        raise ValueError(f"measure: image_size={image_size}: a language model reads no images: leave it out")
    if batch_size * TOKENS > MOST_INPUT_VALUES:
        raise ValueError(f"measure: batch_size={batch_size} texts are more than any machine holds: give a smaller one")
    shape: tuple[int, ...] = spec.sequence_shape(TOKENS, batch_size)
    return shape
