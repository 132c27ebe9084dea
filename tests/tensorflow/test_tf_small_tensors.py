"""Bytes of networks so small that TensorFlow's profiler tells nothing of them, unless another allocator is chosen."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import small_networks  # noqa: F401  (skips without TensorFlow)

from tf_models import ResNet, measure_step
from tf_models.allocations import LEAST_TOLD_BYTES, TELLS_ALL

SCRIPT = """
from tf_models import ResNet, measure_step
reports = [
    measure_step(ResNet(layers=(1,), width=8, compressed=bits), (4, 3, 16, 16), mode="eager", repeats=0)
    for bits in (None, 2)
]
print(*(report.saved_bytes for report in reports), reports[0].ran_on)
"""


@pytest.mark.skipif(LEAST_TOLD_BYTES == 1, reason="this process is told of every allocation")
def test_where_small_tensors_are_not_told_the_error_says_what_to_do() -> None:
    with pytest.raises(ValueError, match=f"start the process with {TELLS_ALL}=true"):
        measure_step(ResNet(layers=(1,), width=4), (1, 3, 8, 8), repeats=0)


@pytest.mark.slow
def test_with_the_other_allocator_codes_of_small_networks_are_counted() -> None:
    told = {**os.environ, TELLS_ALL: "true"}
    run = subprocess.run([sys.executable, "-c", SCRIPT], env=told, capture_output=True, text=True, check=True)
    plain, coded, *ran_on = run.stdout.split()
    assert 0 < int(coded) < 0.3 * int(plain)
    assert ran_on == ["TensorFlow,", "eager"]
