"""The shared kernels at work on TensorFlow's tensors: CuPy's on a GPU, through DLPack, numba's on a CPU.

Eagerly they are called as they are, in a graph through `tf.py_function`, which XLA cannot compile. On a GPU tensors are
handed over without a copy, on a CPU TensorFlow copies them.
"""

from __future__ import annotations

from typing import Any

import kernels
from tf_models.saving.bit_packing import code_bytes
from tf_models.saving.group_codes import GROUP, Codes, count_of
from tf_models.saving.noise import seed_tensor
from tf_models.tensorflow_names import tf

CODES = (tf.uint8, tf.uint16, tf.uint16)


def quantize_shared(values: Any, bits: int, seed: Any) -> Codes:
    """As `group_codes.quantize`, the same bytes.

    Example:
        >>> coded = quantize_shared(tf.constant([0.0, 1.0, 2.0, 3.0]), 2, seed=0)
        >>> coded.codes.numpy().tolist(), dequantize_shared(coded, 2, 4).numpy().tolist()
        ([228], [0.0, 1.0, 2.0, 3.0])
    """
    count = count_of(values)

    def run(flat: Any, number: Any) -> list[Any]:
        made = kernels.quantize(as_array(flat), bits, seed=int(number))
        return [as_tensor(one) for one in (made.codes, made.minima, made.steps)]

    given = [tf.reshape(tf.cast(values, tf.float32), (-1,)), seed_tensor(seed)]
    codes, minima, steps = run(*given) if tf.executing_eagerly() else tf.py_function(run, given, CODES)
    if isinstance(count, int):
        groups = -(-count // GROUP)
        codes = tf.ensure_shape(codes, [code_bytes(count, bits)])
        minima, steps = tf.ensure_shape(minima, [groups]), tf.ensure_shape(steps, [groups])
    else:
        codes, minima, steps = (tf.ensure_shape(one, [None]) for one in (codes, minima, steps))
    return Codes(codes, minima, steps)


def dequantize_shared(coded: Codes, bits: int, count: Any) -> Any:
    """As `group_codes.dequantize`."""

    def run(codes: Any, minima: Any, steps: Any, number: Any) -> Any:
        made = kernels.dequantize(as_array(codes), as_array(minima), as_array(steps), bits, int(number))
        return as_tensor(made)

    given = [*coded, tf.convert_to_tensor(count)]
    values = run(*given) if tf.executing_eagerly() else tf.py_function(run, given, tf.float32)
    return tf.ensure_shape(values, [count if isinstance(count, int) else None])


def as_array(tensor: Any) -> Any:
    """An eager tensor as the kernels take it: NumPy's array of one in host memory, CuPy's of one on a GPU."""
    if "GPU" not in tensor.device:
        return tensor.numpy()
    import cupy

    # TensorFlow does not say on which stream it computes: what reads one value waits for it.
    tf.reshape(tensor, (-1,))[:1].numpy()
    return cupy.from_dlpack(tf.experimental.dlpack.to_dlpack(tensor))


def as_tensor(array: Any) -> Any:
    """What the kernels made as an eager tensor where it lies."""
    if not hasattr(array, "__cuda_array_interface__"):
        return tf.convert_to_tensor(array)
    import cupy

    cupy.cuda.get_current_stream().synchronize()  # TensorFlow reads it on a stream of its own
    return tf.experimental.dlpack.from_dlpack(array.toDlpack())
