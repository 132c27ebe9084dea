"""Reading and writing of every floating-point format inside numba kernels, which know only float32 and float64.

bfloat16 comes as uint16 bits, float16 as int16 bits, so that the array's type tells them apart.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload
from numba.np.arrayobj import make_array, populate_array

from kernels._cpu_threads import jit

F16_LARGEST = np.float32(65504.0)
BF16_LARGEST = np.float32(float.fromhex("0x1.fep127"))
F32_INFINITY = np.float32(np.inf)


def _bits_of(typing_context: Any, value: Any) -> Any:
    """The bits of a float32 as int32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.int32(types.float32), generate


def _float_of(typing_context: Any, value: Any) -> Any:
    """The float32 of int32 bits."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


def _multiply_add(typing_context: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c: of float32 rounded once, by the processor's own instruction; of float64 rounded twice."""
    kind = types.float32 if a == b == c == types.float32 else types.float64

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        x, y, z = arguments
        return builder.fma(x, y, z) if kind == types.float32 else builder.fadd(builder.fmul(x, y), z)

    return kind(kind, kind, kind), generate


bits_of: Any = intrinsic(_bits_of)
float_of: Any = intrinsic(_float_of)
multiply_add: Any = intrinsic(_multiply_add)


@jit
def f16_value(bits: Any) -> Any:
    """float32 of float16 bits (int16)."""
    wide = np.int32(bits)
    magnitude = (wide & np.int32(0x7FFF)) << np.int32(13)
    # The exponent's bias differs by 112; multiplying also makes subnormals right.
    value = float_of(magnitude) * np.float32(2.0**112)
    exponent = np.int32(0x7F800000) if (wide & np.int32(0x7C00)) == np.int32(0x7C00) else np.int32(0)
    sign = (wide & np.int32(0x8000)) << np.int32(16)
    return float_of(bits_of(value) | exponent | sign)


@jit
def f16_bits(value: Any) -> Any:
    """float16 bits (int16) of a float32, rounded to nearest, ties to even."""
    bits = bits_of(value)
    sign = (bits >> np.int32(16)) & np.int32(0x8000)
    size = bits & np.int32(0x7FFFFFFF)
    # Below 2^-14 the sum with 0.5 has exactly the spacing of float16's subnormals.
    small = bits_of(float_of(size) + np.float32(0.5)) - np.int32(0x3F000000)
    odd = (size >> np.int32(13)) & np.int32(1)
    rounded = (size - np.int32(0x38000000) + np.int32(0xFFF) + odd) >> np.int32(13)
    result = small if size < np.int32(0x38800000) else rounded
    result = np.int32(0x7C00) if size >= np.int32(0x477FF000) else result
    result = np.int32(0x7E00) if size > np.int32(0x7F800000) else result
    return np.int16(result | sign)


@jit
def bf16_value(bits: Any) -> Any:
    """float32 of bfloat16 bits (uint16)."""
    return float_of(np.int32(np.uint32(bits) << np.uint32(16)))


@jit
def bf16_bits(value: Any) -> Any:
    """bfloat16 bits (uint16) of a float32, rounded to nearest, ties to even."""
    bits = np.uint32(bits_of(value))
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.uint16(0x7FC0) if (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000) else np.uint16(rounded)


@jit
def bf16_down_bits(value: Any) -> Any:
    """bfloat16 bits (uint16) of a float32 that is no NaN, rounded towards minus infinity."""
    bits = np.uint32(bits_of(value))
    away = np.uint32(0xFFFF) if bits >> np.uint32(31) else np.uint32(0)
    return np.uint16((bits + away) >> np.uint32(16))


@jit
def bf16_up_bits(value: Any) -> Any:
    """bfloat16 bits (uint16) of a float32 >= 0, rounded towards plus infinity."""
    return np.uint16((np.uint32(bits_of(value)) + np.uint32(0xFFFF)) >> np.uint32(16))


@jit
def limited(value: Any, limit: Any, saturate: bool) -> Any:
    """A finite value cut off at the limit, if asked."""
    if saturate and abs(value) < F32_INFINITY:
        return max(min(value, limit), -limit)
    return value


def _window(typing_context: Any, row: Any, first: Any, count: Any, buffer: Any) -> Any:
    """Where to compute with `count` values: row[first:first + count] if it has the buffer's type, else buffer[:count].

    Which of the two it is, the types decide. (A compiled function without reference counts cannot return a view.)
    """
    direct = row.dtype == buffer.dtype
    result = types.Array((row if direct else buffer).dtype, 1, "C")

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source = signature.args[0 if direct else 3]
        whole = make_array(source)(context, builder, arguments[0 if direct else 3])
        index = [context.cast(builder, arguments[1], signature.args[1], types.intp)] if direct else []
        made = make_array(result)(context, builder)
        populate_array(
            made,
            data=builder.gep(whole.data, index) if direct else whole.data,
            shape=[context.cast(builder, arguments[2], signature.args[2], types.intp)],
            strides=[whole.itemsize],
            itemsize=whole.itemsize,
            meminfo=None,
        )
        return made._getvalue()

    return result(row, first, count, buffer), generate


window: Any = intrinsic(_window)


def load(row: Any, first: int, count: int, buffer: Any) -> None:
    """Convert `count` values of the row, from `first` on, into the buffer, unless it has the row's type."""
    raise NotImplementedError("for compiled code only")


def store(row: Any, first: int, count: int, buffer: Any, saturate: bool) -> None:
    """Round `count` values of the buffer into the row, from `first` on, unless it has the row's type."""
    raise NotImplementedError("for compiled code only")


def _no_load(row: Any, first: Any, count: Any, buffer: Any) -> Any:
    return None


def _no_store(row: Any, first: Any, count: Any, buffer: Any, saturate: Any) -> Any:
    return None


@overload(load)
def _load(row: Any, first: Any, count: Any, buffer: Any) -> Any:
    if row.dtype == buffer.dtype:
        return _no_load
    convert = {types.int16: f16_value, types.uint16: bf16_value}.get(row.dtype, np.float32)

    def converted(row: Any, first: Any, count: Any, buffer: Any) -> Any:
        source = row[first : first + count]
        for j in range(count):
            buffer[j] = convert(source[j])

    return converted


@overload(store)
def _store(row: Any, first: Any, count: Any, buffer: Any, saturate: Any) -> Any:
    if row.dtype == buffer.dtype:
        return _no_store
    if row.dtype == types.float64:

        def widened(row: Any, first: Any, count: Any, buffer: Any, saturate: Any) -> Any:
            target = row[first : first + count]
            for j in range(count):
                target[j] = buffer[j]

        return widened
    convert, limit = (f16_bits, F16_LARGEST) if row.dtype == types.int16 else (bf16_bits, BF16_LARGEST)

    def narrowed(row: Any, first: Any, count: Any, buffer: Any, saturate: Any) -> Any:
        target = row[first : first + count]
        for j in range(count):
            target[j] = convert(limited(buffer[j], limit, saturate))

    return narrowed


def computable(array: np.ndarray, name: str) -> np.ndarray:
    """The array with the type kernels know: float16 as int16 bits, bfloat16 as uint16 bits."""
    kinds = {"float16": np.int16, "bfloat16": np.uint16}
    return array.view(kinds[name]) if name in kinds else array
