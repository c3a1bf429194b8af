"""Extrapolation of a tail: a generalised Pareto distribution fitted to the largest of some scores."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["FARTHEST", "FEWEST_SCORES", "pareto_level", "pareto_quantile"]

#: Fewest scores that a tail is fitted to.
FEWEST_SCORES = 30

#: A level is promised down to this factor below 1/(n + 1); docs/promise.md shows how it was kept.
FARTHEST = 30

#: Shares of the scores, from the top, that the tail is fitted to: the first whose fit is no worse than chance would be,
#: else the last that holds FEWEST_IN_TAIL scores. A training set of several kinds of frames has several humps.
TAILS = 1 / 3, 1 / 6, 1 / 12
FEWEST_IN_TAIL = 10

#: Largest distance of the fitted from the empirical distribution, times the root of the number of scores: the 5 % point
#: of the Kolmogorov-Smirnov distance from an exponential with fitted scale is 1.1 (Lilliefors 1969,
#: doi:10.1080/01621459.1969.10500983).
MISFIT = 1.0

#: Range of the shape xi. Tails lighter than exponential (xi < 0) are taken as exponential: a fitted end point is the
#: least certain of all numbers, and trusting it gave up to six times the asked rate. Beyond 0.5 there is no variance.
SHAPES = 0.0, 0.5

BOOTSTRAPS = 200


def pareto_level(scores: NDArray[np.float64], probability: float) -> tuple[float, float, float]:
    """The value that a new score exceeds with a small probability: beyond the largest by a fit to the upper ones.

    The excesses y over the threshold follow P(y > x) = (1 + xi x / sigma)^(-1/xi); sigma and xi come from
    probability-weighted moments, which hold for small samples.

    `scores`: (n,) independent, ascending, n >= 30. Returns the level and its 80 % interval from a parametric bootstrap.
    The level is the upper end, and not below the largest score: a fit that is right on average would be exceeded too
    often in half of the cases.

    References
    ----------
    Hosking, Wallis, Technometrics 29, 339 (1987), doi:10.1080/00401706.1987.10488243; Coles, An Introduction to
    Statistical Modeling of Extreme Values (2001), sec. 4.3.
    """
    return _pareto_level(np.asarray(scores, np.float64).tobytes(), float(probability))


@lru_cache(maxsize=256)
def _pareto_level(raw: bytes, probability: float) -> tuple[float, float, float]:
    """`pareto_level` of float64 scores: header, promise and trigger of each run, and runs of a batch, ask for it."""
    scores = np.frombuffer(raw, np.float64)
    threshold, excesses, shape, scale = _tail(scores)
    largest = float(scores[-1])
    if excesses[-1] <= 0:  # all equal: nothing to extrapolate
        return largest, largest, largest
    n_tail = len(excesses)
    ratio = np.array(min(probability * len(scores) / n_tail, 1.0))
    samples = np.sort(_quantile(shape, scale, np.random.default_rng(0).random((BOOTSTRAPS, n_tail))), axis=1)
    refitted = [threshold + float(_quantile(*_fit(sample), ratio)) for sample in samples]
    low, high = np.quantile(refitted, [0.1, 0.9])
    level = max(float(high), largest)
    return level, min(float(low), level), level


def pareto_quantile(scores: NDArray[np.float64], probability: float) -> float:
    """The value that the fitted tail exceeds with a small probability; the same fit as in `pareto_level`."""
    threshold, excesses, shape, scale = _tail(scores)
    if excesses[-1] <= 0:
        return float(scores[-1])
    return threshold + float(_quantile(shape, scale, np.array(min(probability * len(scores) / len(excesses), 1.0))))


def _tail(scores: NDArray[np.float64]) -> tuple[float, NDArray[np.float64], float, float]:
    """Threshold, excesses over it, shape and scale of the largest tail that a generalised Pareto distribution fits."""
    sizes = [max(int(TAILS[0] * len(scores)), FEWEST_IN_TAIL)]
    sizes += [int(share * len(scores)) for share in TAILS[1:] if int(share * len(scores)) >= FEWEST_IN_TAIL]
    for n_tail in sizes:
        threshold = float(scores[-n_tail - 1])
        excesses = scores[-n_tail:] - threshold
        if excesses[-1] <= 0:
            return threshold, excesses, 0.0, 0.0
        shape, scale = _fit(excesses)
        fitted = 1 - _exceeded(shape, scale, excesses)
        ranks = np.arange(n_tail + 1) / n_tail
        distance = max(float((ranks[1:] - fitted).max()), float((fitted - ranks[:-1]).max()))
        if distance * np.sqrt(n_tail) <= MISFIT:
            break
    return threshold, excesses, shape, scale


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


def _exceeded(shape: float, scale: float, excesses: NDArray[np.float64]) -> NDArray[np.float64]:
    """The probability that an excess is exceeded."""
    if abs(shape) < 1e-6:
        return np.exp(-excesses / scale)
    return (1 + shape * excesses / scale) ** (-1 / shape)


def _quantile(shape: float, scale: float, exceeded: NDArray[np.float64]) -> NDArray[np.float64]:
    """The excess that is exceeded with the given probability."""
    if abs(shape) < 1e-6:
        return -scale * np.log(exceeded)
    return scale / shape * (exceeded**-shape - 1)
