"""Weights outside any framework: canonical parameter names, NumPy arrays, and safetensors files of them.

Canonical names and shapes are those of torchvision's PyTorch models; a framework's own package translates.
"""

from __future__ import annotations

import difflib
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from zoo.atomic_write import atomic_write
from zoo.choices import unknown
from zoo.frameworks import installed_version
from zoo.saved_run import describe_network

SUFFIX = ".safetensors"
# What tools put before every name when they wrap a model: DistributedDataParallel and torch.compile.
WRAPPERS = ("module.", "_orig_mod.")
DTYPES: Mapping[str, str] = MappingProxyType(
    {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1"}
)
COUNTER = "num_batches_tracked"  # a norm's, which old files and other frameworks do not have
_NETWORK = "network"  # key of the metadata that describes the network, as JSON
_MOST_NAMED = 5

Shapes = Mapping[str, Sequence[int]]


class WeightsError(ValueError):
    """Weights that are not those of the network; the message says which names or shapes differ."""


class HeadResizedWarning(UserWarning):
    """The file's head is for other classes: the model keeps its own, freshly initialised; the message names it."""


def strip_wrappers(name: str) -> str:
    """A parameter's name without what tools put before it.

    Example:
        >>> strip_wrappers("module._orig_mod.features.norm5.weight")
        'features.norm5.weight'
    """
    while name.startswith(WRAPPERS):
        name = next(name[len(prefix) :] for prefix in WRAPPERS if name.startswith(prefix))
    return name


def check_suffix(path: Path, known: Sequence[str], more: str = "") -> None:
    """Refuse to write weights to a file whose name does not tell its format.

    Args:
        path: the file.
        known: suffixes, with their dots.
        more: what else can be done; goes into the error.

    Raises:
        ValueError: another suffix.

    Example:
        >>> check_suffix(Path("densenet.safetensor"), [".npz", ".safetensors"])
        Traceback (most recent call last):
        ...
        ValueError: save_weights: densenet.safetensor must end with .npz or .safetensors
    """
    if path.suffix not in known:
        raise ValueError(f"save_weights: {path} must end with {', '.join(known[:-1])} or {known[-1]}{more}")


def check_file(path: Path) -> None:
    """Refuse a path at which there is no file to read weights from.

    Raises:
        FileNotFoundError: nothing is there, or a folder; names files of that folder, or those with a similar name.

    Example:
        >>> check_file(Path("densenet.npz"))
        Traceback (most recent call last):
        ...
        FileNotFoundError: load_weights: densenet.npz does not exist: give a file that save_weights wrote, or ...
    """
    if path.is_file():
        return
    folder = path if path.is_dir() else path.parent
    names = sorted(one.name for one in folder.iterdir() if one.is_file()) if folder.is_dir() else []
    near = names[:_MOST_NAMED] if path.is_dir() else difflib.get_close_matches(path.name, names, n=_MOST_NAMED)
    what = "is a folder, not a file" if path.is_dir() else "does not exist"
    hint = f"; there are {', '.join(near)}" if near else ""
    raise FileNotFoundError(
        f"load_weights: {path} {what}{hint}: give a file that save_weights wrote, or a saved run's best weights"
    )


def write(path: str | Path, arrays: Mapping[str, np.ndarray], spec: object = None) -> None:
    """Write weights as a safetensors file, in one step.

    Args:
        path: the file.
        arrays: by canonical name; floating point or integers.
        spec: the family's config; goes into the file, so that a reader can tell which network and flavour it is.

    Raises:
        ImportError: the package safetensors is not installed.
        OSError: it cannot be written there.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "weights.safetensors"
        >>> write(path, {"classifier.bias": np.zeros(10, np.float32)})
        >>> read(path)[0]["classifier.bias"].shape
        (10,)
    """
    _require_safetensors()
    from safetensors.numpy import save

    network = describe_network(spec)
    metadata = {"format": "pt"} | ({} if network is None else {_NETWORK: json.dumps(network)})
    with atomic_write(Path(path)) as file:
        file.write(save({name: np.asarray(value, order="C") for name, value in arrays.items()}, metadata))


def read(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any] | None]:
    """Read a safetensors file.

    Returns:
        The arrays by name (bfloat16 becomes float32, exactly), and what the file says of its network, or None.

    Raises:
        ImportError: the package safetensors is not installed.
        FileNotFoundError: no such file.
        WeightsError: not a whole safetensors file, or one with a dtype that no model here has.
    """
    _require_safetensors()
    from safetensors import SafetensorError, deserialize

    content = Path(path).read_bytes()
    try:
        tensors = deserialize(content)
    except SafetensorError as error:
        raise WeightsError(f"{path} is not a whole safetensors file: {error}") from None
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    arrays = {name: _array(f"{path}: {name}", tensor) for name, tensor in tensors}
    return arrays, _description(header.get("__metadata__", {}).get(_NETWORK))


