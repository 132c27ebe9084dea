"""The largest size whose bytes fit: of batches, images, depths, widths, found in few measurements."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

MOST = 2**20
PATIENCE = 60  # measurements of one search; twenty are many


def largest_that_fits(
    needs: Callable[[int], int], limit: int, least: int = 1, most: int = MOST
) -> tuple[int, int | None, int | None]:
    """The largest size whose bytes fit, those bytes, and the bytes of the next size, which do not fit.

    Bytes that grow like a power of the size, as those of batches (1) and image sizes (2) nearly do, take about five
    measurements.

    Args:
        needs: size -> bytes; grows with the size.
        limit: bytes.
        least: the smallest size to try; if it does not fit, the answer is (0, None, its bytes).
        most: a size that is taken for a sign that bytes do not grow.

    Raises:
        ValueError: bytes that do not grow: `most` would fit.

    Example:
        >>> largest_that_fits(lambda size: 7 * size**2 + 100, 10_000)
        (37, 9683, 10208)
    """
    known = {least: needs(least)}
    if known[least] > limit:
        return 0, None, known[least]
    best, over = least, most + 1
    guess = 2 * least
    for tried in range(PATIENCE):
        known[guess] = needs(guess)
        if known[guess] <= limit:
            best = guess
        else:
            over = guess
        if best >= most:
            raise ValueError(f"largest_that_fits: {most} fit {limit:,} bytes: bytes do not grow with what grows")
        if over == best + 1:
            return best, known[best], known[over]
        ends = [best, over if over in known else max(size for size in known if size < best)]
        # Where a constant part weighs most, the law is too bold: then steps of eight, or halves of what is left.
        middle, bold = (math.isqrt(best * over), over - 1) if over in known else (4 * best, 8 * best)
        guess = middle if tried % 3 == 2 else _by_power_law(known, ends, limit, most)
        guess = min(max(guess, best + 1), bold, most)
    raise ValueError(f"largest_that_fits: no answer after {PATIENCE} measurements: bytes do not grow with what grows")


def _by_power_law(known: Mapping[int, int], sizes: Sequence[int], limit: int, most: int) -> int:
    (low, high) = sorted(sizes)
    power = math.log(known[high] / known[low]) / math.log(high / low)
    return most if power < 0.05 else int(low * (limit / known[low]) ** (1 / power))
