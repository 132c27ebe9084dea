"""The numba kernels give the same on several threads, after a fork, and from several Python threads at once."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kernels import _cpu_threads, cpu

ROOT = Path(__file__).resolve().parents[2]
COUNT = 3001


def every_kernel(make: Any) -> dict[str, Any]:
    """Results of every kernel on small arrays; of the norm passes in both layouts."""
    values, _ = make("float32", COUNT)
    coded = cpu.quantize(values, 2, seed=1)
    positive = cpu.pack_positive(values)
    integers = cpu.pack_integers(np.arange(COUNT, dtype=np.uint16), 11)
    fixed = cpu.quantize_fixed(values, 5, 0.1, signed=True, seed=2)
    relu = np.maximum(values, 0)
    mask, kept, _ = cpu.zero_compress(relu)
    planes = make("float32", (3, 4, 9, 7))[0]
    window = ((3, 3), (2, 2), (1, 1), (1, 1))
    pooled, positions = cpu.max_pool_positions(planes, *window)
    return {
        "noise": cpu.noise(1, 2, COUNT),
        "quantize": (coded.codes, coded.minima, coded.steps),
        "energy": coded.energy,
        "dequantize": cpu.dequantize(coded.codes, coded.minima, coded.steps, 2, COUNT),
        "positive": positive,
        "bits": (cpu.unpack_bits(positive, COUNT), cpu.pack_bits(values > 1)),
        "integers": (integers, cpu.unpack_integers(integers, 11, COUNT)),
        "fixed": (fixed, cpu.dequantize_fixed(fixed, 5, 0.1, COUNT, signed=True)),
        "zeros": (mask, kept, cpu.zero_expand(mask, kept, COUNT)),
        "pool": (pooled, positions, cpu.max_pool_gradient(pooled, positions, planes.shape, *window)),
        "rows": norm_passes(make("float32", (101, 12))[0]),
        "planes": norm_passes(make("float32", (5, 7, 30))[0]),
    }


def norm_passes(values: np.ndarray) -> tuple[np.ndarray, ...]:
    channels = values.shape[1]
    scale, shift = np.linspace(0.5, 2, channels, dtype=np.float32), np.full(channels, 0.1, np.float32)
    mean, variance = cpu.channel_statistics(values)
    norm = (mean, 1 / np.sqrt(variance), scale, shift)
    out, rebuilt, target = np.empty_like(values), np.empty_like(values), np.zeros_like(values)
    coded = cpu.normalize_quantize_mask(values, *norm, 4, seed=3, out=out)
    plain = cpu.affine_activation(values, scale, shift, np.empty_like(values))
    kept = (coded.codes, coded.minima, coded.steps, 4)
    cpu.dequantize_affine(*kept, scale, shift, rebuilt, mask=coded.mask)
    sums = cpu.norm_backward(values, values, *norm, target=target, accumulate=True)
    more = cpu.norm_backward_coded(values, *kept, scale, target=target, accumulate=True, mask=coded.mask)
    cpu.subtract_norm_terms(target, values, mean, scale, shift)
    return (mean, variance, out, plain, *kept[:3], coded.mask, rebuilt, target, *sums, *more)


def test_several_threads_give_what_one_gives(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = every_kernel(make)
    counts = set()
    count = _cpu_threads.Threads.count

    def counted(self: Any, values: int) -> int:
        counts.add(found := count(self, values))
        return found

    monkeypatch.setattr(_cpu_threads.Threads, "count", counted)
    monkeypatch.setattr(_cpu_threads, "VALUES_PER_THREAD", 1)
    two = _cpu_threads.Threads(_cpu_threads.threads().layer, 2, os.getpid())
    monkeypatch.setattr(_cpu_threads, "threads", lambda: two)
    together = every_kernel(make)
    if os.cpu_count() != 1:
        assert counts == {2}
    assert alone.keys() == together.keys()
    for name, one in alone.items():
        for left, right in zip(flat(one), flat(together[name]), strict=True):
            exact = name not in ("rows", "planes", "energy")
            assert np.array_equal(left, right) if exact else np.allclose(left, right, rtol=1e-5, atol=1e-5), name


def flat(result: Any) -> tuple[np.ndarray, ...]:
    return result if isinstance(result, tuple) else (result,)


def quantize_much(_: int = 0) -> int:
    values = np.linspace(0, 1, 2**17, dtype=np.float32)
    return int(cpu.quantize(values, 4, seed=1).codes.astype(np.int64).sum())


def test_python_threads_at_once() -> None:
    expected = quantize_much()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert set(pool.map(quantize_much, range(24))) == {expected}


CHILD = """
import concurrent.futures, multiprocessing, sys
import numpy as np
from kernels import cpu, _cpu_threads
values = np.linspace(0, 1, 2**17, dtype=np.float32)
def work(_=0):
    return int(cpu.quantize(values, 4, seed=1).codes.astype(np.int64).sum())
