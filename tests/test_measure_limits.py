"""Measuring at its limits: the smallest images, more memory than there is, nobody who reads the output."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import zoo
from zoo.__main__ import main

ROOT = Path(__file__).resolve().parent.parent
TINY = {"growth_rate": 4, "num_init_features": 8}


@pytest.mark.parametrize("small_inputs", [True, False])
@pytest.mark.parametrize(("blocks", "batch_size"), [(1, 2), (1, 1), (2, 2), (3, 2), (3, 1), (4, 2)])
def test_the_smallest_image_size_works_and_a_pixel_less_does_not(
    small_inputs: bool, blocks: int, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'memory-efficient-zoo[torch]'")
    model = zoo.create_model("densenet121", block_config=(1,) * blocks, small_inputs=small_inputs, **TINY)
    least = model.spec.smallest_image_size(batch_size)
    assert zoo.measure(model, "torch", batch_size, least).saved_bytes > 0
    if least == 1:
        return
    with pytest.raises(ValueError, match=rf"image_size={least - 1} is too small: .*smallest that works is {least}$"):
        zoo.measure(model, "torch", batch_size, least - 1)
    monkeypatch.setattr(type(model.spec), "smallest_image_size", lambda config, batch_size: 1)
    with pytest.raises((RuntimeError, ValueError), match=r"too small|more than 1 value"):  # PyTorch's own words
        zoo.measure(model, "torch", batch_size, least - 1)


@pytest.mark.quick
def test_more_memory_than_there_is_says_how_much(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'memory-efficient-zoo[torch]'")
    status = main(["measure", "densenet_bc_40_12", "--batch_size", "999999999"])
    captured = capsys.readouterr()
    assert (status, captured.out) == (1, "")
    assert captured.err.startswith(
        "zoo measure: out of memory on cpu: a step of 999999999 images of 32 x 32 pixels needs "
    )
    needed = int(captured.err.partition("(")[2].partition(" bytes")[0].replace(",", ""))
    per_image = zoo.measure("densenet_bc_40_12", batch_size=8).peak_bytes / 8
    assert needed == pytest.approx(999999999 * per_image, rel=0.1)
    assert "--efficient" in captured.err


def test_another_error_of_the_framework_is_not_called_out_of_memory() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'memory-efficient-zoo[torch]'")
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        zoo.measure(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(5, 2)), "torch", 2, 8)


@pytest.mark.quick
@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("command", [["-m", "zoo", "list"], ["-m", "zoo", "measure", "--help"], ["demo.py", "--help"]])
def test_output_that_nobody_reads_ends_quietly(command: list[str], buffered: bool) -> None:
    # Python takes any text as yes: without buffering printing fails, with it only the end of the program does.
    environment = {**os.environ, "PYTHONUNBUFFERED": "" if buffered else "1"}
    process = subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()  # long before the first line
    assert process.stderr.read() == ""
    assert process.wait(timeout=60) == 141
    process.stderr.close()
