"""Reference: the environments of a training set, with everything needed to compare a frame with them."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias, TypeVar

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from quests_md._arguments import check_bandwidth, opened
from quests_md._files import check_output_file
from quests_md.engine import best_bandwidth
from quests_md.environments import DescriptorLike

from . import file as reference_file
from .annotating import AnnotatingRows
from .build import build
from .contents import PAIR_BIN, Contents
from .contents_checks import checked, rows_at
from .groups import frame_digests
from .held_out import MAX_HELD_OUT, HeldOutScores, held_out_scores
from .merge import merged
from .same_frames import Placed, first_same, is_of_places
from .thinning import rows_to_keep

__all__ = [
    "GivenReference",
    "Reference",
    "built_like",
    "copies_of",
    "frames_also_in",
    "frames_of_ancestors",
    "opened_reference",
    "thinned",
]

#: Seed from which groups are drawn where rows are too many to hold all out.
SEED = 0

#: Where dH is another, or rows are lacking, nothing is known any more of the references that a reference was made from.
NO_ANCESTORS: dict[str, Any] = {"ancestors": [], "frames_of_ancestors": {}}


class Reference(AnnotatingRows):
    """Environments of a training set, against which frames are judged. Made by `from_frames` or `load`; never changed.

    Under match="element" an atom is compared with the reference atoms of its own element, so rows are kept sorted by
    element; within an element they keep the order of frames and atoms. What can be asked of the rows is in `KnownRows`.
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
        precision: Literal["double", "single"] = "double",
        types: Sequence[str] | None = None,
        skip_bad: bool = False,
        topology: str | os.PathLike[str] | None = None,
        threads: int | None = None,
        out: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Build a reference from frames or files, one frame in memory at a time.

        Frames without any neighbour inside the cutoff (isolated atoms) are left out with a warning: they would make
        evaporated atoms look familiar. Atoms that are no centers have no row, frames without centers are left out.

        Parameters
        ----------
        frames_or_paths
            Atoms, a path, a glob pattern, a path with a slice (``train.xyz@::10``), or an iterable of these.
        descriptor
            Default `Descriptor()`. Any callable from Atoms to (n_atoms, width) rows with a `fingerprint` text serves.
        bandwidth
            h in 1/Å, default that of a `Descriptor`: 0.015, for averaged rows 0.006; "auto": see `auto_bandwidth`.
        match
            "element": compare an atom with reference atoms of its own element. "any": chemistry-blind, as published.
        groups
            Which frames count as independent when a level is set. None: contiguous blocks per file of two correlation
            times, measured. "frame": every frame. "file": every file. Any other text: the key of `atoms.info` that
            holds the label. A sequence: one label per frame. Labels that read alike, 1 and "1", are one.
        precision
            "single": rows are rounded to float32, half the bytes; dH moves by some 1e-5 nats, see docs/large.md.
        types, topology
            What files do not say: elements of LAMMPS types, ("Cu", "Zr") say; a file with those of an xtc, trr or dcd.
        skip_bad
            Leave out frames that are whole and cannot be read or described, with a warning that lists them.
        threads
            Threads to use; default the cores that the process may use, or QUESTS_MD_THREADS.
        out
            Build out of core and write the reference to this file, as `save` does to the byte but for the time, and map
            it. A file of that name is replaced. The disk needs room for three times the file meanwhile.

        Raises
        ------
        FrameError, FileFormatError, FileNotFoundError
            If a frame cannot be described, or a file is torn, empty or missing; names file and frame.
        ValueError
            If `bandwidth`, `match` or `groups` is not usable.
        """
        how: dict[str, Any] = {"precision": precision, "skip_bad": skip_bad, "types": types, "topology": topology}
        if out is not None:
            how["out"] = _checked_output(out, frames_or_paths)
        reference = cls(build(frames_or_paths, descriptor, bandwidth, match, groups, threads, **how))
        if bandwidth == "auto":
            reference = reference.with_bandwidth("auto", threads=threads)
        if out is None:
            return reference
        reference_file.write_built(out, reference._complete)
        return cls.load(out, mmap=True, descriptor=descriptor)

    def extend(self, frames_or_paths: Any, *, groups: str | Sequence[Any] | None = None) -> "Reference":
        """A new reference with more frames; this one is not changed. Parameters as in `from_frames`."""
        return _merged([self, built_like(self, frames_or_paths, groups=groups)])

    @staticmethod
    def merge(references: Iterable["GivenReference"]) -> "Reference":
        """A new reference with the environments of all given ones, whose groups stay apart unless frames repeat.

        Names of files serve too. Where one lacks averaged rows (see `averaged_rows`), so does the new one: a warning.

        Raises
        ------
        ValueError
            If there is none.
        MismatchError
            If their settings differ; names the setting and both values.
        """
        return _merged([opened_reference(given, f"references[{i}]") for i, given in enumerate(references)])

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
            Map what there is of atoms, so that loading takes no time and processes on a node share the memory. The file
            must then stay as it is: a truncated mapped file kills the process. Rows that are not finite are refused
            when they are used. Without it rows are read at once, and averaged rows when they are first asked for.
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
        return cls(reference_file.read(Path(path), mmap, descriptor))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the reference to a safetensors file, whole or not at all.

        Raises OSError if the file cannot be written; an older one of that name is then untouched.
        """
        reference_file.write(path, self._complete)

    @staticmethod
    def verify(path: str | os.PathLike[str]) -> None:
        """Compare a reference file with the checksums written at save; FileFormatError names arrays that differ."""
        reference_file.verify(Path(path))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled is what a file holds, and nothing that can be made again."""
        return type(self), (self._complete,)

    def __repr__(self) -> str:
        return (
            f"<Reference: {self.n_environments} environments of {', '.join(self.elements) or 'no element'} in "
            f"{self.n_frames} frames, h = {self.bandwidth} 1/Å, match = {self.match!r}, "
            f"{'with' if self.has_averaged_rows else 'without'} averaged rows, {self.fingerprint}>"
        )

    @property
    def n_frames(self) -> int:
        """Frames that the environments come from."""
        return len(self.arrays.frame_natoms)

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the reference comes from: creation time, versions, group rule, what was left out, parents."""
        return dict(self._contents.provenance)

    @property
    def ancestors(self) -> tuple[str, ...]:
        """Fingerprints of the references from which `extend` and `merge` made this one, the oldest first."""
        return self._contents.ancestors

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the files, to which `frame_source` points."""
        return tuple(self._contents.sources)

    @property
    def fingerprint(self) -> str:
        """Checksum of the rows, elements, groups and settings: equal exactly for references that answer alike."""
        return str(self._complete.fingerprint)

    def pair_distances(self) -> dict[tuple[int, int], tuple[float, float]]:
        """Smallest and median nearest-neighbour distance in Å of each pair of atomic numbers (a <= b) seen."""
        of_pairs = self.arrays.pair_elements, self.arrays.pair_smallest, self.arrays.pair_histogram
        distances = {}
        for (a, b), smallest, histogram in zip(*of_pairs, strict=True):
            middle = np.searchsorted(np.cumsum(histogram), histogram.sum() / 2)
            distances[int(a), int(b)] = float(smallest), float((middle + 0.5) * PAIR_BIN)
        return distances

    def frame(self, index: int) -> Atoms:
        """Frame `index` as it is kept: its centers, with positions and cell in single precision."""
        order, ends = self._rows_of_frames
        atoms = order[ends[index] : ends[index + 1]]
        frame = Atoms(
            numbers=self.numbers[atoms],
            positions=self.arrays.positions[atoms].astype(np.float64),
            cell=self.arrays.cells[index].astype(np.float64),
            pbc=self.arrays.pbc[index],
        )
        marked = getattr(self._contents.descriptor, "marked", None)  # of averaged frames, see TimeAveraged
        return frame if marked is None else marked(frame)

    def auto_bandwidth(self, *, threads: int | None = None) -> float | None:
        """Bandwidth in 1/Å that maximises the leave-one-group-out likelihood of the rows; None if there is none.

        There is none if the best lies at an edge of 0.003 ... 0.3 1/Å, or if no group has another to be compared with.
        """
        return best_bandwidth(checked("rows", self.rows), self.row_groups, list(self.blocks.values()), threads=threads)

    def with_bandwidth(self, bandwidth: float | Literal["auto"], *, threads: int | None = None) -> Self:
        """The same environments with another bandwidth h in 1/Å: a new reference with another fingerprint.

        Raises
        ------
        ValueError
            If `bandwidth` is not a positive number, or "auto" finds none.
        """
        chosen = self.auto_bandwidth(threads=threads) if bandwidth == "auto" else check_bandwidth(bandwidth)
        if chosen is None:
            raise ValueError(
                "bandwidth: 'auto' found no best value between 0.003 and 0.3 1/Å: the likelihood grows down to "
                "the smallest, as it does for crystals and for copies, or there are too few groups of frames; give a "
                "number, 0.015 is usual"
            )
        arrays, settings = replace(self.arrays, score_row=None, score=None), self.settings | {"bandwidth": chosen}
        past = self.provenance | ({} if chosen == self.bandwidth else NO_ANCESTORS)
        return _changed(self, arrays=arrays, settings=settings, provenance=past)

    def held_out_scores(
        self,
        frame_groups: NDArray[np.int64] | None = None,
        rng: int | np.random.Generator = SEED,
        *,
        most_rows: int = MAX_HELD_OUT,
        frames: NDArray[np.bool_] | None = None,
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
        frames
            (n_frames,) which frames are scored; default all. Groups are left out whole in any case.
        threads
            As in `delta_entropy`.
        """
        is_own = frame_groups is None or np.array_equal(frame_groups, self.arrays.frame_group)
        is_kept = is_own and frames is None and isinstance(rng, int) and rng == SEED and most_rows == MAX_HELD_OUT
        if is_kept and self._computed_scores is not None:
            return self._computed_scores
        if is_kept and self.arrays.score_row is not None and self.arrays.score is not None:
            return HeldOutScores(self.arrays.score_row, self.arrays.score)
        scores = held_out_scores(self, frame_groups, rng, most_rows, frames, threads)
        if is_kept:
            self._computed_scores = scores
        return scores

    def with_held_out_scores(self, *, threads: int | None = None) -> Self:
        """The same reference with its held-out scores, which are then saved with it and need not be computed again."""
        scores = self.held_out_scores(threads=threads)
        arrays = replace(self.arrays, score_row=scores.rows, score=scores.dh)
        carrying = type(self)(replace(self._complete, arrays=arrays))
        carrying.structures, carrying.device = self.structures, self.device  # over the same rows
        return carrying

    def thin(self, bound: float, *, threads: int | None = None) -> "Reference":
        """Fewer rows that cover the others: of every row left out, dH with respect to those kept is at most `bound`.

        Rows are kept in their order unless rows before cover them; frames and groups stay. The bound is about the rows
        left out: of a new environment dH rises, by how much `thinning_loss` measures. Levels need a new calibration,
        with `frames=`: rows that were kept are those that are unlike each other, and say too much of what is usual.

        Raises ValueError unless `bound` is a finite number of nats.
        """
        rows = rows_to_keep(self, bound, threads)
        return _with_rows(self, rows, self._contents.descriptor, thinned={"bound": bound, "rows": len(rows)})

    def sketch(self, n_rows: int, seed: int) -> "Reference":
        """A random subset of at most about `n_rows` rows, each element in its share and with at least one row.

        Of use for cheap averages; its dH lies above this reference's by about `log_shares`.
        """
        if self.n_environments <= n_rows:
            return self
        wanted = {z: max(1, round(n_rows * n / self.n_environments)) for z, n in self.n_rows_of.items()}
        origin = {"rows": sum(wanted.values()), "seed": seed}
        return _with_random_rows(self, wanted, seed, self._contents.descriptor, sketch=origin)

    @cached_property
    def _complete(self) -> Contents:
        """The contents with their fingerprint."""
        if self._contents.fingerprint is not None:
            return self._contents
        return replace(self._contents, fingerprint=reference_file.fingerprint(self.settings, self.arrays))

    @cached_property
    def _rows_of_frames(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows in the order of frames, and where each frame ends."""
        order = self.arrays.frame_order
        return order, np.searchsorted(self.arrays.atom_frame[order], np.arange(self.n_frames + 1))


SomeReference = TypeVar("SomeReference", bound=Reference)

GivenReference: TypeAlias = Reference | str | os.PathLike[str]


def opened_reference(given: GivenReference, argument: str = "reference") -> Reference:
    """The reference, loaded if the name of its file is given.

    Raises TypeError, which names the argument, for anything else, and what `Reference.load` raises.
    """
    return opened(argument, given, Reference, Reference.load, "; make one with Reference.from_frames or Reference.load")


def built_like(
    reference: Reference, frames_or_paths: Any, *, groups: str | Sequence[Any] | None = None, threads: int | None = None
) -> Reference:
    """A reference of other frames with the same settings, so that the two can be compared or merged."""
    return Reference.from_frames(
        frames_or_paths,
        descriptor=reference.descriptor,
        bandwidth=reference.bandwidth,
        match=reference.match,
        precision=reference.precision,
        groups=groups,
        threads=threads,
    )


def frames_of_ancestors(reference: Reference) -> dict[str, range]:
    """Frames of a reference that each of its ancestors had, by fingerprint, where that is recorded."""
    recorded = reference.provenance.get("frames_of_ancestors", {})
    return {name: range(start, stop) for name, (start, stop) in recorded.items()}


def copies_of(reference: Reference, frames: range) -> NDArray[np.int64]:
    """(n_frames,) the first of some frames of a reference of which each of its frames is a copy; -1: none.

    A copy is the same frame by the rule of `first_same`, or has the same rows.
    """
    digests = _digests(reference)
    same: Sequence[int] = range(reference.n_frames)
    if is_of_places(reference.settings):
        same = first_same(Placed.of(reference.arrays, reference.match)).tolist()
    first: dict[bytes | int, int] = {}
    for i in frames:
        first.setdefault(digests[i], i)
        first.setdefault(same[i], i)
    return np.array([first.get(one, first.get(other, -1)) for one, other in zip(digests, same, strict=True)], np.int64)


def frames_also_in(source: Reference, reference: Reference) -> NDArray[np.bool_]:
    """(n_frames,) whether each frame of `source` is also one of `reference`, by the rule of `first_same`.

    Frames are compared by the places of atoms and not by rows, which a strained crystal shares with others; with a
    descriptor of one's own, which may look at anything, by their rows.
    """
    if not is_of_places(reference.settings):
        known_rows = set(_digests(reference))
        return np.array([digest in known_rows for digest in _digests(source)], dtype=bool)
    known, of = (Placed.of(part.arrays, reference.match) for part in (reference, source))
    return first_same(Placed.joined(known, of), reference.n_frames)[reference.n_frames :] < reference.n_frames


def _digests(reference: Reference) -> list[bytes]:
    """What frames with the same rows have in common, for each frame."""
    numbers = reference.numbers if reference.match == "element" else None
    return frame_digests(reference.n_frames, reference.arrays.atom_frame, reference.rows, numbers)


def thinned(references: Sequence[Reference], most_rows: int, seed: int) -> list[Reference]:
    """Random rows of each reference: of each element as many in all that have it, and at most `most_rows` together.

    Rows are drawn one by one and not by groups, so that all groups stay and rows are as independent as they can be.
    Raises ValueError for a reference whose descriptor is not known.
    """
    fewest: dict[int, int] = {}
    for known in references:
        fewest |= {z: min(n, fewest.get(z, n)) for z, n in known.n_rows_of.items()}
    share = min(1.0, most_rows / sum(fewest.values()))
    wanted = {z: max(1, round(n * share)) for z, n in fewest.items()}
    return [_with_random_rows(known, wanted, seed, known.descriptor) for known in references]


def _changed(known: SomeReference, **changes: Any) -> SomeReference:
    """A reference with other contents on the same device."""
    return type(known)(replace(known._contents, fingerprint=None, **changes))._on(known.device)


def _merged(parts: Sequence[Reference]) -> Reference:
    """The parts in one, with the search structures of the first."""
    whole = Reference(merged([part._complete for part in parts]))
    whole.device = parts[0].device
    whole._inherit(parts[0])
    return whole


def _with_random_rows(
    known: Reference, wanted: Mapping[int, int], seed: int, descriptor: DescriptorLike | None, **origin: Any
) -> Reference:
    """As many random rows as wanted of each element (0: of all together), in the order in which they are."""
    rng, chosen = np.random.default_rng(seed), []
    for z, block in known.blocks.items():
        chosen.append(block.start + np.sort(rng.choice(block.stop - block.start, wanted[z], replace=False)))
    return _with_rows(known, np.concatenate(chosen), descriptor, **origin)


def _checked_output(out: str | os.PathLike[str], frames_or_paths: Any) -> Path:
    """The file to be written; OSError or ValueError if it cannot be, or is one of those that are read."""
    check_output_file("out", out)
    given = [frames_or_paths] if isinstance(frames_or_paths, str | os.PathLike) else frames_or_paths
    for path in given if isinstance(given, list | tuple) else ():
        if isinstance(path, str | os.PathLike) and Path(path).absolute() == Path(out).absolute():
            raise ValueError(f"out: expected another file than those of the frames, got {os.fspath(out)!r}")
    return Path(out).absolute()


def _with_rows(
    known: Reference, rows: NDArray[np.int64], descriptor: DescriptorLike | None, **origin: Any
) -> Reference:
    """The chosen rows alone, ascending."""
    mapped = {name for name in ("rows", "averaged") if isinstance(getattr(known.arrays, name), np.memmap)}
    checked_rows = {name: rows_at(name, getattr(known.arrays, name), rows) for name in mapped}
    arrays = replace(known.arrays.with_rows(rows), **checked_rows)
    provenance = known.provenance | {"parents": [known.fingerprint]} | NO_ANCESTORS | origin
    return Reference(Contents(arrays, descriptor, known.settings, known.sources, provenance))._on(known.device)
