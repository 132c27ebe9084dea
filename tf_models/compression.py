"""Codes at work in TensorFlow: which a policy asks for, what their noise is drawn from, and where they take less."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from kernels.codecs import FixedPoint, GroupQuantizer, Half
from tf_models.operators import Convolution
from tf_models.saving import Step
from tf_models.saving.coded import MASK_BITS
from tf_models.saving.forms import AsIs, FixedForm, Form, Forms, GroupForm, HalfForm
from tf_models.saving.learnt_bits import LearntBits
from tf_models.tensorflow_names import is_compiled_by_xla, keras
from zoo.policy import MemoryPolicy
from zoo.schemes import HOOKS, LAYERS, NOTHING

FIRST_SEED = 0x5EED  # of every model: its own stream, so that building a model moves no other
POSITION_BITS = 4  # of a 3x3 max pool
FEWEST_FIXED_BITS = 2  # a sign and a place: whether there are negative values is not known when a graph is made
_OFFERED = (
    "1, 2, 4, 8, fixed:2 to fixed:16, half, bfloat16, L0 to L3, quant<1..16>, quantz<1..16>, autoquant, autoquantz, "
    "autoquant-sr"
)
_HOOKS = "TensorFlow has no hooks on what operators keep"
_SWAP = "what is kept is not moved to host memory in TensorFlow"
_BOTH = "bits that are learnt go without efficient=True in TensorFlow"
_CHUNKS = "convolutions do not run backward in pieces in TensorFlow"


def forms_of(policy: MemoryPolicy) -> Forms | None:
    """The forms that a policy asks for; None = nothing is coded, or by what `check_codes` refuses.

    Where bits are learnt, these are the narrowest.

    Example:
        >>> forms_of(MemoryPolicy(compressed="L1"))
        Forms(norms=AsIs(), inputs=GroupForm(bits=4, shared=False))
        >>> [forms_of(MemoryPolicy(compressed=name)) for name in ("L0", None)]
        [None, None]
    """
    codec, scheme = policy.codec, policy.scheme
    if isinstance(codec, GroupQuantizer):
        return _alike(GroupForm(codec.bits))
    if isinstance(codec, FixedPoint):
        return _alike(FixedForm(codec.bits, stochastic=True))
    if isinstance(codec, Half):
        return _alike(HalfForm(codec.kept))
    if scheme is None or scheme.way == NOTHING or _why_not(policy) is not None:
        return None
    if scheme.way == LAYERS:
        form = GroupForm(int(scheme.bits or 1))
        return Forms(form if scheme.norms else AsIs(), form)
    bits = max(scheme.bits or 0, FEWEST_FIXED_BITS)
    return Forms(FixedForm(bits, scheme.stochastic), FixedForm(bits, scheme.stochastic, scheme.zeros))


def check_codes(policy: MemoryPolicy, family: str, learns_bits: bool) -> None:
    """Refuse codes that TensorFlow's models are not built with.

    Args:
        policy: see there.
        family: of the model, for errors.
        learns_bits: whether the family has bits that are learnt.

    Raises:
        ValueError: what is not offered, why, and what is.
    """
    name = policy.compressed
    if name is None or name == "L0":
        return
    why = _why_not(policy)
    if why is None and not learns_bits and learns(policy):
        why = f"bits are not learnt for {family} in TensorFlow"
    if why is not None:
        raise ValueError(f"compressed={name}: {why}; there are {_OFFERED} for {family}, or use framework=torch")


def with_shared_kernels(policy: MemoryPolicy) -> Forms | None:
    """`forms_of`, coded by the shared kernels.

    Raises:
        ValueError: another form than the group quantiser's, or a function that XLA compiles is being made.
    """
    forms = forms_of(policy)
    if forms is None:
        return None
    both = [replace(one, shared=True) for one in (forms.norms, forms.inputs) if isinstance(one, GroupForm)]
    if len(both) < 2 or learns(policy):
        raise ValueError(
            f"code_kernels='shared' with compressed={policy.compressed}: the shared kernels are for 1, 2, 4 or 8 bits "
            "(or L2) here; give one of those, or code_kernels='operators'"
        )
    if is_compiled_by_xla():
        raise ValueError(
            "code_kernels='shared' with jit_compile=True: XLA compiles TensorFlow's own operators alone, no call of "
            "another library's kernels: set code_kernels='operators', whose codes are the same, or jit_compile=False"
        )
    return Forms(*both)


def refuse_under_xla(policy: MemoryPolicy) -> None:
    """Refuse what XLA compiles without saving a byte.

    Raises:
        ValueError: while a function of `jit_compile=True` is made, zeros are to be stored apart.
    """
    forms = forms_of(policy)
    if forms is None or forms.bytes_follow_from_shapes or not is_compiled_by_xla():
        return
    raise ValueError(
        f"compressed={policy.compressed} with jit_compile=True: how many values are zero is known only while a step "
        "runs, and XLA's buffers have the size of the worst case, so that nothing would be saved: give "
        f"{str(policy.compressed).replace('z', '', 1)}, or jit_compile=False"
    )


def _alike(form: Form) -> Forms:
    return Forms(form, form)


def _why_not(policy: MemoryPolicy) -> str | None:
    """Why a scheme is not offered; None where it is, or where no scheme is asked for."""
    scheme = policy.scheme
    if policy.adapts:
        return _BOTH
    if scheme is None:
        return None
    return _HOOKS if scheme.way == HOOKS else _SWAP if scheme.swap else _CHUNKS if scheme.chunks else None


def new_learnt_bits(policy: MemoryPolicy, parts: int, norms: int) -> LearntBits | None:
    """What a model learns its bits by; None = its policy says them all.

    Args:
        policy: see there.
        parts, norms: of the model.
    """
    return LearntBits(policy.scheme, 2 * parts, norms) if policy.scheme is not None and learns(policy) else None


def learns(policy: MemoryPolicy) -> bool:
    """Whether bits follow from what backward passes tell.

    Example:
        >>> [learns(MemoryPolicy(compressed=name)) for name in ("L3", "autoquantz", "L2", 2)]
        [True, True, False, False]
    """
    return policy.scheme is not None and policy.scheme.learns


def new_seeds() -> Any:
    """What a model draws its codes' noise from: another one each step, the same ones in each run."""
    return keras.random.SeedGenerator(FIRST_SEED)


