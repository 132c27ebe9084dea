"""How many values a network keeps for its backward pass, and whether codes of them take less than computing again."""

from __future__ import annotations

import math
from typing import NamedTuple

from zoo.policy import MemoryPolicy

_MANY = 2**16  # values of which a codec's bytes a value are taken


class KeptValues(NamedTuple):
    """What one image's forward pass makes, in values; any common factor is left out.

    Args:
        norm_inputs: inputs of norms.
        mask_bits: of the exact masks of the activations after them.
        block_inputs: what convolutions read that is no norm's activation: sums, and outputs of pools.
        recomputed: inputs of norms that `efficient` computes again.
        last_outputs: the last activation's, which tell its gradient; beside codes its mask does.
    """

    norm_inputs: float
    mask_bits: float
    block_inputs: float
    recomputed: float
    last_outputs: float = 0

    def codes_pay(self, policy: MemoryPolicy, value_bytes: int) -> bool:
        """Whether a policy's codes and masks take fewer bytes than what it would keep without them.

        They always do where it computes nothing again, and nearly always else: not so for values of 2 bytes in
        codes of 9 bits and more.

        Args:
            value_bytes: of a value as it is, 4 for float32.

        Example:
            >>> values = KeptValues(norm_inputs=6, mask_bits=6, block_inputs=4, recomputed=4)
            >>> policies = [MemoryPolicy(efficient=True, compressed=c) for c in (2, 8, "half")]
            >>> [values.codes_pay(policy, 4) for policy in policies], values.codes_pay(policies[2], 2)
            ([True, True, True], False)
        """
        if policy.codec is None:
            return False
        if not policy.recomputes:
            return True
        recomputed = self.recomputed if policy.recompute_bottleneck else 0
        as_they_are = (self.norm_inputs - recomputed + self.block_inputs + self.last_outputs) * value_bytes
        coded = policy.codec.nbytes(_MANY) / _MANY * (self.norm_inputs + self.block_inputs)
        return coded + self.mask_bits / 8 < as_they_are


def total(parts: list[KeptValues]) -> KeptValues:
    """The sum of several parts of a network."""
    return KeptValues(*(math.fsum(column) for column in zip(*parts, strict=True)))
