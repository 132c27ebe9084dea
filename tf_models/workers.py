"""One training step of several workers: TensorFlow's MultiWorkerMirroredStrategy with a loop of one's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tf_models.step import make_step
from tf_models.tensorflow_names import tf
from tf_models.zoo_model import ZooModel


def make_worker_step(model: ZooModel, strategy: Any, optimizer: Any) -> Callable[[Any, Any], tuple[float, float]]:
    """A function (inputs, labels) -> (mean loss, share of right answers), both over all workers; it trains the model.

    Every worker calls it with its own part of the batch; parts may differ in size. Gradients are added up over all
    workers and divided by all answers, so that the step is that of one process with the whole batch; but norms
    normalise with each worker's own images, as usual, and running statistics are the mean of the workers'.

    Args:
        model: built inside `strategy.scope()`, from the same seed in every worker.
        strategy: a `tf.distribute.MultiWorkerMirroredStrategy`, made before anything else in the program, with one
            replica a worker; any other strategy of TensorFlow's with one replica a process.
        optimizer: a Keras optimiser, made inside the scope too.

    Raises:
        ValueError: several replicas in this process, for which Keras's `fit` is there.
    """
    own = len(strategy.extended.worker_devices)
    if own != 1:
        raise ValueError(
            f"make_worker_step: a strategy of one replica a process is needed, this process has {own}: give each "
            "process one device, or train with model.fit"
        )
    gradients = make_step(model, "eager")

    def on_replica(inputs: Any, labels: Any) -> tuple[Any, Any]:
        loss, right, found = gradients(inputs, labels)
        context = tf.distribute.get_replica_context()
        sums = [loss, tf.cast(right, loss.dtype), tf.cast(tf.size(labels), loss.dtype)]
        loss, right, count = context.all_reduce("SUM", sums)
        share = sums[2] / count  # of this worker's answers
        scaled = [tf.convert_to_tensor(one) * tf.cast(share, one.dtype) for one in found]
        # The optimiser adds up over the workers.
        optimizer.apply_gradients(zip(scaled, model.trainable_variables, strict=True))
        return loss / count, right / count

    @tf.function(autograph=False)
    def step(inputs: Any, labels: Any) -> tuple[Any, Any]:
        return strategy.run(on_replica, (inputs, labels))

    def run(inputs: Any, labels: Any) -> tuple[float, float]:
        loss, right = step(tf.convert_to_tensor(inputs), tf.convert_to_tensor(labels))
        return float(loss), float(right)

    return run
