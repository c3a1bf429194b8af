"""Products of queries and rows, and sums of their exponentials, in tiles whose sums stay in vector registers.

A tile is some queries and a panel of rows, which is kept column by column: two vectors. Each number of a query is
multiplied with a column and added to sums of its own, as many as there are registers for (K. Goto and R. van de Geijn,
doi:10.1145/1356052.1356053). Exponentials are taken there too: products never see memory.

A product is one chain of fused multiply-adds in the order of the d columns, so that it is wrong by d unit |y||x| at
most: each step rounds a partial sum, which is no larger than |y||x|. A tile with too few queries repeats its last one:
all run the same machine code, and the bits of a query do not depend on those that are with it.

Kernels that call an intrinsic are in the file of the intrinsic: for a kernel, numba's cache notices changes of the
kernel's own file only.
"""
# mypy: allow-untyped-calls, disable-error-code="import-untyped, call-arg"

import functools
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from .jit import kernel
from .vectors import FLOATS, I64, I64S, LANES, arrays, at, broadcast, every, exponential, has, load, muladd, store

__all__ = ["HAS_TILES", "PANEL", "TILE", "VECTORS", "half_squares", "multiply", "products_of", "tile_sums"]

#: Whether there are registers for tiles; elsewhere BLAS has to multiply.
HAS_TILES = has("avx512f") or has("avx2", "fma")

#: Queries of a tile, vectors of a column of a panel: 16 sums in 32 registers, or 12 in 16.
TILE = 8 if has("avx512f") else 6
VECTORS = 2

#: Rows of a panel.
PANEL = LANES * VECTORS

#: Panels whose terms are added in float32, 128 to a lane: wrong by 128 2^-24 at worst.
FLOAT32_PANELS = 128 // VECTORS


def _column(builder: ir.IRBuilder, panels: Any, width: ir.Value, p: ir.Value, c: ir.Value) -> list[ir.Value]:
    """VECTORS of column c of panel p."""
    start = at(builder, panels.data, builder.add(builder.mul(p, width), c), PANEL)
    return [load(builder, FLOATS, at(builder, start, v, LANES)) for v in range(VECTORS)]


def _products(builder: ir.IRBuilder, queries: Any, panels: Any, i: ir.Value, p: ir.Value) -> list[Any]:
    """Numbers of the queries of a tile, min(i + 0..TILE-1, last), and VECTORS of products of each with panel p."""
    n_queries = cgutils.unpack_tuple(builder, queries.shape)[0]
    last = builder.sub(n_queries, ir.Constant(I64, 1))
    numbers = [builder.add(i, ir.Constant(I64, q)) for q in range(TILE)]
    numbers = [builder.select(builder.icmp_signed("<", number, last), number, last) for number in numbers]
    return list(zip(numbers, products_of(builder, queries, panels, numbers, p), strict=True))


def products_of(builder: ir.IRBuilder, queries: Any, panels: Any, numbers: list[Any], p: ir.Value) -> list[list[Any]]:
    """VECTORS of products with panel p of each of the queries of these numbers."""
    width = cgutils.unpack_tuple(builder, queries.shape)[1]
    starts = [at(builder, queries.data, number, width) for number in numbers]
    # LLVM turns these into registers
    sums = [[cgutils.alloca_once_value(builder, every(0.0)) for _ in range(VECTORS)] for _ in starts]
    with cgutils.for_range(builder, width, intp=I64) as loop:
        rows = _column(builder, panels, width, p, loop.index)
        for start, places in zip(starts, sums, strict=True):
            y = broadcast(builder, FLOATS, at(builder, start, loop.index))
            for row, place in zip(rows, places, strict=True):
                builder.store(muladd(builder, y, row, builder.load(place)), place)
    return [[builder.load(place) for place in places] for places in sums]


@intrinsic
def _product_tile(typingctx, queries, panels, products, i, p):
    """products[i + q, p * PANEL + j] = queries[i + q] . panels[p, :, j]."""

    def generate(context, builder, signature, args):
        queries, panels, products, i, p = arrays(context, builder, signature, args)
        length = cgutils.unpack_tuple(builder, products.shape)[1]
        for number, row in _products(builder, queries, panels, i, p):
            out = at(builder, at(builder, products.data, number, length), p, PANEL)
            for v, x in enumerate(row):
                store(builder, x, at(builder, out, v, LANES))
        return context.get_dummy_value()

    return types.void(queries, panels, products, types.intp, types.intp), generate


