"""Reference: the environments of a training set, with everything needed to compare a frame with them."""

import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from numpy.typing import ArrayLike, NDArray

from quests_md._arguments import check_bandwidth, check_rows
from quests_md._kernels.sums import nearest_rows
from quests_md._progress import track
from quests_md._threads import available_threads, for_ranges
from quests_md.engine import BANDWIDTH, Index, JoinedIndex, best_bandwidth, minus_log_sums
from quests_md.environments import Descriptor, DescriptorLike, check_center_rows, describe, is_center
from quests_md.errors import FileFormatError, MismatchError
from quests_md.io import count_frames, iter_frames
from quests_md.records import NearestEnvironment

from . import file as reference_file
from .build import PAIR_BIN, Builder, copies_rule, provenance, sorted_by_element
from .file import ARRAYS
from .groups import join_copies

__all__ = ["Nearest", "Reference", "near_largest", "require_equal_settings"]

#: Most rows that are held out to set a level.
MAX_HELD_OUT = 30_000

#: Nats below the largest dH of a frame within which held-out values are taken in float64: the error of fast ones.
NEAR_LARGEST = 5e-3

#: Rows of an element up to which a float64 sum is as fast as anything.
FEW_ROWS = 256

#: Pairs of environments and rows up to which the nearest row is found before a search structure is built.
FEW_PAIRS = 1e7

#: Environments held out between two moves of the progress bar.
HELD_OUT_PIECE = 1024


@dataclass(frozen=True, slots=True, eq=False)
class Nearest:
    """Reference environments nearest to the atoms of a frame."""

    distance: NDArray[np.float64]
    """(n,) distance of the rows in bandwidths; inf for an unknown element or an atom that is no center."""
    frame: NDArray[np.int64]
    """(n,) frame of the reference, counted over all its frames; -1 where the distance is inf."""
    atom: NDArray[np.int64]
    """(n,) index of the atom in that frame; -1 where the distance is inf."""


