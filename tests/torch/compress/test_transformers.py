"""Transformers: layers are their namesakes, blocks keep few bytes and unbiased gradients, by layers and by hooks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from compress.small_nets import assert_unbiased, saved_bytes
from torch import Tensor, nn
from torch.nn import functional as F

from pytorch_models.compressed import QLayerNorm, QMultiheadAttention, compress, gact

WIDTH, STEPS = 64, 12


def values(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def encoder(drop: float = 0.0) -> nn.Module:
    torch.manual_seed(1)
    return nn.TransformerEncoderLayer(WIDTH, 4, 128, drop, batch_first=True, activation="gelu")


class GPTBlock(nn.Module):
    """Pre-norm, with attention by a functional call, as language models write it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH), nn.Dropout(0.1))

    def forward(self, inputs: Tensor) -> Tensor:
        samples, steps, width = inputs.shape
        parts = self.qkv(self.norm1(inputs)).view(samples, steps, 3, 4, width // 4).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(parts[0], parts[1], parts[2], is_causal=True)
        inputs = inputs + self.proj(mixed.transpose(1, 2).reshape(samples, steps, width))
        return inputs + self.mlp(self.norm2(inputs))


def gradient(model: nn.Module, inputs: Tensor) -> Tensor:
    model.zero_grad()
    outputs = model(inputs)
    (outputs * values(*outputs.shape, seed=3)).sum().backward()
    return torch.cat([p.grad.flatten().double() for p in model.parameters() if p.grad is not None])


def by_layers(bits: int) -> Callable[[nn.Module, Tensor, int], Tensor]:
    def samples(model: nn.Module, inputs: Tensor, count: int) -> Tensor:
        compress(model, bits)
        return torch.stack([gradient(model, inputs) for _ in range(count)])

    return samples


def by_hooks(model: nn.Module, inputs: Tensor, count: int) -> Tensor:
    with gact(model, 4):
        return torch.stack([gradient(model, inputs) for _ in range(count)])


@pytest.mark.parametrize("make", [encoder, GPTBlock])
@pytest.mark.parametrize("ways", [by_layers(4), by_hooks], ids=["layers", "hooks"])
def test_gradients_of_a_block_are_unbiased(make: Callable[[], nn.Module], ways: Any) -> None:
    model, inputs = make().eval(), values(4, STEPS, WIDTH)
    exact = gradient(model, inputs)
    samples = ways(model, inputs, 50)
    assert samples.std(0).max() > 0
    assert_unbiased(samples, exact)


@pytest.mark.parametrize("make", [encoder, GPTBlock])
def test_a_block_keeps_few_bytes_and_its_outputs(make: Callable[[], nn.Module]) -> None:
    model, inputs = make(), values(8, 32, WIDTH).requires_grad_()
    torch.manual_seed(0)
    outputs = model(inputs * 1)
    plain = saved_bytes(model, lambda: model(inputs * 1), inputs)
    with gact(model, 4):
        torch.manual_seed(0)
        assert torch.equal(model(inputs * 1), outputs)
        hooks = saved_bytes(model, lambda: model(inputs * 1), inputs)
    found = {bits: compress(copy.deepcopy(model), bits) for bits in (2, 4)}
    layers = {bits: saved_bytes(one, lambda one=one: one(inputs * 1), inputs) for bits, one in found.items()}
    torch.manual_seed(0)
    assert torch.equal(found[4](inputs * 1), outputs)
    assert "QLayerNorm((64,)" in str(found[4])
    assert found[4].compression.unconverted == ()
    assert plain / 4 > hooks > layers[4] > layers[2]
    assert layers[4] < plain / 5


def test_norm_and_linear_share_their_codes() -> None:
    inputs = values(8, 32, WIDTH).requires_grad_()
    model = compress(nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 4)), 4)
    assert saved_bytes(model, lambda: model(inputs * 1), inputs) < inputs.numel() * (4 + 0.125) / 8 + 8 * 32 * 4 + 2048


