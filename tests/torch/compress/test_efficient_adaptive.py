"""L3 in the zoo's own saving blocks: bytes, exact outputs, unbiased gradients, bits that differ, what it refuses."""

from __future__ import annotations

import copy

import pytest
import torch
from compress.small_nets import assert_unbiased, gradient
from torch import Tensor, nn

import pytorch_models
import zoo
from zoo.policy import MemoryPolicy

BOTH = {"efficient": True, "compressed": "L3"}


def build(name: str = "resnet20", **flags: object) -> nn.Module:
    torch.manual_seed(1)
    return zoo.create_model(name, num_classes=10, **flags)  # type: ignore[arg-type]


def images(count: int = 8) -> Tensor:
    values = torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    values[: count // 2] *= 4
    return values


def test_both_keep_a_fourteenth_of_resnet50() -> None:
    saved = {}
    for name, flags in (("plain", {}), ("both", BOTH)):
        model = zoo.create_model("resnet50", **flags)  # type: ignore[arg-type]
        saved[name] = pytorch_models.measure_step(model, (8, 3, 224, 224), repeats=0, execute=False).saved_bytes
    assert saved["both"] <= saved["plain"] / 14


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2"])
def test_bits_differ_by_block_and_sample_and_no_byte_is_added(name: str) -> None:
    model, uniform = build(name, **BOTH), build(name, efficient=True, compressed=2)
    inputs = images()
    assert torch.equal(model(inputs), build(name, efficient=True)(inputs))
    for _ in range(12):
        gradient(model, inputs)
    rows = model.compression.report()
    assert len({row["bits"] for row in rows}) > 1
    assert model.compression.average_bits <= 2.001
    both, alone = (pytorch_models.measure_step(one, inputs.shape, repeats=0).saved_bytes for one in (model, uniform))
    assert both <= 1.01 * alone
    assert set(model.state_dict()) == set(uniform.state_dict())


def test_gradients_are_unbiased() -> None:
    model, inputs = build(**BOTH).eval(), images()  # BatchNorm's own bias is documented: frozen statistics here
    exact = gradient(build(efficient=True).eval(), inputs)
    for _ in range(11):
        gradient(model, inputs)
    samples = torch.stack([gradient(model, inputs) for _ in range(30)])
    assert samples.std(0).max() > 0
    assert_unbiased(samples, exact)


def test_what_rounding_costs_is_what_is_predicted() -> None:
    """Of one convolution's weight: the sum of its block's costs at the bits in use."""
    torch.manual_seed(0)
    model = build(**BOTH).eval()
    block = model.layer2[0]
    for parameter in model.parameters():
        parameter.requires_grad_(parameter is block.conv1.weight)
    inputs, predicted, found = images(16), [], []
    for _ in range(50):
        found.append(gradient(model, inputs))
        predicted.append(block.block_bits.site.variance)
    assert float(torch.stack(found).var(0).sum()) == pytest.approx(sum(predicted) / len(predicted), rel=0.3)


def test_copies_and_checkpoints_have_their_own() -> None:
    model, inputs = build(**BOTH), images()
    for _ in range(11):
        gradient(model, inputs)
    twin, other = copy.deepcopy(model), build(**BOTH)
    assert twin.layer1[0].block_bits.site is twin.compression.sites[0]
    assert twin.compression is not model.compression
    other.load_state_dict(model.state_dict())
    other.compression.load_state_dict(model.compression.state_dict())
    found = []
    for one in (model, other):
        torch.manual_seed(5)
        found.append([gradient(one, inputs) for _ in range(2)])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("name", ["densenet121", "lstm"])
def test_families_whose_kept_values_have_one_width_refuse(name: str) -> None:
    name = next(one for one in zoo.list_models() if one.startswith(name))
    with pytest.raises(ValueError, match="compressed=2 with efficient=True for"):
        zoo.create_model(name, **BOTH)  # type: ignore[arg-type]


def test_other_schemes_do_not_go_with_efficient() -> None:
    assert str(MemoryPolicy(**BOTH)) == "efficient, compressed L3"  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"give compressed=2 \(or 1, 4, 8, L3\)"):
        MemoryPolicy(efficient=True, compressed="gact:4")
    with pytest.raises(ValueError, match="for DenseNet"):
        pytorch_models.DenseNet(**BOTH)  # type: ignore[arg-type]