class Reference:
    """Environments of a training set, against which frames are judged. Made by `from_frames` or `load`; never changed.

    Under match="element" an atom is compared with the reference atoms of its own element, so rows are kept sorted by
    element; within an element they keep the order of frames and atoms.
    """

    def __init__(
        self,
        arrays: Mapping[str, NDArray[Any]],
        *,
        descriptor: DescriptorLike | None,
        settings: Mapping[str, Any],
        sources: Sequence[str],
        provenance: Mapping[str, Any],
        fingerprint: str | None = None,
    ) -> None:
        times = {"frame_time": np.full(len(arrays["frame_natoms"]), np.nan)}  # older files have none
        self._arrays = {name: _read_only(array) for name, array in (times | dict(arrays)).items()}
        self._descriptor = descriptor
        self._settings = dict(settings)
        self._sources = tuple(sources)
        self._provenance = dict(provenance)
        self._fingerprint = fingerprint
        self._blocks = _element_blocks(self.numbers, self._settings["match"])
        self._order: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None
        self._indices: dict[int, Index | JoinedIndex] = {}
        self._inherited: dict[int, Index] = {}

    @classmethod
    def from_frames(
        cls,
        frames_or_paths: Any,
        *,
        descriptor: DescriptorLike | None = None,
        bandwidth: float | Literal["auto"] | None = None,
        match: Literal["element", "any"] = "element",
        groups: str | Sequence[Any] | None = None,
        types: Sequence[str] | None = None,
        threads: int | None = None,
    ) -> Self:
        """Build a reference from frames or files, one frame in memory at a time.

        Frames without any neighbour inside the cutoff (isolated atoms, made for reference energies) are left out with
        a warning: they would make evaporated atoms look familiar. Where the descriptor restricts its centers, other
        atoms have no row, and frames without any center are left out as well.

        Parameters
        ----------
        frames_or_paths
            Atoms, a path, a glob pattern, a path with an ASE slice (``train.xyz@::10``), or an iterable of these.
        descriptor
            Default `Descriptor()`. Any callable from Atoms to (n_atoms, width) rows with a `fingerprint` text serves.
        bandwidth
            h in 1/Å, default 0.015; "auto": what the data support, see `auto_bandwidth`. Required with a descriptor
            that is not a `Descriptor`.
        match
            "element": compare an atom with reference atoms of its own element. "any": chemistry-blind, as published.
        groups
            Which frames count as independent when a level is set. None: contiguous blocks per file of two correlation
            times, measured. "frame": every frame. "file": every file. Any other text: the key of `atoms.info` that
            holds the label. A sequence: one label per frame.
        types
            Element of each LAMMPS atom type, ("Cu", "Zr") say, for dumps that do not name elements.
        threads
            Threads to use; default the cores that the process may use, or QUESTS_MD_THREADS.

        Raises
        ------
        FrameError
            If a frame cannot be described; names file and frame.
        FileFormatError, FileNotFoundError
            If a file is torn, empty or missing.
        ValueError
            If `bandwidth`, `match` or `groups` is not usable.
        """
        chosen = Descriptor() if descriptor is None else descriptor
        if bandwidth is None:
            if not isinstance(chosen, Descriptor):
                raise ValueError(
                    "bandwidth: expected a number or 'auto' for a descriptor of one's own, got none; "
                    "0.015 1/Å is right for the rows of quests_md.Descriptor only"
                )
            bandwidth = BANDWIDTH
        h = BANDWIDTH if bandwidth == "auto" else check_bandwidth(bandwidth)
        if match not in ("element", "any"):
            raise ValueError(f"match: expected 'element' or 'any', got {match!r}")
        settings = _settings(chosen, h, match)
        available_threads(threads)
        builder = Builder(chosen, match, groups, threads)
        for frame in track(iter_frames(frames_or_paths, types=types), "reading frames", count_frames(frames_or_paths)):
            builder.add(frame)
        arrays, sources, origin = builder.finish()
        reference = cls(arrays, descriptor=chosen, settings=settings, sources=sources, provenance=origin)
        return reference.with_bandwidth("auto", threads=threads) if bandwidth == "auto" else reference

    def __getstate__(self) -> dict[str, Any]:
        """Search structures are not pickled: they are built again where they are needed."""
        return self.__dict__ | {"_indices": {}, "_inherited": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Arrays that come out of a pickle are writeable: a reference never changes."""
        self.__dict__.update(state)
        self._arrays = {name: _read_only(array) for name, array in self._arrays.items()}

    def __repr__(self) -> str:
        return (
            f"<Reference: {self.n_environments} environments of {', '.join(self.elements) or 'no element'} in "
            f"{self.n_frames} frames, h = {self.bandwidth} 1/Å, match = {self.match!r}, {self.fingerprint}>"
        )

    @property
    def n_environments(self) -> int:
        """Rows N_ref."""
        return len(self.rows)

    @property
    def n_frames(self) -> int:
        """Frames that the environments come from."""
        return len(self._arrays["frame_natoms"])

    @property
    def elements(self) -> tuple[str, ...]:
        """Chemical symbols present, by atomic number."""
        return tuple(chemical_symbols[z] for z in np.unique(self.numbers))

    @property
    def bandwidth(self) -> float:
        """Kernel width h, 1/Å."""
        return float(self._settings["bandwidth"])

    @property
    def match(self) -> str:
        """Which reference atoms an atom is compared with: "element" or "any"."""
        return str(self._settings["match"])

    @property
    def descriptor(self) -> DescriptorLike:
        """The callable that makes the rows.

        Raises
        ------
        ValueError
            If the reference was loaded from a file made with a descriptor of one's own and none was given.
        """
        if self._descriptor is None:
            raise ValueError(
                f"descriptor: the reference was made with {self._settings['descriptor']!r}, which is not one of "
                "quests_md's; give it to Reference.load(path, descriptor=...)"
            )
        return self._descriptor

    @property
    def settings(self) -> dict[str, Any]:
        """What must agree for two references, or a frame and a reference, to be compared."""
        return dict(self._settings)

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the reference comes from: creation time, versions, group rule, what was left out, parents."""
        return dict(self._provenance)

    @property
    def ancestors(self) -> tuple[str, ...]:
        """Fingerprints of the references from which `extend` and `merge` made this one, the oldest first."""
        return tuple(self._provenance.get("ancestors", self._provenance.get("parents", ())))

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the files, to which `frame_source` points."""
        return self._sources

    @property
    def rows(self) -> NDArray[np.float64]:
        """(N_ref, width) descriptor rows, 1/Å."""
        return self._arrays["rows"]

    @property
    def numbers(self) -> NDArray[np.uint8]:
        """(N_ref,) atomic numbers."""
        return self._arrays["numbers"]

    @property
    def row_groups(self) -> NDArray[np.int64]:
        """(N_ref,) group of each row: the group of its frame."""
        groups: NDArray[np.int64] = self._arrays["frame_group"][self._arrays["atom_frame"]]
        return groups

    def array(self, name: str) -> NDArray[Any]:
        """One of the arrays of the reference file by name (`atom_frame`, `frame_volume`, `positions`, ...)."""
        return self._arrays[name]

    @property
    def fingerprint(self) -> str:
        """Checksum of the rows, elements, groups and settings: equal exactly for references that answer alike."""
        if self._fingerprint is None:
            checksums = {name: reference_file.checksum(self._arrays[name]) for name in reference_file.IDENTITY}
            self._fingerprint = reference_file.fingerprint(self._settings, checksums)
        return self._fingerprint

    def pair_distances(self) -> dict[tuple[int, int], tuple[float, float]]:
        """Smallest and median nearest-neighbour distance in Å of each pair of atomic numbers (a <= b) seen."""
        distances = {}
        for (a, b), smallest, histogram in zip(
            self._arrays["pair_elements"], self._arrays["pair_smallest"], self._arrays["pair_histogram"], strict=True
        ):
            middle = np.searchsorted(np.cumsum(histogram), histogram.sum() / 2)
            distances[int(a), int(b)] = float(smallest), float((middle + 0.5) * PAIR_BIN)
        return distances

    def auto_bandwidth(self, *, threads: int | None = None) -> float | None:
        """Bandwidth in 1/Å that maximises the leave-one-group-out likelihood of the rows; None if there is none.

        There is none if the best lies at an edge of 0.003 ... 0.3 1/Å, or if no group has another to be compared with.
        """
        blocks = [slice(*ends) for ends in dict.fromkeys((b.start, b.stop) for b in self._blocks.values())]
        return best_bandwidth(self.rows, self.row_groups, blocks, threads=threads)

    def with_bandwidth(self, bandwidth: float | Literal["auto"], *, threads: int | None = None) -> Self:
        """The same environments with another bandwidth h in 1/Å: a new reference with another fingerprint.

        Raises
        ------
        ValueError
            If `bandwidth` is not a positive number, or "auto" finds none.
        """
        if bandwidth == "auto":
            found = self.auto_bandwidth(threads=threads)
            if found is None:
                raise ValueError(
                    "bandwidth: 'auto' found no best value between 0.003 and 0.3 1/Å: too few groups of frames, or "
                    "groups that are copies of each other; give a number, 0.015 is usual"
                )
            bandwidth = found
        arrays = {name: array for name, array in self._arrays.items() if ARRAYS[name][1] != "scores"}
        return type(self)(
            arrays,
            descriptor=self._descriptor,
            settings=self._settings | {"bandwidth": check_bandwidth(bandwidth)},
            sources=self._sources,
            provenance=self._provenance,
        )

    def delta_entropy(
        self,
        atoms_or_rows: Atoms | ArrayLike,
        *,
        numbers: ArrayLike | None = None,
        float64: bool = False,
        threads: int | None = None,
    ) -> NDArray[np.float64]:
        """Differential entropy dH of each environment with respect to this reference.

        Parameters
        ----------
        atoms_or_rows
            A frame, or descriptor rows (n, width) made with the settings of this reference.
        numbers
            (n,) atomic numbers of the rows; may be left out if the reference has one element or match="any".
        float64
            True: within 1e-9 max(1, |dH|). False: within 1e-4 + 1e-6 |dH|, as fast as it can be had.
        threads
            Threads to use; default the cores that the process may use, or QUESTS_MD_THREADS. Never changes the result.

        Returns
        -------
        delta_entropy
            (n,) in nats; +inf for atoms of an element that the reference has never seen, NaN for atoms that are no
            centers of the descriptor: they have no environment.

        Raises
        ------
        FrameError
            If the frame cannot be described.
        ValueError
            If rows come without needed numbers, of another width, or not finite.
        """
        rows, z = self._rows_and_numbers(atoms_or_rows, numbers, threads)
        return self.evaluate(rows, z, float64=float64, threads=threads)

    def evaluate(
        self,
        rows: NDArray[np.float64],
        numbers: NDArray[Any],
        *,
        levels: Sequence[NDArray[np.float64]] = (),
        float64: bool = False,
        threads: int | None = None,
    ) -> NDArray[np.float64]:
        """`delta_entropy` of checked rows; comparisons of the result with `levels` (n,) are as with float64=True."""
        n_threads = available_threads(threads)
        out = np.where(self.is_center(numbers), np.inf, np.nan)
        for where, block in self._matches(numbers):
            known = self.rows[block]
            if float64 or len(known) <= FEW_ROWS or not len(where):
                out[where] = minus_log_sums(rows[where], known, self.bandwidth, threads=threads)
                continue
            values, bounds, usual = self._index(block).minus_log_sums(rows[where], n_threads)
            # values are as good as promised where rounding is as usual, comparisons hold in the worst case
            unsure = _inaccurate(values, usual)
            for level in levels:
                with np.errstate(invalid="ignore"):  # inf - inf
                    unsure |= ~(np.abs(values - level[where]) > bounds)
            values[unsure] = minus_log_sums(rows[where[unsure]], known, self.bandwidth, threads=threads)
            out[where] = values
        return out

    def evaluate_above(
        self,
        rows: NDArray[np.float64],
        numbers: NDArray[Any],
        lowest: NDArray[np.float64],
        *,
        levels: Sequence[NDArray[np.float64]] = (),
        threads: int | None = None,
    ) -> NDArray[np.float64]:
        """`evaluate` where dH may be above `lowest` (n,) nats, NaN where a proof says that it is not."""
        out = np.full(len(rows), np.nan)
        open_ = np.ones(len(rows), dtype=bool)
        for where, block in self._matches(numbers):
            if len(self.rows[block]) > FEW_ROWS:
                verdict = self._index(block).decide(rows[where], lowest[where], available_threads(threads))
                open_[where] = verdict <= 0
        these = [level[open_] for level in (lowest, *levels)]
        out[open_] = self.evaluate(rows[open_], numbers[open_], levels=these, threads=threads)
        return out

    def _index(self, block: slice) -> Index | JoinedIndex:
        """The search structure over the rows of an element, built when first asked for.

        After an extension that of the first rows is kept, as long as they are most of them.
        """
        if block.start not in self._indices:
            rows, first = self.rows[block], self._inherited.pop(block.start, None)
            if first is not None and len(first.rows) < len(rows) <= 2 * len(first.rows):
                n = len(first.rows)
                kept = copy(first)
                kept.rows = rows[:n]  # the old reference may go
                self._indices[block.start] = JoinedIndex(kept, Index(rows[n:], self.bandwidth))
            else:
                self._indices[block.start] = Index(rows, self.bandwidth)
        return self._indices[block.start]

    def _inherit(self, first: "Reference") -> None:
        """Take over the search structures of a reference whose rows come first in each element of this one."""
        for z, block in first._blocks.items():
            index = first._indices.get(block.start)
            if index is not None and z in self._blocks:
                self._inherited[self._blocks[z].start] = index.first if isinstance(index, JoinedIndex) else index

    def is_covered(
        self,
        atoms_or_rows: Atoms | ArrayLike,
        level: float | ArrayLike,
        *,
        numbers: ArrayLike | None = None,
        threads: int | None = None,
    ) -> NDArray[np.bool_]:
        """Whether dH <= level for each environment, equal to the float64 decision; never for an unknown element.

        Atoms that are no centers count as covered, whatever the level: what is not looked at never alarms.

        Parameters as in `delta_entropy`; `level` in nats is a scalar or (n,). Raises ValueError for a NaN level.
        """
        rows, z = self._rows_and_numbers(atoms_or_rows, numbers, threads)
        levels = np.asarray(level, dtype=np.float64)
        if levels.ndim > 1 or (levels.ndim == 1 and len(levels) != len(rows)):
            raise ValueError(f"level: expected a number or an array ({len(rows)},), got shape {levels.shape}")
        if np.isnan(levels).any():
            raise ValueError("level: expected numbers of nats, got NaN")
        levels = np.broadcast_to(levels, len(rows))
        covered = ~self.is_center(z)
        undecided = ~covered
        for where, block in self._matches(z):
            if len(self.rows[block]) > FEW_ROWS:
                verdict = self._index(block).decide(rows[where], levels[where], available_threads(threads))
                covered[where], undecided[where] = verdict > 0, verdict == 0
        open_ = np.flatnonzero(undecided)
        values = self.evaluate(rows[open_], z[open_], levels=[levels[open_]], threads=threads)
        covered[open_] = (values <= levels[open_]) & (values < np.inf)
        return covered

    def nearest(
        self, atoms_or_rows: Atoms | ArrayLike, *, numbers: ArrayLike | None = None, threads: int | None = None
    ) -> Nearest:
        """The nearest reference environment of each atom: parameters as in `delta_entropy`."""
        rows, z = self._rows_and_numbers(atoms_or_rows, numbers, threads)
        distance = np.full(len(rows), np.inf)
        found = np.full(len(rows), -1)
        n_threads = available_threads(threads)
        for where, block in self._matches(z):
            best = np.full(len(where), -1)
            is_many = len(where) * len(self.rows[block]) > FEW_PAIRS or block.start in self._indices
            if is_many and len(self.rows[block]) > FEW_ROWS:
                best = self._index(block).nearest(rows[where], n_threads)
            d2 = _nearest_rows(rows[where], self.rows[block], best, n_threads)
            distance[where] = np.sqrt(d2) / self.bandwidth
            found[where] = best + block.start
        known_rows = found >= 0
        frame, atom = np.full(len(rows), -1), np.full(len(rows), -1)
        frame[known_rows] = self._arrays["atom_frame"][found[known_rows]]
        atom[known_rows] = self._arrays["atom_index"][found[known_rows]]
        return Nearest(distance=distance, frame=frame, atom=atom)

    def describe_nearest(self, nearest: Nearest, i: int) -> NearestEnvironment | None:
        """File, frame in that file, and atom of entry `i` of a result of `nearest`."""
        frame = int(nearest.frame[i])
        if frame < 0:
            return None
        return NearestEnvironment(
            distance=float(nearest.distance[i]),
            source=self._sources[self._arrays["frame_source"][frame]],
            frame=int(self._arrays["frame_index"][frame]),
            atom=int(nearest.atom[i]),
        )

    def is_known(self, numbers: ArrayLike) -> NDArray[np.bool_]:
        """Whether each atomic number can be compared with this reference; False for those that are no centers."""
        z = np.asarray(numbers)
        if self.match == "any":
            return self.is_center(z) & (self.n_environments > 0)
        return np.isin(z, list(self._blocks))

    def is_center(self, numbers: ArrayLike) -> NDArray[np.bool_]:
        """Whether atoms of each atomic number have an environment: all, unless the descriptor restricts its centers."""
        return is_center(self._descriptor, numbers)

    def n_comparable(self, number: int) -> int:
        """Rows that an atom of this atomic number is compared with."""
        if self.match == "any":
            return self.n_environments
        block = self._blocks.get(number)
        return 0 if block is None else block.stop - block.start

    def sketch(self, n_rows: int, seed: int) -> "Reference":
        """A random subset of at most about `n_rows` rows, each element in its share and with at least one row.

        Of use for cheap averages; its dH lies above this reference's by about the log of the ratio of rows.
        """
        if self.n_environments <= n_rows:
            return self
        rng = np.random.default_rng(seed)
        chosen = []
        for block in dict.fromkeys((b.start, b.stop) for b in self._blocks.values()):
            size = block[1] - block[0]
            n = max(1, round(n_rows * size / self.n_environments))
            chosen.append(block[0] + np.sort(rng.choice(size, n, replace=False)))
        rows = np.concatenate(chosen)
        arrays = {name: array[rows] if ARRAYS[name][1] == "atoms" else array for name, array in self._arrays.items()}
        arrays = {name: array for name, array in arrays.items() if ARRAYS[name][1] != "scores"}
        return Reference(
            arrays,
            descriptor=self._descriptor,
            settings=self._settings,
            sources=self._sources,
            provenance=self._provenance | {"parents": [self.fingerprint], "sketch": {"rows": len(rows), "seed": seed}},
        )

    def log_shares(self, sketch: "Reference", numbers: NDArray[Any]) -> NDArray[np.float64]:
        """Log of how many rows of this reference each row of a sketch stands for, by the element of an environment."""
        out = np.zeros(len(numbers))
        for z in np.unique(numbers):
            mine, its = self.n_comparable(int(z)), sketch.n_comparable(int(z))
            if mine and its:
                out[numbers == z] = math.log(mine / its)
        return out

    def held_out_scores(
        self,
        frame_groups: NDArray[np.int64] | None = None,
        rng: int | np.random.Generator = 0,
        *,
        threads: int | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """DH of the reference's own rows with all rows of their own group left out of the sum.

        Adding rows lowers dH, so these values bound from above what the full reference would give for environments
        like them. Whole groups are taken, in random order, up to 30 000 rows. The result for the reference's own
        groups and seed 0 is kept, and saved with the reference.

        Returns
        -------
        rows, scores
            (m,) indices of the rows, ascending, and their dH in nats: +inf where no other group has the element.
        """
        default = frame_groups is None and isinstance(rng, int) and rng == 0
        if default and "score" in self._arrays:
            return self._arrays["score_row"], self._arrays["score"]
        row_groups = self.row_groups if frame_groups is None else frame_groups[self._arrays["atom_frame"]]
        try:
            generator = np.random.default_rng(rng)
        except (TypeError, ValueError) as exc:
            raise ValueError(f"rng: expected a seed (0, 1, 2, ...) or a numpy Generator, got {rng!r}") from exc
        rows = _whole_groups(row_groups, MAX_HELD_OUT, generator)
        scores = self.delta_entropy_without(
            self.rows[rows], self.numbers[rows], row_groups[rows], frame_groups, threads=threads
        )
        top = near_largest(scores, self._arrays["atom_frame"][rows] * 256 + self.numbers[rows])
        scores[top] = self.delta_entropy_without(
            self.rows[rows[top]],
            self.numbers[rows[top]],
            row_groups[rows[top]],
            frame_groups,
            float64=True,
            threads=threads,
        )
        if default:
            self._arrays |= {"score_row": _read_only(rows), "score": _read_only(scores)}
        return rows, scores

    def delta_entropy_without(
        self,
        rows: NDArray[np.float64],
        numbers: NDArray[Any],
        own_groups: NDArray[np.int64],
        frame_groups: NDArray[np.int64] | None = None,
        *,
        float64: bool = False,
        threads: int | None = None,
    ) -> NDArray[np.float64]:
        """DH of rows as if the group each belongs to were not in the reference.

        Parameters
        ----------
        rows, numbers
            (n, width) descriptor rows in 1/Å and (n,) atomic numbers.
        own_groups
            (n,) group to leave out for each row; -1: none.
        frame_groups
            (n_frames,) group of each frame; default the groups of the reference.
        float64, threads
            As in `delta_entropy`.

        Returns
        -------
        delta_entropy
            (n,) in nats; +inf where no other group has the element.
        """
        row_groups = self.row_groups if frame_groups is None else frame_groups[self._arrays["atom_frame"]]
        out = np.full(len(rows), np.inf)
        for where, block in self._matches(numbers):
            pieces = np.split(where, range(HELD_OUT_PIECE, len(where), HELD_OUT_PIECE))
            is_exact = float64 or len(self.rows[block]) <= FEW_ROWS
            for piece in track(pieces, "holding out environments", len(pieces)):
                unsure = piece
                if not is_exact:
                    values, _, usual = self._index(block).minus_log_sums(
                        rows[piece], available_threads(threads), own_groups[piece], row_groups[block]
                    )
                    out[piece] = values
                    unsure = piece[_inaccurate(values, usual)]
                out[unsure] = minus_log_sums(
                    rows[unsure],
                    self.rows[block],
                    self.bandwidth,
                    query_groups=own_groups[unsure],
                    groups=row_groups[block],
                    threads=threads,
                )
        return out

    def frame(self, index: int) -> Atoms:
        """Frame `index` as it is kept: its centers, with positions and cell in single precision."""
        if self._order is None:
            order = np.lexsort((self._arrays["atom_index"], self._arrays["atom_frame"]))
            ends = np.searchsorted(self._arrays["atom_frame"][order], np.arange(self.n_frames + 1))
            self._order = order, ends
        order, ends = self._order
        atoms = order[ends[index] : ends[index + 1]]
        frame = Atoms(
            numbers=self.numbers[atoms],
            positions=self._arrays["positions"][atoms].astype(np.float64),
            cell=self._arrays["cells"][index].astype(np.float64),
            pbc=self._arrays["pbc"][index],
        )
        marked = getattr(self._descriptor, "marked", None)  # of averaged frames, see TimeAveraged
        return frame if marked is None else marked(frame)

    def _rows_and_numbers(
        self, atoms_or_rows: Atoms | ArrayLike, numbers: ArrayLike | None, threads: int | None
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        if isinstance(atoms_or_rows, Atoms):
            return describe(self.descriptor, atoms_or_rows, threads), np.asarray(atoms_or_rows.numbers)
        z = None if numbers is None else np.asarray(numbers)
        if z is None or z.shape != np.shape(atoms_or_rows)[:1]:  # of wrong numbers below
            rows = check_rows("rows", atoms_or_rows)
        else:
            rows = check_center_rows("rows", atoms_or_rows, self.is_center(z))
        if self.n_environments and rows.shape[1] != self.rows.shape[1]:
            raise ValueError(
                f"rows: expected {self.rows.shape[1]} columns as in the reference, got {rows.shape[1]}; "
                "make them with reference.descriptor"
            )
        if z is None:
            if self.match == "element" and len(self._blocks) > 1:
                raise ValueError(
                    f"numbers: expected the atomic number of each row, since the reference has {len(self._blocks)} "
                    "elements and compares like with like; give numbers=atoms.numbers"
                )
            only = next(iter(self._blocks), 0)
            return rows, np.full(len(rows), only)
        if z.shape != (len(rows),):
            raise ValueError(f"numbers: expected shape ({len(rows)},), one per row, got {z.shape}")
        return rows, z

    def _matches(self, numbers: NDArray[Any]) -> Iterable[tuple[NDArray[np.int64], slice]]:
        """Indices of the environments of each element, and the slice of reference rows they are compared with."""
        if self.match == "any":
            if self.n_environments:
                yield np.flatnonzero(self.is_center(numbers)), slice(0, self.n_environments)
            return
        for z, block in self._blocks.items():
            where = np.flatnonzero(numbers == z)
            if len(where):
                yield where, block

    def extend(self, frames_or_paths: Any, *, groups: str | Sequence[Any] | None = None) -> "Reference":
        """A new reference with more frames; this one is not changed. Parameters as in `from_frames`."""
        added = Reference.from_frames(
            frames_or_paths,
            descriptor=self.descriptor,
            bandwidth=self.bandwidth,
            match=self.match,  # type: ignore[arg-type]  # checked when self was made
            groups=groups,
        )
        return Reference.merge([self, added])

    @staticmethod
    def merge(references: Iterable["Reference"]) -> "Reference":
        """A new reference with the environments of all given ones, whose groups stay apart unless frames repeat.

        Raises
        ------
        ValueError
            If there is none.
        MismatchError
            If their settings differ; names the setting and both values.
        """
        parts = list(references)
        if not parts:
            raise ValueError("references: expected at least one Reference, got none")
        first = parts[0]
        for i, other in enumerate(parts[1:], start=1):
            require_equal_settings(first.settings, other.settings, "references[0]", f"references[{i}]")
        sources = list(dict.fromkeys(source for part in parts for source in part.sources))
        place = {source: i for i, source in enumerate(sources)}
        pieces: dict[str, list[NDArray[Any]]] = {name: [] for name, (_, per) in ARRAYS.items() if per != "scores"}
        n_frames = n_groups = 0
        for part in parts:
            for name, array_list in pieces.items():
                array = part.array(name)
                if name == "atom_frame":
                    array = array + n_frames
                elif name == "frame_group":
                    array = array + n_groups
                elif name == "frame_source":
                    array = np.array([place[part.sources[i]] for i in array], dtype=np.int64)
                array_list.append(array)
            n_frames += part.n_frames
            n_groups += int(part.array("frame_group").max(initial=-1)) + 1
        # an empty reference by a descriptor of one's own does not know its width
        pieces["rows"] = [rows for rows in pieces["rows"] if len(rows)] or pieces["rows"][:1]
        arrays = {name: np.concatenate(array_list) for name, array_list in pieces.items()}
        arrays |= _merge_pairs(arrays["pair_elements"], arrays["pair_smallest"], arrays["pair_histogram"])
        numbers = arrays["numbers"] if first.match == "element" else None
        arrays["frame_group"], n_copies = join_copies(
            arrays["frame_group"], arrays["atom_frame"], arrays["rows"], numbers
        )
        origin = provenance() | {
            "parents": [part.fingerprint for part in parts],
            "ancestors": list(dict.fromkeys(name for part in parts for name in (*part.ancestors, part.fingerprint))),
            "left_out": dict(sum((Counter(part.provenance.get("left_out", {})) for part in parts), Counter())),
            "groups": "; ".join(dict.fromkeys(str(part.provenance.get("groups")) for part in parts))
            + copies_rule(n_copies),
        }
        merged = Reference(
            sorted_by_element(arrays, first.match),
            descriptor=next((p._descriptor for p in parts if p._descriptor is not None), None),
            settings=first.settings,
            sources=sources,
            provenance=origin,
        )
        merged._inherit(first)
        return merged

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the reference to a safetensors file, whole or not at all.

        Raises
        ------
        OSError
            If the file cannot be written; an older one of that name is then untouched.
        """
        header = {
            "settings": self._settings,
            "provenance": self._provenance,
            "sources": list(self._sources),
            "fingerprint": self.fingerprint,
        }
        reference_file.write(path, header, self._arrays)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], mmap: bool = False, *, descriptor: DescriptorLike | None = None
    ) -> Self:
        """Read a reference file.

        Parameters
        ----------
        path
            The file.
        mmap
            Map the rows instead of reading them, so that processes on one node share them. The file must then stay as
            it is: a truncated mapped file kills the process.
        descriptor
            The callable that made the rows, where it was not one of quests_md's.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        FileFormatError
            If it is empty, torn, of a newer schema or not a reference, or holds what no reference does.
        MismatchError
            If `descriptor` is not the one that the file was made with.
        """
        file = Path(path)
        if not file.is_file():
            raise FileNotFoundError(f"{path}: expected a reference file, there is none; make it with Reference.save")
        header, arrays = reference_file.read(file, mmap)
        settings = header["settings"]
        if descriptor is None and "k" in settings:
            descriptor = _stored_descriptor(file, settings)
        if descriptor is not None and descriptor.fingerprint != settings["descriptor"]:
            raise MismatchError(
                f"descriptor: {path} was made with {settings['descriptor']!r}, got {descriptor.fingerprint!r}"
            )
        if isinstance(descriptor, Descriptor):
            _require_rows_of(file, descriptor, settings, arrays)
        return cls(
            arrays,
            descriptor=descriptor,
            settings=settings,
            sources=header["sources"],
            provenance=header["provenance"],
            fingerprint=header["fingerprint"],
        )

    @staticmethod
    def verify(path: str | os.PathLike[str]) -> None:
        """Compare the content of a reference file with the checksums written at save.

        Raises
        ------
        FileFormatError
            If they differ; names the arrays.
        """
        reference_file.verify(Path(path))


