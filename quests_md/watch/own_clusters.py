"""Levels for the clusters of labelled phases from the first stretch of the run itself."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from quests_md.calibration import NullScores, level_of
from quests_md.judge import GROWN, GROWTH
from quests_md.records import Check

__all__ = ["OwnClusters"]


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


def _own_level(sizes: Sequence[int], n_atoms: int, rate: float) -> float:
    scores = np.sort(np.array(sizes, dtype=np.float64))
    null = NullScores("phase_cluster", None, "above", "both", scores, np.full(len(scores), n_atoms))
    return max(GROWTH * level_of(null, "extreme", n_atoms, rate, 1).value, GROWN)
