"""Whether a reference is one of free molecules, each of which is a single neighbourhood."""

import numpy as np
from ase import Atoms
from ase.neighborlist import neighbor_list

from .reference import Reference

__all__ = ["MOST_ATOMS", "is_of_molecules"]

#: Most atoms of a free molecule. An average over an atom and 12 neighbours is one over more than a third of it.
MOST_ATOMS = 36

#: Å: atoms farther apart are not linked, where the descriptor names no cutoff.
CUTOFF = 5.0

#: Small periodic frames that are looked at, taken evenly.
MOST_FRAMES = 20


def is_of_molecules(reference: Reference) -> bool:
    """Whether more than half of the environments are in frames of free molecules of at most 36 atoms.

    Such a frame has atoms of several elements. It has no periodic direction, or no chain of atoms, each within the
    cutoff of the next, leads from an atom to its own periodic image: a crystal, a slab, a wire or a liquid is no
    molecule, however small its cell. Clusters of one element, of a metal say, are not meant. Where a
    descriptor has centers or neighbors of some elements only, a reference does not hold whole frames, and the answer is
    no.
    """
    if reference.settings.get("centers") or reference.settings.get("neighbors"):
        return False
    its = reference.arrays
    n_rows = np.bincount(its.atom_frame, minlength=reference.n_frames)
    n_elements = np.bincount(np.unique(its.frame_elements) // 256, minlength=reference.n_frames)
    small = (its.frame_natoms <= MOST_ATOMS) & (n_elements > 1)
    free = small & ~its.pbc.any(axis=1)
    n_free, n_all = int(n_rows[free].sum()), len(its.atom_frame)
    boxed = np.flatnonzero(small & its.pbc.any(axis=1))
    if 2 * (n_free + int(n_rows[boxed].sum())) <= n_all or 2 * n_free > n_all:
        return 2 * n_free > n_all
    chosen = boxed[np.unique(np.linspace(0, len(boxed) - 1, MOST_FRAMES).astype(int))]
    cutoff = float(reference.settings.get("cutoff", CUTOFF))
    finite = np.array([_is_finite(reference.frame(int(i)), cutoff) for i in chosen])
    share = n_rows[chosen[finite]].sum() / n_rows[chosen].sum()
    return bool(2 * (n_free + share * n_rows[boxed].sum()) > n_all)


def _is_finite(atoms: Atoms, cutoff: float) -> bool:
    """Whether no atom is linked to a periodic image of itself, over any chain of atoms."""
    first, second, cells = neighbor_list("ijS", atoms, cutoff)
    links: dict[int, list[tuple[int, tuple[int, int, int]]]] = {}
    for i, j, cell in zip(first.tolist(), second.tolist(), cells.tolist(), strict=True):
        links.setdefault(i, []).append((j, cell))
    place: dict[int, tuple[int, int, int]] = {}  # the cell in which each atom is reached first
    for start in links:
        if start in place:
            continue
        place[start], todo = (0, 0, 0), [start]
        while todo:
            here = todo.pop()
            a, b, c = place[here]
            for other, (da, db, dc) in links[here]:
                there = (a + da, b + db, c + dc)
                if other not in place:
                    place[other] = there
                    todo.append(other)
                elif place[other] != there:
                    return False
    return True
