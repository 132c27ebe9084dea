"""Loops over arrays in vectors, for numba kernels: what a loop does is written once, as a formula of `Vector`s.

The compiler would make vectors of plain loops too, but with so many arrays it first asks at every start which of them
overlap, and what is left over at the end goes value by value: rows of few channels are nothing but starts and ends.
Here an array may be written only where it is read, so nothing need be asked, and the rest takes a step or two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

VECTOR_BYTES = 64
BITS = 8


class Vector:
    """Values in a vector, of float32 or float64, or truth values: its operators make the instructions."""

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder, self.value = builder, value

    def of(self, number: float) -> Vector:
        """The number in every place."""
        return Vector(self.builder, ir.Constant(self.value.type, [number] * self.value.type.count))

    def __add__(self, other: Vector) -> Vector:
        return Vector(self.builder, self.builder.fadd(self.value, other.value))

    def __sub__(self, other: Vector) -> Vector:
        return Vector(self.builder, self.builder.fsub(self.value, other.value))

    def __mul__(self, other: Vector) -> Vector:
        return Vector(self.builder, self.builder.fmul(self.value, other.value))

    def __lt__(self, other: Vector) -> Vector:
        return self._compared("<", other)

    def __le__(self, other: Vector) -> Vector:
        return self._compared("<=", other)

    def __gt__(self, other: Vector) -> Vector:
        return self._compared(">", other)

    def __ge__(self, other: Vector) -> Vector:
        return self._compared(">=", other)

    def _compared(self, how: str, other: Vector) -> Vector:
        return Vector(self.builder, self.builder.fcmp_ordered(how, self.value, other.value))


def where(condition: Vector, one: Vector, other: Vector) -> Vector:
    """`one` where the condition holds, else `other`."""
    return Vector(one.builder, one.builder.select(condition.value, one.value, other.value))


def fused(a: Vector, b: Vector, c: Vector) -> Vector:
    """a * b + c as `kernels._cpu_formats.multiply_add`: of float32 rounded once, of float64 twice."""
    kind = a.value.type
    if kind.element != ir.FloatType():
        return a * b + c
    name, signature = f"llvm.fma.v{kind.count}f32", ir.FunctionType(kind, [kind, kind, kind])
    function = cgutils.get_or_insert_function(a.builder.module, signature, name)
    return Vector(a.builder, a.builder.call(function, [a.value, b.value, c.value]))


def vector_loop(formula: Callable[..., tuple[Vector, ...]], written: int) -> Any:
    """A function loop(count, operands) for kernels.

    Args:
        formula: of one Vector an operand; gives the new values of the last `written` ones.
        written: how many arrays are written; no other operand may overlap them, but at the same places.

    The operands of a loop are float32 or float64 arrays, all of one type, of which the first `count` values are taken,
    or numbers, which are the same for all.
    """

    def loop(typing_context: Any, count: Any, operands: Any) -> Any:
        """Apply the formula to the first `count` values."""
        kind = next(one.dtype for one in operands if isinstance(one, types.Array))

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            number = context.cast(builder, arguments[0], signature.args[0], types.intp)
            made = [
                _operand(context, builder, one, builder.extract_value(arguments[1], place), kind)
                for place, one in enumerate(operands)
            ]
            _emit(builder, formula, made, written, number, VECTOR_BYTES * BITS // kind.bitwidth)
            return context.get_dummy_value()

        return types.void(count, operands), generate

    return intrinsic(loop)


def _operand(context: Any, builder: Any, kind: Any, value: Any, element: Any) -> Any:
    """Address of the first value of an array; or a number of the arrays' type."""
    if isinstance(kind, types.Array):
        return make_array(kind)(context, builder, value).data
    return context.cast(builder, value, kind, element)


def _emit(builder: Any, formula: Any, operands: list[Any], written: int, count: Any, lanes: int) -> None:
    """Whole vectors, then what is left in halves of a vector, each half of the one before."""

    def step(at: Any, lanes: int) -> None:
        places = [_place(builder, operand, at, lanes) for operand in operands]
        values = [
            Vector(builder, _everywhere(builder, operand, lanes) if place is None else _load(builder, place))
            for place, operand in zip(places, operands, strict=True)
        ]
        for place, made in zip(places[-written:], formula(*values), strict=True):
            builder.store(made.value, place, align=_align(place))

    def number(value: int) -> Any:
        return ir.Constant(ir.IntType(64), value)

    with cgutils.for_range(builder, builder.udiv(count, number(lanes))) as each:
        step(builder.mul(each.index, number(lanes)), lanes)
    while lanes > 1:
        lanes //= 2
        with builder.if_then(builder.icmp_unsigned("!=", builder.and_(count, number(lanes)), number(0))):
            step(builder.and_(count, number(-2 * lanes)), lanes)


def _place(builder: Any, operand: Any, at: Any, lanes: int) -> Any:
    """Address of the vector at an index of an array; None for a number."""
    if not isinstance(operand.type, ir.PointerType):
        return None
    kind = ir.VectorType(operand.type.pointee, lanes)
    return builder.bitcast(builder.gep(operand, [at]), kind.as_pointer())


def _load(builder: Any, place: Any) -> Any:
    return builder.load(place, align=_align(place))


def _align(place: Any) -> int:
    """Bytes: arrays lie where their elements may lie."""
    return 4 if place.type.pointee.element == ir.FloatType() else 8


def _everywhere(builder: Any, number: Any, lanes: int) -> Any:
    vector = ir.Constant(ir.VectorType(number.type, lanes), ir.Undefined)
    first = builder.insert_element(vector, number, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, vector, ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes))
