"""Bytes of ResNet-50 and MobileNetV2 at full size, without computing anything."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch

import zoo
from pytorch_models import build_model, measure_step
from pytorch_models.saving import PlainPathWarning
from zoo.policy import MemoryPolicy
from zoo.report import MIB, MemoryReport

BATCH_32 = (32, 3, 224, 224)
KEEP, LEAST = MemoryPolicy(efficient=True, keep_bottleneck=True), MemoryPolicy(efficient=True)


@functools.cache
def report_of(name: str, policy: MemoryPolicy = MemoryPolicy(), **switches: bool) -> MemoryReport:  # noqa: B008 - frozen
    with torch.device("meta"):
        model = build_model(zoo.find_config(name), policy)
    model.to_empty(device="cpu")
    model.set_grad_checkpointing(switches.get("segments", False))
    return measure_step(model, BATCH_32, execute=False)


# What is kept, and the most it may keep and need of plain's. ActNN's figure for ResNet-50 at 2 bits is 12 times less.
SHARES: Mapping[str, Mapping[str, tuple[MemoryPolicy, float, float]]] = MappingProxyType(
    {
        "resnet50": {
            "efficient, keep_bottleneck": (KEEP, 0.80, 0.83),
            "efficient": (LEAST, 0.47, 0.51),
            "compressed 2": (MemoryPolicy(compressed=2), 1 / 14.5, 0.25),
        },
        "mobilenet_v2": {
            "efficient, keep_bottleneck": (KEEP, 0.40, 0.42),
            "efficient": (LEAST, 0.21, 0.26),
            "compressed 2": (MemoryPolicy(compressed=2), 1 / 21, 0.21),
        },
    }
)


@pytest.mark.parametrize(("title", "name"), [("ResNet-50", "resnet50"), ("MobileNetV2", "mobilenet_v2")])
def test_shares_of_plain_and_the_readmes_bytes(title: str, name: str) -> None:
    plain = report_of(name)
    reports = {"plain": plain}
    for way, (policy, saved_share, peak_share) in SHARES[name].items():
        reports[way] = report_of(name, policy)
        assert reports[way].saved_bytes <= saved_share * plain.saved_bytes, way
        assert reports[way].peak_bytes <= peak_share * plain.peak_bytes, way
    lines = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith(f"| {title} |")]
    written = {row[1]: (float(row[2]), float(row[4])) for row in rows}
    for way, report in reports.items():
        assert written[way] == pytest.approx((report.saved_bytes / MIB, report.peak_bytes / MIB), rel=0.01), way


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "bits", "saved_share", "peak_share"), [("resnet50", 2, 1 / 14.5, 0.25), ("mobilenet_v2", 8, 1 / 8, 0.24)]
)
def test_shares_of_plain_with_both_flags(name: str, bits: int, saved_share: float, peak_share: float) -> None:
    plain, both = report_of(name), report_of(name, MemoryPolicy(efficient=True, compressed=bits))
    assert both.saved_bytes <= saved_share * plain.saved_bytes
    assert both.peak_bytes <= peak_share * plain.peak_bytes


SMALL: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "resnet50": {"layers": (1, 2, 1)},
        "resnet20": {"layers": (2, 2)},
        "preact_resnet164": {"layers": (2, 2)},
        "mobilenet_v2_035": {},
    }
)


@pytest.mark.parametrize(("name", "bits"), [*((name, 2) for name in SMALL), ("resnet50", 8)])
def test_stored_bytes_are_bits_and_metadata(name: str, bits: int) -> None:
    """Nothing of the size of an activation is kept but codes and masks, as many as the family's table says."""
    config = zoo.find_config(name, **SMALL[name])
    size, kept = config.image_size, config.kept_values()
    pixels = size**2 / (16 if name == "resnet50" else 4 if name.startswith("mobile") else 1)
    report = measure_step(build_model(config, MemoryPolicy(compressed=bits)), (8, 3, size, size), execute=False)
    expected = (kept.norm_inputs + kept.block_inputs) * (bits + 32 / 256) + kept.mask_bits
    found = report.saved_bytes - sum(row.saved_bytes for row in report.rows if row.kept == "kept by autograd")
    assert found == pytest.approx(8 * pixels * expected / 8, rel=0.05)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * name.startswith("mobilenet")) for name in SMALL]
)
def test_both_flags_keep_no_more_than_either(name: str) -> None:
    config = zoo.find_config(name, **SMALL[name])

    def saved(dtype: torch.dtype, **flags: Any) -> int:
        model = build_model(config, MemoryPolicy(**flags)).to(dtype)
        size = min(config.image_size, 64)
        return measure_step(model, (4, 3, size, size), dtype=dtype, execute=False).saved_bytes

    for dtype, compressed in ((torch.float32, 2), (torch.bfloat16, 8), (torch.bfloat16, "half")):
        alone = saved(dtype, compressed=compressed), saved(dtype, efficient=True)
        both = saved(dtype, compressed=compressed, efficient=True)
        assert both <= min(alone), (dtype, compressed, both, alone)