def near_largest(values: NDArray[np.float64], parts: NDArray[Any]) -> NDArray[np.int64]:
    """Indices of the fast values that may be the largest finite one of their part: a frame and an element.

    Levels are made of these, so that they are wanted as exactly as checks take them.
    """
    finite = np.flatnonzero(np.isfinite(values))
    _, part = np.unique(parts[finite], return_inverse=True)
    largest = np.full(int(part.max(initial=-1)) + 1, -np.inf)
    np.maximum.at(largest, part, values[finite])
    near = NEAR_LARGEST * (1 + np.abs(values[finite]) / 100)
    return finite[values[finite] >= largest[part] - near]


def require_equal_settings(
    expected: Mapping[str, Any], got: Mapping[str, Any], expected_name: str, got_name: str
) -> None:
    """Raise MismatchError naming the first setting that differs, with both values."""
    # the descriptor's fingerprint says less than the k or cutoff behind it
    last = "descriptor" if "k" in expected and "k" in got else ""
    for key in sorted(dict.fromkeys(["descriptor", *expected, *got]), key=lambda key: key == last):
        if expected.get(key) != got.get(key):
            raise MismatchError(
                f"{key}: {expected_name} has {expected.get(key)!r}, {got_name} has {got.get(key)!r}; "
                "build both with the same settings"
            )


