"""What a search found, as frozen values: the plan it chose, and the frontier of all that it saw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mxnet_memonger.binding import MIB
from mxnet_memonger.ledger import Point
from mxnet_memonger.mirror_plan import MirrorPlan, PlanSpace


@dataclass(frozen=True)
class PlanPoint:
    """One plan of a network: its memory and what it does again.

    Args:
        bytes: what MXNet allocates (activations and their gradients; parameters are outside).
        recomputed_flops: work of the forward pass that is done a second time.
        recomputed_share: the same as a share of a forward pass, 0 to 1.
        recomputed_products: the share of convolutions and matrix products that run a second time, by number.
        kept: names of the nodes whose outputs stay and are read by what runs again, in topological order.
        threshold_mib: the most that runs again at one go, in MiB: what `make_mirror_plan` calls the threshold.
    """

    bytes: int
    recomputed_flops: int
    recomputed_share: float
    recomputed_products: float
    kept: tuple[str, ...]
    threshold_mib: float
    _space: PlanSpace
    _plan: MirrorPlan

    @classmethod
    def of(cls, space: PlanSpace, point: Point) -> PlanPoint:
        """A point of a search, in words."""
        graph, mirrored = space.graph, space.mirrored(point.plan)
        total = graph.recomputed_flops(space.operators)
        there = (point.plan.kept | point.plan.copied) - mirrored | point.plan.copied
        kept = sorted(index for index in there if any(reader in mirrored for reader in space.consumers[index]))
        return cls(
            bytes=point.bytes,
            recomputed_flops=point.flops,
            recomputed_share=point.flops / total if total else 0.0,
            recomputed_products=graph.matrix_share(mirrored),
            kept=tuple(graph.nodes[index].name for index in kept),
            threshold_mib=largest_stretch_bytes(space, point.plan) / MIB,
            _space=space,
            _plan=point.plan,
        )

    def symbol(self) -> Any:
        """The network with this plan's marks."""
        return self._space.symbol(self._plan)


def largest_stretch_bytes(space: PlanSpace, plan: MirrorPlan) -> int:
    """Outputs of the largest connected run of nodes that run again."""
    graph, mirrored = space.graph, space.mirrored(plan)
    group: dict[int, int] = {}

    def root(index: int) -> int:
        while group[index] != index:
            group[index] = group[group[index]]
            index = group[index]
        return index

    for index in sorted(mirrored):
        group[index] = index
        for source, _ in graph.nodes[index].inputs:
            if source in mirrored and source not in plan.copied:
                group[root(source)] = index
    sizes: dict[int, int] = {}
    for index in mirrored:
        sizes[root(index)] = sizes.get(root(index), 0) + graph.nodes[index].output_bytes
    return max(sizes.values(), default=0)


@dataclass(frozen=True)
class PlanInfo:
    """How a search went.

    Args:
        before_bytes: of the network as it came, its own marks included.
        chosen: the plan that was returned.
        frontier: of everything that was bound, the plans none of which needs both more memory and more work than
            another, from least memory to least work.
        few_products: of everything that was bound, the plan of least memory that runs at most 70 % of the convolutions
            and matrix products again, by number. It is not on the frontier where another needs less memory and work.
        bound: how many plans were bound.
        seconds: what the search took.
    """

    before_bytes: int
    chosen: PlanPoint
    frontier: tuple[PlanPoint, ...]
    few_products: PlanPoint | None
    bound: int
    seconds: float

    def __str__(self) -> str:
        chosen = self.chosen
        return (
            f"{self.before_bytes / MIB:.0f} -> {chosen.bytes / MIB:.0f} MiB, "
            f"{100 * chosen.recomputed_share:.0f} % of a forward pass done again "
            f"({self.bound} plans bound in {self.seconds:.1f} s)"
        )
