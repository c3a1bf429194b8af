"""A descriptor of positions averaged over a short time."""

import math
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike, NDArray

from quests_md.errors import UnsuitableFrameError
from quests_md.io import FramesOrPaths, frame_time_ps, iter_frames

from .descriptor import Descriptor

__all__ = ["TimeAveraged", "Window"]

#: How far the spacing of frames may be from the asked one, as a share of it.
TOLERANCE = 0.1

#: Key of `atoms.info` of an averaged frame.
MARK = "averaged"

#: Change of a cell vector from one frame to the next, as a share of the shortest, beyond which the cell is another one:
#: a barostat moves it by less than a hundredth in a vibration, a flip of a tilted cell by a whole vector.
ANOTHER_CELL = 0.1


class Window:
    """The last positions of a run, unwrapped, and their mean.

    Positions are kept as fractions of the cell of their frame along periodic directions, so that a changing cell does
    not blur them. A frame that cannot follow the last one begins anew: another number or order of atoms, other
    elements or periodic directions, a cell that has jumped. After one with positions or a cell that are not finite the
    window is empty.

    Parameters
    ----------
    samples
        Frames to average.

    Raises
    ------
    ValueError
        If `samples` is not a positive integer.
    """

    def __init__(self, samples: int) -> None:
        self._fractions: deque[NDArray[np.float64]] = deque(maxlen=_checked_count("samples", samples, 1))
        self._rests: deque[NDArray[np.float64]] = deque(maxlen=samples)
        self._cells: deque[NDArray[np.float64]] = deque(maxlen=samples)
        self._system: tuple[bytes, ...] = ()

    def __len__(self) -> int:
        return len(self._cells)

    @property
    def is_full(self) -> bool:
        """Whether there are as many frames as are to be averaged."""
        return len(self._cells) == self._cells.maxlen

    def clear(self) -> None:
        """Forget all frames."""
        self._fractions.clear()
        self._rests.clear()
        self._cells.clear()

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
        if system != self._system or (self._cells and self._has_jumped(cell, vectors)):
            self.clear()
        self._system = system
        # only along periodic directions: a pseudo-inverse needs no vectors for the others, which may be zero
        fractions = positions @ np.linalg.pinv(vectors)
        self._rests.append(positions - fractions @ vectors)
        if self._fractions:
            fractions -= np.round(fractions - self._fractions[-1])
        self._fractions.append(fractions)
        self._cells.append(cell)

    def mean(self, atoms: Atoms) -> Atoms:
        """A copy of the frame taken last, with the mean of positions and cells, without constraints and calculator.

        Atoms that have left the cell stay outside. Times, momenta and all else are those of the last frame.

        Raises
        ------
        ValueError
            If the window is empty, or `atoms` is not like the frame taken last.
        """
        if not self._cells:
            raise ValueError("expected a window with frames, got an empty one; push some first")
        if _system(atoms) != self._system:
            raise ValueError("atoms: expected the frame taken last, got other atoms; push it first")
        cell = np.mean(self._cells, axis=0)
        vectors = cell[np.asarray(atoms.pbc, dtype=bool)]
        averaged: Atoms = atoms.copy()
        averaged.set_constraint()
        averaged.set_cell(cell)
        averaged.positions = np.mean(self._fractions, axis=0) @ vectors + np.mean(self._rests, axis=0)
        return averaged

    def _has_jumped(self, cell: NDArray[np.float64], vectors: NDArray[np.float64]) -> bool:
        shortest = float(np.linalg.norm(vectors, axis=1).min(initial=math.inf))
        return float(np.abs(cell - self._cells[-1]).max()) > ANOTHER_CELL * shortest


class TimeAveraged:
    """A descriptor of positions averaged over a short time: thermal motion goes, diffusion and structure stay.

    A reference with this descriptor is built from `frames`, which averages a trajectory. A frame that is not marked as
    an average of the same kind is refused, since rows of averaged and of other frames cannot be compared. No force
    calls are needed, but frames close in time are.

    Parameters
    ----------
    descriptor
        Of the averaged frame, default `Descriptor()`.
    samples
        Frames to average.
    spacing_ps
        Time between two of them, ps. All together should span a period of the slow vibrations, some 0.2 ps.

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
        self.descriptor = _checked_descriptor(descriptor)
        self.samples = _checked_count("samples", samples, 2)
        self.spacing_ps = _checked_positive("spacing_ps", spacing_ps, "time in ps")

    @property
    def mark(self) -> str:
        """What an averaged frame carries in ``info["averaged"]``."""
        return f"{self.samples} x {self.spacing_ps!r} ps"

    @property
    def fingerprint(self) -> str:
        """Equal exactly for equal settings."""
        return f"{self.descriptor.fingerprint} of positions averaged over {self.mark}"

    @property
    def width(self) -> int:
        """Numbers per row."""
        return self.descriptor.width

    def is_center(self, numbers: ArrayLike) -> NDArray[np.bool_]:
        """Whether atoms of each atomic number have a row."""
        return self.descriptor.is_center(numbers)

    def is_neighbor(self, numbers: ArrayLike) -> NDArray[np.bool_]:
        """Whether atoms of each atomic number are seen as neighbours."""
        return self.descriptor.is_neighbor(numbers)

    def __call__(self, atoms: Atoms) -> NDArray[np.float64]:
        """Rows of an averaged frame, (n_atoms, width) in 1/Å.

        Raises
        ------
        UnsuitableFrameError
            If the frame is not an average of this kind.
        FrameError
            If the frame cannot be described.
        """
        if atoms.info.get(MARK) != self.mark:
            raise UnsuitableFrameError(
                f"expected a frame averaged over {self.mark}, got {atoms.info.get(MARK, 'one that is not averaged')}; "
                "average a trajectory with TimeAveraged.frames"
            )
        return self.descriptor(atoms)

    def marked(self, averaged: Atoms) -> Atoms:
        """The same frame, said to be an average of this kind."""
        averaged.info[MARK] = self.mark
        return averaged

    def frames(self, frames_or_paths: FramesOrPaths) -> Iterator[Atoms]:
        """Averages of a trajectory: of every `samples` consecutive frames one, with the time of the last of them.

        Frames that are `spacing_ps` apart (within a tenth) are averaged; where a gap is, or another file begins, the
        next average begins. Given frames are not changed.

        Raises
        ------
        ValueError
            If a frame has no time (``info["time_ps"]`` or ``info["ps"]``) or is an average already, or nowhere
            `samples` frames in a row are `spacing_ps` apart.
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


def _system(atoms: Atoms) -> tuple[bytes, ...]:
    """What frames must share to be averaged: elements, identities in their order, periodic directions."""
    ids = np.asarray(atoms.arrays.get("id", ()))
    return np.asarray(atoms.numbers).tobytes(), ids.tobytes(), np.asarray(atoms.pbc, dtype=bool).tobytes()


def _checked_descriptor(descriptor: Descriptor | None) -> Descriptor:
    if descriptor is not None and not isinstance(descriptor, Descriptor):
        raise TypeError(f"descriptor: expected a Descriptor, got {descriptor!r}")
    return Descriptor() if descriptor is None else descriptor


def _checked_count(argument: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{argument}: expected an integer of at least {least}, got {value!r}")
    return int(value)


def _checked_positive(argument: str, value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not 0 < value < math.inf:
        raise ValueError(f"{argument}: expected a positive {what}, got {value!r}")
    return float(value)
