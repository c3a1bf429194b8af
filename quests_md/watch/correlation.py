"""How many independent values a correlated series is worth; knows no atoms."""

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["n_independent"]

#: Correlation below which checks count as independent.
NEGLIGIBLE = 0.05

#: Most rounds in which the autocorrelation is freed from the error of the mean.
ROUNDS = 20


def n_independent(x: NDArray[np.float64]) -> float:
    """Number of independent values in a correlated series, on the safe side: n over its statistical inefficiency g.

    g is 1 + 2 times the sum of the autocorrelation r until it vanishes. About the mean of the series itself r comes out
    too small, by g/n (1 - r), which is given back to it until g no longer changes. A short series still shows less
    correlation than it has as often as more, so g is at least (1 + p)/(1 - p), that of a first-order autoregressive
    series of correlation p at lag 1, where p is r at lag 1 freed from its bias, (1 + 3r)/n, plus a standard error.

    References
    ----------
    Marriott, Pope, Biometrika 41, 390 (1954), doi:10.1093/biomet/41.3-4.390; Kendall, ibid. 403,
    doi:10.1093/biomet/41.3-4.403, for both biases.
    """
    n = len(x)
    if n < 2:
        return float(n)
    change = x - x.mean()
    spectrum = np.abs(np.fft.rfft(change, 2 * n)) ** 2
    r = np.fft.irfft(spectrum, 2 * n)[: max(n // 2, 2)] / np.arange(n, n - max(n // 2, 2), -1)
    if r[0] <= 0:
        return 1.0
    r /= r[0]
    inefficiency = _inefficiency(r)
    for _ in range(ROUNDS):
        error = min(inefficiency / n, 0.5)
        before, inefficiency = inefficiency, _inefficiency(r * (1 - error) + error)
        if inefficiency - before <= 1e-9:
            break
    p = max(float(r[1]), 0.0)
    p = min(p + (1 + 3 * p) / n, 1.0)
    p += math.sqrt((1 - p * p) / n)
    least = (1 + p) / (1 - p) if p < 1 else math.inf
    return n / min(max(inefficiency, least), n)


def _inefficiency(r: NDArray[np.float64]) -> float:
    """1 + 2 times the sum of an autocorrelation from lag 1 until it vanishes."""
    vanished = np.flatnonzero(r[1:] < NEGLIGIBLE)
    return float(1 + 2 * r[1 : 1 + vanished[0] if len(vanished) else None].sum())
