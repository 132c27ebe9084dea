"""Keras's fit on two devices of one process, exact and compressed, and in float16 with loss scaling."""

from __future__ import annotations

import numpy as np

import tf_models
from tf_models.tensorflow_names import keras, tf

processor = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["/CPU:0", "/CPU:1"])
draw = np.random.default_rng(0)
labels = draw.integers(0, 2, 32)
images = (draw.standard_normal((32, 8, 8, 3)) + 2 * labels[:, None, None, None]).astype(np.float32)
for flags in ({"efficient": True}, {"compressed": 4}):
    tf_models.set_seed(0)
    with strategy.scope():
        fields = {"growth_rate": 4, "block_config": (1,), "num_init_features": 6, "num_classes": 2}
        model = tf_models.DenseNet(**fields, **flags)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.1), loss, jit_compile=False)
    losses = model.fit(images, labels, batch_size=16, epochs=4, verbose=0).history["loss"]
    assert losses[-1] < losses[0], losses
    moved = model.parts["features.norm5"].moving_mean.numpy()
    assert np.isfinite(moved).all()
    assert np.abs(moved).max() > 0
