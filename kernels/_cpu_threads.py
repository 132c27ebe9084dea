"""How the numba kernels share their work among threads, and where their machine code is cached."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.metadata
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import FunctionCache

# Fewer values than this are done sooner by one thread than another can be woken.
VALUES_PER_THREAD = 16384
# The workqueue layer aborts the process if two Python threads use it at once.
_ONE_AT_A_TIME = threading.Lock()
TBB_LIBRARIES = ("libtbb.so.12", "libtbb.12.dylib", "tbb12.dll")


@dataclass(frozen=True)
class Threads:
    """The threads of this process.

    Args:
        layer: numba's threading layer: tbb is safe with Python threads and after a fork; omp dies in a forked process;
            workqueue is not safe with Python threads.
        limit: most threads to use; None = as many as numba has.
        process: the process that started them.
        why_not_tbb: empty if the layer is tbb.
    """

    layer: str
    limit: int | None
    process: int
    why_not_tbb: str = ""

    def count(self, values: int) -> int:
        """Threads for a call that works on so many values; 1 in a forked process whose threads were left behind."""
        wanted = min(1 + values // VALUES_PER_THREAD, numba.get_num_threads(), self.limit or sys.maxsize)
        if wanted == 1 or self.layer == "tbb":
            return wanted
        return 1 if os.getpid() != self.process or _is_forked_worker() else wanted


def _is_forked_worker() -> bool:
    """Whether multiprocessing forked this process: OpenMP of another library (torch's) may have run before."""
    if multiprocessing.parent_process() is None:
        return False
    kind = type(multiprocessing.current_process()).__name__
    return kind == "ForkProcess" or multiprocessing.get_start_method(allow_none=True) in (None, "fork")


@functools.cache
def threads() -> Threads:
    """Start numba's threads in the first layer of tbb, omp, workqueue that works; NUMBA_THREADING_LAYER overrides."""
    why_not = _load_tbb()
    numba.get_num_threads()
    layer = str(numba.threading_layer())
    return Threads(layer, _limit(), os.getpid(), "" if layer == "tbb" else why_not or "numba chose another layer")


def most_threads() -> int:
    """How many threads a call can be given at most: rows that scratch arrays need."""
    numba_config: Any = numba.config  # its names are made when it runs
    return max(1, int(numba_config.NUMBA_NUM_THREADS))


def run(
    parallel: Callable[..., None], part: Callable[..., None], values: int, arguments: tuple[Any, ...], scratch: Any
) -> None:
    """Run a kernel over `values` values: one `part`, or on n threads parts 0..n-1 of n, started by `parallel`.

    Without values nothing runs; what the kernel would have added to is zero already.
    """
    if values == 0:
        return
    engine = threads()
    count = engine.count(values)
    if count == 1:
        part(0, 1, arguments, scratch)
        return
    with _ONE_AT_A_TIME if engine.layer == "workqueue" else nullcontext():
        parallel(count, arguments, scratch)


def jit(function: Callable[..., Any]) -> Any:
    """Compile at first call, keep the machine code on disk, release the interpreter while running.

    No fastmath: codes must not depend on what a compiler makes of their formula. No reference counts (`_nrt`) either,
    so kernels make no arrays, they get their scratch: counting every slice takes longer than coding a group.
    """
    return _compiled(function, _nrt=False)


def jit_inline(function: Callable[..., Any]) -> Any:
    """`jit` for a function of many arrays that is called in one place: passing them takes longer than its work."""
    return _compiled(function, _nrt=False, forceinline=True)


def jit_parallel(function: Callable[..., Any]) -> Any:
    """`jit` for a function whose prange loop hands parts to threads."""
    return _compiled(function, parallel=True)


def jit_sum(function: Callable[..., Any]) -> Any:
    """`jit` for floating-point sums, which may be added up in any order and so in vectors."""
    return _compiled(function, _nrt=False, fastmath={"reassoc", "nsz"})


def _compiled(function: Callable[..., Any], **options: Any) -> Any:
    dispatcher: Any = numba.njit(nogil=True, error_model="numpy", **options)(function)
    with suppress(RuntimeError):  # no folder can be written to, neither beside the source nor the user's cache
        dispatcher._cache = _SourceCache(function)  # type: ignore[no-untyped-call]
    return dispatcher


class _SourceCache(FunctionCache):
    """numba's cache, but a change in any kernel file makes all entries stale, not only in the function's own file."""

    def _index_key(self, sig: Any, codegen: Any) -> tuple[Any, ...]:
        return (*super()._index_key(sig, codegen), source_digest())  # type: ignore[no-untyped-call]


@functools.cache
def source_digest() -> str:
    """A digest of the sources of all CPU kernels."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("_cpu_*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _load_tbb() -> str:
    """Load the library of the tbb wheel, which lies where no linker looks; why that failed, or nothing."""
    try:
        files = importlib.metadata.files("tbb") or []
    except importlib.metadata.PackageNotFoundError:
        return "the package tbb is not installed: pip install tbb"
    for file in files:
        if file.name in TBB_LIBRARIES:
            try:
                ctypes.CDLL(str(file.locate()), mode=ctypes.RTLD_GLOBAL)
            except OSError as error:
                return f"the tbb library does not load: {error}"
            return ""
    return "the package tbb holds no tbb library of version 12"


def _limit() -> int | None:
    """OMP_NUM_THREADS, unless NUMBA_NUM_THREADS (which numba reads itself) says otherwise."""
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if "NUMBA_NUM_THREADS" in os.environ or not first.isdigit() or int(first) == 0:
        return None
    return int(first)
