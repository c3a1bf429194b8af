"""What the frames of a run are, as they are read: in words, and what is strange about them."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from quests_md._words import many

from .files import Frame
from .frames import frame_time_ps

__all__ = ["FramesSeen", "periodic_words"]


#: Steps from which the number of steps between frames is told.
MOST_STEPS = 100


# Times that tell how far apart frames are.
_TIMES = 2

#: Files of which it is told that steps or times go back in them.
MOST_TOLD = 5


#: What to do where the next file holds another system.
SYSTEMS = (
    "Files are read as one run, and an event may go on from one to the next; if they are runs of their own, score each "
    "with a log of its own. Said once"
)


class _Last(NamedTuple):
    """What is kept of a frame for the next one."""

    place: str
    step: int
    time_ps: float | None
    """The last time that was told."""
    pbc: tuple[bool, ...]
    source: str
    atoms: str
    """How many there are of each element."""


class FramesSeen:
    """Keeps what the frames of a run are. Give it each frame once, in order."""

    def __init__(self) -> None:
        self.n_frames = 0
        """Frames so far."""
        self.empty = 0
        """Frames of files that were left out since they hold no atoms."""
        self._sources: dict[str, None] = {}
        self._steps: list[int] = []
        """The first steps and the last one."""
        self._last: _Last | None = None
        self._pbc: dict[tuple[bool, ...], int] = {}
        self._n_atoms: dict[int, int] = {}
        self._elements: set[int] = set()
        self._told: set[str] = set()
        self._times: list[float] = []

    def add(self, frame: Frame, step: int) -> list[str]:
        """Take one frame; what is newly strange about it.

        Each kind of change of the boundaries is told once, and so is the first file that holds other atoms than the one
        before; steps and times that do not grow are told once for a file, of `MOST_TOLD` files at most.
        """
        atoms, before = frame.atoms, self._last
        place = f"{frame.source}, frame {frame.index}"
        pbc = tuple(bool(p) for p in atoms.pbc)
        elements, counts = np.unique(atoms.numbers, return_counts=True)
        held = ", ".join(f"{n} {_symbol(z)}" for z, n in zip(elements.tolist(), counts.tolist(), strict=True))
        now = _Last(f"frame {frame.index} of {frame.source}", step, frame_time_ps(atoms), pbc, frame.source, held)
        doubts = []
        if before is not None and (text := _doubt_of_order(before, now, has_step="step" in atoms.info)) is not None:
            doubts.append((f"order {frame.source}", f"{place}: {text}"))
        if before is not None and pbc != before.pbc:
            text = f"{periodic_words(pbc)}, but the frames before are {periodic_words(before.pbc)}"
            doubts.append((f"pbc {before.pbc} {pbc}", f"{place}: {text}"))
        if before is not None and frame.source != before.source and held != before.atoms:
            text = f"other atoms ({held}) than in {before.place} ({before.atoms}). {SYSTEMS}"
            doubts.append(("atoms", f"{place}: {text}"))
        self._pbc[pbc] = self._pbc.get(pbc, 0) + 1
        self._n_atoms[len(atoms)] = self._n_atoms.get(len(atoms), 0) + 1
        self._elements.update(elements.tolist())
        if len(self._times) < _TIMES and now.time_ps is not None:
            self._times.append(now.time_ps)
        self.n_frames += 1
        self._sources[frame.source] = None
        # a frame without a time does not hide the time before it
        self._last = now._replace(time_ps=before.time_ps) if before is not None and now.time_ps is None else now
        self._steps = [*self._steps[:MOST_STEPS], step]
        if sum(kind.startswith("order") for kind in self._told) >= MOST_TOLD:
            doubts = [(kind, text) for kind, text in doubts if not kind.startswith("order")]
        new = [text for kind, text in doubts if kind not in self._told]
        self._told.update(kind for kind, _ in doubts)
        return new

    def describe(self, n_there: int | None = None) -> str:
        """What the frames are, in a line: number, files, atoms, elements, periodic directions, steps.

        `n_there` is the number of frames that the files hold, where it is known.
        """
        if not self.n_frames:
            return "no frames"
        sources = list(self._sources)
        where = sources[0] if len(sources) == 1 else f"{len(sources)} files, {sources[0]} to {sources[-1]}"
        low, high = min(self._n_atoms), max(self._n_atoms)
        sizes = many(low, "atom") if low == high else f"{low} to {high} atoms"
        symbols = ", ".join(map(_symbol, sorted(self._elements)))
        pbc = " or ".join(periodic_words(p) for p in self._pbc)
        first, last = self._steps[0], self._steps[-1]
        stride = {b - a for a, b in pairwise(self._steps[:MOST_STEPS])}
        by = f" by {stride.pop()}" if len(stride) == 1 else ""
        empty = f"; {many(self.empty, 'frame')} without atoms left out" if self.empty else ""
        steps = f"steps {first} to {last}{by}"
        if self._times[1:]:
            steps += f", {float(f'{self._times[1] - self._times[0]:.6g}'):g} ps apart"
        n = many(self.n_frames, "frame")
        if n_there is not None and n_there != self.n_frames:
            n = f"{self.n_frames} of {many(n_there, 'frame')}"
        return f"{n} of {where}: {sizes} of {symbols}, {pbc}, {steps}{empty}"


def _symbol(z: int) -> str:
    return chemical_symbols[z] if 0 <= z < len(chemical_symbols) else str(z)


def _doubt_of_order(before: _Last, now: _Last, *, has_step: bool) -> str | None:
    """How step or time of a frame do not follow those of the frame before; None: they do, or none is told."""
    advice = (
        "Frames are taken in the order given; where two frames have one step, checks and events name file and frame"
    )
    if has_step and now.step < before.step:
        return f"the step goes back: {now.step} after {before.step} of {before.place}. {advice}"
    if has_step and now.step == before.step:
        return f"the step does not grow: {now.step}, as that of {before.place}. {advice}"
    if before.time_ps is None or now.time_ps is None or now.time_ps > before.time_ps:
        return None
    if now.time_ps < before.time_ps:
        return f"the time goes back: {now.time_ps:g} ps after {before.time_ps:g} ps, by {before.place}. {advice}"
    return f"the time does not grow: {now.time_ps:g} ps, as before, by {before.place}. {advice}"


def periodic_words(pbc: tuple[bool, ...] | Atoms) -> str:
    """Words such as "periodic along a, b" or "not periodic"."""
    if isinstance(pbc, Atoms):
        pbc = tuple(bool(p) for p in pbc.pbc)
    axes = ["abc"[i] for i, periodic in enumerate(pbc) if periodic]
    return f"periodic along {', '.join(axes)}" if axes else "not periodic"
