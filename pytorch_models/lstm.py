"""LSTM classifiers and language models in PyTorch; the recurrent part has torch.nn.LSTM's parameter names."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from pytorch_models.saving.eligibility import PlainPathWarning, graph_is_being_exported, has_hooks
from pytorch_models.saving.language_chunk import LOGIT_COPIES, OUTPUTS, LanguageChunk, loss_and_right
from pytorch_models.saving.recurrence import Recurrence, recur
from pytorch_models.saving.time_dropout import draw_seed
from pytorch_models.segments import give_configs
from pytorch_models.stacked_lstm import StackedLSTM, State
from pytorch_models.zoo_model import ZooModel
from zoo.lstm import LSTMConfig
from zoo.policy import MemoryPolicy


class LSTM(ZooModel):
    """Stacked LSTMs that read rows or pixels of images, or tokens of a text, with exact memory saving over time.

    Args:
        reads, input_size, hidden_size, num_layers, bidirectional, drop_rate, num_classes: see `zoo.lstm.LSTMConfig`.
        efficient: keep only states between chunks of time steps, and run each chunk again in the backward pass; same
            outputs and gradients as without, memory grows like the square root of the time steps.
        compressed: keep local factors and hidden states of every step as codes, lossy but unbiased; the outputs do not
            change. With `efficient`, whichever of the two keeps less; see `zoo.policy.MemoryPolicy`.

    Input: images (N, C, H, W) of any floating dtype, whose rows or pixels (row by row) are the time steps, a sequence
    (N, T, input_size), or tokens (N, T) int64. Output: scores (N, num_classes), for tokens (N, T, num_classes); with
    `targets`, the summed loss and the number of right answers instead.

    Raises:
        TypeError, ValueError: naming the argument, what came and what is needed.

    Example:
        >>> model = LSTM("rows", input_size=28, hidden_size=16, efficient=True)
        >>> model(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """

    segments = ("recurrent",)

    def __init__(
        self,
        reads: str = "rows",
        input_size: int = 28,
        hidden_size: int = 128,
        num_layers: int = 2,
        bidirectional: bool = False,
        drop_rate: float = 0.0,
        num_classes: int = 10,
        efficient: bool = False,
        keep_bottleneck: bool = False,
        opt_memory: int | None = None,
        compressed: int | str | None = None,
    ) -> None:
        super().__init__()
        self.spec = LSTMConfig(reads, input_size, hidden_size, num_layers, bidirectional, drop_rate, num_classes)
        self.policy = MemoryPolicy(efficient, keep_bottleneck, opt_memory, compressed)
        self.spec.check_policy(self.policy)
        if self.spec.is_language_model:
            self.embedding = nn.Embedding(num_classes, input_size)
        self.recurrent = StackedLSTM(
            input_size,
            hidden_size,
            num_layers,
            batch_first=True,
            dropout=float(drop_rate),
            bidirectional=bidirectional,
            efficient=efficient,
            # Its own codes: a scheme's hooks and layers would not see what a fused LSTM keeps.
            compressed=compressed if self.policy.scheme is None else self.policy.scheme.bits,
        )
        self.classifier = nn.Linear(hidden_size * self.spec.directions, num_classes)
        self._initialise()
        give_configs(self)

    def _initialise(self) -> None:
        """torch.nn.LSTM's own, with forget gates open at first (Jozefowicz et al. 2015), half in each bias."""
        hidden = self.spec.hidden_size
        for name, parameter in self.recurrent.named_parameters():
            if name.startswith("bias"):
                nn.init.zeros_(parameter)
                nn.init.constant_(parameter[hidden : 2 * hidden], 0.5)

    def how_kept(self) -> str:
        """In words, what embedding and head keep for the backward pass."""
        if self.policy.efficient and self.spec.is_language_model:
            return "tokens, and states between chunks of time steps; each chunk is run again up to its loss"
        return "kept by autograd"

    def forward(self, inputs: Tensor, targets: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """See the class; `targets` are int64, (N,) or for tokens (N, T)."""
        if self.spec.is_language_model:
            return self._language(inputs, targets)
        _, (hidden, _) = self.recurrent(self.as_sequence(inputs), outputs=False)
        scores = self.classifier(hidden[-self.spec.directions :].transpose(0, 1).flatten(1))
        return scores if targets is None else loss_and_right(scores, targets)

    def as_sequence(self, inputs: Tensor) -> Tensor:
        """Images (N, C, H, W) -> a view of their rows (N, H, C * W) or pixels (N, H * W, C); a sequence as it is.

        Raises:
            ValueError: time steps of another size than `input_size`.
        """
        values = inputs
        if values.dim() == 4 and self.spec.reads == "pixels":
            values = values.flatten(2).transpose(1, 2)
        elif values.dim() == 4:
            values = values.transpose(1, 2).flatten(2)
        if values.dim() != 3 or values.shape[2] != self.spec.input_size:
            raise ValueError(
                f"an LSTM that reads {self.spec.reads} of {self.spec.input_size} values got an input of shape "
                f"{tuple(inputs.shape)}: give images (N, C, H, W) or a sequence (N, T, {self.spec.input_size})"
            )
        return values

    def _language(self, tokens: Tensor, targets: Tensor | None) -> Tensor | tuple[Tensor, Tensor]:
        if tokens.dim() != 2 or tokens.is_floating_point():
            raise ValueError(f"needed are tokens (N, T) of an integer dtype, not {tuple(tokens.shape)} {tokens.dtype}")
        if targets is not None and targets.shape != tokens.shape:
            raise ValueError(f"targets must have the tokens' shape {tuple(tokens.shape)}, not {tuple(targets.shape)}")
        if targets is not None and self.policy.efficient and not graph_is_being_exported():
            hooked = [name for name, part in self.named_children() if has_hooks(part)]
            if not hooked:
                return self._loss_by_chunks(tokens, targets)
            reason = f"a hook is registered on {' and '.join(hooked)}"
            warnings.warn(f"scores of all time steps are kept at once: {reason}", PlainPathWarning, stacklevel=3)
        outputs, _ = self.recurrent(self.embedding(tokens))
        scores = self.classifier(outputs)
        return scores if targets is None else loss_and_right(scores, targets)

    @torch.compiler.disable(reason="a recurrence that is recomputed over time is one autograd Function")
    def _loss_by_chunks(self, tokens: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        sequences = (tokens.transpose(0, 1), targets.transpose(0, 1))
        drops = self.training and self.spec.drop_rate > 0
        chunk = LanguageChunk(self.recurrent.chunk(drops=drops, emits=True))
        parameters = (self.embedding.weight, self.classifier.weight, self.classifier.bias, *self.recurrent.weights)
        state: State = self.recurrent.initial_state(sequences[0])
        plan = self.recurrent.plan(sequences[0], values_beside=LOGIT_COPIES * self.spec.num_classes)
        seed = (draw_seed(),) if drops else ()
        (loss, right), _ = recur(Recurrence(chunk, plan, OUTPUTS), sequences, state, (*parameters, *seed))
        return loss, right
