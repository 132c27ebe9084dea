"""A training step captured as one CUDA graph: replaying it launches hundreds of kernels at the cost of one.

Worth it where launching takes longer than computing, as with many small layers and small images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from zoo.options import TrainingError

WARM_UP_STEPS = 3  # libraries choose algorithms and kernels are compiled in the first ones

Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def check_capturable(model: nn.Module, devices: Sequence[torch.device]) -> None:
    """Refuse what a captured step would compute differently, or cannot hold, before any work.

    Raises:
        ValueError: no single GPU; or a model that draws its random numbers outside the captured kernels.
    """
    names = ", ".join(str(device) for device in devices)
    if len(devices) != 1 or devices[0].type != "cuda":
        raise ValueError(f"cuda_graphs=True needs one GPU, not {names}: give device=cuda:0, or leave cuda_graphs out")
    policy, spec = getattr(model, "policy", None), getattr(model, "spec", None)
    if getattr(policy, "compressed", None) is not None:
        raise ValueError(
            "cuda_graphs=True with compressed: a replayed step would round with the same noise every time; leave out "
            "one of the two"
        )
    if getattr(policy, "share_features", False) and getattr(spec, "drop_rate", 0):
        raise ValueError(
            f"cuda_graphs=True with {policy} and drop_rate: the mask is drawn again from a state that the CPU reads, "
            "which a captured step cannot do; leave out cuda_graphs, or give drop_rate=0"
        )


class GraphedStep:
    """Forward and backward pass of one step, captured once and replayed for every batch of the same shape.

    The first steps run as usual, which readies libraries and kernels, and so do batches of another shape (the last of
    an epoch). Losses, gradients, buffers and the random stream are those of the step itself.

    Args:
        step: (inputs, labels) -> (summed loss, number of right answers), both detached; leaves its gradients in `.grad`
            of the parameters, whatever was there.
        parameters: those that get a gradient.
    """

    def __init__(self, step: Step, parameters: Sequence[nn.Parameter]) -> None:
        self._step, self._parameters = step, parameters
        self._stream = torch.cuda.Stream()
        self._graph: torch.cuda.CUDAGraph | None = None
        self._steps_run = 0

    def __call__(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Run one step; `inputs` and `labels` lie on the GPU."""
        if self._graph is None and self._steps_run < WARM_UP_STEPS:
            self._steps_run += 1
            return self._on_own_stream(inputs, labels)
        if self._graph is None:
            self._capture(inputs, labels)
        if (inputs.shape, labels.shape) != (self._inputs.shape, self._labels.shape):
            return self._on_own_stream(inputs, labels)
        assert self._graph is not None, "captured above"
        self._inputs.copy_(inputs)
        self._labels.copy_(labels)
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        self._graph.replay()
        loss, right = self._outputs
        return loss.clone(), right.clone()

    def _on_own_stream(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """As usual, on the stream of the capture: some libraries ready themselves for each stream."""
        caller = torch.cuda.current_stream()
        self._stream.wait_stream(caller)
        with torch.cuda.stream(self._stream):
            outputs = self._step(inputs, labels)
        caller.wait_stream(self._stream)
        for tensor in (*outputs, *(parameter.grad for parameter in self._parameters)):
            if tensor is not None:
                tensor.record_stream(caller)
        return outputs

    def _capture(self, inputs: Tensor, labels: Tensor) -> None:
        self._inputs, self._labels = inputs.clone(), labels.clone()
        for parameter in self._parameters:
            parameter.grad = None
        graph = torch.cuda.CUDAGraph()
        try:
            # thread_local: a thread that pins the next batch's memory meanwhile is none of the capture's.
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                self._outputs = self._step(self._inputs, self._labels)
        except RuntimeError as error:
            raise TrainingError(
                f"cuda_graphs=True: this model's step cannot be captured ({error}); leave cuda_graphs out"
            ) from error
        self._gradients = [parameter.grad for parameter in self._parameters]
        self._graph = graph
