"""The fused norm passes: right by their formulas, and alike in kernels.reference and kernels.cpu."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kernels import checks, cpu, reference
from kernels.formats import narrow

FORMATS = ("float32", "bfloat16", *(pytest.param(name, marks=pytest.mark.slow) for name in ("float64", "float16")))
# Shape, and channels of the wider buffer that it is a slice of.
LAYOUTS = (((50, 12), 0), ((50, 12), 5), ((41, 37), 3), ((3, 5, 7), 0), ((2, 5, 70), 3), ((1, 3, 1500), 2), ((1, 9), 4))
ACTIVATIONS = ("identity", "relu", "relu6", "leaky_relu")
Options = dict[str, Any]


class Case:
    """Arrays for one layout and format; `view` makes a channel slice of the same buffer for each use."""

    def __init__(self, dtype: str, layout: tuple[tuple[int, ...], int], make: Any) -> None:
        self.shape, extra = layout
        self.wide = (self.shape[0], self.shape[1] + extra, *self.shape[2:])
        self.make, self.dtype = make, dtype
        self.named: Options = {"dtype": "bfloat16"} if dtype == "bfloat16" else {}
        self.kind = np.float64 if dtype == "float64" else np.float32
        self.rtol = 1e-10 if dtype == "float64" else 1e-5
        rng = np.random.default_rng(5)
        channels = self.shape[1]
        self.mean, self.shift = (rng.normal(size=channels).astype(self.kind) for _ in range(2))
        self.inv_std, self.scale = (rng.uniform(0.3, 2, channels).astype(self.kind) for _ in range(2))
        self.values, self.d_out = self.view(1), self.view(2)
        # Values exactly on the activations' edges, 0 and 6.
        self.shift[:2], self.scale[1] = 0, 1
        zero_and_six = narrow(np.array([0, 6], self.kind), dtype)
        self.values[::3, 0], self.values[::2, 1] = zero_and_six

    def view(self, seed: int) -> np.ndarray:
        return self.make(self.dtype, self.wide, seed)[0][:, : self.shape[1]]

    def norm(self) -> tuple[np.ndarray, ...]:
        return self.mean, self.inv_std, self.scale, self.shift


def options_of(activation: str) -> Options:
    return {"activation": activation, **({"slope": 0.1} if activation == "leaky_relu" else {})}


@pytest.mark.parametrize("dtype", FORMATS)
def test_statistics(dtype: str, make: Any) -> None:
    for layout in LAYOUTS:
        case = Case(dtype, layout, make)
        one, other = (b.channel_statistics(case.values, **case.named) for b in (reference, cpu))
        for left, right in zip(one, other, strict=True):
            assert left.dtype == right.dtype == case.kind
            np.testing.assert_allclose(right, left, rtol=case.rtol, atol=1e-30)


@pytest.mark.quick
@pytest.mark.parametrize("shape", [(4096, 3), (16, 3, 256)])
def test_statistics_are_accurate_where_the_mean_is_300_deviations(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    values = (300 + rng.normal(size=shape)).astype(np.float32)
    axes = tuple(i for i in range(len(shape)) if i != 1)
    exact = values.astype(np.float64)
    for backend in (reference, cpu):
        mean, variance = backend.channel_statistics(values)
        np.testing.assert_allclose(mean, exact.mean(axes), rtol=1e-7)
        np.testing.assert_allclose(variance, exact.var(axes), rtol=1e-6)


@pytest.mark.parametrize("dtype", FORMATS)
def test_affine_and_its_mask(dtype: str, make: Any, same: Any) -> None:
    for layout in LAYOUTS:
        case = Case(dtype, layout, make)
        for activation in ACTIVATIONS:
            options = {**options_of(activation), **case.named}
            outs, masks = [], []
            for backend in (reference, cpu):
                plain, masked = case.view(3), case.view(3)
                assert backend.affine_activation(case.values, case.scale, case.shift, plain, **options) is plain
                outs.append(plain)
                if activation != "identity":
                    mask = np.empty(checks.mask_bytes(activation, case.values.size), np.uint8)
                    backend.affine_activation(case.values, case.scale, case.shift, masked, mask=mask, **options)
                    same(masked, plain)
                    masks.append(mask)
            same(*outs)
            if masks:
                same(*masks)


@pytest.mark.parametrize("dtype", FORMATS)
def test_coding_rebuilding_and_gradients(dtype: str, make: Any, same: Any) -> None:
    for layout in LAYOUTS:
        case = Case(dtype, layout, make)
        for activation, (bits, group, wide) in zip(
            ACTIVATIONS, ((2, 256, False), (4, 32, True), (1, 512, False), (8, 256, False)), strict=True
        ):
            options = {**options_of(activation), **case.named}
            coded = check_coding(case, bits, group, wide, options, same)
            kept = (coded.codes, coded.minima, coded.steps, bits)
            outs = [case.view(4), case.view(4)]
            for backend, out in zip((reference, cpu), outs, strict=True):
                backend.dequantize_affine(*kept, case.scale, case.shift, out, group=group, mask=coded.mask, **options)
            same(*outs)
            for accumulate in (False, True):
                check_gradients(case, coded, bits, group, accumulate, options, same)


def check_coding(case: Case, bits: int, group: int, wide: bool, options: Options, same: Any) -> Any:
    made, outs = [], [case.view(3), case.view(3)]
    for backend, out in zip((reference, cpu), outs, strict=True):
        made.append(
            backend.normalize_quantize_mask(
                case.values,
                *case.norm(),
                bits,
                seed=9,
                start=2**32 - 50,
                group=group,
                wide_minimum=wide,
                out=out,
                **options,
            )
        )
    same(*outs)
    for name in ("codes", "minima", "steps", "mask"):
        same(getattr(made[0], name), getattr(made[1], name))
    np.testing.assert_allclose(made[1].energy, made[0].energy, rtol=1e-5)
    return made[0]


def check_gradients(
    case: Case, coded: Any, bits: int, group: int, accumulate: bool, options: Options, same: Any
) -> None:
    targets, sums = [], []
    for backend in (reference, cpu):
        for mask in (None, coded.mask):
            targets.append(case.view(6))
            common = {"target": targets[-1], "accumulate": accumulate, "mask": mask, **options}
            sums.append(backend.norm_backward(case.d_out, case.values, *case.norm(), **common))
    coded_targets, coded_sums = [], []
    for backend in (reference, cpu):
        coded_targets.append(case.view(6))
        common = {"target": coded_targets[-1], "accumulate": accumulate, "mask": coded.mask, "group": group, **options}
        kept = (coded.codes, coded.minima, coded.steps, bits)
        coded_sums.append(backend.norm_backward_coded(case.d_out, *kept, case.scale, **common))
    for target in (*targets[1:], *coded_targets):
        same(target, targets[0])
    for several in (sums, coded_sums):
        for other in several[1:]:
            for left, right in zip(several[0], other, strict=True):
                assert left.dtype == right.dtype == case.kind
                scale = case.rtol * 100
                np.testing.assert_allclose(right, left, rtol=scale, atol=scale * max(1, np.abs(left).max()))


@pytest.mark.parametrize("dtype", FORMATS)
def test_subtraction_of_the_statistics_share(dtype: str, make: Any, same: Any) -> None:
    for layout in LAYOUTS:
        case = Case(dtype, layout, make)
        targets = [case.view(6), case.view(6)]
        for backend, target in zip((reference, cpu), targets, strict=True):
            backend.subtract_norm_terms(target, case.values, case.mean, case.shift, case.scale, **case.named)
        same(*targets)


@pytest.mark.parametrize("backend", [reference, cpu])
@pytest.mark.parametrize("shape", [(60, 4), (5, 4, 12)])
def test_the_passes_together_are_batch_norms_gradient(backend: Any, shape: tuple[int, ...], make: Any) -> None:
    """Against central differences of loss = sum(d_out * relu(batchnorm(x))), all in float64."""
    x, d_out = make("float64", shape, 1)[0], make("float64", shape, 2)[0]
    gamma, beta = np.array([0.5, 1.5, -1.0, 2.0]), np.array([0.1, -0.2, 0.3, 0.0])
    axes = tuple(i for i in range(len(shape)) if i != 1)
    column = (slice(None),) if len(shape) == 2 else (slice(None), None)

    def loss(values: np.ndarray) -> float:
        mean, variance = backend.channel_statistics(values)
        inv_std = 1 / np.sqrt(variance + 1e-5)
        out = np.empty(shape)
        backend.affine_activation(values, gamma * inv_std, beta - mean * gamma * inv_std, out)
        return float((out * d_out).sum())

    mean, variance = backend.channel_statistics(x)
    inv_std = 1 / np.sqrt(variance + 1e-5)
    scale, shift = gamma * inv_std, beta - mean * gamma * inv_std
    dx = np.empty(shape)
    sum_d, sum_dz = backend.norm_backward(d_out, x, mean, inv_std, scale, shift, target=dx, accumulate=False)
    rows = x.size / 4
    backend.subtract_norm_terms(dx, x, mean, scale * sum_d / rows, scale * inv_std * sum_dz / rows)
    gated = d_out * (x * scale[column] + shift[column] > 0)
    np.testing.assert_allclose(sum_dz, (gated * (x - mean[column]) * inv_std[column]).sum(axes), rtol=1e-10)
    for index in [(0,) * len(shape), tuple(n - 1 for n in shape)]:
        step = np.zeros(shape)
        step[index] = 1e-6
        assert dx[index] == pytest.approx((loss(x + step) - loss(x - step)) / 2e-6, rel=1e-5, abs=1e-7)


def test_sums_over_many_rows_do_not_run_out_of_digits() -> None:
    """Added up in float32 alone, so many equal values would be off by 4e-5."""
    shape, ones = (50_000, 16), np.ones(16, np.float32)
    d_out, values = np.full(shape, 0.1, np.float32), np.ones(shape, np.float32)
    target = np.empty_like(values)
    sums = cpu.norm_backward(d_out, values, 0 * ones, ones, ones, ones, target=target, accumulate=False)
    for found in sums:
        np.testing.assert_allclose(found, d_out.sum(0, dtype=np.float64), rtol=1e-6)


@pytest.mark.parametrize("backend", [reference, cpu])
def test_a_rebuilt_activation_is_unbiased_and_not_clamped(backend: Any, make: Any) -> None:
    values, _ = make("float32", (64, 8))
    ones, zeros = np.ones(8, np.float32), np.zeros(8, np.float32)
    exact = np.empty_like(values)
    backend.affine_activation(values, ones, zeros, exact)
    total, lowest = np.zeros(values.shape), 0.0
    for seed in range(300):
        coded = backend.normalize_quantize_mask(values, zeros, ones, ones, zeros, 2, seed=seed)
        out = np.empty_like(values)
        backend.dequantize_affine(coded.codes, coded.minima, coded.steps, 2, ones, zeros, out, mask=coded.mask)
        total += out
        lowest = min(lowest, float(out.min()))
        assert (out[exact == 0] == 0).all()
    assert lowest < 0
    step = (values.max() - values.min()) / 3
    assert abs((total / 300 - exact).mean()) < 4 * step / 2 / np.sqrt(300 * values.size)


@pytest.mark.parametrize("backend", [reference, cpu])
def test_what_is_masked_out_may_be_nan(backend: Any) -> None:
    values = np.float32([[-1, 1], [np.nan, 2]])
    ones, zeros, target = np.ones(2, np.float32), np.zeros(2, np.float32), np.zeros((2, 2), np.float32)
    d_out = np.float32([[np.nan, 3], [np.inf, 4]])
    mask = np.empty(1, np.uint8)
    backend.affine_activation(values, ones, zeros, np.empty_like(values), mask=mask)
    assert mask.tolist() == [0b1010]
    sum_d, _ = backend.norm_backward(
        d_out, values, zeros, ones, ones, zeros, target=target, accumulate=False, mask=mask
    )
    assert target.tolist() == [[0, 3], [0, 4]]
    assert sum_d.tolist() == [0, 7]


@pytest.mark.parametrize("backend", [reference, cpu])
def test_in_place(backend: Any, make: Any, same: Any) -> None:
    values, _ = make("float32", (33, 17))
    ones, zeros = np.full(17, 2, np.float32), np.full(17, 0.5, np.float32)
    out = np.empty_like(values)
    backend.affine_activation(values, ones, zeros, out)
    backend.affine_activation(values, ones, zeros, values)
    same(values, out)


@pytest.mark.parametrize("backend", [reference, cpu])
def test_empty_arrays(backend: Any) -> None:
    for shape in ((0, 3), (0, 3, 5), (2, 3, 0), (4, 0)):
        values, vector = np.zeros(shape, np.float32), np.ones(shape[1], np.float32)
        norm = (vector, vector, vector, vector)
        coded = backend.normalize_quantize_mask(values, *norm, 2, seed=0)
        assert coded.nbytes == 0
        kept = (coded.codes, coded.minima, coded.steps, 2)
        backend.affine_activation(values, vector, vector, values)
        backend.dequantize_affine(*kept, vector, vector, values, mask=coded.mask)
        sums = backend.norm_backward(values, values, *norm, target=values, accumulate=True)
        assert [part.tolist() for part in sums] == [[0] * shape[1]] * 2
        backend.norm_backward_coded(values, *kept, vector, target=values, accumulate=True, mask=coded.mask)
        with pytest.raises(ValueError, match="have no mean"):
            backend.channel_statistics(np.zeros((0, 3), np.float32))


def test_the_rest_of_a_wider_buffer_is_left_alone(make: Any) -> None:
    buffer = np.full((6, 20), 7, np.float32)
    view, values = buffer[:, 3:14], make("float32", (6, 11))[0]
    ones = np.ones(11, np.float32)
    cpu.affine_activation(values, ones, ones, view)
    cpu.norm_backward(values, values, ones, ones, ones, ones, target=view, accumulate=True)
    cpu.subtract_norm_terms(view, values, ones, ones, ones)
    coded = cpu.normalize_quantize_mask(values, ones, ones, ones, ones, 2, seed=0, out=view)
    cpu.dequantize_affine(coded.codes, coded.minima, coded.steps, 2, ones, ones, view, mask=coded.mask)
    assert (buffer[:, :3] == 7).all()
    assert (buffer[:, 14:] == 7).all()
    assert not (view == 7).any()
