"""Throughput of every kernel beside a copy of the same tensor in the same run, on the CPU and, with CuPy, the GPU.

Run: python benchmarks/kernels.py [--backend cpu cuda] [--mib 256] [--repeats 9] [--only quantize] [--csv FILE]
Throughput is payload: bytes of the uncompressed tensor a second, whatever else a kernel reads or writes; the copy is
counted the same way. A copy is timed next to every run of a kernel: the ratio is the median over these pairs, the best
ratio that of the shortest times of both. Compare ratios, because machines are noisy; the best one suffers least from
what else a machine does. Percentiles are over the repeats. The table's rows go to --csv as well.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import csv
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

# Python looks first beside this file, which is called like the package that it measures: look in the project instead.
sys.path[0] = str(Path(__file__).resolve().parents[1])
import kernels  # noqa: E402
from benchmarks.rows import new_csv  # noqa: E402

CHANNELS = 256
GIGA = 1e9
Work = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """One line of the table; rates are payload GB/s."""

    backend: str
    kernel: str
    rate: float
    rate_p10: float
    rate_p90: float
    copy_rate: float
    ratio: float
    best_ratio: float


def cpu_copy(values: np.ndarray, out: np.ndarray) -> Work:
    """A copy by as many threads as the kernels use."""
    from kernels.cpu import threads

    count = threads().count(values.size)
    pool = concurrent.futures.ThreadPoolExecutor(count)
    pieces = list(zip(np.array_split(values, count), np.array_split(out, count), strict=True))
    return lambda: list(pool.map(lambda piece: np.copyto(piece[1], piece[0]), pieces))


def works(module: ModuleType, values: Any, out: Any, target: Any, xp: ModuleType) -> Iterator[tuple[str, Work]]:
    """Every kernel with its arguments ready; its outputs exist already where it takes them."""
    count, flat, rest = values.size, values.reshape(-1), out.reshape(-1)
    for bits in (1, 2, 4, 8):
        made = module.quantize(flat, bits, seed=1)
        into = {"codes": made.codes, "minima": made.minima, "steps": made.steps}
        yield f"quantize {bits} bits", lambda b=bits, i=into: module.quantize(flat, b, seed=1, **i)
        kept = (made.codes, made.minima, made.steps, bits, count)
        yield f"dequantize {bits} bits", lambda k=kept: module.dequantize(*k, out=rest)
    for bits in (4, 6):
        codes = module.quantize_fixed(flat, bits, 0.1, signed=True, seed=1)
        yield (
            f"quantize_fixed {bits} bits",
            lambda b=bits, c=codes: module.quantize_fixed(flat, b, 0.1, signed=True, seed=1, codes=c),
        )
        yield (
            f"dequantize_fixed {bits} bits",
            lambda b=bits, c=codes: module.dequantize_fixed(c, b, 0.1, count, signed=True, out=rest),
        )
    mask = module.pack_positive(flat)
    yield "pack_positive", lambda: module.pack_positive(flat, codes=mask)
    regions = module.pack_regions(flat, 0.0, 6.0)
    yield "pack_regions", lambda: module.pack_regions(flat, 0.0, 6.0, codes=regions)
    positive = xp.maximum(flat, 0)
    yield "zero_compress (half zeros)", lambda: module.zero_compress(positive)
    few = module.zero_compress(positive)[:2]
    yield "zero_expand (half zeros)", lambda: module.zero_expand(*few, count, out=rest)
    images = flat.reshape(-1, 64, 64, 64)
    window = ((3, 3), (2, 2), (1, 1), (1, 1))
    pooled, positions = module.max_pool_positions(images, *window)
    yield "max_pool_positions 3x3", lambda: module.max_pool_positions(images, *window)
    yield (
        "max_pool_gradient 3x3",
        lambda: module.max_pool_gradient(pooled, positions, images.shape, *window, out=out.reshape(images.shape)),
    )
    for name, shape in (("rows", (-1, CHANNELS)), ("planes", (-1, 64, 4096))):
        yield from norm_works(name, module, *(array.reshape(shape) for array in (values, out, target)), xp)


def norm_works(
    layout: str, module: ModuleType, values: Any, out: Any, target: Any, xp: ModuleType
) -> Iterator[tuple[str, Work]]:
    """The norm passes over one layout; `out` serves as the incoming gradient too."""
    ones, zeros = xp.ones(values.shape[1], xp.float32), xp.zeros(values.shape[1], xp.float32)
    norm = (zeros, ones, ones, zeros)
    yield f"channel_statistics ({layout})", lambda: module.channel_statistics(values)
    yield f"affine_activation ({layout})", lambda: module.affine_activation(values, ones, zeros, out)
    for bits in (2, 4):
        made = module.normalize_quantize_mask(values, *norm, bits, seed=1)
        into = {"codes": made.codes, "minima": made.minima, "steps": made.steps, "mask": made.mask}
        kept, mask = (made.codes, made.minima, made.steps, bits), made.mask
        yield (
            f"normalize_quantize_mask {bits} bits ({layout})",
            lambda b=bits, i=into: module.normalize_quantize_mask(values, *norm, b, seed=1, **i),
        )
        yield (
            f"dequantize_affine {bits} bits ({layout})",
            lambda k=kept, m=mask: module.dequantize_affine(*k, ones, zeros, out, mask=m),
        )
        yield (
            f"norm_backward_coded {bits} bits ({layout})",
            lambda k=kept, m=mask: module.norm_backward_coded(out, *k, ones, target=target, accumulate=True, mask=m),
        )
    yield f"rebuild_activation ({layout})", lambda: module.rebuild_activation(values, ones, zeros, mask, out)
    yield (
        f"norm_backward ({layout})",
        lambda: module.norm_backward(out, values, *norm, target=target, accumulate=True),
    )
    yield f"subtract_norm_terms ({layout})", lambda: module.subtract_norm_terms(target, values, zeros, zeros, zeros)


def measure(name: str, work: Work, copy: Work, wait: Work, payload: int, repeats: int, backend: str) -> Row:
    """Time a kernel and a copy in turns, after one run of each that is not timed."""

    def seconds(job: Work) -> float:
        wait()
        start = time.perf_counter()
        job()
        wait()
        return time.perf_counter() - start

    seconds(work)
    seconds(copy)
    pairs = [(seconds(work), seconds(copy)) for _ in range(repeats)]
    rates = sorted(payload / GIGA / mine for mine, _ in pairs)
    last = len(rates) - 1
    return Row(
        backend,
        name,
        statistics.median(rates),
        rates[round(0.1 * last)],
        rates[round(0.9 * last)],
        statistics.median(payload / GIGA / theirs for _, theirs in pairs),
        statistics.median(theirs / mine for mine, theirs in pairs),
        min(theirs for _, theirs in pairs) / min(mine for mine, _ in pairs),
    )


def run(backend: str, mib: int, repeats: int, only: str) -> Iterator[Row]:
    """The rows of one backend, as they are measured."""
    module = kernels.load(backend)
    count = mib * 2**20 // 4
    values = np.random.default_rng(0).standard_normal(count, dtype=np.float32)
    if backend == "cuda":
        import cupy as xp

        values = xp.asarray(values)
        out = xp.empty_like(values)
        wait: Work = xp.cuda.Device().synchronize
        copy: Work = lambda: xp.copyto(out, values)  # noqa: E731
    else:
        xp = np
        out = np.empty_like(values)
        wait, copy = (lambda: None), cpu_copy(values, out)
    target = xp.zeros_like(values)
    for name, work in works(module, values, out, target, xp):
        if only in name:
            yield measure(name, work, copy, wait, values.nbytes, repeats, backend)


def machine(backend: str) -> str:
    """What the figures were measured on."""
    if backend == "cuda":
        import cupy

        properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
        return f"{properties['name'].decode()}, CuPy {cupy.__version__}, Python {platform.python_version()}"
    import numba

    from kernels.cpu import threads

    engine = threads()
    name = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    used = f"{engine.count(2**40)} threads ({engine.layer})"
    return f"{name}, {used}, numba {numba.__version__}, NumPy {np.__version__}, Python {platform.python_version()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", nargs="+", choices=["cpu", "cuda"], help="default: those that work here")
    parser.add_argument("--mib", type=int, default=256, help="size of the float32 tensor")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--only", default="", help="kernels whose name contains this")
    parser.add_argument("--csv", type=new_csv)
    options = parser.parse_args()
    reasons = kernels.available()
    rows = []
    for backend in options.backend or [name for name in ("cpu", "cuda") if reasons[name] is None]:
        if reasons[backend] is not None:
            raise SystemExit(f"{backend}: {reasons[backend]}")
        print(f"\n{machine(backend)}; {options.mib} MiB float32, groups of 256, {options.repeats} repeats")
        print(f"{'kernel':<44}{'GB/s':>8}{'p10':>8}{'p90':>8}{'copy':>8}{'ratio':>8}{'best':>8}")
        for row in run(backend, options.mib, options.repeats, options.only):
            rows.append(row)
            rates = (row.rate, row.rate_p10, row.rate_p90, row.copy_rate)
            print(f"{row.kernel:<44}" + "".join(f"{rate:8.1f}" for rate in rates), end="")
            print(f"{row.ratio:8.2f}{row.best_ratio:8.2f}", flush=True)
    if options.only and not rows:
        parser.error(f"--only: no kernel's name contains {options.only!r}")
    for backend in ("cpu", "cuda"):
        if options.backend is None and reasons[backend] is not None:
            print(f"\n{backend} was left out: {reasons[backend]}")
    if options.csv is not None:
        with options.csv.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(Row.__annotations__)
            writer.writerows(vars(row).values() for row in rows)


if __name__ == "__main__":
    main()
