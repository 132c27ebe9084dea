"""DenseNet in TensorFlow: reads like table 1 of the paper; canonical names are torchvision's."""

from __future__ import annotations

from functools import partial
from typing import Any

from tf_models.carry_out import NamedPart
from tf_models.compression import block_prefers_codes
from tf_models.forward_pass import Pass
from tf_models.image_model import ImageModel, Part
from tf_models.layers import ConvolutionLayer, NormLayer, dense_layer_values
from tf_models.operators import average_pool, channel_axis, mean_of_pixels
from tf_models.saving import DenseLayer, dense_block
from tf_models.tensorflow_names import keras, tf
from tf_models.zoo_model import PACKAGE
from zoo.densenet import DenseNetConfig


# Keras loads a model's class from a file only by this registry of its own.
@keras.saving.register_keras_serializable(package=PACKAGE)
class DenseNet(ImageModel):
    """DenseNet (Huang et al. 2017, arXiv:1608.06993) for TensorFlow, with memory saving, exact or in codes.

    Args:
        efficient: keep each feature once and compute again what is inside a dense block; same outputs, gradients and
            running statistics as without, see docs/tensorflow.md for bytes and time.
        keep_bottleneck: with `efficient`, keep the 1x1 outputs too: more bytes, less time.
        compressed: 1, 2, 4 or 8 bits a value that is kept, normalised, with exact masks; outputs and running statistics
            are the same to the bit, gradients without bias. With `efficient` a part is kept the smaller way.
            Also "fixed:4", "half" and policies, "L1" to "L3", "quant8", "quantz8", "autoquant": see docs/tensorflow.md.
        opt_memory: not of TensorFlow.
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
        run = self.new_pass(training)
        return self.parts["classifier"](mean_of_pixels(self.run_parts(images, run), self.data_format))

    def part_functions(self) -> list[NamedPart]:
        """Stem, dense blocks and transitions in turn, and the last norm."""
        found: list[NamedPart] = [("features.conv0", self._stem)]
        for number, layers in enumerate(self.spec.block_config, start=1):
            found.append((f"features.denseblock{number}", partial(self._block, number=number, layers=layers)))
            if number < len(self.spec.block_config):
                name = f"features.transition{number}"
                found.append((name, partial(self._transition, name=name, layers=layers)))
        return [*found, ("features.norm5", self._last_norm)]

    def _stem(self, images: Any, run: Pass) -> Any:
        convolution = self.parts["features.conv0"]
        if self.spec.small_inputs:
            return convolution(images, in_order=run.in_order)
        steps = [(None, "", convolution), (self.parts["features.norm0"], "relu", None)]
        return self._steps(images, steps, run, pools=True, keeps_input=True)

    def _block(self, values: Any, run: Pass, *, number: int, layers: int) -> Any:
        channels = int(values.shape[channel_axis(self.data_format)])
        codes = self._codes_block(channels, layers, 8 * values.dtype.size, run)
        if run.policy.efficient or codes:
            return self._block_once(values, number, layers, run, codes)
        return self._block_plain(values, number, layers, run)

    def _transition(self, values: Any, run: Pass, *, name: str, layers: int) -> Any:
        pair = (self.parts[f"{name}.norm"], "relu", self.parts[f"{name}.conv"])
        return average_pool(self._after_block(values, run, pair, layers), self.data_format)

    def _last_norm(self, values: Any, run: Pass) -> Any:
        return self._after_block(values, run, (self.parts["features.norm5"], "relu", None), self.spec.block_config[-1])

    def _after_block(self, values: Any, run: Pass, part: Part, layers: int) -> Any:
        """A part that reads all features of a block of so many layers: coded where such a block is, by the same policy.

        An exact block keeps those features already.
        """
        channels = int(values.shape[channel_axis(self.data_format)]) - layers * self.spec.growth_rate
        codes = self._codes_block(channels, layers, 8 * values.dtype.size, run)
        return self._steps(values, [part], run, codes=codes)

    def _codes_block(self, channels: int, layers: int, value_bits: int, run: Pass) -> bool:
        """Whether what a block keeps is coded: always, but where `efficient` alone keeps less.

        Args:
            channels: of its input.
            layers: how many it has.
            value_bits: of a value that is kept as it is.
            run: the forward pass.
        """
        forms = run.forms
        if forms is None or not run.policy.efficient:
            return forms is not None
        growth, kept = self.spec.growth_rate, not run.policy.recompute_bottleneck
        return block_prefers_codes(
            forms.norms.width, channels, growth, self.spec.bn_size * growth, layers, value_bits, kept
        )

    def _layer_parts(self, number: int, layer: int) -> tuple[list[NormLayer], list[ConvolutionLayer]]:
        name = f"features.denseblock{number}.denselayer{layer}"
        count = 2 if self.spec.bn_size else 1
        norms, convolutions = (
            [self.parts[f"{name}.{kind}{place}"] for place in range(1, count + 1)] for kind in ("norm", "conv")
        )
        return norms, convolutions

    def _block_plain(self, values: Any, number: int, layers: int, run: Pass) -> Any:
        axis = channel_axis(self.data_format)
        for layer in range(1, layers + 1):
            new = values
            for norm, convolution in zip(*self._layer_parts(number, layer), strict=True):
                activated = tf.nn.relu(norm(new, training=run.training, moves=run.moves))
                new = convolution(activated, in_order=run.in_order)
            if run.dropout is not None:
                seed = layer_seed(run.dropout, number, layer)
                new = tf.nn.experimental.stateless_dropout(new, self.spec.drop_rate, seed)
            values = tf.concat([values, new], axis)
        return values

    def _block_once(self, values: Any, number: int, layers: int, run: Pass, codes: bool) -> Any:
        """The block as one function, which keeps every feature once, as it is or in codes."""
        hows, tensors, norms = [], [], []
        for layer in range(1, layers + 1):
            own, convolutions = self._layer_parts(number, layer)
            settings = tuple(norm.how(run.training) for norm in own)
            mine = None if run.dropout is None else layer_seed(run.dropout, number, layer)
            hows.append(DenseLayer(settings, tuple(one.how for one in convolutions), self.spec.drop_rate))
            tensors.append(dense_layer_values(own, settings, convolutions, mine))
            norms += list(zip(own, settings, strict=True))
        result, found = dense_block(
            values,
            hows,
            tensors,
            keeps_bottleneck=not run.policy.recompute_bottleneck,
            coder=run.coder() if codes else None,
            joins_statistics=run.policy.efficient,
        )
        for (norm, how), statistics in zip(norms, found, strict=True):
            if how.trains and run.moves:
                norm.move(statistics)
        return result


def layer_seed(seed: Any, number: int, layer: int) -> Any:
    """A seed of a layer's own, int32 (2,): another mask in every layer, the same one when it is drawn again."""
    return tf.random.experimental.stateless_fold_in(tf.cast(seed, tf.int32), 10_000 * number + layer)
