"""MXNet 1.9.1 on today's NumPy: the one place where the names that it reads, and NumPy 1.24 dropped, are put back."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType, ModuleType

import numpy as np

# What each of them always stood for. MXNet reads them when it is imported and, here and there, when it runs.
DROPPED: Mapping[str, type] = MappingProxyType(
    {"bool": bool, "int": int, "float": float, "object": object, "complex": complex}
)


def restore_dropped_names(module: ModuleType = np) -> list[str]:
    """Give `module` (NumPy) the names of `DROPPED` that it does not have; those it has stay. Says which were added.

    Example:
        >>> restore_dropped_names()  # they were restored when this module was imported
        []
    """
    added = [name for name in DROPPED if name not in vars(module)]
    for name in added:
        setattr(module, name, DROPPED[name])
    return added


def import_mxnet() -> ModuleType:
    """MXNet, with NumPy's dropped names restored for it.

    Raises:
        ImportError: it is not installed, or cannot work with this NumPy; says what to install.
    """
    if int(np.__version__.partition(".")[0]) >= 2:
        raise ImportError(
            f"MXNet 1.9.1 needs NumPy 1.x, here is {np.__version__}: pip install 'memory-efficient-zoo[mxnet]' "
            "in an environment with Python 3.11"
        )
    restore_dropped_names()
    try:
        import mxnet
    except ModuleNotFoundError as error:
        if error.name not in ("mxnet", "distutils"):
            raise
        raise ImportError(
            "mxnet is not installed here, or too old for this Python: "
            "pip install 'memory-efficient-zoo[mxnet]' (MXNet 1.9.1 has no wheel beyond Python 3.11)"
        ) from error
    return mxnet


mx = import_mxnet()
