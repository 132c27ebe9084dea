"""What MXNet's memonger did before: its rule and its search, restated, for the benchmark to compare with.

After dmlc/mxnet-memonger (Chen et al. 2016, arXiv:1604.06174): walk over all outputs in order, add up their bytes, and
keep a marked one whenever more than a threshold has piled up; try thresholds around the square root of both costs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mxnet_memonger.binding import MIB, Binder
from mxnet_memonger.shapes import infer
from mxnet_memonger.symbol_graph import SymbolGraph

PARAMETERS = ("weight", "bias", "beta", "gamma")


def original_plan(graph: SymbolGraph, threshold_mib: float) -> tuple[Any, int, int]:
    """The marked Symbol, bytes of all that is kept, and of the largest stretch between."""
    mirrored: set[int] = set()
    local = kept_bytes = largest = 0
    last_stage, last_kept = "", False
    for node in graph.nodes:
        if node.name.endswith(PARAMETERS) and node.is_variable:
            continue
        local += node.output_bytes
        kept = False
        if node.stage is not None:
            if node.stage == "True" or node.stage != last_stage:
                kept = last_kept = local > threshold_mib * MIB
                last_stage = node.stage
                if kept:
                    largest, local = max(largest, local), 0
            else:
                kept = last_kept
        if kept:
            kept_bytes += node.output_bytes
        elif not node.is_variable:
            mirrored.add(node.index)
    return graph.with_mirrored(mirrored), kept_bytes, largest


def original_search(sym: Any, shapes: Mapping[str, Any], ntrial: int = 6) -> int:
    """Bytes of the best plan that the original's search finds."""
    graph = SymbolGraph.of(sym, shapes)
    binder = Binder(sym, None, infer(sym, None, shapes, "original_search"))
    threshold, least_stretch, costs = 0.0, math.inf, []
    for _ in range(3):
        planned, kept, largest = original_plan(graph, threshold)
        costs.append(binder.cost_bytes(planned))
        least_stretch = min(least_stretch, largest // MIB)
        threshold = int(math.sqrt((kept // MIB) * (largest // MIB) / 2))
    step = int((threshold * math.sqrt(2) - least_stretch) / ntrial)
    for trial in range(ntrial if step > 0 else 0):
        costs.append(binder.cost_bytes(original_plan(graph, least_stretch + step * (trial + 1))[0]))
    return min(costs)
