"""Tells a person how far a download is: a bar on a terminal, else a line every tenth."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

MB = 10**6
UNKNOWN_TOTAL_STEP = 32 * MB


@contextmanager
def byte_progress(label: str, done: int, total: int | None, *, enabled: bool = True) -> Iterator[Callable[[int], None]]:
    """A function to call with the number of bytes that came; it writes to stderr while the context lasts.

    Args:
        label: what is downloaded.
        done: bytes that were there before.
        total: bytes of the whole, or None where the server does not say.
        enabled: False writes nothing.
    """
    if not enabled:
        yield lambda _: None
        return
    if sys.stderr.isatty():
        try:
            from tqdm import tqdm
        except ImportError:
            pass  # the lines below say the same
        else:
            with tqdm(desc=label, initial=done, total=total, unit="B", unit_scale=True, file=sys.stderr) as bar:

                def advance(count: int) -> None:
                    bar.update(count)

                yield advance
            return
    yield _Lines(label, done, total)


class _Lines:
    """Writes a line whenever another tenth of `total`, or 32 MB of an unknown total, has come."""

    def __init__(self, label: str, done: int, total: int | None) -> None:
        self.label, self.done, self.total = label, done, total
        self.step = max(total // 10, 1) if total else UNKNOWN_TOTAL_STEP
        self.next = (done // self.step + 1) * self.step

    def __call__(self, count: int) -> None:
        self.done += count
        if self.done < self.next and self.done != self.total:
            return
        self.next = (self.done // self.step + 1) * self.step
        of_total = f" of {self.total / MB:.1f} MB ({100 * self.done // self.total} %)" if self.total else " MB"
        sys.stderr.write(f"{self.label}: {self.done / MB:.1f}{of_total}\n")
        sys.stderr.flush()
