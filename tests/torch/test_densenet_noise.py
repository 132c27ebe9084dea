"""The rounding noise of compressed=: gradients unbiased, new at every step, following from the seed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from test_densenet_compressed import EFFICIENT, force
from tiny_densenet import gradients, images, same_but_compressed
from torch import Tensor, nn

from pytorch_models.compression import NoiseSeeds, NormCodec


def bias_and_noise(coded: nn.Module, exact: nn.Module, seeds: int, inputs: Tensor | None = None) -> tuple[float, float]:
    """`squares_and_noise` of a model's gradients over seeds."""
    inputs = images(16, 12, torch.float32) if inputs is None else inputs
    expected = gradients(exact, inputs)
    found = []
    for seed in range(seeds):
        torch.manual_seed(seed)
        found.append(gradients(coded, inputs))
    return squares_and_noise(torch.stack(found), expected)


def squares_and_noise(sample: torch.Tensor, expected: torch.Tensor) -> tuple[float, float]:
    """Over random directions: the mean square of (mean - exact) in standard errors, 1 if unbiased; and the noise."""
    directions = torch.randn(expected.numel(), 100, generator=torch.Generator().manual_seed(0))
    directions[:, 0] = expected
    projected, target = sample @ directions, expected @ directions
    errors = (projected.mean(0) - target) / (projected.std(0) / len(sample) ** 0.5)
    return float(errors.square().mean()), float((sample - expected).norm(dim=1).mean() / expected.norm())


@pytest.mark.parametrize("flags", [{}, EFFICIENT], ids=str)
@pytest.mark.parametrize("compressed", [2, "fixed:4"])
def test_gradients_are_unbiased(flags: dict[str, Any], compressed: int | str, monkeypatch: pytest.MonkeyPatch) -> None:
    force(monkeypatch, "features coded")
    exact, coded = same_but_compressed(compressed, **flags)
    squares, noise = bias_and_noise(coded, exact, 24)
    assert squares < 1.8
    assert noise > 1e-3, "something was rounded"


def test_the_test_of_bias_notices_a_clamped_activation(monkeypatch: pytest.MonkeyPatch) -> None:
    from pytorch_models.saving import units

    rebuild = units.rebuild_into
    monkeypatch.setattr(units, "rebuild_into", lambda *arguments: rebuild(*arguments).relu_())
    force(monkeypatch, "features coded")
    exact, coded = same_but_compressed(2, **EFFICIENT)
    assert bias_and_noise(coded, exact, 16)[0] > 3


def test_noise_is_new_at_every_step_and_follows_from_the_seed() -> None:
    _, coded = same_but_compressed(2, **EFFICIENT)
    inputs = images(dtype=torch.float32)
    torch.manual_seed(3)
    first, second = gradients(coded, inputs), gradients(coded, inputs)
    torch.manual_seed(4)
    other = gradients(coded, inputs)
    torch.manual_seed(3)
    again = gradients(copy.deepcopy(coded), inputs)
    assert not torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(first, again)


def test_seeds_differ_from_one_another() -> None:
    seeds = NoiseSeeds()
    found = set()
    for seed in range(20):
        torch.manual_seed(seed)
        found |= {seeds.next() for _ in range(50)}
    assert len(found) == 1000
    assert min(found) >= 0
    assert max(found) < 2**63


@pytest.mark.parametrize("flags", [{}, EFFICIENT], ids=str)
def test_all_that_one_model_rounds_has_noise_of_its_own(flags: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors that meet in a product must not share noise; two forward passes before a backward pass do meet."""
    force(monkeypatch, "features coded")
    seeds: list[int] = []
    encode = NormCodec.encode

    def noted(codec: NormCodec, values: Tensor, mean: Tensor, inv_std: Tensor, seed: int) -> tuple[Tensor, ...]:
        seeds.append(seed)
        return encode(codec, values, mean, inv_std, seed)

    monkeypatch.setattr(NormCodec, "encode", noted)
    _, coded = same_but_compressed(2, **flags)
    for _ in range(2):
        coded(images(dtype=torch.float32))
    layers = sum(name.endswith("conv2") for name, _ in coded.named_modules())
    assert len(seeds) >= 2 * 2 * layers, "features and 1x1 outputs of every layer"
    assert len(set(seeds)) == len(seeds)
