"""The host side of kernels.cuda without a GPU: launch plans, errors, names, laziness, what is shipped."""

from __future__ import annotations

import builtins
import inspect
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import kernels.cuda
from kernels import _cuda_compiler, _cuda_device, _cuda_plan, _cuda_source, reference


@pytest.mark.quick
@pytest.mark.parametrize("samples", [1, 3, 1000])
@pytest.mark.parametrize("groups", [0, 1, 7, 8, 9, 1000, 2**20 + 1])
@pytest.mark.parametrize("group", [32, 256, 2**30])
def test_group_plan_covers_every_group_once(samples: int, groups: int, group: int) -> None:
    plan = _cuda_plan.groups("here", samples, groups, group)
    assert plan.total == samples * plan.blocks <= _cuda_plan.MAX_BLOCKS
    assert plan.blocks * plan.groups_per_block >= groups > (plan.blocks - 1) * plan.groups_per_block
    assert plan.groups_per_block * group < 2**32


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("count", [1, 2, 12, 31, 32, 33, 1000, 100000])
@pytest.mark.parametrize("outer", [1, 7, 65536, 2**31])
def test_channel_plan_covers_every_position_once(outer: int, count: int, last: bool) -> None:
    inner = 1 if last else 49
    plan = _cuda_plan.channels("here", outer, count, inner, last)
    assert plan.tiles * plan.tile >= count > (plan.tiles - 1) * plan.tile
    assert plan.chunks * plan.chunk >= outer * inner > (plan.chunks - 1) * plan.chunk
    assert plan.tile == 1 or last
    assert plan.tile & (plan.tile - 1) == 0
    # A thread's 8 positions begin at a multiple of 8 of them; all threads of a block have work in a full chunk.
    assert plan.chunk % (8 * _cuda_plan.THREADS // plan.tile) == 0
    assert plan.total == plan.tiles * plan.chunks
    assert plan.total <= max(2 * _cuda_plan.ENOUGH_BLOCKS, plan.tiles)


def test_other_plans() -> None:
    assert [_cuda_plan.octets("here", n) for n in (0, 1, 2048, 2049, 2**33)] == [0, 1, 1, 2, 2**22]
    assert [_cuda_plan.threads("here", n) for n in (0, 1, 256, 257, 2**33)] == [0, 1, 1, 2, 2**25]
    assert [_cuda_plan.warps("here", n) for n in (0, 1, 8, 9)] == [0, 1, 1, 2]
    with pytest.raises(ValueError, match="split the array"):
        _cuda_plan.threads("here", 2**40)
    with pytest.raises(ValueError, match="split the array"):
        _cuda_plan.groups("here", 2**32, 1, 256)


def test_same_functions_and_parameters_as_the_reference() -> None:
    for name in reference.__all__:
        theirs, ours = (inspect.signature(getattr(module, name)) for module in (reference, kernels.cuda))
        assert [(p.name, p.kind, p.default) for p in ours.parameters.values()] == [
            (p.name, p.kind, p.default) for p in theirs.parameters.values()
        ], name
    assert set(kernels.cuda.__all__) - set(reference.__all__) == {"on_stream", "why_unavailable"}


def test_importing_it_imports_no_cupy() -> None:
    code = "import sys, kernels.cuda; sys.exit('cupy' in sys.modules or 'numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", ["quantize", "pack_positive", "channel_statistics"])
def test_arrays_in_host_memory_are_refused(name: str) -> None:
    arguments: dict[str, Any] = {"quantize": {"bits": 2, "seed": 0}}.get(name, {})
    with pytest.raises(TypeError, match=rf"{name}: values must be an array on a GPU .*kernels\.cpu"):
        getattr(kernels.cuda, name)(np.zeros((4, 4), np.float32), **arguments)


class OnAGpu:
    """Looks like an array on a GPU."""

    def __init__(self, device: int = 0) -> None:
        self.__cuda_array_interface__: dict[str, Any] = {}
        self.device = SimpleNamespace(id=device)


