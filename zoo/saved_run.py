"""The network of a saved run: how config.json describes it, and how it is built again from there."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import zoo.frameworks
from zoo.densenet import DenseNetConfig
from zoo.lstm import LSTMConfig
from zoo.mobilenet_v2 import MobileNetV2Config
from zoo.options import TrainingError
from zoo.policy import POLICY_FIELDS, MemoryPolicy
from zoo.resnet import ResNetConfig
from zoo.run_folder import CONFIG, RunFolder, RunFolderError, read_config

CONFIGS: Mapping[str, type] = MappingProxyType(
    {"densenet": DenseNetConfig, "resnet": ResNetConfig, "mobilenet_v2": MobileNetV2Config, "lstm": LSTMConfig}
)
EPOCHS = ("best", "last")


def describe_network(config: object) -> dict[str, Any] | None:
    """A family's name and every field of its config, for config.json; None for what is no config of a family."""
    for family, kind in CONFIGS.items():
        if isinstance(config, kind) and dataclasses.is_dataclass(config) and not isinstance(config, type):
            return {"family": family, **dataclasses.asdict(config)}
    return None


def rebuild_config(network: Mapping[str, Any]) -> Any:
    """The config that `describe_network` described.

    Raises:
        ValueError, TypeError: no such family, or fields that its config does not take.
    """
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in network.items()}
    family = str(fields.pop("family", None))
    if family not in CONFIGS:
        raise ValueError(f"no family {family!r}; known: {', '.join(CONFIGS)}")
    return CONFIGS[family](**fields)


def load_run(folder: str | Path, framework: str | None, epoch: str) -> Any:
    """See `zoo.load_run`."""
    if epoch not in EPOCHS:
        raise ValueError(f"epoch must be one of {', '.join(EPOCHS)}, not {epoch!r}")
    if framework is not None:
        zoo.frameworks.find(framework)
    place = Path(folder).expanduser()
    content = read_config(place)
    network, flags = content.get("network"), content.get("flags")
    if not isinstance(network, dict) or not isinstance(flags, dict):
        raise RunFolderError(
            f"{place / CONFIG} does not say which network this run trained (network: {network!r}): build the model "
            "as it was built then, and load the weights yourself"
        )
    try:
        config = rebuild_config(network)
    except (ValueError, TypeError) as error:
        raise RunFolderError(f"{place / CONFIG}: its network cannot be built ({error}): restore that file") from error
    row = zoo.frameworks.find(_framework(place, flags, framework))
    package = zoo.frameworks.load(row.name)
    model = package.build_model(config, _policy(flags))
    run = RunFolder(place, row.checkpoint_suffix)
    weights = run.best if epoch == "best" else run.last
    try:
        package.load_weights(model, weights, resize_head=False)
    except FileNotFoundError:
        raise TrainingError(f"{weights} cannot be read as a checkpoint: there is no such file") from None
    except ValueError as error:
        raise TrainingError(str(error)) from error
    return model


def _framework(place: Path, flags: Mapping[str, Any], asked: str | None) -> str:
    """Where a run was trained; runs of `train` alone do not say, and are PyTorch's unless another is asked for."""
    trained = flags.get("framework")
    if trained not in zoo.frameworks.FRAMEWORKS:
        return asked or "torch"
    if asked not in (None, trained):
        raise ValueError(
            f"load_run: {place} was trained with framework={trained}, not {asked}: leave framework out, and carry the "
            "weights over with save_weights, to a .safetensors file, and create_model(..., checkpoint_path=...)"
        )
    return str(trained)


def _policy(flags: Mapping[str, Any]) -> MemoryPolicy:
    return MemoryPolicy(**{name: flags[name] for name in POLICY_FIELDS if name in flags})
