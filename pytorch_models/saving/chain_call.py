"""What one call of a chain of units needs to know, read off its modules before the Function runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pytorch_models.compression import NormCodec
from pytorch_models.saving.activation import Activation
from pytorch_models.saving.keeping import InputKeeping
from pytorch_models.saving.norm import check_batch_has_a_variance, uses_batch_statistics
from pytorch_models.saving.sync import group_of
from pytorch_models.saving.unit_call import (
    UNIT_PARAMETERS,
    Convolution,
    Unit,
    autocast_dtype_of,
    unit_parameters,
)


class Step(NamedTuple):
    """convolution(activation(norm(values))) by modules; what is None is left out.

    Args:
        norm: BatchNorm1d, 2d, 3d or SyncBatchNorm; only a chain's first step may have none.
        activation: one of `activation.ACTIVATIONS`; None without a norm.
        convolution: Conv1d, 2d or 3d; only a chain's last step may have none.
        keep_input: keep the step's input for the backward pass. False: it is computed again there from the step
            before. A chain's own input is always kept.
    """

    norm: nn.Module | None
    activation: nn.Module | None
    convolution: nn.Module | None
    keep_input: bool = True

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """Those that there are, in the order they run."""
        return tuple(m for m in (self.norm, self.activation, self.convolution) if m is not None)


@dataclass(frozen=True)
class ChainCall:
    """One chain in one call.

    Args:
        units: in order.
        kept: per unit, whether its input is kept.
        coded: per unit, whether in codes, with its activation's mask.
        needs_values: per unit, whether a gradient needs its input's values, or its mask alone.
        codec: of coded inputs.
        noise_seed: of their rounding.
        plain_order: the modules' own operators run in the forward pass.
        compute_dtype: of the convolutions.
        adds_inputs: the chain's own input is added to what its last step gives (before its activation).
        channels_last: outputs of the first convolution are laid out so.
        keeps_graph: a backward pass may follow.
    """

    units: tuple[Unit, ...]
    kept: tuple[bool, ...]
    coded: tuple[bool, ...]
    needs_values: tuple[bool, ...]
    codec: NormCodec | None
    noise_seed: int
    plain_order: bool
    compute_dtype: torch.dtype
    adds_inputs: bool
    channels_last: bool
    keeps_graph: bool


def read_chain(
    inputs: Tensor,
    steps: Sequence[Step],
    keeping: InputKeeping,
    *,
    adds_inputs: bool,
    channels_last: bool,
    inputs_coded: bool,
    shortcut_tracked: bool,
) -> tuple[ChainCall, list[Tensor | None]]:
    """Facts and parameters of a chain whose steps are known to be eligible.

    Raises:
        ValueError: inputs that a norm refuses, or in another dtype than the first convolution.
    """
    parameters: list[Tensor | None] = []
    units = []
    for step in steps:
        start = len(parameters)
        parameters += unit_parameters(step.norm, step.convolution, step.activation)
        norm = step.norm
        assert norm is None or isinstance(norm, nn.modules.batchnorm._BatchNorm), "checked by eligibility"
        units.append(
            Unit(
                norm,
                norm is not None and uses_batch_statistics(norm),
                None if step.convolution is None else Convolution.of(step.convolution),  # type: ignore[arg-type]
                slice(start, start + UNIT_PARAMETERS),
                Activation.of(step.activation or nn.Identity()),
                None if norm is None else group_of(norm),
            )
        )
    first = units[0]
    if first.norm is not None:
        first.norm._check_input_dim(inputs)
        if first.batch_statistics and first.group is None:
            check_batch_has_a_variance(inputs.shape)
    dtype = _compute_dtype(inputs, [parameters[unit.parameters][2] for unit in units])
    if first.norm is None and inputs.dtype != dtype and autocast_dtype_of(inputs.device) is None:
        raise ValueError(f"a convolution in {dtype} got inputs in {inputs.dtype}: give inputs.to({dtype}), or autocast")
    codec = keeping.codec
    coded = tuple(
        codec is not None and (inputs_coded if unit.norm is None else unit.activation.may_be_coded) for unit in units
    )
    call = ChainCall(
        tuple(units),
        # Beside codes nothing is computed again: what follows from noisy values would meet them in products.
        tuple(step.keep_input or index == 0 or codec is not None for index, step in enumerate(steps)),
        coded,
        tuple(_needs_values(inputs, unit, parameters) for unit in units),
        codec,
        keeping.noise_seed,
        keeping.plain_order,
        dtype,
        adds_inputs,
        channels_last,
        torch.is_grad_enabled() and (shortcut_tracked or _any_tracked(inputs, *parameters)),
    )
    return call, parameters


def _needs_values(inputs: Tensor, unit: Unit, parameters: Sequence[Tensor | None]) -> bool:
    """Whether a gradient depends on the unit's input, beyond its activation's mask."""
    norm_weight, _, weight, _, _ = parameters[unit.parameters]
    below = _any_tracked(inputs, *parameters[: unit.parameters.start])
    return _any_tracked(norm_weight, weight) or (unit.batch_statistics and below)


def _any_tracked(*tensors: Tensor | None) -> bool:
    return any(tensor is not None and tensor.requires_grad for tensor in tensors)


def _compute_dtype(inputs: Tensor, weights: Sequence[Tensor | None]) -> torch.dtype:
    weight = next((weight for weight in weights if weight is not None), None)
    if weight is None:
        return inputs.dtype
    autocast_dtype = autocast_dtype_of(inputs.device)
    return weight.dtype if autocast_dtype is None or weight.dtype == torch.float64 else autocast_dtype
