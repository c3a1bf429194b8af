"""The first stretch of a run as judge of numbers whose levels do not hold at another temperature."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.stats import t as student

from quests_md._arguments import check_positive
from quests_md._words import many
from quests_md.calibration import STATISTICS, NullScores, as_released, level_of
from quests_md.judge import GROWN, GROWTH
from quests_md.records import Check

from .correlation import n_independent
from .counts import OwnCounts, as_count, as_root
from .cusum import RUN_LENGTHS, Cusum, OwnScale

__all__ = ["FEWEST_CHECKS", "Baseline", "OwnClusters"]

#: Fewest independent checks that say anything about scatter, counted by `n_independent`, which is on the safe side.
FEWEST = 5

#: Fewest checks, none correlated, that count as FEWEST independent ones. As many are needed of constant numbers.
FEWEST_CHECKS = 12

#: Checks that are enough where they are correlated over a few.
MANY_CHECKS = 50

#: Checks that are out by mistake by drift, for one block of those out by level and drift, times the rate: an alarm of
#: drift comes once in 1/rate^2 blocks and lasts one or two. The level leaves it that much of the rate.
DRIFT_LASTS = 1.5

#: Scatter in nats up to which numbers count as constant; constant numbers are judged as if they scattered by that much.
#: Frames whose environments are all far apart have the entropy log N to 1e-13, and any drop from there says something.
CONSTANT = 2e-3

#: Mean count of atoms up to which counts are judged as counts; larger ones are nearly normal by twice their root.
SMALL_COUNT = 10.0

#: Different values up to which numbers that are no counts are judged by how often they come, not as normal numbers.
FEW_VALUES = 5

#: Smallest lasting shift that is looked for, in deviations of the mean of a block.
SHIFT = 1.0


@dataclass(slots=True)
class _Judged:
    """What the baseline says of one statistic."""

    low: float
    high: float
    scale: OwnScale | OwnCounts
    """What blocks in control are like, which turns them into the normal numbers of `cusum`."""
    cusum: Cusum
    per_block: int
    """Checks of a block, whose mean is one number: twice the statistical inefficiency."""
    block: list[float] = field(default_factory=list)
    """Values of the block that is being filled."""


class Baseline:
    """Collects statistics in the first `duration_ps` of a run and judges their later values by these, two-sided.

    A value is out beyond mean -+ t s sqrt(1 + 1/m): the prediction interval of normal numbers, with m the number of
    independent checks in the baseline (from their measured autocorrelation, on the safe side: `n_independent`) and t
    the Student quantile with m - 1 degrees of freedom. Counts of atoms are judged by twice their root, which is nearly
    normal; where they are few, also by what Poisson counts may be after those of the baseline (`OwnCounts`), so that a
    baseline without any strange atom does not make the first one an alarm. A count that the baseline itself holds is
    not out, where checks are too few for the rate to say so. Other numbers that take a few values only are not normal,
    and are judged only where the baseline has as many independent checks as one false alarm takes.

    A slow drift is looked for with `Cusum` on means of blocks of checks, which `OwnScale` turns into normal numbers:
    its mean and deviation are those of the baseline at first, and of all blocks in control later. An alarm of drift
    lasts until the mean of a block is back, so that patience does not sort it out: it opens an event by itself. So it
    comes as rarely as two independent checks out in a row would, once in 1/rate^2 blocks.

    `rate` is that of checks out by mistake, by all statistics together. The trigger counts a statistic as back
    `release` nats below its level; values half of the way from the level to the mean are given as back, too. A
    statistic with less than `fewest` independent checks is not judged, which `warning` says.
    """

    def __init__(
        self, statistics: tuple[str, ...], duration_ps: float, rate: float, release: float, *, fewest: int = FEWEST
    ) -> None:
        check_positive("baseline_ps", duration_ps, "time in ps")
        self.statistics = statistics
        self.duration_ps = duration_ps
        self.rate = rate
        self.release = release
        self.fewest = fewest
        self.n_checks = 1
        """Checks that share the rate, where it is a rate per nanosecond or run; read when the baseline is complete."""
        self.text: str | None = None
        """What the baseline has found, in words, once it is complete."""
        self.warning: str | None = None
        """Which statistics it cannot judge, and what to give, in words; None: there are none."""
        self._start_ps: float | None = None
        self._series: dict[str, list[float]] = {name: [] for name in statistics}
        self._judged: dict[str, _Judged] = {}

    @property
    def is_complete(self) -> bool:
        """Whether the baseline is over."""
        return self.text is not None

    def fresh(self) -> "Baseline":
        """A baseline of the same settings that has seen nothing."""
        return Baseline(self.statistics, self.duration_ps, self.rate, self.release, fewest=self.fewest)

    def forecast(self, check_ps: float | None) -> str:
        """Whether checks that are so many ps apart (None: it is not known) will be enough, in words."""
        names, beginning = ", ".join(self.statistics), f"the first {self.duration_ps:g} ps"
        often = f"check every {self.duration_ps / MANY_CHECKS:.2g} ps or more often"
        if check_ps is None:
            return f"{beginning} judge {names} if they hold {MANY_CHECKS} checks or more: {often}"
        n = math.floor(self.duration_ps / check_ps * (1 + 1e-9)) + 1
        text = f"{many(n, 'check')} in {beginning} (one every {check_ps:.3g} ps)"
        or_longer = f"{often}, or give baseline_ps={_rounded_up(MANY_CHECKS * check_ps):g}"
        if n < FEWEST_CHECKS:
            return (
                f"TOO FEW CHECKS: {text}; {FEWEST_CHECKS} are needed even where none are correlated, so that NOTHING "
                f"WILL JUDGE {names}: {or_longer}"
            )
        if n < MANY_CHECKS:
            return f"{text} judge {names}, but only if they are hardly correlated; to be sure {or_longer}"
        return f"{text} judge {names}"

    def update(self, values: Mapping[str, float | None], time_ps: float) -> dict[str, float]:
        """Take the statistics of one check; return how far each is beyond its level, above 0 where it is out.

        By the name of a statistic in nats, by its name with "_drift" in deviations of block means. Empty during the
        baseline, and without the statistics that it could not judge.
        """
        if self._start_ps is None:
            self._start_ps = time_ps
        if not self.is_complete:
            if time_ps - self._start_ps <= self.duration_ps:
                for name, series in self._series.items():
                    value = _as_normal(name, values.get(name))
                    if value is not None and math.isfinite(value):
                        series.append(value)
                return {}
            self._finish()
        excesses: dict[str, float] = {}
        for name, judged in self._judged.items():
            value = _as_normal(name, values.get(name))
            if value is None or math.isnan(value):
                continue
            excesses[name] = as_released(
                max(value - judged.high, judged.low - value), (judged.high - judged.low) / 2, self.release
            )
            excesses[f"{name}_drift"] = self._drift(judged, value)
        return excesses

    def unfinished(self, time_ps: float | None) -> str | None:
        """What it means that a run ends at this time, or goes on later; None: the baseline is complete."""
        if self.is_complete or self._start_ps is None or time_ps is None or math.isnan(time_ps):
            return None
        return (
            f"baseline_ps={self.duration_ps:g}: NOTHING HAS JUDGED {', '.join(self.statistics)} so far: the run covers "
            f"{time_ps - self._start_ps:.3g} ps and the baseline is not over; give a baseline_ps that is a small part "
            "of the run"
        )

    def state(self) -> dict[str, Any]:
        """What the baseline has seen, in plain types, for `restore`."""
        return {
            "start_ps": self._start_ps,
            "text": self.text,
            "series": {} if self.is_complete else {name: list(series) for name, series in self._series.items()},
            "judged": {
                name: {
                    "low": judged.low,
                    "high": judged.high,
                    "scale": judged.scale.settings,
                    "per_block": judged.per_block,
                    "block": list(judged.block),
                    "cusum": judged.cusum.settings,
                    "progress": judged.cusum.progress(),
                }
                for name, judged in self._judged.items()
            },
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` was taken from a baseline of the same settings."""
        self._start_ps, self.text = state["start_ps"], state["text"]
        self._series = {name: list(state["series"].get(name, ())) for name in self.statistics}
        self._judged = {}
        for name, judged in state["judged"].items():
            cusum = Cusum(**judged["cusum"])
            cusum.restore(judged["progress"])
            of_counts = "total" in judged["scale"]
            scale = OwnCounts(**judged["scale"]) if of_counts else OwnScale(**judged["scale"])
            block = list(judged["block"])
            self._judged[name] = _Judged(judged["low"], judged["high"], scale, cusum, judged["per_block"], block)

    def _drift(self, judged: _Judged, value: float) -> float:
        judged.block.append(value)
        cusum = judged.cusum
        if len(judged.block) >= judged.per_block:
            score = judged.scale.score(judged.block)
            if cusum.state != "in" and judged.scale.is_usual(judged.block, cusum.shift / 2):
                cusum.restart()  # the mean is back
            if cusum.update(score) == "in":
                judged.scale.learn(judged.block)
            judged.block.clear()
        return as_released(cusum.excess, cusum.threshold, self.release)

    def _finish(self) -> None:
        each = self.rate / self.n_checks / max(len(self.statistics), 1)
        by_level = each / (1 + DRIFT_LASTS * each)
        lines, too_few, too_alike = [f"baseline of {self.duration_ps:g} ps complete"], [], []
        for name, series in self._series.items():
            x = np.array(series)
            is_constant = len(x) > 0 and float(x.std()) <= CONSTANT
            m = float(len(x)) if is_constant else n_independent(x)
            # constant numbers show no correlation: they could be as correlated as any
            if m < self.fewest or (is_constant and m * FEWEST < self.fewest * FEWEST_CHECKS):
                lines.append(f"{name}: {len(x)} checks, {m:.1f} independent: too few, not judged by it")
                too_few.append((name, len(x), m))
                continue
            is_count = STATISTICS[name].unit == "atoms"
            n_values = len(np.unique(x))
            is_of_few = not is_count and not is_constant and n_values <= FEW_VALUES
            if is_of_few and by_level < 1 / (m + 1):
                lines.append(f"{name}: {len(x)} checks with {n_values} different values: too few, not judged by it")
                too_alike.append((name, n_values, m))
                continue
            deviation = max(float(x.std() * math.sqrt(m / (m - 1))), CONSTANT)
            reach = float(student.isf(by_level / 2, m - 1)) * deviation * math.sqrt(1 + 1 / m)
            mean = float(x.mean())
            per_block = max(1, math.ceil(2 * len(x) / m)) if m < len(x) else 1
            low, high = mean - reach, mean + reach
            scale: OwnScale | OwnCounts
            counts = np.array([as_count(value) for value in series]) if is_count else None
            if counts is not None and counts.mean() <= SMALL_COUNT:
                scale = OwnCounts.of_series(counts, m, per_block * m / len(x))
                fewest, most = scale.limits(by_level)
                low, high = min(low, as_root(fewest)), max(high, as_root(most))
                which = "counts"
            else:
                shrink = math.sqrt(len(x) / m / per_block)
                scale = OwnScale(mean, deviation * shrink, len(x) / per_block, m - 1, CONSTANT * shrink)
                which = "normal"
            if is_of_few or (is_count and by_level < 1 / (m + 1)):  # what it has itself is not out
                low, high = min(low, float(x.min())), max(high, float(x.max()))
            cusum = Cusum(0.0, 1.0, shift=SHIFT, run_length=min(max(each**-2, 20), RUN_LENGTHS[1]))
            self._judged[name] = _Judged(low, high, scale, cusum, per_block)
            lines.append(
                f"{name}: {_range(name, low, high)} ({which}; {m:.0f} of {len(x)} independent), "
                f"drift: means of {per_block} checks, one false alarm in {cusum.run_length * per_block:.0f} checks"
            )
        self.text = "; ".join(lines)
        warnings = [self._of_too_few(too_few)] if too_few else []
        warnings += [self._of_too_alike(too_alike, by_level)] if too_alike else []
        self.warning = "\n".join(warnings) or None

    def _of_too_few(self, too_few: Sequence[tuple[str, int, float]]) -> str:
        """What it means that statistics have too few checks: name, checks, independent ones of each."""
        n, m = min(((n, m) for _, n, m in too_few), key=lambda found: found[1])
        names = ", ".join(name for name, _, _ in too_few)
        of = f"{many(n, 'check')} in {self.duration_ps:g} ps count as {m:.1f} independent, {self.fewest} are needed"
        if m >= self.fewest:
            of = (
                f"{many(n, 'check')} in {self.duration_ps:g} ps with the same value each may be correlated, "
                f"{FEWEST_CHECKS} are needed"
            )
        text = f"baseline_ps={self.duration_ps:g}: NOTHING JUDGES {names} in this run: {of}; "
        if n < FEWEST_CHECKS:
            factor = math.ceil(2 * FEWEST_CHECKS / max(n, 1))
            return text + f"check {factor} times as often, or give baseline_ps={factor * self.duration_ps:g}"
        longer = _rounded_up(2 * self.duration_ps * self.fewest / m)
        return text + f"they are correlated: give baseline_ps={longer:g} or more; checking more often does not help"

    def _of_too_alike(self, too_alike: Sequence[tuple[str, int, float]], rate: float) -> str:
        """What it means that statistics take few values: name, different values, independent checks of each."""
        names = ", ".join(name for name, _, _ in too_alike)
        n_values, m = min(((n, m) for _, n, m in too_alike), key=lambda found: found[1])
        longer = _rounded_up(self.duration_ps / rate / m)
        return (
            f"baseline_ps={self.duration_ps:g}: NOTHING JUDGES {names} in this run: numbers with "
            f"{many(n_values, 'different value')} are not normal, and {m:.0f} independent checks do not tell what "
            f"comes in one of {1 / rate:.0f}; give baseline_ps={longer:g} or more"
        )


