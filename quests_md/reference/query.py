"""The rows of a reference, and what is asked of them: dH, whether dH is below a level, the nearest row."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike, NDArray

from quests_md._arguments import check_rows
from quests_md._progress import track
from quests_md._threads import available_threads
from quests_md.engine import Index, build_index, complete_nearest, minus_log_sums, require_device
from quests_md.environments import check_center_rows, describe, is_center

from .contents import Contents, blocks_of
from .contents_checks import checked
from .kept_rows import KeptRows
from .nearest import Nearest

__all__ = ["FEW_ROWS", "KnownRows"]

#: Rows of an element up to which a float64 sum is as fast as anything.
FEW_ROWS = 256

#: Pairs of environments and rows, and environments, up to which nearest rows are found without a search structure:
#: for a few environments one pass over the rows takes less time than the structure, and no memory.
FEW_PAIRS, FEW_QUERIES = 1e7, 32

#: Environments held out between two moves of the progress bar.
HELD_OUT_PIECE = 1024


class KnownRows(KeptRows):
    """Rows that can be asked: what `Reference` answers by its rows, bandwidth, match and descriptor alone.

    Methods that take `rows` and `numbers` trust them: descriptor rows (n, width) in 1/Å and atomic numbers (n,).
    """

    def __init__(self, contents: Contents) -> None:
        super().__init__(contents)
        #: The rows that an atom is compared with, by its atomic number; one entry, 0, under match="any".
        self.blocks = blocks_of(contents.arrays.numbers, self.match)
        #: Search structures built so far, by the first row of their block.
        self.structures: dict[int, Index] = {}
        self._inherited: dict[int, Index] = {}
        #: Device of torch on which these are; None: the CPU.
        self.device: str | None = None
        #: First rows of the blocks that were looked at, see `checked`.
        self._looked_at: set[int] = set()

    def delta_entropy(
        self,
        atoms_or_rows: Atoms | ArrayLike,
        *,
        numbers: ArrayLike | None = None,
        float64: bool = False,
        threads: int | None = None,
    ) -> NDArray[np.float64]:
        """Differential entropy dH of each environment with respect to this reference.

        Parameters
        ----------
        atoms_or_rows
            A frame, or descriptor rows (n, width) made with the settings of this reference.
        numbers
            (n,) atomic numbers of the rows; may be left out if the reference has one element or match="any".
        float64
            True: within 1e-9 max(1, |dH|). False: within 1e-4 + 1e-6 |dH|, as fast as it can be had.
        threads
            Threads to use; default the cores that the process may use, or QUESTS_MD_THREADS. Never changes the result.

        Returns
        -------
        delta_entropy
            (n,) in nats; +inf for atoms of an element that the reference has never seen, NaN for atoms that are no
            centers of the descriptor: they have no environment.

        Raises
        ------
        FrameError
            If the frame cannot be described.
        ValueError
            If rows come without needed numbers, of another width, or not finite.
        """
        return self.evaluate(*self._asked(atoms_or_rows, numbers, threads), float64=float64, threads=threads)

    def is_covered(
        self,
        atoms_or_rows: Atoms | ArrayLike,
        level: float | ArrayLike,
        *,
        numbers: ArrayLike | None = None,
        threads: int | None = None,
    ) -> NDArray[np.bool_]:
        """Whether dH <= level for each environment, equal to the float64 decision; never for an unknown element.

        Atoms that are no centers count as covered, whatever the level: what is not looked at never alarms.

        Parameters as in `delta_entropy`; `level` in nats is a scalar or (n,). Raises ValueError for a NaN level.
        """
        rows, z = self._asked(atoms_or_rows, numbers, threads)
        levels = np.asarray(level, dtype=np.float64)
        if levels.ndim > 1 or (levels.ndim == 1 and len(levels) != len(rows)):
            raise ValueError(f"level: expected a number or an array ({len(rows)},), got shape {levels.shape}")
        if np.isnan(levels).any():
            raise ValueError("level: expected numbers of nats, got NaN")
        levels = np.broadcast_to(levels, len(rows))
        verdicts = self._verdicts(rows, z, levels, threads)
        is_no_center = ~self.is_center(z)
        covered = (verdicts > 0) | is_no_center
        open_ = np.flatnonzero((verdicts == 0) & ~is_no_center)
        values = self.evaluate(rows[open_], z[open_], levels=[levels[open_]], threads=threads)
        covered[open_] = (values <= levels[open_]) & (values < np.inf)
        return covered

    def nearest(
        self, atoms_or_rows: Atoms | ArrayLike, *, numbers: ArrayLike | None = None, threads: int | None = None
    ) -> Nearest:
        """The nearest reference environment of each atom: parameters as in `delta_entropy`."""
        rows, z = self._asked(atoms_or_rows, numbers, threads)
        distance, found = np.full(len(rows), np.inf), np.full(len(rows), -1)
        n_threads = available_threads(threads)
        for where, block in self._matches(z):
            known = self._known(block)
            best = np.full(len(where), -1)
            is_many = len(where) > FEW_QUERIES and len(where) * len(known) > FEW_PAIRS
            if (is_many or block.start in self.structures) and len(known) > FEW_ROWS:
                best = self._index(block).nearest(rows[where], n_threads)
            d2 = complete_nearest(rows[where], known, best, n_threads)
            distance[where] = np.sqrt(d2) / self.bandwidth
            found[where] = best + block.start
        is_found = found >= 0
        frame, atom = np.full(len(rows), -1), np.full(len(rows), -1)
        frame[is_found] = self.arrays.atom_frame[found[is_found]]
        atom[is_found] = self.arrays.atom_index[found[is_found]]
        return Nearest(distance=distance, frame=frame, atom=atom)

    def to(self, device: str | None) -> Self:
        """The same reference, whose rows are searched on a device of torch, such as "cuda".

        Decisions about environments are the same on every device: what is too close to a level for the arithmetic of
        the device is summed on the CPU in float64. Values, and means of them, are within the same tolerance, not equal
        to the bit. Frames whose tensors are on the device are judged there (`Monitor.check_arrays`); of other frames
        descriptor rows and local scores are made on the CPU. References made from this one are on its device, pickled
        ones on the CPU.

        Parameters
        ----------
        device
            Name of a device that torch can use in double precision. None: the CPU, by kernels of this package, which
            are faster there than torch ("cpu").

        Raises
        ------
        ImportError
            If torch is not installed.
        ValueError, TypeError
            If torch has no such device here, or it is no name.
        """
        return self._on(None if device is None else require_device(device))

    def is_center(self, numbers: ArrayLike) -> NDArray[np.bool_]:
        """Whether atoms of each atomic number have an environment: all, unless the descriptor restricts its centers."""
        return is_center(self._contents.descriptor, numbers)

    def is_known(self, numbers: ArrayLike) -> NDArray[np.bool_]:
        """Whether each atomic number can be compared with this reference; False for those that are no centers."""
        z = np.asarray(numbers)
        if self.match == "any":
            return self.is_center(z) & bool(self.blocks)
        return np.isin(z, list(self.blocks))

    def evaluate(
        self,
        rows: NDArray[np.float64],
        numbers: NDArray[Any],
        *,
        levels: Sequence[NDArray[np.float64]] = (),
        float64: bool = False,
        threads: int | None = None,
    ) -> NDArray[np.float64]:
        """`delta_entropy` of checked rows; comparisons of the result with `levels` (n,) are as with float64=True."""
        n_threads, rows = available_threads(threads), np.asarray(rows, dtype=np.float64)
        out = np.where(self.is_center(numbers), np.inf, np.nan)
        for where, block in self._matches(numbers):
            known = self._known(block)
            if float64 or len(known) <= FEW_ROWS:
                out[where] = minus_log_sums(rows[where], known, self.bandwidth, threads=threads)
                continue
            values, bounds, usual = self._index(block).minus_log_sums(rows[where], n_threads)
            # values are as good as promised where rounding is as usual, comparisons hold in the worst case
            unsure = _is_inaccurate(values, usual)
            for level in levels:
                with np.errstate(invalid="ignore"):  # inf - inf
                    unsure |= ~(np.abs(values - level[where]) > bounds)
            values[unsure] = minus_log_sums(rows[where[unsure]], known, self.bandwidth, threads=threads)
            out[where] = values
        return out

    def evaluate_above(
        self,
        rows: NDArray[np.float64],
        numbers: NDArray[Any],
        lowest: NDArray[np.float64],
        *,
        levels: Sequence[NDArray[np.float64]] = (),
        threads: int | None = None,
    ) -> NDArray[np.float64]:
        """`evaluate` where dH may be above `lowest` (n,) nats, NaN where a proof says that dH is not."""
        out, rows = np.full(len(rows), np.nan), np.asarray(rows, dtype=np.float64)
        is_open = self._verdicts(rows, numbers, lowest, threads) <= 0
        these = [level[is_open] for level in (lowest, *levels)]
        out[is_open] = self.evaluate(rows[is_open], numbers[is_open], levels=these, threads=threads)
        return out

    def delta_entropy_without(
        self,
        rows: NDArray[np.float64],
        numbers: NDArray[Any],
        own_groups: NDArray[np.int64],
        frame_groups: NDArray[np.int64] | None = None,
        *,
        float64: bool = False,
        threads: int | None = None,
    ) -> NDArray[np.float64]:
        """DH of checked rows as if the group that each belongs to were not in the reference.

        `own_groups`: (n,) group to leave out for each row, -1: none. `frame_groups`: (n_frames,) group of each frame,
        default the groups of the reference. Returns (n,) nats, +inf where no other group has the element.
        """
        row_groups = self.arrays.groups_of_rows(frame_groups)
        out, rows = np.full(len(rows), np.inf), np.asarray(rows, dtype=np.float64)
        for where, block in self._matches(numbers):
            known, groups = self._known(block), row_groups[block]
            pieces = np.split(where, range(HELD_OUT_PIECE, len(where), HELD_OUT_PIECE))
            for piece in track(pieces, "holding out environments", len(pieces)):
                unsure, own = piece, own_groups[piece]
                if not float64 and len(known) > FEW_ROWS:
                    n_threads = available_threads(threads)
                    out[piece], _, usual = self._index(block).minus_log_sums(rows[piece], n_threads, own, groups)
                    unsure = piece[_is_inaccurate(out[piece], usual)]
                out[unsure] = minus_log_sums(
                    rows[unsure], known, self.bandwidth, query_groups=own_groups[unsure], groups=groups, threads=threads
                )
        return out

    @property
    def n_rows_of(self) -> dict[int, int]:
        """Rows that an atom is compared with, by its atomic number; one entry, 0, under match="any"."""
        return {z: block.stop - block.start for z, block in self.blocks.items()}

    def log_shares(self, sketch: "KnownRows", numbers: NDArray[Any]) -> NDArray[np.float64]:
        """Log of how many of these rows each row of a sketch stands for, for environments of each atomic number."""
        out = np.zeros(len(numbers))
        for z, mine in self.n_rows_of.items():
            if z in sketch.n_rows_of:
                chosen = slice(None) if self.match == "any" else numbers == z
                out[chosen] = math.log(mine / sketch.n_rows_of[z])
        return out

    def _on(self, device: str | None) -> Self:
        """The same reference, searched on another device."""
        other = type(self).__new__(type(self))
        vars(other).update(vars(self) | {"device": device, "structures": {}, "_inherited": {}})
        return other

    def _index(self, block: slice) -> Index:
        """The search structure over a block of rows, built when first asked for."""
        if block.start not in self.structures:
            first = self._inherited.pop(block.start, None)
            self.structures[block.start] = build_index(self._known(block), self.bandwidth, first, self.device)
        return self.structures[block.start]

    def _known(self, block: slice) -> NDArray[Any]:
        """The rows of a block, which were looked at when they were first asked for if they are mapped."""
        rows = self.rows[block]
        if block.start not in self._looked_at:
            checked("rows", rows, block.start)
            self._looked_at.add(block.start)
        return rows

    def _inherit(self, first: "KnownRows") -> None:
        """Take over the search structures of a reference whose rows come first in each element of this one."""
        for z, block in first.blocks.items():
            if block.start in first.structures and z in self.blocks:
                self._inherited[self.blocks[z].start] = first.structures[block.start]

    def _matches(self, numbers: NDArray[Any]) -> Iterator[tuple[NDArray[np.int64], slice]]:
        """Indices of the environments of each element, if any, and the slice of rows they are compared with."""
        for z, block in self.blocks.items():
            where = np.flatnonzero(self.is_center(numbers) if self.match == "any" else numbers == z)
            if len(where):
                yield where, block

    def _verdicts(
        self, rows: NDArray[np.float64], numbers: NDArray[Any], levels: NDArray[np.float64], threads: int | None
    ) -> NDArray[np.int8]:
        """Whether dH <= level is proven (1) or refuted (-1); 0: neither, or rows so few that no proof is tried."""
        verdicts = np.zeros(len(rows), np.int8)
        for where, block in self._matches(numbers):
            if block.stop - block.start > FEW_ROWS:
                verdicts[where] = self._index(block).decide(rows[where], levels[where], available_threads(threads))
        return verdicts

    def _asked(
        self, atoms_or_rows: Atoms | ArrayLike, numbers: ArrayLike | None, threads: int | None
    ) -> tuple[NDArray[np.float64], NDArray[Any]]:
        """Rows and atomic numbers of what is asked for, or a ValueError that says why it cannot be compared."""
        if isinstance(atoms_or_rows, Atoms):
            return describe(self.descriptor, atoms_or_rows, threads), np.asarray(atoms_or_rows.numbers)
        z = None if numbers is None else np.asarray(numbers)
        if z is None or z.shape != np.shape(atoms_or_rows)[:1]:  # a wrong shape of numbers is refused below
            rows = check_rows("rows", atoms_or_rows)
        else:
            rows = check_center_rows("rows", atoms_or_rows, self.is_center(z))
        width = self.rows.shape[1]
        if self.blocks and rows.shape[1] != width:
            raise ValueError(
                f"rows: expected {width} columns as in the reference, got {rows.shape[1]}; "
                "make them with reference.descriptor"
            )
        if z is None:
            if len(self.blocks) > 1:
                raise ValueError(
                    f"numbers: expected the atomic number of each row, since the reference has {len(self.blocks)} "
                    "elements and compares like with like; give numbers=atoms.numbers"
                )
            return rows, np.full(len(rows), int(self.numbers.min()) if self.blocks else 0)
        if z.shape != (len(rows),):
            raise ValueError(f"numbers: expected shape ({len(rows)},), one per row, got {z.shape}")
        return rows, z


def _is_inaccurate(values: NDArray[np.float64], errors: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Where fast values of dH with these errors may not be as good as `Reference.delta_entropy` promises."""
    return ~(errors < 1e-4 + 1e-6 * np.abs(values))
