"""Positions averaged over a short time: a descriptor of them, and the window of a run of which they are the mean."""

import math
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from quests_md._arguments import check_integer, check_positive
from quests_md.errors import UnsuitableFrameError
from quests_md.io import FramesOrPaths, frame_time_ps, iter_frames

from .descriptor import Descriptor, Wrapped

__all__ = ["TimeAveraged", "Window"]

#: How far the spacing of frames may be from `spacing_ps`, as a share of it.
TOLERANCE = 0.1

#: Change of a cell vector from one frame to the next, as a share of the shortest vector, beyond which the cell is
#: another one: a barostat moves a vector by less than a hundredth in a vibration, a flip of a tilted cell by a whole
#: vector.
ANOTHER_CELL = 0.1

#: Key of `atoms.info` under which an averaged frame says how it was averaged.
MARK = "averaged"


class TimeAveraged(Wrapped):
    """A descriptor of positions averaged over a short time: thermal motion goes, diffusion and structure stay.

    A reference with this descriptor is built from the averages that the method `frames` makes of a trajectory. A frame
    that is not marked as an average of the same kind is refused, since rows of averaged and of other frames cannot be
    compared. Averaging needs no force calls, but frames that are close in time.

    Parameters
    ----------
    descriptor
        Descriptor of the averaged frame, default `Descriptor()`.
    samples
        Frames to average.
    spacing_ps
        Time between two frames, ps. All frames together should span a period of the slow vibrations, some 0.2 ps.

    Raises
    ------
    ValueError, TypeError
        If an argument is not usable.

    Examples
    --------
    >>> averaged = TimeAveraged(samples=10, spacing_ps=0.02)
    >>> frames = averaged.frames("run.extxyz")  # doctest: +SKIP
    >>> Reference.from_frames(frames, descriptor=averaged, bandwidth=0.015)  # doctest: +SKIP
    """

    def __init__(self, descriptor: Descriptor | None = None, *, samples: int = 10, spacing_ps: float = 0.02) -> None:
        super().__init__(descriptor)
        self.samples = check_integer("samples", samples, 2)
        self.spacing_ps = check_positive("spacing_ps", spacing_ps, "time in ps")

    @property
    def mark(self) -> str:
        """The text that an averaged frame carries in ``info["averaged"]``."""
        return f"{self.samples} x {self.spacing_ps!r} ps"

    @property
    def fingerprint(self) -> str:
        """Equal exactly for equal settings."""
        return f"{self.descriptor.fingerprint} of positions averaged over {self.mark}"

    def described(self, atoms: Atoms) -> Atoms:
        """The frame itself, an average already.

        Raises
        ------
        UnsuitableFrameError
            If the frame is not an average of this kind.
        """
        if atoms.info.get(MARK) != self.mark:
            raise UnsuitableFrameError(
                f"expected a frame averaged over {self.mark}, got {atoms.info.get(MARK, 'one that is not averaged')}; "
                "average a trajectory with TimeAveraged.frames"
            )
        return atoms

    def marked(self, averaged: Atoms) -> Atoms:
        """The same frame, marked as an average of this kind."""
        averaged.info[MARK] = self.mark
        return averaged

    def frames(self, frames_or_paths: FramesOrPaths) -> Iterator[Atoms]:
        """Averages of a trajectory: one of every `samples` consecutive frames, with the time of the last of them.

        Consecutive are frames of one file that are `spacing_ps` apart, within a tenth of it. At a gap, or where another
        file begins, the next average begins. Given frames are not changed.

        Raises
        ------
        ValueError
            If a frame has no time (``info["time_ps"]`` or ``info["ps"]``) or is an average already, or if there are
            not `samples` consecutive frames anywhere.
        """
        window, source, last_ps = Window(self.samples), "", math.nan
        n_made, shortest_ps = 0, math.inf
        for frame in iter_frames(frames_or_paths):
            where = f"{frame.source}, frame {frame.index}"
            time_ps = frame_time_ps(frame.atoms)
            if time_ps is None:
                raise ValueError(f"{where}: expected a time in info['time_ps'], got none")
            if MARK in frame.atoms.info:
                raise ValueError(f"{where}: expected a frame of a run, got an average over {frame.atoms.info[MARK]}")
            step_ps = time_ps - last_ps if frame.source == source else math.nan
            if not abs(step_ps - self.spacing_ps) <= TOLERANCE * self.spacing_ps:
                window.clear()
            shortest_ps = min(shortest_ps, step_ps if step_ps > 0 else math.inf)
            source, last_ps = frame.source, time_ps
            window.push(frame.atoms)
            if window.is_full:
                n_made += 1
                yield self.marked(window.mean(frame.atoms))
                window.clear()
        if not n_made:
            raise ValueError(
                f"expected {self.samples} frames in a row, {self.spacing_ps:g} ps apart, got none (the nearest two are "
                f"{shortest_ps:.4g} ps apart); write frames more often, or set samples and spacing_ps"
            )


