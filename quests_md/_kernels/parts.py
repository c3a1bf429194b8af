"""Terms of kernel sums, added up by the part that a row belongs to."""

import numpy as np

from .jit import kernel

__all__ = ["add_terms"]

LOG2_E = np.float32(1.4426950408889634)

#: Powers of 2 between which float32 has normal numbers. Terms below the smallest are left out.
SMALLEST_POWER, LARGEST_POWER = np.float32(-126.0), np.float32(127.0)

#: Bias of the exponent of a float32, and the bit where the exponent begins.
EXPONENT_BIAS, EXPONENT_SHIFT = np.int32(127), np.int32(23)


@kernel
def add_terms(products, squares, offsets, parts, out, fractions, powers):
    """out[parts[i], t] += exp(products[i, t] - squares[i] + offsets[t]), good to 1e-6 of the term.

    products (n, m) float64 and squares (n,); offsets (m,); parts (n,) rows of out (p, m) float32. fractions (m,)
    float32 and powers (m,) int32: memory to work in.
    """
    n, m = products.shape
    scales = powers.view(np.float32)
    for i in range(n):
        row, sums, square = products[i], out[parts[i]], squares[i]
        for t in range(m):
            z = np.float32(row[t] - square + offsets[t]) * LOG2_E
            z = z if z < LARGEST_POWER else LARGEST_POWER
            low = z if z > SMALLEST_POWER else SMALLEST_POWER
            whole = np.int32(np.floor(low + np.float32(0.5)))
            f = low - np.float32(whole)
            # 2^f for |f| <= 1/2, Taylor series: relative error 2e-7
            p = np.float32(0.00015403530)
            p = p * f + np.float32(0.0013333558)
            p = p * f + np.float32(0.0096181291)
            p = p * f + np.float32(0.0555041087)
            p = p * f + np.float32(0.2402265070)
            p = p * f + np.float32(0.6931471806)
            fractions[t] = p * f + np.float32(1.0) if z > SMALLEST_POWER else np.float32(0.0)
            powers[t] = (whole + EXPONENT_BIAS) << EXPONENT_SHIFT
        for t in range(m):
            sums[t] += fractions[t] * scales[t]
