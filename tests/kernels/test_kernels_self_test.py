"""What `zoo doctor` says of each backend: what it found, or what is missing and the command that mends it."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import kernels
from kernels import _cuda_compiler, _cuda_device, cpu, reference, self_test
from kernels._cpu_threads import Threads

NO_NVRTC = "kernels.cuda: NVRTC cannot be loaded (x): pip install nvidia-cuda-nvrtc-cu12"


@pytest.mark.quick
def test_backends_that_work() -> None:
    found = self_test.state_of("reference")
    assert (found.works, found.version) == (True, f"numpy {np.__version__}")
    found = self_test.state_of("cpu")
    assert found.works
    assert str(found.version).startswith("numba 0.")
    assert f"layer {cpu.threads().layer}" in found.detail
    assert "agrees with the definition" in found.detail


@pytest.mark.parametrize(
    ("function", "field", "says"),
    [("normalize_quantize_mask", "codes", "codes differ"), ("normalize_quantize_mask", "mask", "mask differ"),
     ("dequantize", None, "decoded values differ")],
)  # fmt: skip
def test_one_wrong_bit_is_noticed(monkeypatch: pytest.MonkeyPatch, function: str, field: str | None, says: str) -> None:
    right = getattr(reference, function)

    def wrong(*arguments: Any, **named: Any) -> Any:
        made = right(*arguments, **named)
        array = made if field is None else getattr(made, field)
        array.view(np.uint8)[-1] ^= 1
        return made

    backend = SimpleNamespace(**{name: getattr(reference, name) for name in reference.__all__}, threads=cpu.threads)
    setattr(backend, function, wrong)
    monkeypatch.setattr(kernels, "load", lambda name: backend)
    found = self_test.state_of("cpu")
    assert found.works is False
    assert says in found.detail


def test_another_threading_layer_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = Threads("omp", None, os.getpid(), "the package tbb is not installed: pip install tbb")
    backend = SimpleNamespace(**{name: getattr(reference, name) for name in reference.__all__}, threads=lambda: threads)
    monkeypatch.setattr(kernels, "load", lambda name: backend)
    found = self_test.state_of("cpu")
    assert found.works
    assert "layer omp (a forked worker gets one thread; not tbb, because the package tbb is not" in found.detail


def test_without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, "kernels.cpu")
    for name in [name for name in sys.modules if name.startswith("kernels._cpu_")]:
        monkeypatch.delitem(sys.modules, name)
    found = self_test.state_of("cpu")
    assert (found.works, found.version) == (None, None)
    assert "pip install numba tbb" in found.detail


def test_without_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    found = self_test.state_of("cuda")
    assert (found.works, found.version) == (None, None)
    assert "pip install 'memory-efficient-zoo[cuda12]'" in found.detail


def fake_cupy(monkeypatch: pytest.MonkeyPatch, *, gpu: bool, nvrtc: bool) -> None:
    """A CuPy with or without a GPU and a compiler; its arrays are NumPy's."""
    properties = {"name": b"GPU of the test", "major": 9, "minor": 0}
    device = SimpleNamespace(compute_capability="90", id=0)
    runtime = SimpleNamespace(getDeviceProperties=lambda number: properties)
    cuda = SimpleNamespace(Device=lambda: device, runtime=runtime)
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(__version__="13.6.0", asarray=np.asarray, cuda=cuda))
    compiled = []

    def load_nvrtc() -> Any:
        if not nvrtc:
            raise RuntimeError(NO_NVRTC)
        return SimpleNamespace(getVersion=lambda: (12, 9))

    def import_cupy(where: str) -> Any:
        if not gpu:
            raise RuntimeError(f"{where} found no usable GPU (x): install NVIDIA's driver")
        return sys.modules["cupy"]

    monkeypatch.setattr(_cuda_compiler, "load_nvrtc", load_nvrtc)
    monkeypatch.setattr(_cuda_compiler, "compiled", lambda *arguments: compiled.append(arguments))
    monkeypatch.setattr(_cuda_device, "import_cupy", import_cupy)
    monkeypatch.setattr(kernels, "load", lambda name: cpu)


@pytest.mark.parametrize(
    ("gpu", "nvrtc", "works", "says"),
    [
        (True, True, True, ["GPU of the test (compute capability 9.0)", "NVRTC 12.9 compiles", "agrees"]),
        (True, False, False, ["pip install nvidia-cuda-nvrtc-cu12"]),
        (False, True, None, ["install NVIDIA's driver", "NVRTC 12.9 compiles"]),
        (False, False, None, ["install NVIDIA's driver", "pip install nvidia-cuda-nvrtc-cu12"]),
    ],
)
def test_gpu_driver_and_compiler(
    monkeypatch: pytest.MonkeyPatch, gpu: bool, nvrtc: bool, works: bool | None, says: list[str]
) -> None:
    fake_cupy(monkeypatch, gpu=gpu, nvrtc=nvrtc)
    found = self_test.state_of("cuda")
    assert (found.version, found.works) == ("cupy 13.6.0", works)
    for words in says:
        assert words in found.detail