class _Pushed(NamedTuple):
    """Positions of one frame: fractions @ periodic cell vectors + rest."""

    fractions: NDArray[np.float64]  #: (n_atoms, n_periodic), unwrapped
    rest: NDArray[np.float64]  #: (n_atoms, 3) in Å, across the periodic directions
    cell: NDArray[np.float64]  #: (3, 3) in Å


class Window:
    """The last positions of a run, unwrapped, and their mean.

    Along periodic directions positions are kept as fractions of the cell of their frame, so that a changing cell does
    not blur the mean. A frame that cannot follow the last one empties the window first: a frame with another number or
    order of atoms, other elements or periodic directions, or a cell that has jumped. A frame with positions or a cell
    that are not finite empties the window and is not taken. `samples` is the number of frames to average.
    """

    def __init__(self, samples: int) -> None:
        self._frames: deque[_Pushed] = deque(maxlen=check_integer("samples", samples, 1))
        self._system: tuple[bytes, ...] = ()

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def is_full(self) -> bool:
        """Whether the window holds as many frames as are to be averaged."""
        return len(self._frames) == self._frames.maxlen

    def clear(self) -> None:
        """Forget all frames."""
        self._frames.clear()

    def push(self, atoms: Atoms) -> None:
        """Take the next frame, which is not changed; the oldest of a full window goes.

        Atoms may be wrapped or not, but must move by less than half a cell from one frame to the next.
        """
        positions, cell = np.array(atoms.positions, dtype=np.float64), np.array(atoms.cell.array, dtype=np.float64)
        if not (np.isfinite(positions).all() and np.isfinite(cell).all()):
            self.clear()
            return
        system = _system(atoms)
        vectors = cell[np.asarray(atoms.pbc, dtype=bool)]
        if system != self._system or (self._frames and self._has_jumped(cell, vectors)):
            self.clear()
        self._system = system
        # the pseudo-inverse of the periodic vectors alone: vectors of the other directions may be zero
        fractions = positions @ np.linalg.pinv(vectors)
        rest = positions - fractions @ vectors
        if self._frames:
            fractions -= np.round(fractions - self._frames[-1].fractions)
        self._frames.append(_Pushed(fractions, rest, cell))

    def mean(self, atoms: Atoms) -> Atoms:
        """A copy of the frame taken last, with the mean of positions and cells, without constraints and calculator.

        Atoms that have left the cell stay outside. Times, momenta and all else are those of the last frame. Raises
        ValueError if the window is empty, or `atoms` is not like the frame taken last.
        """
        if not self._frames:
            raise ValueError("expected a window with frames, got an empty one; push some first")
        if _system(atoms) != self._system:
            raise ValueError("atoms: expected the frame taken last, got other atoms; push it first")
        fractions, rest, cell = (np.mean(arrays, axis=0) for arrays in zip(*self._frames, strict=True))
        vectors = cell[np.asarray(atoms.pbc, dtype=bool)]
        averaged: Atoms = atoms.copy()
        averaged.set_constraint()
        averaged.set_cell(cell)
        averaged.positions = fractions @ vectors + rest
        return averaged

    def _has_jumped(self, cell: NDArray[np.float64], vectors: NDArray[np.float64]) -> bool:
        shortest = float(np.linalg.norm(vectors, axis=1).min(initial=math.inf))
        return float(np.abs(cell - self._frames[-1].cell).max()) > ANOTHER_CELL * shortest


def _system(atoms: Atoms) -> tuple[bytes, ...]:
    """What frames must share to be averaged: elements, identities in their order, periodic directions."""
    ids = np.asarray(atoms.arrays.get("id", ()))
    return np.asarray(atoms.numbers).tobytes(), ids.tobytes(), np.asarray(atoms.pbc, dtype=bool).tobytes()
