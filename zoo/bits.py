"""How many bits each saved tensor gets: the rules of ActNN and GACT, in NumPy; kernels and frameworks do the rest.

An item of weight w coded in b bits adds variance c / (2^b - 1)^2 to the gradient. The sum over items is made small
while sum(w b) stays within a budget.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

WIDTHS = (1, 2, 4, 8)
KEEP = 32  # bits that mean: leave the tensor as it is


def added_variance(sensitivities: Sequence[float] | np.ndarray, bits: Sequence[int] | np.ndarray) -> float:
    """Sum of c / (2^b - 1)^2, with 32 bits adding nothing.

    Example:
        >>> added_variance([9.0, 3.0], [2, 1])
        4.0
    """
    widths = np.asarray(bits, np.float64)
    return float(np.sum(np.where(widths >= KEEP, 0.0, np.asarray(sensitivities) / (2.0**widths - 1) ** 2)))


def allocate(
    sensitivities: Sequence[float] | np.ndarray,
    weights: Sequence[float] | np.ndarray,
    average: float,
    widths: Sequence[int] = WIDTHS,
    least: Sequence[int] | np.ndarray | int = 1,
) -> np.ndarray:
    """Bits for every item, of `widths`, whose weighted mean is at most `average`.

    All begin at the widest; the narrowing that adds least variance per bit and weight is done again and again until the
    budget is kept, and what is left over then widens items again. At most 24 items of equal weight are solved exactly.

    Args:
        sensitivities: c of each item, not negative; NaN or infinity counts as the largest finite one.
        weights: values that each item holds.
        average: bits a value, not below the narrowest width.
        widths: to choose from, rising.
        least: the fewest bits each item may get; these are given even where they are more than `average`.

    Raises:
        ValueError: an average below the narrowest width, or sizes that do not fit.

    Source:
        ActNN (Chen et al. 2021), section 4; GACT (Liu et al. 2022), section 4.

    Example:
        >>> allocate([100.0, 1.0, 1.0, 1.0], [1, 1, 1, 1], 2).tolist()
        [4, 2, 1, 1]
    """
    costs, sizes = np.asarray(sensitivities, np.float64), np.asarray(weights, np.float64)
    if costs.shape != sizes.shape or costs.ndim != 1:
        raise ValueError(f"allocate: {costs.shape} sensitivities for {sizes.shape} weights: give one weight an item")
    if average < widths[0]:
        raise ValueError(f"allocate: an average of {average} bits is below the narrowest width, {widths[0]}")
    if not len(costs):
        return np.zeros(0, np.int64)
    finite = np.isfinite(costs)
    costs = np.where(finite, costs, costs[finite].max(initial=1.0))
    floors = np.broadcast_to(np.asarray(least), costs.shape)
    budget = max(average * sizes.sum(), float(sizes @ floors))
    if len(costs) <= 24 and np.all(sizes == sizes[0]) and float(budget / sizes[0]).is_integer():
        return _optimal(costs, int(budget / sizes[0]), widths, floors)
    return _greedy(costs, sizes, budget, widths, floors)


def _greedy(
    costs: np.ndarray, sizes: np.ndarray, budget: float, widths: Sequence[int], floors: np.ndarray
) -> np.ndarray:
    levels = np.asarray(widths, np.float64)
    noise = np.where(levels >= KEEP, 0.0, 1 / (2.0**levels - 1) ** 2)
    # A move lowers an item from level k + 1 to k; rising cost a bit makes an item's own moves come in order.
    saved = np.outer(sizes, np.diff(levels))
    added = np.outer(costs, noise[:-1] - noise[1:])
    with np.errstate(all="ignore"):
        ratio = np.where(saved > 0, added / saved, 0.0)
    forbidden = levels[:-1] < floors[:, None]
    saved, ratio = np.where(forbidden, 0.0, saved), np.where(forbidden, np.inf, ratio)
    # Equal ratios: the wider levels first, so that an item's moves stay in order.
    order = np.lexsort((-np.tile(np.arange(len(noise) - 1), len(costs)), ratio.ravel()))
    order = order[: forbidden.size - int(forbidden.sum())]
    items, level = np.unravel_index(order, ratio.shape)
    excess = sizes.sum() * levels[-1] - budget
    done = np.searchsorted(np.cumsum(saved[items, level]), excess - 1e-9 * max(budget, 1.0)) + 1 if excess > 0 else 0
    found = np.full(len(costs), len(levels) - 1)
    np.subtract.at(found, items[:done], 1)
    left = budget - float(sizes @ levels[found])
    for item, to in zip(items[:done][::-1], level[:done][::-1], strict=True):
        if left <= 0:
            break
        if found[item] == to and saved[item, to] <= left:
            found[item] += 1
            left -= saved[item, to]
    return levels[found].astype(np.int64)


def _optimal(costs: np.ndarray, budget: int, widths: Sequence[int], floors: np.ndarray) -> np.ndarray:
    """Dynamic programme over the bits spent; equal weights."""
    best = np.zeros(budget + 1)
    choices = np.zeros((len(costs), budget + 1), np.int64)
    for item, cost in enumerate(costs):
        options = np.full((len(widths), budget + 1), np.inf)
        for index, width in enumerate(widths):
            if floors[item] <= width <= budget:
                noise = 0.0 if width >= KEEP else cost / (2.0**width - 1) ** 2
                options[index, width:] = best[: budget + 1 - width] + noise
        choices[item] = options.argmin(axis=0)
        best = options.min(axis=0)
    left, found = budget, np.zeros(len(costs), np.int64)
    for item in reversed(range(len(costs))):
        found[item] = widths[choices[item, left]]
        left -= found[item]
    return found


def in_bounds_share(size: int, kernel: int, stride: int, padding: int, dilation: int, outputs: int) -> float:
    """Which share of one dimension's (tap, output) pairs reads inside the input, not its padding.

    Example:
        >>> in_bounds_share(4, 3, 1, 1, 1, 4)  # the first and the last output read one padding value each
        0.8333333333333334
    """
    places = np.add.outer(np.arange(outputs) * stride - padding, np.arange(kernel) * dilation)
    return float(np.mean((places >= 0) & (places < size)))


def convolution_noise(
    energy: float, gradient_square: float, taps: int, groups: int, pixels: int, share: float
) -> float:
    """Variance that rounding a convolution's input adds to its weight gradient, summed over the weight.

    Args:
        energy: variance of the rounding, summed over a sample's values.
        gradient_square: |dY|^2 of the sample.
        taps: product of the kernel's sizes; 1 for a linear layer.
        pixels: positions of the sample's input; its rows for a linear layer.
        share: product of `in_bounds_share` over the dimensions.

    Example:
        >>> convolution_noise(2.0, 3.0, 9, 1, 6, 1.0)
        9.0
    """
    return share * taps / (groups * pixels) * energy * gradient_square
