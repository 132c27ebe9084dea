"""What every model of the zoo is in TensorFlow: a Keras model with a config, a policy, and canonical weight names."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from tf_models.carry_out import CarriedPlan, NamedPart, run_parts
from tf_models.compression import check_codes, forms_of, new_learnt_bits, new_seeds
from tf_models.forward_pass import Pass
from tf_models.keras_names import keras_layer_name
from tf_models.layers import ConvolutionLayer, LinearLayer, NormLayer
from tf_models.operators import FORMATS, Convolution, channel_axis
from tf_models.saving.learnt_bits import FitWithLearntBits
from tf_models.tensorflow_names import keras
from zoo.choices import refuse_unknown_arguments, unknown
from zoo.policy import POLICY_FIELDS, MemoryPolicy
from zoo.refusals import Request, check_offered

PACKAGE = "tf_models"  # the name that Keras registers the models under, for files
DTYPES = ("float16", "bfloat16", "float32", "float64")
KERNELS = ("operators", "shared")


class ZooModel(keras.Model):
    """Base of the zoo's models; all variables exist as soon as the model does.

    A family names its `config_type`, makes its parts in `_build_parts` and runs them in `call`.

    Args:
        efficient, keep_bottleneck, opt_memory, compressed: see `zoo.policy.MemoryPolicy`.
        data_format: of images: "channels_last" (N, H, W, C) or "channels_first" (N, C, H, W).
        dtype: a Keras dtype or policy, such as "mixed_float16" or "float64"; None = Keras's global one.
        name: Keras's.
        fields: of the family's config.

    Attributes:
        spec: the family's frozen config.
        memory_policy, policy: what is kept for the backward pass.
        carried_plan: instead of the policy, what a plan decided part by part; None = no plan is applied.
        parts: layers by canonical name.
        code_kernels: what makes codes of 1, 2, 4 or 8 bits: "operators", TensorFlow's own, or "shared", this project's
            kernels, not under XLA; the codes are the same. To be set before a graph is made.
        learnt_bits: bits of kept tensors that change between steps; None = they do not.

    Raises:
        TypeError: an argument that does not exist, with the nearest; a value of the wrong type.
        ValueError: another data_format, a dtype that is no float, or values that contradict one another.
    """

    config_type: ClassVar[type]
    learns_bits: ClassVar[bool] = True  # whether the family has bits that are learnt
    carried_plan: CarriedPlan | None = None
    train_function: Any = None  # Keras's
    code_kernels: str = "operators"
    _took: Any = None

    def __init__(
        self,
        *,
        efficient: bool = False,
        keep_bottleneck: bool = False,
        opt_memory: int | None = None,
        compressed: int | str | None = None,
        data_format: str = "channels_last",
        dtype: Any = None,
        name: str | None = None,
        trainable: bool = True,
        **fields: Any,
    ) -> None:
        family = type(self).__name__
        known = [*inspect.signature(self.config_type).parameters, *POLICY_FIELDS, "data_format", "dtype", "name"]
        refuse_unknown_arguments(family, fields, known)
        if data_format not in FORMATS:
            raise ValueError(f"{family}: {unknown('data_format', data_format, FORMATS)}")
        spec = self.config_type(**fields)
        policy = MemoryPolicy(efficient, keep_bottleneck, opt_memory, compressed)
        check_policy(family, spec, policy, self.learns_bits)
        super().__init__(name=name, dtype=dtype, trainable=trainable)
        if self.compute_dtype not in DTYPES:
            raise ValueError(f"{family}: {unknown('dtype', self.compute_dtype, DTYPES)}; or a policy, mixed_float16")
        self.spec, self.policy, self.data_format = spec, policy, data_format
        self.parts: dict[str, Any] = {}
        self._build_parts()
        drops = bool(getattr(spec, "drop_rate", 0.0))
        self.dropout_seeds = keras.random.SeedGenerator() if drops else None
        self.code_seeds = None if forms_of(policy) is None else new_seeds()
        norms = sum(isinstance(part, NormLayer) for part in self.parts.values())
        self.learnt_bits = new_learnt_bits(policy, len(self.parts), norms)
        self.built = True

    def _build_parts(self) -> None:
        """Make all layers, by `_convolution`, `_norm` and `_linear`."""
        raise NotImplementedError

    @classmethod
    def of(cls, config: Any, policy: MemoryPolicy) -> ZooModel:
        """Build from zoo's values."""
        return cls(**vars(config), **vars(policy))

    def get_config(self) -> dict[str, Any]:
        """What a `.keras` file says of the model: every argument of its constructor, and `code_kernels`."""
        dtype = keras.saving.serialize_keras_object(self.dtype_policy)
        own = {"data_format": self.data_format, "dtype": dtype, "name": self.name, "trainable": self.trainable}
        fields = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self.spec).items()}
        return {**fields, **vars(self.policy), **own, "code_kernels": self.code_kernels}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], custom_objects: Any = None) -> ZooModel:
        """Build from `get_config`'s."""
        given = dict(config)
        kernels = given.pop("code_kernels", cls.code_kernels)
        if isinstance(given.get("dtype"), Mapping):
            given["dtype"] = keras.saving.deserialize_keras_object(given["dtype"], custom_objects=custom_objects)
        model = cls(**given)
        model.code_kernels = kernels
        return model

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Keras's; what shape and kind of inputs came is remembered for `export`."""
        outputs = super().__call__(inputs, *args, **kwargs)
        if hasattr(inputs, "dtype"):
            kind = keras.backend.standardize_dtype(inputs.dtype)
            given = self.variable_dtype if "float" in kind else kind
            self._took = keras.InputSpec(shape=(None, *inputs.shape[1:]), dtype=given)
        return outputs

    def export(self, filepath: Any, *args: Any, input_signature: Any = None, **kwargs: Any) -> None:
        """Keras's; without an `input_signature`, for batches of any size of what the model has last run on.

        Raises:
            ValueError: it has not run yet.
        """
        if input_signature is None and self._took is None:
            raise ValueError(
                f"{type(self).__name__}.export: how large its inputs are is not known before it has run once: run it, "
                'or give input_signature=[keras.InputSpec(shape=(None, 32, 32, 3), dtype="float32")]'
            )
        super().export(filepath, *args, input_signature=input_signature or [self._took], **kwargs)

    def make_train_function(self, force: bool = False) -> None:
        """Keras's; where bits are learnt, `fit` makes another graph for other bits."""
        if self.learnt_bits is None or (self.train_function is not None and not force):
            super().make_train_function(force)
            return
        self.train_function = FitWithLearntBits(self.learnt_bits, lambda: self._make_function(self.train_step))

    def new_pass(self, training: bool | None) -> Pass:
        """A forward pass begins, by the model's policy: with new noise and another dropout."""
        if self.code_kernels not in KERNELS:
            raise ValueError(f"{type(self).__name__}: {unknown('code_kernels', self.code_kernels, KERNELS)}")
        run = Pass.of(training, self.policy, self.code_seeds, self.dropout_seeds, self.learnt_bits)
        return replace(run, shared=self.code_kernels == "shared")

    def part_functions(self) -> list[NamedPart]:
        """Names and functions of what runs one after the other, up to the head, by which plans are made."""
        raise NotImplementedError(f"{type(self).__name__} has no parts")

    def run_parts(self, values: Any, run: Pass) -> Any:
        """Run them in a forward pass; with a plan, as it says."""
        return run_parts(self.carried_plan, values, self.part_functions(), run)

    def check_images(self, images: Any) -> None:
        """Refuse what are no images of the config's channels.

        Raises:
            ValueError: another shape.
            TypeError: integers.
        """
        shape, channels = images.shape, self.spec.in_chans
        if shape.rank != 4 or shape[channel_axis(self.data_format)] != channels:
            sizes = "height, width" if self.data_format == "channels_last" else f"{channels}, height, width"
            needed = f"(N, {sizes}, {channels})" if self.data_format == "channels_last" else f"(N, {sizes})"
            raise ValueError(
                f"{type(self).__name__} with data_format={self.data_format!r} needs images of shape {needed}, "
                f"not {tuple(shape)}"
            )
        if not images.dtype.is_floating:
            raise TypeError(
                f"{type(self).__name__} needs images of floating point numbers, not {images.dtype.name}: give "
                "tf.cast(images, 'float32') / 255, or what else the network was trained with"
            )

    def _convolution(
        self,
        name: str,
        into: int,
        out: int,
        size: int,
        *,
        stride: int = 1,
        groups: int = 1,
        bias: bool = False,
        fan: str = "out",
        pads_after: bool = False,
    ) -> ConvolutionLayer:
        depthwise = groups > 1 and groups == into == out
        how = Convolution(size, stride, groups, depthwise, pads_after, self.data_format)
        fan_size = size * size * (out if fan == "out" else into // groups)
        layer = ConvolutionLayer(
            into, out, how, math.sqrt(2 / fan_size), bias=bias, name=self.layer_name(name), dtype=self.dtype_policy
        )
        self.parts[name] = layer
        return layer

    def _norm(self, name: str, channels: int) -> NormLayer:
        momentum = getattr(self.spec, "norm_momentum", 0.01 if self.spec.flavour == "keras" else 0.1)
        layer = NormLayer(
            channels,
            self.spec.norm_epsilon,
            momentum,
            self.spec.flavour != "keras",
            self.data_format,
            name=self.layer_name(name),
            dtype=self.dtype_policy,
        )
        self.parts[name] = layer
        return layer

    def _linear(self, name: str, into: int, out: int, deviation: float | None = None) -> LinearLayer:
        layer = LinearLayer(into, out, deviation, name=self.layer_name(name), dtype=self.dtype_policy)
        self.parts[name] = layer
        return layer

    def layer_name(self, name: str) -> str:
        """A layer's name in Keras: its canonical one; of flavour "keras", keras.applications'."""
        return keras_layer_name(type(self).__name__, name) if getattr(self.spec, "flavour", "") == "keras" else name


def check_policy(family: str, spec: Any, policy: MemoryPolicy, learns_bits: bool) -> None:
    """Refuse what this package does not offer.

    Raises:
        ValueError: a classic level other than 0, or what the family is not built with.
    """
    spec.check_policy(policy)
    check_offered("tensorflow", Request(spec, policy))
    check_codes(policy, family, learns_bits)