def test_without_cupy_the_error_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *rest: Any) -> ModuleType:
        if name == "cupy":
            raise ImportError("No module named 'cupy'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=r"quantize needs CuPy.*pip install 'memory-efficient-zoo\[cuda12\]'"):
        kernels.cuda.quantize(OnAGpu(), 2, seed=0)
    assert "pip install" in str(kernels.cuda.why_unavailable())


def fake_cupy(monkeypatch: pytest.MonkeyPatch, count: int | Exception) -> None:
    """A CuPy that finds so many GPUs, or fails to look."""

    class CUDARuntimeError(RuntimeError):
        pass

    def device_count() -> int:
        if isinstance(count, Exception):
            raise CUDARuntimeError(str(count))
        return count

    runtime = SimpleNamespace(getDeviceCount=device_count, CUDARuntimeError=CUDARuntimeError)
    module, part = ModuleType("cupy"), ModuleType("cupy.cuda")
    part.__dict__.update(runtime=runtime, nvrtc=SimpleNamespace(getVersion=lambda: (12, 9)))
    module.__dict__.update(cuda=part, ndarray=OnAGpu)
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.setitem(sys.modules, "cupy.cuda", part)


def test_without_a_driver_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_cupy(monkeypatch, RuntimeError("cudaErrorInsufficientDriver"))
    with pytest.raises(RuntimeError, match=r"no usable GPU \(cudaErrorInsufficientDriver\).*driver"):
        kernels.cuda.quantize(OnAGpu(), 2, seed=0)
    fake_cupy(monkeypatch, 0)
    with pytest.raises(RuntimeError, match="CUDA_VISIBLE_DEVICES"):
        kernels.cuda.noise(0, 0, 8)
    fake_cupy(monkeypatch, 1)
    assert kernels.cuda.why_unavailable() is None


def test_without_nvrtc_the_error_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise RuntimeError("CuPy failed to load libnvrtc.so.12")

    fake_cupy(monkeypatch, 1)
    monkeypatch.setattr(sys.modules["cupy.cuda"].nvrtc, "getVersion", missing)
    monkeypatch.setattr(_cuda_compiler, "NVRTC_PACKAGES", ())
    assert "pip install nvidia-cuda-nvrtc-cu12" in str(kernels.cuda.why_unavailable())


def test_bfloat16_tensors_are_taken_as_their_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_cupy(monkeypatch, 1)
    taken: list[Any] = []
    sys.modules["cupy"].__dict__.update(ndarray=type(None), asarray=lambda array: taken.append(array) or OnAGpu())
    for typestr, seen in (("<V2", "<u2"), ("<f4", "<f4")):
        tensor = OnAGpu()
        tensor.__cuda_array_interface__ = {"typestr": typestr, "data": (1, False)}
        _cuda_device.opened("here", values=tensor)
        assert taken[-1].__cuda_array_interface__ == {"typestr": seen, "data": (1, False)}


def test_arrays_on_two_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_cupy(monkeypatch, 2)
    with pytest.raises(ValueError, match=r"different GPUs \(values on 0, codes on 1\)"):
        kernels.cuda.pack_positive(OnAGpu(0), codes=OnAGpu(1))


def test_wrong_arguments_are_refused_before_any_launch(cuda_of: Any, device: Any) -> None:
    cuda, x = cuda_of(device), np.zeros((4, 6), np.float32)
    vector = np.ones(6, np.float32)
    for error, words, call in (
        (ValueError, "C-contiguous", lambda: cuda.quantize(x[:, ::2], 2, seed=0)),
        (TypeError, "int32", lambda: cuda.quantize(x.astype(np.int32), 2, seed=0)),
        (ValueError, "1, 2, 4 or 8", lambda: cuda.quantize(x, 3, seed=0)),
        (ValueError, "multiple of 32", lambda: cuda.quantize(x, 2, seed=0, group=100)),
        (ValueError, "codes has 5", lambda: cuda.quantize(x, 2, seed=0, codes=np.zeros(5, np.uint8))),
        (ValueError, "first dimension may have gaps", lambda: cuda.channel_statistics(x[:, ::2])),
        (ValueError, "activation", lambda: cuda.affine_activation(x, vector, vector, x, activation="gelu")),
        (TypeError, "2, 4 or 8 bytes", lambda: cuda.zero_expand(np.uint8([1]), np.zeros(1, np.int8), 8)),
    ):
        with pytest.raises(error, match=words):
            call()
    assert device.launched == []


def test_instances_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ValueError, match="quantize has no instance"):
        _cuda_source.expression("quantize", "float32", 3)
    with pytest.raises(ValueError, match="noise has no instance"):
        _cuda_source.expression("noise", "float32")


def test_every_kernel_of_the_sources_is_in_the_table_and_the_other_way_round() -> None:
    folder = Path(kernels.cuda.__file__).parent
    for file in folder.glob("*.cu"):
        text = file.read_text(encoding="utf-8")
        names = {name for name, (home, _) in _cuda_source.KERNELS.items() if home == file.name}
        assert text.count("__global__") == len(names)
        assert all(f" {name}(" in text for name in names)
    assert sorted(_cuda_source.files()) == sorted(path.name for path in folder.glob("*.cu"))


def test_the_sources_are_shipped() -> None:
    folder = Path(kernels.cuda.__file__).parent
    project = tomllib.loads((folder.parent / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"].get("package-data", {}).get("kernels", [])
    assert all(any(path.match(pattern) for pattern in patterns) for path in folder.glob("*.cu*")), (
        'pyproject.toml needs [tool.setuptools.package-data] kernels = ["*.cu", "*.cuh"]'
    )


def test_sources_hold_no_include_and_no_contraction() -> None:
    for file in _cuda_source.files():
        text = _cuda_source.source(file)
        assert "#include" not in text
        assert text.count("struct float16 {") == 1
        assert "atomicAdd" not in text
    assert {"--fmad=false", "--ftz=false"} <= set(_cuda_source.OPTIONS)
    assert _cuda_device.INSTALL.startswith("pip install")
