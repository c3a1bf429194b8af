"""The cells that are tried: of which periods, in which order, and how their boundary is relaxed."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from ase import Atoms

from quests_md._arguments import check_choice, check_not_negative, check_positive, check_positive_integer
from quests_md._words import many

from .cells import STAYS, STAYS_AT_LEAST, Cell, cluster_cell, kept_around, periodic_cell
from .cut_out import Attempt, atoms_of
from .lattices import Lattice, Translations, crystals, packings, reduced
from .spreading import relaxed, spread
from .surroundings import Surroundings
from .verdicts import Verdicts

__all__ = ["DoesNotFitError", "Wish", "attempts", "cells_to_try"]

#: Å, the thickness that is asked for where the reference does not name a cutoff, and the least without being asked.
BUFFER, LEAST_BUFFER = 5.0, 3.0

#: Å, longest distance that may be asked for: far beyond what a small cell holds.
LONGEST = 1000.0

#: Å by which the next thinner buffer is thinner.
LESS = 0.25

#: Cells of each kind that are tried.
MOST_TRIED = 10

#: Cells with one thickness of the buffer that are built at most.
MOST_BUILT = 12


class DoesNotFitError(ValueError):
    """More atoms are needed than may be."""


@dataclass(frozen=True)
class Wish:
    """What is asked of a cell; the arguments of `cut`, which are checked here."""

    core_A: float
    buffer_A: float | None
    max_atoms: int
    boundary: str
    relax_with: Any

    def __post_init__(self) -> None:
        check_not_negative("core_A", self.core_A, "distance in Å")
        if self.buffer_A is not None:
            check_positive("buffer_A", self.buffer_A, "distance in Å")
        for name, distance in (("core_A", self.core_A), ("buffer_A", self.buffer_A or 0.0)):
            if distance > LONGEST:
                raise ValueError(f"{name}: expected a distance of at most {LONGEST:g} Å, got {distance:g}")
        check_positive_integer("max_atoms", self.max_atoms)
        check_choice("boundary", self.boundary, ("periodic", "vacuum"))

    def buffers(self, cutoff: float | None) -> tuple[float, float]:
        """Thickness of the buffer that is wanted, and the least one, Å; `cutoff` is that of the descriptor."""
        if self.buffer_A is not None:
            return float(self.buffer_A), float(self.buffer_A)
        usual = BUFFER if cutoff is None else cutoff
        return usual, min(LEAST_BUFFER, usual)


def cells_to_try(around: Surroundings, wanted: float, least: float, wish: Wish) -> Iterator[Cell]:
    """Cells of at most so many atoms, best first; DoesNotFitError, with the number that is needed, if there is none."""
    if wish.boundary == "vacuum":
        yield _cluster(around, wanted, least, wish)
    else:
        yield from _cells(around, wanted, least, wish)


def attempts(
    frame: Atoms, cells: Iterator[Cell], around: Surroundings, wish: Wish, verdicts: Verdicts | None
) -> Iterator[tuple[Attempt, Atoms]]:
    """Cells and what the reference says of them, one way of relaxing their boundary after the other."""
    ways = ("", "blended", "spread", "calculator")
    seen, again = list[Cell](), list[Cell]()
    for way in ways if verdicts is not None else ("calculator",) if wish.relax_with is not None else ("",):
        for cell in again or cells:
            if again is not seen:
                seen.append(cell)
            if (done := _relaxed(frame, cell, way, around, wish)) is None:
                continue
            atoms, how = done
            moved = atoms.positions - atoms.positions[0] - (cell.positions - cell.positions[0])
            kept = kept_around(around, cell, moved)
            if verdicts is None:
                yield Attempt(cell.kind, len(atoms), cell.buffer_A, kept, how, None, None, None), atoms
            else:
                yield verdicts.look(atoms, cell.kind, cell.buffer_A, kept, how), atoms
        again = seen


def _relaxed(frame: Atoms, cell: Cell, way: str, around: Surroundings, wish: Wish) -> tuple[Atoms, str] | None:
    """The cell, and how its boundary was relaxed; None: this way is none for it."""
    atoms = atoms_of(frame, cell)
    outer, most = (cell.distances > share * cell.buffer_A for share in (STAYS, STAYS_AT_LEAST))
    if way == "calculator":
        if cell.kind == "packed":
            atoms = spread(atoms, cell.units, outer, around.closest)
        return None if wish.relax_with is None else (relaxed(atoms, most, wish.relax_with), way)
    if cell.kind == "packed":  # as cut it has atoms on top of each other
        if way == "blended":
            return None
        return spread(atoms, cell.units, most if way == "spread" else outer, around.closest), "spread"
    if cell.kind == "cluster":
        return (atoms, "") if way == "" else None
    if way in ("blended", "spread"):
        atoms.positions += cell.blend
    if way == "spread":
        atoms = spread(atoms, cell.units, most, around.closest)
    return atoms, way


def _cells(around: Surroundings, wanted: float, least: float, wish: Wish) -> Iterator[Cell]:
    """Periodic cells to try: crystals before packings, with the wanted buffer before others, small ones first."""
    translations = Translations(around, _longest(around, wish.max_atoms, wanted))
    builder = _Builder(around, wish.max_atoms)
    n_all = 0
    for kind in ("crystal", "packed"):
        n = 0
        for buffer_A in np.append(np.arange(wanted, least, -LESS), least):
            gap = 2 * float(buffer_A)
            found = crystals(translations, gap) if kind == "crystal" else packings(around, gap)
            for cell in islice(builder.fitting(found, gap), MOST_TRIED - n):
                n += 1
                yield cell
            if n >= MOST_TRIED:
                break
        n_all += n
    if n_all:
        return
    core, cluster = len(around.core), len(cluster_cell(around, least).atoms)
    needed = _needed(around, least, wish.max_atoms)
    raise DoesNotFitError(
        f"max_atoms: a core of {many(core, 'atom')} with a buffer of {least:g} Å needs a periodic cell of "
        f"about {needed} atoms, got max_atoms={wish.max_atoms}; give more, or a smaller core_A ({wish.core_A:g}) or "
        f'buffer_A, or boundary="vacuum" ({many(cluster, "atom")})'
    )


class _Builder:
    """Builds cells of at most so many atoms, each once, and learns how many atoms a lattice has."""

    def __init__(self, around: Surroundings, max_atoms: int) -> None:
        self.around, self.max_atoms = around, max_atoms
        #: Least atoms per Å^3 (Å^2, Å) there were.
        self.density = 0.0
        self.seen = set[tuple[float, ...]]()

    def fitting(self, some: list[Lattice], gap: float) -> Iterator[Cell]:
        """Cells that fit, of the first lattices that have the gap and are not too large."""
        n = 0
        for lattice in some:
            if n >= MOST_BUILT or self.density * lattice.size > 1.1 * self.max_atoms:  # so are all that follow
                return
            short = reduced(self.around, lattice)
            if short is None or short.gap < gap - 1e-6:
                continue
            name = tuple(np.round([short.size / 10, *np.sort(np.linalg.norm(short.vectors, axis=1))], 0))
            if name in self.seen:
                continue
            self.seen.add(name)
            n += 1
            cell, n_atoms = periodic_cell(self.around, short, self.max_atoms)
            density = n_atoms / short.size
            self.density = min(self.density, density) if self.density else density
            # atoms at the boundary of a crystal may have taken the places of others that are as near
            if cell is not None and (cell.kind == "packed" or cell.buffer_A >= gap / 2 - 1e-6):
                yield cell


def _needed(around: Surroundings, least: float, max_atoms: int) -> int:
    """About how many atoms the smallest cell has that has the buffer."""
    fewest = len(around.whole)
    gap = 2 * least
    for more in (2, 8):
        translations = Translations(around, _longest(around, more * max_atoms, least))
        for found in (crystals(translations, gap), packings(around, gap)):
            short = (reduced(around, one) for one in found)
            wide = (one for one in short if one is not None and one.gap >= gap - 1e-6)
            cells = (periodic_cell(around, one, len(around.whole))[0] for one in islice(wide, MOST_TRIED))
            fewest = min([fewest, *(len(cell.atoms) for cell in cells if cell is not None)])
        if fewest < len(around.whole):
            break
    return fewest


def _cluster(around: Surroundings, wanted: float, least: float, wish: Wish) -> Cell:
    """The cluster with the wanted buffer or, where it does not fit, with one as thick as fits."""
    buffer_A = wanted
    cell = cluster_cell(around, buffer_A)
    while len(cell.atoms) > wish.max_atoms and buffer_A > least + 1e-9:
        buffer_A = max(buffer_A - LESS, least)
        cell = cluster_cell(around, buffer_A)
    if len(cell.atoms) > wish.max_atoms:
        raise DoesNotFitError(
            f"max_atoms: a core of {many(len(around.core), 'atom')} with a buffer of {buffer_A:g} Å needs a cluster of "
            f"{len(cell.atoms)} atoms, got max_atoms={wish.max_atoms}; give more, or a smaller core_A "
            f"({wish.core_A:g}) or buffer_A"
        )
    return cell


def _longest(around: Surroundings, max_atoms: int, wanted: float) -> float:
    """Å, longest period that is looked for: of cells of so many atoms that are not needles."""
    near = around.within(6.0)
    extent = float(np.linalg.norm(np.ptp(around.core, axis=0)))
    volume = 4 / 3 * math.pi * (6.0 + extent / 2) ** 3
    room = max_atoms * volume / max(len(near.atoms), 1)
    return float(np.clip(1.5 * (math.sqrt(2) * room) ** (1 / 3), extent + 2 * wanted, extent + 40.0))