def _description(network: str | None) -> dict[str, Any] | None:
    """What `write` said of the network; None where others use the same key for something else."""
    try:
        described = json.loads(network or "null")
    except json.JSONDecodeError:
        return None
    return described if isinstance(described, dict) else None


def _require_safetensors() -> None:
    if installed_version("safetensors") is None:
        raise ImportError("the package safetensors is not installed: pip install safetensors")


def _array(where: str, tensor: Mapping[str, Any]) -> np.ndarray:
    kind, shape = tensor["dtype"], tensor["shape"]
    if kind == "BF16":
        halves = np.frombuffer(tensor["data"], "<u2").astype("<u4") << 16
        return halves.view("<f4").reshape(shape)
    if kind not in DTYPES:
        raise WeightsError(f"{where} has the dtype {kind}; weights are one of BF16, {', '.join(DTYPES)}")
    return np.frombuffer(tensor["data"], DTYPES[kind]).reshape(shape)


def check_flavour(network: Mapping[str, Any] | None, spec: object) -> None:
    """Refuse weights of another family or flavour, where the file says of which they are.

    Raises:
        WeightsError: what the file is of, and what the model is.
    """
    own = describe_network(spec)
    for name in ("family", "flavour"):
        came, needed = (network or {}).get(name), (own or {}).get(name)
        if came is not None and needed is not None and came != needed:
            raise WeightsError(f"these weights are of the {name} {came!r}, the model is of the {name} {needed!r}")


def heads_that_differ(needed: Shapes, found: Shapes, head: str | None) -> tuple[str, ...]:
    """Compare names and shapes, strictly but for the head's number of classes.

    Args:
        needed: shapes by canonical name, the model's.
        found: the file's.
        head: the module whose parameters may have another first size; None = none may.

    Returns:
        Names of the head's parameters that do not fit, and so must keep the model's own values.

    Raises:
        WeightsError: names that are missing (a norm's counter of batches may be) or too many, with the nearest;
            shapes that differ elsewhere.

    Example:
        >>> heads_that_differ({"fc.bias": (10,)}, {"fc.bias": (1000,)}, head="fc")
        ('fc.bias',)
    """
    problems = [f"{name} is missing" for name in needed if name not in found and not name.endswith(COUNTER)]
    problems += [_unknown_name(name, needed) for name in found if name not in needed]
    resized = []
    for name in (name for name in needed if name in found):
        own, came = tuple(needed[name]), tuple(found[name])
        if own == came:
            continue
        if head is not None and name.startswith(f"{head}.") and own[1:] == came[1:]:
            resized.append(name)
        else:
            problems.append(f"{name} has the shape {came}, the model's is {own}")
    if problems:
        more = f"; and {len(problems) - _MOST_NAMED} more" if len(problems) > _MOST_NAMED else ""
        raise WeightsError(f"these are not the model's weights: {'; '.join(problems[:_MOST_NAMED])}{more}")
    return tuple(resized)


def warn_of_new_head(head: str, needed: Shapes, found: Shapes, resized: Sequence[str], stacklevel: int = 3) -> None:
    """Say that the head keeps the model's own, fresh values; nothing where `resized` is empty."""
    if resized:
        name = resized[0]
        warnings.warn(
            f"{head} was not loaded: the file's is for {found[name][0]} classes, the model has {needed[name][0]}; "
            f"it is initialised afresh and must be trained ({', '.join(resized)})",
            HeadResizedWarning,
            stacklevel=stacklevel,
        )


def _unknown_name(name: str, needed: Shapes) -> str:
    if difflib.get_close_matches(name, needed, n=1):
        return unknown("name", name, needed).partition(" Known:")[0]
    return f"{name} is not one of the model's"
