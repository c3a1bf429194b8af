"""Whether a calibration scores dH of plain rows: always where it raises alarms, else where it costs little."""

from collections.abc import Iterable

import numpy as np

from quests_md.errors import MismatchError
from quests_md.reference import MAX_HELD_OUT, Reference

from .levels import ANY_ELEMENT
from .null_scores import HeldOut
from .statistics import STATISTICS

__all__ = ["groups_of_elements", "is_dh_scored", "require_scores"]

#: Most pairs of an environment and a row of the reference for dH that raises no alarm: some ten seconds of one core,
#: a reference of 333 000 rows by its own groups. Beyond that a search structure would need minutes and gigabytes.
MOST_PAIRS = 1e10


def is_dh_scored(reference: Reference, statistics: Iterable[str], n_rows: int | None = None) -> bool:
    """Whether dH of plain rows is scored, where these statistics are in use, for `n_rows`; None: rows held out."""
    if _of_plain_rows(statistics) or not reference.has_averaged_rows:
        return True
    n_rows = min(MAX_HELD_OUT, reference.n_environments) if n_rows is None else n_rows
    return reference.n_environments * n_rows <= MOST_PAIRS


def groups_of_elements(held_out: HeldOut) -> dict[int, tuple[int, ...]]:
    """Groups, ascending, whose frames have each atomic number; of all frames, for 0, where elements do not count."""
    if not held_out.by_element:
        return {ANY_ELEMENT: tuple(np.unique(held_out.groups).tolist())}
    groups: dict[int, set[int]] = {}
    for frame, group in zip(held_out.full, held_out.groups.tolist(), strict=True):
        for z in np.unique(frame.atoms.numbers).tolist():
            groups.setdefault(z, set()).add(group)
    return {z: tuple(sorted(of)) for z, of in sorted(groups.items())}


def require_scores(statistics: Iterable[str], lacks_dh: bool) -> None:
    """Raise MismatchError if one of the statistics is of dH, and the calibration has no scores of dH."""
    plain = _of_plain_rows(statistics)
    if plain and lacks_dh:
        raise MismatchError(
            f"statistics: {plain[0]} is of dH, which this calibration has not scored: it raised no alarm, and the "
            f"reference is large; calibrate(reference, statistics=({plain[0]!r}, ...)), or quests-md calibrate "
            f"--statistics {plain[0]}, scores it, which takes minutes"
        )


def _of_plain_rows(statistics: Iterable[str]) -> list[str]:
    return [name for name in statistics if STATISTICS[name].scale == "plain"]
