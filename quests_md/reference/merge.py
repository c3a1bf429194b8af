"""Several references into one."""

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quests_md.errors import MismatchError

from .build import finished, provenance
from .contents import ARRAYS, Contents
from .late_array import at_hand

__all__ = ["merged", "require_equal_settings"]


def merged(parts: Sequence[Contents]) -> Contents:
    """All parts, whose fingerprints are known, in one; raises as `Reference.merge`.

    Averaged rows are kept if all parts have them; warns if only some do.
    """
    if not parts:
        raise ValueError("references: expected at least one Reference, got none")
    first = parts[0]
    for i, other in enumerate(parts[1:], start=1):
        require_equal_settings(first.settings, other.settings, "references[0]", f"references[{i}]")
    sources = list(dict.fromkeys(source for part in parts for source in part.sources))
    filled = [part for part in parts if len(part.arrays.rows)] or parts[:1]
    lacking = [str(part.fingerprint) for part in filled if part.arrays.averaged is None]
    if 0 < len(lacking) < len(filled):
        warnings.warn(
            f"the merged reference has no averaged rows, since {len(lacking)} of the {len(filled)} references, "
            f"{', '.join(lacking)}, made by older versions, have none; build these again from their frames",
            stacklevel=4,
        )
    whole, copies = finished(_concatenated(parts, sources), first.settings)
    origin = provenance() | {
        "parents": [part.fingerprint for part in parts],
        "ancestors": list(dict.fromkeys(name for part in parts for name in (*part.ancestors, part.fingerprint))),
        "frames_of_ancestors": _frames_of_ancestors(parts),
        "left_out": dict(sum((Counter(part.provenance.get("left_out", {})) for part in parts), Counter())),
        "groups": "; ".join(dict.fromkeys(str(part.provenance.get("groups")) for part in parts)) + copies,
    }
    descriptor = next((part.descriptor for part in parts if part.descriptor is not None), None)
    return Contents(whole, descriptor, first.settings, sources, origin)


def _frames_of_ancestors(parts: Sequence[Contents]) -> dict[str, list[int]]:
    """First frame, and the next after the last, that each reference gave whose frames follow each other."""
    found: dict[str, list[int]] = {}
    n_frames = 0
    for part in parts:
        for name, (start, stop) in part.provenance.get("frames_of_ancestors", {}).items():
            found.setdefault(name, [n_frames + start, n_frames + stop])
        found.setdefault(str(part.fingerprint), [n_frames, n_frames + len(part.arrays.frame_natoms)])
        n_frames += len(part.arrays.frame_natoms)
    return found


def require_equal_settings(
    expected: Mapping[str, Any], got: Mapping[str, Any], expected_name: str, got_name: str
) -> None:
    """Raise MismatchError naming the first setting that differs, with both values."""
    # the descriptor's fingerprint says less than the k or cutoff behind it
    last = "descriptor" if "k" in expected and "k" in got else ""
    expected, got = ({"precision": "double", **settings} for settings in (expected, got))
    for key in sorted(dict.fromkeys(["descriptor", *expected, *got]), key=lambda key: key == last):
        if expected.get(key) != got.get(key):
            raise MismatchError(
                f"{key}: {expected_name} has {expected.get(key)!r}, {got_name} has {got.get(key)!r}; "
                "build both with the same settings"
            )


def _concatenated(parts: Sequence[Contents], sources: Sequence[str]) -> dict[str, NDArray[Any]]:
    """The arrays of all parts one after the other, frames, groups and files counted on; without scores.

    Averaged rows are there if all parts with rows have them.
    """
    place = {source: i for i, source in enumerate(sources)}
    names = [name for name, layout in ARRAYS.items() if layout.per != "scores" and name != "averaged"]
    pieces: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
    n_frames = n_groups = 0
    for part in parts:
        its = part.arrays
        moved = {
            "atom_frame": its.atom_frame + n_frames,
            "frame_group": its.frame_group + n_groups,
            "frame_source": np.array([place[part.sources[i]] for i in its.frame_source], dtype=np.int64),
        }
        for name, piece in pieces.items():
            piece.append(moved.get(name, getattr(its, name)))
        n_frames += len(its.frame_natoms)
        n_groups += int(its.frame_group.max(initial=-1)) + 1
    # an empty reference by a descriptor of one's own does not know its width
    filled = [part.arrays for part in parts if len(part.arrays.rows)] or [parts[0].arrays]
    pieces["rows"] = [its.rows for its in filled]
    averaged = [at_hand(its.averaged) for its in filled if its.averaged is not None]
    if len(averaged) == len(filled):
        pieces["averaged"] = averaged
    arrays = {name: np.concatenate(piece) for name, piece in pieces.items()}
    return arrays | _joined_pairs(arrays["pair_elements"], arrays["pair_smallest"], arrays["pair_histogram"])


def _joined_pairs(
    elements: NDArray[np.uint8], smallest: NDArray[np.float64], histograms: NDArray[np.int64]
) -> dict[str, NDArray[Any]]:
    """One entry for each pair of elements."""
    pairs, where = np.unique(elements, axis=0, return_inverse=True)
    low = np.full(len(pairs), np.inf)
    counts = np.zeros((len(pairs), histograms.shape[1]), np.int64)
    np.minimum.at(low, where.ravel(), smallest)
    np.add.at(counts, where.ravel(), histograms)
    return {"pair_elements": pairs, "pair_smallest": low, "pair_histogram": counts}
