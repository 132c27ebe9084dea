"""Which tensors have been packed already, so that a tensor that several operators save is packed once."""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pytorch_models.compressed import dense


@dataclass(frozen=True)
class TensorIdentity:
    """What makes two tensors the same values: storage, place in it, dtype and version.

    Views that fill their storage are the same whatever their shape. The storage is compared itself, not by an address
    that another one may have been given since.
    """

    storage: int
    dtype: object
    version: int
    place: tuple[object, ...]

    @classmethod
    def of(cls, tensor: Tensor) -> TensorIdentity:
        """The identity of a tensor as it is now."""
        if dense.fills_storage(tensor):
            place: tuple[object, ...] = ()
        else:
            place = (tensor.storage_offset(), tuple(tensor.shape), tensor.stride())
        return cls(tensor.untyped_storage()._cdata, tensor.dtype, tensor._version, place)


class KnownTensors(threading.local):
    """Values by the identity of a tensor and a purpose; forgotten with the tensor's storage, and by `forget`.

    Every thread has its own; a copy, of a model that has one, starts empty.

    Attributes:
        is_open: whether a forward pass is being recorded in this thread.
    """

    def __init__(self) -> None:
        self.is_open = False
        self._found: dict[tuple[TensorIdentity, str], tuple[weakref.ref[Any], Any]] = {}

    def find(self, tensor: Tensor, purpose: str) -> Any:
        """What `add` was given for this tensor as it is now, or None."""
        return self.get(TensorIdentity.of(tensor), tensor, purpose)

    def get(self, identity: TensorIdentity, tensor: Tensor, purpose: str) -> Any:
        """As `find`, by an identity that was taken before."""
        entry = self._found.get((identity, purpose))
        return entry[1] if entry is not None and entry[0]() is tensor.untyped_storage() else None

    def add(self, tensor: Tensor, purpose: str, value: Any) -> None:
        """Remember a value while the tensor's storage lives."""
        key = (TensorIdentity.of(tensor), purpose)
        found = self._found
        self._found[key] = (weakref.ref(tensor.untyped_storage(), lambda _: found.pop(key, None)), value)

    def forget(self) -> None:
        """Drop everything."""
        self._found.clear()

    def __reduce__(self) -> tuple[type[KnownTensors], tuple[()]]:
        return KnownTensors, ()
