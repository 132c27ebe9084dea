"""The zoo's models in PyTorch: `from pytorch_models import DenseNet, LSTM, MobileNetV2, ResNet`.

Every framework package exports these functions, so that `zoo` and the demo reach any of them alike.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pytorch_models.densenet import DenseNet
from pytorch_models.devices import check_device, set_seed
from pytorch_models.features import feature_extractor
from pytorch_models.lstm import LSTM
from pytorch_models.measure import measure_step
from pytorch_models.measure_processes import measure_in_processes
from pytorch_models.mobilenet_v2 import MobileNetV2
from pytorch_models.out_of_memory import is_out_of_memory
from pytorch_models.planning import adapt_plan, apply_plan, make_plan, real_peak, remove_plan, study_plan
from pytorch_models.planning.others import points_of_others
from pytorch_models.resnet import ResNet
from pytorch_models.segments import checkpoint_segments
from pytorch_models.training import train
from pytorch_models.weights import load_weights, save_weights
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
    "checkpoint_segments",
    "feature_extractor",
    "is_out_of_memory",
    "load_weights",
    "make_plan",
    "measure_in_processes",
    "measure_step",
    "points_of_others",
    "real_peak",
    "remove_plan",
    "save_weights",
    "set_seed",
    "study_plan",
    "train",
]

MODELS: Mapping[type, Any] = MappingProxyType(
    {DenseNetConfig: DenseNet, LSTMConfig: LSTM, MobileNetV2Config: MobileNetV2, ResNetConfig: ResNet}
)


def build_model(config: Any, policy: MemoryPolicy | None = None) -> Any:
    """The model of a family config, an `nn.Module`.

    Raises:
        TypeError: a config of no family that exists in PyTorch.

    Example:
        >>> build_model(DenseNetConfig(block_config=(2, 2)), MemoryPolicy(efficient=True)).policy.efficient
        True
    """
    if type(config) not in MODELS:
        known = ", ".join(kind.__name__ for kind in MODELS)
        raise TypeError(f"no model in PyTorch for a {type(config).__name__}: give one of {known}")
    return MODELS[type(config)].from_config(config, policy or MemoryPolicy())
