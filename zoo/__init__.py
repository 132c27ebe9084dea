"""memory-efficient-zoo: networks that train in less memory. Importing this loads no framework.

Example:
    >>> import zoo
    >>> zoo.list_models("densenet")[:2]
    ['densenet_bc_40_12', 'densenet_bc_100_12']
"""

from __future__ import annotations

import dataclasses
import fnmatch
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from zoo import densenet, frameworks, lstm, mobilenet_v2, resnet
from zoo.choices import unknown
from zoo.field_checks import check_device_name
from zoo.measuring import image_shape_for, measure_or_explain
from zoo.planning import BATCH, max_batch, plan, planned_model
from zoo.policy import MemoryPolicy
from zoo.report import MemoryReport

__version__ = "0.1.0"
__all__ = [
    "MemoryPolicy",
    "MemoryReport",
    "create_model",
    "find_config",
    "list_models",
    "load_run",
    "max_batch",
    "measure",
    "plan",
]

FAMILIES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "densenet": densenet.VARIANTS,
        "resnet": resnet.VARIANTS,
        "mobilenet_v2": mobilenet_v2.VARIANTS,
        "lstm": lstm.VARIANTS,
    }
)


def list_models(pattern: str | None = None) -> list[str]:
    """Names for `create_model`: of one family, those that a glob such as "densenet_bc*" matches, or all.

    Raises:
        ValueError: no such family, or no name that matches, with the nearest.
    """
    names = {name: family for family, variants in FAMILIES.items() for name in variants}
    if pattern is None or pattern in FAMILIES:
        return [name for name, family in names.items() if pattern in (None, family)]
    if not re.search(r"[*?\[]", pattern):
        raise ValueError(unknown("family", pattern, FAMILIES))
    found = fnmatch.filter(names, pattern)
    if not found:
        raise ValueError(f"no model's name matches {pattern!r}: {unknown('model', pattern.strip('*?'), names)}")
    return found


def find_config(name: str, **config_overrides: Any) -> Any:
    """The config of a published variant, with some fields changed; the family's frozen dataclass.

    Raises:
        ValueError: no such model, with the nearest; or a field's value that cannot be.
        TypeError: no such field, with the nearest; or a value of the wrong type.

    Example:
        >>> find_config("densenet121", num_classes=10).num_classes
        10
    """
    config = _published(name)
    _check_fields(name, config_overrides, type(config))
    return dataclasses.replace(config, **config_overrides)


def _published(name: str) -> Any:
    if not isinstance(name, str):
        raise TypeError(f"the name of a model is needed, not {name!r}")
    configs = {key: config for variants in FAMILIES.values() for key, config in variants.items()}
    if name not in configs:
        raise ValueError(unknown("model", name, configs))
    return configs[name]


def _check_fields(name: str, given: Mapping[str, Any], *kinds: type) -> None:
    valid = [field.name for kind in kinds for field in dataclasses.fields(kind)]
    valid += ["budget", "batch_size", "checkpoint_path", "features_only"] if MemoryPolicy in kinds else []
    for field in given:
        if field not in valid:
            raise TypeError(f"{name}: {unknown('field', field, valid)}")


def create_model(
    name: str,
    framework: str = "torch",
    *,
    efficient: bool = False,
    keep_bottleneck: bool = False,
    opt_memory: int | None = None,
    compressed: int | str | None = None,
    budget: int | float | str | None = None,
    batch_size: int | None = None,
    checkpoint_path: str | Path | None = None,
    features_only: bool = False,
    **config_overrides: Any,
) -> Any:
    """A published network in one framework, an ordinary model of that framework; its weights fresh, or from a file.

    Args:
        name: one of `list_models()`.
        framework: where to build it.
        efficient, keep_bottleneck, opt_memory, compressed: see `zoo.policy.MemoryPolicy`.
        budget: instead of those: the model comes with the exact plan applied that is fastest within so many bytes for
            `batch_size` samples (64) of the size it was published for; see `plan`.
        checkpoint_path: a `.safetensors` file of any framework, or a file of this framework's own kind; a head for
            another number of classes is left out, and a warning names it.
        features_only: without the head: gives a list of feature maps, of `.channels`, smaller by `.reductions`.
        config_overrides: fields of the family's config to change, such as `num_classes` and `in_chans`.

    Raises:
        ValueError: no such model or framework, with the nearest; values that contradict one another; weights that
            are not this network's; `features_only` of a family without feature maps.
        TypeError: no such field, with the nearest; or a value of the wrong type.
        FileNotFoundError: no file at `checkpoint_path`.
        ImportError: the framework is not installed; names the extra to install.

    Example:
        >>> model = zoo.create_model("densenet_bc_40_12", efficient=True, num_classes=100)
    """
    frameworks.find(framework)
    _check_fields(name, config_overrides, MemoryPolicy, type(_published(name)))
    config = find_config(name, **config_overrides)
    policy = MemoryPolicy(efficient, keep_bottleneck, opt_memory, compressed)
    config.check_policy(policy)
    if budget is not None and (policy != MemoryPolicy() or features_only):
        other = f"memory flags ({policy})" if policy != MemoryPolicy() else "features_only"
        raise ValueError(f"budget={budget!r} and {other} do not go together: a plan decides what is kept")
    _check_size("batch_size", batch_size, may_be_none=True)
    if batch_size is not None and budget is None:
        raise ValueError(f"batch_size={batch_size} changes nothing without a budget, which it is for: leave it out")
    if not isinstance(features_only, bool):
        raise TypeError(f"features_only must be True or False, not {features_only!r}")
    if checkpoint_path is not None and not Path(checkpoint_path).expanduser().is_file():
        raise FileNotFoundError(f"checkpoint_path: there is no file {checkpoint_path}")
    package = frameworks.load(framework)
    if features_only and not hasattr(package, "feature_extractor"):
        raise ValueError(f"features_only=True: {framework} offers no feature maps: torch does")
    model = package.build_model(config, policy)
    if checkpoint_path is not None:
        package.load_weights(model, checkpoint_path)
    if budget is not None:
        return planned_model(framework, model, budget, BATCH if batch_size is None else batch_size)
    return package.feature_extractor(model) if features_only else model


