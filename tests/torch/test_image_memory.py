"""Bytes of ResNet-50 and MobileNetV2 at full size, without computing anything."""

from __future__ import annotations

import pytest
import torch

import zoo
from pytorch_models import build_model, measure_step
from pytorch_models.saving import PlainPathWarning
from zoo.policy import MemoryPolicy
from zoo.report import MemoryReport

BATCH_32 = (32, 3, 224, 224)
KEEP, LEAST = MemoryPolicy(efficient=True, keep_bottleneck=True), MemoryPolicy(efficient=True)


def report_of(name: str, policy: MemoryPolicy = MemoryPolicy(), **switches: bool) -> MemoryReport:  # noqa: B008 - frozen
    with torch.device("meta"):
        model = build_model(zoo.find_config(name), policy)
    model.to_empty(device="cpu")
    model.set_grad_checkpointing(switches.get("segments", False))
    return measure_step(model, BATCH_32, execute=False)


@pytest.mark.parametrize(
    ("name", "policy", "saved_share", "peak_share"),
    [
        ("resnet50", KEEP, 0.80, 0.83),
        ("resnet50", LEAST, 0.47, 0.51),
        ("mobilenet_v2", KEEP, 0.40, 0.42),
        ("mobilenet_v2", LEAST, 0.21, 0.26),
    ],
    ids=str,
)
def test_shares_of_plain(name: str, policy: MemoryPolicy, saved_share: float, peak_share: float) -> None:
    plain, saving = report_of(name), report_of(name, policy)
    assert saving.saved_bytes <= saved_share * plain.saved_bytes
    assert saving.peak_bytes <= peak_share * plain.peak_bytes


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
