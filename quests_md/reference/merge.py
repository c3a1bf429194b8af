"""New references out of old ones: several merged, or random rows of one."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from .arrays import ARRAYS, ReferenceArrays, blocks_of
from .build import copies_rule, provenance
from .contents import Contents, require_equal_settings
from .groups import join_copies

__all__ = ["merge", "sketch", "thinned"]

_Contents = TypeVar("_Contents", bound=Contents)


def merge(parts: Sequence[_Contents]) -> _Contents:
    """The environments of all parts, whose groups stay apart unless frames repeat; raises as `Reference.merge`."""
    if not parts:
        raise ValueError("references: expected at least one Reference, got none")
    first = parts[0]
    for i, other in enumerate(parts[1:], start=1):
        require_equal_settings(first.settings, other.settings, "references[0]", f"references[{i}]")
    sources = list(dict.fromkeys(source for part in parts for source in part.sources))
    arrays = _concatenated(parts, sources)
    numbers = arrays["numbers"] if first.match == "element" else None
    arrays["frame_group"], n_copies = join_copies(arrays["frame_group"], arrays["atom_frame"], arrays["rows"], numbers)
    origin = provenance() | {
        "parents": [part.fingerprint for part in parts],
        "ancestors": list(dict.fromkeys(name for part in parts for name in (*part.ancestors, part.fingerprint))),
        "left_out": dict(sum((Counter(part.provenance.get("left_out", {})) for part in parts), Counter())),
        "groups": "; ".join(dict.fromkeys(str(part.provenance.get("groups")) for part in parts))
        + copies_rule(n_copies),
    }
    merged = ReferenceArrays(**arrays)
    knowing = next((part for part in parts if part.has_descriptor), first)
    return knowing.replaced(
        merged.by_element() if first.match == "element" else merged,
        settings=first.settings,
        sources=sources,
        provenance=origin,
    )


def sketch(whole: _Contents, n_rows: int, seed: int) -> _Contents:
    """A random subset of at most about `n_rows` rows, each element in its share and with at least one row."""
    if whole.n_environments <= n_rows:
        return whole
    sizes = {z: block.stop - block.start for z, block in blocks_of(whole.numbers, whole.match).items()}
    wanted = {z: max(1, round(n_rows * size / whole.n_environments)) for z, size in sizes.items()}
    rows = _random_rows(whole, wanted, seed)
    small = _with_rows(whole, rows)
    return small.replaced(small.arrays, provenance=small.provenance | {"sketch": {"rows": len(rows), "seed": seed}})


def thinned(parts: Sequence[_Contents], most_rows: int, seed: int) -> list[_Contents]:
    """Random rows of each part: of each element as many in all parts that have it, and at most `most_rows` together.

    Rows are drawn one by one and not by groups, so that all groups stay and rows are as independent as they can be.
    Raises ValueError for a part whose descriptor is not known.
    """
    sizes: dict[int, list[int]] = {}
    for part in parts:
        for z, block in blocks_of(part.numbers, part.match).items():
            sizes.setdefault(z, []).append(block.stop - block.start)
    fewest = {z: min(of_parts) for z, of_parts in sizes.items()}
    share = min(1.0, most_rows / sum(fewest.values()))
    wanted = {z: max(1, round(n * share)) for z, n in fewest.items()}
    return [_with_rows(part, _random_rows(part, wanted, seed), descriptor=part.descriptor) for part in parts]


def _random_rows(whole: Contents, wanted: Mapping[int, int], seed: int) -> NDArray[np.int64]:
    """So many rows of each element (0: of all together), ascending."""
    rng = np.random.default_rng(seed)
    chosen = [
        block.start + np.sort(rng.choice(block.stop - block.start, wanted[z], replace=False))
        for z, block in blocks_of(whole.numbers, whole.match).items()
    ]
    return np.concatenate(chosen)


def _with_rows(whole: _Contents, rows: NDArray[np.int64], **changes: Any) -> _Contents:
    origin = whole.provenance | {"parents": [whole.fingerprint]}
    return whole.replaced(whole.arrays.with_rows(rows), provenance=origin, **changes)


def _concatenated(parts: Sequence[Contents], sources: Sequence[str]) -> dict[str, NDArray[Any]]:
    """The arrays of all parts one after the other, without scores; frames, groups and files counted on."""
    place = {source: i for i, source in enumerate(sources)}
    pieces: dict[str, list[NDArray[Any]]] = {name: [] for name, layout in ARRAYS.items() if layout.per != "scores"}
    n_frames = n_groups = 0
    for part in parts:
        moved = {
            "atom_frame": part.arrays.atom_frame + n_frames,
            "frame_group": part.arrays.frame_group + n_groups,
            "frame_source": np.array([place[part.sources[i]] for i in part.arrays.frame_source], dtype=np.int64),
        }
        for name, piece in pieces.items():
            piece.append(moved.get(name, getattr(part.arrays, name)))
        n_frames += part.n_frames
        n_groups += int(part.arrays.frame_group.max(initial=-1)) + 1
    # an empty reference by a descriptor of one's own does not know its width
    pieces["rows"] = [rows for rows in pieces["rows"] if len(rows)] or pieces["rows"][:1]
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
