"""Find a plan that trains an unrolled LSTM in less memory: `python examples/mxnet_lstm_search.py`.

The states of each time step carry the step's number as their stage: together they are one place to cut. The search
finds such places by itself as well.
"""

from __future__ import annotations

import argparse
from typing import Any, NamedTuple

from mxnet_memonger import memonger
from mxnet_memonger.numpy_names import mx


class Layer(NamedTuple):
    """Weights that all time steps of a layer share."""

    input_weight: Any
    input_bias: Any
    state_weight: Any
    state_bias: Any


def lstm_step(inputs: Any, cell: Any, state: Any, layer: Layer, hidden: int, step: int, name: str) -> tuple[Any, Any]:
    """One time step of one layer: the next cell and the next state."""
    read = mx.sym.FullyConnected(
        inputs, weight=layer.input_weight, bias=layer.input_bias, num_hidden=4 * hidden, name=f"{name}_i2h"
    )
    kept = mx.sym.FullyConnected(
        state, weight=layer.state_weight, bias=layer.state_bias, num_hidden=4 * hidden, name=f"{name}_h2h"
    )
    gates = mx.sym.SliceChannel(read + kept, num_outputs=4, name=f"{name}_slice")
    write, forget, output = (mx.sym.Activation(gates[place], act_type="sigmoid") for place in (0, 2, 3))
    cell = forget * cell + write * mx.sym.Activation(gates[1], act_type="tanh")
    state = output * mx.sym.Activation(cell, act_type="tanh")
    for value in (cell, state):
        value._set_attr(mirror_stage=str(step))
    return cell, state


def network(
    steps: int, layers: int, hidden: int, batch: int, inputs: int = 50, classes: int = 5000
) -> tuple[Any, dict[str, tuple[int, ...]]]:
    """The unrolled network with a loss at every step, and the shapes of its inputs."""
    names = ("i2h_weight", "i2h_bias", "h2h_weight", "h2h_bias")
    stack = [Layer(*(mx.sym.Variable(f"l{number}_{name}") for name in names)) for number in range(layers)]
    embedding, weight, bias = (mx.sym.Variable(name) for name in ("embed_weight", "cls_weight", "cls_bias"))
    cells = [mx.sym.Variable(f"l{number}_init_c") for number in range(layers)]
    states = [mx.sym.Variable(f"l{number}_init_h") for number in range(layers)]
    shapes: dict[str, tuple[int, ...]] = {f"l{n}_init_{kind}": (batch, hidden) for n in range(layers) for kind in "ch"}
    losses = []
    for step in range(steps):
        values = mx.sym.Variable(f"t{step}_data")
        values = mx.sym.FullyConnected(values, weight=embedding, no_bias=True, num_hidden=hidden, name=f"t{step}_embed")
        for number, layer in enumerate(stack):
            name = f"t{step}_l{number}"
            cells[number], states[number] = lstm_step(values, cells[number], states[number], layer, hidden, step, name)
            values = states[number]
        scores = mx.sym.FullyConnected(values, weight=weight, bias=bias, num_hidden=classes, name=f"t{step}_cls")
        losses.append(mx.sym.softmax_cross_entropy(scores, mx.sym.Variable(f"t{step}_label"), name=f"t{step}_loss"))
        shapes |= {f"t{step}_data": (batch, inputs), f"t{step}_label": (batch,)}
    return mx.sym.Group([*losses, *(mx.sym.BlockGrad(value) for value in (*cells, *states))]), shapes


def main() -> None:
    """Search, and print what it brings."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("steps", 1000), ("layers", 4), ("hidden", 1024), ("batch", 64), ("ntrial", 6)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    net, shapes = network(given.steps, given.layers, given.hidden, given.batch)
    planned = memonger.search_plan(net, ntrial=given.ntrial, **shapes)
    print(f"before: {memonger.get_cost(net, **shapes)} MB")
    print(f"after:  {memonger.get_cost(planned, **shapes)} MB")


if __name__ == "__main__":
    main()
