"""What a chain of norms, activations and convolutions is given: how its steps run, and their tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tf_models.norms import Norm
from tf_models.operators import Convolution


@dataclass(frozen=True)
class Step:
    """One norm, activation and convolution, or some of them.

    Args:
        norm: None = none; then there is no activation either.
        activation: "relu", "relu6" or "".
        convolution: None = none.
        recomputes: the convolution's output is not kept but computed again.
        pools: a 3x3 max pool ends the step instead of a convolution.
    """

    norm: Norm | None = None
    activation: str = ""
    convolution: Convolution | None = None
    recomputes: bool = False
    pools: bool = False


@dataclass(frozen=True)
class StepValues:
    """The tensors of a step.

    Args:
        scale: gamma and beta of the norm, or ().
        running: mean and variance of a norm that does not train.
        weights: kernel and, perhaps, bias of the convolution, or ().
    """

    scale: tuple[Any, ...] = ()
    running: tuple[Any, Any] | None = None
    weights: tuple[Any, ...] = ()
