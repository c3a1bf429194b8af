"""Smooth rows of known frames, and the bounded dH of a frame with respect to them, with its exact gradient."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from quests_md._kernels.smooth import capped_entropy, farthest_rows
from quests_md.environments import smooth_frame

__all__ = ["BoundedEntropy", "KnownSmooth"]

#: Rows of an element that are kept, the farthest from each other, and those among which they are chosen, evenly spaced.
MOST_ROWS, MOST_SEEN = 500, 50_000

#: Rows of an element whose distances to the rows that are kept set bandwidth and bound.
MOST_MEASURED = 2000

#: Å. Displacements (a component's standard deviation) whose effect is the least scale of a column.
LEAST_NOISE = 0.05

#: Least scale of a column that neither varies nor answers to displacements: a neighbour adds about 1.
LEAST_SCALE = 0.02

#: Frames that are displaced, besides the first of every element.
DISPLACED = 20

#: Nats above the dH that one known environment in a hundred exceeds: the default bound.
BEYOND = 4.0


@dataclass(frozen=True, slots=True)
class BoundedEntropy:
    """The bounded dH s of every atom of a frame, and the derivatives of its sum."""

    values: NDArray[np.float64]
    """(n_atoms,) s in nats."""
    gradient: NDArray[np.float64]
    """(n_atoms, 3) derivatives of the sum with respect to positions, nats/Å."""
    strain: NDArray[np.float64]
    """(3, 3) derivatives of the sum with respect to strain, nats."""


@dataclass(frozen=True, slots=True)
class _Known:
    """The rows of one element."""

    scale: NDArray[np.float64]  # (width,) by which columns are divided
    rows: NDArray[np.float64]  # (n, width) divided
    bandwidth: float
    usual: NDArray[np.float64]  # dH of known rows, the rows of their own frames left out


class KnownSmooth:
    """Smooth rows of known frames by element: standardised, thinned, with a bandwidth for each element.

    s = -log(sum_j K(y, X_j) + exp(-bound)) over all rows X_j that are kept of the element: dH far below the bound, and
    never above the bound. Nothing is left out of the sum that its rounding would show, so that the gradient is exact.

    Columns are divided by their standard deviation among the rows of the element, or by what displacements of 0.05 Å do
    to them, if that is more. Of each element at most 500 rows are kept, one by one the row that is farthest from those
    kept before. The bandwidth is the median distance of a row to the nearest one kept of another frame, and at least
    half of what the displacements amount to, 0.5 sqrt(width).

    Parameters
    ----------
    elements
        Atomic numbers that occur, ascending.
    n_frames, frame
        How many frames are known, and what gives each of them.
    bound
        Nats; None: 4 above the dH that one known environment in a hundred exceeds, those of its own frame left out.
    """

    def __init__(
        self, elements: Sequence[int], n_frames: int, frame: Callable[[int], Atoms], bound: float | None = None
    ) -> None:
        self.elements = tuple(elements)
        gathered = {z: _Gathered() for z in self.elements}
        displaced = set(np.linspace(0, n_frames - 1, min(n_frames, DISPLACED)).round().astype(int).tolist())
        for i in range(n_frames):
            atoms = frame(i)
            rows = smooth_frame(atoms, self.elements).rows
            if not rows.any():  # isolated atoms would make evaporated ones known
                continue
            present = [(gathered[z], atoms.numbers == z) for z in np.unique(atoms.numbers).tolist()]
            for of_element, here in present:
                of_element.take(rows[here], i)
            if i in displaced or not all(of_element.changes for of_element, _ in present):
                change = _displaced_rows(atoms, self.elements, seed=i) - rows
                for of_element, here in present:
                    of_element.changes.append((change[here] ** 2).mean(axis=0))
        self._known = {z: of_element.known() for z, of_element in gathered.items() if of_element.changes}
        if not self._known:
            raise ValueError("reference: expected frames with atoms near each other, got none")
        usual = np.concatenate([known.usual for known in self._known.values()])
        #: Nats that s never exceeds.
        self.bound = float(np.quantile(usual, 0.99)) + BEYOND if bound is None else bound

    @property
    def n_rows(self) -> dict[int, int]:
        """Rows that are kept, by atomic number."""
        return {z: len(known.rows) for z, known in self._known.items()}

    def entropy(self, atoms: Atoms) -> BoundedEntropy:
        """S of a frame; raises as `smooth_frame` does."""
        described = smooth_frame(atoms, self.elements)
        values, slopes = np.full(len(atoms), self.bound), np.zeros_like(described.rows)
        for z, known in self._known.items():
            here = np.flatnonzero(atoms.numbers == z)
            if not len(here):
                continue
            queries, of_element = described.rows[here] / known.scale, np.empty(len(here))
            slopes_of_element = np.empty_like(queries)
            capped_entropy(queries, known.rows, known.bandwidth, self.bound, of_element, slopes_of_element)
            values[here], slopes[here] = of_element, slopes_of_element / known.scale
        return BoundedEntropy(values, *described.pulled(slopes))


class _Gathered:
    """Rows of an element: evenly spaced ones, however many come."""

    def __init__(self) -> None:
        self.changes: list[NDArray[np.float64]] = []  # mean squares of what displacements do to each column
        self._rows: list[NDArray[np.float64]] = []
        self._frames: list[int] = []
        self._every, self._count = 1, 0

    def take(self, rows: NDArray[np.float64], frame: int) -> None:
        first = -self._count % self._every
        self._count += len(rows)
        self._rows += list(rows[first :: self._every])
        self._frames += [frame] * len(rows[first :: self._every])
        while len(self._rows) > MOST_SEEN:
            self._rows, self._frames = self._rows[::2], self._frames[::2]
            self._every *= 2

    def known(self) -> _Known:
        rows, frames = np.array(self._rows), np.array(self._frames)
        noise = np.sqrt(np.mean(self.changes, axis=0))
        scale = np.maximum(np.maximum(rows.std(axis=0), noise), LEAST_SCALE)
        rows /= scale
        middle = int(np.argmin(((rows - rows.mean(axis=0)) ** 2).sum(axis=1)))
        chosen = np.empty(min(len(rows), MOST_ROWS), np.int64)
        farthest_rows(rows, middle, chosen)
        squares = _squares_to_others(rows, frames, chosen)
        nearest = np.sqrt(squares.min(axis=1))
        found = nearest[np.isfinite(nearest)]
        bandwidth = max(0.5 * math.sqrt(rows.shape[1]), float(np.median(found)) if len(found) else 0.0)
        with np.errstate(divide="ignore"):
            usual = -np.log(np.exp(-0.5 * squares / bandwidth**2).sum(axis=1))
        return _Known(scale, rows[chosen], bandwidth, usual[np.isfinite(usual)])


def _squares_to_others(
    rows: NDArray[np.float64], frames: NDArray[np.int64], chosen: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Squared distances of some rows to the chosen ones (m, n); inf to those of their own frame.

    Where all are of one frame, only a row itself is its own; the only row there is has itself.
    """
    asked = np.linspace(0, len(rows) - 1, min(len(rows), MOST_MEASURED)).round().astype(np.int64)
    asked_rows, kept = rows[asked], rows[chosen]
    squares: NDArray[np.float64] = (
        (asked_rows**2).sum(axis=1)[:, None] - 2 * asked_rows @ kept.T + (kept**2).sum(axis=1)
    )
    squares = np.maximum(squares, 0.0)
    own = frames[asked][:, None] == frames[chosen]
    if own.all():
        own = asked[:, None] == chosen
    if len(rows) > 1:
        squares[own] = np.inf
    return squares


def _displaced_rows(atoms: Atoms, elements: Sequence[int], seed: int) -> NDArray[np.float64]:
    moved = atoms.copy()
    moved.positions += np.random.default_rng(seed).normal(0, LEAST_NOISE, moved.positions.shape)
    return smooth_frame(moved, elements).rows
