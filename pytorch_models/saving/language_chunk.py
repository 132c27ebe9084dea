"""One chunk of a language model as a function of its tensors: from tokens to a summed loss, so no logits outlive it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from pytorch_models.saving.lstm_chunk import LSTMChunk
from pytorch_models.saving.recurrence import SUMMED, Tensors

OUTPUTS = (SUMMED, SUMMED)
LOGIT_COPIES = 3  # logits, their logarithmic softmax, and its gradient


@dataclass(frozen=True)
class LanguageChunk:
    """Embedding, LSTMs, head and loss; called with (tokens, targets), (h, c) and (embedding, head, bias, *LSTM's).

    Args:
        lstm: the layers between embedding and head; emits their outputs.
    """

    lstm: LSTMChunk

    def __call__(
        self, inputs: Tensors, state: Tensors, parameters: Tensors, first_step: int
    ) -> tuple[Tensors, Tensors]:
        """Tokens and targets (T, N) int64 -> (sum of cross entropies, number of right answers), and the new h and c."""
        tokens, targets = inputs
        embedding, head, bias, *others = parameters
        values = F.embedding(tokens, embedding)
        (outputs,), state = self.lstm((values,), state, tuple(others), first_step)
        return loss_and_right(F.linear(outputs, head, bias), targets), state


def loss_and_right(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (..., classes) and targets (...) -> sum of cross entropies in float32 or wider, number of right answers.

    Example:
        >>> import torch
        >>> loss_and_right(torch.eye(2) * 100, torch.tensor([0, 0]))
        (tensor(100.), tensor(1))
    """
    rows = logits.flatten(0, -2)
    rows = rows if rows.dtype.itemsize >= 4 else rows.float()
    loss = F.cross_entropy(rows, targets.flatten(), reduction="sum")
    return loss, (rows.detach().argmax(1) == targets.flatten()).sum()
