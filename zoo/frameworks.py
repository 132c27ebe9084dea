"""The one table of frameworks, and the only door from `zoo` to a framework's package, opened only when asked."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType, ModuleType

from zoo.choices import unknown


@dataclass(frozen=True)
class Framework:
    """A framework, and the package of this project that carries the models in it.

    Args:
        name: what people type.
        package: this project's package for it; exports what `pytorch_models.__all__` names, but the classes.
        module: the framework's own import name.
        distribution: its name on the package index.
        extra: the extra of this project that installs it.
        newest_python: the newest Python it has wheels for; None = every Python of this project.
        checkpoint_suffix: of the checkpoints that its package's `train` writes.
        joins_first: whether processes must be joined before a model is built: by its package's `join_workers`, whose
            result `train` takes as `workers`.
    """

    name: str
    package: str
    module: str
    distribution: str
    extra: str
    newest_python: tuple[int, int] | None = None
    checkpoint_suffix: str = ".pt"
    joins_first: bool = False


FRAMEWORKS: Mapping[str, Framework] = MappingProxyType(
    {
        "torch": Framework("torch", package="pytorch_models", module="torch", distribution="torch", extra="torch"),
        "tensorflow": Framework(
            "tensorflow",
            package="tf_models",
            module="tensorflow",
            distribution="tensorflow-cpu" if sys.platform == "linux" else "tensorflow",
            extra="tensorflow",
            checkpoint_suffix=".npz",
            joins_first=True,
        ),
        "mxnet": Framework(
            "mxnet",
            package="mxnet_memonger",
            module="mxnet",
            distribution="mxnet",
            extra="mxnet",
            newest_python=(3, 11),
            checkpoint_suffix=".npz",
        ),
    }
)

ALSO_CALLED: Mapping[str, str] = MappingProxyType(
    {"pytorch": "torch", "keras": "tensorflow", "tf": "tensorflow", "memonger": "mxnet", "gluon": "mxnet"}
)


def find(framework: str) -> Framework:
    """The row of the table.

    Raises:
        ValueError: no such framework, with the nearest.
    """
    if framework not in FRAMEWORKS:
        hint = f" ({framework} is {ALSO_CALLED[framework]} here)" if framework in ALSO_CALLED else ""
        raise ValueError(unknown("framework", framework, FRAMEWORKS) + hint)
    return FRAMEWORKS[framework]


def load(framework: str) -> ModuleType:
    """Import this project's package for a framework.

    Raises:
        ValueError: no such framework, with the nearest.
        ImportError: the framework is not installed here, or cannot be; says which and what to install.
    """
    row = find(framework)
    missing = why_missing(row)
    if missing:
        raise ImportError(missing)
    return importlib.import_module(row.package)


def framework_of(model: object) -> str | None:
    """The framework that a model belongs to, by where its class, or one it inherits from, is defined; None = unknown.

    Example:
        >>> framework_of("no model") is None
        True
    """
    tops = [kind.__module__.partition(".")[0] for kind in type(model).__mro__]
    for top in tops:
        for name, row in FRAMEWORKS.items():
            if top in (row.package, row.module) or (top, name) == ("keras", "tensorflow"):
                return name
    return None


def why_missing(row: Framework, python: tuple[int, int] = sys.version_info[:2]) -> str | None:
    """Why a framework cannot be imported, and what to do; None where it is installed. Imports nothing."""
    spec = importlib.util.find_spec(row.module)
    if spec is not None and spec.origin is not None:  # a folder left behind, or only called the same, has no origin
        return None
    if row.newest_python is not None and python > row.newest_python:
        newest, here = (".".join(str(part) for part in version) for version in (row.newest_python, python))
        return f"{row.name} has no wheels for Python {here}: use Python {newest} or older for it"
    return f"{row.name} is not installed: pip install 'memory-efficient-zoo[{row.extra}]'"


def installed_version(distribution: str) -> str | None:
    """The version of a package by its name on the package index, without importing it; None if it is not installed."""
    from importlib import metadata  # takes half the time that `import zoo` may take

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
