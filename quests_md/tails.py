"""Extrapolation of a tail: a generalised Pareto distribution fitted to the largest of some scores."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["FARTHEST", "FEWEST", "pareto_level"]

#: Fewest scores that a tail is fitted to.
FEWEST = 30

#: A probability is extrapolated to at most this factor below 1/(n + 1).
FARTHEST = 10

#: Share of the scores, from the top, that the tail is fitted to.
TAIL = 1 / 3

#: Range of the shape xi. Tails lighter than exponential (xi < 0) are taken as exponential: a fitted end point is the
#: least certain of all numbers, and trusting it gave up to six times the asked rate. Beyond 0.5 there is no variance.
SHAPES = 0.0, 0.5

BOOTSTRAPS = 200


def pareto_level(scores: NDArray[np.float64], probability: float) -> tuple[float, float, float]:
    """The value that a new score exceeds with a small probability: beyond the largest by a fit to the upper third.

    The excesses y over the threshold follow P(y > x) = (1 + xi x / sigma)^(-1/xi); sigma and xi come from
    probability-weighted moments, which hold for small samples.

    Parameters
    ----------
    scores
        (n,) independent scores, ascending, n >= 30.
    probability
        Below 1/(n + 1), say.

    Returns
    -------
    level, low, high
        The level, not below the largest score, and its 80 % interval from a parametric bootstrap.

    References
    ----------
    Hosking, Wallis, Technometrics 29, 339 (1987), doi:10.1080/00401706.1987.10488243; Coles, An Introduction to
    Statistical Modeling of Extreme Values (2001), sec. 4.3.
    """
    n_tail = max(int(TAIL * len(scores)), 10)
    threshold = float(scores[-n_tail - 1])
    ratio = probability * len(scores) / n_tail
    excesses = scores[-n_tail:] - threshold
    if excesses[-1] <= 0:  # all equal: nothing to extrapolate
        return float(scores[-1]), float(scores[-1]), float(scores[-1])
    shape, scale = _fit(excesses)
    rng = np.random.default_rng(0)
    again = np.sort(_quantile(shape, scale, rng.random((BOOTSTRAPS, n_tail))), axis=1)
    # the largest score stands where the promise of the ranks ends, at 1/(n + 1); the fit says how far it is from there
    ends = np.array([ratio, len(scores) / ((len(scores) + 1) * n_tail)])
    step = float(-np.diff(_quantile(shape, scale, ends))[0])
    refitted = [float(sample[-1] - np.diff(_quantile(*_fit(sample), ends))[0]) for sample in again]
    low, high = np.quantile(refitted, [0.1, 0.9]) + threshold
    level = float(scores[-1]) + max(step, 0.0)
    return level, min(float(low), level), max(float(high), level)


def _fit(excesses: NDArray[np.float64]) -> tuple[float, float]:
    """Shape xi and scale sigma from the probability-weighted moments of ascending excesses."""
    m = len(excesses)
    plotting = (np.arange(1, m + 1) - 0.35) / m
    mean, weighted = float(excesses.mean()), float(((1 - plotting) * excesses).mean())
    if mean <= 2 * weighted:  # heavier than any distribution with a mean
        shape = SHAPES[1]
    else:
        shape = float(np.clip(2 - mean / (mean - 2 * weighted), *SHAPES))
    return shape, mean * (1 - shape)  # the scale that keeps the mean


def _quantile(shape: float, scale: float, exceeded: NDArray[np.float64]) -> NDArray[np.float64]:
    """The excess that is exceeded with the given probability."""
    if abs(shape) < 1e-6:
        return -scale * np.log(exceeded)
    return scale / shape * (exceeded**-shape - 1)
