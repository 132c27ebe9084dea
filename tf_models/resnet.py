"""ResNet in TensorFlow: reads like table 1 of the paper; canonical names are torchvision's."""

from __future__ import annotations

from functools import partial
from typing import Any

from tf_models.carry_out import NamedPart
from tf_models.forward_pass import Pass
from tf_models.image_model import ImageModel, Part
from tf_models.operators import channel_axis, max_pool, mean_of_pixels
from tf_models.tensorflow_names import keras, tf
from tf_models.zoo_model import PACKAGE
from zoo.resnet import BlockShape, ResNetConfig


# Keras loads a model's class from a file only by this registry of its own.
@keras.saving.register_keras_serializable(package=PACKAGE)
class ResNet(ImageModel):
    """ResNet (He et al. 2015, arXiv:1512.03385) and its descendants for TensorFlow, saving memory exactly or by codes.

    Args:
        efficient: keep one tensor a convolution, and compute each block's last convolution again; same outputs,
            gradients and running statistics as without, see docs/tensorflow.md for bytes and time.
        keep_bottleneck: with `efficient`, keep every convolution's output: only elementwise work is done again.
        compressed: 1, 2, 4 or 8 bits a value that is kept, normalised, with exact masks; outputs and running statistics
            are the same to the bit, gradients without bias. With `efficient` a part is kept the smaller way.
            Also "fixed:4", "half" and policies, "L1" to "L3", "quant8", "quantz8", "autoquant": see docs/tensorflow.md.
        opt_memory: not of TensorFlow.
        data_format, dtype, name: see `tf_models.zoo_model.ZooModel`.
        fields: of `zoo.resnet.ResNetConfig`.

    Input (N, H, W, in_chans) by default; output (N, num_classes).

    Example:
        >>> model = ResNet(layers=(1, 1), width=8, efficient=True)
        >>> model(tf.zeros((2, 32, 32, 3))).shape
        TensorShape([2, 10])
    """

    config_type = ResNetConfig

    def _build_parts(self) -> None:
        config: ResNetConfig = self.spec
        size, stride = (3, 1) if config.small_inputs else (7, 2)
        self._convolution("conv1", config.in_chans, config.width, size, stride=stride, bias=config.has_biases)
        if not config.pre_activation:
            self._norm("bn1", config.width)
        for name, shape in named_blocks(config):
            self._build_block(name, shape)
        if config.pre_activation:
            self._norm("bn_last", config.out_channels)
        self._linear("fc", config.out_channels, config.num_classes)

    def _build_block(self, name: str, shape: BlockShape) -> None:
        config: ResNetConfig = self.spec
        bias = config.has_biases
        for number, (into, out, size, stride, groups) in enumerate(_convolutions(shape, config), start=1):
            self._convolution(f"{name}.conv{number}", into, out, size, stride=stride, groups=groups, bias=bias)
            self._norm(f"{name}.bn{number}", into if config.pre_activation else out)
        if shape.changes_shape and config.shortcut == "projection":
            place = f"{name}.downsample" if config.pre_activation else f"{name}.downsample.0"
            self._convolution(place, shape.in_channels, shape.out_channels, 1, stride=shape.stride, bias=bias)
            if not config.pre_activation:
                self._norm(f"{name}.downsample.1", shape.out_channels)

    def call(self, images: Any, training: bool | None = None) -> Any:
        """(N, H, W, in_chans) -> (N, num_classes) scores."""
        self.check_images(images)
        values = self.run_parts(images, self.new_pass(training))
        return self.parts["fc"](mean_of_pixels(values, self.data_format))

    def part_functions(self) -> list[NamedPart]:
        """Stem, blocks, and a last norm if there is one."""
        config = self.spec
        block = self._pre_activation_block if config.pre_activation else self._block
        found: list[NamedPart] = [("conv1", self._stem)]
        found += [(name, partial(block, name=name, shape=shape)) for name, shape in named_blocks(config)]
        return [*found, ("bn_last", self._last_norm)] if config.pre_activation else found

    def _last_norm(self, values: Any, run: Pass) -> Any:
        return self._steps(values, [(self.parts["bn_last"], "relu", None)], run)

    def _stem(self, images: Any, run: Pass) -> Any:
        convolution, pools = self.parts["conv1"], not self.spec.small_inputs
        if self.spec.pre_activation:
            values = convolution(images, in_order=run.in_order)
            return max_pool(values, self.data_format) if pools else values
        parts: list[Part] = [(None, "", convolution), (self.parts["bn1"], "relu", None)]
        return self._steps(images, parts, run, pools=pools, keeps_input=True)

    def _units(self, name: str) -> list[Part]:
        """(norm, ReLU, convolution) in order."""
        count = 2 if self.spec.block == "basic" else 3
        return [(self.parts[f"{name}.bn{i}"], "relu", self.parts[f"{name}.conv{i}"]) for i in range(1, count + 1)]

    def _block(self, inputs: Any, run: Pass, *, name: str, shape: BlockShape) -> Any:
        """Convolutions each with norm and ReLU; the last ReLU is behind the sum."""
        parts = _convolution_first(self._units(name))
        shortcut = self._shortcut(inputs, name, shape, run)
        last = len(parts) - 2
        return self._steps(inputs, parts, run, shortcut=shortcut, activation="relu", recomputes=[last])

    def _shortcut(self, inputs: Any, name: str, shape: BlockShape, run: Pass) -> Any:
        if not shape.changes_shape:
            return inputs
        if self.spec.shortcut == "padding":
            return _padded(inputs, shape, self.data_format)
        parts: list[Part] = [
            (None, "", self.parts[f"{name}.downsample.0"]),
            (self.parts[f"{name}.downsample.1"], "", None),
        ]
        return self._steps(inputs, parts, run, recomputes=[0])

    def _pre_activation_block(self, inputs: Any, run: Pass, *, name: str, shape: BlockShape) -> Any:
        """norm, ReLU, convolution, each; a projection reads the first activation, which is kept once for both."""
        units = self._units(name)
        if not shape.changes_shape:
            return self._steps(inputs, units, run, shortcut=inputs)
        activation = self._steps(inputs, [(*units[0][:2], None)], run)
        parts: list[Part] = [(None, "", units[0][2]), *units[1:]]
        projected = self._steps(activation, [(None, "", self.parts[f"{name}.downsample"])], run)
        return self._steps(activation, parts, run, shortcut=projected)


