"""TensorBoard event files of a training run: one point a column of metrics.csv and epoch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from zoo.run_folder import Row


@contextlib.contextmanager
def tensorboard_in(folder: Path | None, epochs_done: int) -> Iterator[Callable[[Row], None]]:
    """A function that writes an epoch's row into `folder`/tensorboard; without a folder it does nothing.

    Points that a resumed run is about to write again are dropped.
    """
    if folder is None:
        yield lambda row: None
        return
    from torch.utils.tensorboard import SummaryWriter

    board = SummaryWriter(str(folder / "tensorboard"), purge_step=epochs_done + 1)

    def write(row: Row) -> None:
        for name, value in row.items():
            if name != "epoch" and value is not None:
                board.add_scalar(name, value, row["epoch"])

    try:
        yield write
    finally:
        board.close()
