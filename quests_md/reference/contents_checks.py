"""What the arrays of a reference file must be: checked on the way in, a part at a time."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from quests_md.environments import Descriptor
from quests_md.errors import FileFormatError

from .contents import PAIR_BIN, pair_keys
from .late_array import PORTION, LateArray

__all__ = ["check_content", "check_descriptor", "checked", "rows_at", "shortened"]

#: Atoms of which the arrays are looked at together, so that little memory is needed beside arrays that are mapped.
TOGETHER = 2**18

#: Arrays by which rows are sorted, the first under match="element" alone.
ORDERED = "numbers", "atom_frame", "atom_index"


def shortened(text: str) -> str:
    """What a file says, for an error message, cut where it is long."""
    return text if len(text) <= 200 else f"{text[:197]}..."


def check_content(path: Path, header: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
    """Values: what would lead kernels out of the arrays, come back as a wrong answer, or is in no order.

    Rows that are mapped are not looked at: whoever uses many of them asks `checked`.
    """
    _check_frames(path, arrays, len(header["sources"]))
    n_of_frames = _check_atoms(path, arrays, header["settings"]["match"])
    natoms = arrays["frame_natoms"]
    _require(path, "frame_natoms", natoms, n_of_frames <= natoms, "as many atoms as rows")
    _check_rows(path, arrays)
    _check_pairs(path, arrays)
    if "score" in arrays:
        _check_scores(path, arrays, n_of_frames)


def checked(name: str, rows: NDArray[Any], start: int = 0) -> NDArray[Any]:
    """The rows (n, width), which begin at that place of the reference.

    Raises FileFormatError if they are mapped from a file and not finite: loading has not looked at these.
    """
    if isinstance(rows, np.memmap):
        for first in range(0, len(rows), PORTION):
            _require_finite(Path(str(rows.filename)), name, rows[first : first + PORTION], start + first)
    return rows


def rows_at(name: str, array: NDArray[Any] | LateArray, chosen: NDArray[np.int64]) -> NDArray[Any]:
    """The chosen rows, (m, width), in the order given; of an array in a file no others are kept.

    Raises as `checked`, and what `LateArray.rows` raises.
    """
    if isinstance(array, LateArray):
        return array.rows(chosen)
    found = np.asarray(array[chosen])
    if isinstance(array, np.memmap) and not np.isfinite(found).all():
        checked(name, array)
    return found


def check_descriptor(
    path: Path, descriptor: Descriptor, settings: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> None:
    """Raise FileFormatError unless settings and arrays of a file are such as this descriptor leads to."""
    for key, value in descriptor.settings.items():
        if settings.get(key) != value:
            got = shortened(repr(settings.get(key)))
            raise FileFormatError(f"{path}: {key}: expected {value!r}, as its descriptor has, got {got}")
    n_bins = math.ceil(descriptor.cutoff / PAIR_BIN) + 1
    for name, width in (("rows", descriptor.width), ("pair_histogram", n_bins)):
        if arrays[name].shape[1] != width:
            raise FileFormatError(f"{path}: {name}: expected {width} columns, got {arrays[name].shape[1]}")
    if not descriptor.is_center(arrays["numbers"]).all():
        raise FileFormatError(f"{path}: numbers: expected atoms of {descriptor.centers} alone, the centers of its rows")
    nearest = np.argmax(arrays["pair_histogram"] > 0, axis=1)
    if not np.array_equal(nearest, np.floor(arrays["pair_smallest"] / PAIR_BIN)):
        raise FileFormatError(f"{path}: pair_smallest: expected the smallest distances that pair_histogram counts")


def _check_frames(path: Path, arrays: Mapping[str, NDArray[Any]], n_sources: int) -> None:
    """Frames: indices decide where kernels read, and must lie inside the arrays."""
    n_atoms, n_frames = len(arrays["numbers"]), len(arrays["frame_natoms"])
    for name, limit in {"score_row": n_atoms, "frame_source": n_sources, "frame_group": n_frames}.items():
        if name in arrays:
            _require(path, name, arrays[name], (arrays[name] >= 0) & (arrays[name] < limit), f"numbers below {limit}")
    natoms = arrays["frame_natoms"]
    _require(path, "frame_natoms", natoms, natoms > 0, "positive numbers of atoms")
    bits = arrays["pbc"].view(np.uint8)
    _require(path, "pbc", bits, (bits <= 1).all(axis=1), "bytes of 0 or 1")
    fits = np.isfinite(arrays["cells"]).all(axis=2) | ~arrays["pbc"]
    _require(path, "cells", arrays["cells"], fits.all(axis=1), "finite vectors along periodic directions")
    volume = arrays["frame_volume"]
    _require(path, "frame_volume", volume, np.isnan(volume) | ((volume >= 0) & (volume < np.inf)), "volumes or NaN")
    temperature = arrays.get("frame_temperature", np.empty(0))
    is_one = np.isnan(temperature) | ((temperature > 0) & (temperature < np.inf))
    _require(path, "frame_temperature", temperature, is_one, "temperatures above 0 or NaN")
    _require(path, "frame_index", arrays["frame_index"], arrays["frame_index"] >= 0, "numbers from 0")


def _check_atoms(path: Path, arrays: Mapping[str, NDArray[Any]], match: str) -> NDArray[np.int64]:
    """Atoms: inside their frames, sorted by element, frame and atom, none twice; (n_frames,) how many a frame has."""
    natoms = arrays["frame_natoms"]
    n_frames, n_of_frames = len(natoms), np.zeros(len(natoms), np.int64)
    for start in range(0, len(arrays["numbers"]), TOGETHER):
        piece = slice(start, start + TOGETHER)
        numbers, frame, index, positions = (
            arrays[name][piece] for name in ("numbers", "atom_frame", "atom_index", "positions")
        )
        _require(path, "atom_frame", frame, (frame >= 0) & (frame < n_frames), f"numbers below {n_frames}", start)
        _require(path, "atom_index", index, (index >= 0) & (index < natoms[frame]), "atoms of their frame", start)
        _require_finite(path, "positions", positions, start)
        _require(path, "numbers", numbers, numbers < len(chemical_symbols), "atomic numbers", start)
        before = max(start - 1, 0)  # the order goes on from one piece to the next
        steps = [np.diff(arrays[name][before : piece.stop].astype(np.int64)) for name in ORDERED]
        if match == "element" and (steps[0] < 0).any():
            raise FileFormatError(f"{path}: numbers: expected rows sorted by element")
        element, frame_step, atom = steps if match == "element" else (np.zeros_like(steps[0]), *steps[1:])
        ascending = (element > 0) | (frame_step > 0) | ((frame_step == 0) & (atom > 0))
        these = arrays["atom_index"][before + 1 : piece.stop]
        _require(path, "atom_index", these, ascending, "each atom once, in the order of frames", before + 1)
        n_of_frames += np.bincount(frame, minlength=n_frames)
    return n_of_frames


def _check_rows(path: Path, arrays: Mapping[str, Any]) -> None:
    """Rows that are no numbers would come back as wrong answers, not as errors."""
    for name in ("rows", "averaged"):
        array = arrays.get(name, ())
        for start in range(0, 0 if isinstance(array, np.memmap) else len(array), PORTION):
            stop = start + PORTION
            part = array.part(start, stop) if isinstance(array, LateArray) else array[start:stop]
            _require_finite(path, name, part, start)


def _check_pairs(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Pairs of elements: sorted, none twice, with distances and counts that there can be."""
    elements, smallest, histogram = (arrays[name] for name in ("pair_elements", "pair_smallest", "pair_histogram"))
    known = (elements < len(chemical_symbols)).all(axis=1)
    _require(path, "pair_elements", elements, known, "atomic numbers")
    _require(path, "pair_smallest", smallest, np.isfinite(smallest) & (smallest > 0), "positive distances")
    # as floats, since a sum of large integers may overflow; beyond 2^53 they are no counts
    total = histogram.sum(axis=1, dtype=np.float64)
    counted = (histogram >= 0).all(axis=1) & (total >= 1) & (total <= 2**53)
    _require(path, "pair_histogram", histogram, counted, "counts of at least one distance")
    first, second = elements.astype(np.int64).T
    _require(path, "pair_elements", elements, first <= second, "the lower atomic number first")
    ascending = np.diff(pair_keys(first, second)) > 0
    _require(path, "pair_elements", elements[1:], ascending, "each pair once, ascending", 1)


