"""Every kernel compiles for the GPUs people have, by NVRTC, which needs no driver and no GPU."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kernels import _cuda_compiler, _cuda_source

ARCHITECTURES = ("sm_70", "sm_80", "sm_90")
# Fully optimised code takes five times as long to make; for one architecture it is made as at run time.
OPTIMISED = "sm_90"
QUICKLY = ((12, 9), "--Ofast-compile=max")
# With more registers than this a multiprocessor has too few threads at a time to keep its memory busy. Arithmetic in
# double takes twice as many.
MOST_REGISTERS = 128
USAGE = re.compile(
    r"Compiling entry function '(\w+)'.*\n.*Function properties.*\n"
    r".*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads\n.*Used (\d+) registers"
)


def usage(log: str) -> dict[str, tuple[int, int]]:
    """Bytes of stack and spills, and registers, of every kernel, by what the assembler says (--ptxas-options=-v)."""
    return {
        name: (int(stack) + int(stores) + int(loads), int(registers))
        for name, stack, stores, loads, registers in USAGE.findall(log)
    }


@pytest.fixture(scope="module")
def nvrtc() -> Any:
    pytest.importorskip("cupy", reason="CuPy is not installed: pip install 'memory-efficient-zoo[cuda12]'")
    try:
        return _cuda_compiler.load_nvrtc()
    except RuntimeError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("file", _cuda_source.files())
def test_all_instances_compile(nvrtc: Any, file: str, architecture: str) -> None:
    if architecture == "sm_70" and nvrtc.getVersion() >= (13, 0):
        pytest.skip("CUDA 13 no longer compiles for sm_70")
    names = _cuda_source.instances(file)
    since, option = QUICKLY
    quickly = [option] if architecture != OPTIMISED and nvrtc.getVersion() >= since else []
    told = ["--ptxas-options=-v"] if architecture == OPTIMISED else []
    program = nvrtc.createProgram(_cuda_source.source(file), file, [], [])
    try:
        for name in names:
            nvrtc.addNameExpression(program, name)
        try:
            options = [f"--gpu-architecture={architecture}", *quickly, *told, *_cuda_source.OPTIONS]
            nvrtc.compileProgram(program, options)
        except nvrtc.NVRTCError:
            pytest.fail(nvrtc.getProgramLog(program))
        lowered = {nvrtc.getLoweredName(program, name): name for name in names}
        assert len(lowered) == len(names)
        binary = nvrtc.getCUBIN(program)
        assert all((name if isinstance(name, bytes) else name.encode()) in binary for name in lowered)
        if told:
            used = usage(nvrtc.getProgramLog(program))
            assert len(used) == len(names)
            for mangled, name in lowered.items():
                spilled, registers = used[mangled if isinstance(mangled, str) else mangled.decode()]
                assert spilled == 0, f"{name} keeps {spilled} bytes in memory that should be in registers"
                assert registers <= MOST_REGISTERS * (2 if "double" in name else 1), f"{name}: {registers} registers"
    finally:
        nvrtc.destroyProgram(program)


@pytest.mark.quick
def test_a_source_that_is_wrong_is_noticed(nvrtc: Any) -> None:
    text = _cuda_source.source("exact_codes.cu")
    assert "const i64 octet = thread_number();" in text
    wrong = text.replace("const i64 octet = thread_number();", "")
    program = nvrtc.createProgram(wrong, "exact_codes.cu", [], [])
    with pytest.raises(nvrtc.NVRTCError):
        nvrtc.compileProgram(program, list(_cuda_source.OPTIONS))


def test_a_kernel_with_too_few_registers_is_noticed(nvrtc: Any) -> None:
    # So many threads at a time leave 32 registers to each.
    text = _cuda_source.source("pool.cu").replace("__launch_bounds__(kThreads)", "__launch_bounds__(1024, 2)")
    program = nvrtc.createProgram(text, "pool.cu", [], [])
    try:
        nvrtc.addNameExpression(program, "max_pool_positions<float>")
        options = (f"--gpu-architecture={OPTIMISED}", "--ptxas-options=-v", *_cuda_source.OPTIONS)
        nvrtc.compileProgram(program, list(options))
        ((spilled, registers),) = usage(nvrtc.getProgramLog(program)).values()
    finally:
        nvrtc.destroyProgram(program)
    assert spilled > 0
    assert registers == 32


def test_a_compiled_kernel_is_kept_on_disk(nvrtc: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "new" / "folder"
    mangled, binary = _cuda_compiler.compiled(nvrtc, "pack_positive<bfloat16>", 80, folder)
    assert "pack_positive" in mangled
    assert mangled.encode() in binary
    assert len(list(folder.iterdir())) == 1
    monkeypatch.setattr(_cuda_compiler, "_compile", None)  # is not called again
    assert _cuda_compiler.compiled(nvrtc, "pack_positive<bfloat16>", 80, folder) == (mangled, binary)
    with pytest.raises(TypeError):
        _cuda_compiler.compiled(nvrtc, "pack_positive<bfloat16>", 90, folder)


def test_a_folder_that_cannot_be_written_is_not_needed(nvrtc: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert _cuda_compiler.compiled(nvrtc, "pack_bits", 80, tmp_path / "file")[0].startswith("_Z")


def test_gpus_newer_and_older_than_the_compiler() -> None:
    compiler = SimpleNamespace(getSupportedArchs=lambda: (75, 80, 90, 100), getVersion=lambda: (13, 0))
    assert _cuda_compiler.target(compiler, 90) == ("sm_90", False)
    assert _cuda_compiler.target(compiler, 121) == ("compute_100", True)
    assert _cuda_compiler.target(compiler, 89) == ("compute_80", True)
    with pytest.raises(RuntimeError, match=r"compute capability 7\.0, only from 7\.5 on.*cuda12"):
        _cuda_compiler.target(compiler, 70)


def test_ptx_for_a_newer_gpu_is_text(nvrtc: Any, tmp_path: Path) -> None:
    newest = max(nvrtc.getSupportedArchs())
    mangled, text = _cuda_compiler.compiled(nvrtc, "pack_bits", newest + 1, tmp_path)
    assert f".visible .entry {mangled}".encode() in text