class OwnClusters:
    """Levels for the largest cluster of each labelled phase from the first stretch of the run itself."""

    def __init__(self, false_alarms: float) -> None:
        self.false_alarms = false_alarms
        self._sizes: dict[str, list[int]] = {}
        self._levels: dict[str, float] = {}

    def update(self, check: Check, *, is_over: bool) -> dict[str, float]:
        """How far each cluster is above its level, log of the ratio; NaN during the first stretch."""
        clusters = check.phase_clusters or {}
        if not is_over:
            for name, size in clusters.items():
                self._sizes.setdefault(name, []).append(size)
            return {f"phase:{name}": math.nan for name in clusters}
        if self._sizes:
            rate = self.false_alarms / len(self._sizes)
            self._levels = {name: _own_level(sizes, check.n_atoms, rate) for name, sizes in self._sizes.items()}
            self._sizes = {}
        levels = {name: self._levels.get(name, 0.0) for name in clusters}
        return {f"phase:{name}": math.log((clusters[name] + 1) / (level + 1)) for name, level in levels.items()}

    def state(self) -> dict[str, Any]:
        """All there is to know, in plain types."""
        return {"sizes": {name: list(sizes) for name, sizes in self._sizes.items()}, "levels": dict(self._levels)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` was taken."""
        self._sizes = {name: list(sizes) for name, sizes in state["sizes"].items()}
        self._levels = dict(state["levels"])


def _as_normal(name: str, value: float | None) -> float | None:
    """A statistic as a number that is nearly normal: for a count twice the root."""
    return value if value is None or STATISTICS[name].unit != "atoms" else as_root(value)


def _range(name: str, low: float, high: float) -> str:
    """Both ends of an interval of `_as_normal` in the unit of the statistic."""
    unit = STATISTICS[name].unit
    if unit == "atoms":
        low, high = as_count(low), as_count(high)
    return f"{low:.3f} ... {high:.3f} {unit}"


def _rounded_up(x: float) -> float:
    """A number rounded up to two digits."""
    unit = 10.0 ** (math.floor(math.log10(x)) - 1)
    return math.ceil(x / unit - 1e-9) * unit


def _own_level(sizes: Sequence[int], n_atoms: int, rate: float) -> float:
    scores = np.sort(np.array(sizes, dtype=np.float64))
    null = NullScores("phase_cluster", None, "above", "both", scores, np.full(len(scores), n_atoms))
    return max(GROWTH * level_of(null, "extreme", n_atoms, rate, 1).value, GROWN)