def _check_scores(path: Path, arrays: Mapping[str, NDArray[Any]], n_of_frames: NDArray[np.int64]) -> None:
    """Held-out scores of all rows of some groups."""
    _require(path, "score", arrays["score"], arrays["score"] > -np.inf, "numbers or inf")
    rows, frame_group = arrays["score_row"], arrays["frame_group"]
    _require(path, "score_row", rows[1:], np.diff(rows) > 0, "each row once, ascending", 1)
    groups, n_groups = frame_group[arrays["atom_frame"][rows]], len(frame_group)
    n_all = np.bincount(frame_group, n_of_frames, minlength=n_groups)
    n_scored = np.bincount(groups, minlength=n_groups)
    whole = ((n_scored == 0) | (n_scored == n_all))[groups]
    _require(path, "score_row", rows, whole, "rows of whole groups")


def _require_finite(path: Path, name: str, values: NDArray[Any], start: int) -> None:
    if not np.isfinite(values).all():
        _require(path, name, values, np.isfinite(values).all(axis=1), "finite numbers", start)


def _require(
    path: Path, name: str, values: NDArray[Any], good: NDArray[np.bool_] | np.bool_, expected: str, start: int = 0
) -> None:
    """Raise FileFormatError for the first entry that is not good; `start`: the place of the first one in the file."""
    if not good.all():
        bad = int(np.argmin(good))
        got = shortened(str(values[bad].tolist()))
        raise FileFormatError(f"{path}: {name}: expected {expected}, got {got} in entry {start + bad}")
