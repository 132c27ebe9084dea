"""DenseNetConfig and its table of published variants, against the tables of the paper."""

from __future__ import annotations

import dataclasses

import pytest

from zoo.densenet import VARIANTS, DenseNetConfig

# (growth rate, layers of each block, initial channels, compression, bottleneck factor, classes, CIFAR stem)
PUBLISHED = {
    "densenet_bc_40_12": (12, (6, 6, 6), 24, 0.5, 4, 10, True),
    "densenet_bc_100_12": (12, (16, 16, 16), 24, 0.5, 4, 10, True),
    "densenet_bc_190_40": (40, (31, 31, 31), 80, 0.5, 4, 10, True),
    "densenet_bc_250_24": (24, (41, 41, 41), 48, 0.5, 4, 10, True),
    "densenet_40_12": (12, (12, 12, 12), 16, 1.0, 0, 10, True),
    "densenet121": (32, (6, 12, 24, 16), 64, 0.5, 4, 1000, False),
    "densenet161": (48, (6, 12, 36, 24), 96, 0.5, 4, 1000, False),
    "densenet169": (32, (6, 12, 32, 32), 64, 0.5, 4, 1000, False),
    "densenet201": (32, (6, 12, 48, 32), 64, 0.5, 4, 1000, False),
    "densenet264": (32, (6, 12, 64, 48), 64, 0.5, 4, 1000, False),
}
# What torchvision counts, and for the CIFAR network the paper's 0.8 M exactly.
PARAMETERS = {
    "densenet_bc_100_12": 769_162,
    "densenet121": 7_978_856,
    "densenet161": 28_681_000,
    "densenet169": 14_149_480,
    "densenet201": 20_013_928,
}


@pytest.mark.quick
def test_the_table_holds_the_published_variants() -> None:
    def row(config: DenseNetConfig) -> tuple[object, ...]:
        shape = (config.growth_rate, config.block_config, config.num_init_features, config.compression, config.bn_size)
        return (*shape, config.num_classes, config.small_inputs)

    assert {name: row(config) for name, config in VARIANTS.items()} == PUBLISHED
    assert all(config.drop_rate == 0 and config.flavour == "torchvision" for config in VARIANTS.values())


def test_the_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError, match="does not support item assignment"):
        VARIANTS["mine"] = DenseNetConfig()  # type: ignore[index]
    with pytest.raises(dataclasses.FrozenInstanceError):
        VARIANTS["densenet121"].growth_rate = 1  # type: ignore[misc]


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_widths_give_the_published_number_of_parameters(name: str) -> None:
    assert _parameters(VARIANTS[name]) == PARAMETERS[name]


def _parameters(config: DenseNetConfig) -> int:
    """Counted from the config alone: a norm has 2 a channel, a convolution inputs x outputs x area, no bias."""
    channels, growth, bottleneck = config.num_init_features, config.growth_rate, config.bn_size * config.growth_rate
    total = 3 * channels * (9 if config.small_inputs else 49) + (0 if config.small_inputs else 2 * channels)
    for block, (layers, width) in enumerate(zip(config.block_config, config.block_widths(), strict=True)):
        for layer in range(layers):
            features = channels + layer * growth
            total += 2 * features + features * bottleneck + 2 * bottleneck + 9 * bottleneck * growth
        if block + 1 < len(config.block_config):
            channels = int(width * config.compression)
            total += 2 * width + width * channels
    last = config.block_widths()[-1]
    return total + 2 * last + last * config.num_classes + config.num_classes


@pytest.mark.quick
@pytest.mark.parametrize(
    ("depth", "bottleneck", "layers"),
    [(10, True, 1), (100, True, 16), (7, False, 1), (40, False, 12), (100, False, 32)],
)
def test_from_depth(depth: int, bottleneck: bool, layers: int) -> None:
    config = DenseNetConfig.from_depth(depth, 24, bottleneck=bottleneck)
    assert config.block_config == (layers,) * 3
    assert config.growth_rate == 24
    assert (config.num_init_features, config.compression, config.bn_size) == (
        (48, 0.5, 4) if bottleneck else (16, 1, 0)
    )


def test_from_depth_lets_fields_be_set() -> None:
    config = DenseNetConfig.from_depth(40, drop_rate=0.2, compression=1.0, num_classes=100)
    assert (config.drop_rate, config.compression, config.num_classes) == (0.2, 1.0, 100)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("depth", "bottleneck", "nearest"),
    [
        (99, True, (94, 100)),
        (101, True, (100, 106)),
        (4, True, (10, 16)),
        (1, True, (10, 16)),
        (41, False, (40, 43)),
        (4, False, (7, 10)),
    ],
)
def test_a_depth_that_does_not_divide_names_the_nearest(depth: int, bottleneck: bool, nearest: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"depth={depth}: .*nearest are {nearest[0]} and {nearest[1]}$"):
        DenseNetConfig.from_depth(depth, bottleneck=bottleneck)
    for valid in nearest:
        DenseNetConfig.from_depth(valid, bottleneck=bottleneck)


@pytest.mark.parametrize("depth", ["100", 100.0, None, True])
def test_a_depth_is_an_integer(depth: object) -> None:
    with pytest.raises(TypeError, match="depth must be an integer"):
        DenseNetConfig.from_depth(depth)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("growth_rate", 0),
        ("num_init_features", 0),
        ("bn_size", -1),
        ("num_classes", 0),
        ("block_config", ()),
        ("block_config", (6, 0, 6)),
        ("compression", 0),
        ("compression", 1.01),
        ("compression", float("nan")),
        ("compression", 0.001),
        ("drop_rate", 1.0),
        ("drop_rate", -0.1),
        ("drop_rate", float("nan")),
        ("flavour", "caffe"),
    ],
)
def test_a_value_out_of_range_names_the_field(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        DenseNetConfig(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("growth_rate", 12.0),
        ("growth_rate", True),
        ("growth_rate", "12"),
        ("block_config", "666"),
        ("block_config", 16),
        ("block_config", (6, 6.0)),
        ("compression", "0.5"),
        ("drop_rate", None),
        ("small_inputs", 1),
    ],
)
def test_a_value_of_the_wrong_type_names_the_field(field: str, value: object) -> None:
    with pytest.raises(TypeError, match=field):
        DenseNetConfig(**{field: value})  # type: ignore[arg-type]


def test_a_list_of_layers_is_kept_as_a_tuple() -> None:
    assert DenseNetConfig(block_config=[2, 2]).block_config == (2, 2)  # type: ignore[arg-type]
    assert hash(DenseNetConfig(block_config=[2, 2])) == hash(DenseNetConfig(block_config=(2, 2)))  # type: ignore[arg-type]


def test_the_flavour_decides_the_epsilon() -> None:
    assert DenseNetConfig().norm_epsilon == 1e-5
    assert DenseNetConfig(flavour="keras").norm_epsilon == 1.001e-5
