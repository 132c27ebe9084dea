"""ResNetConfig and MobileNetV2Config and their tables of published variants, against the papers and torchvision."""

from __future__ import annotations

import dataclasses

import pytest

from zoo import mobilenet_v2, resnet
from zoo.mobilenet_v2 import MobileNetV2Config
from zoo.policy import MemoryPolicy
from zoo.resnet import ResNetConfig

# What torchvision counts; of the CIFAR networks the papers' 0.27 to 10.3 M exactly.
PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "wide_resnet50_2": 68_883_240,
    "wide_resnet101_2": 126_886_696,
    "resnext50_32x4d": 25_028_904,
    "resnext101_32x8d": 88_791_336,
    "resnet20": 269_722,
    "resnet32": 464_154,
    "resnet44": 658_586,
    "resnet56": 853_018,
    "resnet110": 1_727_962,
    "resnet164": 1_661_274,
    "preact_resnet56": 855_578,
    "preact_resnet110": 1_730_522,
    "preact_resnet164": 1_703_258,
    "preact_resnet1001": 10_327_706,
    "mobilenet_v2": 3_504_872,
    "mobilenet_v2_050": 1_968_680,
    "mobilenet_v2_140": 6_108_776,
}
VARIANTS = {**resnet.VARIANTS, **mobilenet_v2.VARIANTS}


@pytest.mark.quick
@pytest.mark.parametrize("name", PARAMETERS)
def test_the_published_number_of_parameters(name: str) -> None:
    assert VARIANTS[name].count_parameters() == PARAMETERS[name]


@pytest.mark.parametrize("name", [name for name in VARIANTS if name not in ("resnet152", "preact_resnet1001")])
@pytest.mark.parametrize("flavour", ["torchvision", "keras"])
def test_the_model_has_the_parameters_the_config_counts(name: str, flavour: str) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'memory-efficient-zoo[torch]'")
    from pytorch_models import build_model

    config = VARIANTS[name]
    bottlenecks = isinstance(config, MobileNetV2Config) or (config.block == "bottleneck" and not config.small_inputs)
    if flavour == "keras" and not bottlenecks:
        return
    config = dataclasses.replace(config, flavour=flavour, in_chans=4, num_classes=7)
    with torch.device("meta"):
        model = build_model(config, MemoryPolicy(efficient=True))
    assert sum(parameter.numel() for parameter in model.parameters()) == config.count_parameters()


@pytest.mark.quick
@pytest.mark.parametrize(
    ("depth", "block", "nearest"), [(57, "basic", (56, 62)), (7, "basic", (8, 14)), (165, "bottleneck", (164, 173))]
)
def test_a_depth_that_does_not_divide_names_the_nearest(depth: int, block: str, nearest: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"depth={depth}: .*nearest are {nearest[0]} and {nearest[1]}$"):
        ResNetConfig.from_depth(depth, block=block)
    for valid in nearest:
        ResNetConfig.from_depth(valid, block=block)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"block": "dense"}, "block must be one of basic, bottleneck, not 'dense'"),
        ({"layers": ()}, "layers is empty"),
        ({"layers": (2, 0)}, r"layers\[1\] must be at least 1"),
        ({"layers": (9999, 2)}, "at most 10000 blocks"),
        ({"width": 0}, "width must be at least 1"),
        ({"groups": 2}, "groups and width_per_group are of bottleneck blocks"),
        ({"block": "bottleneck", "width_per_group": 3}, "width_per_group=3 leaves no channel of width 16"),
        ({"pre_activation": True, "shortcut": "padding"}, "leave out shortcut='padding'"),
        ({"shortcut": "none"}, "shortcut must be one of projection, padding"),
        ({"flavour": "keras"}, "flavour='keras' is of the ImageNet bottleneck networks"),
        ({"flavour": "caffe"}, "flavour must be one of torchvision, keras"),
        ({"width": 10**5}, "more than 2,000,000,000: lower width"),
    ],
)
def test_a_resnet_that_cannot_be_is_refused(fields: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ResNetConfig(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (ResNetConfig, {"layers": 3}),
        (ResNetConfig, {"layers": (2, 2.0)}),
        (ResNetConfig, {"width": "16"}),
        (ResNetConfig, {"small_inputs": 1}),
        (ResNetConfig, {"pre_activation": None}),
        (MobileNetV2Config, {"width_mult": "1"}),
        (MobileNetV2Config, {"num_classes": True}),
        (MobileNetV2Config, {"drop_rate": None}),
    ],
)
def test_a_value_of_the_wrong_type_names_the_field(kind: type, fields: dict[str, object]) -> None:
    with pytest.raises(TypeError, match=next(iter(fields))):
        kind(**fields)


@pytest.mark.parametrize(
    ("field", "value"), [("width_mult", 0), ("width_mult", float("nan")), ("drop_rate", 1.0), ("in_chans", 0)]
)
def test_a_mobilenet_that_cannot_be_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        MobileNetV2Config(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("config", [ResNetConfig(), MobileNetV2Config()])
def test_policies_of_other_families_are_refused(config: ResNetConfig | MobileNetV2Config) -> None:
    for policy in (MemoryPolicy(opt_memory=0), MemoryPolicy(opt_memory=4)):
        with pytest.raises(ValueError, match="the levels are DenseNet's; give efficient=True"):
            config.check_policy(policy)
    config.check_policy(MemoryPolicy(efficient=True, keep_bottleneck=True))
    config.check_policy(MemoryPolicy(efficient=True, compressed=2))


@pytest.mark.parametrize("name", [name for name in VARIANTS if not name.startswith("densenet")])
def test_codes_pay_unless_values_are_narrow(name: str) -> None:
    kept = VARIANTS[name].kept_values()
    for compressed in (1, 2, 4, 8, "fixed:12"):
        assert kept.codes_pay(MemoryPolicy(efficient=True, compressed=compressed), 4)
        assert kept.codes_pay(MemoryPolicy(compressed=compressed), 2)
    assert kept.codes_pay(MemoryPolicy(efficient=True, compressed=4), 2)
    assert not kept.codes_pay(MemoryPolicy(efficient=True, compressed="half"), 2)
    assert not kept.codes_pay(MemoryPolicy(efficient=True), 4)


@pytest.mark.parametrize("name", ["resnet20", "resnet18", "preact_resnet56", "mobilenet_v2_035"])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_the_smallest_image_trains_and_a_pixel_less_does_not(name: str, batch_size: int) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'memory-efficient-zoo[torch]'")
    from pytorch_models import build_model

    config = VARIANTS[name]
    model, least = build_model(config), config.smallest_image_size(batch_size)
    assert model(torch.zeros(batch_size, 3, least, least)).shape == (batch_size, config.num_classes)
    if least > 1:
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            model(torch.zeros(batch_size, 3, least - 1, least - 1))
