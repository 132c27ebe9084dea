"""Codes in networks that nobody of the zoo has drawn: the same outputs and statistics, gradients that are near."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from mxnet_networks import mx

from mxnet_memonger import compress
from mxnet_memonger.binding import quiet_binding

S = mx.sym
pytestmark = pytest.mark.filterwarnings("ignore:compress. nothing of this Symbol is coded")
SHAPE = (4, 3, 9, 8)


def convolved(values: Any, channels: int = 5, **settings: Any) -> Any:
    return S.Convolution(values, **{"num_filter": channels, "kernel": (3, 3), "pad": (1, 1), **settings})


def normed(values: Any, **settings: Any) -> Any:
    return S.BatchNorm(values, **{"fix_gamma": False, **settings})


def relu(values: Any) -> Any:
    return S.Activation(values, act_type="relu")


def pooled(values: Any, kind: str = "max", **settings: Any) -> Any:
    return S.Pooling(values, **{"kernel": (2, 2), "stride": (2, 2), "pool_type": kind, **settings})


def padded(values: Any, constant: float) -> Any:
    return S.pad(values, mode="constant", constant_value=constant, pad_width=(0, 0, 0, 0, 1, 1, 1, 1))


def unit(values: Any, channels: int = 5) -> Any:
    return relu(normed(convolved(values, channels)))


def step(sym: Any, dtype: str = "float32", given: str = "write") -> dict[str, np.ndarray]:
    """Outputs, gradients of all parameters and of the data, and moving statistics after one step."""
    mx.random.seed(5)
    names, states = sym.list_arguments(), sym.list_auxiliary_states()
    shapes, _, state_shapes = sym.infer_shape(data=SHAPE)
    arrays = {
        name: mx.nd.array(np.random.default_rng(len(name)).standard_normal(shape), dtype=dtype)
        for name, shape in zip(names, shapes, strict=True)
    }
    arrays = {name: arrays[name.removesuffix(".value")] for name in names}
    asked = {name: "null" if name.endswith(".value") else given if name == "data" else "write" for name in names}
    grads = {name: mx.nd.zeros(arrays[name].shape, dtype=dtype) for name in names if asked[name] == "write"}
    fresh = zip(states, state_shapes, strict=True)
    moving = [(mx.nd.ones if "var" in name else mx.nd.zeros)(shape, dtype=dtype) for name, shape in fresh]
    with quiet_binding():
        executor = sym.bind(mx.cpu(), args=arrays, args_grad=grads, grad_req=asked, aux_states=moving)
    outputs = executor.forward(is_train=True)
    draw = np.random.default_rng(1)
    executor.backward([mx.nd.array(draw.standard_normal(one.shape), dtype=dtype) for one in outputs])
    mx.nd.waitall()
    found = {f"output {place}": array.asnumpy() for place, array in enumerate(outputs)}
    found |= {f"gradient {name}": array.asnumpy() for name, array in grads.items()}
    return found | {f"moving {name}": array.asnumpy() for name, array in zip(states, moving, strict=True)}


def assert_near(plain: dict[str, np.ndarray], coded: dict[str, np.ndarray], bits: bool = True) -> None:
    assert plain.keys() == coded.keys()
    for name, expected in plain.items():
        found = coded[name]
        assert np.isfinite(found).all(), name
        if name.startswith("output") and bits:
            assert np.array_equal(found, expected), name
        size, most = np.linalg.norm(expected), 5e-3 if name.startswith("gradient") else 1e-4
        # A bias before a norm has the gradient 0, of which rounding leaves something.
        assert np.linalg.norm(found - expected) <= most * size + 5e-3, (name, np.linalg.norm(found - expected), size)


DATA, SHARED = S.Variable("data"), S.Variable("shared")
NETWORKS: dict[str, Callable[[], Any]] = {
    "units": lambda: convolved(unit(unit(DATA))),
    "dropout that drops nothing": lambda: convolved(S.Dropout(unit(DATA), p=0.0)),
    "dropout": lambda: convolved(S.Dropout(unit(DATA), p=0.3)),
    "dropout of channels": lambda: convolved(S.Dropout(unit(DATA), p=0.5, axes=(2, 3))),
    "a ReLU first": lambda: convolved(relu(DATA)),
    "a max pool first": lambda: convolved(pooled(DATA)),
    "an average pool first": lambda: convolved(pooled(DATA, "avg")),
    "a max pool": lambda: convolved(pooled(convolved(DATA))),
    "flat": lambda: S.FullyConnected(relu(S.Flatten(normed(convolved(DATA)))), num_hidden=3),
    "computed weights": lambda: convolved(unit(DATA), weight=S.Variable("w") * 2),
    "computed weights of data": lambda: convolved(DATA, weight=S.Variable("w") * 2),
    "a norm over weights": lambda: convolved(unit(DATA), weight=normed(S.Variable("w", shape=(5, 5, 3, 3)) * 2)),
    "padded with a constant": lambda: convolved(padded(normed(convolved(DATA)), 3.0)),
    "padded at the end": lambda: padded(normed(convolved(DATA)), 3.0),
    "data twice": lambda: S.Concat(convolved(unit(DATA)), DATA),
    "one weight twice": lambda: convolved(unit(unit(DATA)), weight=SHARED) + convolved(unit(DATA), weight=SHARED),
    "a norm's statistics": lambda: normed(convolved(DATA), output_mean_var=True),
    "running statistics": lambda: convolved(relu(normed(convolved(DATA), use_global_stats=True))),
    "rows alone": lambda: S.Convolution(S.Reshape(unit(DATA), shape=(0, 0, -1)), num_filter=3, kernel=(3,)),
    "rows, pooled": lambda: pooled(S.Reshape(unit(DATA), shape=(0, 0, -1)), kernel=(2,), stride=(2,)),
    "rows, averaged": lambda: pooled(S.Reshape(unit(DATA), shape=(0, 0, -1)), "avg", kernel=(), global_pool=True),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_stay_and_gradients_are_near(name: str) -> None:
    """The data's gradient is asked for as well: values must not be walked back a second time."""
    net = NETWORKS[name]()
    coded, plain = compress(net, "fixed:16"), step(net)
    assert_near(plain, step(coded))
    del plain["gradient data"]
    assert_near(plain, step(coded, given="null"))


