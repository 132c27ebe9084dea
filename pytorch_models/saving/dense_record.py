"""What the forward pass of a dense block notes down for its backward pass: statistics, codes, masks, single tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from pytorch_models.channels import statistics_dtype
from pytorch_models.compression import derived_seed
from pytorch_models.saving.dense_call import BlockCall
from pytorch_models.saving.dense_storage import Bottleneck
from pytorch_models.saving.masks import TileMasks
from pytorch_models.saving.norm import check_batch_has_a_variance, running_statistics
from pytorch_models.saving.passes import batch_statistics
from pytorch_models.saving.saved import SavedTensors


class ForwardRecord:
    """Fills `saved` while a forward pass goes through the layers; keeps nothing where no gradient is wanted.

    Args:
        call: the block's facts.
        shape, device: of the block's inputs, (N, C, H, W).
    """

    def __init__(self, call: BlockCall, shape: torch.Size, device: torch.device) -> None:
        self.call = call
        self.saved = SavedTensors(len(call.layers))
        self.codes_features = call.keeps_graph and call.storage.features_coded
        if any(unit.batch_statistics for layer in call.layers for unit in layer.units):
            check_batch_has_a_variance(shape)
        if self.codes_features or any(layer.units[0].batch_statistics for layer in call.layers):
            dtype = statistics_dtype(call.feature_dtype)
            self.saved.mean = torch.empty(call.out_features, dtype=dtype, device=device)
            self.saved.variance = torch.empty_like(self.saved.mean)

    def keep(self, index: int, **tensors: Tensor | None) -> None:
        """Keep tensors of one layer by name; None passes."""
        if self.call.keeps_graph:
            self.saved.layers[index].update({name: t for name, t in tensors.items() if t is not None})

    def features_written(self, index: int, channels: slice, values: Tensor, stored: Tensor) -> None:
        """New features exist: take their statistics once, and code them if that is how they are kept.

        Args:
            index: of the layer that made them; the number of layers for the block's inputs.
            values: as they were made; `stored` as the block has them, in channels_last.
        """
        if self.saved.mean is None or self.saved.variance is None:
            return
        mean, variance = batch_statistics(values if values.dtype == stored.dtype else stored)
        self.saved.mean[channels], self.saved.variance[channels] = mean, variance
        if self.codes_features:
            self._code(index, "features", stored, mean, torch.rsqrt(variance + self.call.code_eps))

    def bottleneck_made(self, index: int, values: Tensor) -> None:
        """The 1x1 outputs exist, in channels_last: keep them, code them, or leave it."""
        if not self.call.keeps_graph:
            return
        if self.call.storage.bottleneck is Bottleneck.KEPT:
            self.keep(index, bottleneck=values)
        elif self.call.storage.bottleneck is Bottleneck.CODED:
            unit = self.call.layers[index].units[1]
            mean, variance = self.statistics(index, 1, values)
            self._code(index, "bottleneck", values, mean, torch.rsqrt(variance + unit.norm.eps))

    def statistics(self, index: int, position: int, values: Tensor) -> tuple[Tensor, Tensor]:
        """The (mean, variance) one norm uses; those the block does not share are kept for the backward pass."""
        layer, kept = self.call.layers[index], self.saved.layers[index]
        names = f"mean{position + 1}", f"variance{position + 1}"
        mean, variance = (kept.get(name) for name in names)
        if mean is not None and variance is not None:
            return mean, variance
        if not layer.units[position].batch_statistics:
            mean, variance = running_statistics(layer.units[position].norm, statistics_dtype(values.dtype))
        elif position == 0:
            assert self.saved.mean is not None, "taken when the features were written"
            assert self.saved.variance is not None, "taken when the features were written"
            return self.saved.mean[: layer.in_features], self.saved.variance[: layer.in_features]
        else:
            mean, variance = batch_statistics(values)
        self.keep(index, **dict(zip(names, (mean, variance), strict=True)))
        return mean, variance

    def masks(self, index: int, position: int, shape: torch.Size, device: torch.device) -> TileMasks | None:
        """Room for the masks of one norm's activations where they are kept, else None."""
        storage = self.call.storage
        coded = storage.features_coded if position == 0 else storage.bottleneck is Bottleneck.CODED
        if not coded or not self.call.keeps_graph:
            return None
        masks = TileMasks(shape, self.call.dtype_of_unit(position), device)
        self.keep(index, **{f"mask{position + 1}": masks.bits})
        return masks

    def _code(self, index: int, name: str, values: Tensor, mean: Tensor, inv_std: Tensor) -> None:
        codec = self.call.storage.codec
        assert codec is not None, "coded by something"
        # Features and 1x1 outputs meet in products, so their noise must be independent.
        seed = derived_seed(self.call.noise_seed, 2 * index + (name == "features"))
        self.saved.keep_parts(index, name, codec.encode(values, mean, inv_std, seed))
