"""MXNet's memory planner, replayed: what a plan would be given, to a few percent, in a fraction of a millisecond.

One bind of the unplanned network tells in which order its operators run, and what each of them reads. Mirrored ones run
where the backward pass first asks for them. Memory is then handed out as MXNet does (src/nnvm/plan_memory.cc): whole
blocks, the smallest free one that is large enough, of which the rest is lost; else the largest that is too small, which
grows. A search tries changes on this, and binds only what looks well.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from mxnet_memonger.mirror_plan import MirrorPlan, PlanSpace
from mxnet_memonger.replay_loops import ALLOCATES, GRADIENT, MATCH_RANGE, OVERWRITES, SHARES, VALUE, replay, run_again
from mxnet_memonger.symbol_graph import BYTES_A_VALUE

# Operators whose output may overwrite an input that nobody reads any more (of a backward operator: the first).
IN_PLACE = frozenset(
    {"Activation", "_backward_Activation", "elemwise_add", "elemwise_mul", "elemwise_sub", "add_n", "_grad_add"}
    | {"clip", "_backward_clip", "LeakyReLU", "SoftmaxOutput", "_backward_mul"}
)
# Operators whose outputs are their input, which lies in memory once however many read it.
SAME = frozenset(
    {"_copy", "Flatten", "Reshape", "expand_dims", "BlockGrad", "_backward_copy", "_backward_reshape", "_backward_add"}
)


class Replay:
    """One network's operators and their backward passes as arrays of numbers, ready to be replayed.

    Args:
        space: the network.
        debug_text: of the unplanned network, bound.
    """

    def __init__(self, space: PlanSpace, debug_text: str) -> None:
        places = self.places = {index: place for place, index in enumerate(space.operators)}
        self._arrays = _Reader(space, places, debug_text).arrays()
        self._fixed = np.array([index in space.fixed for index in space.operators], np.bool_)
        self._flops = np.array([space.graph.nodes[index].flops for index in space.operators], np.int64)
        readers = [[(places[reader],) for reader in space.consumers[index]] for index in space.operators]
        reads = [sorted({(places[source],) for source, _ in space.reads[index]}) for index in space.operators]
        self._dependencies = (*_flat(readers), *_flat(reads))
        self._last: tuple[MirrorPlan | None, tuple[np.ndarray, np.ndarray]] = (None, (self._fixed, self._fixed))

    def bytes_of(self, plan: MirrorPlan) -> int:
        """What MXNet would allocate."""
        again, copied = self._again(plan)
        return int(replay(again, copied, *self._arrays))

    def flops_of(self, plan: MirrorPlan) -> int:
        """Work that the backward pass does again."""
        return int(self._flops[self._again(plan)[0]].sum())

    def _again(self, plan: MirrorPlan) -> tuple[np.ndarray, np.ndarray]:
        if self._last[0] is not plan:  # bytes and work of a plan are asked for one after the other
            kept, copied = self._fixed.copy(), np.zeros(len(self._fixed), np.bool_)
            kept[[self.places[index] for index in plan.kept]] = True
            copied[[self.places[index] for index in plan.copied]] = True
            self._last = plan, (run_again(kept, copied, *self._dependencies), copied)
        return self._last[1]


def sections(debug_text: str) -> Iterator[tuple[str, str, list[tuple[str, int]]]]:
    """Operator, name and what it reads, in the order in which MXNet runs them."""
    for section in debug_text.split("--------------------\n"):
        title = re.search(r"Op:(\S+), Name=(.*)\n", section)
        if title is not None:
            read = re.findall(r"\targ\[\d+\]=(.*)\((\d+)\)", section)
            yield title.group(1), title.group(2), [(name, int(output)) for name, output in read]


class _Reader:
    """From a debug text to numbers."""

    def __init__(self, space: PlanSpace, places: Mapping[int, int], debug_text: str) -> None:
        self.space, self.places, nodes = space, places, space.graph.nodes
        self.place = {nodes[index].name: number for number, index in enumerate(space.operators)}
        self.sizes = [self._sizes(index, debug_text) for index in space.operators]
        self.base = np.concatenate([[0], np.cumsum([len(sizes) for sizes in self.sizes])])
        self.gradients: dict[tuple[str, int], int] = {}
        self.gradient_bytes: list[int] = []
        self.backward: list[tuple[int, list[tuple[int, int, int]], int, int]] = []
        variables = {node.name for node in nodes if node.is_variable}
        for op, name, read in sections(debug_text):
            if name not in self.place and name not in variables:
                self._add_backward(op, name, read)

    def arrays(self) -> tuple[np.ndarray, ...]:
        """What `_replay` takes."""
        space, nodes = self.space, self.space.graph.nodes
        inputs = [
            [(self.places.get(source, -1), output) for source, output in nodes[index].inputs]
            for index in space.operators
        ]
        heads = np.zeros(self.base[-1], np.int64)
        for source, output in space.graph.heads:
            if source in self.places:
                heads[self.base[self.places[source]] + output] += 1
        in_place = [_reuse(nodes[index].op) for index in space.operators]
        flat = [size for sizes in self.sizes for size in sizes]
        return (
            self.base.astype(np.int64),
            heads,
            *_ragged(inputs, 2),
            np.array(in_place, np.int64),
            np.array([owner for owner, _, _, _ in self.backward], np.int64),
            *_ragged([reads for _, reads, _, _ in self.backward], 3),
            np.concatenate([[0], np.cumsum([made for _, _, made, _ in self.backward])]).astype(np.int64),
            np.array([reuse for _, _, _, reuse in self.backward], np.int64),
            *_by_size(np.concatenate([flat, flat, flat, np.where(self._read(), self.gradient_bytes, 0)])),
        )

    def _sizes(self, index: int, debug_text: str) -> list[int]:
        node = self.space.graph.nodes[index]
        sizes = [BYTES_A_VALUE * math.prod(shape) for shape in node.shapes]
        if node.op == "BatchNorm":
            channels = BYTES_A_VALUE * (node.shapes[0][1] if len(node.shapes[0]) > 1 else 1)
            return [*sizes[:1], channels, channels]
        if node.op in ("Dropout", "Pooling", "SoftmaxOutput"):
            return [*sizes, sizes[0]] if node.op == "Dropout" else sizes
        return sizes

    def _add_backward(self, op: str, name: str, read: Sequence[tuple[str, int]]) -> None:
        owner = self.place.get(name.removesuffix("_backward"), -1)
        reads = []
        for source, output in read:
            if (source, output) in self.gradients:
                reads.append((GRADIENT, self.gradients[source, output], 0))
            elif source in self.place and output < len(self.sizes[self.place[source]]):
                reads.append((VALUE, self.place[source], output))
        made = self._made(owner, reads)
        for output, size in enumerate(made):
            self.gradients[name, output] = len(self.gradient_bytes)
            self.gradient_bytes.append(size)
        self.backward.append((owner, reads, len(made), _reuse(op)))

    def _read(self) -> np.ndarray:
        """Which gradients another operator reads: the others are results, for which the caller has given memory."""
        found = np.zeros(len(self.gradient_bytes), np.bool_)
        found[[number for _, reads, _, _ in self.backward for kind, number, _ in reads if kind == GRADIENT]] = True
        return found

    def _bytes_of(self, source: int, output: int) -> int:
        if source in self.places:
            return self.sizes[self.places[source]][output]
        return self.space.graph.nodes[source].output_bytes

    def _made(self, owner: int, reads: list[tuple[int, int, int]]) -> list[int]:
        """Bytes of a backward operator's outputs: gradients of its owner's inputs; of a sum, as its parts."""
        if owner >= 0:
            node = self.space.graph.nodes[self.space.operators[owner]]
            return [self._bytes_of(source, output) for source, output in node.inputs]
        kind, number, output = reads[0] if reads else (GRADIENT, -1, 0)
        if kind == GRADIENT:
            return [self.gradient_bytes[number] if number >= 0 else 0]
        return [self.sizes[number][output]]


def _reuse(op: str) -> int:
    return SHARES if op in SAME else OVERWRITES if op in IN_PLACE else ALLOCATES


def _by_size(values: np.ndarray) -> tuple[np.ndarray, ...]:
    """Ranks of values among their distinct sizes, those sizes, and the ranks of blocks that are given for each."""
    sizes, ranks = np.unique(np.append(values, 0).astype(np.int64), return_inverse=True)
    smallest = np.searchsorted(sizes, np.maximum(sizes // MATCH_RANGE, 1))
    largest = np.searchsorted(sizes, sizes * MATCH_RANGE, side="right") - 1
    return ranks[:-1].astype(np.int64), sizes, smallest, largest


def _ragged(rows: Sequence[Sequence[tuple[int, ...]]], width: int) -> tuple[np.ndarray, np.ndarray]:
    starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    flat = [item for row in rows for item in row]
    return starts, np.array(flat, np.int64).reshape(len(flat), width)


def _flat(rows: Sequence[Sequence[tuple[int, ...]]]) -> tuple[np.ndarray, np.ndarray]:
    starts, items = _ragged(rows, 1)
    return starts, items[:, 0].copy()
