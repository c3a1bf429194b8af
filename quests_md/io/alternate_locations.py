"""Alternate locations of atoms in PDB files (column 17): of several places of an atom one is taken."""

from collections import defaultdict
from collections.abc import Sequence

__all__ = ["one_location"]


def one_location(rows: Sequence[str]) -> tuple[list[str], str]:
    """The lines of atoms with one location for each, and what was left out, in words; no words where nothing was.

    In each residue the location whose atoms have the highest mean occupancy is kept, the first of equal ones, so that
    atoms of different locations are not mixed. Letters in column 17 of which no two share the name of an atom are no
    alternatives, and all are kept.
    """
    if all(row[16:17].isspace() or not row[16:17] for row in rows):
        return list(rows), ""
    residues: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for i, row in enumerate(rows):
        if row[16:17].strip():
            residues[row[21:27] + row[72:76]][row[16]].append(i)
    left_out: set[int] = set()
    for locations in residues.values():
        kept = max(locations, key=lambda letter: _occupancy(rows, locations[letter]))
        names = {rows[i][12:16] for i in locations[kept]}
        for letter, places in locations.items():
            if letter != kept and names & {rows[i][12:16] for i in places}:
                left_out.update(places)
    if not left_out:
        return list(rows), ""
    letters = ", ".join(sorted({rows[i][16] for i in left_out}))
    words = (
        f"{len(left_out)} of {len(rows)} atoms are alternate locations ({letters} in column 17) and are left out; of "
        "each residue the location of the highest occupancy is kept, the first of equal ones"
    )
    return [row for i, row in enumerate(rows) if i not in left_out], words


def _occupancy(rows: Sequence[str], places: Sequence[int]) -> float:
    """The mean occupancy of atoms, 1 where it is not given."""
    total = 0.0
    for i in places:
        try:
            total += float(rows[i][54:60])
        except ValueError:
            total += 1.0
    return total / len(places)
