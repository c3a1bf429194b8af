"""Reference: the environments of a training set, with everything needed to compare a frame with them."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike, NDArray

from quests_md._arguments import check_bandwidth
from quests_md.engine import best_bandwidth
from quests_md.environments import DescriptorLike, describe

from . import file as reference_file
from .build import build
from .contents import Contents
from .held_out import MAX_HELD_OUT, HeldOutScores, delta_entropy_without, held_out_scores
from .merge import merge, sketch
from .query import KnownRows, Nearest

__all__ = ["Reference"]

#: Seed from which groups are drawn where rows are too many to hold all out.
SEED = 0


class Reference(Contents):
    """Environments of a training set, against which frames are judged. Made by `from_frames` or `load`; never changed.

    Under match="element" an atom is compared with the reference atoms of its own element, so rows are kept sorted by
    element; within an element they keep the order of frames and atoms.
    """

    #: Scores computed for the own groups and seed; only `with_held_out_scores` puts them into a file.
    _computed_scores: HeldOutScores | None = None

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
        built = build(frames_or_paths, descriptor, bandwidth, match, groups, types, threads)
        reference = cls(**built._asdict())
        return reference.with_bandwidth("auto", threads=threads) if bandwidth == "auto" else reference

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
        merged = merge(parts)
        merged.known.inherit(parts[0].known)
        return merged

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
        return cls(**reference_file.read(Path(path), mmap, descriptor)._asdict())

    @cached_property
    def known(self) -> KnownRows:
        """The rows and the search structures over them: what to ask where checked rows are at hand already."""
        return KnownRows(self.arrays, match=self.match, bandwidth=self.bandwidth, descriptor=self._descriptor)

    def auto_bandwidth(self, *, threads: int | None = None) -> float | None:
        """Bandwidth in 1/Å that maximises the leave-one-group-out likelihood of the rows; None if there is none.

        There is none if the best lies at an edge of 0.003 ... 0.3 1/Å, or if no group has another to be compared with.
        """
        return best_bandwidth(self.rows, self.row_groups, list(self.known.blocks.values()), threads=threads)

    def with_bandwidth(self, bandwidth: float | Literal["auto"], *, threads: int | None = None) -> Self:
        """The same environments with another bandwidth h in 1/Å: a new reference with another fingerprint.

        Raises
        ------
        ValueError
            If `bandwidth` is not a positive number, or "auto" finds none.
        """
        chosen = self.auto_bandwidth(threads=threads) if bandwidth == "auto" else bandwidth
        if chosen is None:
            raise ValueError(
                "bandwidth: 'auto' found no best value between 0.003 and 0.3 1/Å: too few groups of frames, or "
                "groups that are copies of each other; give a number, 0.015 is usual"
            )
        arrays = replace(self.arrays, score_row=None, score=None)
        return self.replaced(arrays, settings=self.settings | {"bandwidth": check_bandwidth(chosen)})

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
        return self.known.evaluate(*self._asked(atoms_or_rows, numbers, threads), float64=float64, threads=threads)

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
        return self.known.is_covered(*self._asked(atoms_or_rows, numbers, threads), level, threads)

    def nearest(
        self, atoms_or_rows: Atoms | ArrayLike, *, numbers: ArrayLike | None = None, threads: int | None = None
    ) -> Nearest:
        """The nearest reference environment of each atom: parameters as in `delta_entropy`."""
        return self.known.nearest(*self._asked(atoms_or_rows, numbers, threads), threads)

    def is_known(self, numbers: ArrayLike) -> NDArray[np.bool_]:
        """Whether each atomic number can be compared with this reference; False for those that are no centers."""
        return self.known.is_known(numbers)

    def is_center(self, numbers: ArrayLike) -> NDArray[np.bool_]:
        """Whether atoms of each atomic number have an environment: all, unless the descriptor restricts its centers."""
        return self.known.is_center(numbers)

    def held_out_scores(
        self,
        frame_groups: NDArray[np.int64] | None = None,
        rng: int | np.random.Generator = SEED,
        *,
        most_rows: int = MAX_HELD_OUT,
        threads: int | None = None,
    ) -> HeldOutScores:
        """DH of the reference's own rows with all rows of their own group left out of the sum.

        Adding rows lowers dH, so these values bound from above what the full reference would give for environments
        like them. Scores for the own groups and seed 0 are computed once, or not at all if the reference carries them.

        Parameters
        ----------
        frame_groups
            (n_frames,) group of each frame; default the groups of the reference.
        rng
            Seed or generator of the order in which whole groups are taken.
        most_rows
            Rows up to which groups are taken; one group at least.
        threads
            As in `delta_entropy`.
        """
        is_own = frame_groups is None or np.array_equal(frame_groups, self.arrays.frame_group)
        is_kept = is_own and isinstance(rng, int) and rng == SEED and most_rows == MAX_HELD_OUT
        if is_kept and self._computed_scores is not None:
            return self._computed_scores
        if is_kept and self.arrays.score_row is not None and self.arrays.score is not None:
            return HeldOutScores(self.arrays.score_row, self.arrays.score)
        row_groups = self.arrays.groups_of_rows(frame_groups)
        scores = held_out_scores(self.known, row_groups, rng, most_rows=most_rows, threads=threads)
        if is_kept:
            self._computed_scores = scores
        return scores

    def with_held_out_scores(self, *, threads: int | None = None) -> Self:
        """The same reference with its held-out scores, which are then saved with it and need not be computed again."""
        scores = self.held_out_scores(threads=threads)
        arrays = replace(self.arrays, score_row=scores.rows, score=scores.dh)
        carrying = self.replaced(arrays, fingerprint=self.fingerprint)
        carrying.known = self.known  # of the same rows
        return carrying

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
        """DH of checked rows (n, width) as if the group that each belongs to were not in the reference.

        `own_groups`: (n,) group to leave out for each row, -1: none. `frame_groups`: (n_frames,) group of each frame,
        default the groups of the reference. Other parameters as in `delta_entropy`; +inf where no other group has the
        element.
        """
        row_groups = self.arrays.groups_of_rows(frame_groups)
        return delta_entropy_without(
            self.known, rows, numbers, own_groups, row_groups, float64=float64, threads=threads
        )

    def sketch(self, n_rows: int, seed: int) -> "Reference":
        """A random subset of at most about `n_rows` rows, each element in its share and with at least one row.

        Of use for cheap averages; its dH lies above this reference's by about `known.log_shares`.
        """
        return sketch(self, n_rows, seed)

    def _asked(
        self, atoms_or_rows: Atoms | ArrayLike, numbers: ArrayLike | None, threads: int | None
    ) -> tuple[NDArray[np.float64], NDArray[Any]]:
        """Rows and atomic numbers of what is asked for."""
        if isinstance(atoms_or_rows, Atoms):
            return describe(self.descriptor, atoms_or_rows, threads), np.asarray(atoms_or_rows.numbers)
        return self.known.checked(atoms_or_rows, numbers)