def test_real_steps_cost_what_fake_ones_say() -> None:
    for name in ("resnet20", "mobilenet_v2_035"):
        model = build_model(zoo.find_config(name), MemoryPolicy(compressed=2))
        real, fake = (measure_step(model, (4, 3, 32, 32), repeats=0, execute=execute) for execute in (True, False))
        assert (real.saved_bytes, real.peak_bytes) == (fake.saved_bytes, fake.peak_bytes)
        assert real.ran_on == "numba kernels"


@pytest.mark.slow
def test_stages_as_segments() -> None:
    plain, saving = report_of("resnet50"), report_of("resnet50", LEAST, segments=True)
    assert saving.saved_bytes <= 0.12 * plain.saved_bytes
    assert saving.peak_bytes <= 0.4 * plain.peak_bytes


@pytest.mark.quick
def test_rows_name_how_each_block_is_kept() -> None:
    model = build_model(zoo.find_config("resnet20"), LEAST)
    rows = {row.name: row.kept for row in measure_step(model, (2, 3, 32, 32), execute=False).rows}
    assert rows["layer1.0"] == "inputs of norms but the last, whose convolution is computed again"
    model.layer1[0].conv2.register_forward_hook(lambda *_: None)
    assert model.layer1[0].how_kept() == "the plain way: a hook is registered on conv2"
    coded = build_model(zoo.find_config("resnet20"), MemoryPolicy(compressed=2))
    rows = {row.name: row.kept for row in measure_step(coded, (2, 3, 32, 32), execute=False).rows}
    assert rows["layer1.0"] == "inputs of norms and of the block as codes (2), masks"
    assert rows["(model)"] == "norms' inputs as codes (2), masks"
    mobile = build_model(zoo.find_config("mobilenet_v2_035"), LEAST)
    rows = {row.name: row.kept for row in measure_step(mobile, (2, 3, 32, 32), execute=False).rows}
    assert rows["features.2"].endswith("whose convolution (the expansion) is computed again")
    assert rows["features.0"] == "outputs, the convolution is computed again"


@pytest.mark.parametrize("part", ["layer1.0.conv1", "layer2.0.downsample", "layer1.1.bn2", "bn1"])
def test_a_hook_inside_fires_and_the_part_says_it_runs_plainly(part: str) -> None:
    model = build_model(zoo.find_config("resnet20", width=4, shortcut="projection"), LEAST)
    seen: list[object] = []
    model.get_submodule(part).register_forward_hook(lambda *_: seen.append(part))
    with pytest.warns(PlainPathWarning, match=f"hook is registered on {part.split('.')[-1]}"):
        model(torch.zeros(2, 3, 8, 8)).sum().backward()
    assert seen == [part]


def test_a_hook_on_a_whole_block_fires_and_changes_nothing() -> None:
    model = build_model(zoo.find_config("mobilenet_v2_035"), LEAST)
    seen: list[int] = []
    model.features[3].register_forward_hook(lambda *_: seen.append(3))
    model(torch.zeros(2, 3, 32, 32)).sum().backward()
    assert seen == [3]
    model.features[3].conv[0].register_forward_hook(lambda *_: seen.append(0))
    with pytest.warns(PlainPathWarning, match=r"hook is registered on conv\.0"):
        model(torch.zeros(2, 3, 32, 32))
    assert seen == [3, 0, 3]
