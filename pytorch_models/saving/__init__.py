"""Exact memory saving: what autograd would keep is shared or computed again, and no number changes."""

from pytorch_models.saving.chain import chain, norm_act_conv
from pytorch_models.saving.chain_call import Step
from pytorch_models.saving.dense_block import dense_block
from pytorch_models.saving.eligibility import (
    PlainPathWarning,
    has_hooks,
    why_block_is_plain,
    why_chain_is_plain,
    why_norm_act_is_plain,
)
from pytorch_models.saving.norm_act import norm_act_then
from pytorch_models.saving.tiles import convolution_format

__all__ = [
    "PlainPathWarning",
    "Step",
    "chain",
    "convolution_format",
    "dense_block",
    "has_hooks",
    "norm_act_conv",
    "norm_act_then",
    "why_block_is_plain",
    "why_chain_is_plain",
    "why_norm_act_is_plain",
]
