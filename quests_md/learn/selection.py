"""Few frames out of many, for a training set that lacks them."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from quests_md._arguments import check_positive_integer, is_number
from quests_md._threads import available_threads
from quests_md._words import many, nats
from quests_md.environments import element_symbol
from quests_md.io import FramesOrPaths
from quests_md.records import NearestEnvironment
from quests_md.reference import MAX_HELD_OUT, GivenReference, Reference, opened_reference

from .choice import Choice, Pick, Wanted
from .coverage import Coverage
from .pool import Pool, Source, read_pool

__all__ = ["Selected", "Selection", "covered_levels", "select"]

KNOWN = "with environments that are known or chosen already"

#: What is said where nothing was chosen.
NONE = "no frame is small enough for the budget of atoms"

#: Share of the environments of the reference, each with its group left out, that are above the level that covers.
SHARE_ABOVE = 0.01

#: Held-out environments of an element from which on it has a level of its own, and of all from which on there is one.
FEWEST_OF_ELEMENT, FEWEST = 100, 30

#: Nats. Levels are not below: one equal environment in the training set covers, and levels of references that have many
#: equal ones would ask for as many.
LOWEST_LEVEL = 0.0

#: Most rows of a reference whose scores, which levels are made of as well, are computed whole; else so many are.
MOST_ROWS, ROWS_OF_LARGE = 200_000, 2000


class NothingFitError(ValueError):
    """No frame is fit to be chosen."""


@dataclass(frozen=True, slots=True, eq=False)
class Selected:
    """A frame that was chosen."""

    rank: int
    """1 for the frame that was chosen first."""
    atoms: Atoms = field(repr=False)
    """The frame as it was read."""
    source: str
    """File of the frame, or "memory"."""
    frame: int
    """Number of the frame in its file, from 0."""
    gain: float
    """Nats by which dH above the level, summed over the environments that gains are counted on, falls with this frame;
    where everything was covered before: by which dH falls."""
    is_new: bool
    """Whether something was still uncovered; False: the frame is the most informative one of those that are covered."""
    dh_max: float
    """Largest dH of its atoms with respect to the reference and the frames chosen before, nats; inf: an element that
    neither has."""
    strange: NDArray[np.int64] = field(repr=False)
    """Atoms that justify it, the largest dH first: those above the level, or the one of largest dH."""
    nearest: NearestEnvironment | None
    """The reference environment nearest to the first of these; None: the reference has none of its element."""


@dataclass(frozen=True, slots=True, eq=False)
class Selection(Sequence[Selected]):
    """The frames that `select` has chosen, in the order in which they were, and what they do."""

    chosen: tuple[Selected, ...]
    levels: dict[str, float]
    """dH in nats up to which environments of each element count as covered."""
    n_frames: int
    """Frames that were looked at."""
    left_out: dict[str, int]
    """How many of them are not fit to be chosen, by the reason."""
    n_environments: int
    """Environments of those that are fit."""
    n_uncovered: int
    """Environments above the level with respect to the reference."""
    n_left: int
    """Environments above the level with respect to the reference and the chosen frames."""
    is_estimated: bool
    """Whether that number comes from a sample of 4096 environments."""
    n_to_cover: int | None
    """Frames that cover everything; None: it is not known, at least more than `n_at_least`."""
    n_at_least: int
    """Frames that are needed at least by the order in which they were chosen."""
    n_asked: int | None
    """Frames that were asked for."""
    n_lacking: dict[str, int] = field(default_factory=dict)
    """How many frames with an element are missing to those that were asked for by `per_element`, by element."""

    @overload
    def __getitem__(self, index: int) -> Selected: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Selected, ...]: ...

    def __getitem__(self, index: int | slice) -> Selected | tuple[Selected, ...]:
        """The frame of an index, from 0."""
        return self.chosen[index]

    def __len__(self) -> int:
        """How many frames were chosen."""
        return len(self.chosen)

    @property
    def frames(self) -> list[Atoms]:
        """The chosen frames as they were read."""
        return [one.atoms for one in self.chosen]

    def labelled_copies(self) -> Iterator[Atoms]:
        """Copies of the frames that say in `info` where they come from, their rank, gain and why they were chosen.

        Without energies and forces, which are those of the run and no labels.
        """
        for one in self.chosen:
            frame: Atoms = one.atoms.copy()  # without its energy and forces: those of a run are no labels
            frame.info |= {"select_rank": one.rank, "select_gain": one.gain, "select_dh_max": one.dh_max}
            frame.info |= {"from_file": one.source, "from_frame": one.frame}
            strange = np.zeros(len(frame), bool)
            strange[one.strange] = True
            frame.set_array("select_strange", strange)
            yield frame

    def __str__(self) -> str:
        """What was chosen and what it covers, in a few lines."""
        return "\n".join(self.lines())

    def lines(self) -> list[str]:
        """The same, line by line."""
        fit = self.n_frames - sum(self.left_out.values())
        lines = [f"{many(len(self), 'frame')} chosen of {fit} that are fit, {self.n_frames} in all"]
        lines += [f"left out: {many(n, 'frame')}, {why}" for why, n in sorted(self.left_out.items())]
        level = ", ".join(f"{element} {nats(value)}" for element, value in self.levels.items())
        lines.append(f"covered: dH at most {level} nats")
        if self.n_lacking:
            named = ", ".join(f"{element} {n}" for element, n in self.n_lacking.items())
            lines.append(f"frames missing to those asked for each element: {named}")
        asked = "" if self.n_asked is None else f"; you asked for {self.n_asked}"
        if not self.n_uncovered:
            lines.append(
                f"the reference covers all {self.n_environments} environments{asked}"
                + ("; the most informative frames come first" if self.chosen else "")
            )
            return lines
        if self.n_to_cover is not None:
            covers = "covers" if self.n_to_cover == 1 else "cover"
            lines.append(f"{many(self.n_to_cover, 'frame')} {covers} everything{asked}")
        else:
            lines.append(
                f"{many(self.n_at_least, 'frame')} do not cover everything yet{asked}" if self.n_at_least else NONE
            )
        share, about = 100 * self.n_left / self.n_uncovered, "about " if self.is_estimated else ""
        before = f"{self.n_uncovered} of {self.n_environments} before"
        lines.append(f"environments above the level: {before}, {about}{self.n_left} after ({share:.3g} %)")
        return lines


def select(
    frames: FramesOrPaths,
    reference: GivenReference,
    *,
    n: int | None = None,
    per_element: int | None = None,
    max_dh: float | None = None,
    budget_atoms: int | None = None,
    level: float | None = None,
    distorted: bool = False,
    types: Sequence[str] | None = None,
    topology: Any = None,
    threads: int | None = None,
) -> Selection:
    """Choose the frames that a training set lacks most: few, different, and fit for a calculation.

    An environment is covered where its dH with respect to the reference and the frames chosen so far is at most a
    level. Each step takes the frame that most reduces what is uncovered: the sum, over the environments of all frames,
    of dH above the level, at most 20 nats each. Once everything is covered, frames follow that most reduce dH itself.
    This is the greedy algorithm for the minimum set cover (arXiv:2511.10561; with a bound of what it misses: L. Wolsey,
    doi:10.1007/BF02579435), started from the reference. It is exact for up to 4096 uncovered environments; of more a
    sample of 4096 counts, in which elements have equal parts, and the rest is looked at when the sample is covered. The
    order of frames and the number of threads never matter.

    Copies of frames are left out, and by default frames that no one should label: atoms nearer than 0.7 times the
    closest pair of their elements in the reference, torn apart, not finite.

    Parameters
    ----------
    frames
        Frames, files, patterns, or an iterable of these, read as a stream. Files are read twice; frames of a generator
        are kept in memory.
    reference
        The training set, or the name of its file; it counts as chosen.
    n
        How many frames to choose. Default: as many as cover everything.
    per_element
        At least so many of the chosen frames hold the element, for each element of the frames, as far as there are so
        many: 1 by default, for elements of which something is uncovered. Of use with `n` or `budget_atoms` alone.
    max_dh
        Frames with an atom of larger dH, in nats with respect to the reference, are left out; default: none is.
    budget_atoms
        Most atoms of the chosen frames together. Frames are then chosen by what they gain for each atom.
    level
        dH in nats up to which environments are covered; those of chosen frames are in any case. Default: what 99 % of
        the environments of the reference do not exceed when their group is left out of it, for each element, and at
        least 0: one equal environment is enough.
    distorted
        Whether frames with atoms too near each other or torn off may be chosen too.
    types, topology
        As in `Reference.from_frames`.
    threads
        Threads to use; default the cores that the process may use, or QUESTS_MD_THREADS.

    Returns
    -------
    Selection
        The chosen frames, best first: `selection.frames`, `print(selection)`.

    Raises
    ------
    FileFormatError, FileNotFoundError
        A file cannot be read.
    UnsuitableFrameError
        The descriptor of the reference cannot describe such frames.
    ValueError
        An argument is not usable, or no frame is fit to be chosen; says why.
    """
    for name, value in (("n", n), ("per_element", per_element), ("budget_atoms", budget_atoms)):
        if value is not None:
            check_positive_integer(name, value)
    for name, number in (("max_dh", max_dh), ("level", level)):
        if number is not None and (not is_number(number) or not math.isfinite(number)):
            raise ValueError(f"{name}: expected a finite number of nats, or None, got {number!r}")
    known, n_threads = opened_reference(reference), available_threads(threads)
    if not known.n_environments:
        raise ValueError("reference: expected environments, got none")
    source = Source.of(frames, types=types, topology=topology)
    pool = read_pool(source, known, distorted=distorted, max_dh=max_dh, threads=threads)
    if not pool.places:
        reasons = ", ".join(f"{many(k, 'frame')}: {why}" for why, k in sorted(pool.left_out.items())) or "no frames"
        raise NothingFitError(f"frames: expected some that are fit to be chosen, got none of {pool.n_seen} ({reasons})")
    levels = covered_levels(known, threads) if level is None else {0: float(level)}

    of_pool = np.array([levels.get(int(z), levels[0]) for z in pool.numbers])
    choice = Choice(Coverage(pool, known, of_pool, n_threads))
    choice.run(Wanted(n, per_element, budget_atoms))
    return Selection(
        chosen=_read_chosen(source, pool, choice.picks),
        levels={element_symbol(int(z)): levels.get(int(z), levels[0]) for z in np.unique(pool.numbers)},
        n_frames=pool.n_seen,
        left_out=dict(pool.left_out) | ({KNOWN: choice.n_copies} if choice.n_copies else {}),
        n_environments=len(pool.rows),
        n_uncovered=choice.n_uncovered,
        n_left=choice.n_left,
        is_estimated=choice.is_estimated,
        n_to_cover=choice.n_taken if choice.covers else None,
        n_at_least=choice.n_taken,
        n_asked=n,
        n_lacking=_lacking(pool, choice.picks, per_element),
    )


def _lacking(pool: Pool, picks: Sequence[Pick], per_element: int | None) -> dict[str, int]:
    """How many frames of each element are missing to those asked for."""
    held = Counter(z for pick in picks for z in np.unique(pool.numbers[pool.rows_of(pick.frame)]).tolist())
    missing = {z: (per_element or 0) - held[z] for z in np.unique(pool.numbers).tolist()}
    return {element_symbol(z): n for z, n in missing.items() if n > 0}


def _read_chosen(source: Source, pool: Pool, picks: Sequence[Pick]) -> tuple[Selected, ...]:
    """The chosen frames, which are read once more."""
    picked = {pool.places[pick.frame]: (rank, pick) for rank, pick in enumerate(picks, 1)}
    chosen: list[Selected] = []
    for count, frame in enumerate(source.read() if picked else ()):
        if count in picked:
            rank, pick = picked[count]
            chosen.append(
                Selected(
                    rank,
                    frame.atoms,
                    frame.source,
                    frame.index,
                    pick.gain,
                    pick.is_new,
                    pick.dh_max,
                    pick.strange,
                    pick.nearest,
                )
            )
        if len(chosen) == len(picked):
            break
    return tuple(sorted(chosen, key=lambda one: one.rank))


def covered_levels(reference: Reference, threads: int | None, share_above: float = SHARE_ABOVE) -> dict[int, float]:
    """DH in nats that all but a share of the reference's environments do not exceed without their group.

    By element; 0: any element that has none of its own.
    """
    is_large = reference.n_environments > MOST_ROWS
    scores = reference.held_out_scores(threads=threads, most_rows=ROWS_OF_LARGE if is_large else MAX_HELD_OUT)
    is_finite = np.isfinite(scores.dh)
    dh, numbers = scores.dh[is_finite], reference.numbers[scores.rows[is_finite]]
    levels = {0: float(np.quantile(dh, 1 - share_above)) if len(dh) >= FEWEST else LOWEST_LEVEL}
    if reference.match == "element":
        for z in np.unique(numbers):
            own = dh[numbers == z]
            if len(own) >= FEWEST_OF_ELEMENT:
                levels[int(z)] = float(np.quantile(own, 1 - share_above))
    return {z: max(value, LOWEST_LEVEL) for z, value in levels.items()}
