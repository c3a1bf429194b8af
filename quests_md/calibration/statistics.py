"""The numbers of a frame that may raise an alarm, from dH of its atoms: the same for a check and for a calibration."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from quests_md._threads import available_threads
from quests_md.engine import build_index, entropy
from quests_md.environments import hashed

__all__ = [
    "SAMPLE_ATOMS",
    "SKETCH_ROWS",
    "STATISTICS",
    "TAIL_SHARE",
    "Size",
    "Statistic",
    "checked_statistics",
    "frame_entropy",
    "mean_and_quantile",
    "sample",
]

#: In "proven" mode: atoms whose dH makes the mean, the quantile and the frame's entropy, and reference rows they see.
SAMPLE_ATOMS = 512
SKETCH_ROWS = 16_384

#: Share of the environments in distribution that lie above the atom level, by which `n_tail` counts.
TAIL_SHARE = 0.01

#: Atoms of a frame up to which a float64 sum over pairs takes less time than a search structure.
LARGE = 2000

#: How a number depends on the size of a frame, see `levels.level_of`.
Size = Literal["extreme", "mean", "quantile", "same"]


@dataclass(frozen=True, slots=True)
class Statistic:
    """A number of a frame that may raise an alarm."""

    name: str
    """Its name, that of the field of `Check`."""
    text: str
    """What it is, in a few words."""
    unit: str
    """"nats" or "atoms"."""
    size: Size
    """How it depends on the size of the frame."""
    two_sided: bool = False
    """Whether it may be too low as well."""


#: All of them, by the name of their field in `Check`.
STATISTICS = {
    s.name: s
    for s in (
        Statistic("dh_max", "largest dH", "nats", "extreme"),
        Statistic("dh_q99", "99 % quantile of dH", "nats", "quantile"),
        Statistic("dh_mean", "mean dH", "nats", "mean", two_sided=True),
        Statistic("n_tail", "atoms above the atom level", "atoms", "mean"),
        Statistic("tail_cluster", "largest cluster of them", "atoms", "extreme"),
        Statistic("frame_entropy", "self-entropy of the frame", "nats", "same", two_sided=True),
    )
}


def checked_statistics(names: object) -> tuple[str, ...]:
    """The names as a tuple without doubles.

    Raises
    ------
    ValueError, TypeError
        If there is none, or one that does not exist.
    """
    if isinstance(names, str) or not isinstance(names, list | tuple | set | frozenset):
        raise TypeError(f"statistics: expected a tuple of names such as ('dh_max', 'dh_mean'), got {names!r}")
    chosen = tuple(dict.fromkeys(names))
    unknown = [name for name in chosen if name not in STATISTICS]
    if unknown or not chosen:
        got = repr(unknown[0]) if unknown else "none"
        raise ValueError(f"statistics: expected names among {', '.join(STATISTICS)}, got {got}")
    return chosen


def mean_and_quantile(dh: NDArray[np.float64]) -> tuple[float | None, float | None]:
    """Mean and 99 % quantile of dH; None without atoms."""
    if len(dh) == 0:
        return None, None
    return float(dh.mean()), float(np.quantile(dh, 0.99))


def frame_entropy(rows: NDArray[np.float64], bandwidth: float, threads: int | None) -> float:
    """Self-entropy of the rows of a frame in nats, of large frames from fast values, to 1e-5."""
    if len(rows) <= LARGE:
        return entropy(rows, bandwidth=bandwidth, threads=threads)
    values, _, usual = build_index(rows, bandwidth).minus_log_sums(rows, available_threads(threads))
    if not (usual < 1e-3).all():  # numbers that float32 cannot follow
        return entropy(rows, bandwidth=bandwidth, threads=threads)
    return math.log(len(rows)) + float(values.mean())


def sample(identities: NDArray[np.uint64], seed: int) -> NDArray[np.int64]:
    """Places of the atoms whose hashed identities are smallest."""
    if len(identities) <= SAMPLE_ATOMS:
        return np.arange(len(identities))
    chosen = np.argsort(hashed(identities, seed), kind="stable")[:SAMPLE_ATOMS]
    return np.sort(chosen)
