"""Codecs give back what they promise, in the bytes that they say, in every format."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kernels.codec_names import parse_codec
from kernels.codecs import Codec, Encoded, FixedPoint, GroupQuantizer, Half, HostSwap, Identity, Mask, ZeroValue
from kernels.formats import bf16_nearest, narrow, widen

CODECS: tuple[Codec, ...] = (
    Identity(), GroupQuantizer(1), GroupQuantizer(2), GroupQuantizer(4, 64), GroupQuantizer(8, wide_minimum=True),
    FixedPoint(6), FixedPoint(3, channel_axis=1), FixedPoint(9, stochastic=False), Half("float16"), Half("bfloat16"),
    HostSwap(GroupQuantizer(2)), Mask(), ZeroValue(), ZeroValue(FixedPoint(4)), ZeroValue(GroupQuantizer(2)),
    ZeroValue(Half("float16")),
)  # fmt: skip
EXACT = (Identity(), ZeroValue())
FORMATS = ("float32", "bfloat16", *(pytest.param(name, marks=pytest.mark.slow) for name in ("float16", "float64")))


@pytest.mark.parametrize("codec", CODECS, ids=str)
@pytest.mark.parametrize("dtype", FORMATS)
def test_shape_dtype_and_bytes(codec: Codec, dtype: str, make: Any) -> None:
    for shape in ((0,), (1,), (3, 5, 7), (2, 4, 129)):
        if getattr(codec, "channel_axis", None) is not None and len(shape) < 2:
            continue
        array, named = make(dtype, shape)
        encoded = codec.encode(array, 1, **named)
        decoded = codec.decode(encoded)
        assert decoded.shape == array.shape
        assert decoded.dtype == array.dtype
        channels = shape[1] - 1 if getattr(codec, "channel_axis", None) else 0
        bound = codec.nbytes(array.size, dtype) + 4 * channels
        exact = not isinstance(codec, ZeroValue)
        assert encoded.nbytes == bound if exact else encoded.nbytes <= bound


@pytest.mark.parametrize("codec", EXACT, ids=str)
@pytest.mark.parametrize("dtype", FORMATS)
def test_exact_codecs_are_exact(codec: Codec, dtype: str, make: Any, same: Any) -> None:
    array, named = make(dtype, 500)
    array[::3] = 0
    same(codec.decode(codec.encode(array, 0, **named)), array)


UNBIASED = [codec for codec in CODECS if not isinstance(codec, Half | Mask) and getattr(codec, "stochastic", True)]


@pytest.mark.parametrize("codec", [*UNBIASED, FixedPoint(2)], ids=str)
def test_rounding_codecs_are_unbiased(codec: Codec, make: Any) -> None:
    array, _ = make("float32", (4, 50))
    array[::2] = np.abs(array[::2])
    decoded = np.array([codec.decode(codec.encode(array, seed)) for seed in range(300)], np.float64)
    error = decoded.mean(axis=0) - array
    if isinstance(codec, ZeroValue) and isinstance(codec.inner, Half):
        assert np.abs(error).max() < 0.001 * np.abs(array).max()
        return
    assert np.abs(error).max() <= 5 * decoded.std(axis=0).max() / np.sqrt(300) + 1e-6


@settings(max_examples=40, deadline=None)
@given(
    array=arrays(np.float32, st.integers(0, 80), elements=st.floats(-(2.0**60), 2.0**60, width=32)),
    codec=st.sampled_from([FixedPoint(bits) for bits in (2, 5, 16)]),
)
def test_fixed_point_is_within_a_step(array: np.ndarray, codec: FixedPoint) -> None:
    encoded = codec.encode(array, 3)
    if array.size:
        step = float(encoded.parts[1][0])
        bound = max(step * (1 + 1e-4), 2.0**-110)  # steps below 2^-126 give codes 0
        assert (np.abs(codec.decode(encoded).astype(np.float64) - array) <= bound).all()
        assert encoded.signed == bool((array < 0).any())


def test_fixed_point_by_channel_has_a_step_for_each() -> None:
    array = np.float32([[[1, 2]], [[30, 60]], [[0, 0]]])
    codec = FixedPoint(8, channel_axis=0, stochastic=False)
    encoded = codec.encode(array, 0)
    np.testing.assert_allclose(encoded.parts[1] * 255, [2, 60, 0])
    np.testing.assert_allclose(codec.decode(encoded), array, rtol=0.01)
    last = FixedPoint(8, channel_axis=-1, stochastic=False)
    assert last.encode(array, 0).parts[1].shape == (2,)


def test_fixed_point_of_nan_is_nan_and_one_bit_holds_no_sign() -> None:
    codec = FixedPoint(4)
    assert np.isnan(codec.decode(codec.encode(np.float32([1, np.nan]), 0))).all()
    with pytest.raises(ValueError, match="1 bit holds no negative values: take 2 bits"):
        FixedPoint(1).encode(np.float32([-1, 1]), 0)


@pytest.mark.parametrize("kept", ["float16", "bfloat16"])
def test_half_rounds_to_nearest_and_stays_finite(kept: str) -> None:
    codec = Half(kept)
    array = np.float32([1 / 3, -2.7, 3.4e38, -3.4e38, np.inf, np.nan, -0.0, 6e-8])
    decoded = codec.decode(codec.encode(array, 0))
    expected = widen(narrow(array, kept), kept)
    assert np.array_equal(decoded[[0, 1, 6, 7]], expected[[0, 1, 6, 7]])
    assert np.isfinite(decoded[2:4]).all()
    assert decoded[4] == np.inf
    assert np.isnan(decoded[5])


def test_mask_is_one_where_positive() -> None:
    array = np.float32([-1, 0, 2, np.nan])
    assert Mask().decode(Mask().encode(array, 0)).tolist() == [0, 0, 1, 0]
    bits = Mask().decode(Mask().encode(bf16_nearest(array), 0, "bfloat16"))
    assert widen(bits, "bfloat16").tolist() == [0, 0, 1, 0]


def test_zeros_take_a_bit_each() -> None:
    array = np.zeros(8000, np.float32)
    array[:1000] = 1 + np.arange(1000)
    encoded = ZeroValue(FixedPoint(4)).encode(array, 0)
    assert encoded.nbytes == 1000 + 500 + 4
    assert [part.dtype.name for part in encoded.arrays] == ["uint8", "uint8", "float32"]


def test_codes_of_another_codec_are_refused() -> None:
    with pytest.raises(ValueError, match="this was encoded by another codec"):
        ZeroValue().decode(Encoded((np.zeros(1, np.uint8),), (3,), "float32"))


@pytest.mark.quick
@pytest.mark.parametrize(
    ("text", "codec"),
    [(2, GroupQuantizer(2)), ("8", GroupQuantizer(8)), ("fixed:6", FixedPoint(6)), ("zero", ZeroValue()),
     ("zero:fixed:4", ZeroValue(FixedPoint(4))), ("zero:2", ZeroValue(GroupQuantizer(2))), ("Half", Half("float16")),
     ("bfloat16", Half("bfloat16")), ("mask", Mask()), ("identity", Identity()), (FixedPoint(3), FixedPoint(3)),
     ("swap", HostSwap(Identity())), ("swap:2", HostSwap(GroupQuantizer(2))),
     ("swap:zero:fixed:4", HostSwap(ZeroValue(FixedPoint(4))))],
)  # fmt: skip
def test_names(text: Any, codec: Codec) -> None:
    assert parse_codec(text) == codec
    assert parse_codec(str(codec)) == codec


@pytest.mark.quick
@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [(3, ValueError, "unknown codec '3': did you mean 2 or fixed:3?"), ("16", ValueError, "mean 8 or fixed:16?"),
     ("fixed:17", ValueError, "did you mean fixed:16?"), ("fixd:6", ValueError, "did you mean fixed:6?"),
     ("hlaf", ValueError, "did you mean half?"), ("zero:5", ValueError, "did you mean 4 or fixed:5?"),
     ("fixed", ValueError, "did you mean fixed:4?"), ("2:3", ValueError, "unknown codec '2:3'"),
     ("", ValueError, "Known: 1, 2"), ("swp:2", ValueError, "did you mean swap?"), ("swap:5", ValueError, "mean 4 or"),
     (True, TypeError, "not True"), (2.0, TypeError, "not 2.0"), (None, TypeError, "not None")],
)  # fmt: skip
def test_names_that_are_none(text: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message.replace("?", r"\?")):
        parse_codec(text)


def test_codecs_check_their_settings() -> None:
    for make_bad, message in (
        (lambda: GroupQuantizer(3), "bits must be 1, 2, 4 or 8"),
        (lambda: GroupQuantizer(2, 100), "group must be a multiple of 32"),
        (lambda: FixedPoint(17), "bits must be from 1 to 16"),
        (lambda: Half("float32"), "keeps float16 or bfloat16, not 'float32'"),
    ):
        with pytest.raises(ValueError, match=message):
            make_bad()
    with pytest.raises(TypeError, match="array must be one of float16"):
        Identity().encode(np.zeros(3, np.int32), 0)
