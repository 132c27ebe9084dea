"""The zoo's models as MXNet Symbols, and memonger: plans that train them, or any Symbol, in less memory.

Every framework package exports the same functions, so that `zoo` and the demo reach any of them alike.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from mxnet_memonger import memonger
from mxnet_memonger.compression import compress
from mxnet_memonger.densenet import DenseNet
from mxnet_memonger.devices import check_device, is_out_of_memory, set_seed
from mxnet_memonger.lstm import LSTM
from mxnet_memonger.measure import measure_step
from mxnet_memonger.memonger import mirror
from mxnet_memonger.mobilenet_v2 import MobileNetV2
from mxnet_memonger.part_planning import adapt_plan, apply_plan, make_plan, real_peak, remove_plan, study_plan
from mxnet_memonger.resnet import ResNet
from mxnet_memonger.symbol_model import SymbolModel
from mxnet_memonger.training import train
from mxnet_memonger.weights import load_weights, save_weights
from zoo.densenet import DenseNetConfig
from zoo.lstm import LSTMConfig
from zoo.mobilenet_v2 import MobileNetV2Config
from zoo.policy import MemoryPolicy
from zoo.resnet import ResNetConfig

__all__ = [
    "LSTM",
    "DenseNet",
    "MobileNetV2",
    "ResNet",
    "adapt_plan",
    "apply_plan",
    "build_model",
    "check_device",
    "compress",
    "is_out_of_memory",
    "load_weights",
    "make_plan",
    "measure_step",
    "memonger",
    "mirror",
    "real_peak",
    "remove_plan",
    "save_weights",
    "set_seed",
    "study_plan",
    "train",
]

MODELS: Mapping[type, type[SymbolModel]] = MappingProxyType(
    {DenseNetConfig: DenseNet, LSTMConfig: LSTM, MobileNetV2Config: MobileNetV2, ResNetConfig: ResNet}
)


def build_model(config: Any, policy: MemoryPolicy | None = None) -> SymbolModel:
    """The model of a family config.

    Raises:
        TypeError: a config of no family that exists in MXNet.
        ValueError: a policy that MXNet does not offer.

    Example:
        >>> build_model(DenseNetConfig(block_config=(2, 2)), MemoryPolicy(efficient=True)).policy.efficient
        True
    """
    if type(config) not in MODELS:
        known = ", ".join(kind.__name__ for kind in MODELS)
        raise TypeError(f"no model in MXNet for a {type(config).__name__}: give one of {known}")
    return MODELS[type(config)].from_config(config, policy or MemoryPolicy())
