"""What one dense block keeps for its backward pass: the cheapest way its policy allows, at the size that came."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

import torch

from pytorch_models.compression import NormCodec
from zoo.policy import MemoryPolicy

if TYPE_CHECKING:
    from pytorch_models.saving.dense_call import LayerCall


class Bottleneck(Enum):
    """What becomes of the 1x1 convolutions' outputs."""

    KEPT = "1x1 outputs"
    RECOMPUTED = ""
    CODED = "1x1 outputs coded, with masks"


@dataclass(frozen=True)
class DenseStorage:
    """What a dense block keeps.

    Args:
        codec: of coded parts; None where nothing is coded.
        features_coded: features are kept once in few bits, with a mask for every norm that reads them.
        activations_kept: outputs of norm+ReLU are kept.
        bottleneck: see `Bottleneck`.
    """

    codec: NormCodec | None
    features_coded: bool
    activations_kept: bool
    bottleneck: Bottleneck

    def __str__(self) -> str:
        codec = self.codec and self.codec.codec
        features = f"features once as codes ({codec}), masks" if self.features_coded else "features once, in one buffer"
        bottleneck = self.bottleneck.value.replace("coded", f"as codes ({codec})")
        return ", ".join(part for part in (features, bottleneck, "activations" * self.activations_kept) if part)


def choose_storage(
    policy: MemoryPolicy, layers: Sequence[LayerCall], shape: torch.Size, dtype: torch.dtype
) -> DenseStorage:
    """The cheapest in bytes of what a policy allows.

    With compression there are three: float features and the 1x1 outputs recomputed (`efficient` alone does that);
    features and 1x1 outputs as codes, and a mask for every activation; float features and 1x1 outputs as codes.

    Args:
        shape, dtype: of the block's inputs as they are stored, (N, C, H, W).
    """
    codec = NormCodec.of(policy)
    if codec is None:
        bottleneck = Bottleneck.RECOMPUTED if policy.recompute_bottleneck else Bottleneck.KEPT
        return DenseStorage(None, False, not policy.recompute_activations, bottleneck)
    pixels = shape[0] * math.prod(shape[2:])
    outputs = layers[-1].channels.stop * pixels
    float_features = outputs * dtype.itemsize
    written = (layers[0].in_features, *(layer.new_features for layer in layers))
    coded_features = sum(codec.nbytes(channels * pixels) for channels in written)
    masks = sum(mask_bytes(layer.in_features * pixels) for layer in layers)
    bottlenecks = (layer.bottleneck_features * pixels for layer in layers if layer.bottleneck_features)
    coded_bottlenecks = sum(codec.nbytes(count) + mask_bytes(count) for count in bottlenecks)
    # The norm that reads a block's output finds float features kept; for coded ones it keeps codes of its own.
    reader = codec.nbytes(outputs) + mask_bytes(outputs)
    ways = {
        DenseStorage(codec, True, False, Bottleneck.CODED): coded_features + masks + coded_bottlenecks + reader,
        DenseStorage(codec, False, False, Bottleneck.CODED): float_features + coded_bottlenecks,
    }
    if policy.recompute_bottleneck:
        ways[DenseStorage(None, False, False, Bottleneck.RECOMPUTED)] = float_features
    return min(ways, key=ways.__getitem__)


def mask_bytes(count: int) -> int:
    """Bytes of the masks of `count` activations."""
    return (count + 7) // 8
