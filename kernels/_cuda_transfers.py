"""Copies between a GPU and pinned host memory, on a stream beside the current one, through CuPy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kernels._cuda_device import Device, opened


class CudaTransfers:
    """`kernels.host_swap.Transfers` of one GPU.

    Pinned memory comes from a pool of its own: only this stream touches it, so that its next use comes after the last.
    """

    def __init__(self, device: Device) -> None:
        self._cuda = device.cupy.cuda
        self._cupy, self._number = device.cupy, device.number
        self._pinned = self._cuda.PinnedMemoryPool()
        with self._cuda.Device(self._number):
            self._stream = self._cuda.Stream(non_blocking=True)

    def to_host(self, arrays: Sequence[Any]) -> tuple[list[np.ndarray], Any]:
        """As `kernels.host_swap.Transfers`."""
        with self._cuda.Device(self._number):
            self._after_current()
            hosts = []
            for array in (opened("HostSwap", array=one)[1]["array"] for one in arrays):
                memory = self._pinned.malloc(max(array.nbytes, 1))
                host = np.frombuffer(memory, array.dtype, array.size).reshape(array.shape)
                if array.nbytes:
                    array.data.copy_to_host_async(host.ctypes.data, array.nbytes, self._stream)
                hosts.append(host)
            return hosts, self._event()

    def to_device(self, hosts: Sequence[np.ndarray]) -> tuple[list[Any], Any]:
        """As `kernels.host_swap.Transfers`; memory is allocated for the current stream."""
        with self._cuda.Device(self._number):
            arrays = [self._cupy.empty(host.shape, host.dtype) for host in hosts]
            # Who used this memory before did so on the current stream.
            self._after_current()
            for array, host in zip(arrays, hosts, strict=True):
                if array.nbytes:
                    array.data.copy_from_host_async(host.ctypes.data, array.nbytes, self._stream)
            return arrays, self._event()

    def wait(self, event: Any) -> None:
        """As `kernels.host_swap.Transfers`."""
        with self._cuda.Device(self._number):
            self._cuda.get_current_stream().wait_event(event)

    def done(self, event: Any) -> bool:
        """As `kernels.host_swap.Transfers`."""
        return bool(event.done)

    def _after_current(self) -> None:
        """What the copying stream does from now on comes after what the current stream has been given."""
        event = self._cuda.Event(disable_timing=True)
        event.record(self._cuda.get_current_stream())
        self._stream.wait_event(event)

    def _event(self) -> Any:
        event = self._cuda.Event(disable_timing=True)
        event.record(self._stream)
        return event
