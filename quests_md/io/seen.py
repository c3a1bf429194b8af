"""What the frames of a run are, as they are read: in words, what is strange about them, and where each stands."""

from array import array
from contextlib import suppress
from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from quests_md._words import many

from .frames import Frame, frame_time_ps

__all__ = ["FramesSeen", "periodic_words"]


class _Stretch(NamedTuple):
    """Frames of one source whose indices go on evenly."""

    first: int
    """Count of its first frame in the run."""
    source: str
    start: int
    stride: int


class FramesSeen:
    """Keeps what the frames of a run are. Give it each frame once, in order."""

    def __init__(self) -> None:
        self.steps = array("q")
        """The step of each frame, in order; -1 for steps beyond 64 bits."""
        self.empty = 0
        """Frames of files that were left out since they hold no atoms."""
        self._stretches: list[_Stretch] = []
        self._pbc: dict[tuple[bool, ...], int] = {}
        self._n_atoms: dict[int, int] = {}
        self._elements: set[int] = set()
        self._told: set[str] = set()
        self._times: list[float] = []

    def add(self, frame: Frame, step: int) -> list[str]:
        """Take one frame; what is newly strange about it, each thing once."""
        atoms, doubts = frame.atoms, []
        place = f"{frame.source}, frame {frame.index}"
        if self.steps and step < self.steps[-1] and "step" in atoms.info:
            last = self.place(len(self.steps) - 1)
            doubts.append(
                (
                    "order",
                    f"{place}: the step goes back: {step} after {self.steps[-1]} of {last}. Frames are taken in the "
                    "order given; where two frames have one step, events tell them apart by frame and file",
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
        self._place(frame)
        number = -1
        with suppress(OverflowError):
            array("q", [step])
            number = step
        self.steps.append(number)
        new = [text for kind, text in doubts if kind not in self._told]
        self._told.update(kind for kind, _ in doubts)
        return new

    def _place(self, frame: Frame) -> None:
        count = len(self.steps)
        if self._stretches:
            last = self._stretches[-1]
            if last.source == frame.source:
                if last.first == count - 1 and frame.index > last.start:
                    self._stretches[-1] = last._replace(stride=frame.index - last.start)
                    return
                if frame.index == last.start + (count - last.first) * last.stride:
                    return
        self._stretches.append(_Stretch(count, frame.source, frame.index, 1))

    def place(self, count: int, last: int | None = None) -> str:
        """The place of the frame that was read as that one, from 0: "frame 3 of run.xyz"; of several up to `last`."""
        source, index = self._found(count)
        if last is None or last == count:
            return f"frame {index} of {source}"
        end, at = self._found(last)
        start = f"frames {index}" if end == source else f"frame {index} of {source}"
        return f"{start} to {at} of {end}" if end == source else f"{start} to frame {at} of {end}"

    def _found(self, count: int) -> tuple[str, int]:
        """The source and the index of a frame."""
        first = [stretch.first for stretch in self._stretches]
        stretch = self._stretches[int(np.searchsorted(first, count, side="right")) - 1]
        return stretch.source, stretch.start + (count - stretch.first) * stretch.stride

    def describe(self, n_there: int | None = None) -> str:
        """What the frames are, in a line: number, files, atoms, elements, periodic directions, steps.

        `n_there` is the number of frames that the files hold, where it is known.
        """
        if not self.steps:
            return "no frames"
        sources = list(dict.fromkeys(stretch.source for stretch in self._stretches))
        where = sources[0] if len(sources) == 1 else f"{len(sources)} files, {sources[0]} to {sources[-1]}"
        low, high = min(self._n_atoms), max(self._n_atoms)
        sizes = many(low, "atom") if low == high else f"{low} to {high} atoms"
        symbols = ", ".join(chemical_symbols[z] if 0 <= z < len(chemical_symbols) else str(z) for z in self._elements)
        pbc = " or ".join(periodic_words(p) for p in self._pbc)
        first, last = self.steps[0], self.steps[-1]
        stride = {b - a for a, b in zip(self.steps[:100], self.steps[1:101], strict=False)}
        by = f" by {stride.pop()}" if len(stride) == 1 else ""
        empty = f"; {many(self.empty, 'frame')} without atoms left out" if self.empty else ""
        steps = f"steps {first} to {last}{by}"
        if self._times[1:]:
            steps += f", {float(f'{self._times[1] - self._times[0]:.6g}'):g} ps apart"
        n = many(len(self.steps), "frame")
        if n_there is not None and n_there != len(self.steps):
            n = f"{len(self.steps)} of {many(n_there, 'frame')}"
        return f"{n} of {where}: {sizes} of {symbols}, {pbc}, {steps}{empty}"


def periodic_words(pbc: tuple[bool, ...] | Atoms) -> str:
    """Words such as "periodic along a, b" or "not periodic"."""
    if isinstance(pbc, Atoms):
        pbc = tuple(bool(p) for p in pbc.pbc)
    axes = ["abc"[i] for i, periodic in enumerate(pbc) if periodic]
    return f"periodic along {', '.join(axes)}" if axes else "not periodic"
