"""Max-pooling that keeps where each maximum was, in ceil(log2(window)) bits an output, and not its input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from pytorch_models import kernel_ops


@dataclass(frozen=True)
class Pool:
    """A max-pool's window: pairs of (height, width)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) -> the maxima, as `F.max_pool2d`'s, and their packed positions."""
        return kernel_ops.max_pool_positions(values.contiguous(), *self._window())

    def backward(self, gradient: Tensor, positions: Tensor, like: Tensor) -> Tensor:
        """The gradient of values of the shape of `like`."""
        return kernel_ops.max_pool_gradient(gradient.contiguous(), positions, like.shape, *self._window())

    def _window(self) -> tuple[tuple[int, int], ...]:
        return self.kernel, self.stride, self.padding, self.dilation


def coded_pool(tail: Sequence[nn.Module]) -> Pool | None:
    """The window, where the modules are one max-pool; None where they are linear.

    Raises:
        ValueError: a max-pool whose positions cannot be kept.
    """
    pools = [module for module in tail if isinstance(module, nn.MaxPool2d)]
    if not pools:
        return None
    pool = pools[0]
    if len(tail) > 1 or pool.ceil_mode or pool.return_indices:
        raise ValueError(f"compressed: the positions of {pool} cannot be kept: build the model without compressed")
    kernel, stride, padding, dilation = (
        (int(side), int(side)) if isinstance(side, int) else (int(side[0]), int(side[1]))
        for side in (pool.kernel_size, pool.stride or pool.kernel_size, pool.padding, pool.dilation)
    )
    return Pool(kernel, stride, padding, dilation)
