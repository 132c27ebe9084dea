"""kernels.cuda on a CPU: its kernels compiled by g++ behind cuda_on_cpu.hpp, its host code on NumPy arrays."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import shutil
import subprocess
import zlib
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import kernels.cuda
from kernels import _cuda_device, _cuda_source
from kernels._cuda_plan import THREADS
from kernels.formats import narrow
from kernels.quantized import Quantized

SHIM = Path(__file__).with_name("cuda_on_cpu.hpp")
COMPILE = ("-std=c++17", "-O1", "-fPIC", "-ffp-contract=off", "-fno-strict-aliasing", "-fno-gnu-unique")
CHECKS = ("-fsanitize=alignment,signed-integer-overflow,shift,bounds",)
GUARD = 64
GUARD_BYTE = 0x5C


class Library:
    """Kernels compiled for the CPU."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        self._library.parameters.restype = ctypes.c_char_p
        self._library.run.restype = ctypes.c_char_p

    def launch(self, name: str, blocks: int, arguments: Sequence[Any], order: int, window: tuple[int, int]) -> None:
        """Run the blocks `window` = (first, count) of a grid of `blocks`, threads in order (0) or in a drawn order.

        Raises:
            RuntimeError: what a GPU would not survive, or would do otherwise every time.
        """
        declared = self._library.parameters(name.encode()).decode()
        passed = "".join(f"{argument.dtype.kind}{argument.dtype.itemsize}" for argument in arguments)
        assert declared.replace("p", "u") == passed, f"{name} takes {declared}, but {passed} is passed"
        cells = (ctypes.c_void_p * len(arguments))()
        held = [np.array(argument) for argument in arguments]
        for i, argument in enumerate(held):
            cells[i] = argument.ctypes.data
        first, count = window
        failure = self._library.run(
            name.encode(), cells, ctypes.c_uint(blocks), ctypes.c_uint(first), ctypes.c_uint(count),
            ctypes.c_uint(THREADS), ctypes.c_uint64(order),
        )  # fmt: skip
        if failure:
            raise RuntimeError(f"{name}: {failure.decode()}")


def build(folder: Path, text: str, names: Sequence[str]) -> Library:
    """Compile the text of a .cu file, and in it the kernels with these names; the same text only once."""
    table = ",\n".join(f'cuda_on_cpu::Entry<&{name}>::as("{name}")' for name in names)
    program = "\n".join([SHIM.read_text(encoding="utf-8").replace("#pragma once", ""), "#line 1", text, TABLE % table])
    stem = folder / hashlib.sha256(" ".join((*COMPILE, *CHECKS, program)).encode()).hexdigest()[:16]
    made = stem.with_suffix(".so")
    with stem.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            stem.with_suffix(".cpp").write_text(program, encoding="utf-8")
            source, thing = str(stem.with_suffix(".cpp")), str(stem.with_suffix(".o"))
            for command in (["-c", *COMPILE, *CHECKS, source, "-o", thing], ["-shared", thing, "-o", str(made)]):
                done = subprocess.run(["g++", *command], capture_output=True, text=True)
                assert done.returncode == 0, done.stderr[:4000]
    return Library(made)


TABLE = """
static const cuda_on_cpu::Kernel kTable[] = {%s};
static const cuda_on_cpu::Kernel* find(const char* name) {
    for (const auto& kernel : kTable) if (!strcmp(kernel.name, name)) return &kernel;
    return nullptr;
}
extern "C" const char* parameters(const char* name) { return find(name) ? find(name)->parameters : "no such kernel"; }
extern "C" const char* run(const char* name, void** arguments, unsigned grid, unsigned first, unsigned count,
                           unsigned threads, uint64_t order) {
    return cuda_on_cpu::launch(find(name)->call, arguments, grid, first, count, {threads, 1, 1}, order);
}
"""


class CpuDevice(_cuda_device.Device):
    """The device of kernels.cuda with NumPy arrays; what it hands out is poisoned and stands between guards."""

    def __init__(self, library: Callable[[str], Library]) -> None:
        super().__init__(None, 0)
        self.library = library
        self.order = 0
        self.only_last_block = False
        self.launched: list[str] = []
        self._guarded: list[np.ndarray] = []

    def empty(self, shape: int | tuple[int, ...], dtype: str) -> np.ndarray:
        kind = np.dtype(dtype)
        size = int(np.prod(shape)) * kind.itemsize
        raw = np.full(size + 2 * GUARD, GUARD_BYTE, np.uint8)
        self._guarded.append(raw)
        inside = raw[GUARD : GUARD + size]
        inside.fill(0xFF if kind.kind == "f" else 0xAA)  # a NaN, or a number like no other
        return inside.view(kind).reshape(shape)

    def upload(self, numbers: Any, dtype: str) -> np.ndarray:
        return np.asarray(numbers, dtype)

    def download(self, array: np.ndarray) -> list[int]:
        return array.tolist()

    def pointer(self, array: np.ndarray | None) -> int:
        return 0 if array is None else array.ctypes.data

    def launch(self, kernel: str, blocks: int, arguments: tuple[Any, ...]) -> None:
        self.launched.append(kernel)
        window = (blocks - 1, 1) if self.only_last_block else (0, blocks)
        self.library(kernel).launch(kernel, blocks, arguments, self.order, window)
        for raw in self._guarded:
            assert (raw[:GUARD] == GUARD_BYTE).all(), f"{kernel} writes before an array"
            assert (raw[-GUARD:] == GUARD_BYTE).all(), f"{kernel} writes behind an array"


