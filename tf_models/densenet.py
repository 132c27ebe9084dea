"""DenseNet in TensorFlow: reads like table 1 of the paper; canonical names are torchvision's."""

from __future__ import annotations

from functools import partial
from typing import Any

from tf_models.carry_out import NamedPart
from tf_models.image_model import ImageModel
from tf_models.layers import ConvolutionLayer, NormLayer, dense_layer_values
from tf_models.operators import average_pool, channel_axis, mean_of_pixels
from tf_models.saving import DenseLayer, dense_block
from tf_models.tensorflow_names import keras, tf
from tf_models.zoo_model import PACKAGE
from zoo.densenet import DenseNetConfig


# Keras loads a model's class from a file only by this registry of its own.
@keras.saving.register_keras_serializable(package=PACKAGE)
class DenseNet(ImageModel):
    """DenseNet (Huang et al. 2017, arXiv:1608.06993) for TensorFlow, with exact memory saving.

    Args:
        efficient: keep each feature once and compute again what is inside a dense block; same outputs, gradients and
            running statistics as without, see docs/tensorflow.md for bytes and time.
        keep_bottleneck: with `efficient`, keep the 1x1 outputs too: more bytes, less time.
        opt_memory, compressed: not of TensorFlow.
        data_format, dtype, name: see `tf_models.zoo_model.ZooModel`.
        fields: of `zoo.densenet.DenseNetConfig`.

    Input (N, H, W, in_chans) by default; output (N, num_classes).

    Example:
        >>> model = DenseNet(growth_rate=4, block_config=(2, 2), num_init_features=8, efficient=True)
        >>> model(tf.zeros((2, 32, 32, 3))).shape
        TensorShape([2, 10])
    """

    config_type = DenseNetConfig

    def _build_parts(self) -> None:
        config: DenseNetConfig = self.spec
        channels = config.num_init_features
        size, stride = (3, 1) if config.small_inputs else (7, 2)
        self._convolution("features.conv0", config.in_chans, channels, size, stride=stride, fan="in")
        if not config.small_inputs:
            self._norm("features.norm0", channels)
        for number, layers in enumerate(config.block_config, start=1):
            for layer in range(1, layers + 1):
                self._build_layer(f"features.denseblock{number}.denselayer{layer}", channels)
                channels += config.growth_rate
            if number < len(config.block_config):
                kept = int(channels * config.compression)
                self._norm(f"features.transition{number}.norm", channels)
                self._convolution(f"features.transition{number}.conv", channels, kept, 1, fan="in")
                channels = kept
        self._norm("features.norm5", channels)
        self._linear("classifier", channels, config.num_classes)
        self.dropout_seeds = keras.random.SeedGenerator() if config.drop_rate else None

    def _build_layer(self, name: str, channels: int) -> None:
        growth, width = self.spec.growth_rate, self.spec.bn_size * self.spec.growth_rate
        self._norm(f"{name}.norm1", channels)
        if width:
            self._convolution(f"{name}.conv1", channels, width, 1, fan="in")
            self._norm(f"{name}.norm2", width)
            self._convolution(f"{name}.conv2", width, growth, 3, fan="in")
        else:
            self._convolution(f"{name}.conv1", channels, growth, 3, fan="in")

    def call(self, images: Any, training: bool | None = None) -> Any:
        """(N, H, W, in_chans) -> (N, num_classes) scores."""
        self.check_images(images)
        training = bool(training)
        seed = self.dropout_seeds.next() if training and self.dropout_seeds is not None else None
        values = self.run_parts(images, training, seed)
        return self.parts["classifier"](mean_of_pixels(values, self.data_format))

    def part_functions(self, training: bool, seed: Any = None) -> list[NamedPart]:
        """Stem, dense blocks and transitions in turn, and the last norm."""
        found: list[NamedPart] = [("features.conv0", partial(self._stem, training=training))]
        for number, layers in enumerate(self.spec.block_config, start=1):
            block = partial(self._block, number=number, layers=layers, training=training, seed=seed)
            found.append((f"features.denseblock{number}", block))
            if number < len(self.spec.block_config):
                name = f"features.transition{number}"
                found.append((name, partial(self._transition, name=name, training=training)))
        last = [(self.parts["features.norm5"], "relu", None)]
        return [*found, ("features.norm5", partial(self._steps, parts=last, training=training))]

    def _block(self, values: Any, number: int, layers: int, training: bool, seed: Any) -> Any:
        run = self._block_once if self.saves else self._block_plain
        return run(values, number, layers, training, seed)

    def _transition(self, values: Any, name: str, training: bool) -> Any:
        pair = (self.parts[f"{name}.norm"], "relu", self.parts[f"{name}.conv"])
        return average_pool(self._steps(values, [pair], training), self.data_format)

    def _stem(self, images: Any, training: bool) -> Any:
        convolution = self.parts["features.conv0"]
        if self.spec.small_inputs:
            return convolution(images)
        steps = [(None, "", convolution), (self.parts["features.norm0"], "relu", None)]
        return self._steps(images, steps, training, pools=True)

    def _layer_parts(self, number: int, layer: int) -> tuple[list[NormLayer], list[ConvolutionLayer]]:
        name = f"features.denseblock{number}.denselayer{layer}"
        count = 2 if self.spec.bn_size else 1
        norms, convolutions = (
            [self.parts[f"{name}.{kind}{place}"] for place in range(1, count + 1)] for kind in ("norm", "conv")
        )
        return norms, convolutions

    def _block_plain(self, values: Any, number: int, layers: int, training: bool, seed: Any) -> Any:
        axis = channel_axis(self.data_format)
        for layer in range(1, layers + 1):
            new = values
            for norm, convolution in zip(*self._layer_parts(number, layer), strict=True):
                new = convolution(tf.nn.relu(norm(new, training=training)))
            if seed is not None:
                new = tf.nn.experimental.stateless_dropout(new, self.spec.drop_rate, layer_seed(seed, number, layer))
            values = tf.concat([values, new], axis)
        return values

    def _block_once(self, values: Any, number: int, layers: int, training: bool, seed: Any) -> Any:
        """The block as one function, which keeps every feature once."""
        hows, tensors, norms = [], [], []
        for layer in range(1, layers + 1):
            own, convolutions = self._layer_parts(number, layer)
            settings = tuple(norm.how(training) for norm in own)
            mine = None if seed is None else layer_seed(seed, number, layer)
            hows.append(DenseLayer(settings, tuple(one.how for one in convolutions), self.spec.drop_rate))
            tensors.append(dense_layer_values(own, settings, convolutions, mine))
            norms += list(zip(own, settings, strict=True))
        keeps = not self.keeping.recompute_bottleneck
        result, found = dense_block(values, hows, tensors, keeps_bottleneck=keeps)
        for (norm, how), statistics in zip(norms, found, strict=True):
            if how.trains:
                norm.move(statistics)
        return result


def layer_seed(seed: Any, number: int, layer: int) -> Any:
    """A seed of a layer's own, int32 (2,): another mask in every layer, the same one when it is drawn again."""
    return tf.random.experimental.stateless_fold_in(tf.cast(seed, tf.int32), 10_000 * number + layer)