def _settings(descriptor: DescriptorLike, bandwidth: float, match: str) -> dict[str, Any]:
    fingerprint = getattr(descriptor, "fingerprint", None)
    if not callable(descriptor) or not isinstance(fingerprint, str):
        raise ValueError(
            f"descriptor: expected a callable with a text `fingerprint`, equal exactly for equal settings, got "
            f"{descriptor!r} with fingerprint {fingerprint!r}"
        )
    settings: dict[str, Any] = {"descriptor": fingerprint}
    if isinstance(descriptor, Descriptor):
        settings |= descriptor.settings
    return settings | {"bandwidth": bandwidth, "match": match}


def _stored_descriptor(path: Path, settings: Mapping[str, Any]) -> Descriptor:
    """The descriptor that a reference file says its rows are made with."""
    names = ("k", "cutoff", "elements", "centers", "neighbors")
    try:
        return Descriptor(**{name: settings[name] for name in names if name in settings})
    except (ValueError, TypeError) as exc:
        raise FileFormatError(f"{path}: settings: {reference_file.shortened(str(exc))}") from exc


def _require_rows_of(
    path: Path, descriptor: Descriptor, settings: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> None:
    """Raise FileFormatError unless settings and arrays of a file are such as this descriptor leads to."""
    for key, value in descriptor.settings.items():
        if settings.get(key) != value:
            got = reference_file.shortened(repr(settings.get(key)))
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


def _inaccurate(values: NDArray[np.float64], errors: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Where fast values may not be as good as `Reference.delta_entropy` promises."""
    return ~(errors < 1e-4 + 1e-6 * np.abs(values))


def _nearest_rows(
    queries: NDArray[np.float64], rows: NDArray[np.float64], best: NDArray[np.int64], threads: int
) -> NDArray[np.float64]:
    """Squared distances of queries from their nearest rows `best`, which are looked for where they are -1."""
    with np.errstate(over="ignore"):  # then inf, as the kernel says
        d2: NDArray[np.float64] = ((queries - rows[best]) ** 2).sum(axis=1)
    missing = np.flatnonzero(best < 0)
    these, their_best, their_d2 = queries[missing], best[missing], d2[missing]

    def work(start: int, stop: int) -> None:
        nearest_rows(these[start:stop], rows, their_best[start:stop], their_d2[start:stop])

    for_ranges(work, len(missing), 64, threads)
    best[missing], d2[missing] = their_best, their_d2
    return d2


def _whole_groups(groups: NDArray[np.int64], most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Indices of the rows of whole groups in random order, until the next group would exceed `most` rows."""
    if len(groups) <= most:
        return np.arange(len(groups))
    names, sizes = np.unique(groups, return_counts=True)
    order = rng.permutation(len(names))
    taken = int((np.cumsum(sizes[order]) <= most).sum())
    return np.flatnonzero(np.isin(groups, names[order[: max(taken, 1)]]))


def _element_blocks(numbers: NDArray[np.uint8], match: str) -> dict[int, slice]:
    present, starts = np.unique(numbers, return_index=True)
    if match == "any":
        return {int(z): slice(0, len(numbers)) for z in present}
    stops = [*starts, len(numbers)][1:]
    return {int(z): slice(int(a), int(b)) for z, a, b in zip(present, starts, stops, strict=True)}


def _merge_pairs(
    elements: NDArray[np.uint8], smallest: NDArray[np.float64], histograms: NDArray[np.int64]
) -> dict[str, NDArray[Any]]:
    pairs, where = np.unique(elements, axis=0, return_inverse=True)
    low = np.full(len(pairs), np.inf)
    counts = np.zeros((len(pairs), histograms.shape[1]), np.int64)
    np.minimum.at(low, where.ravel(), smallest)
    np.add.at(counts, where.ravel(), histograms)
    return {"pair_elements": pairs, "pair_smallest": low, "pair_histogram": counts}


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    view = array.view()
    view.flags.writeable = False
    return view
