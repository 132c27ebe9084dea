"""A process that binds what it is told on its standard input and answers on its standard output, a line each.

The first line says which network; every line after that, which of its nodes run again.
"""

from __future__ import annotations

import json
import sys

from mxnet_memonger.binding import Binder
from mxnet_memonger.costs import answer
from mxnet_memonger.numpy_names import mx
from mxnet_memonger.shapes import infer
from mxnet_memonger.symbol_graph import SymbolGraph


def main() -> None:
    """Serve until the input ends."""
    setting = json.loads(sys.stdin.readline())
    sym = mx.sym.load_json(setting["symbol"])
    shapes = {name: tuple(shape) for name, shape in setting["shapes"].items()}
    binder = Binder(sym, setting["types"], infer(sym, setting["types"], shapes, "bind_worker"))
    graph = SymbolGraph.of(sym)
    for line in sys.stdin:
        sys.stdout.write(json.dumps(answer(graph, binder, json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