@pytest.fixture(scope="session")
def build_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where compiled kernels lie, shared by all test processes."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is needed to run CUDA sources on a CPU: install it (on Debian: apt install g++)")
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cuda_on_cpu"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def compiled(build_folder: Path) -> Callable[[str], Library]:
    """The library that holds a kernel; each file is compiled once, with all its instances."""
    made: dict[str, Library] = {}

    def library(kernel: str) -> Library:
        file = _cuda_source.KERNELS[kernel.partition("<")[0]][0]
        if file not in made:
            made[file] = build(build_folder, _cuda_source.source(file), _cuda_source.instances(file))
        return made[file]

    return library


@pytest.fixture
def device(compiled: Callable[[str], Library]) -> CpuDevice:
    """A CPU that takes itself for a GPU."""
    return CpuDevice(compiled)


@pytest.fixture
def cuda_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[CpuDevice], ModuleType]:
    """cuda_of(device): kernels.cuda on it."""

    def use(device: CpuDevice) -> ModuleType:
        monkeypatch.setattr(_cuda_device, "opened", lambda where, **arrays: (device, arrays))
        monkeypatch.setattr(_cuda_device, "current", lambda: device)
        return kernels.cuda

    return use


class OnGpu:
    """kernels.cuda as a function of NumPy arrays: their memory, gaps included, is copied to the GPU and back."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            moved = Moved()
            result = getattr(kernels.cuda, name)(
                *(moved.to_gpu(a) for a in arguments), **{key: moved.to_gpu(a) for key, a in named.items()}
            )
            moved.back()
            return moved.to_host(result)

        return call


class Moved:
    """Arrays on the GPU that share memory as the NumPy arrays they were made from do."""

    def __init__(self) -> None:
        self.cupy = _cuda_device.import_cupy("tests")
        self.roots: dict[int, tuple[np.ndarray, Any]] = {}
        self.arrays: list[tuple[np.ndarray, Any]] = []

    def to_gpu(self, array: Any) -> Any:
        if not isinstance(array, np.ndarray):
            return array
        root = array
        while isinstance(root.base, np.ndarray):
            root = root.base
        if id(root) not in self.roots:
            self.roots[id(root)] = (root, self.cupy.asarray(np.ascontiguousarray(root).reshape(-1).view(np.uint8)))
        memory = self.roots[id(root)][1].data + (array.ctypes.data - root.ctypes.data)
        made = self.cupy.ndarray(array.shape, array.dtype, memptr=memory, strides=array.strides)
        self.arrays.append((array, made))
        return made

    def back(self) -> None:
        for root, copy in self.roots.values():
            root.reshape(-1).view(np.uint8)[...] = self.cupy.asnumpy(copy)

    def to_host(self, result: Any) -> Any:
        for array, moved in self.arrays:
            if moved is result:
                return array
        if isinstance(result, Quantized):
            return Quantized(*(self.to_host(getattr(result, field.name)) for field in fields(Quantized)))
        if isinstance(result, tuple):
            return tuple(self.to_host(part) for part in result)
        return self.cupy.asnumpy(result) if isinstance(result, self.cupy.ndarray) else result


def gpu_found() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return kernels.cuda.why_unavailable() is None


# Threads in order, and in a drawn order; and the same tests on a GPU where there is one.
@pytest.fixture(params=["in order", "shuffled", *(["GPU"] if gpu_found() else [])])
def cuda(request: pytest.FixtureRequest, cuda_of: Callable[[CpuDevice], ModuleType]) -> Any:
    """kernels.cuda for NumPy arrays."""
    if request.param == "GPU":
        return OnGpu()
    device = request.getfixturevalue("device")
    device.order = 0 if request.param == "in order" else zlib.crc32(request.node.name.encode())
    return cuda_of(device)


@pytest.fixture
def mutant(build_folder: Path, compiled: Callable[[str], Library]) -> Callable[..., CpuDevice]:
    """mutant({kernel: {old: new}}): a device on which the sources of these kernels are changed."""

    def make(changes: dict[str, dict[str, str]]) -> CpuDevice:
        made = {}
        for kernel, replaced in changes.items():
            text = _cuda_source.source(_cuda_source.KERNELS[kernel.partition("<")[0]][0])
            for old, new in replaced.items():
                assert old in text, f"the source of {kernel} has no {old!r}"
                text = text.replace(old, new)
            made[kernel] = build(build_folder, text, [kernel])
        return CpuDevice(lambda kernel: made.get(kernel) or compiled(kernel))

    return make


class Numbers:
    """Test data in any format, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def floats(self, name: str, *shape: int, spread: float = 3.0) -> np.ndarray:
        """Normal numbers, bfloat16 as bits."""
        return narrow(self.rng.normal(size=shape).astype(np.float32) * np.float32(spread), name)

    def vector(self, name: str, count: int, low: float, high: float) -> np.ndarray:
        """What goes with a channel, in the type that `name` is computed in."""
        return self.rng.uniform(low, high, count).astype(np.float64 if name == "float64" else np.float32)


@pytest.fixture
def numbers(request: pytest.FixtureRequest) -> Numbers:
    """Another sequence for every test."""
    return Numbers(zlib.crc32(request.node.name.encode()))


@pytest.fixture
def same() -> Callable[[Any, Any], None]:
    """same(made, expected): equal bit for bit, any NaN being any NaN; but the energy of a Quantized to 1e-5."""

    def compare(made: Any, expected: Any) -> None:
        if isinstance(expected, Quantized):
            for field in ("codes", "minima", "steps", "offsets", "mask"):
                compare(getattr(made, field), getattr(expected, field))
            np.testing.assert_allclose(made.energy, expected.energy, rtol=1e-5)
            return
        assert (made is None) == (expected is None)
        if expected is not None:
            assert (made.dtype, made.shape) == (expected.dtype, expected.shape)
            np.testing.assert_array_equal(made, expected)

    return compare
