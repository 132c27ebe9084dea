"""TensorFlow and Keras, imported in one place: where one of them is missing, the error says what to install."""

from __future__ import annotations

from typing import Any


def import_tensorflow() -> tuple[Any, Any]:
    """TensorFlow and Keras 3 on it.

    Raises:
        ImportError: TensorFlow is not installed, or Keras is set to another backend; says what to do.
    """
    try:
        import tensorflow
    except ModuleNotFoundError as error:
        if error.name != "tensorflow":
            raise
        raise ImportError("tensorflow is not installed here: pip install 'memory-efficient-zoo[tensorflow]'") from error
    import keras

    if keras.backend.backend() != "tensorflow":
        raise ImportError(
            f"Keras is set to the backend {keras.backend.backend()}: tf_models needs KERAS_BACKEND=tensorflow, "
            "set before Keras is imported first"
        )
    return tensorflow, keras


def is_compiled_by_xla() -> bool:
    """Whether the function that is being made has `jit_compile=True`, or one around it."""
    from tensorflow.python.ops import control_flow_util

    return bool(control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()))


def is_being_saved() -> bool:
    """Whether the function that is being made goes into a SavedModel."""
    from tensorflow.python.saved_model import save_context

    return bool(save_context.in_save_context())


tf: Any
keras: Any
tf, keras = import_tensorflow()