expected = work()
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    assert set(pool.map(work, range(8))) == {expected}
context = multiprocessing.get_context("fork")
with context.Pool(1) as pool:
    assert pool.apply_async(work).get(timeout=60) == expected
print(_cpu_threads.threads().layer)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("layer", ["tbb", "omp", "workqueue"])
def test_every_layer_works_in_python_threads_and_after_a_fork(layer: str) -> None:
    """Unguarded, omp kills a forked process (a data loader's worker), workqueue one that calls from two threads."""
    environment = {**os.environ, "NUMBA_THREADING_LAYER": layer, "PYTHONPATH": str(ROOT), "NUMBA_NUM_THREADS": "2"}
    child = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CHILD], env=environment, capture_output=True, text=True, timeout=120
    )
    if "could not be loaded" in child.stderr or "No threading layer" in child.stderr:
        pytest.skip(f"numba has no {layer} here")
    assert child.returncode == 0, child.stderr
    # tbb itself may say before that it could not join its threads for the fork.
    assert child.stdout.strip().splitlines()[-1] == layer


@pytest.mark.quick
@pytest.mark.parametrize(
    ("environment", "expected"),
    [({}, None), ({"OMP_NUM_THREADS": "1"}, 1), ({"OMP_NUM_THREADS": "3,2"}, 3), ({"OMP_NUM_THREADS": "x"}, None),
     ({"OMP_NUM_THREADS": "0"}, None), ({"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "2"}, None)],
)  # fmt: skip
def test_the_environment_limits_threads(
    environment: dict[str, str], expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert _cpu_threads.threads.__wrapped__().limit == expected


def test_few_values_stay_on_one_thread() -> None:
    engine = _cpu_threads.Threads("tbb", 2, os.getpid())
    assert engine.count(1) == 1
    assert engine.count(2**20) == min(2, _cpu_threads.most_threads())
    assert _cpu_threads.Threads("tbb", 1, os.getpid()).count(2**20) == 1
    assert _cpu_threads.Threads("omp", 2, os.getpid() + 1).count(2**20) == 1


SPAWN = """
import multiprocessing
from kernels._cpu_threads import _is_forked_worker
with multiprocessing.get_context("spawn").Pool(1) as pool:
    print(pool.apply(_is_forked_worker))
"""


def ask(connection: Any) -> None:
    connection.send(_cpu_threads._is_forked_worker())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_only_forked_workers_count_as_forked() -> None:
    assert not _cpu_threads._is_forked_worker()
    here, there = multiprocessing.Pipe()
    worker = multiprocessing.get_context("fork").Process(target=ask, args=(there,))
    worker.start()
    assert here.recv()
    worker.join()
    child = subprocess.run([sys.executable, "-c", SPAWN], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert child.stdout.strip() == "False", child.stderr


def test_the_layer_and_what_hindered_a_better_one_are_told() -> None:
    engine = _cpu_threads.threads()
    assert engine.layer in ("tbb", "omp", "workqueue")
    assert (engine.layer == "tbb") == (engine.why_not_tbb == "")


def run_noise(folder: Path, **environment: str) -> str:
    code = "from kernels import cpu; print(cpu.noise(3, 0, 2).tolist())"
    child = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env={**os.environ, "PYTHONPATH": str(folder), **environment},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr
    return child.stdout


def test_no_stale_machine_code_is_used(tmp_path: Path) -> None:
    """The constant changes in a file that the calling kernel's own file only imports."""
    shutil.copytree(ROOT / "kernels", tmp_path / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("_cpu_noise.py", "_cpu_threads.py"):
        os.utime(tmp_path / "kernels" / name, (1e9, 1e9))
    before = run_noise(tmp_path)
    assert run_noise(tmp_path) == before
    source = tmp_path / "kernels" / "_cpu_codes.py"
    source.write_text(source.read_text(encoding="utf-8") + "# changed\n", encoding="utf-8")
    noise = tmp_path / "kernels" / "_cpu_noise.py"
    size = noise.stat().st_size
    noise.write_text(noise.read_text(encoding="utf-8").replace("0x846CA68B", "0x846CA68D"), encoding="utf-8")
    os.utime(noise, (1e9, 1e9))  # numba itself would look at time and size, and see no change
    assert noise.stat().st_size == size
    assert run_noise(tmp_path) != before


def test_kernels_work_where_nothing_can_be_cached(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    assert run_noise(ROOT, NUMBA_CACHE_DIR=str(tmp_path / "file" / "below")) == run_noise(ROOT)
