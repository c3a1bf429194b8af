"""What a reference holds: arrays, typed and read-only, settings, and where they come from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from quests_md.environments import DescriptorLike

from .late_array import LateArray, at_hand
from .mapped import as_sent, mapped_again

__all__ = ["ARRAYS", "PAIR_BIN", "Contents", "ReferenceArrays", "blocks_of", "pair_keys", "type_of"]

#: Å, width of the bins in which nearest-neighbour distances of element pairs are counted.
PAIR_BIN = 0.01


class Layout(NamedTuple):
    """Type and shape of an array in the file."""

    dtype: str
    """Name of the type."""
    per: str
    """What there is one entry for: "atoms" (rows), "frames", "pairs" (of elements) or "scores"."""
    entry: tuple[int | None, ...]
    """Shape of one entry; None: any length."""


def _layout(dtype: str, per: str, *entry: int | None) -> dict[str, Layout]:
    return {"layout": Layout(dtype, per, entry)}


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ReferenceArrays:
    """Rows, the atoms and frames that the rows come from, and what was counted of them.

    N_ref rows, one for each center (an atom that the descriptor gives a row) of n_frames frames. Under match="element"
    rows are sorted by element; within an element, and under match="any" altogether, by frame and atom.
    """

    rows: NDArray[np.float64] | NDArray[np.float32] = field(metadata=_layout("float64", "atoms", None))
    """(N_ref, width) descriptor rows, 1/Å; float32 with precision="single"."""
    numbers: NDArray[np.uint8] = field(metadata=_layout("uint8", "atoms"))
    """(N_ref,) atomic number of each row."""
    atom_frame: NDArray[np.int64] = field(metadata=_layout("int64", "atoms"))
    """(N_ref,) frame of each row, counted over all frames of the reference."""
    atom_index: NDArray[np.int64] = field(metadata=_layout("int64", "atoms"))
    """(N_ref,) index of the atom in its frame, atoms that are no centers counted."""
    positions: NDArray[np.float32] = field(metadata=_layout("float32", "atoms", 3))
    """(N_ref, 3) positions of the atoms, Å."""
    frame_source: NDArray[np.int64] = field(metadata=_layout("int64", "frames"))
    """(n_frames,) place of the file of each frame in `sources`."""
    frame_index: NDArray[np.int64] = field(metadata=_layout("int64", "frames"))
    """(n_frames,) place of each frame in its file, from 0."""
    frame_natoms: NDArray[np.int64] = field(metadata=_layout("int64", "frames"))
    """(n_frames,) atoms of each frame, those that are no centers included."""
    frame_volume: NDArray[np.float64] = field(metadata=_layout("float64", "frames"))
    """(n_frames,) volume of the cell, Å^3; NaN unless the frame is periodic in three directions."""
    frame_group: NDArray[np.int64] = field(metadata=_layout("int64", "frames"))
    """(n_frames,) group of each frame: frames of different groups count as independent."""
    frame_time: NDArray[np.float64] = field(metadata=_layout("float64", "frames"))
    """(n_frames,) time of each frame, ps; NaN where unknown."""
    frame_temperature: NDArray[np.float64] = field(metadata=_layout("float64", "frames"))
    """(n_frames,) temperature of each frame, K; NaN where unknown."""
    cells: NDArray[np.float32] = field(metadata=_layout("float32", "frames", 3, 3))
    """(n_frames, 3, 3) cell vectors as rows, Å."""
    pbc: NDArray[np.bool_] = field(metadata=_layout("bool", "frames", 3))
    """(n_frames, 3) periodic directions."""
    pair_elements: NDArray[np.uint8] = field(metadata=_layout("uint8", "pairs", 2))
    """(n_pairs, 2) pairs of atomic numbers a <= b seen as neighbours, ascending."""
    pair_smallest: NDArray[np.float64] = field(metadata=_layout("float64", "pairs"))
    """(n_pairs,) smallest nearest-neighbour distance of each pair, Å."""
    pair_histogram: NDArray[np.int64] = field(metadata=_layout("int64", "pairs", None))
    """(n_pairs, n_bins) nearest-neighbour distances of each pair, counted in bins of `PAIR_BIN` from 0 Å."""
    averaged: NDArray[np.float32] | LateArray | None = field(default=None, metadata=_layout("float32", "atoms", None))
    """(N_ref, width) averages of the rows over neighbours, 1/Å, which may still be in the file; None where there are
    none or rows are averaged themselves."""
    score_row: NDArray[np.int64] | None = field(default=None, metadata=_layout("int64", "scores"))
    """(n_scores,) rows that have a held-out score, ascending; None: no scores are carried."""
    score: NDArray[np.float64] | None = field(default=None, metadata=_layout("float64", "scores"))
    """(n_scores,) dH in nats of the row as if its group were not in the reference; +inf: no other group to compare."""

    def __post_init__(self) -> None:
        for name, array in self.held().items():
            if not isinstance(array, LateArray):
                view = array.view()
                view.flags.writeable = False
                object.__setattr__(self, name, view)

    def __reduce__(self) -> tuple[Any, ...]:
        """Arrays that come out of a pickle are writeable: they pass the constructor again. Mapped ones are mapped."""
        return _arrays_again, ({name: as_sent(array) for name, array in self.present().items()},)

    def present(self) -> dict[str, NDArray[Any]]:
        """The arrays by name, without those that are None; what is still in the file is read."""
        return {name: at_hand(array) for name, array in self.held().items()}

    def held(self) -> dict[str, NDArray[Any] | LateArray]:
        """The arrays by name, without those that are None, as they are held."""
        arrays = {part.name: getattr(self, part.name) for part in fields(self)}
        return {name: array for name, array in arrays.items() if array is not None}

    def with_rows(self, chosen: NDArray[np.int64] | slice) -> "ReferenceArrays":
        """The same frames with the chosen rows alone, in the order given; without scores."""
        kept: dict[str, Any] = {n: array for n, array in self.held().items() if ARRAYS[n].per != "scores"}
        for name, array in kept.items():
            if ARRAYS[name].per == "atoms":
                kept[name] = array.with_rows(chosen) if isinstance(array, LateArray) else array[chosen]
        return ReferenceArrays(**kept)

    @property
    def is_by_element(self) -> bool:
        """Whether rows are sorted by element."""
        return bool((self.numbers[1:] >= self.numbers[:-1]).all())

    def groups_of_rows(self, frame_groups: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """(N_ref,) group of each row, from the group of each frame (n_frames,), default `frame_group`."""
        groups: NDArray[np.int64] = (self.frame_group if frame_groups is None else frame_groups)[self.atom_frame]
        return groups

    @property
    def frame_elements(self) -> NDArray[np.int64]:
        """(N_ref,) equal numbers for rows of one frame and element."""
        return pair_keys(self.atom_frame, self.numbers)

    @property
    def frame_order(self) -> NDArray[np.int64]:
        """(N_ref,) indices of the rows in the order of frames and, within a frame, of atoms."""
        return np.lexsort((self.atom_index, self.atom_frame))


def _arrays_again(sent: dict[str, Any]) -> ReferenceArrays:
    return ReferenceArrays(**{name: mapped_again(array) for name, array in sent.items()})


@dataclass(frozen=True, slots=True, eq=False)
class Contents:
    """All of a reference: what frames are built into, what a file holds, and what `Reference` is made from."""

    arrays: ReferenceArrays
    """Rows, and the atoms and frames that the rows come from."""
    descriptor: DescriptorLike | None
    """The callable that makes the rows; None: a descriptor of one's own that is not at hand."""
    settings: Mapping[str, Any]
    """Fingerprint and settings of the descriptor, "bandwidth" in 1/Å, "match", and "precision" if it is "single"."""
    sources: Sequence[str]
    """Names of the files, to which `frame_source` points."""
    provenance: Mapping[str, Any]
    """Creation time, versions, group rule, what was left out, parents."""
    fingerprint: str | None = None
    """Checksum of settings and arrays; None: not computed yet."""

    @property
    def ancestors(self) -> tuple[str, ...]:
        """Fingerprints of the references from which `extend` and `merge` made this one, the oldest first."""
        return tuple(self.provenance.get("ancestors", self.provenance.get("parents", ())))


#: The arrays of the file in the order in which a file is checked.
ARRAYS: dict[str, Layout] = {part.name: part.metadata["layout"] for part in fields(ReferenceArrays)}


def type_of(name: str, settings: Mapping[str, Any]) -> str:
    """Name of the type of an array in a reference with these settings."""
    return "float32" if name == "rows" and settings.get("precision") == "single" else ARRAYS[name].dtype


def pair_keys(first: NDArray[np.int64], numbers: NDArray[Any]) -> NDArray[np.int64]:
    """One integer for each pair of a number (n,) and an atomic number (n,) below 256; ascending as the pairs are."""
    return first * 256 + numbers.astype(np.int64)


def blocks_of(numbers: NDArray[np.uint8], match: str) -> dict[int, slice]:
    """The rows that an atom is compared with, by its atomic number; one entry, 0, under match="any"."""
    if match == "any":
        return {0: slice(0, len(numbers))} if len(numbers) else {}
    present, starts = np.unique(numbers, return_index=True)
    stops = [*starts, len(numbers)][1:]
    return {int(z): slice(int(a), int(b)) for z, a, b in zip(present, starts, stops, strict=True)}