def named_blocks(config: ResNetConfig) -> list[tuple[str, BlockShape]]:
    """Every block by its canonical name."""
    numbers = dict.fromkeys(range(len(config.layers)), 0)
    named = []
    for shape in config.blocks():
        named.append((f"layer{shape.stage + 1}.{numbers[shape.stage]}", shape))
        numbers[shape.stage] += 1
    return named


def _convolution_first(units: list[Part]) -> list[Part]:
    """(norm, ReLU, convolution)... of layers that start with their convolution, the last norm without activation."""
    norms = [norm for norm, _, _ in units]
    convolutions = [convolution for _, _, convolution in units]
    parts: list[Part] = [(None, "", convolutions[0])]
    parts += [(norm, "relu", after) for norm, after in zip(norms, convolutions[1:], strict=False)]
    return [*parts, (norms[-1], "", None)]


def _convolutions(shape: BlockShape, config: ResNetConfig) -> list[tuple[int, int, int, int, int]]:
    """Channels in and out, kernel size, stride and groups of a block's convolutions."""
    into, inner, out, stride = shape.in_channels, shape.inner_channels, shape.out_channels, shape.stride
    if config.block == "basic":
        return [(into, inner, 3, stride, 1), (inner, out, 3, 1, 1)]
    first, second = (stride, 1) if config.strides_first_convolution else (1, stride)
    return [(into, inner, 1, first, 1), (inner, inner, 3, second, config.groups), (inner, out, 1, 1, 1)]


def _padded(inputs: Any, shape: BlockShape, data_format: str) -> Any:
    """Every other pixel, new channels zero."""
    missing = shape.out_channels - shape.in_channels
    pads = [(0, 0)] * 4
    pads[channel_axis(data_format)] = (missing // 2, missing - missing // 2)
    step = shape.stride
    kept = inputs[:, ::step, ::step] if data_format == "channels_last" else inputs[:, :, ::step, ::step]
    return tf.pad(kept, pads)
