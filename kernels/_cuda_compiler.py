"""Compiles one instance of a kernel by NVRTC, and keeps the binary on disk.

CuPy's own RawModule is not used: it appends -ftz=true to every kernel's options, which would change the results for
subnormal numbers, and it compiles templates again in every process.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import tempfile
from pathlib import Path
from typing import Any

from kernels import _cuda_source

NVRTC_PACKAGES = ("nvidia.cuda_nvrtc", "nvidia.cu13")
INSTALL_NVRTC = "pip install nvidia-cuda-nvrtc-cu12 (CUDA 13: nvidia-cuda-nvrtc)"


def load_nvrtc() -> Any:
    """CuPy's binding of NVRTC, with the library of NVIDIA's pip package where CUDA itself is not installed.

    Raises:
        RuntimeError: there is no such library.
    """
    from cupy.cuda import nvrtc

    try:
        nvrtc.getVersion()
    except (ImportError, OSError, RuntimeError):
        for library in _packaged_libraries():
            ctypes.CDLL(str(library))
        try:
            nvrtc.getVersion()
        except (ImportError, OSError, RuntimeError) as error:
            raise RuntimeError(f"kernels.cuda: NVRTC cannot be loaded ({error}): {INSTALL_NVRTC}") from error
    return nvrtc


def _packaged_libraries() -> list[Path]:
    found = []
    for package in NVRTC_PACKAGES:
        parent = importlib.util.find_spec(package.partition(".")[0])
        spec = importlib.util.find_spec(package) if parent else None
        for folder in (spec.submodule_search_locations or []) if spec else []:
            found += sorted(Path(folder, "lib").glob("libnvrtc.so.*"))
    return found


def target(nvrtc: Any, capability: int) -> tuple[str, bool]:
    """The architecture to compile for on a GPU of compute capability `capability` (90 for 9.0), and whether to PTX.

    A GPU newer than the compiler gets PTX, which its driver compiles.

    Raises:
        RuntimeError: the compiler no longer supports the GPU.
    """
    supported = sorted(nvrtc.getSupportedArchs())
    if capability in supported:
        return f"sm_{capability}", False
    older = [architecture for architecture in supported if architecture < capability]
    if not older:
        version = ".".join(str(part) for part in nvrtc.getVersion())
        raise RuntimeError(
            f"kernels.cuda: NVRTC {version} no longer compiles for compute capability {capability / 10}, only from "
            f"{supported[0] / 10} on: use an older CUDA, pip install 'memory-efficient-zoo[cuda12]'"
        )
    return f"compute_{older[-1]}", True


def compiled(nvrtc: Any, name: str, capability: int, folder: Path | None = None) -> tuple[str, bytes]:
    """The mangled name of an instance of a kernel and its binary (cubin or PTX), from disk where it is there.

    Args:
        name: C++ name such as "quantize<float, 2>".
        folder: where binaries are kept; None = beside CuPy's, in CUPY_CACHE_DIR or ~/.cupy/kernel_cache. One that
            cannot be written is not written.
    """
    file = _cuda_source.KERNELS[name.partition("<")[0]][0]
    architecture, to_ptx = target(nvrtc, capability)
    options = (f"--gpu-architecture={architecture}", *_cuda_source.OPTIONS)
    key = repr((nvrtc.getVersion(), name, options, _cuda_source.source(file)))
    kept = (folder or _cache_folder()) / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.bin"
    try:
        mangled, _, binary = kept.read_bytes().partition(b"\n")
    except OSError:
        mangled, binary = _compile(nvrtc, file, name, options, to_ptx)
        _keep(kept, mangled + b"\n" + binary)
    return mangled.decode(), binary


def _cache_folder() -> Path:
    base = os.environ.get("CUPY_CACHE_DIR") or "~/.cupy/kernel_cache"
    return Path(base).expanduser() / "memory_efficient_zoo"


def _compile(nvrtc: Any, file: str, name: str, options: tuple[str, ...], to_ptx: bool) -> tuple[bytes, bytes]:
    program = nvrtc.createProgram(_cuda_source.source(file), file, [], [])
    try:
        nvrtc.addNameExpression(program, name)
        try:
            nvrtc.compileProgram(program, list(options))
        except nvrtc.NVRTCError as error:
            raise RuntimeError(f"kernels.cuda: {name}: {nvrtc.getProgramLog(program)}") from error
        binary = nvrtc.getPTX(program) if to_ptx else nvrtc.getCUBIN(program)
        return _bytes(nvrtc.getLoweredName(program, name)), _bytes(binary)
    finally:
        nvrtc.destroyProgram(program)


def _bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


def _keep(path: Path, content: bytes) -> None:
    """Write atomically; a folder that cannot be written costs the time to compile again, nothing else."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent)
    except OSError:
        return
    with os.fdopen(handle, "wb") as file:
        file.write(content)
    os.replace(temporary, path)
