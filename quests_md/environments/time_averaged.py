"""A descriptor of positions averaged over a short time."""

import math
from collections.abc import Iterator

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from quests_md._arguments import check_integer, check_positive
from quests_md.errors import UnsuitableFrameError
from quests_md.io import FramesOrPaths, frame_time_ps, iter_frames

from .descriptor import Descriptor
from .window import Window
from .wrapped import Wrapped

__all__ = ["TimeAveraged"]

#: How far the spacing of frames may be from `spacing_ps`, as a share of it.
TOLERANCE = 0.1

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
