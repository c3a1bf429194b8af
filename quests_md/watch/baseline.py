"""The first stretch of a run as judge of numbers whose levels do not hold at another temperature."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from quests_md._arguments import check_positive
from quests_md.calibration import STATISTICS, NullScores, as_released, level_of
from quests_md.judge import GROWN, GROWTH
from quests_md.records import Check

from .cusum import RUN_LENGTHS, Cusum, OwnScale

__all__ = ["Baseline", "OwnClusters", "n_independent"]

#: Fewest independent checks that say anything about scatter.
FEWEST = 10

#: Correlation below which checks count as independent.
NEGLIGIBLE = 0.05

#: Scatter in nats up to which numbers count as constant; constant numbers are judged as if they scattered by that much.
#: Frames whose environments are all far apart have the entropy log N to 1e-13, and any drop from there says something.
CONSTANT = 2e-3

#: Smallest lasting shift that is looked for, in deviations of the mean of a block.
SHIFT = 1.0


@dataclass(slots=True)
class _Judged:
    """What the baseline says of one statistic."""

    low: float
    high: float
    scale: OwnScale
    """Mean and deviation of the means of blocks, which turn them into the normal numbers of `cusum`."""
    cusum: Cusum
    per_block: int
    """Checks of a block, whose mean is one number: twice the statistical inefficiency."""
    block: list[float] = field(default_factory=list)
    """Values of the block that is being filled."""


class Baseline:
    """Collects statistics in the first `duration_ps` of a run and judges their later values by these, two-sided.

    A value is out beyond mean -+ t s sqrt(1 + 1/m): the prediction interval of normal numbers, with m the number of
    independent checks in the baseline (from their measured autocorrelation) and t the Student quantile with m - 1
    degrees of freedom. Counts of atoms are judged by twice their root, which is nearly normal.

    A slow drift is looked for with `Cusum` on means of blocks of checks, which `OwnScale` turns into normal numbers:
    its mean and deviation are those of the baseline at first, and of all blocks in control later. An alarm of drift
    lasts until the mean of a block is back, so that patience does not sort it out: it opens an event by itself. So it
    comes as rarely as two independent checks out in a row would, once in 1/rate^2 blocks.

    `rate` is that of checks out by mistake, by all statistics together. The trigger counts a statistic as back
    `release` nats below its level; values half of the way from the level to the mean are given as back, too. A
    statistic with less than `fewest` independent checks is not judged.
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
            scale, block = OwnScale(**judged["scale"]), list(judged["block"])
            self._judged[name] = _Judged(judged["low"], judged["high"], scale, cusum, judged["per_block"], block)

    def _drift(self, judged: _Judged, value: float) -> float:
        judged.block.append(value)
        cusum = judged.cusum
        if len(judged.block) >= judged.per_block:
            mean = float(np.mean(judged.block))
            judged.block.clear()
            score = judged.scale.score(mean)
            if cusum.state != "in" and abs(score) <= cusum.shift / 2:
                cusum.restart()  # the mean is back
            if cusum.update(score) == "in" and math.isfinite(mean):
                judged.scale.learn(mean)
        return as_released(cusum.excess, cusum.threshold, self.release)

    def _finish(self) -> None:
        each = self.rate / self.n_checks / max(len(self.statistics), 1)
        lines = [f"baseline of {self.duration_ps:g} ps complete"]
        for name, series in self._series.items():
            x = np.array(series)
            m = float(len(x)) if len(x) and x.std() <= CONSTANT else n_independent(x)
            if m < self.fewest:
                lines.append(f"{name}: {len(x)} checks, {m:.1f} independent: too few, not judged by it")
                continue
            deviation = max(float(x.std() * math.sqrt(m / (m - 1))), CONSTANT)
            reach = float(student.isf(each / 2, m - 1)) * deviation * math.sqrt(1 + 1 / m)
            mean = float(x.mean())
            per_block = max(1, math.ceil(2 * len(x) / m)) if m < len(x) else 1
            shrink = math.sqrt(len(x) / m / per_block)
            scale = OwnScale(mean, deviation * shrink, len(x) / per_block, m - 1, CONSTANT * shrink)
            cusum = Cusum(0.0, 1.0, shift=SHIFT, run_length=min(max(each**-2, 20), RUN_LENGTHS[1]))
            self._judged[name] = _Judged(mean - reach, mean + reach, scale, cusum, per_block)
            lines.append(
                f"{name}: {_range(name, mean - reach, mean + reach)} (normal; {m:.0f} of {len(x)} independent), "
                f"drift: means of {per_block} checks, one false alarm in {cusum.run_length * per_block:.0f} checks"
            )
        self.text = "; ".join(lines)


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
    """A statistic as a number that is nearly normal: for a count twice the root (Anscombe, doi:10.2307/2332343)."""
    if value is None or STATISTICS[name].unit != "atoms":
        return value
    return 2 * math.sqrt(value + 3 / 8)


def _range(name: str, low: float, high: float) -> str:
    """Both ends of an interval of `_as_normal` in the unit of the statistic."""
    unit = STATISTICS[name].unit
    if unit == "atoms":
        low, high = (max(x, 0.0) ** 2 / 4 - 3 / 8 for x in (low, high))
    return f"{low:.3f} ... {high:.3f} {unit}"


def n_independent(x: NDArray[np.float64]) -> float:
    """Number of independent values in a correlated series: n / (1 + 2 sum of the autocorrelation until it vanishes)."""
    n = len(x)
    if n < 2:
        return float(n)
    change = x - x.mean()
    variance = float((change * change).mean())
    if variance == 0:
        return 1.0
    inefficiency = 1.0
    for lag in range(1, n // 2):
        c = float((change[:-lag] * change[lag:]).mean()) / variance
        if c < NEGLIGIBLE:
            break
        inefficiency += 2 * c
    return n / inefficiency


def _own_level(sizes: Sequence[int], n_atoms: int, rate: float) -> float:
    scores = np.sort(np.array(sizes, dtype=np.float64))
    null = NullScores("phase_cluster", None, "above", "both", scores, np.full(len(scores), n_atoms))
    return max(GROWTH * level_of(null, "extreme", n_atoms, rate, 1).value, GROWN)
