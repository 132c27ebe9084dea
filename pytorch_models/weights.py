"""Weights in PyTorch: files in and out, and names: the canonical ones are torchvision's, other publishers' differ."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pytorch_models import torch_files
from zoo import weights as canonical
from zoo.weights import SUFFIX, WeightsError, strip_wrappers

TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".tar")  # of files that torch.save writes

# torchvision's first releases wrote "denselayer1.norm.1.weight" for today's "denselayer1.norm1.weight".
_DOTTED_LAYER = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12])\.(\w+)$")
_NESTED = ("state_dict", "model", "model_state", "weights")  # where training scripts put the weights in a checkpoint


def canonical_densenet_name(name: str) -> str:
    """Translate one parameter name, e.g. "module.features.norm_final.weight" -> "features.norm5.weight"."""
    name = strip_wrappers(name).replace("features.norm_final.", "features.norm5.")
    return _DOTTED_LAYER.sub(r"\1\2.\3", name)


def adopt_names(module: nn.Module, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
    """`load_state_dict` pre-hook: rename the keys below `prefix` as the model's family does, keeping their order.

    Where the head is for other classes, torch's error gets the advice that it lacks.
    """
    renamed = {
        prefix + _canonical_name(module, name[len(prefix) :]) if name.startswith(prefix) else name: value
        for name, value in state_dict.items()
    }
    state_dict.clear()
    state_dict.update(renamed)
    *_, errors = rest
    own = module.state_dict()
    name = next((name for name in own if name.startswith(f"{_head(module)}.")), None)
    came = state_dict.get(f"{prefix}{name}")
    if name is not None and isinstance(came, Tensor) and came.shape != own[name].shape:
        errors.append(
            f"{_head(module)} here is for {len(own[name])} classes, there for {len(came)}: pytorch_models.load_weights "
            "loads a file without its head, and says so."
        )


def load_weights(model: nn.Module, path: str | Path, *, resize_head: bool = True) -> None:
    """Load weights from a file into the model, strictly but for a head of another number of classes.

    Args:
        model: whose weights they are; of any device and floating dtype.
        path: a `.safetensors` file, or one written by `torch.save` (read with `weights_only=True`): a state_dict, or a
            checkpoint that holds one. Prefixes `module.` and `_orig_mod.` are taken off.
        resize_head: where the file's head is for other classes, keep the model's own and warn; else that is an error.

    Raises:
        FileNotFoundError: no such file.
        WeightsError: not a whole file of weights; or names or shapes that are not the model's, with the nearest.

    Warns:
        HeadResizedWarning: the head was not loaded; names it.
    """
    path = Path(path).expanduser()
    canonical.check_file(path)
    if path.suffix == SUFFIX:
        arrays, network = canonical.read(path)
        canonical.check_flavour(network, getattr(model, "spec", None))
        found = {name: torch.from_numpy(value.copy()) for name, value in arrays.items()}
    else:
        found = _read_torch_file(path)
    found = _by_canonical_name(model, path, found)
    own = model.state_dict()
    needed, came = _shapes(own), _shapes(found)
    head = _head(model) if resize_head else None
    try:
        resized = canonical.heads_that_differ(needed, came, head)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    # What is left out of the file stays as it is: counters of norms, and a head for other classes.
    model.load_state_dict({**own, **{name: tensor for name, tensor in found.items() if name not in resized}})
    if head is not None:
        canonical.warn_of_new_head(head, needed, came, resized)


def save_weights(model: nn.Module, path: str | Path) -> None:
    """Write the model's weights: `.safetensors` for every framework; by `torch.save` .pt, .pth, .bin, .ckpt, .tar.

    The names are the canonical ones, whatever wraps the model; bfloat16 is written to safetensors as float32, exactly.

    Raises:
        ValueError: another suffix.
        ImportError: the package safetensors is not installed.

    Example:
        >>> import tempfile
        >>> from pytorch_models import DenseNet
        >>> path = Path(tempfile.mkdtemp()) / "densenet.safetensors"
        >>> save_weights(DenseNet(block_config=(2, 2)), path)
        >>> load_weights(DenseNet(block_config=(2, 2), efficient=True), path)
    """
    from zoo.atomic_write import atomic_write

    path = Path(path).expanduser()
    canonical.check_suffix(path, [*TORCH_SUFFIXES, SUFFIX])
    if path.suffix == SUFFIX:
        canonical.write(path, canonical_weights(model), getattr(_inner(model), "spec", None))
        return
    state = {strip_wrappers(name): tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    with atomic_write(path) as file:
        torch.save(state, file)


def canonical_weights(model: nn.Module) -> dict[str, np.ndarray]:
    """Copies of a model's parameters and buffers as NumPy arrays, by canonical name (bfloat16 as float32)."""
    tensors = {strip_wrappers(name): tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    return {
        name: (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy().copy()
        for name, tensor in tensors.items()
    }


def _head(model: nn.Module) -> str | None:
    return getattr(getattr(model, "spec", None), "head", None)


def _inner(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel and torch.compile."""
    for name in ("module", "_orig_mod"):
        if name in model._modules and not hasattr(model, "spec"):
            return _inner(getattr(model, name))
    return getattr(model, "_orig_mod", model)


def _canonical_name(model: nn.Module, name: str) -> str:
    name = strip_wrappers(name)
    translate = getattr(model, "canonical_name", None)
    return translate(name) if translate is not None else name


def _by_canonical_name(model: nn.Module, path: Path, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    came_as: dict[str, str] = {}
    for name in found:
        other = came_as.setdefault(_canonical_name(model, name), name)
        if other != name:
            raise WeightsError(f"{path}: {other} and {name} are names of one and the same parameter: leave one out")
    return {canonical_name: found[name] for canonical_name, name in came_as.items()}


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _read_torch_file(path: Path) -> dict[str, Tensor]:
    """The state_dict in a file: the whole of it, or one of its entries."""
    try:
        content = torch_files.read(path)
    except torch_files.DamagedFileError as error:
        raise WeightsError(f"{path} cannot be read as weights: {error}") from error
    for name in _NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        what = f"entries {', '.join(map(str, list(content)[:5]))}" if isinstance(content, Mapping) else type(content)
        raise WeightsError(f"{path} holds no state_dict, but {what}: give a file of parameters by name")
    return dict(content)
