"""Every backend has the same functions, refuses the same arguments, and is reached by where the arrays lie."""

from __future__ import annotations

import doctest
import importlib
import inspect
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import kernels
from kernels import checks, cpu, reference

ROOT = Path(__file__).resolve().parents[2]
BACKENDS = (reference, cpu)
F32, U8, U16 = np.float32, np.uint8, np.uint16
x, v2, v3 = np.zeros((4, 3), F32), np.zeros(2, F32), np.zeros(3, F32)
coded = reference.quantize(x, 2, seed=0)
kept = (coded.codes, coded.minima, coded.steps)
pool = ((2, 2), (2, 2), (0, 0), (1, 1))
image = np.zeros((1, 1, 4, 4), F32)
Bad = tuple[str, tuple[Any, ...], dict[str, Any], type[Exception], str]
norm = (v3, v3, v3, v3)
fixed_x, fixed_12, fixed_3 = np.zeros((4, 3), F32), np.zeros(12, F32), np.zeros(3, U8)
for read_only in (fixed_x, fixed_12, fixed_3):
    read_only.flags.writeable = False

BAD: tuple[Bad, ...] = (
    ("quantize", (x.astype(int), 2), {"seed": 0}, TypeError, "values must be one of float16.*not int64: convert it"),
    ("quantize", (x.astype(U16), 2), {"seed": 0}, TypeError, "for bfloat16 bits say dtype='bfloat16'"),
    ("quantize", (x, 2), {"seed": 0, "dtype": "float16"}, TypeError, "values is float32, but dtype says float16"),
    ("quantize", (x, 2), {"seed": 0, "dtype": "half"}, ValueError, "dtype must be one of .*not 'half'"),
    ("quantize", (x, 3), {"seed": 0}, ValueError, "bits must be 1, 2, 4 or 8, not 3"),
    ("quantize", (x, 2.0), {"seed": 0}, TypeError, "bits must be an integer, not 2.0"),
    ("quantize", (x, True), {"seed": 0}, TypeError, "bits must be an integer, not True"),
    ("quantize", (x, 2), {"seed": 0, "group": 100}, ValueError, "group must be a multiple of 32, not 100"),
    ("quantize", (x, 2), {"seed": 2**64}, ValueError, "seed must be from"),
    ("quantize", (x, 2), {"seed": None}, TypeError, "seed must be an integer, not None"),
    ("quantize", (x, 2), {"seed": 0, "start": -1}, ValueError, "start must be from 0"),
    ("quantize", (x[:, ::2], 2), {"seed": 0}, ValueError, r"values of shape \(4, 2\) is not C-contiguous"),
    ("quantize", (x, 2), {"seed": 0, "codes": np.zeros(2, U8)}, ValueError, "codes has 2 elements, but 3 are needed"),
    ("quantize", (x, 2), {"seed": 0, "codes": np.zeros(3, np.int8)}, TypeError, "codes must be uint8, not int8"),
    ("quantize", (x, 2), {"seed": 0, "minima": np.zeros(1, F32)}, TypeError, "minima must be uint16, not float32"),
    ("quantize", (x, 2), {"seed": 0, "minima": np.zeros(1, U16), "wide_minimum": True}, TypeError, "must be float32"),
    ("dequantize", (*kept, 2, 13), {}, ValueError, "codes has 3 elements, but 4 are needed"),
    ("dequantize", (*kept, 2, 12), {"dtype": "int8"}, ValueError, "dtype must be one of"),
    ("dequantize", (*kept, 2, 12), {"out": np.zeros(12)}, TypeError, "out must be float32, not float64"),
    ("dequantize", (*kept, 2, 12), {"out": np.zeros((12, 2), F32)[:, 0]}, ValueError, "out of shape .* C-contiguous"),
    ("quantize_samples", (x, 2), {"seed": 0}, TypeError, "bits must be one width a sample, not 2"),
    ("quantize_samples", (x, [2, 2]), {"seed": 0}, ValueError, "2 widths in bits for 4 samples"),
    ("quantize_samples", (x.reshape(-1), [2]), {"seed": 0}, ValueError, r"values must be \(samples, length\)"),
    ("dequantize_samples", (*kept, [2], np.array([0, 4]), 12), {}, ValueError, "offsets are not those of these bits"),
    ("quantize_fixed", (x, 0, 1.0), {"signed": True}, ValueError, "bits must be from 1 to 16, not 0"),
    ("quantize_fixed", (x, 4, -1.0), {"signed": True}, ValueError, "step must not be negative"),
    ("quantize_fixed", (x, 4, "1"), {"signed": True}, TypeError, "step must be a number or a float32 array"),
    ("quantize_fixed", (x, 4, 1.0), {"signed": True, "channels": 3}, ValueError, "one step came for 3 channels"),
    ("quantize_fixed", (x, 4, v3), {"signed": True, "channels": 3, "inner": 3}, ValueError, "not whole blocks of 3 ch"),
    ("quantize_fixed", (x, 4, v3.astype(float)), {"signed": True, "channels": 3}, TypeError, "step must be float32"),
    ("dequantize_fixed", (coded.codes, 4, 1.0, 12), {"signed": True}, ValueError, "codes has 3 elements, but 6"),
    ("pack_integers", (x, 4), {}, TypeError, "values must be uint16 or uint8, not float32"),
    ("pack_integers", (np.zeros(3, U16), 17), {}, ValueError, "bits must be from 1 to 16, not 17"),
    ("unpack_integers", (coded.codes, 4, 7), {}, ValueError, "codes has 3 elements, but 4 are needed"),
    ("pack_bits", (x,), {}, TypeError, "flags must be uint8 or bool, not float32"),
    ("unpack_bits", (coded.codes, -1), {}, ValueError, "count must be from 0"),
    ("pack_positive", (x, ), {"codes": np.zeros(1, U8)}, ValueError, "codes has 1 elements, but 2 are needed"),
    ("pack_regions", (x, 1.0, 1.0), {}, ValueError, "low must be below high, not 1.0 and 1.0"),
    ("unpack_regions", (coded.codes, 13), {}, ValueError, "codes has 3 elements, but 4 are needed"),
    ("zero_expand", (np.zeros(2, U8), v3, 12), {}, ValueError, "the mask has 0 ones, but 3 values came"),
    ("zero_expand", (np.zeros(2, U8), v3[:0], 12), {"out": np.zeros(12)}, TypeError, "out must be float32"),
    ("max_pool_positions", (x, *pool), {}, ValueError, r"values must be \(N, C, H, W\)"),
    ("max_pool_positions", (image, 2, *pool[1:]), {}, TypeError, "kernel must be a pair"),
    ("max_pool_positions", (image, (5, 5), *pool[1:]), {}, ValueError, r"window \(5, 5\).* is larger than \(4, 4\)"),
    ("max_pool_positions", (image, *pool[:2], (2, 2), (1, 1)), {}, ValueError, "padding .* is more than half"),
    ("max_pool_positions", (image, (2, 2), (1, 1), (1, 1), (5, 4)), {}, ValueError, "a window would be all padding"),
    ("max_pool_positions", (np.asfortranarray(np.zeros((1, 2, 4, 4), F32)), *pool), {}, ValueError, "C-contiguous"),
    ("max_pool_gradient", (image, kept[0], image.shape, *pool), {}, ValueError, r"gives \(1, 1, 2, 2\)"),
    ("channel_statistics", (np.zeros((0, 3), F32),), {}, ValueError, "have no mean"),
    ("channel_statistics", (v3,), {}, ValueError, r"values must be \(rows, channels\) or \(N, channels, pixels\)"),
    ("channel_statistics", (x.T,), {}, ValueError, "only its first dimension may have gaps"),
    ("affine_activation", (x, v2, v3, x), {}, ValueError, "scale has 2 elements, but 3 are needed"),
    ("affine_activation", (x, v3, v3.astype(float), x), {}, TypeError, "shift must be float32, not float64"),
    ("affine_activation", (x.astype(float), v3, v3, x.astype(float)), {}, TypeError, "scale must be float64"),
    ("affine_activation", (x, v3, v3, x[:2]), {}, ValueError, r"out has shape \(2, 3\), but values have \(4, 3\)"),
    ("affine_activation", (x, v3, v3, x.astype(float)), {}, TypeError, "out must be float32, not float64"),
    ("affine_activation", (x, v3, v3, x), {"activation": "gelu"}, ValueError, "activation must be one of identity"),
    ("affine_activation", (x, v3, v3, x), {"mask": np.zeros(3, U8)}, ValueError, "mask has 3 elements, but 2 are"),
    ("affine_activation", (x, v3, v3, x), {"activation": "identity", "mask": np.zeros(2, U8)}, ValueError, "no mask"),
    ("normalize_quantize_mask", (x, *norm, 5), {"seed": 0}, ValueError, "bits must be 1, 2, 4 or 8, not 5"),
    ("normalize_quantize_mask", (x, *norm, 2), {"seed": 0, "codes": kept[0][:1]}, ValueError, "codes has 1 elements"),
    ("dequantize_affine", (*kept, 2, v3, v3, x), {}, ValueError, "relu needs its mask"),
    ("dequantize_affine", (*kept, 2, v3, v3, x[:1]), {"activation": "identity"}, ValueError, "codes has 3 elements"),
    ("rebuild_activation", (x, v3, v3, None, x), {}, ValueError, "relu needs its mask"),
    ("rebuild_activation", (x, v3, v3, np.zeros(3, U8), x), {}, ValueError, "mask has 3 elements, but 2 are needed"),
    ("norm_backward", (x[:2], x, *norm), {"target": x, "accumulate": True}, ValueError, "d_out has shape"),
    ("norm_backward", (x, x, *norm), {"target": x.T, "accumulate": True}, ValueError, "target has shape"),
    ("norm_backward_coded", (x, *kept, 2, v3), {"target": x, "accumulate": True}, ValueError, "relu needs its mask"),
    ("quantize", (x.astype(">f4"), 2), {"seed": 0}, TypeError, "not float32 in another machine's byte order: convert"),
    ("dequantize", (kept[0], kept[1].astype(">u2"), kept[2], 2, 12), {}, TypeError, "minima must be uint16 or float32"),
    ("channel_statistics", (x.astype(">f8"),), {}, TypeError, "not float64 in another machine's byte order: convert"),
    ("quantize", (x, 2), {"seed": 0, "codes": fixed_3}, ValueError, "codes is read-only"),
    ("dequantize", (*kept, 2, 12), {"out": fixed_12}, ValueError, "out is read-only: give an array to write into"),
    ("dequantize_affine", (*kept, 2, v3, v3, fixed_x), {"activation": "identity"}, ValueError, "out is read-only"),
    ("affine_activation", (x, v3, v3, fixed_x), {}, ValueError, "out is read-only"),
    ("subtract_norm_terms", (fixed_x, x, v3, v3, v3), {}, ValueError, "target is read-only"),
    ("subtract_norm_terms", (x, x, v3, v3, v2), {}, ValueError, "slope has 2 elements, but 3 are needed"),
)  # fmt: skip


