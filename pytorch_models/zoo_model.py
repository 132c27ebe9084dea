"""What every model of the zoo answers to, whatever its family: the switches and names people expect of a model."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from pytorch_models.segments import find_modules, mark_segment, unmark_segment
from pytorch_models.weights import adopt_names
from zoo.choices import refuse_unknown_arguments
from zoo.policy import MemoryPolicy

_BY_SWITCH = "gradient checkpointing"


class ZooModel(nn.Module):
    """Base of the zoo's models.

    A family sets `self.spec` and `self.policy` and, when all its modules are there, calls
    `pytorch_models.segments.give_configs(self)`.

    Attributes:
        spec: the family's frozen config (`zoo.densenet.DenseNetConfig` for a DenseNet).
        policy: what is kept for the backward pass.
        segments: names or globs of the modules that gradient checkpointing makes segments; besides, it sets the
            attribute `checkpoint_stages` of modules that have one and group their children themselves.
    """

    spec: Any
    policy: MemoryPolicy
    segments: ClassVar[tuple[str, ...]] = ()

    def __new__(cls, *_: Any, **given: Any) -> ZooModel:
        """Refuse arguments that do not exist, with the nearest that do, as Python itself does from 3.13 on."""
        parameters = inspect.signature(cls.__init__).parameters
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            refuse_unknown_arguments(cls.__name__, given, [name for name in parameters if name != "self"])
        return super().__new__(cls)

    def __init__(self) -> None:
        super().__init__()
        self.register_load_state_dict_pre_hook(adopt_names)

    @classmethod
    def from_config(cls, config: Any, policy: MemoryPolicy = MemoryPolicy()) -> Self:  # noqa: B008 - frozen
        """Build from zoo's values."""
        return cls(**vars(config), **vars(policy))

    def extra_repr(self) -> str:
        """The memory flags in words, in what `print(model)` shows; nothing for a plain model."""
        return "" if self.policy == MemoryPolicy() else str(self.policy)

    @staticmethod
    def canonical_name(name: str) -> str:
        """A parameter's name here, for its name in files of other publishers."""
        return name

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only what enters each stage (`segments`), and run the stage again in the backward pass (timm's name).

        Exact, as `pytorch_models.checkpoint_segments` is; works with every memory policy.
        """
        if not isinstance(enable, bool):
            raise TypeError(f"enable must be True or False, not {enable!r}")
        for module in find_modules(self, self.segments).values():
            if enable:
                mark_segment(module, _BY_SWITCH)
            else:
                unmark_segment(module, _BY_SWITCH)
        for module in self.modules():
            if hasattr(module, "checkpoint_stages"):
                module.checkpoint_stages = enable  # type: ignore[assignment]
        self._checkpointing = enable

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether gradient checkpointing is on (transformers' name)."""
        return vars(self).get("_checkpointing", False)

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: Mapping[str, Any] | None = None) -> None:
        """`set_grad_checkpointing(True)`, by transformers' name.

        Args:
            gradient_checkpointing_kwargs: may say `use_reentrant=False`, which is how it is done.

        Raises:
            ValueError: any other way is asked for.
        """
        for name, value in (gradient_checkpointing_kwargs or {}).items():
            if (name, value) not in (("use_reentrant", False), ("preserve_rng_state", True)):
                raise ValueError(
                    f"gradient_checkpointing_kwargs: {name}={value!r} is not offered: segments never re-enter autograd "
                    "and always replay random numbers"
                )
        self.set_grad_checkpointing(True)

    def gradient_checkpointing_disable(self) -> None:
        """`set_grad_checkpointing(False)`, by transformers' name."""
        self.set_grad_checkpointing(False)

    def feature_maps(self, inputs: Tensor) -> list[Tensor]:
        """What each stage gives, from the largest map to the smallest.

        Raises:
            NotImplementedError: this family has no feature maps.
        """
        raise NotImplementedError(f"{type(self).__name__} has no feature maps")


def check_images(family: str, images: Tensor, channels: int) -> None:
    """Refuse what are no images of so many channels.

    Raises:
        TypeError: no tensor, or one of integers.
        ValueError: another shape than (N, channels, height, width).
    """
    if not isinstance(images, Tensor) or not images.is_floating_point():
        came = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(
            f"{family} needs images of a floating dtype, not {came}: give a tensor, as in images.float() / 255"
        )
    if images.dim() != 4 or images.shape[1] != channels:
        needed = f"(N, {channels}, height, width)"
        raise ValueError(f"{family} needs images of shape {needed}, not {tuple(images.shape)}")
