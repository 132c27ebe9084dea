"""What a person sees while a model trains: one line per epoch, and a progress bar where there is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import TextIO, TypeVar

Item = TypeVar("Item")


def count(number: int, what: str) -> str:
    """A number of things in words.

    Example:
        >>> count(1, "epoch"), count(2, "epoch")
        ('1 epoch', '2 epochs')
    """
    return f"{number} {what}{'' if number == 1 else 's'}"


class Progress:
    """Writes a run's progress to a stream; silent when not `enabled`.

    Args:
        enabled: False writes nothing at all.
        stream: where to; standard output if not given.
    """

    def __init__(self, enabled: bool, stream: TextIO | None = None) -> None:
        self.enabled = enabled
        self.stream = sys.stdout if stream is None else stream
        self._bar_wanted = enabled and self.stream.isatty()

    def line(self, text: str) -> None:
        """One line of text, at once even into a pipe."""
        if self.enabled:
            self.stream.write(f"{text}\n")
            self.stream.flush()

    def bar(self, items: Iterable[Item], total: int, label: str) -> Iterator[Item]:
        """The items, with a bar that disappears when they end (on a terminal only)."""
        if self._bar_wanted:
            try:
                from tqdm import tqdm
            except ImportError:
                self.line("no progress bar: pip install 'memory-efficient-zoo[demo]' adds tqdm")
                self._bar_wanted = False
            else:
                yield from tqdm(items, total=total, desc=label, leave=False, file=self.stream, dynamic_ncols=True)
                return
        yield from items

    def epoch(self, row: Mapping[str, float | int | None], n_epochs: int) -> None:
        """One line from a row of metrics.csv."""
        text = f"epoch {row['epoch']:>{len(str(n_epochs))}}/{n_epochs}  lr {row['lr']:.4g}"
        for part in ("train", "valid"):
            loss, accuracy = row[f"{part}_loss"], row[f"{part}_accuracy"]
            if loss is not None and accuracy is not None:
                text += f"  {part} loss {loss:.4f} accuracy {100 * accuracy:.2f} %"
        self.line(f"{text}  {row['images_per_second']:.0f} images/s")