@pytest.mark.parametrize("shape", [(WIDTH,), (8, 8)])
@pytest.mark.parametrize("affine", [True, False])
def test_layer_norm_is_its_namesake(shape: tuple[int, ...], affine: bool) -> None:
    plain = nn.LayerNorm(shape, elementwise_affine=affine)
    coded = compress(copy.deepcopy(plain), 8)
    assert type(coded) is QLayerNorm
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        found = []
        for layer in (plain.to(dtype), coded.to(dtype)):
            leaf = (values(6, 10, *shape) * 3 + 1).to(dtype).requires_grad_()
            layer.zero_grad()
            outputs = layer(leaf * 1)
            (outputs * values(*outputs.shape, seed=3).to(dtype)).sum().backward()
            found.append([outputs, leaf.grad, *(p.grad for p in layer.parameters())])
        assert torch.equal(found[0][0], found[1][0])
        for a, b in zip(found[0][1:], found[1][1:], strict=True):
            assert a.dtype == b.dtype
            assert (a - b).abs().max() <= 0.03 * a.abs().max()


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("case", ["self", "memory", "three", "causal", "padding", "weights", "both masks"])
def test_attention_is_its_namesake(case: str, batch_first: bool) -> None:
    torch.manual_seed(4)
    plain = nn.MultiheadAttention(WIDTH, 4, batch_first=batch_first)
    nn.init.normal_(plain.in_proj_bias)
    coded = compress(copy.deepcopy(plain), 8)
    assert type(coded) is QMultiheadAttention
    turn = (lambda x: x) if batch_first else (lambda x: x.transpose(0, 1).contiguous())
    query, memory, other = (turn(values(4, STEPS, WIDTH, seed=seed)) for seed in range(3))
    triangle = torch.triu(torch.ones(STEPS, STEPS, dtype=torch.bool), 1)
    padding = torch.arange(STEPS) >= torch.tensor([[6], [7], [12], [12]])
    given = {"memory": (query, memory, memory), "three": (query, memory, other)}.get(case, (query,) * 3)
    options: dict[str, Any] = {"need_weights": case == "weights"}
    if case in ("causal", "both masks"):
        options |= {"attn_mask": triangle, "is_causal": True}
    if case in ("padding", "both masks"):
        options |= {"key_padding_mask": padding}
    found = []
    for layer in (plain, coded):
        leaves = {id(one): one.clone().requires_grad_() for one in given}
        used = {key: leaf * 1 for key, leaf in leaves.items()}
        outputs, weights = layer(*(used[id(one)] for one in given), **options)
        (outputs * values(*outputs.shape, seed=9)).sum().backward()
        found.append([outputs, *(leaf.grad for leaf in leaves.values()), *(p.grad for p in layer.parameters())])
        assert (weights is not None) == (case == "weights")
        layer.zero_grad()
    assert torch.equal(found[0][0], found[1][0])
    for a, b in zip(found[0][1:], found[1][1:], strict=True):
        assert (a - b).norm() <= 0.12 * a.norm()  # queries' and keys' gradients are differences of near numbers


def test_softmax_and_attention_built_by_hand_pack_what_they_keep() -> None:
    layer = QMultiheadAttention(WIDTH, 4, batch_first=True)
    plain = nn.MultiheadAttention(WIDTH, 4, batch_first=True)
    inputs = values(8, 32, WIDTH).requires_grad_()
    own, usual = (
        saved_bytes(one, lambda one=one: one(*[inputs * 1] * 3, need_weights=False)[0], inputs)
        for one in (layer, plain)
    )
    assert own < usual / 3
    soft, scores = compress(nn.Softmax(-1), 2), values(16, 64).requires_grad_()
    assert str(soft) == "QSoftmax(dim=-1)"
    exact = torch.autograd.grad((torch.softmax(scores, -1) * values(16, 64, seed=1)).sum(), scores)[0]
    found = torch.autograd.grad((soft(scores) * values(16, 64, seed=1)).sum(), scores)[0]
    assert 0 < (found - exact).abs().max() < 0.02 * exact.abs().max()


def test_a_transposed_view_of_what_is_packed_is_not_taken_for_it() -> None:
    class Mixer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(16, 16), nn.Linear(16, 16)

        def forward(self, inputs: Tensor) -> Tensor:
            inputs = inputs * 2
            return (self.one(inputs) + self.two(inputs.transpose(1, 2)) + self.two(inputs.transpose(0, 1))).sum()

    torch.manual_seed(0)
    model, inputs = Mixer(), values(16, 16, 16).requires_grad_()
    model(inputs).backward()
    exact = model.two.weight.grad.clone()
    for scheme in ("8", "quant12"):
        twin = compress(copy.deepcopy(model), scheme)
        twin.zero_grad()
        twin(inputs).backward()
        assert (twin.two.weight.grad - exact).norm() < 0.05 * exact.norm()


def test_training_a_block_falls_and_learns_bits() -> None:
    model, inputs = compress(encoder(0.1), "L3"), values(8, STEPS, WIDTH)
    optimiser, losses = torch.optim.Adam(model.parameters(), 0.003), []
    for _ in range(25):
        optimiser.zero_grad()
        loss = F.mse_loss(model(inputs), inputs.flip(1))
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    rows = model.compression.report()  # of layers; hooks code beside them what bends its gradient, in 8 bits
    assert sum(row["bits"] * row["values"] for row in rows) < 4.2 * sum(row["values"] for row in rows)
    assert 4.2 < model.compression.average_bits < 8
