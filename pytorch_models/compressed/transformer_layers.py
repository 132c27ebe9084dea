"""Layers of transformers that keep what they need in few bits: LayerNorm, multi-head attention, softmax."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytorch_models.compressed.layers import Compressed, is_plain, packed_if
from pytorch_models.compressed.product_functions import LinearFunction
from pytorch_models.compressed.rows_function import LayerNormFunction, RowNormCall, SoftmaxFunction
from pytorch_models.compressed.session import Compression
from pytorch_models.compressed.sites import Packed, Site
from pytorch_models.saving.unit_call import autocast_dtype_of
from zoo.schemes import LAYERS


class QLayerNorm(Compressed, nn.LayerNorm):
    """`torch.nn.LayerNorm` that keeps its input normalised, in few bits; what reads its output shares the codes.

    Example:
        >>> layer = QLayerNorm(64)
        >>> layer(torch.randn(2, 8, 64)).sum().backward()
        >>> layer.bias.grad.shape
        torch.Size([64])
    """

    def forward(self, inputs: Tensor) -> Tensor:
        """As the namesake's."""
        # A device's autocast may run the norm in another dtype than the input's: hooks pack it there.
        if (
            is_plain(inputs)
            or autocast_dtype_of(inputs.device) is not None
            or inputs.dim() <= len(self.normalized_shape)
        ):
            return super().forward(inputs)
        compression, site = self._shared()
        if compression.scheme.way != LAYERS or not compression.scheme.norms:
            return super().forward(inputs)
        call = RowNormCall(tuple(self.normalized_shape), self.eps, compression, site)
        left: list[Packed] = []
        outputs = LayerNormFunction.apply(inputs, self.weight, self.bias, call, left)
        for packed in left:
            compression.derive(outputs, packed)
        return outputs


class QSoftmax(Compressed, nn.Softmax):
    """`torch.nn.Softmax` that keeps its output in 8 bits."""

    def forward(self, inputs: Tensor) -> Tensor:
        """As the namesake's."""
        if is_plain(inputs) or not inputs.requires_grad or self.dim is None or inputs.dim() == 0:
            return super().forward(inputs)
        compression, _ = self._shared()
        bits = int(compression.scheme.bits or 8) if compression.scheme.way == LAYERS else 8
        return SoftmaxFunction.apply(inputs, self.dim, bits, compression.seeds.next(), compression.scheme.swap)