def load_run(folder: str | Path, framework: str | None = None, epoch: str = "best") -> Any:
    """The trained network of a run saved by `demo.py --save` or by `train`, built from its config.json.

    Args:
        folder: what was given as --save.
        framework: where it was trained; None = as its config.json says.
        epoch: "best" (by validation accuracy) or "last".

    Returns:
        A model on the CPU, in training mode as a new one is: call `model.eval()` to classify with it.

    Raises:
        zoo.run_folder.RunFolderError: no run there, or its config.json does not tell the network.
        zoo.options.TrainingError: the weights cannot be read, or are those of another network.
        ValueError: no such framework or epoch; another framework than the run's.
        ImportError: the framework is not installed.

    After `python demo.py --save runs/x`: `model = zoo.load_run("runs/x").eval()`.
    """
    from zoo.saved_run import load_run as load  # needs importlib.metadata, which takes half of `import zoo`'s time

    return load(folder, framework, epoch)


def measure(
    name_or_model: Any,
    framework: str | None = None,
    batch_size: int = 64,
    image_size: int | None = None,
    device: str = "cpu",
    **flags: Any,
) -> MemoryReport:
    """Memory and time of one training step, really run on random images.

    Args:
        name_or_model: one of `list_models()`, or a model of any framework.
        framework: where to build it, or what the model belongs to; None = as its class says, for a name "torch".
        batch_size: images.
        image_size: height and width in pixels; by default what the network was published for (32 or 224).
        device: "cpu", "cuda" or "cuda:<number>".
        flags: for a name, what `create_model` takes; a model has its own already.

    Raises:
        ValueError, TypeError, ImportError: as `create_model`; a size below 1, or too small for the network; a device
            that does not exist or is not there; a model whose image size is unknown.
        MemoryError: the step does not fit; says how many bytes it needs.

    Example:
        >>> report = zoo.measure("densenet_bc_40_12", batch_size=2, efficient=True)
        >>> report.peak_bytes < 2**30
        True
    """
    for argument, value in (("batch_size", batch_size), ("image_size", image_size)):
        _check_size(f"measure: {argument}", value, may_be_none=argument == "image_size")
    check_device_name(device, auto=False, where="measure: ")
    if flags.get("features_only"):
        raise TypeError("measure: features_only=True has no loss to measure a training step with")
    if not isinstance(name_or_model, str) and flags:
        given = ", ".join(flags)
        raise TypeError(f"measure: {given} given with a model that is built already: give its name instead")
    framework = framework or frameworks.framework_of(name_or_model) or "torch"
    if flags.get("budget") is not None:
        flags = {**flags, "batch_size": batch_size}
    model = create_model(name_or_model, framework, **flags) if isinstance(name_or_model, str) else name_or_model
    shape = image_shape_for(model, image_size, batch_size)
    package = frameworks.load(framework)
    package.check_device(device, False)
    report = measure_or_explain(package, model, shape, device)
    return dataclasses.replace(report, model=name_or_model) if isinstance(name_or_model, str) else report


def _check_size(argument: str, value: object, may_be_none: bool = False) -> None:
    if value is None and may_be_none:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{argument} must be an integer, not {value!r}")
    if value < 1:
        raise ValueError(f"{argument} must be at least 1, not {value}")
