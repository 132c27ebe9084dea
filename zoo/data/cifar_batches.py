"""Decodes one official CIFAR file, pickled or binary, from bytes to images and labels; runs no code from the file."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

SHAPE = (3, 32, 32)  # an image: red, green, blue planes, each row by row
PIXELS = 3 * 32 * 32
Batch = tuple[NDArray[np.uint8], NDArray[np.int64]]

# What a damaged pickle may raise, besides UnpicklingError, according to pickle's documentation and its C source.
PICKLE_ERRORS = (
    pickle.UnpicklingError,
    AttributeError,
    EOFError,
    ImportError,
    IndexError,
    KeyError,
    MemoryError,
    OverflowError,
    TypeError,
    ValueError,
)


def decode_binary(content: bytes, label_bytes: int, classes: int, where: str) -> Batch:
    """Images (N, 3, 32, 32) and labels (N,) of a binary file: records of `label_bytes` labels and 3,072 pixels.

    Args:
        content: the file.
        label_bytes: 1 for CIFAR-10; 2 for CIFAR-100, whose second label is the fine one that is returned.
        classes: labels must be below this.
        where: the file's name, for messages.

    Raises:
        ValueError: naming the file, what came and what was needed.
    """
    record = label_bytes + PIXELS
    count, rest = divmod(len(content), record)
    if rest or not count:
        raise ValueError(
            f"{where} has {len(content)} bytes; needed is a multiple of {record} (one image), at least one: "
            "the file is truncated or is another one"
        )
    table = np.frombuffer(content, np.uint8).reshape(count, record)
    images = np.ascontiguousarray(table[:, label_bytes:]).reshape(count, *SHAPE)
    return images, _checked_labels(table[:, label_bytes - 1].tolist(), classes, where)


def decode_pickled(content: bytes, label_key: str, classes: int, where: str) -> Batch:
    """Images (N, 3, 32, 32) and labels (N,) of a pickled file: a dict with `data`, uint8 (N, 3072), and labels.

    Only lists, dicts, numbers, text and byte arrays are built: a pickle that names anything else is refused.

    Args:
        content: the file, pickled by Python 2 or 3, from NumPy 1 or 2.
        label_key: "labels" for CIFAR-10, "fine_labels" for CIFAR-100.
        classes: labels must be below this.
        where: the file's name, for messages.

    Raises:
        ValueError: naming the file, what came and what was needed.
    """
    try:
        loaded = _ArraysOnly(io.BytesIO(content), encoding="bytes").load()
    except PICKLE_ERRORS as error:
        raise ValueError(f"{where} is truncated, damaged or no CIFAR file: {error}") from error
    if not isinstance(loaded, dict):
        raise ValueError(f"{where} holds a {type(loaded).__name__}; needed is a dict with 'data' and {label_key!r}")
    fields = {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in loaded.items()}
    for key in ("data", label_key):
        if key not in fields:
            raise ValueError(f"{where} has no {key!r}; it has {', '.join(map(repr, fields)) or 'nothing'}")
    images = _pickled_images(fields["data"], where)
    labels = fields[label_key]
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise ValueError(f"{where}: {label_key!r} must be a list of integers")
    if len(labels) != len(images):
        raise ValueError(f"{where} has {len(images)} images and {len(labels)} labels; needed is one label an image")
    return images, _checked_labels(labels, classes, where)


class _PickledArray:
    """What a pickle says of an array: no NumPy code sees it before its type and size are checked."""

    state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state


class _PickledType:
    """What a pickle says of an array's element type: its name; byte order and the like do not matter for bytes."""

    def __init__(self, name: object, *_: object) -> None:
        self.name = name.decode("latin1") if isinstance(name, bytes) else name

    def __setstate__(self, _: object) -> None:
        pass


class _ArraysOnly(pickle.Unpickler):
    """Knows the few names an array of bytes needs, and gives stand-ins for them; calls nothing that a file names."""

    def find_class(self, module: str, name: str) -> Callable[..., object]:
        # Fresh functions, not shared ones: a pickle may set attributes on what it is given.
        match module.replace("numpy._core", "numpy.core"), name:
            case "numpy.core.multiarray", "_reconstruct":
                return lambda *_: _PickledArray()
            case "numpy.core.numeric", "_frombuffer":
                return lambda *arguments: _from_buffer(*arguments)
            case "numpy", "ndarray":
                return lambda *_: None
            case "numpy", "dtype":
                return lambda *arguments: _PickledType(*arguments)
            case "_codecs", "encode":  # how Python 3 writes bytes for Python 2
                return lambda text, encoding: _encode(text, encoding)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which images do not need: do not trust this file")


def _from_buffer(content: object, dtype: object, shape: object, order: object) -> _PickledArray:
    array = _PickledArray()
    array.state = (1, shape, dtype, order == "F", content)
    return array


def _encode(text: object, encoding: object) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError(f"bytes are written as {encoding!r}, not latin1")
    return text.encode("latin1")


def _pickled_images(array: object, where: str) -> NDArray[np.uint8]:
    state = array.state if isinstance(array, _PickledArray) else None
    if not isinstance(state, tuple) or len(state) != 5:
        raise ValueError(f"{where}: 'data' must be an array, not {type(array).__name__}")
    _, shape, dtype, column_order, content = state
    name = dtype.name if isinstance(dtype, _PickledType) else dtype
    if name not in ("u1", "|u1", "uint8"):
        raise ValueError(f"{where}: 'data' must have the element type uint8 (u1), not {name!r}")
    pixels_fit = isinstance(shape, tuple) and len(shape) == 2 and shape[1] == PIXELS
    if not pixels_fit or type(shape[0]) is not int or shape[0] < 1:
        raise ValueError(f"{where}: 'data' must have the shape (images, {PIXELS}), not {shape!r}")
    if not isinstance(content, (bytes, bytearray)) or len(content) != shape[0] * PIXELS:
        raise ValueError(f"{where}: 'data' must bring {shape[0] * PIXELS} bytes for {shape[0]} images")
    flat = np.frombuffer(content, np.uint8).reshape(shape, order="F" if column_order else "C")
    return flat.reshape(-1, *SHAPE)


def _checked_labels(labels: list[int], classes: int, where: str) -> NDArray[np.int64]:
    least, most = min(labels), max(labels)  # Python integers: a damaged one may be too large for int64
    if least < 0 or most >= classes:
        raise ValueError(f"{where} has labels from {least} to {most}; needed is 0..{classes - 1}")
    return np.array(labels, np.int64)