@pytest.mark.quick
@pytest.mark.parametrize("bad", BAD, ids=lambda bad: f"{bad[0]}: {bad[4][:30]}")
@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.__name__)
def test_bad_arguments_are_refused_before_any_work(bad: Bad, backend: ModuleType) -> None:
    name, positional, named, kind, message = bad
    with pytest.raises(kind, match=message) as caught:
        getattr(backend, name)(*positional, **named)
    assert str(caught.value).startswith(f"{name}: ")


def test_every_function_is_refused_something() -> None:
    assert {bad[0] for bad in BAD} == set(reference.__all__) - {"noise", "zero_compress"}


@pytest.mark.quick
@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_backends_have_the_same_functions_and_parameters(name: str) -> None:
    backend = importlib.import_module(kernels.BACKENDS[name])
    for function in reference.__all__:
        wanted = inspect.signature(getattr(reference, function)).parameters.values()
        found = inspect.signature(getattr(backend, function)).parameters.values()
        assert [(p.name, p.kind, p.default) for p in found] == [(p.name, p.kind, p.default) for p in wanted], function
    assert set(reference.__all__) <= set(backend.__all__)
    assert set(reference.__all__) <= set(kernels.__all__)


@pytest.mark.quick
def test_importing_kernels_loads_no_backend() -> None:
    code = "import sys, kernels, kernels.codecs; print([m for m in ('numba', 'cupy', 'torch') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_numpy_arrays_go_to_the_cpu(same: Any) -> None:
    values = np.linspace(-1, 1, 100, dtype=F32)
    one, other = kernels.quantize(values, 2, seed=3), cpu.quantize(values, bits=2, seed=3)
    same(one.codes, other.codes)
    same(kernels.quantize(values=values, bits=2, seed=3).codes, other.codes)
    with pytest.raises(TypeError, match=r"missing .* required .* 'values'"):
        kernels.quantize(bits=2, seed=3)


