"""MXNet's memory planner, replayed, tells what MXNet itself tells: to a few percent, for any plan of a network."""

from __future__ import annotations

import random
from typing import Any

import pytest
from mxnet_networks import dense_network, mx, residual_network

from mxnet_memonger import memonger
from mxnet_memonger.mirror_plan import Choice
from mxnet_memonger.replay import Replay, sections

SHAPES = {"data": (16, 3, 32, 32)}


def opened(sym: Any, shapes: dict[str, Any]) -> Any:
    return memonger._Opened.of(memonger._Task("test", sym, None, shapes))


@pytest.mark.parametrize("build", [residual_network, dense_network])
def test_any_plan_is_replayed_to_a_few_percent(build: Any) -> None:
    found = opened(build(), SHAPES)
    replay = Replay(found.space, found.unplanned.debug_text)
    draw, errors = random.Random(0), []
    for _ in range(12):
        outputs = frozenset(index for index in found.space.operators if draw.random() < 0.3)
        plan = found.space.keeping(outputs, frozenset(index for index in outputs if draw.random() < 0.5))
        told = found.binder.cost_bytes(found.space.symbol(plan))
        errors.append(abs(replay.bytes_of(plan) / told - 1))
        assert replay.flops_of(plan) == found.space.flops(plan)
    assert max(errors) < 0.12
    assert sorted(errors)[6] < 0.03


def test_a_chain_is_replayed_by_hand() -> None:
    """Three products of one MiB each: all are held, and two gradients at a time."""
    values = mx.sym.Variable("data")
    for layer in range(3):
        values = mx.sym.FullyConnected(values, num_hidden=1024, name=f"fc{layer}")
    found = opened(values, {"data": (256, 1024)})
    replay = Replay(found.space, found.unplanned.debug_text)
    everything = found.space.everything_kept
    told = found.binder.cost_bytes(found.space.symbol(everything))
    assert 0 <= replay.bytes_of(everything) - told <= 2**20  # the output's own gradient, which the caller gives
    assert replay.flops_of(everything) == 0
    nothing = found.space.keeping(Choice(frozenset()).outputs)
    assert replay.flops_of(nothing) >= 2 * 2 * 256 * 1024 * 1024
    assert [name for _, name, _ in sections(found.unplanned.debug_text)].index("fc2") > 0
