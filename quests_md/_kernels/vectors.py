"""Vectors of float32 in the language of LLVM, to build intrinsics of numba from.

A builder writes instructions; pointers and values are what these compute. Kernels that are made of them are compiled
without the usual flags of `kernel`: reassociation would undo the rounding in `exponential`.
"""
# mypy: allow-untyped-calls, disable-error-code="import-untyped, attr-defined"

import functools
from typing import Any

import numpy as np
from llvmlite import ir
from numba import config
from numba.core import cgutils, types
from numba.core.codegen import get_host_cpu_features

__all__ = ["FLOATS", "I64", "I64S", "LANES", "arrays", "at", "broadcast"]
__all__ += ["every", "exponential", "has", "load", "muladd", "store"]


def has(*features: str) -> bool:
    """Whether numba compiles, and for a processor that has these."""
    compiled_for = get_host_cpu_features() if config.CPU_FEATURES is None else config.CPU_FEATURES
    return not config.DISABLE_JIT and {f"+{name}" for name in features} <= set(compiled_for.split(","))


#: Numbers of a vector.
LANES = 16 if has("avx512f") else 8

#: Types of numbers and of vectors of them.
FLOAT, INT = ir.FloatType(), ir.IntType(32)
I64 = ir.IntType(64)
FLOATS = ir.VectorType(FLOAT, LANES)
INTS = ir.VectorType(INT, LANES)
I64S = ir.VectorType(I64, LANES)

#: 2^f for |f| <= 1/2, Taylor series from the highest power: relative error 2e-7.
SERIES = (0.00015403530, 0.0013333558, 0.0096181291, 0.0555041087, 0.2402265070, 0.6931471806, 1.0)
LOG2_E = 1.4426950408889634

#: A float32 of this size has no fraction, and its last bits are the integer that was added to it.
ROUNDER = 1.5 * 2.0**23


def arrays(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> list[Any]:
    """The arguments of an intrinsic, arrays among them, which must be C-contiguous, with their data and shape."""
    values = []
    for kind, value in zip(signature.args, args, strict=True):
        is_array = isinstance(kind, types.Array)
        if is_array and kind.layout != "C":
            raise TypeError(f"expected a C-contiguous array, got {kind}")
        values.append(context.make_array(kind)(context, builder, value) if is_array else value)
    return values


def at(builder: ir.IRBuilder, pointer: ir.Value, index: ir.Value | int, width: ir.Value | int = 1) -> ir.Value:
    """Pointer to number index * width."""
    index, width = (ir.Constant(I64, x) if isinstance(x, int) else x for x in (index, width))
    return builder.gep(pointer, [builder.mul(index, width)])


def load(builder: ir.IRBuilder, kind: ir.VectorType, pointer: ir.Value) -> ir.Value:
    """The vector of this kind that starts at a pointer to a number."""
    return builder.load(builder.bitcast(pointer, kind.as_pointer()), align=4)


def store(builder: ir.IRBuilder, vector: ir.Value, pointer: ir.Value) -> None:
    """Write a vector to where a pointer to a number shows."""
    builder.store(vector, builder.bitcast(pointer, vector.type.as_pointer()), align=4)


def broadcast(builder: ir.IRBuilder, kind: ir.VectorType, pointer: ir.Value) -> ir.Value:
    """The number at a pointer in all places of a vector of this kind."""
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), builder.load(pointer), ir.Constant(INT, 0))
    return builder.shuffle_vector(one, one, _every_int(0))


def every(x: float) -> ir.Constant:
    """A constant in all places."""
    return ir.Constant(FLOATS, [ir.Constant(FLOAT, float(np.float32(x)))] * LANES)


def _every_int(x: int) -> ir.Constant:
    return ir.Constant(INTS, [ir.Constant(INT, x)] * LANES)


def muladd(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
    """A b + c, rounded once where the processor can."""
    kind = ir.FunctionType(FLOATS, [FLOATS] * 3)
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.fmuladd.v{LANES}f32"), (a, b, c))


def exponential(builder: ir.IRBuilder, x: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Factors 2^f and 2^k of exp(min(x, 0)); the latter is 0 from 2^-127 down, and where x is not a number."""
    z = builder.fmul(x, every(LOG2_E))
    z = builder.select(builder.fcmp_ordered(">", z, every(-127.0)), z, every(-127.0))
    z = builder.select(builder.fcmp_ordered("<", z, every(0.0)), z, every(0.0))
    rounded = builder.fadd(z, every(ROUNDER))
    f = builder.fsub(z, builder.fsub(rounded, every(ROUNDER)))
    p = functools.reduce(lambda p, c: muladd(builder, p, f, c), map(every, SERIES))
    power = builder.shl(builder.add(builder.bitcast(rounded, INTS), _every_int(127)), _every_int(23))
    return p, builder.bitcast(power, FLOATS)