class OnGpu:
    __cuda_array_interface__ = None


class OfDlpack:
    def __init__(self, device: int) -> None:
        self.device = device

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device, 0


def test_arrays_of_every_kind_find_their_backend() -> None:
    assert kernels.backend_of(x) == "cpu"
    assert kernels.backend_of(OnGpu()) == "cuda"
    assert kernels.backend_of(OfDlpack(2)) == "cuda"
    with pytest.raises(TypeError, match=r"a OfDlpack in CPU memory came: pass it as a NumPy array"):
        kernels.backend_of(OfDlpack(1))
    with pytest.raises(TypeError, match="a NumPy array or an array in GPU memory is needed, not list"):
        kernels.quantize([1.0], 2, seed=0)


def test_gpu_arrays_do_not_fall_back_to_the_cpu() -> None:
    if kernels.available()["cuda"] is None:
        pytest.skip("there is a GPU here")
    with pytest.raises((ImportError, RuntimeError, TypeError, ValueError)):
        kernels.quantize(OnGpu(), 2, seed=0)


@pytest.mark.parametrize(("missing", "reason"), [("numba", "need numba .*pip install numba"), ("cupy", "cuda12")])
def test_what_is_missing_is_named(missing: str, reason: str) -> None:
    name = "cpu" if missing == "numba" else "cuda"
    code = f"import sys; sys.modules[{missing!r}] = None; import kernels; print(kernels.available()[{name!r}])"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert __import__("re").search(reason, found.stdout), found.stdout


def test_unknown_backends_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown backend 'gpu': there is reference, cpu, cuda"):
        kernels.load("gpu")
    assert kernels.available()["reference"] is None
    assert kernels.available()["cpu"] is None


def test_masks_have_the_size_of_their_kind() -> None:
    assert [checks.mask_bytes(name, 9) for name in checks.ACTIVATIONS] == [0, 2, 3, 2]


@pytest.mark.parametrize("path", sorted((ROOT / "kernels").glob("*.py")), ids=lambda path: path.stem)
def test_examples_run(path: Path) -> None:
    if path.stem.startswith("_cuda") or path.stem == "cuda":
        pytest.skip("needs a GPU")
    name = "kernels" if path.stem == "__init__" else f"kernels.{path.stem}"
    assert doctest.testmod(importlib.import_module(name)).failed == 0
