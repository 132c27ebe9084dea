"""Codes at work in TensorFlow: which a policy asks for, what their noise is drawn from, and where they take less."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tf_models.operators import Convolution
from tf_models.saving import Step
from tf_models.saving.coded import MASK_BITS
from tf_models.saving.group_codes import METADATA_BITS
from tf_models.tensorflow_names import keras
from zoo.policy import MemoryPolicy

FIRST_SEED = 0x5EED  # of every model: its own stream, so that building a model moves no other
POSITION_BITS = 4  # of a 3x3 max pool
_OFFERED = "1, 2, 4 or 8 bits, or the scheme L2 (4 bits), or L0 (nothing)"


def code_bits(policy: MemoryPolicy) -> int | None:
    """Bits a value that a policy asks for; None = nothing is coded, or by what `check_codes` refuses.

    Example:
        >>> [code_bits(MemoryPolicy(compressed=name)) for name in (2, "L2", "L0", None)]
        [2, 4, None, None]
    """
    name = policy.compressed
    return 4 if name == "L2" else int(name) if name is not None and str(name).isdecimal() else None


def check_codes(policy: MemoryPolicy, family: str, codes: bool) -> None:
    """Refuse codes that TensorFlow's models are not built with.

    Args:
        policy: see there.
        family: of the model, for errors.
        codes: whether the family is built with codes.

    Raises:
        ValueError: what is not offered, and what is.
    """
    name = policy.compressed
    if name is None or name == "L0":
        return
    if not codes:
        raise ValueError(
            f"compressed={name}: {family} in TensorFlow keeps no codes; use efficient=True, which keeps the states "
            "between chunks of time steps alone, or framework=torch"
        )
    if code_bits(policy) is None:
        raise ValueError(f"compressed={name}: {family} in TensorFlow has {_OFFERED}; use framework=torch for others")


def new_seeds() -> Any:
    """What a model draws its codes' noise from: another one each step, the same ones in each run."""
    return keras.random.SeedGenerator(FIRST_SEED)


def chain_prefers_codes(
    bits: int,
    steps: Sequence[Step],
    sizes: Sequence[int],
    value_bits: int,
    ends_with: str,
    keeps_input: bool,
) -> bool:
    """Whether codes of a chain take fewer bytes than what `efficient` keeps of it.

    Args:
        bits: of codes.
        steps: of the chain, with `recomputes` as `efficient` does it.
        sizes: values a sample that each step reads, and that the last one gives.
        value_bits: of a value that is kept as it is.
        ends_with: the last activation.
        keeps_input: what the first step reads is kept either way.
    """
    width = bits + METADATA_BITS
    exact = coded = 0.0
    for place, (step, size) in enumerate(zip(steps, sizes, strict=False)):
        if place or not keeps_input:
            exact += 0 if place and steps[place - 1].recomputes else size * value_bits
            coded += size * (width + MASK_BITS(step.activation))
    coded += sizes[-1] * (MASK_BITS(ends_with) + (POSITION_BITS if steps[-1].pools else 0))
    return coded < exact


def chain_sizes(
    height: int, width: int, channels: int, convolutions: Sequence[tuple[Convolution, int] | None], pools: bool
) -> list[int]:
    """Values a sample that each step of a chain reads, and that the last one gives.

    Args:
        height, width, channels: of the chain's input.
        convolutions: of each step, with its channels out; None = the step has none.
        pools: a max pool of stride 2 ends the chain.

    Example:
        >>> chain_sizes(8, 8, 3, [(Convolution(3, 2), 16), None], False)
        [192, 256, 256]
    """
    sizes = [height * width * channels]
    for place, given in enumerate(convolutions):
        stride = 2 if pools and place + 1 == len(convolutions) else 1
        if given is not None:
            stride, channels = given[0].stride, given[1]
        height, width = -(-height // stride), -(-width // stride)
        sizes.append(height * width * channels)
    return sizes


def block_prefers_codes(
    bits: int, channels: int, growth: int, bottleneck: int, layers: int, value_bits: int, keeps_bottleneck: bool
) -> bool:
    """Whether codes of a dense block, and of the norm that reads it, take fewer bytes than what `efficient` keeps.

    Args:
        bits: of codes.
        channels: of its input.
        growth: channels of a layer.
        bottleneck: channels of a 1x1 convolution's output; 0 = there is none.
        layers: how many.
        value_bits: of a value that is kept as it is.
        keeps_bottleneck: whether 1x1 outputs would be kept.

    Example:
        >>> [block_prefers_codes(bits, 24, 12, 48, 16, 32, False) for bits in (2, 8)]
        [True, False]
    """
    width = bits + METADATA_BITS
    out = channels + layers * growth
    masks = sum(channels + layer * growth for layer in range(layers))
    coded = (out - growth) * width + masks + layers * bottleneck * (width + 1) + out * (width + 1)
    return coded < value_bits * (out + (layers * bottleneck if keeps_bottleneck else 0))
