"""MobileNetV2 in TensorFlow: reads like table 2 of the paper; canonical names are torchvision's."""

from __future__ import annotations

from functools import partial
from typing import Any

from tf_models.carry_out import NamedPart
from tf_models.forward_pass import Pass
from tf_models.image_model import ImageModel, Part
from tf_models.operators import mean_of_pixels
from tf_models.tensorflow_names import keras, tf
from tf_models.zoo_model import PACKAGE
from zoo.mobilenet_v2 import InvertedShape, MobileNetV2Config

CLASSIFIER_DEVIATION = 0.01


# Keras loads a model's class from a file only by this registry of its own.
@keras.saving.register_keras_serializable(package=PACKAGE)
class MobileNetV2(ImageModel):
    """MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381) for TensorFlow, with memory saving, exact or in codes.

    Args:
        efficient: keep one tensor a convolution, and compute expansions again; same outputs, gradients and running
            statistics as without, see docs/tensorflow.md for bytes and time.
        keep_bottleneck: with `efficient`, keep the expansions too: only elementwise work is done again.
        compressed: 1, 2, 4 or 8 bits a value that is kept, normalised, with exact masks; outputs and running statistics
            are the same to the bit, gradients without bias. With `efficient` a part is kept the smaller way.
            Also "fixed:4", "half" and policies, "L1" to "L3", "quant8", "quantz8", "autoquant": see docs/tensorflow.md.
        opt_memory: not of TensorFlow.
        data_format, dtype, name: see `tf_models.zoo_model.ZooModel`.
        fields: of `zoo.mobilenet_v2.MobileNetV2Config`.

    Input (N, H, W, in_chans) by default; output (N, num_classes).

    Example:
        >>> model = MobileNetV2(width_mult=0.35, num_classes=10, efficient=True)
        >>> model(tf.zeros((2, 64, 64, 3))).shape
        TensorShape([2, 10])
    """

    config_type = MobileNetV2Config

    def _build_parts(self) -> None:
        config: MobileNetV2Config = self.spec
        self._build_layer("features.0", 0, config.in_chans, config.stem_channels, 3, stride=2)
        number, last = 0, config.stem_channels
        for number, shape in enumerate(config.blocks(), start=1):
            self._build_block(f"features.{number}.conv", shape)
            last = shape.out_channels
        self._build_layer(f"features.{number + 1}", 0, last, config.head_channels, 1)
        self._linear("classifier.1", config.head_channels, config.num_classes, CLASSIFIER_DEVIATION)

    def _build_block(self, name: str, shape: InvertedShape) -> None:
        hidden, place = shape.hidden_channels, 0
        if shape.expansion != 1:
            self._build_layer(f"{name}.0", 0, shape.in_channels, hidden, 1)
            place = 1
        self._build_layer(f"{name}.{place}", 0, hidden, hidden, 3, stride=shape.stride, groups=hidden)
        self._convolution(f"{name}.{place + 1}", hidden, shape.out_channels, 1)
        self._norm(f"{name}.{place + 2}", shape.out_channels)

    def _build_layer(
        self, name: str, place: int, into: int, out: int, size: int, stride: int = 1, groups: int = 1
    ) -> None:
        pads_after = self.spec.pads_after and stride > 1
        self._convolution(f"{name}.{place}", into, out, size, stride=stride, groups=groups, pads_after=pads_after)
        self._norm(f"{name}.{place + 1}", out)

    def call(self, images: Any, training: bool | None = None) -> Any:
        """(N, H, W, in_chans) -> (N, num_classes) scores."""
        self.check_images(images)
        run = self.new_pass(training)
        values = mean_of_pixels(self.run_parts(images, run), self.data_format)
        if run.dropout is not None:
            seed = tf.cast(run.dropout, tf.int32)
            values = tf.nn.experimental.stateless_dropout(values, self.spec.drop_rate, seed)
        return self.parts["classifier.1"](values)

    def part_functions(self) -> list[NamedPart]:
        """First layer, blocks, last layer."""
        first, number = "features.0", 0
        found: list[NamedPart] = [(first, partial(self._layer, name=first, keeps_input=True))]
        for number, shape in enumerate(self.spec.blocks(), start=1):
            name = f"features.{number}"
            found.append((name, partial(self._inverted_residual, name=f"{name}.conv", shape=shape)))
        last = f"features.{number + 1}"
        return [*found, (last, partial(self._layer, name=last))]

    def _layer(self, values: Any, run: Pass, *, name: str, keeps_input: bool = False) -> Any:
        """Convolution, norm, ReLU6."""
        parts: list[Part] = [(None, "", self.parts[f"{name}.0"]), (self.parts[f"{name}.1"], "relu6", None)]
        return self._steps(values, parts, run, keeps_input=keeps_input)

    def _inverted_residual(self, inputs: Any, run: Pass, *, name: str, shape: InvertedShape) -> Any:
        """1x1 expansion, 3x3 depthwise convolution, 1x1 projection without an activation."""
        layers = [f"{name}.0", f"{name}.1"] if shape.expansion != 1 else [f"{name}.0"]
        parts: list[Part] = [(None, "", self.parts[f"{layers[0]}.0"])]
        for here, after in zip(layers, [*(f"{layer}.0" for layer in layers[1:]), f"{name}.{len(layers)}"], strict=True):
            parts.append((self.parts[f"{here}.1"], "relu6", self.parts[after]))
        parts.append((self.parts[f"{name}.{len(layers) + 1}"], "", None))
        recomputes = [0] if shape.expansion != 1 else []
        return self._steps(inputs, parts, run, shortcut=inputs if shape.adds_inputs else None, recomputes=recomputes)
