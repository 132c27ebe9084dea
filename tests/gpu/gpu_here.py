"""Whether the tests of this folder can run."""

from __future__ import annotations

import ctypes

import kernels.cuda as cuda


def why_not() -> str | None:
    """What keeps these tests from running; looks for the driver first, which costs nothing."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "there is no NVIDIA driver (libcuda.so.1)"
    return cuda.why_unavailable()
