"""The inputs' shapes and types: found where the Symbol carries them, asked for by name where it does not."""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mxnet_memonger.numpy_names import mx
from mxnet_memonger.saving import check_symbol
from zoo.choices import unknown

MOST_VALUES = 2**31 - 1  # of one array: this MXNet is built without large tensors
_PARAMETERS = (
    "weight",
    "bias",
    "gamma",
    "beta",
    "moving_mean",
    "moving_var",
    "running_mean",
    "running_var",
    "parameters",
)
_RECURRENT_PARAMETER = re.compile(r".*(weight|bias)_[ih]h_l\d+(_reverse)?")
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class BoundShapes:
    """Shape and type of everything a Symbol is bound to.

    Args:
        given: of the inputs, as given; with those the Symbol carries, all others follow from them.
        arguments, auxiliary: of the Symbol's arguments and auxiliary states, in its order.
        argument_types, auxiliary_types: NumPy types, in the same order.
        largest: values of the largest array anywhere in the network.
    """

    given: Shapes
    arguments: tuple[tuple[int, ...], ...]
    auxiliary: tuple[tuple[int, ...], ...]
    argument_types: tuple[Any, ...]
    auxiliary_types: tuple[Any, ...]
    largest: int


def infer(sym: Any, type_dict: Mapping[str, Any] | None, given: Mapping[str, Any], caller: str) -> BoundShapes:
    """Find every shape and type, or say what is missing.

    Args:
        sym: the network.
        type_dict: types of inputs by name; float32 where none is given.
        given: shapes of inputs by name; not needed where Variables carry them.
        caller: the public function's name, for messages.

    Raises:
        TypeError: not a Symbol; a shape that is no sequence of integers.
        ValueError: an input that does not exist, with the nearest; shapes that do not fit together; shapes missing,
            with the inputs' names; a network that reads nothing.
    """
    check_symbol(sym)
    names = sym.list_arguments()
    if not names:
        raise ValueError(f"{caller}: the symbol reads no input and has no parameter: there is nothing to train or plan")
    for name in (*given, *(type_dict or ())):
        if name not in names:
            inputs = [known for known in names if not _is_parameter(known)] or names
            raise ValueError(f"{caller}: {unknown('input', name, inputs)}")
    for name, kind in (type_dict or {}).items():
        _check_type(caller, name, kind)
    shapes = {name: _shape(caller, name, value) for name, value in given.items()}
    try:
        arguments, outputs, auxiliary = sym.infer_shape_partial(**shapes)
        internal = sym.get_internals().infer_shape_partial(**shapes)[1]
    except mx.MXNetError as error:
        raise ValueError(f"{caller}: shapes {shapes} do not fit the network: {_reason(error)}") from error
    if not all(_known(shape) for shape in (*arguments, *outputs, *auxiliary, *internal)):
        missing = _missing(names, arguments, shapes)
        example = ", ".join(f"{name}=(…)" for name in missing)
        raise ValueError(f"{caller}: give the shapes of {', '.join(missing)}: {caller}(sym, {example})")
    types = _types(sym, type_dict or {}, shapes)
    return BoundShapes(
        shapes,
        tuple(map(tuple, arguments)),
        tuple(map(tuple, auxiliary)),
        tuple(kind or np.float32 for kind in types[0]),
        tuple(kind or np.float32 for kind in types[2]),
        max(math.prod(shape) for shape in (*internal, *arguments, *auxiliary)),
    )


def fill(bound: Any, given: Any, where: str, advice: str = "") -> None:
    """Copy values into a bound array, which MXNet would spread over it where they have another shape.

    Raises:
        ValueError: another shape than the bound array's.
    """
    shape = tuple(getattr(given, "shape", ()))
    if shape != tuple(bound.shape):
        more = f": {advice}" if advice else ""
        raise ValueError(f"{where} has the shape {shape}, but this step is bound for {tuple(bound.shape)}{more}")
    bound[:] = given


