"""Whether a backend works here, found by running it against the definition: what `python -m zoo doctor` reports."""

from __future__ import annotations

import importlib.metadata
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

import kernels
from kernels import _cuda_compiler, _cuda_device, reference

COUNT = 5000
# Any GPU that the compiler knows will do to see whether it compiles.
SOME_CAPABILITY = 80
TBB = "pip install tbb"


@dataclass(frozen=True)
class State:
    """How a backend does here.

    Args:
        version: of the package that it needs; None = not installed.
        works: True = it agreed with the definition; False = it is broken; None = what it needs is not here.
        detail: what was found, or what is missing and the command that installs it.
    """

    version: str | None
    works: bool | None
    detail: str


def state_of(backend: str) -> State:
    """The state of one of `kernels.BACKENDS`; compiles and runs a few kernels, which may take a minute.

    Example:
        >>> state_of("reference").works
        True
    """
    try:
        module = kernels.load(backend)
    except ImportError as error:
        return State(None, None, str(error))
    return {"reference": _reference, "cpu": _cpu, "cuda": _cuda}[backend](module)


def _reference(module: ModuleType) -> State:
    return State(f"numpy {np.__version__}", True, "the definition, in NumPy alone")


def _cpu(module: ModuleType) -> State:
    version = f"numba {importlib.metadata.version('numba')}"
    wrong = disagreement(module, np.asarray)
    if wrong:
        return State(version, False, wrong)
    engine = module.threads()
    used = f"agrees with the definition; up to {engine.count(2**40)} threads, layer {engine.layer}"
    if engine.layer == "tbb":
        return State(version, True, used)
    limits = {"omp": "a forked worker gets one thread", "workqueue": "one call at a time"}.get(engine.layer, "")
    return State(version, True, f"{used} ({limits}; not tbb, because {engine.why_not_tbb or 'of a choice'}: {TBB})")


def _cuda(module: ModuleType) -> State:
    try:
        import cupy
    except ImportError as error:
        return State(None, None, f"CuPy cannot be imported ({error}): {_cuda_device.INSTALL}")
    version = f"cupy {cupy.__version__}"
    try:
        _cuda_device.import_cupy("kernels.cuda")
        missing = ""
    except RuntimeError as error:
        missing = str(error)
    try:
        compiler = _compiler(cupy, not missing)
    except RuntimeError as error:
        return State(version, None if missing else False, "; ".join(part for part in (missing, str(error)) if part))
    if missing:
        return State(version, None, f"{missing}; {compiler}")
    properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
    gpu = f"{properties['name'].decode()} (compute capability {properties['major']}.{properties['minor']})"
    wrong = disagreement(module, cupy.asarray)
    return State(version, not wrong, f"{gpu}; {compiler}; {wrong or 'agrees with the definition'}")


def _compiler(cupy: Any, gpu: bool) -> str:
    """Compile a kernel, not from disk.

    Raises:
        RuntimeError: NVRTC is missing, or refuses.
    """
    nvrtc = _cuda_compiler.load_nvrtc()
    capability = int(cupy.cuda.Device().compute_capability) if gpu else SOME_CAPABILITY
    with tempfile.TemporaryDirectory() as folder:
        _cuda_compiler.compiled(nvrtc, "pack_bits", capability, Path(folder))
    return f"NVRTC {'.'.join(str(part) for part in nvrtc.getVersion())} compiles"


def disagreement(module: ModuleType, array: Any) -> str:
    """Where a backend differs from the definition, and nothing where it does not.

    Args:
        array: makes one of its arrays from NumPy's.
    """
    x = np.random.default_rng(0).normal(size=(COUNT // 20, 20)).astype(np.float32)
    vectors = [np.random.default_rng(seed).uniform(0.5, 1, 20).astype(np.float32) for seed in range(4)]
    found = []
    for backend, made in ((reference, np.asarray), (module, array)):
        values, norm, out = made(x), [made(vector) for vector in vectors], made(np.empty_like(x))
        coded = backend.normalize_quantize_mask(values, *norm, 2, seed=1, out=out)
        flat = backend.dequantize(coded.codes, coded.minima, coded.steps, 2, x.size)
        found.append([coded.codes, coded.minima, coded.steps, coded.mask, out, flat])
    names = ("codes", "minima", "steps", "mask", "activation", "decoded values")
    for name, expected, made in zip(names, *found, strict=True):
        if not np.array_equal(expected, made.get() if hasattr(made, "get") else made):
            return f"{name} differ from the definition: empty the caches of compiled kernels, or report it"
    return ""
