"""The frames that may be chosen, and the rows of their atoms."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from quests_md._progress import track
from quests_md.environments import describe, frame_digest, hashed
from quests_md.errors import FileFormatError, FrameError, UnsuitableFrameError
from quests_md.io import Frame, count_frames, is_of_files, iter_frames
from quests_md.log import read_log
from quests_md.reference import Reference

from .unfit import n_alone, why_unfit

__all__ = ["Pool", "Source", "read_pool"]

#: Numbers by which columns of rows are multiplied where rows become numbers that look random.
FACTORS_SEED = 20_260

#: How the name of a log ends.
LOG_SUFFIX = ".jsonl"

COPY = "with the environments of another frame"


@dataclass(frozen=True)
class Source:
    """Frames to choose from, which can be read twice."""

    given: Any
    how: dict[str, Any]
    places: Mapping[tuple[str, int], str] | None = None
    """Files and numbers of the frames that count, with the checksum that a log has of each; None: all do."""

    def count(self) -> int | None:
        """How many frames there are; None where that is not cheap to know."""
        return count_frames(self.given) if self.places is None else len(self.places)

    def read(self) -> Iterator[Frame]:
        """All frames, one at a time; FileFormatError where they are not those that a log has checked."""
        missing = set(self.places or ())
        for frame in iter_frames(self.given, incomplete="warn", **self.how):
            if self.places is None:
                yield frame
            elif (digest := self.places.get((frame.source, frame.index))) is not None:
                if digest and frame_digest(frame.atoms) != digest:
                    raise FileFormatError(
                        f"{frame.source}: frame {frame.index} is not the one that the log has checked: the file was "
                        "replaced, or is read in another way, since it was scored; score it again"
                    )
                missing.discard((frame.source, frame.index))
                yield frame
        if missing:
            source, index = min(missing)
            raise FileFormatError(
                f"{source}: frame {index}, which the log has checked, is not there: the file was replaced or cut short "
                "since it was scored; score it again"
            )

    @classmethod
    def of(cls, frames: Any, **how: Any) -> Self:
        """Of frames or files; frames that come one by one are kept in memory, since those chosen are wanted again.

        A log stands for the frames that were out in it, or for all that it checked if none was.
        """
        if not (is_of_files(frames) or isinstance(frames, Atoms | list | tuple)):
            frames = list(frames)
        given = [frames] if isinstance(frames, Atoms | str | os.PathLike) else list(frames)
        logs = [one for one in given if not isinstance(one, Atoms) and str(one).endswith(LOG_SUFFIX)]
        if not logs:
            return cls(frames, how)
        if len(logs) < len(given):
            raise ValueError(f"frames: expected logs alone or frames alone, got {logs[0]} beside others")
        places = dict[tuple[str, int], str]()
        for log in logs:
            places |= _places_of_log(log)
        return cls(list(dict.fromkeys(source for source, _ in sorted(places))), how, places)


def _places_of_log(path: str | os.PathLike[str]) -> dict[tuple[str, int], str]:
    log = read_log(path)
    if not (log.source >= 0).any():
        raise ValueError(
            f"{path}: expected the log of a scored trajectory, which names files and frames, got one that does not, as "
            "of a live run; give the trajectory of the run, or its flagged frames"
        )
    is_out = log.state == "out"
    wanted = (log.source >= 0) & (is_out | (not is_out.any()))
    wanted = np.flatnonzero(wanted)
    sources = {int(i): _found_from(log.sources[i], Path(path)) for i in np.unique(log.source[wanted])}
    return {(sources[int(log.source[k])], int(log.source_frame[k])): str(log.digest[k]) for k in wanted.tolist()}


def _found_from(source: str, log: Path) -> str:
    """The name under which a file of a log is found: as it is written there, or beside the log."""
    tried = list(dict.fromkeys([Path(source), log.parent / source, log.parent / Path(source).name]))
    for path in tried:
        if path.exists():
            return str(path) if path != tried[0] else source
    places = ", ".join(str(path.absolute()) for path in tried)
    raise FileNotFoundError(
        f"{log}: the log is of {source}, which is in none of these places: {places}; put it beside the log, or run the "
        "command where the trajectory was scored"
    )


@dataclass(frozen=True)
class Pool:
    """Frames that are fit to be chosen, in an order that depends on what they are and not on how they came."""

    places: Sequence[int]
    """How many frames came before each."""
    rows: NDArray[np.float32]
    """(n, width) rows of their atoms, frame by frame, 1/Å."""
    numbers: NDArray[np.int64]
    """(n,) atomic numbers."""
    atoms: NDArray[np.int64]
    """(n,) indices of the atoms in their frames: those that are no centers have no row."""
    ends: NDArray[np.int64]
    """(n_frames + 1,) where frames begin, and the end."""
    sizes: NDArray[np.int64]
    """(n_frames,) all atoms of each frame."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Frames that were left out, by the reason."""
    n_seen: int = 0

    @cached_property
    def frame_of(self) -> NDArray[np.int64]:
        """(n,) frame of each row."""
        return np.repeat(np.arange(len(self.places)), np.diff(self.ends))

    def rows_of(self, frame: int) -> slice:
        """The rows of a frame."""
        return slice(int(self.ends[frame]), int(self.ends[frame + 1]))

    def sample(self, among: NDArray[np.int64], most: int, *, evenly: bool = True) -> NDArray[np.int64]:
        """At most `most` of some rows, ascending, the same ones in whatever order frames come.

        Elements get equal parts of the sample, as far as they have so many, unless `evenly` is False.
        """
        if len(among) <= most:
            return among
        marks = row_marks(self.rows[among])
        if not evenly:
            return np.sort(among[np.argsort(marks, kind="stable")[:most]])
        chosen, elements = list[NDArray[np.int64]](), sorted(Counter(self.numbers[among].tolist()).items(), key=_count)
        for i, (z, n) in enumerate(elements):
            share = (most - sum(map(len, chosen))) // (len(elements) - i)
            here = np.flatnonzero(self.numbers[among] == z)
            if n > share:
                here = here[np.argsort(marks[here], kind="stable")[:share]]
            chosen.append(among[here])
        return np.sort(np.concatenate(chosen))


