"""Errors of labelled environments, and what they say: levels of dH by conformal risk control, and expected errors."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from quests_md._words import many

from .levels import Kind, Mode
from .statistics import check_statistics

__all__ = [
    "FEWEST_GROUPS",
    "OF_ERRORS",
    "ErrorLevel",
    "ErrorLevels",
    "ExpectedErrors",
    "Labels",
    "OutOfSample",
    "check_of_errors",
    "error_level",
    "known_until",
    "percent",
]

#: Statistics that have levels from labels: of environments, and of frames.
OF_ERRORS = ("dh_max", "dh_mean")

#: Groups that must reach a dH for errors there to be known; elements with fewer groups have no errors at all.
FEWEST_GROUPS = 3

#: Parts of the groups, each of which is judged by the level of the others; fewest groups for it.
FOLDS, FEWEST_TO_FOLD = 5, 10

#: Most steps of the curve of expected errors.
STEPS = 64

#: Share of the largest expected error below which none is taken, so that ratios to it stay numbers.
LEAST_EXPECTED = 1e-3

#: Largest number in a file.
LARGEST = 1e100


class OutOfSample(NamedTuple):
    """What a level gives in groups of frames that did not set it; every group counts once."""

    missed: float
    """Share of units that err by more than the tolerance, and are not above the level."""
    above: float
    """Share above the level."""
    right: float
    """Share of those above that err by more than the tolerance; NaN: none is above."""


@dataclass(frozen=True, slots=True)
class ErrorLevel:
    """The level of dH for the errors of environments of one element, or of whole frames."""

    value: float | None
    """Nats; None: unknown, for the reason given."""
    reason: str
    """Why the level is unknown; empty where it is known."""
    kind: Kind
    """"conformal": the promise is kept, if groups are exchangeable; "none": groups are too few for it."""
    end: float
    """Largest dH in nats at which errors are known; -inf: nowhere."""
    limit: float
    """DH in nats above which an environment or frame is out: the level; where that is unknown the end of what is known,
    or -inf if all err by more than the tolerance or nothing is known."""
    n_groups: int
    """Groups of labelled frames."""
    middle: float
    """Median dH, nats."""
    out_of_sample: OutOfSample | None
    """None: too few groups to tell."""


class ErrorLevels(NamedTuple):
    """The levels of a set of labels."""

    elements: Mapping[int, ErrorLevel]
    """Of environments, by atomic number: for their force errors."""
    frames: Mapping[Mode, ErrorLevel]
    """Of the mean dH of frames, by mode of evaluation: for their RMS force errors."""


class ExpectedErrors(NamedTuple):
    """Force errors to be expected of environments, in the unit of the labels; NaN: unknown."""

    error: NDArray[np.float64]
    """(n,) expected error: how large errors of labelled environments of the same element and dH are on average."""
    low: NDArray[np.float64]
    """(n,) lower end of the interval."""
    high: NDArray[np.float64]
    """(n,) its upper end; inf: groups are too few for one."""


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """Errors of m environments in n frames that are not in the reference, and their dH."""

    numbers: NDArray[np.int64] = field(repr=False)
    """(m,) atomic numbers."""
    dh: NDArray[np.float64] = field(repr=False)
    """(m,) nats."""
    errors: NDArray[np.float64] = field(repr=False)
    """(m,) size of the difference of the two forces."""
    frames: NDArray[np.int64] = field(repr=False)
    """(m,) frame of each environment, from 0 to n - 1."""
    groups: NDArray[np.int64] = field(repr=False)
    """(n,) group of each frame; groups are exchangeable, frames of one group are not independent."""
    means: NDArray[np.float64] = field(repr=False)
    """(n,) mean dH of each frame, nats."""
    sampled_means: NDArray[np.float64] = field(repr=False)
    """(n,) the same as "proven" mode has it, from samples."""

    @property
    def n_groups(self) -> int:
        """Groups of frames."""
        return len(np.unique(self.groups))

    def frame_errors(self) -> NDArray[np.float64]:
        """(n,) root mean square of the errors of each frame."""
        counts = np.bincount(self.frames, minlength=len(self.groups))
        sums = np.bincount(self.frames, self.errors**2, minlength=len(self.groups))
        return np.sqrt(sums / np.maximum(counts, 1))

    def levels(self, tolerance: float, share: float) -> ErrorLevels:
        """The levels for a tolerance, and a share that may be missed, see `error_level`."""
        return _levels(self, tolerance, share)

    def expected(self, numbers: NDArray[Any], dh: NDArray[np.float64], coverage: float) -> ExpectedErrors:
        """Errors to be expected of environments with these atomic numbers (n,) and dH (n,).

        Every other group gives the curve of the mean error against dH, which never falls (isotonic regression). The
        groups between give the interval: quantiles of the ratio of an error to the curve, every group with the same
        weight and one more group at infinity. So the error of an environment of a new exchangeable group is inside
        with a chance of at least `coverage`. Unknown (NaN) is what lies beyond the dH that three groups reach; below
        the lowest labelled dH the curve goes on level.

        References
        ----------
        Y. Lee, R. F. Barber, R. Willett, Distribution-free inference with hierarchical data, arXiv:2306.06342.
        """
        out = ExpectedErrors(*(np.full(len(dh), np.nan) for _ in range(3)))
        row_groups = self.groups[self.frames]
        fits = np.isin(row_groups, np.unique(self.groups)[::2])
        for z in np.unique(self.numbers):
            here = self.numbers == z
            end = known_until(self.dh[here], row_groups[here])
            asked = np.flatnonzero((np.asarray(numbers) == z) & (dh <= end))
            if not len(asked) or not (here & fits).any():
                continue
            fitted, kept = here & fits, here & ~fits
            curve = _Curve(self.dh[fitted], self.errors[fitted], _weights(row_groups[fitted]))
            ratios = self.errors[kept] / curve(self.dh[kept])
            low, high = _interval(ratios, row_groups[kept], coverage)
            expected = curve(dh[asked])
            out.error[asked], out.low[asked], out.high[asked] = expected, low * expected, high * expected
        return out

    def content(self) -> dict[str, list[Any]]:
        """What a file holds of it."""
        return {f.name: getattr(self, f.name).tolist() for f in fields(self)}

    @classmethod
    def from_content(cls, content: Mapping[str, Any]) -> "Labels":
        """Labels out of a file of anyone; ValueError, KeyError or TypeError for what are none."""
        arrays: dict[str, NDArray[Any]] = {}
        for f in fields(cls):
            is_whole = f.name in ("numbers", "frames", "groups")
            values = content[f.name]
            right = int if is_whole else int | float
            if not isinstance(values, list) or any(isinstance(v, bool) or not isinstance(v, right) for v in values):
                raise ValueError(f"errors: {f.name}: expected a list of {'integers' if is_whole else 'numbers'}")
            array = np.array(values, dtype=np.int64 if is_whole else np.float64)
            if not (np.abs(array) <= LARGEST).all():
                raise ValueError(f"errors: {f.name}: expected numbers up to {LARGEST}")
            arrays[f.name] = array
        labels = cls(**arrays)
        m, n = len(labels.dh), len(labels.groups)
        lengths = [len(arrays[f.name]) for f in fields(cls)]
        if lengths != [m, m, m, m, n, n, n] or n == 0 or m == 0:
            raise ValueError(f"errors: expected as many numbers of each environment and frame, got {lengths}")
        if not ((labels.frames >= 0) & (labels.frames < n)).all() or len(np.unique(labels.frames)) < n:
            raise ValueError(f"errors: frames: expected each of 0 to {n - 1}")
        if not ((labels.numbers >= 1) & (labels.numbers < len(chemical_symbols))).all() or (labels.errors < 0).any():
            raise ValueError("errors: expected atomic numbers, and errors of 0 or more")
        return labels


@lru_cache(maxsize=8)
def _levels(labels: Labels, tolerance: float, share: float) -> ErrorLevels:
    row_groups, errs = labels.groups[labels.frames], labels.errors > tolerance
    elements = {}
    for z in np.unique(labels.numbers).tolist():
        here = labels.numbers == z
        elements[z] = error_level(labels.dh[here], errs[here], row_groups[here], share, "environment")
    of_frames = labels.frame_errors() > tolerance
    means: dict[Mode, NDArray[np.float64]] = {"full": labels.means, "proven": labels.sampled_means}
    frames = {mode: error_level(mean, of_frames, labels.groups, share, "frame") for mode, mean in means.items()}
    return ErrorLevels(elements, frames)


def check_of_errors(statistics: object) -> tuple[str, ...]:
    """Names of statistics that have levels from labels; ValueError or TypeError for all else."""
    names = check_statistics(statistics)
    others = [name for name in names if name not in OF_ERRORS]
    if others:
        raise ValueError(
            f"statistics: levels from labels are of {' and '.join(OF_ERRORS)}, got {others[0]}; for other statistics "
            "calibrate without labels"
        )
    return names


def percent(share: float) -> str:
    """A share in words: "4.2 %"."""
    return f"{100 * share:.2g} %" if share < 0.995 else f"{100 * share:.0f} %"


def known_until(dh: NDArray[np.float64], groups: NDArray[np.int64]) -> float:
    """The largest dH that three groups reach, nats; -inf if there are fewer groups."""
    names, where = np.unique(groups, return_inverse=True)
    if len(names) < FEWEST_GROUPS:
        return -math.inf
    largest = np.full(len(names), -np.inf)
    np.maximum.at(largest, where, dh)
    return float(np.sort(largest)[-FEWEST_GROUPS])


def error_level(
    dh: NDArray[np.float64], errs: NDArray[np.bool_], groups: NDArray[np.int64], share: float, unit: str
) -> ErrorLevel:
    """The largest dH up to which at most a `share` of units err by more than the tolerance: conformal risk control.

    Units are environments or frames (m,), with dH, whether they err by more than the tolerance, and their group. The
    loss of a group at a level is the share of its units that err by more and lie at or below the level. It never falls
    as the level rises, and is at most 1. With n groups whose losses have the mean R, the largest level at which
    (n R + 1) / (n + 1) <= `share` keeps the expected loss of one more exchangeable group at most at `share`.
    Environments of a group may be correlated as they like: a group counts once.

    References
    ----------
    A. N. Angelopoulos, S. Bates, A. Fisch, L. Lei, T. Schuster, Conformal risk control, arXiv:2208.02814.
    """
    end, n = known_until(dh, groups), len(np.unique(groups))
    middle = float(np.median(dh)) if len(dh) else math.nan

    def known(value: float | None, reason: str, kind: Kind, limit: float) -> ErrorLevel:
        found = _out_of_sample(dh, errs, groups, share) if value is not None else None
        return ErrorLevel(value, reason, kind, end, limit, n, middle, found)

    if n < FEWEST_GROUPS:
        return known(None, f"{many(n, 'group')} of labelled frames, {FEWEST_GROUPS} are needed at least", "none", end)
    needed = math.ceil(1 / share - 1 - 1e-9)
    if n < needed:
        reason = f"{many(n, 'group')} of labelled frames, {needed} are needed for a share of {percent(share)}"
        return known(None, reason, "none", end)
    if not errs.any():
        reason = f"none of {many(len(dh), f'labelled {unit}')} errs by more than the tolerance"
        return known(None, reason, "conformal", end)
    if errs.all():
        reason = f"every labelled {unit} errs by more than the tolerance"
        return known(None, reason, "conformal", -math.inf)
    value = _risk_level(dh, errs, groups, share)
    if value >= end:
        reason = f"at most {percent(share)} err by more than the tolerance wherever errors are known"
        return known(None, reason, "conformal", end)
    return known(value, "", "conformal", value)


def _risk_level(dh: NDArray[np.float64], errs: NDArray[np.bool_], groups: NDArray[np.int64], share: float) -> float:
    """The largest dH of a unit that `error_level` allows; just below the lowest if none."""
    order = np.argsort(dh, kind="stable")
    values, n = dh[order], len(np.unique(groups))
    risk = np.cumsum((_weights(groups) * errs)[order])  # n R, of groups that weigh 1 each
    is_last = np.append(values[1:] > values[:-1], True)  # of equal dH all count
    allowed = values[is_last & (risk + 1 <= share * (n + 1) + 1e-9)]
    return float(allowed[-1]) if len(allowed) else float(np.nextafter(values[0], -np.inf))


def _out_of_sample(
    dh: NDArray[np.float64], errs: NDArray[np.bool_], groups: NDArray[np.int64], share: float
) -> OutOfSample | None:
    """What levels give in the fifths of the groups that did not set them; None: too few groups."""
    names, where = np.unique(groups, return_inverse=True)
    n = len(names)
    if n < FEWEST_TO_FOLD or n - math.ceil(n / FOLDS) + 1 < 1 / share:
        return None
    fold = np.random.default_rng(0).permutation(n) % FOLDS
    above = np.zeros(len(dh), dtype=bool)
    for k in range(FOLDS):
        judged = fold[where] == k
        above[judged] = dh[judged] > _risk_level(dh[~judged], errs[~judged], groups[~judged], share)
    weights = _weights(groups) / n
    n_above = float((weights * above).sum())
    right = float((weights * (above & errs)).sum()) / n_above if n_above > 0 else math.nan
    return OutOfSample(float((weights * (errs & ~above)).sum()), n_above, right)


def _weights(groups: NDArray[np.int64]) -> NDArray[np.float64]:
    """(m,) weight of each unit: 1 over the units of its group."""
    _, where, counts = np.unique(groups, return_inverse=True, return_counts=True)
    return np.asarray(1.0 / counts[where])


class _Curve:
    """Mean error against dH, which never falls: isotonic regression of up to 64 steps, linear between them."""

    def __init__(self, dh: NDArray[np.float64], errors: NDArray[np.float64], weights: NDArray[np.float64]) -> None:
        order = np.argsort(dh, kind="stable")
        of_step = np.minimum((np.cumsum(weights[order]) / weights.sum() * STEPS).astype(np.int64), STEPS - 1)
        total = np.bincount(of_step, weights[order])
        kept = total > 0
        self.dh, self.errors = (np.bincount(of_step, (weights * x)[order])[kept] / total[kept] for x in (dh, errors))
        self.errors = _never_falling(self.errors, total[kept])
        self.errors = np.maximum(self.errors, max(LEAST_EXPECTED * self.errors[-1], np.finfo(float).tiny))

    def __call__(self, dh: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.interp(dh, self.dh, self.errors)


def _never_falling(values: NDArray[np.float64], weights: NDArray[Any]) -> NDArray[np.float64]:
    """The nearest values that never fall, by weighted squares: neighbours that fall are pooled."""
    pools: list[tuple[float, float, int]] = []  # mean, weight, values
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        pools.append((value, weight, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (a, wa, na), (b, wb, nb) = pools[-2:]
            pools[-2:] = [((a * wa + b * wb) / (wa + wb), wa + wb, na + nb)]
    return np.repeat([mean for mean, _, _ in pools], [n for _, _, n in pools])


def _interval(ratios: NDArray[np.float64], groups: NDArray[np.int64], coverage: float) -> tuple[float, float]:
    """Quantiles of ratios between which those of a new group lie with a chance of `coverage`; 0 and inf: unknown."""
    n, beyond = len(np.unique(groups)), (1 - coverage) / 2
    order = np.argsort(ratios, kind="stable")
    values, weights = ratios[order], _weights(groups)[order] / (n + 1)
    up_to = np.cumsum(weights) >= 1 - beyond - 1e-12
    down_to = np.cumsum(weights[::-1])[::-1] >= 1 - beyond - 1e-12
    high = float(values[up_to][0]) if up_to.any() else math.inf
    return float(values[down_to][-1]) if down_to.any() else 0.0, high
