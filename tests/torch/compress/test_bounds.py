"""AC-GC's schemes: both ways to count bits; and what parts of a scheme that do nothing here say."""

from __future__ import annotations

import warnings

import pytest
import torch
from compress.small_nets import gradient, images, residual
from torch import nn

from pytorch_models.compressed import compress


@pytest.mark.parametrize(("scheme", "published"), [("quant8", 8.0), ("quant3", 3.0)])
def test_fixed_widths_count_the_same_both_ways(scheme: str, published: float) -> None:
    model = compress(residual(), scheme)
    gradient(model, images())
    assert model.compression.published_bits == published
    assert published < model.compression.average_bits < 1.03 * published
    assert all(row["published_bits"] == published for row in model.compression.report())


def test_bounds_count_a_sign_that_the_published_tables_leave_out() -> None:
    model = compress(residual(), "autoquant")
    for _ in range(2):
        gradient(model, images())
    rows = {row["layer"]: row for row in model.compression.report()}
    signed, positive = rows["norm1"], rows["conv1"]  # zhat; what ReLU and max-pooling gave
    assert signed["bits"] - signed["published_bits"] == pytest.approx(1, abs=0.1)
    assert positive["bits"] - positive["published_bits"] == pytest.approx(0, abs=0.1)
    zeros = compress(residual(), "quantz6")
    gradient(zeros, images())
    mean = zeros.compression.published_bits
    assert 3 < mean < 6.5
    assert torch.isnan(torch.tensor(compress(residual(), "L3").compression.published_bits))


@pytest.mark.parametrize("scheme", ["autoquant", "autoquant-sr"])
def test_a_norm_behind_a_matrix_product_has_bits_of_its_own_for_each_feature(scheme: str) -> None:
    torch.manual_seed(0)
    model = compress(nn.Sequential(nn.Linear(9, 17), nn.BatchNorm1d(17), nn.Linear(17, 3)), scheme)
    inputs = torch.randn(64, 9)
    exact = gradient(model, inputs)  # keeps floats, and learns the bounds
    near = gradient(model, inputs)
    assert torch.linalg.norm(near - exact) < 0.5 * torch.linalg.norm(exact)
    row = next(one for one in model.compression.report() if one["layer"] == "1")
    assert row["bits"] < 16


def test_swap_on_a_cpu_and_l5_without_segments_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.warns(UserWarning, match="not on a GPU"):
        compress(residual(), "swap")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF", raising=False)
    with pytest.warns(UserWarning, match="expandable_segments:True"):
        compress(residual(), "L5")
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compress(residual(), "L5")