class QMultiheadAttention(Compressed, nn.MultiheadAttention):
    """`torch.nn.MultiheadAttention` whose projections keep their inputs in few bits, and whose core keeps 8 bits.

    The core's gradient bends in queries, keys and outputs. Calls that ask for the weights (`need_weights=True`), keys
    and values of other sizes, and `bias_k`, run PyTorch's own way, all of whose saved tensors hooks pack at 8 bits.

    Example:
        >>> layer = QMultiheadAttention(32, 4, batch_first=True)
        >>> values = torch.randn(2, 8, 32)
        >>> layer(values, values, values, need_weights=False)[0].sum().backward()
        >>> layer.in_proj_weight.grad.shape
        torch.Size([96, 32])
    """

    parts: ClassVar[tuple[str, ...]] = ("key", "value", "out_proj")

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As the namesake's."""
        plain = is_plain(query) or is_plain(key)
        other = not self._qkv_same_embed_dim or self.bias_k is not None or self.add_zero_attn
        if plain or other or need_weights or query.dim() != 3:
            with contextlib.nullcontext() if plain else self._hooks():
                return super().forward(
                    query, key, value, key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal
                )
        if is_causal and attn_mask is None:
            raise RuntimeError("Need attn_mask if specifying the is_causal hint.")
        given = [query, key, value]
        if self.batch_first:  # the same tensor stays the same
            turned = {id(one): one.transpose(1, 0) for one in given}
            given = [turned[id(one)] for one in given]
        steps, samples, width = given[0].shape
        mask, causal = self._mask(given, key_padding_mask, attn_mask, is_causal)
        queries, keys, values = (self._heads(one) for one in self._project(given))
        with self._hooks():
            mixed = F.scaled_dot_product_attention(
                queries, keys, values, mask, self.dropout if self.training else 0.0, causal
            )
        mixed = mixed.permute(2, 0, 1, 3).contiguous().view(samples * steps, width)
        outputs = self._linear(mixed, self.out_proj.weight, self.out_proj.bias, self._sites()[3])
        outputs = outputs.view(steps, samples, width)
        return (outputs.transpose(1, 0) if self.batch_first else outputs), None

    def _sites(self) -> tuple[Site, ...]:
        compression, site = self._shared()
        if not self.more:
            self.more = tuple(compression.new_site(f"{site.name}.{part}") for part in self.parts)
        return site, *self.more

    def _hooks(self) -> AbstractContextManager[Any]:
        """What packs the core's saved tensors where no model around does."""
        compression, _ = self._shared()
        return contextlib.nullcontext() if compression.known.is_open else compression.own_hooks()

    def _linear(self, inputs: Tensor, weight: Tensor, bias: Tensor | None, site: Site) -> Tensor:
        compression: Compression = self._shared()[0]
        packed, parts = packed_if(weight.requires_grad, inputs, compression, site)
        dtype = autocast_dtype_of(inputs.device) or inputs.dtype
        return LinearFunction.apply(inputs, weight, bias, packed, parts, dtype, compression.scheme.swap)

    def _project(self, given: list[Tensor]) -> list[Tensor]:
        """Queries, keys and values, (T, N, width), in as few products as PyTorch makes."""
        query, key, value = given
        weight, bias, sites = self.in_proj_weight, self.in_proj_bias, self._sites()
        width = query.shape[-1]
        if key is value and query is key:
            return self._split(self._linear(query, weight, bias, sites[0]), 3, width)
        if key is value:
            (first, rest), biases = weight.split([width, 2 * width]), (None, None)
            if bias is not None:
                biases = bias.split([width, 2 * width])
            both = self._linear(key, rest, biases[1], sites[1])
            return [self._linear(query, first, biases[0], sites[0]), *self._split(both, 2, width)]
        weights, each = weight.chunk(3), (None,) * 3 if bias is None else bias.chunk(3)
        return [self._linear(*one) for one in zip(given, weights, each, sites, strict=False)]

    @staticmethod
    def _split(projected: Tensor, count: int, width: int) -> list[Tensor]:
        apart = projected.unflatten(-1, (count, width)).unsqueeze(0).transpose(0, -2).squeeze(-2).contiguous()
        return [apart[index] for index in range(count)]

    def _heads(self, projected: Tensor) -> Tensor:
        """(T, N, width) -> (N, heads, T, width / heads)."""
        steps, samples, width = projected.shape
        apart = projected.view(steps, samples * self.num_heads, width // self.num_heads).transpose(0, 1)
        return apart.view(samples, self.num_heads, steps, width // self.num_heads)

    def _mask(
        self, given: list[Tensor], key_padding_mask: Tensor | None, attn_mask: Tensor | None, is_causal: bool
    ) -> tuple[Tensor | None, bool]:
        """The core's mask, (N or 1, heads or 1, T, S), added to the scores, and whether it is causal."""
        query, key = given[:2]
        steps, samples, _ = query.shape
        keys = key.shape[0]
        if is_causal and key_padding_mask is None:
            return None, True
        padding, mask = (_as_scores(one, query.dtype) for one in (key_padding_mask, attn_mask))
        if mask is not None:
            wanted = (steps, keys) if mask.dim() == 2 else (samples * self.num_heads, steps, keys)
            if tuple(mask.shape) != wanted:
                raise RuntimeError(f"attn_mask of shape {tuple(mask.shape)}: {wanted} is needed")
            mask = mask[None, None] if mask.dim() == 2 else mask.view(samples, self.num_heads, steps, keys)
        if padding is None:
            return mask, False
        if tuple(padding.shape) != (samples, keys):
            raise RuntimeError(f"key_padding_mask of shape {tuple(padding.shape)}: {(samples, keys)} is needed")
        padding = padding.view(samples, 1, 1, keys).expand(-1, self.num_heads, -1, -1)
        return padding if mask is None else mask + padding, False


def _as_scores(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """A mask as what is added to scores: of a boolean, minus infinity where it is true."""
    if mask is None or mask.is_floating_point():
        return mask
    if mask.dtype != torch.bool:
        raise RuntimeError(f"a mask must be boolean or floating, not {mask.dtype}")
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask, float("-inf"))
