"""The zoo's models in TensorFlow, as Keras models: `from tf_models import DenseNet, LSTM, MobileNetV2, ResNet`.

Every framework package exports the same functions, so that `zoo` and the demo reach any of them alike.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from tf_models.applications import load_application
from tf_models.densenet import DenseNet
from tf_models.devices import check_device, is_out_of_memory, set_seed
from tf_models.lstm import LSTM
from tf_models.measure import measure_step
from tf_models.mobilenet_v2 import MobileNetV2
from tf_models.planning import adapt_plan, apply_plan, make_plan, real_peak, remove_plan, study_plan
from tf_models.processes import Workers, join_workers
from tf_models.resnet import ResNet
from tf_models.training import train
from tf_models.weights import load_weights, save_weights
from tf_models.zoo_model import ZooModel
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
    "Workers",
    "adapt_plan",
    "apply_plan",
    "build_model",
    "check_device",
    "is_out_of_memory",
    "join_workers",
    "load_application",
    "load_weights",
    "make_plan",
    "measure_step",
    "real_peak",
    "remove_plan",
    "save_weights",
    "set_seed",
    "study_plan",
    "train",
]

MODELS: Mapping[type, type[ZooModel]] = MappingProxyType(
    {DenseNetConfig: DenseNet, LSTMConfig: LSTM, MobileNetV2Config: MobileNetV2, ResNetConfig: ResNet}
)


def build_model(config: Any, policy: MemoryPolicy | None = None) -> ZooModel:
    """The model of a family config, a `keras.Model`.

    Raises:
        TypeError: a config of no family that exists in TensorFlow.
        ValueError: a policy that TensorFlow does not offer.

    Example:
        >>> build_model(DenseNetConfig(block_config=(2, 2)), MemoryPolicy(efficient=True)).policy.efficient
        True
    """
    if type(config) not in MODELS:
        known = ", ".join(kind.__name__ for kind in MODELS)
        raise TypeError(f"no model in TensorFlow for a {type(config).__name__}: give one of {known}")
    return MODELS[type(config)].of(config, policy or MemoryPolicy())
