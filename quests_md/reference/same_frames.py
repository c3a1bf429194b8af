"""Which frames are one and the same: the same atoms at the same places, up to rounding, order, wrapping and a shift."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from .contents import ReferenceArrays

__all__ = ["Placed", "first_same", "is_of_places"]

#: Å, and part of the largest coordinate, by which texts of eight decimals, six digits or single precision differ.
ROUNDING, DIGITS = 1e-4, 5e-6

#: Atoms of which structure factors are taken together: memory for a part of a large reference at a time.
ATOMS_TOGETHER = 2**20

#: Wave vectors, in reciprocal cell vectors, along which frames are compared before atoms are.
WAVES = np.array(
    [
        [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1], [1, 0, 1], [1, -1, 0], [0, 1, -1], [1, 0, -1], [1, 1, 1],
    ]
)  # fmt: skip


class Placed(NamedTuple):
    """Atoms of n_frames frames, one frame after the other."""

    numbers: NDArray[Any]
    """(n,) atomic numbers."""
    positions: NDArray[np.float64]
    """(n, 3) positions, Å."""
    ends: NDArray[np.int64]
    """(n_frames + 1,) where the atoms of each frame begin, and the end."""
    natoms: NDArray[np.int64]
    """(n_frames,) atoms of each frame, those that are not kept included."""
    cells: NDArray[np.float64]
    """(n_frames, 3, 3) cell vectors, zero where a frame is not periodic, Å."""
    pbc: NDArray[np.bool_]
    """(n_frames, 3) periodic directions."""

    @classmethod
    def of(cls, arrays: ReferenceArrays, match: str) -> "Placed":
        """Of a reference; with match="any" all elements count as one, as they do for its rows."""
        order = np.argsort(arrays.atom_frame, kind="stable")
        return cls(
            arrays.numbers[order] * (match == "element"),
            arrays.positions[order].astype(np.float64),
            np.searchsorted(arrays.atom_frame[order], np.arange(len(arrays.pbc) + 1)),
            arrays.frame_natoms,
            np.where(arrays.pbc[:, :, None], arrays.cells.astype(np.float64), 0.0),
            arrays.pbc,
        )

    @classmethod
    def joined(cls, first: "Placed", second: "Placed") -> "Placed":
        """The frames of both."""
        ends = np.concatenate([first.ends, second.ends[1:] + first.ends[-1]])
        rest = (
            np.concatenate([getattr(part, name) for part in (first, second)]) for name in cls._fields if name != "ends"
        )
        numbers, positions, natoms, cells, pbc = rest
        return cls(numbers, positions, ends, natoms, cells, pbc)


def is_of_places(settings: Mapping[str, Any]) -> bool:
    """Whether the rows of a reference with these settings are made of places and elements of atoms alone.

    A descriptor of one's own may look at anything else; then frames are the same only where their rows are.
    """
    return str(settings["descriptor"]).startswith("quests-")


def first_same(frames: Placed, start: int = 0) -> NDArray[np.int64]:
    """(n_frames,) the first frame that is the same as each, which may be the frame itself.

    Frames before `start` are not compared with each other.

    Frames are the same if the atoms of one, all moved by the same vector and each by cell vectors, are those of the
    other in some order: within 1e-4 Å and 5e-6 of the largest coordinate, which is more than text files of four
    decimals or six digits and single precision change. Cells are equal within the same; of directions that are not
    periodic the cell does not count. Rotated and mirrored frames are others.

    Frames are compared atom by atom only where numbers agree that no order, wrapping or shift changes, each within what
    rounding may change it by: sizes of structure factors along periodic directions, distances from the middle along the
    others.
    """
    first = np.arange(len(frames.natoms))
    for members in _alike(frames):
        if members[-1] < start:
            continue
        keys = _keys(frames, members)
        # copies to the bit, however many there are, are one
        _, firsts, of = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        of = of.ravel()
        tree = KDTree(keys[firsts])
        near = tree.query_ball_point(keys[firsts], 1.0, p=np.inf)
        kept: list[list[int]] = [[] for _ in firsts]  # different frames of each key
        for place, i in enumerate(members.tolist()):
            candidates = sorted(j for key in near[of[place]] for j in kept[key]) if i >= start else []
            same = next((j for j in candidates if _are_same(frames, i, j)), i)
            first[i] = same
            if same == i:
                kept[of[place]].append(i)
    return first


def _alike(frames: Placed) -> Iterator[NDArray[np.int64]]:
    """Frames of the same numbers of atoms of each element and the same periodic directions, if more than one."""
    found: dict[tuple[int, bytes, bytes], list[int]] = {}
    for i, natoms in enumerate(frames.natoms.tolist()):
        numbers = np.sort(frames.numbers[frames.ends[i] : frames.ends[i + 1]])
        found.setdefault((natoms, numbers.tobytes(), frames.pbc[i].tobytes()), []).append(i)
    return (np.array(members, dtype=np.int64) for members in found.values() if len(members) > 1)


def _tolerance(positions: NDArray[np.float64], cells: NDArray[np.float64]) -> float:
    """By how much rounding may move an atom along each axis, Å."""
    return ROUNDING + DIGITS * max(float(np.abs(positions).max(initial=0.0)), float(np.abs(cells).max(initial=0.0)))


def _keys(frames: Placed, members: NDArray[np.int64]) -> NDArray[np.float64]:
    """(n, width) what neither order, wrapping nor shift changes, in units of what rounding may change it by."""
    n = int(frames.ends[members[0] + 1] - frames.ends[members[0]])
    atoms = frames.ends[members][:, None] + np.arange(n)
    positions, cells, pbc = frames.positions[atoms], frames.cells[members], frames.pbc[members[0]]
    weights = frames.numbers[atoms] + 1.0  # 0 where elements do not count
    weights /= weights[0].sum()
    tolerance = _tolerance(positions, cells)
    keys = [cells.reshape(len(members), 9) / (2 * tolerance)]
    inverse = np.linalg.pinv(cells)  # of the periodic directions alone
    if pbc.any():
        places = positions @ inverse
        # an atom n cells away is moved by rounding of the cell n times
        moved = np.sqrt(3) * tolerance * (1 + np.abs(places).max())
        step = max(1, ATOMS_TOGETHER // n)
        pieces = [slice(start, start + step) for start in range(0, len(members), step)]
        for wave in WAVES[~(WAVES[:, ~pbc] != 0).any(axis=1)]:
            factor = np.concatenate([_structure_factors(weights[i], places[i], wave) for i in pieces])
            change = 2 * np.pi * np.linalg.norm(inverse @ wave, axis=1).max() * moved
            keys.append(factor[:, None] / (2 * change))
    if not pbc.all():
        across = positions - positions @ inverse @ cells
        across -= across.mean(axis=1, keepdims=True)
        d = np.linalg.norm(across, axis=2)
        moved = 2 * np.sqrt(3) * tolerance * (1 + (np.abs(positions @ inverse).max() if pbc.any() else 0.0))
        along = [d.mean(axis=1), np.sqrt((d**2).mean(axis=1)), d.max(axis=1), d.min(axis=1), (weights * d).sum(axis=1)]
        keys += [x[:, None] / (2 * moved) for x in along]
    if not pbc.any():
        products = np.einsum("nij,nik->njk", across, across) / n
        keys.append(products.reshape(len(members), 9) / (4 * moved * max(float(d.max()), tolerance)))
    return np.concatenate(keys, axis=1)


def _structure_factors(
    weights: NDArray[np.float64], places: NDArray[np.float64], wave: NDArray[np.int64]
) -> NDArray[np.float64]:
    """(n_frames,) sizes of the structure factors of atoms at fractional places (n_frames, n, 3)."""
    return np.asarray(np.abs((weights * np.exp(2j * np.pi * (places @ wave))).sum(axis=1)))


def _are_same(frames: Placed, i: int, j: int) -> bool:
    """Whether two frames of the same atoms and periodic directions are the same."""
    one, other = slice(*frames.ends[i : i + 2]), slice(*frames.ends[j : j + 2])
    a, b = frames.positions[one], frames.positions[other]
    z, y = frames.numbers[one], frames.numbers[other]
    cell, tolerance = frames.cells[j], _tolerance(np.concatenate([a, b]), frames.cells[[i, j]])
    if (np.abs(frames.cells[i] - cell) > tolerance).any():
        return False
    inverse = np.linalg.pinv(cell)
    # places along periodic directions in cells, so that wrapping is a whole number; the rest in Å
    tolerance *= 1 + float(np.abs(np.concatenate([a, b]) @ inverse).max()) if cell.any() else 1

    def apart(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(vectors - np.round(vectors @ inverse) @ cell)

    def is_one_shift(vectors: NDArray[np.float64]) -> bool:
        """Whether they are one vector but for rounding and cell vectors."""
        rest = apart(vectors - vectors[0])
        return bool((np.abs(rest - (rest.max(axis=0) + rest.min(axis=0)) / 2) <= tolerance).all())

    if (z == y).all() and is_one_shift(b - a):
        return True
    return any(is_one_shift(b[order] - a) for order in _orders(a, b, z, y, cell, inverse, 3 * tolerance))


def _orders(
    a: NDArray[np.float64],
    b: NDArray[np.float64],
    z: NDArray[Any],
    y: NDArray[Any],
    cell: NDArray[np.float64],
    inverse: NDArray[np.float64],
    reach: float,
) -> Iterator[NDArray[np.int64]]:
    """Orders of the atoms b in which they may be the atoms a, moved by the vector between an atom of each."""
    periodic = cell.any(axis=1)

    def placed(x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Positions in a box: along periodic directions wrapped, from 0 to the length; across them as they are."""
        inside = x @ inverse
        inside -= np.floor(inside)
        inside[inside >= 1] = 0
        return np.concatenate([inside[:, periodic] * scale, x - x @ inverse @ cell], axis=1)

    # in units in which no distance is longer than in Å: lengths of cells across their faces
    scale = 1 / np.linalg.norm(inverse[:, periodic], axis=0)
    tree = KDTree(placed(b), boxsize=np.concatenate([scale, np.zeros(3)]))
    elements, counts = np.unique(z, return_counts=True)
    rarest = elements[np.argmin(counts)]
    anchor = int(np.flatnonzero(z == rarest)[0])
    # a few atoms far from each other tell most shifts that are none
    few = np.unique(np.linspace(0, len(a) - 1, min(len(a), 4)).astype(np.int64))
    shifts = b[y == rarest] - a[anchor]

    def order_by(shift: NDArray[np.float64], atoms: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Whether each shift (m, 3) puts all these atoms on atoms b of their element, and which these are."""
        at = placed((a[atoms] + shift[:, None]).reshape(-1, 3))
        distance, order = (x.reshape(len(shift), -1) for x in tree.query(at, distance_upper_bound=4 * reach))
        is_on = np.isfinite(distance)
        return (is_on & (y[np.where(is_on, order, 0)] == z[atoms])).all(axis=1), order

    for shift in shifts[order_by(shifts, few)[0]]:
        (is_on,), (order,) = order_by(shift[None], np.arange(len(a)))
        if is_on and len(np.unique(order)) == len(order):
            yield order
