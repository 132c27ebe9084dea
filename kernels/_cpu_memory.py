"""Asking for memory before it is used, inside numba kernels: a processor that waits for it does nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from kernels._cpu_threads import jit_inline

# This many values ahead, but 16 rows at most.
VALUES_AHEAD = 512
ROWS_AHEAD = 16
LINE_BYTES = 64


def _fetch_line(typing_context: Any, row: Any, at: Any) -> Any:
    """Ask for the part of memory that holds row[at], which may lie behind the row's end."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = make_array(signature.args[0])(context, builder, arguments[0]).data
        index = context.cast(builder, arguments[1], signature.args[1], types.intp)
        place, number = builder.bitcast(builder.gep(data, [index]), ir.IntType(8).as_pointer()), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [place.type, number, number, number])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [place, *(ir.Constant(number, one) for one in (0, 3, 1))])  # to read, to keep, data
        return context.get_dummy_value()

    return types.void(row, at), generate


fetch_line: Any = intrinsic(_fetch_line)


@jit_inline
def fetch_span(row: np.ndarray, at: int, count: int) -> None:
    """Ask for row[at:at + count], which need not exist. (`range` with a step would first divide.)"""
    place, last = at, at + count - 1
    while place < last:
        fetch_line(row, place)
        place += LINE_BYTES // row.itemsize
    fetch_line(row, last)


@jit_inline
def rows_ahead(length: int) -> int:
    """How many units before their turn units of this length are asked for."""
    return max(1, min(ROWS_AHEAD, VALUES_AHEAD // max(length, 1)))
