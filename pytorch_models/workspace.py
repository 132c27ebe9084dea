"""How large the opaque workspaces of fused operators are, which their fake implementations leave out.

Under FakeTensorMode oneDNN's LSTM layer returns an empty workspace, so that plain LSTMs would seem to keep a tenth of
what they keep. cuDNN's reserve is left out by its fake implementation too, and is not known here: measure LSTMs on a
GPU by a real step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor

PAGE, LINE, SET = 4096, 64, 1024  # bytes


def with_workspace(function: Any, arguments: Sequence[Any], results: Any) -> Any:
    """The results of an operator; of a fake oneDNN LSTM layer in training, with a workspace of the real size."""
    if function is not torch.ops.aten.mkldnn_rnn_layer.default or not isinstance(results[3], FakeTensor):
        return results
    inputs, training = arguments[0], arguments[15]
    if results[3].numel() or not training:
        return results
    steps, samples, width = inputs.shape
    size = lstm_workspace_bytes(steps, samples, width, hidden_size=arguments[10], itemsize=inputs.element_size())
    return (*results[:3], results[3].new_empty(size))


def lstm_workspace_bytes(steps: int, samples: int, width: int, hidden_size: int, itemsize: int = 4) -> int:
    """What one layer of oneDNN's LSTM keeps for its backward pass (oneDNN 3, `rnn_utils`: gates, cells and states).

    Example:
        >>> lstm_workspace_bytes(64, samples=8, width=512, hidden_size=512)
        16166912
    """
    gates, hidden = _padded(4 * hidden_size, itemsize), _padded(hidden_size, itemsize)
    states = _padded(max(width, hidden_size), itemsize)
    sections = [
        steps * samples * gates,
        (steps + 1) * samples * 4 * hidden_size * itemsize,
        steps * samples * hidden,
        *[2 * (steps + 1) * samples * states] * 3,
    ]
    return sum(-(-section // PAGE) * PAGE for section in sections)


def _padded(values: int, itemsize: int) -> int:
    """Bytes of a row: whole cache lines, and one more where rows would fall into the same set of the cache."""
    size = -(-values * itemsize // LINE) * LINE
    return size + LINE if size % SET == 0 else size
