"""How the inputs of norms are kept: as they are or coded, and who takes over a gradient."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from pytorch_models.compression import NoiseSeeds, NormCodec
from pytorch_models.saving.dense_call import BlockCall
from pytorch_models.saving.gradient_sink import GradientSink
from pytorch_models.saving.unit_call import autocast_dtype_of
from zoo.kept_values import KeptValues
from zoo.policy import MemoryPolicy


@dataclass(frozen=True)
class InputKeeping:
    """One call's decisions.

    Args:
        codec: keep the normalised input as codes, and masks; None = keep the input itself.
        noise_seed: of the codes' rounding.
        plain_order: the modules themselves run in the forward pass, so that outputs are the plain model's to the bit.
        sink: where the block that made the input takes over its gradient.
        block: a `compressed.block_bits.BlockBits`, by which what the block reads is coded; None = by the codec.
    """

    codec: NormCodec | None = None
    noise_seed: int = 0
    plain_order: bool = False
    sink: GradientSink | None = None
    block: Any = None

    @classmethod
    def of(cls, policy: MemoryPolicy, seeds: NoiseSeeds, made_by: BlockCall | None = None) -> InputKeeping:
        """What a policy asks for.

        Args:
            made_by: the call of the dense block whose output the input is, if nobody else reads it. Where that block
                keeps its output as it is, codes would be bytes on top.
        """
        codec = NormCodec.of(policy) if torch.is_grad_enabled() else None
        if made_by is not None and not made_by.storage.features_coded:
            codec = None
        seed = 0 if codec is None else seeds.next()
        return cls(codec, seed, not policy.recomputes, None if made_by is None else made_by.sink)


@dataclass(frozen=True)
class NetworkKeeping:
    """How all parts of one network keep what they keep: by its policy, in codes only where those take less.

    Args:
        network: the values that it keeps.
    """

    policy: MemoryPolicy
    network: KeptValues
    seeds: NoiseSeeds = field(default_factory=NoiseSeeds)

    def codes_at(self, part: nn.Module) -> bool:
        """Whether this part keeps codes, with the dtype of its parameters or under the autocast of now."""
        weight = next(part.parameters(), None)
        if weight is None:
            return False
        dtype = autocast_dtype_of(weight.device)
        narrow = dtype is not None and weight.dtype != torch.float64
        return self.network.codes_pay(self.policy, (dtype if narrow else weight.dtype).itemsize)  # type: ignore[union-attr]

    @torch.compiler.disable(reason="a new seed at every call is not part of a graph")
    def of(self, part: nn.Module) -> InputKeeping:
        """For one chain or norm of a part, with noise of its own."""
        if self.policy.codec is not None and not self.codes_at(part):
            return InputKeeping()
        return replace(InputKeeping.of(self.policy, self.seeds), block=vars(part).get("block_bits"))