def _count(item: tuple[int, int]) -> tuple[int, int]:
    z, n = item
    return n, z


def row_marks(rows: NDArray[np.float32]) -> NDArray[np.uint64]:
    """(n,) numbers that look random and depend on the row alone."""
    words = np.ascontiguousarray(rows).view(np.uint32).astype(np.uint64)
    factors = hashed(np.arange(rows.shape[1], dtype=np.uint64), FACTORS_SEED) | np.uint64(1)
    return hashed((words * factors).sum(axis=1, dtype=np.uint64), FACTORS_SEED)


def read_pool(
    source: Source, reference: Reference, *, distorted: bool, max_dh: float | None, threads: int | None
) -> Pool:
    """Read frames one at a time and keep the rows of those that are fit, each frame once.

    Parameters are those of `select`; what cannot be described at all, as frames with NaN, is left out in any case.
    """
    pair_distances = reference.pair_distances()
    left_out, seen = Counter[str](), set[bytes]()
    kept: list[tuple[bytes, int, NDArray[np.float32], NDArray[Any], NDArray[np.int64], int]] = []
    count = -1
    for count, frame in enumerate(track(source.read(), "reading frames", source.count())):
        atoms = frame.atoms
        try:
            rows = describe(reference.descriptor, atoms, threads)
        except UnsuitableFrameError:
            raise
        except FrameError as exc:
            left_out[_kind(str(exc))] += 1
            continue
        centers = np.flatnonzero(reference.is_center(atoms.numbers))
        if not len(centers):
            left_out["no atom that has an environment"] += 1
            continue
        alone = n_alone(atoms, reference.descriptor)
        if alone == len(atoms):  # they give energies of atoms, and nothing to learn
            left_out["isolated atoms"] += 1
            continue
        if not distorted and (why := why_unfit(atoms, reference, rows, pair_distances, alone)):
            left_out[_kind(why)] += 1
            continue
        rows = rows[centers]
        numbers = np.asarray(atoms.numbers[centers], np.int64)
        if max_dh is not None and not _is_within(reference, rows, numbers, max_dh, threads):
            left_out[f"dH above max_dh = {max_dh:g}"] += 1
            continue
        single = rows.astype(np.float32)
        digest = _digest(frame, single, numbers)
        if digest in seen:
            left_out[COPY] += 1
            continue
        seen.add(digest)
        kept.append((digest, count, single, numbers, centers, len(atoms)))
    kept.sort(key=lambda entry: entry[0])
    lengths = [len(entry[2]) for entry in kept]
    width = kept[0][2].shape[1] if kept else reference.rows.shape[1]
    return Pool(
        [entry[1] for entry in kept],
        np.concatenate([np.empty((0, width), np.float32), *(entry[2] for entry in kept)]),
        np.concatenate([np.empty(0, np.int64), *(entry[3] for entry in kept)]),
        np.concatenate([np.empty(0, np.int64), *(entry[4] for entry in kept)]),
        np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64),
        np.array([entry[5] for entry in kept], np.int64),
        left_out,
        count + 1,
    )


def _is_within(
    reference: Reference, rows: NDArray[np.float64], numbers: NDArray[Any], level: float, threads: int | None
) -> bool:
    """Whether no dH is above a level. Unknown elements, whose dH is infinite, are what a selection is for."""
    known = reference.is_known(numbers)
    return bool(reference.is_covered(rows[known], level, numbers=numbers[known], threads=threads).all())


def _digest(frame: Frame, rows: NDArray[np.float32], numbers: NDArray[np.int64]) -> bytes:
    """What copies of a frame have in common, their atoms in whatever order."""
    order = np.lexsort((row_marks(rows), numbers))
    digest = hashlib.blake2b(digest_size=16)
    for array in (numbers[order], rows[order], np.sort(frame.atoms.numbers)):
        digest.update(np.ascontiguousarray(array).data)
    return digest.digest()


def _kind(why: str) -> str:
    """The kind of a fault, for a count of them."""
    if "finite" in why:
        return "positions or cell that are not finite"
    if "coordinates up to" in why:
        return "positions that are too large"
    if "without any neighbour" in why:
        return "with atoms that have no neighbour"
    if "without a neighbour" in why:
        return "torn apart"
    return "atoms too near each other" if "Å" in why else why
