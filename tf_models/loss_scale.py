"""Loss scaling for training in float16: small gradients would otherwise become 0, and large ones infinite."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tf_models.tensorflow_names import tf

FIRST, GROWS_AFTER = 2.0**15, 2000  # steps, as Keras's own
LEAST = 1.0  # a smaller scale makes no gradient finite that is infinite in float32


class LossScale:
    """By how much a loss is multiplied before its gradients are taken; it finds its size by trying.

    A step whose gradients are not finite changes nothing but the scale, which is halved; after 2000 finite steps it
    is doubled. Source: Micikevicius et al. 2018, Mixed Precision Training, section 3.2.

    Example:
        >>> scale = LossScale()
        >>> found, finite = scale.unscaled([tf.constant([65536.0])])
        >>> float(found[0][0]), bool(finite)
        (2.0, True)
    """

    def __init__(self) -> None:
        self.value = tf.Variable(FIRST, trainable=False)
        self.finite_steps = tf.Variable(0.0, trainable=False)

    def unscaled(self, gradients: Sequence[Any]) -> tuple[list[Any], Any]:
        """Gradients of the loss itself in float32, and whether all are finite."""
        wide = [tf.cast(one, tf.float32) / self.value for one in gradients]
        return wide, tf.reduce_all([tf.reduce_all(tf.math.is_finite(one)) for one in wide])

    def step(self, finite: Any, update: Callable[[], None]) -> None:
        """Run `update` if the gradients were finite, and move the scale."""

        def take() -> Any:
            update()
            grows = self.finite_steps + 1 >= GROWS_AFTER
            self.value.assign(tf.where(grows, 2 * self.value, self.value))
            return self.finite_steps.assign(tf.where(grows, 0.0, self.finite_steps + 1))

        def leave_out() -> Any:
            self.value.assign(self.value / 2)
            return self.finite_steps.assign(0.0)

        tf.cond(finite, take, leave_out)

    @property
    def is_exhausted(self) -> bool:
        """Whether gradients are not finite for want of scale: no smaller one can help."""
        return float(self.value) < LEAST

    def to_array(self) -> np.ndarray:
        """The scale, and how many finite steps it has stood."""
        return np.array([self.value.numpy(), self.finite_steps.numpy()], np.float32)

    def take_over(self, array: np.ndarray) -> None:
        """Go on with what `to_array` gave."""
        self.value.assign(array[0])
        self.finite_steps.assign(array[1])
