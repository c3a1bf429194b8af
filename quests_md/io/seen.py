"""What the frames of a run are, as they are read: in words, and what is strange about them."""

from itertools import pairwise

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from quests_md._words import many

from .frames import Frame, frame_time_ps

__all__ = ["FramesSeen", "periodic_words"]


#: Steps from which the number of steps between frames is told.
MOST_STEPS = 100


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
        self._last = ""
        """Place of the last frame."""
        self._pbc: dict[tuple[bool, ...], int] = {}
        self._n_atoms: dict[int, int] = {}
        self._elements: set[int] = set()
        self._told: set[str] = set()
        self._times: list[float] = []

    def add(self, frame: Frame, step: int) -> list[str]:
        """Take one frame; what is newly strange about it, each thing once."""
        atoms, doubts = frame.atoms, []
        place = f"{frame.source}, frame {frame.index}"
        if self._steps and step < self._steps[-1] and "step" in atoms.info:
            doubts.append(
                (
                    "order",
                    f"{place}: the step goes back: {step} after {self._steps[-1]} of {self._last}. Frames are taken in "
                    "the order given; where two frames have one step, checks and events name file and frame",
                )
            )
        pbc = tuple(bool(p) for p in atoms.pbc)
        if self._pbc and pbc not in self._pbc:
            before = periodic_words(next(iter(self._pbc)))
            doubts.append(("pbc", f"{place}: {periodic_words(pbc)}, but the frames before are {before}"))
        self._pbc[pbc] = self._pbc.get(pbc, 0) + 1
        self._n_atoms[len(atoms)] = self._n_atoms.get(len(atoms), 0) + 1
        self._elements.update(np.unique(atoms.numbers).tolist())
        if len(self._times) < 2 and (time_ps := frame_time_ps(atoms)) is not None:
            self._times.append(time_ps)
        self.n_frames += 1
        self._sources[frame.source] = None
        self._last = f"frame {frame.index} of {frame.source}"
        self._steps = [*self._steps[:MOST_STEPS], step]
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
        symbols = ", ".join(
            chemical_symbols[z] if 0 <= z < len(chemical_symbols) else str(z) for z in sorted(self._elements)
        )
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


def periodic_words(pbc: tuple[bool, ...] | Atoms) -> str:
    """Words such as "periodic along a, b" or "not periodic"."""
    if isinstance(pbc, Atoms):
        pbc = tuple(bool(p) for p in pbc.pbc)
    axes = ["abc"[i] for i, periodic in enumerate(pbc) if periodic]
    return f"periodic along {', '.join(axes)}" if axes else "not periodic"
