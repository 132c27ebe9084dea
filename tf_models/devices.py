"""Where TensorFlow computes: seeds, devices, and what its errors say."""

from __future__ import annotations

import numpy as np

from tf_models.tensorflow_names import keras, tf
from zoo.options import TrainingOptions


def set_seed(seed: int) -> None:
    """Seed everything TensorFlow and Keras draw from; call it before the model is built.

    They take 32 bits: a larger seed is mixed into them.

    Example:
        >>> set_seed(2**40); first = tf.random.uniform([2]); set_seed(2**40)
        >>> bool(tf.reduce_all(first == tf.random.uniform([2])))
        True
    """
    keras.utils.set_random_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))


def check_device(device: str, amp: bool = False) -> None:
    """Refuse a device that is not there, before any work.

    Args:
        device: "auto", "cpu", "cuda" or "cuda:<number>".
        amp: mixed precision; offered everywhere.

    Raises:
        ValueError: another word; a GPU is asked for and TensorFlow sees none of that number.
    """
    TrainingOptions(device=device)
    if not device.startswith("cuda"):
        return
    count = len(tf.config.list_physical_devices("GPU"))
    if int(device.partition(":")[2] or 0) >= count:
        built = f"sees {count} GPU(s)" if tf.test.is_built_with_cuda() else "is built without CUDA"
        raise ValueError(f"device={device}: TensorFlow {tf.__version__} {built}; use device=cpu, or framework=torch")


def tensorflow_device(device: str) -> str:
    """TensorFlow's name of a device; "auto" is the first GPU if there is one."""
    check_device(device)
    if device == "cpu" or (device == "auto" and not tf.config.list_physical_devices("GPU")):
        return "/CPU:0"
    return f"/GPU:{int(device.partition(':')[2] or 0)}"


def device_name(device: str) -> str:
    """As this project names devices.

    Example:
        >>> device_name("/GPU:1"), device_name("/CPU:0")
        ('cuda:1', 'cpu')
    """
    return "cpu" if "CPU" in device else f"cuda:{device.rpartition(':')[2]}"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out.

    Example:
        >>> is_out_of_memory(MemoryError()), is_out_of_memory(ValueError("out of memory"))
        (True, False)
    """
    return isinstance(error, (MemoryError, tf.errors.ResourceExhaustedError))
