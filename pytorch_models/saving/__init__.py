"""Exact memory saving: what autograd would keep is shared or computed again, and no number changes."""

from pytorch_models.saving.chain import chain, norm_act_conv
from pytorch_models.saving.chain_call import Step
from pytorch_models.saving.chain_saved import SharedCodes
from pytorch_models.saving.dense_block import call_that_made, dense_block
from pytorch_models.saving.dense_call import BlockCall
from pytorch_models.saving.dense_storage import DenseStorage
from pytorch_models.saving.eligibility import (
    PlainPathWarning,
    has_hooks,
    warn_plain,
    why_block_is_plain,
    why_chain_is_plain,
    why_containers_are_needed,
    why_norm_act_is_plain,
)
from pytorch_models.saving.keeping import InputKeeping, NetworkKeeping
from pytorch_models.saving.norm_act import norm_act_then
from pytorch_models.saving.tiles import convolution_format

__all__ = [
    "BlockCall",
    "DenseStorage",
    "InputKeeping",
    "NetworkKeeping",
    "PlainPathWarning",
    "SharedCodes",
    "Step",
    "call_that_made",
    "chain",
    "convolution_format",
    "dense_block",
    "has_hooks",
    "norm_act_conv",
    "norm_act_then",
    "warn_plain",
    "why_block_is_plain",
    "why_chain_is_plain",
    "why_containers_are_needed",
    "why_norm_act_is_plain",
]
