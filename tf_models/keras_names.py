"""What keras.applications calls the layers of DenseNet, ResNet and MobileNetV2."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

# Canonical names by family, as patterns, and what keras.applications calls them: {1:-1} is the pattern's second
# group as a number, less one.
_NAMES: Mapping[str, Sequence[tuple[str, str]]] = MappingProxyType(
    {
        "DenseNet": (
            (r"features\.conv0", "conv1_conv"),
            (r"features\.norm0", "conv1_bn"),
            (r"features\.denseblock(\d+)\.denselayer(\d+)\.norm(\d+)", "conv{0:1}_block{1:0}_{2:-1}_bn"),
            (r"features\.denseblock(\d+)\.denselayer(\d+)\.conv(\d+)", "conv{0:1}_block{1:0}_{2:0}_conv"),
            (r"features\.transition(\d+)\.norm", "pool{0:1}_bn"),
            (r"features\.transition(\d+)\.conv", "pool{0:1}_conv"),
            (r"features\.norm5", "bn"),
            (r"classifier", "predictions"),
        ),
        "ResNet": (
            (r"conv1", "conv1_conv"),
            (r"bn1", "conv1_bn"),
            (r"layer(\d+)\.(\d+)\.conv(\d+)", "conv{0:1}_block{1:1}_{2:0}_conv"),
            (r"layer(\d+)\.(\d+)\.bn(\d+)", "conv{0:1}_block{1:1}_{2:0}_bn"),
            (r"layer(\d+)\.(\d+)\.downsample\.0", "conv{0:1}_block{1:1}_0_conv"),
            (r"layer(\d+)\.(\d+)\.downsample\.1", "conv{0:1}_block{1:1}_0_bn"),
            (r"fc", "predictions"),
        ),
        "MobileNetV2": (
            (r"features\.0\.0", "Conv1"),
            (r"features\.0\.1", "bn_Conv1"),
            (r"features\.1\.conv\.0\.0", "expanded_conv_depthwise"),
            (r"features\.1\.conv\.0\.1", "expanded_conv_depthwise_BN"),
            (r"features\.1\.conv\.1", "expanded_conv_project"),
            (r"features\.1\.conv\.2", "expanded_conv_project_BN"),
            (r"features\.(\d+)\.conv\.0\.0", "block_{0:-1}_expand"),
            (r"features\.(\d+)\.conv\.0\.1", "block_{0:-1}_expand_BN"),
            (r"features\.(\d+)\.conv\.1\.0", "block_{0:-1}_depthwise"),
            (r"features\.(\d+)\.conv\.1\.1", "block_{0:-1}_depthwise_BN"),
            (r"features\.(\d+)\.conv\.2", "block_{0:-1}_project"),
            (r"features\.(\d+)\.conv\.3", "block_{0:-1}_project_BN"),
            (r"features\.\d+\.0", "Conv_1"),
            (r"features\.\d+\.1", "Conv_1_bn"),
            (r"classifier\.1", "predictions"),
        ),
    }
)


def keras_layer_name(family: str, name: str) -> str:
    """What keras.applications calls a layer.

    Args:
        family: "DenseNet", "ResNet" or "MobileNetV2".
        name: canonical.

    Raises:
        KeyError: no layer of that name in the family.

    Example:
        >>> keras_layer_name("ResNet", "layer2.0.downsample.1")
        'conv3_block1_0_bn'
    """
    for pattern, wanted in _NAMES.get(family, ()):
        found = re.fullmatch(pattern, name)
        if found:
            return _filled(wanted, [int(group) for group in found.groups()])
    raise KeyError(f"{family} of flavour 'keras' has no layer {name}")


def _filled(wanted: str, numbers: list[int]) -> str:
    """Puts numbers where {place:summand} stands."""
    return re.sub(r"\{(\d):(-?\d)\}", lambda one: str(numbers[int(one[1])] + int(one[2])), wanted)
