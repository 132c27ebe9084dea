"""Lossy saving in MXNet: a Symbol rewritten so that its backward pass reads packed codes instead of activations."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from mxnet_memonger.binding import VALUE
from mxnet_memonger.codable import LINEAR, TRUE, activation_of, is_codable_norm, is_convolution, pool_of
from mxnet_memonger.coded_kinds import CONVOLUTION, ENCODE, JOIN, KINDS, MASK, MAX_POOL, UNIT
from mxnet_memonger.codes import ConvolutionShape, sizes
from mxnet_memonger.numpy_names import mx
from mxnet_memonger.saving import check_symbol
from mxnet_memonger.symbol_graph import Entry, GraphNode, SymbolGraph
from zoo.policy import MemoryPolicy
from zoo.refusals import Request, check_offered


def compress(sym: Any, codec: str, *, twins: bool = True) -> Any:
    """A copy of a Symbol with the same outputs, to the bit, which keeps codes for its backward pass.

    Coded are: inputs of BatchNorms, normalised, with their statistics and an exact mask of the ReLU (or ReLU6) after
    them, which serve a convolution behind that too; other inputs of convolutions; ReLUs behind a sum (a mask); max
    pools (positions) and average pools (nothing). What a Concat joins is coded once, however many norms read it.
    Dropout keeps its mask as it does anyway. From the first other operator (a matrix product), nothing is changed.

    The result computes values by the operators of `sym`, on parameters whose gradients nobody asks for; beside them
    runs a network of this package's operators, which carries zeros forward and gradients backward. So each parameter
    of the coded part is an argument twice: "name", which gets the gradient, and "name.value": bind the same array to
    both, and `grad_req` "null" to the second. `StepRunner` does. It is for training: without a backward pass moving
    statistics do not move, and to predict take the Symbol itself. Codes and their gradients are computed in float32,
    whatever type the network is bound with.

    Args:
        sym: stays as it is; two-dimensional convolutions and pools are coded.
        twins: False = no second arguments: each parameter is copied in the forward pass instead, so that
            `mx.mod.Module`, which cannot share arrays, trains the Symbol. The copies are in MXNet's plan.
        codec: what normalised values are coded by: "1", "2", "4", "8", "fixed:2".."fixed:16", "half", "bfloat16".

    Raises:
        TypeError: not a Symbol, or a codec that is neither a number nor a name.
        ValueError: no such codec, one that does not suit or is a scheme; a Symbol that is compressed already.

    Example:
        >>> net = mx.sym.BatchNorm(mx.sym.Convolution(mx.sym.Variable("data"), num_filter=4, kernel=(3, 3), name="a"))
        >>> compress(net, "2").list_arguments()[:3]
        ['data', 'a_weight', 'a_bias']
    """
    check_symbol(sym)
    policy = MemoryPolicy(compressed=codec)
    if policy.compressed is None:
        raise TypeError("compress: a codec is needed, such as '2' or 'fixed:6', not None")
    check_offered("mxnet", Request(policy=policy))
    graph = SymbolGraph.of(sym)
    if any(node.attributes.get("op_type", "").startswith(KINDS) for node in graph.nodes):
        raise ValueError("compress: this Symbol is compressed already: give the Symbol that it was made of")
    rewriting = _Rewriting(graph, str(policy.compressed), twins)
    found = rewriting.symbol()
    if not rewriting.flows:
        reason = "no convolution over images, nor what stands behind one"
        warnings.warn(f"compress: nothing of this Symbol is coded: there is {reason}", UserWarning, stacklevel=2)
    return found


class _Rewriting:
    """One Symbol on its way.

    Every value of the coded part is twice in the new one: as it is (in `values`), and as zeros through which its
    gradient flows (in `flows`). What is in `whole` is both at once, as in any network.
    """

    def __init__(self, graph: SymbolGraph, codec: str, twins: bool) -> None:
        self.graph, self.codec, self.twins = graph, codec, twins
        self.nodes: list[dict[str, Any]] = []
        self.values: dict[Entry, Entry] = {}
        self.flows: dict[Entry, Entry] = {}
        self.whole: dict[Entry, Entry] = {}
        self.codes: dict[tuple[Entry, float | None], list[Entry]] = {}
        self.reads: dict[Entry, Entry] = {}
        self.readers: dict[Entry, list[tuple[GraphNode, int]]] = {}
        for node in graph.nodes:
            for place, entry in enumerate(node.inputs):
                self.readers.setdefault(entry, []).append((node, place))
        self.chains = self._chains()
        self.chain_of = {index: chain for chain in self.chains.values() for index in chain}

    def symbol(self) -> Any:
        """Walk over all nodes."""
        for node in self.graph.nodes:
            if node.is_variable:
                self.whole[node.index, 0] = self._copy(node, ())
            elif self._is_coded(node):
                self._split(node)
            else:
                self._leave(node)
        heads = [[*self._joined(head), 0] for head in self.graph.heads]
        variables = [place for place, raw in enumerate(self.nodes) if raw["op"] == "null"]
        rest = {key: value for key, value in self.graph.template.items() if key != "node_row_ptr"}
        return mx.sym.load_json(json.dumps({**rest, "nodes": self.nodes, "arg_nodes": variables, "heads": heads}))

    def _is_coded(self, node: GraphNode) -> bool:
        """Whether a node is coded, or in the midst of what is: nothing but variables was left whole before it."""
        chain = self.chain_of.get(node.index)
        if chain is not None:
            sources = self.graph.nodes[chain[0]].inputs[:1]
        elif is_convolution(node) and self._is_input(node.inputs[0]):
            return True
        else:
            sources = node.inputs[: len(node.inputs) if node.op in LINEAR else 1]
        if not all(entry in self.flows for entry in sources):
            return False
        known = node.op in (*LINEAR, "Dropout") or is_convolution(node) or pool_of(node) is not None
        return chain is not None or known or bool(activation_of(node))

    def _is_input(self, entry: Entry) -> bool:
        return self.graph.nodes[entry[0]].is_variable

    def _split(self, node: GraphNode) -> None:
        entries = [self._value_of(entry) for entry in node.inputs]
        made = self._copy(node, entries)
        self.values |= {(node.index, place): (made[0], place) for place in range(3)}  # a norm has three outputs
        if node.op in LINEAR:
            self.flows[node.index, 0] = self._linear(node)
        elif node.op == "Dropout":
            self.flows[node.index, 0] = self._dropped(node, made)
        elif node.index in self.chains or node.index not in self.chain_of:
            self.flows[node.index, 0] = self._coded(node)

    def _linear(self, node: GraphNode) -> Entry:
        """The same of zeros."""
        flows = [self.flows[entry] for entry in node.inputs]
        if node.op == "Concat":
            settings = {"parts": len(flows), "dim": int(node.attributes.get("dim", 1))}
            return self._custom(JOIN, node, flows, settings)
        changed = {"constant_value": "0"} if node.op in ("pad", "Pad") else {}  # other constants are no zeros
        return self._copy(node, flows, f"{node.name}.flow", changed)

    def _dropped(self, node: GraphNode, made: Entry) -> Entry:
        """Zeros, whose gradient is multiplied by the mask that was drawn."""
        flow = self.flows[node.inputs[0]]
        if float(node.attributes.get("p", 0.5)) == 0:  # there MXNet draws none
            return flow
        shared = sizes(node.attributes.get("axes", "()"))  # which the mask has one value along
        return self._add("broadcast_mul" if shared else "elemwise_mul", f"{node.name}.flow", [flow, (made[0], 1)])

    def _leave(self, node: GraphNode) -> None:
        made = self._copy(node, [self._joined(entry) for entry in node.inputs])
        places = {place for index, place in (*self.readers, *self.graph.heads) if index == node.index}
        self.whole |= {(node.index, place): (made[0], place) for place in places | {0}}

    def _joined(self, entry: Entry) -> Entry:
        """A value with its gradient. The zeros come first: so MXNet runs either network no further than it must."""
        if entry not in self.whole:
            name = f"{self.graph.nodes[entry[0]].name}.joined"
            self.whole[entry] = self._add("elemwise_add", name, [self.flows[entry], self.values[entry]])
        return self.whole[entry]

    def _value_of(self, entry: Entry) -> Entry:
        """A value, through which no gradient goes; of a parameter the twin of which none is asked for."""
        if entry not in self.values:
            node = self.graph.nodes[entry[0]]
            reader, place = self.readers[entry][0]
            if reader.op == "BatchNorm" and place > 2:  # moving statistics
                self.values[entry] = self.whole[entry]
            elif self.twins and node.is_variable and place:
                self.values[entry] = self._copy(node, (), name=node.name + VALUE)
            else:
                self.values[entry] = self._add("BlockGrad", node.name + VALUE, [self.whole[entry]])
        return self.values[entry]

    def _chains(self) -> dict[int, tuple[int, ...]]:
        """Norms with the activation and the convolution that alone read them, by their last nodes."""
        found = {}
        for node in self.graph.nodes:
            if node.op == "BatchNorm" and is_codable_norm(node) and not self._is_input(node.inputs[0]):
                chain = [node.index]
                after = self._only_reader(node)
                if after is not None and activation_of(after):
                    chain.append(after.index)
                    after = self._only_reader(after)
                if after is not None and is_convolution(after):
                    chain.append(after.index)
                found[chain[-1]] = tuple(chain)
        return found

    def _only_reader(self, node: GraphNode) -> GraphNode | None:
        readers = self.readers.get((node.index, 0), [])
        if len(readers) != 1 or readers[0][1] != 0 or (node.index, 0) in self.graph.heads:
            return None
        return readers[0][0]

    def _coded(self, node: GraphNode) -> Entry:
        """Zeros, whose gradient becomes those of the node's inputs."""
        if node.index in self.chains:
            return self._unit(node, [self.graph.nodes[index] for index in self.chains[node.index]])
        source, own = node.inputs[0], self.values[node.index, 0]
        if is_convolution(node):
            settings: dict[str, Any] = {"convolution": ConvolutionShape.of(node.attributes).attributes}
            weights = [self.whole[entry] for entry in node.inputs[1:]]
            if self._is_input(source):
                return self._custom(CONVOLUTION, node, [self.whole[source], *weights], {**settings, "codec": None})
            inputs = [self.flows[source], *weights, *self._codes_of(source, None)]
            return self._custom(CONVOLUTION, node, inputs, {**settings, "codec": self.codec})
        if activation_of(node):
            return self._custom(MASK, node, [self.flows[source], self._read(own)], {"activation": activation_of(node)})
        pool = {key: value for key, value in node.attributes.items() if not key.startswith("__")}
        kind = str(pool_of(node))
        values = [self._read(self.values[source])] if kind == MAX_POOL else []
        return self._custom(kind, node, [self.flows[source], *values], {"pool": pool})

    def _unit(self, node: GraphNode, chain: list[GraphNode]) -> Entry:
        norm, last = chain[0], chain[-1]
        activation = next((activation_of(part) for part in chain[1:] if activation_of(part)), "identity")
        inner = chain[1] if activation != "identity" else norm
        parts = self._parts(norm.inputs[0])
        epsilon = float(norm.attributes.get("eps", 1e-3))
        settings: dict[str, Any] = {
            "activation": activation,
            "parts": len(parts),
            "codec": self.codec,
            "eps": epsilon,
            "momentum": float(norm.attributes.get("momentum", 0.9)),
            "fix_gamma": norm.attributes.get("fix_gamma", "True") in TRUE,
        }
        weights: Sequence[Entry] = ()
        if is_convolution(last):
            settings["convolution"] = ConvolutionShape.of(last.attributes).attributes
            weights = [self.whole[entry] for entry in last.inputs[1:]]
        gamma, beta, *moving = (self.whole[entry] for entry in norm.inputs[1:])
        values = [
            self._read(self.values[inner.index, 0]),
            gamma,
            beta,
            *(self.values[norm.index, place] for place in (1, 2)),
        ]
        codes = [entry for part in parts for entry in self._codes_of(part, epsilon)]
        return self._custom(UNIT, node, [self.flows[norm.inputs[0]], *values, *weights, *codes, *moving], settings)

    def _parts(self, entry: Entry) -> list[Entry]:
        """What a Concat of channels joins, or a Concat of Concats; anything else is a part of its own."""
        node = self.graph.nodes[entry[0]]
        lifted = self._lifted(node)
        if node.op == "Concat" and int(node.attributes.get("dim", 1)) == 1:
            return [part for source in node.inputs for part in self._parts(source)]
        if lifted is not None:
            return [part for source in lifted for part in self._parts(source)]
        return [entry]

    def _lifted(self, node: GraphNode) -> list[Entry] | None:
        """What `layers.concatenated` joins in five dimensions."""
        if node.op != "Reshape" or node.attributes.get("shape") != "(-3, -2)":
            return None
        joined = self.graph.nodes[node.inputs[0][0]]
        if joined.op != "Concat" or joined.attributes.get("dim") != "2":
            return None
        sources = [self.graph.nodes[index] for index, _ in joined.inputs]
        return [source.inputs[0] for source in sources] if all(one.op == "expand_dims" for one in sources) else None

    def _codes_of(self, entry: Entry, epsilon: float | None) -> list[Entry]:
        """Codes and statistics of a value; made once."""
        if (entry, epsilon) not in self.codes:
            name = f"{self.graph.nodes[entry[0]].name}.{entry[1]}"
            settings = {"codec": self.codec, "eps": epsilon, "name": name}
            made, _ = self._custom(ENCODE, name, [self._read(self.values[entry])], settings)
            self.codes[entry, epsilon] = [(made, 0), (made, 1)]
        return self.codes[entry, epsilon]

    def _read(self, entry: Entry) -> Entry:
        """A value as an operator of Python's reads it, in the usual layout.

        From an array that MKL-DNN laid out its own way, MXNet makes such an operator a copy that is in no plan, and
        holds it beside the array until the next step. A Reshape makes that copy in the plan.
        """
        if entry not in self.reads:
            name = f"{self.nodes[entry[0]]['name']}.{entry[1]}.read"
            self.reads[entry] = self._add("Reshape", name, [entry], {"shape": "(-2,)"})
        return self.reads[entry]

    def _custom(self, kind: str, node: GraphNode | str, inputs: list[Entry], settings: Mapping[str, Any]) -> Entry:
        name = node if isinstance(node, str) else node.name
        return self._add("Custom", f"{name}.{kind}", inputs, {"op_type": kind, "settings": json.dumps(dict(settings))})

    def _copy(
        self, node: GraphNode, inputs: Sequence[Entry], name: str = "", changed: Mapping[str, str] | None = None
    ) -> Entry:
        raw = dict(self.graph.template["nodes"][node.index])
        if changed:
            raw["attrs"] = {**raw["attrs"], **changed}
        return self._put({**raw, "name": name or node.name, "inputs": [[*entry, 0] for entry in inputs]})

    def _add(self, op: str, name: str, inputs: Sequence[Entry], attributes: Mapping[str, str] | None = None) -> Entry:
        raw = {"op": op, "name": name, "inputs": [[*entry, 0] for entry in inputs]}
        return self._put({**raw, "attrs": dict(attributes)} if attributes else raw)

    def _put(self, raw: dict[str, Any]) -> Entry:
        self.nodes.append(raw)
        return len(self.nodes) - 1, 0