def scaled_up(sym: Any, type_dict: Mapping[str, Any] | None, bound: BoundShapes, most: int) -> tuple[BoundShapes, int]:
    """The same network with the batch `most` times as large, or as many times as is possible; and how many times.

    Only where every size but the parameters' grows with it: then a figure in whole megabytes, divided, is as many
    times finer.
    """
    carried = dict(_carried(sym))
    inputs = {**carried, **bound.given}
    if not inputs or not all(inputs.values()):
        return bound, 1
    sizes = _feature_values(sym, inputs)
    factor = most
    while factor > 1:
        if factor * bound.largest <= MOST_VALUES:
            larger = {name: (shape[0] * factor, *shape[1:]) for name, shape in inputs.items()}
            with contextlib.suppress(ValueError, mx.MXNetError):
                scaled = infer(_without_shapes(sym), type_dict, larger, "scaled_up")
                grown = _feature_values(_without_shapes(sym), larger)
                if (
                    _only_the_batch_grew(bound, scaled, factor)
                    and 0.99 * factor * sizes <= grown <= 1.01 * factor * sizes
                ):
                    return scaled, factor
        factor //= 2
    return bound, 1


def _only_the_batch_grew(small: BoundShapes, large: BoundShapes, factor: int) -> bool:
    """Whether every argument is as before (a parameter) or has its first size multiplied (an input, a label)."""
    pairs = zip((*small.arguments, *small.auxiliary), (*large.arguments, *large.auxiliary), strict=True)
    return all(after in (before, (before[0] * factor, *before[1:])) for before, after in pairs)


def _feature_values(sym: Any, inputs: Shapes) -> int:
    internals = sym.get_internals()
    variables = {*sym.list_arguments(), *sym.list_auxiliary_states()}
    shapes = internals.infer_shape(**inputs)[1]
    named = zip(internals.list_outputs(), shapes, strict=True)
    return sum(math.prod(shape) for name, shape in named if name not in variables)


def _carried(sym: Any) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Inputs (not parameters) whose Variables carry a shape."""
    for raw in json.loads(sym.tojson())["nodes"]:
        shape = raw.get("attrs", {}).get("__shape__")
        if raw["op"] == "null" and shape and not _is_parameter(raw["name"]):
            yield raw["name"], tuple(int(size) for size in shape.strip("()[] ").split(",") if size.strip())


def _without_shapes(sym: Any) -> Any:
    """The Symbol without the shapes that its inputs carry."""
    content = json.loads(sym.tojson())
    carried = dict(_carried(sym))
    for raw in content["nodes"]:
        if raw["name"] in carried:
            del raw["attrs"]["__shape__"]
    return mx.sym.load_json(json.dumps(content)) if carried else sym


def _types(sym: Any, given: Mapping[str, Any], shapes: Shapes) -> tuple[Any, ...]:
    """What `sym.infer_type` gives; inputs of which nothing is known are float32, as they are for `simple_bind`."""
    try:
        return tuple(sym.infer_type_partial(**given))
    except mx.MXNetError:  # an operator (Embedding) that refuses to guess
        return tuple(sym.infer_type_partial(**{**dict.fromkeys(shapes, np.float32), **given}))


def _known(shape: tuple[int, ...] | None) -> bool:
    # -1 or 0 stands for an unknown size, () or None for an unknown shape, by MXNet's two ways of counting.
    return shape is not None and len(shape) > 0 and all(size > 0 for size in shape)


def _is_parameter(name: str) -> bool:
    return name.endswith(_PARAMETERS) or _RECURRENT_PARAMETER.fullmatch(name) is not None


def _missing(names: list[str], found: Any, given: Shapes) -> list[str]:
    """The inputs to ask for: of those unknown, no parameters and no labels, which follow from the others."""
    unknown_names = [
        name for name, shape in zip(names, found, strict=True) if name not in given and not _known(shape)
    ] or list(names)
    inputs = [name for name in unknown_names if not _is_parameter(name)]
    return [name for name in inputs if not name.endswith("label")] or inputs or unknown_names


def _shape(caller: str, name: str, value: Any) -> tuple[int, ...]:
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        raise TypeError(f"{caller}: {name} must be a shape such as (32, 3, 224, 224), not {value!r}")
    sizes = tuple(value)
    if not all(isinstance(size, int | np.integer) and not isinstance(size, bool) for size in sizes):
        raise TypeError(f"{caller}: {name} must be a shape of integers, not {value!r}")
    sizes = tuple(map(int, sizes))
    if not sizes or min(sizes) < 1:
        raise ValueError(f"{caller}: {name} must be a shape of sizes of at least 1, not {value!r}")
    return sizes


def _check_type(caller: str, name: str, kind: Any) -> None:
    try:
        np.dtype(kind)
    except TypeError as error:
        raise TypeError(f"{caller}: type_dict: {name} must be a type such as 'float32', not {kind!r}") from error


def _reason(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if "Error in operator" in line or "Check failed" in line]
    return (told or lines or [type(error).__name__])[-1].strip()
