"""Running out of memory says which flags need less, and how much."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'memory-efficient-zoo[torch]'")

from small_run import REPOSITORY, SmallNet, small_data, small_options  # noqa: E402

from pytorch_models import DenseNet  # noqa: E402
from pytorch_models.out_of_memory import alternatives, is_out_of_memory  # noqa: E402
from pytorch_models.training import train  # noqa: E402
from zoo.options import TrainingError  # noqa: E402


@pytest.mark.quick
def test_what_counts_as_out_of_memory() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert is_out_of_memory(MemoryError())
    with pytest.raises(RuntimeError) as too_much:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(too_much.value)
    with pytest.raises(RuntimeError) as wrong_shape:
        torch.ones(2) @ torch.ones(3)
    assert not is_out_of_memory(wrong_shape.value)


class Greedy(SmallNet):
    """Asks for more memory than any machine has, once its batch is a real one."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if len(images) > 4:
            torch.empty(2**60, dtype=torch.uint8)
        return super().forward(images)


def test_a_step_that_does_not_fit_names_smaller_batches_and_their_bytes() -> None:
    with pytest.raises(TrainingError, match="out of memory on cpu with batch_size=16") as error:
        train(Greedy(), small_data(), small_options())
    text = str(error.value)
    sizes = dict(re.findall(r"^  (.+): about (\d+) MiB$", text, re.MULTILINE))
    assert list(sizes) == ["as it is", "--batch_size 8", "--batch_size 4"]


def test_a_plain_densenet_is_told_of_the_efficient_flag() -> None:
    lines = alternatives(DenseNet(growth_rate=12, block_config=(6, 6)), (3, 32, 32), 64)
    sizes = {
        name: int(size) for name, size in (re.fullmatch(r"(.+): about (\d+) MiB", line).groups() for line in lines)
    }
    assert sizes["--efficient True"] < sizes["as it is"] / 2
    assert sizes["--efficient True --batch_size 32"] < sizes["--efficient True"]
    efficient = alternatives(DenseNet(block_config=(2,), efficient=True), (3, 32, 32), 64)
    assert not any("--efficient" in line for line in efficient)


def test_a_process_that_may_not_have_more_memory_ends_with_the_advice(tmp_path: Path) -> None:
    """Real exhaustion: the limit of the process's address space lies just above what it has before it trains."""
    program = (
        "import resource, sys; sys.path[:0] = sys.argv[1:]\n"
        "from small_run import *\n"
        "from zoo.options import TrainingError\n"
        "pages = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "torch.ones(64, 64) @ torch.ones(64, 64)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (pages + 2**28,) * 2)\n"
        "try:\n"
        "    train(SmallNet(), small_data(8192), small_options(batch_size=8192))\n"
        "except TrainingError as error:\n"
        "    print(error)\n"
    )
    command = [sys.executable, "-c", program, str(REPOSITORY), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "out of memory on cpu with batch_size=8192" in done.stdout, done.stderr
    assert "--batch_size 4096: about" in done.stdout
