"""What LSTM layers keep for their backward pass: the cheapest way that their flags allow, at the size that came."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from pytorch_models.saving.coded_lstm import Coding
from pytorch_models.saving.coded_steps import chunk_slices
from pytorch_models.saving.lstm_chunk import SHORT_CHUNK
from pytorch_models.saving.lstm_factors import LOCAL
from pytorch_models.saving.sequence_codes import SequenceCodec
from zoo.planner import RecurrentPlan

MOST_LAYERS_TRIED = 12  # that each way of coding some layers and not others is tried for


@dataclass(frozen=True)
class LayerSizes:
    """The sizes that decide what an LSTM keeps.

    Args:
        codec: of coded layers.
        plan: how one layer, or all of one direction together, would be walked in chunks.
        values: of one time step of one layer, N * H.
        itemsize: bytes of a value.
    """

    codec: SequenceCodec
    plan: RecurrentPlan
    values: int
    itemsize: int

    def coded(self) -> int:
        """Bytes of one coded layer of one direction, without its inputs."""
        count = self.plan.steps * self.values
        return self.codec.nbytes(LOCAL * count) + self.codec.of_forget_gates.nbytes(count) + self._hidden()

    def states(self) -> int:
        """Bytes of one layer that is run again: its states between chunks."""
        return min(self.plan.states, self.plan.chunks - 1) * 2 * self.values * self.itemsize

    def inputs(self, coded: bool) -> int:
        """Bytes of a layer's inputs that are one direction's hidden states below."""
        return self._hidden() if coded else self.plan.steps * self.values * self.itemsize

    def _hidden(self) -> int:
        chunks = -(-self.plan.steps // _coded_steps(self.plan.steps, self.plan.chunk_steps))
        return self.codec.nbytes((self.plan.steps + chunks) * self.values)

    def initial(self) -> int:
        """Bytes of a layer's first state, which is kept whole if any layer is run again: zeros, once for h and c."""
        return self.values * self.itemsize


def codes_are_smaller(sizes: LayerSizes) -> bool:
    """Whether layers that are walked together keep less as codes than as states between chunks."""
    return sizes.coded() < sizes.states() + sizes.initial()


def coded_layers_of(sizes: LayerSizes, layers: int) -> tuple[bool, ...]:
    """Which layers of a bidirectional LSTM, that could all be run again, are coded instead: those that cost least.

    A layer that is run again keeps its inputs as they are; a coded one as codes, which a coded one below keeps anyway.
    """
    ways = list(itertools.product((False, True), repeat=min(layers, MOST_LAYERS_TRIED)))
    ways = [(*way, *(way[-1],) * (layers - len(way))) for way in ways]
    return min(ways, key=lambda way: _bytes_of(sizes, way))


def _bytes_of(sizes: LayerSizes, way: tuple[bool, ...]) -> int:
    total = 0 if all(way) else len(way) * sizes.initial()
    for layer, coded in enumerate(way):
        total += sizes.coded() if coded else sizes.states()
        if layer and not (coded and way[layer - 1]):
            total += sizes.inputs(coded)
    return 2 * total


def coding_of(codec: SequenceCodec, noise_seed: int, values: Tensor, plan: RecurrentPlan | None) -> Coding:
    """How a sequence (T, N, I) is coded; `plan` is how an efficient LSTM is walked, None for one that is not.

    Without a plan the outputs must be those of one call over all steps, to the bit. oneDNN's (float32, bfloat16) did
    not depend on how many steps are run together, from a hundred on, in 900 random shapes; other LSTMs' do.
    """
    run_steps = 0 if plan is None else plan.chunk_steps
    chunks = chunk_slices(len(values), _coded_steps(len(values), run_steps))
    at_once = plan is None and not _runs_in_onednn(values)
    return Coding(codec, noise_seed, chunks, run_steps or len(values), at_once, graphless=plan is not None)


def _coded_steps(steps: int, run_steps: int) -> int:
    """Steps that are coded together: some hundreds, whole runs of the fused LSTM."""
    wanted = -(-steps // max(1, steps // SHORT_CHUNK))
    return -(-wanted // run_steps) * run_steps if run_steps else wanted


def _runs_in_onednn(values: Tensor) -> bool:
    if values.device.type != "cpu" or not torch.backends.mkldnn.is_available() or not torch.backends.mkldnn.enabled:
        return False
    dtype = values.dtype
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
    return dtype in (torch.float32, torch.bfloat16)
