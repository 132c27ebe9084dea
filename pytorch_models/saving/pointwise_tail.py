"""The gradient through a 1x1 convolution and the batch norm after it, without the convolution's outputs.

A norm's gradient wants its normalised input z = W a (a: the convolution's inputs, W: its weight) in two places only,
and both are linear in z, so that products of a with itself and with the gradient say all there is to know:

* sums over the batch: sum(g z) = W . sum(g a), where sum(g a) is the convolution's weight gradient for g;
* what z adds to the gradient of a: W' diag(s) z = (W' diag(s) W) a, a convolution among the narrow channels.

With C channels into 4 C this costs half of computing z again (and some products of weights, which do not depend on
the batch), and touches no wide tensor but the gradient itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pytorch_models.channels import row
from pytorch_models.saving.activation import Activation
from pytorch_models.saving.norm import Affine
from pytorch_models.saving.passes import channel_sums
from pytorch_models.saving.tiles import as_images, laid_out_like, tiles
from pytorch_models.saving.unit_call import Convolution, Unit, sampled
from pytorch_models.saving.units import RebuiltTiles


def pays(convolution: Convolution | None, weight: Tensor | None, positions: int) -> bool:
    """Whether this way takes fewer products than computing the 1x1 convolution again, at so many positions."""
    if convolution is None or weight is None or convolution.groups != 1 or any(convolution.padding):
        return False
    out, into, *taps = weight.shape
    return all(size == 1 for size in taps) and 2 * into * (positions + out) <= positions * out


class PointwiseTail:
    """Sums over the batch, tile by tile; then gradients of the norm and of the convolution.

    Args:
        norm: the norm after the convolution, with the batch's statistics.
        convolution: 1x1, one group, no padding.
        weight: (O, C, 1, ...), in the dtype of the computation.
    """

    def __init__(self, norm: Affine, convolution: Convolution, weight: Tensor) -> None:
        self.norm, self.convolution, self.weight = norm, convolution, weight
        out, into = weight.shape[:2]
        self.matrix = weight.reshape(out, into)
        self.products = torch.zeros_like(self.matrix)  # sum(g a'), a' = a - shift
        self.gram = self.matrix.new_zeros(into, into)  # sum(a' a')
        self.sums = torch.zeros(into, dtype=torch.float64, device=weight.device)  # sum(a')
        self.d_bias = torch.zeros(out, dtype=torch.float64, device=weight.device)
        self.shift: Tensor | None = None  # near a's mean: sums of what is far from 0 would cancel
        self.count = 0

    def gather(
        self, masked: Tensor, gradient: Tensor, outputs: Tensor | None, activation: Activation, inputs: RebuiltTiles
    ) -> None:
        """Write the gradient of the norm's outputs into `masked`, and take the sums.

        Args:
            gradient: of the activation's outputs.
            outputs: the activation's outputs, or None where it is the identity.
            inputs: what the convolution read.
        """
        for tile in tiles(masked.shape, masked.dtype, masked.device):
            part, given = as_images(masked[tile]), as_images(gradient[tile])
            values = given if outputs is None else as_images(laid_out_like(masked, outputs[tile]))
            activation.gradient_into(part, given, values)
            self.d_bias += channel_sums(part)
            centred = self._centred(inputs, tile)
            self.sums += channel_sums(centred)
            self.products += _products(part, centred)
            self.gram += _products(centred, centred)
        self.count = masked.numel() // masked.shape[1]

    def _centred(self, inputs: RebuiltTiles, tile: slice) -> Tensor:
        values = as_images(sampled(inputs.activation(tile), self.convolution.stride))
        if self.shift is None:
            count = max(values.numel() // values.shape[1], 1)
            self.shift = (channel_sums(values) / count).to(values.dtype)
        return values - row(self.shift)

    def finish(self) -> tuple[Tensor, Tensor]:
        """Gradients of the norm's weight and bias; `d_convolution` and what `backward` needs are set."""
        norm, dtype = self.norm, self.norm.mean.dtype
        assert self.shift is not None, "gathered before"
        off = self.sums / self.count
        d_bias = self.d_bias.to(dtype)
        products = self.products - torch.outer(self.d_bias, off).to(dtype)
        gram = self.gram - (self.count * torch.outer(off, off)).to(dtype)
        d_weight = (self.matrix * products).sum(1, dtype=torch.float64).to(dtype) * norm.inv_std
        per_value = norm.scale / self.count
        constant, slope = per_value * d_bias, per_value * d_weight * norm.inv_std
        self.scaled = (self.matrix * norm.scale[:, None]).view_as(self.weight)
        mixing = self.matrix.t() @ (slope[:, None] * self.matrix)
        self.mixing = mixing[(...,) + (None,) * (self.weight.dim() - 2)]
        mean = self.shift + off.to(dtype)  # of the convolution's inputs
        self.offset = mixing @ mean - self.matrix.t() @ constant
        d_matrix = norm.scale[:, None] * products - slope[:, None] * (self.matrix @ gram)
        self.d_convolution = d_matrix.view_as(self.weight)
        return d_weight, d_bias

    def backward(
        self, gradient: Tensor, inputs: Tensor, weight: Tensor, *, needs: tuple[bool, bool, bool]
    ) -> tuple[Tensor | None, None, None]:
        """In the place of `Convolution.backward`: from the gradient of the norm's outputs to that of the inputs."""
        if not needs[0]:
            return None, None, None
        found, _, _ = self.convolution.backward(gradient, inputs, self.scaled, needs=(True, False, False))
        assert found is not None, "asked for"
        stride = self.convolution.stride
        part = sampled(inputs, stride)
        unit_stride = Convolution((1,) * len(stride), (0,) * len(stride), (1,) * len(stride), 1)
        read = as_images(sampled(found, stride))
        read.sub_(as_images(unit_stride.forward(part, self.mixing, None))).add_(row(self.offset))
        return found, None, None


def _products(first: Tensor, second: Tensor) -> Tensor:
    """sum(first second) over all positions, (channels of first, channels of second)."""
    weight = first.new_empty(first.shape[1], second.shape[1], 1, 1)
    plain = Convolution((1, 1), (0, 0), (1, 1), 1)
    _, products, _ = plain.backward(first, second, weight, needs=(False, True, False))
    assert products is not None, "asked for"
    return products.view(weight.shape[:2])


def replace_convolution(unit: Unit, tail: PointwiseTail) -> Unit:
    """The unit with `tail` in its convolution's place, for the backward pass."""
    return Unit(unit.norm, unit.batch_statistics, tail, unit.parameters, unit.activation, unit.group)  # type: ignore[arg-type]