class Drawing:
    """A random network."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.values = [convolved(S.Variable("data"), 6), S.Variable("data")]

    def take(self) -> Any:
        return self.values[max(self.draw.choices(range(len(self.values)), k=2))]

    def step(self) -> None:
        one = self.take()
        kinds: list[Callable[[], Any]] = [
            lambda: convolved(one, 6, num_group=1),
            lambda: unit(one, 6),
            lambda: relu(normed(one)),
            lambda: normed(one, fix_gamma=True, eps=1e-2),
            lambda: relu(one),
            lambda: S.clip(one, 0, 6),
            lambda: S.tanh(one),
            lambda: pooled(one, self.draw.choice(["max", "avg"]), kernel=(3, 3), stride=(1, 1), pad=(1, 1)),
            lambda: S.Dropout(one, p=self.draw.choice([0.0, 0.4])),
            lambda: convolved(S.Concat(one, self.take(), dim=1), 6),
            lambda: convolved(one, 6) + convolved(self.take(), 6),
            lambda: S.broadcast_mul(one, S.sigmoid(pooled(one, "avg", global_pool=True))),
            lambda: padded(S.slice(one, begin=(None, None, 1, 1), end=(None, None, -1, -1)), 0.5),
        ]
        self.values.append(self.draw.choice(kinds)())

    def network(self) -> Any:
        for _ in range(self.draw.randint(3, 9)):
            self.step()
        return S.FullyConnected(S.Flatten(self.values[-1]), num_hidden=3, name="head")


@pytest.mark.parametrize("seed", [*range(12), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(12, 150))])
def test_networks_drawn_at_random(seed: int) -> None:
    """Outputs to the bit but where MKL-DNN chooses by how arrays lie: see the support page."""
    with mx.name.NameManager():
        net = Drawing(seed).network()
    assert_near(step(net), step(compress(net, "fixed:16")), bits=False)


def test_networks_of_float64() -> None:
    for name in ("units", "a max pool", "flat"):
        net = NETWORKS[name]()
        assert_near(step(net, "float64"), step(compress(net, "fixed:16"), "float64"))


def test_what_cannot_be_compressed_is_refused_before_any_work() -> None:
    net = NETWORKS["units"]()
    for codec in ("bogus", "3", "L3", "swap", "mask", "zero:4"):
        with pytest.raises(ValueError, match="compressed="):
            compress(net, codec)
    with pytest.raises(TypeError, match="codec is needed"):
        compress(net, None)
    with pytest.raises(ValueError, match="compressed already"):
        compress(compress(net, "8"), "8")
    dense = S.FullyConnected(DATA, num_hidden=3)
    with pytest.warns(UserWarning, match="nothing of this Symbol is coded"):
        assert compress(dense, "8").list_arguments() == dense.list_arguments()
