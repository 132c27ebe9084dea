"""Convolutions as pure functions: what TensorFlow's CPU kernels get wrong is not asked of them."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is not installed: pip install 'memory-efficient-zoo[tensorflow]'")

from tf_models.operators import Convolution, convolution_gradients, convolve
from tf_models.tensorflow_names import tf


@pytest.mark.parametrize("size", [8, 9])
def test_no_strided_kernel_gradient_of_few_channels_is_asked_of_onednn(size):
    """It would write past its scratch memory, and crash now and then (uxlfoundation/oneDNN, issue 6035)."""
    draw, how = np.random.default_rng(0), Convolution(1, stride=2)
    images, kernel = draw.standard_normal((2, size, size, 4)), draw.standard_normal((1, 1, 4, 6))

    @tf.function
    def by_tape(images, kernel):
        with tf.GradientTape() as tape:
            tape.watch(kernel)
            outputs = convolve(images, kernel, None, how)
            total = tf.reduce_sum(tf.square(outputs)) / 2
        return tape.gradient(total, kernel), convolution_gradients(images, kernel, outputs, how)[1]

    graph = by_tape.get_concrete_function(*map(tf.constant, (images, kernel)))
    asked = [one for one in graph.graph.get_operations() if one.type == "Conv2DBackpropFilter"]
    assert len(asked) == 2
    assert all(list(one.get_attr("strides")) == [1, 1, 1, 1] for one in asked)
    seen = images[:, ::2, ::2]
    true = np.einsum("nhwi,nhwo->io", seen, seen @ kernel[0, 0])
    for found in graph(*map(tf.constant, (images, kernel))):
        np.testing.assert_allclose(found[0, 0], true, rtol=1e-12)