def chain_prefers_codes(
    forms: Forms,
    steps: Sequence[Step],
    sizes: Sequence[int],
    value_bits: int,
    ends_with: str,
    keeps_input: bool,
) -> bool:
    """Whether codes of a chain take fewer bytes than what `efficient` keeps of it.

    Args:
        forms: of codes.
        steps: of the chain, with `recomputes` as `efficient` does it.
        sizes: values a sample that each step reads, and that the last one gives.
        value_bits: of a value that is kept as it is.
        ends_with: the last activation.
        keeps_input: what the first step reads is kept either way.
    """
    exact = coded = 0.0
    for place, (step, size) in enumerate(zip(steps, sizes, strict=False)):
        if place or not keeps_input:
            exact += 0 if place and steps[place - 1].recomputes else size * value_bits
            form = forms.inputs if step.norm is None else forms.norms
            coded += size * (form.width + MASK_BITS(step.activation))
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
    width: float, channels: int, growth: int, bottleneck: int, layers: int, value_bits: int, keeps_bottleneck: bool
) -> bool:
    """Whether codes of a dense block, and of the norm that reads it, take fewer bytes than what `efficient` keeps.

    Args:
        width: bits a coded value.
        channels: of its input.
        growth: channels of a layer.
        bottleneck: channels of a 1x1 convolution's output; 0 = there is none.
        layers: how many.
        value_bits: of a value that is kept as it is.
        keeps_bottleneck: whether 1x1 outputs would be kept.

    Example:
        >>> [block_prefers_codes(width, 24, 12, 48, 16, 32, False) for width in (2.125, 8.125)]
        [True, False]
    """
    out = channels + layers * growth
    masks = sum(channels + layer * growth for layer in range(layers))
    coded = (out - growth) * width + masks + layers * bottleneck * (width + 1) + out * (width + 1)
    return coded < value_bits * (out + (layers * bottleneck if keeps_bottleneck else 0))
