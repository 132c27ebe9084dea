"""The noise of stochastic rounding is uniform, independent between seeds, and one stream for all backends."""

from __future__ import annotations

import numpy as np
import pytest

from kernels import cpu, reference

COUNT = 2**16
# 99.99 % points of chi-square with 255 degrees of freedom.
CHI_SQUARE_255 = 349.0


@pytest.mark.quick
@pytest.mark.parametrize("seed", [0, 1, 2**63, -1])
def test_noise_is_uniform(seed: int) -> None:
    u = reference.noise(seed, 0, COUNT)
    assert u.dtype == np.float32
    assert u.min() >= 0
    assert u.max() < 1
    counts = np.bincount((u * 256).astype(int), minlength=256)
    expected = COUNT / 256
    assert ((counts - expected) ** 2 / expected).sum() < CHI_SQUARE_255
    # The lower bits of the 24 as well.
    counts = np.bincount((u * 2**24).astype(int) & 255, minlength=256)
    assert ((counts - expected) ** 2 / expected).sum() < CHI_SQUARE_255


@pytest.mark.parametrize(("one", "other"), [(0, 1), (1, 2), (5, 5 + 2**32), (0, 2**63), (3, -3)])
def test_seeds_are_independent(one: int, other: int) -> None:
    u, v = reference.noise(one, 0, COUNT), reference.noise(other, 0, COUNT)
    assert abs(np.corrcoef(u, v)[0, 1]) < 4 / np.sqrt(COUNT)
    # Not the same numbers in another order: by chance COUNT^2 / 2^24 = 256 of them are equal.
    assert np.isin(u, v).sum() < 2 * COUNT**2 / 2**24


@pytest.mark.parametrize("lag", [1, 2, 31, 32, 256, 1024])
def test_neighbours_are_independent(lag: int) -> None:
    u = reference.noise(11, 0, COUNT)
    assert abs(np.corrcoef(u[:-lag], u[lag:])[0, 1]) < 4 / np.sqrt(COUNT)


def test_upper_half_of_the_index_changes_the_noise() -> None:
    u, v = reference.noise(7, 0, COUNT), reference.noise(7, 2**32, COUNT)
    assert abs(np.corrcoef(u, v)[0, 1]) < 4 / np.sqrt(COUNT)
    assert np.isin(u, v).sum() < 2 * COUNT**2 / 2**24


@pytest.mark.parametrize("start", [0, 5, 2**31 - 3, 2**32 - 100, 2**40 + 2**32 - 1, 2**63 - 500])
def test_backends_draw_the_same_and_any_part_is_the_whole(start: int) -> None:
    whole = reference.noise(42, start, 300)
    assert np.array_equal(whole, cpu.noise(42, start, 300))
    for first in (1, 99, 100, 101, 299):
        assert np.array_equal(whole[first:], reference.noise(42, start + first, 300 - first))


def test_known_values_stay() -> None:
    """Kept codes must decode after an upgrade, and three backends must agree: the stream is part of the format."""
    known = np.array([0.9660407304763794, 0.39152079820632935, 0.5419101715087891, 0.9876341223716736], np.float32)
    assert np.array_equal(reference.noise(3, 0, 4), known)


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [((2**64, 0, 1), ValueError), ((0, -1, 1), ValueError), ((0, 2**63, 1), ValueError), ((0.5, 0, 1), TypeError),
     ((True, 0, 1), TypeError), ((0, 0, -1), ValueError)],
)  # fmt: skip
def test_bad_arguments_are_refused(arguments: tuple[int, int, int], kind: type[Exception]) -> None:
    for backend in (reference, cpu):
        with pytest.raises(kind, match="noise: "):
            backend.noise(*arguments)
