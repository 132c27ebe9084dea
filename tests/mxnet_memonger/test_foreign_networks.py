"""Networks nobody here has drawn: whatever they are made of, a plan computes the same and needs no more."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from mxnet_networks import assert_same_bits, mx, step_results

from mxnet_memonger import memonger
from mxnet_memonger.binding import plan_bytes
from mxnet_memonger.saving import mirrored_names
from mxnet_memonger.symbol_graph import SymbolGraph

READERS = 2  # of one value: MXNet adds up to two gradients in one order alone
OF_MXNET = "could not construct a sub-memory"  # what MKL-DNN says to some networks, planned or not


class Twice(mx.operator.CustomOp):  # type: ignore[name-defined]
    def forward(self, is_train: bool, req: Any, in_data: Any, out_data: Any, aux: Any) -> None:
        self.assign(out_data[0], req[0], 2 * in_data[0])

    def backward(self, req: Any, out_grad: Any, in_data: Any, out_data: Any, in_grad: Any, aux: Any) -> None:
        self.assign(in_grad[0], req[0], 2 * out_grad[0])


@mx.operator.register("test_twice")
class TwiceKind(mx.operator.CustomOpProp):  # type: ignore[name-defined]
    def create_operator(self, ctx: Any, shapes: Any, types: Any) -> Twice:
        return Twice()


class Drawing:
    """A random network of values (N, 12, 6, 6), each read at most so many times."""

    def __init__(self, seed: int) -> None:
        self.draw, self.number = random.Random(seed), 0
        self.shared = [mx.sym.Variable(f"shared{place}_weight", shape=(12, 12, 3, 3)) for place in range(2)]
        self.values: list[Any] = [mx.sym.Variable("data")]
        self.left: list[int] = [READERS]

    def take(self) -> Any:
        """A value that may still be read; the latest most often."""
        open_ones = [place for place, left in enumerate(self.left) if left]
        place = open_ones[max(self.draw.choices(range(len(open_ones)), k=3))]
        self.left[place] -= 1
        return self.values[place]

    def convolution(self, name: str) -> Any:
        weight = {"weight": self.draw.choice(self.shared)} if self.draw.random() < 0.5 else {}
        groups = 1 if weight else self.draw.choice([1, 3, 12])
        settings = {"num_filter": 12, "kernel": (3, 3), "pad": (1, 1), "num_group": groups, "no_bias": True}
        return mx.sym.Convolution(self.take(), **weight, **settings, name=name)

    def step(self) -> None:
        self.number += 1
        name = f"n{self.number}"
        kinds = [
            lambda: self.convolution(name),
            lambda: mx.sym.BatchNorm(self.take(), fix_gamma=False, name=name),
            lambda: mx.sym.Activation(self.take(), act_type=self.draw.choice(["relu", "tanh"]), name=name),
            lambda: mx.sym.Dropout(self.take(), p=0.3, name=name),
            lambda: mx.sym.Custom(self.take(), op_type="test_twice", name=name),
            lambda: mx.sym.broadcast_mul(self.take(), mx.sym.sigmoid(self.take()), name=name),
            lambda: mx.sym.BlockGrad(self.take(), name=name),
            lambda: mx.sym.LeakyReLU(self.take(), act_type="leaky", name=name),
            lambda: self.take() + self.take(),
            lambda: self.halves(name),
        ]
        self.values.append(self.draw.choice(kinds if self.left.count(0) < len(self.left) - 1 else kinds[:5])())
        self.left.append(READERS)

    def halves(self, name: str) -> Any:
        parts = mx.sym.SliceChannel(self.take(), num_outputs=2, axis=1, name=f"{name}_parts")
        return mx.sym.Concat(parts[1], mx.sym.tanh(parts[0]), dim=1, name=name)

    def network(self, steps: int) -> Any:
        """With a loss on all that nobody has read, and a second output."""
        for _ in range(steps):
            self.step()
        unread = [value for value, left in zip(self.values, self.left, strict=True) if left == READERS]
        loss = mx.sym.MakeLoss(mx.sym.sum(mx.sym.square(mx.sym.add_n(*unread)), name="sum"), name="loss")
        return mx.sym.Group([loss, mx.sym.BlockGrad(unread[-1], name="scores")])


def different_operators(sym: Any) -> int:
    """How many operators MXNet makes: of those that compute the same, and are to be run again alike, but one."""
    same: dict[Any, int] = {}
    firsts: list[int] = []
    for node in SymbolGraph.of(sym).nodes:
        inputs = tuple((firsts[source], output) for source, output in node.inputs)
        is_own = node.is_variable or node.op in ("Dropout", "Custom")
        key = node.name if is_own else (node.op, tuple(sorted(node.attributes.items())), inputs)
        place = firsts[node.inputs[0][0]] if node.op == "_copy" else same.setdefault(key, node.index)
        firsts.append(place)
    return len(same)


def check(sym: Any, shapes: dict[str, Any], *, exactly: bool = True) -> Any:
    """The plan, once it is seen to compute what the network does in no more bytes.

    Where a plan runs but one of two equal operators again, MXNet adds up gradients in another order.
    """
    planned = memonger.search_plan(sym, 1, workers=0, **shapes)
    assert plan_bytes(planned, None, shapes) <= plan_bytes(sym, None, shapes)
    names = [(one.list_arguments(), one.list_auxiliary_states(), one.list_outputs()) for one in (planned, sym)]
    assert names[0] == names[1]
    expected, found = step_results(sym, shapes, steps=2), step_results(planned, shapes, steps=2)
    if exactly and different_operators(planned) == different_operators(sym):
        assert_same_bits(found, expected)
    for name, array in expected.items():
        assert np.allclose(found[name], array, rtol=1e-4, atol=1e-6 * np.abs(array).max()), name
    return planned


@pytest.fixture(autouse=True)
def _short_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memonger, "WORK_A_TRIAL", 1500)


@pytest.mark.parametrize("seed", range(6))
def test_a_random_network_computes_the_same_in_no_more_bytes(seed: int) -> None:
    sym = Drawing(seed).network(14)
    planned = check(sym, {"data": (3, 12, 6, 6)})
    again = set(mirrored_names(planned))
    assert not [node.name for node in SymbolGraph.of(planned).nodes if node.op == "Custom" and node.name in again]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6, 60))
def test_many_random_networks_do(seed: int) -> None:
    sym, shapes = Drawing(seed).network(30), {"data": (3, 12, 6, 6)}
    try:
        step_results(sym, shapes, steps=1)
    except mx.MXNetError as error:
        if OF_MXNET not in str(error):
            raise
        pytest.skip(f"MXNet cannot run this network, unplanned: {OF_MXNET}")
    check(sym, shapes)


def test_of_two_equal_operators_mxnet_makes_one() -> None:
    values = mx.sym.tanh(mx.sym.Variable("data"), name="values")
    twins = [mx.sym.LeakyReLU(values, act_type="leaky", name=name) for name in ("one", "other")]
    alone = mx.sym.LeakyReLU(values, act_type="leaky", slope=0.1, name="alone")
    sym = mx.sym.add_n(*twins, alone)
    assert different_operators(sym) == 5  # with the input
    assert sym.simple_bind(mx.cpu(), data=(2, 3)).debug_str().count("Op:LeakyReLU") == 2
    planned = memonger.mirror(sym, lambda node: node.name == "one")
    assert different_operators(planned) == 6
    assert planned.simple_bind(mx.cpu(), data=(2, 3)).debug_str().count("Op:LeakyReLU") == 4  # one runs again


def test_integers_are_embedded() -> None:
    weight = mx.sym.Variable("embedding_weight")
    parts = mx.sym.SliceChannel(
        mx.sym.BlockGrad(mx.sym.Variable("data")), num_outputs=3, squeeze_axis=True, name="steps"
    )
    values = [mx.sym.Embedding(parts[step], weight=weight, input_dim=7, output_dim=5) for step in range(3)]
    scores = mx.sym.FullyConnected(mx.sym.tanh(values[0] * values[1] + values[2]), num_hidden=5, name="fc")
    check(mx.sym.SoftmaxOutput(scores, name="softmax"), {"data": (6, 3)})


def test_one_operator_and_none_with_parameters() -> None:
    data = mx.sym.Variable("data")
    check(mx.sym.MakeLoss(mx.sym.square(data)), {"data": (4, 3)})
    check(mx.sym.MakeLoss(mx.sym.sum(mx.sym.exp(mx.sym.tanh(mx.sym.sin(data))))), {"data": (64, 33)})


def test_a_value_that_many_read_is_the_same_but_for_last_bits() -> None:
    values = mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=16, name="first")
    parts = [mx.sym.tanh(mx.sym.FullyConnected(values, num_hidden=16, name=f"fc{place}")) for place in range(5)]
    check(mx.sym.MakeLoss(mx.sym.sum(mx.sym.add_n(*parts))), {"data": (8, 16)}, exactly=False)