@intrinsic
def _exponentials_tile(typingctx, queries, panels, norms, offsets, own, groups, sums, i, p):
    """sums[q] (LANES,) += the terms of `tile_sums` for query i + q and panel p."""
    has_groups = isinstance(groups, types.Array)

    def generate(context, builder, signature, args):
        queries, panels, norms, offsets, own, groups, sums, i, p = arrays(context, builder, signature, args)
        first = builder.mul(p, ir.Constant(I64, PANEL))
        places = [builder.add(first, ir.Constant(I64, v * LANES)) for v in range(VECTORS)]
        for q, (number, row) in enumerate(_products(builder, queries, panels, i, p)):
            offset = broadcast(builder, FLOATS, at(builder, offsets.data, number))
            out = at(builder, sums.data, q, LANES)
            total = load(builder, FLOATS, out)
            for product, place in zip(row, places, strict=True):
                x = builder.fadd(product, load(builder, FLOATS, at(builder, norms.data, place)))
                factor, power = exponential(builder, builder.fsub(x, offset))
                if has_groups:
                    theirs = load(builder, I64S, at(builder, groups.data, place))
                    ours = broadcast(builder, I64S, at(builder, own.data, number))
                    factor = builder.select(builder.icmp_signed("==", theirs, ours), every(0.0), factor)
                total = muladd(builder, factor, power, total)
            store(builder, total, out)
        return context.get_dummy_value()

    return types.void(queries, panels, norms, offsets, own, groups, sums, types.intp, types.intp), generate


@intrinsic
def _half_squares(typingctx, query, panels, out, p, first):
    """out[first + j] = -|query - panels[p, :, j]|^2 / 2."""

    def generate(context, builder, signature, args):
        query, panels, out, p, first = arrays(context, builder, signature, args)
        width = cgutils.unpack_tuple(builder, query.shape)[0]
        sums = [cgutils.alloca_once_value(builder, every(0.0)) for _ in range(VECTORS)]
        with cgutils.for_range(builder, width, intp=I64) as loop:
            y = broadcast(builder, FLOATS, at(builder, query.data, loop.index))
            for row, place in zip(_column(builder, panels, width, p, loop.index), sums, strict=True):
                difference = builder.fsub(y, row)
                builder.store(muladd(builder, difference, difference, builder.load(place)), place)
        for v, place in enumerate(sums):
            x = builder.fmul(builder.load(place), every(-0.5))
            store(builder, x, at(builder, at(builder, out.data, first), v, LANES))
        return context.get_dummy_value()

    return types.void(query, panels, out, types.intp, types.intp), generate


_strict = functools.partial(kernel, fastmath=False)


@_strict
def multiply(queries, panels, products):
    """Products of queries (k, d) and panels of rows (p, d, PANEL), written to (k, p PANEL), all float32."""
    for i in range(0, queries.shape[0], TILE):
        for p in range(panels.shape[0]):
            _product_tile(queries, panels, products, i, p)


@_strict
def tile_sums(queries, i, panels, norms, offsets, own, groups, sums):
    """sums_q = sum_j exp(min(y . x_j + norms_j - offset, 0)) for TILE queries y from i on, good to 1e-5 of it.

    queries (k, d), offsets (k,), panels of rows x (p, d, PANEL) and their norms (p PANEL,), all float32; own (k,) and
    groups (p PANEL,) int64: rows of a query's own group are left out; None: all are in.
    """
    sums[:] = 0.0
    lanes = np.empty((TILE, LANES), np.float32)
    for start in range(0, panels.shape[0], FLOAT32_PANELS):
        lanes[:] = np.float32(0.0)
        for p in range(start, min(start + FLOAT32_PANELS, panels.shape[0])):
            _exponentials_tile(queries, panels, norms, offsets, own, groups, lanes, i, p)
        for q in range(TILE):
            for lane in range(LANES):
                sums[q] += np.float64(lanes[q, lane])


@_strict
def half_squares(query, panels, first, n_panels, out):
    """out_j = -|y - x_j|^2 / 2 of a query y (d,) and n panels (p, d, PANEL) from `first` on, all float32."""
    for p in range(n_panels):
        if HAS_TILES:
            _half_squares(query, panels, out, first + p, p * PANEL)
        else:
            out[p * PANEL : (p + 1) * PANEL] = np.float32(0.0)
            for c in range(query.shape[0]):
                for j in range(PANEL):
                    difference = query[c] - panels[first + p, c, j]
                    out[p * PANEL + j] -= np.float32(0.5) * difference * difference
