"""A run's numbers as TensorBoard event files, where they are wanted."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from tf_models.tensorflow_names import tf
from zoo.run_folder import Row


@contextlib.contextmanager
def board_in(folder: Path | None) -> Iterator[Callable[[Row], None]]:
    """Inside, rows can be written; None = they go nowhere."""
    if folder is None:
        yield lambda row: None
        return
    writer = tf.summary.create_file_writer(str(folder))

    def write(row: Row) -> None:
        with writer.as_default():
            for name, value in row.items():
                if name != "epoch" and value is not None:
                    tf.summary.scalar(name, float(value), step=int(row["epoch"] or 0))
        writer.flush()

    try:
        yield write
    finally:
        writer.close()
