"""Sums over processes by files in a shared folder, HOROVOD_FOLDER; the names are Horovod's."""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

Sum = "sum"
_ROUNDS = itertools.count()


def init() -> None:
    """Nothing is to be joined."""


def rank() -> int:
    """This process's number."""
    return int(os.environ["HOROVOD_RANK"])


def local_rank() -> int:
    """The same: all are on one machine."""
    return rank()


def size() -> int:
    """How many processes there are."""
    return int(os.environ["HOROVOD_SIZE"])


def allreduce(tensor: Any, op: str) -> Any:
    """The sum over all processes."""
    assert op == Sum
    folder, turn = Path(os.environ["HOROVOD_FOLDER"]), next(_ROUNDS)
    written = folder / f"part-{turn}-{rank()}.npy"
    np.save(folder / f"being-written-{rank()}.npy", tensor.numpy())
    (folder / f"being-written-{rank()}.npy").rename(written)
    parts = [folder / f"part-{turn}-{other}.npy" for other in range(size())]
    while not all(part.exists() for part in parts):
        time.sleep(0.001)
    return tf.constant(np.sum([np.load(part) for part in parts], axis=0), tensor.dtype)
