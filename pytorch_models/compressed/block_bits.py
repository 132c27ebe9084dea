"""L3 in the zoo's own saving blocks: bits of what a block reads differ by block and sample, within 2 on average.

Norms' inputs keep the average everywhere, as L3 does for any network; see `sites.Site.least`.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from pytorch_models.compressed.codes import Parts, RowCode
from pytorch_models.compressed.hooked_forward import hook_forward
from pytorch_models.compressed.noise_of import noise_of_convolution
from pytorch_models.compressed.session import Compression
from pytorch_models.compressed.sites import Packed, Site
from pytorch_models.saving.gradient_tiles import MeasuredTiles
from pytorch_models.saving.unit_call import Convolution
from zoo.schemes import Scheme


@dataclass(frozen=True)
class BlockCodes:
    """How one call's block input is kept, without the parts."""

    packed: Packed

    def unpack(self, parts: Parts) -> Tensor:
        """The values, with rounding noise."""
        return self.packed.kept.code.unpack(parts)

    def learn(self, gradient: MeasuredTiles, convolution: Convolution, weight: Tensor) -> None:
        """What rounding cost the weight of one convolution that reads the values.

        Args:
            gradient: of its outputs, all tiles of which have been asked for.
        """
        code = self.packed.kept.code
        assert isinstance(code, RowCode), "what a site packs by L3"
        like = code.like
        if not weight.requires_grad:
            return
        one, out = (1, *like.shape[1:]), (1, *gradient.shape[1:])
        geometry = (convolution.stride, convolution.padding, convolution.dilation, convolution.groups)
        noise = noise_of_convolution(one, weight.shape, out, *geometry)
        self.packed.site.add_squares(self.packed, gradient.squares(), noise)


@dataclass(frozen=True)
class BlockBits:
    """One block's place in the model's compression."""

    compression: Compression
    site: Site

    def pack(self, values: Tensor, seed: int) -> tuple[BlockCodes, Parts]:
        """Keep what the block reads, (N, C, ...)."""
        packed = self.site.pack(values, seed, self.compression.indices)
        return BlockCodes(packed.without_parts), packed.kept.parts


def give_block_bits(model: nn.Module, scheme: Scheme) -> None:
    """Give every block of a zoo model that keeps codes bits of its own; `model.compression` reports and is saved."""
    compression = Compression(scheme)
    for name, module in model.named_modules():
        if name and hasattr(module, "keeping"):
            module.block_bits = BlockBits(compression, compression.new_site(name))
    hook_forward(model, compression)  # each forward pass is a step
    model.compression = compression  # type: ignore[assignment]
