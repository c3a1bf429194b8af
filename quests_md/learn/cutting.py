"""Small cells around strange atoms, that a code of first principles can take."""

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from ase import Atoms

from quests_md._arguments import is_integer, is_number
from quests_md.environments import inner_descriptor
from quests_md.io import fault_of_frame
from quests_md.reference import GivenReference, Reference, opened_reference

from .cut_out import Attempt, CutOut, whole_frame
from .surroundings import Pieces, Surroundings
from .trials import DoesNotFitError, Wish, attempts, cells_to_try
from .verdicts import Verdicts, badness, why_refused

__all__ = ["cut", "cut_all"]


def cut(
    atoms: Atoms,
    center: int | Sequence[int] | None = None,
    *,
    reference: GivenReference | None = None,
    core_A: float = 3.5,
    buffer_A: float | None = None,
    max_atoms: int = 200,
    boundary: Literal["periodic", "vacuum"] = "periodic",
    level: float | None = None,
    relax_with: Any = None,
    threads: int | None = None,
) -> CutOut:
    """Cut a small cell around strange atoms out of a large frame, for a calculation of first principles.

    The core is what lies within `core_A` of the centers: its atoms keep their places to rounding (1e-14 Å, moved
    together), and have around them what they have in the frame, up to `buffer_A` (in packed cells up to `kept_A` of
    `.chosen`). Train on the forces of the core (array `core`); energy and other forces are those of the cell.

    With a periodic boundary the periods are, if there is a crystal around, translations that carry it onto itself, so
    that nothing new arises where the cell meets its images: the smallest such cell. Else images of the core are packed
    densely; of atoms that would come too near each other across the boundary one is left out, and the others are moved
    apart. Periods of the frame may be periods of the cell. Directions that are not periodic in the frame stay so, with
    all the frame has there and 12 Å of vacuum; a frame with no periodic direction gets three. A frame of at most
    `max_atoms` atoms is its own cell. With vacuum, the cell is the cluster of all atoms within `buffer_A` of the core.

    Molecules (pieces that are bonded by covalent radii and have at most `max_atoms` atoms) stay whole. Clusters and
    packed cells of ordered compounds keep the ratio of elements of the frame. Charge and spin are the user's to set.

    With a reference the cell is scored again. A periodic cell is accepted if dH of its core is kept (within 1 nat or a
    tenth) and no other atom is above the level and stranger than in the frame; until one is, thicker buffers, other
    periods, and `relax_with` are tried. Of a cluster the core alone is asked.

    Parameters
    ----------
    atoms
        The frame; not changed.
    center
        Atom or atoms to cut around. None: the connected cluster of strange atoms that holds the strangest, see
        `cut_all`; where it does not fit, without what is around it, or else this atom. Needs a reference.
    reference
        The training set, or the name of its file.
    core_A
        How far the core reaches from the centers, Å. 3.5: first neighbours of nearly everything.
    buffer_A
        How much at least is around the core as in the frame, Å. Default: the cutoff of the reference's descriptor (5 Å)
        or, where `max_atoms` does not allow it, as much as it does, at least 3 Å.
    max_atoms
        Most atoms of the cell.
    boundary
        "periodic" or "vacuum".
    level
        dH in nats above which an atom is strange. Default: what 99.9 % of the environments of the reference do not
        exceed when their group is left out of it, for each element, and at least 0.
    relax_with
        ASE calculator, which relaxes the outer part of the buffer where the cell is not accepted as it was cut, or
        where there is no reference to tell.
    threads
        Threads to use; default the cores that the process may use, or QUESTS_MD_THREADS.

    Returns
    -------
    CutOut
        The cell, `.atoms`, and what is known of it: `print(cut_out)`. If no cell is accepted, the best with the reason
        in `.refused`.

    Raises
    ------
    FrameError
        The frame has positions or a cell that are not usable.
    ValueError
        An argument is not usable; no atom is strange; `max_atoms` is too few, with the number that is needed.
    """
    cutter = _Cutter.of(atoms, Wish(core_A, buffer_A, max_atoms, boundary, relax_with), reference, level, threads)
    if center is not None:
        return cutter.around(_checked_center(center, len(atoms)))
    first = next(cutter.each(), None)
    if first is None:
        raise ValueError(f"center: no atom is above the level ({cutter.level_words}); give atoms to cut around")
    return first


def cut_all(
    atoms: Atoms,
    reference: GivenReference,
    *,
    core_A: float = 3.5,
    buffer_A: float | None = None,
    max_atoms: int = 200,
    boundary: Literal["periodic", "vacuum"] = "periodic",
    level: float | None = None,
    relax_with: Any = None,
    threads: int | None = None,
) -> Iterator[CutOut]:
    """Cut a cell for each connected cluster of strange atoms, that with the largest dH first.

    Strange are atoms above the level; where `level` is None and the frame has an array `select_strange` or `above`, as
    `select` and monitors write them, those that it marks. Clusters within the cores of cells that came before, none of
    them refused, have no cell of their own. Parameters and errors as in `cut`, which gives the first of these cells.
    """
    cutter = _Cutter.of(atoms, Wish(core_A, buffer_A, max_atoms, boundary, relax_with), reference, level, threads)
    return cutter.each()


@dataclass(frozen=True)
class _Cutter:
    """A frame, and how it is cut."""

    frame: Atoms
    wish: Wish
    verdicts: Verdicts | None
    uses_marks: bool
    pieces: Pieces

    @classmethod
    def of(
        cls, atoms: Atoms, wish: Wish, reference: GivenReference | None, level: float | None, threads: int | None
    ) -> "_Cutter":
        _check_frame(atoms)
        if level is not None and (not is_number(level) or not math.isfinite(level)):
            raise ValueError(f"level: expected a finite number of nats, or None, got {level!r}")
        known = None if reference is None else opened_reference(reference)
        verdicts = None if known is None else Verdicts.of(atoms, known, level, threads)
        return cls(atoms, wish, verdicts, level is None, Pieces.of(atoms, wish.max_atoms))

    @property
    def level_words(self) -> str:
        return "" if self.verdicts is None else self.verdicts.level_words()

    def each(self) -> Iterator[CutOut]:
        """A cell for each cluster of strange atoms."""
        if self.verdicts is None:
            raise ValueError(
                "center: expected atoms to cut around, or a reference that says which are strange; got none"
            )
        done = np.zeros(len(self.frame), bool)
        for cluster in self.verdicts.clusters(marks=self.uses_marks):
            if done[cluster].all():
                continue
            dh = np.where(np.isnan(self.verdicts.dh[cluster]), -np.inf, self.verdicts.dh[cluster])
            found = self._around_cluster(tuple(cluster.tolist()), int(cluster[np.argmax(dh)]))
            if not found.refused:
                done[found.atoms.arrays["original_index"][found.atoms.arrays["core"]]] = True
            yield found

    def _around_cluster(self, cluster: tuple[int, ...], worst: int) -> CutOut:
        """A cell around a cluster or, where it does not fit, with the cluster as the core, or around its worst atom."""
        if len(cluster) == 1:
            return self.around(cluster)
        with suppress(DoesNotFitError):
            return self.around(cluster)
        most, core_A = self.wish.max_atoms, self.wish.core_A
        note = f"the {len(cluster)} connected strange atoms, with {core_A:g} Å around, do not fit into {most}"
        with suppress(DoesNotFitError):
            alone = replace(self, wish=replace(self.wish, core_A=0.0))
            return alone.around(cluster, (f"{note}; they are the core",))
        return self.around((worst,), (f"{note}; cut around the strangest alone",))

    def around(self, center: tuple[int, ...], notes: tuple[str, ...] = ()) -> CutOut:
        """A cell around some atoms."""
        frame, wish, verdicts = self.frame, self.wish, self.verdicts
        if len(center) > wish.max_atoms:
            raise DoesNotFitError(
                f"max_atoms: expected at least {len(center)}, as many as there are centers, got {wish.max_atoms}; give "
                "more, or fewer centers"
            )
        around = Surroundings(self.pieces, center, wish.core_A)
        inner = None if verdicts is None else inner_descriptor(verdicts.reference.descriptor)
        wanted, least = wish.buffers(None if inner is None else float(inner.cutoff))
        core = np.unique(around.core_atoms)
        if len(core) > wish.max_atoms:
            raise DoesNotFitError(
                f"max_atoms: expected at least {len(core)}, as many as are in the core, got {wish.max_atoms}; give "
                f"more, or a smaller core_A ({wish.core_A:g})"
            )
        fits = len(frame) <= wish.max_atoms and (wish.boundary == "periodic" or not frame.pbc.any())
        tried: list[tuple[Attempt, Atoms]] = []
        if fits:
            cell = whole_frame(frame, core)
            attempt = Attempt("frame", len(cell), math.inf, math.inf, "", None, None, None)
            tried.append((attempt if verdicts is None else verdicts.look(cell, "frame", math.inf, math.inf, ""), cell))
        else:
            planned = cells_to_try(around, wanted, least, wish)
            for attempt, atoms in attempts(frame, planned, around, wish, verdicts):
                tried.append((attempt, atoms))
                if not why_refused(attempt, verdicts, core, wanted):
                    break
        refused = why_refused(tried[-1][0], verdicts, core, wanted)
        attempt, atoms = min(tried, key=lambda one: badness(one[0], wanted)) if refused else tried[-1]
        refused = why_refused(attempt, verdicts, core, wanted)
        if not fits and attempt.buffer_A < wanted - 1e-9:
            notes += (f"buffer: {attempt.buffer_A:.1f} Å instead of {wanted:g} Å fit into {wish.max_atoms} atoms",)
        out = CutOut(
            atoms,
            center,
            tuple(one for one, _ in tried),
            attempt,
            None if verdicts is None else verdicts.core_dh(core),
            {} if verdicts is None else verdicts.by_element(),
            refused,
            notes,
        )
        _sign(out, wish, verdicts)
        return out


def _sign(out: CutOut, wish: Wish, verdicts: Verdicts | None) -> None:
    """Write into the cell where it comes from."""
    info: dict[str, Any] = {"cut_center": " ".join(map(str, out.center)), "cut_boundary": wish.boundary}
    info |= {"cut_kind": out.chosen.kind, "cut_core_A": float(wish.core_A), "cut_buffer_A": out.chosen.buffer_A}
    info["cut_kept_A"] = out.chosen.kept_A
    info["cut_relaxed"] = out.chosen.relaxed or "no"
    if verdicts is not None:
        info |= {"cut_core_dh_before": out.core_dh_before, "cut_core_dh_after": out.core_dh_after}
        info |= {"cut_boundary_above": out.n_boundary_above, "reference": verdicts.reference.fingerprint}
    if out.refused:
        info["cut_refused"] = out.refused
    out.atoms.info |= info


def _check_frame(atoms: Atoms) -> None:
    if not isinstance(atoms, Atoms):
        raise TypeError(f"atoms: expected Atoms, got {type(atoms).__name__}")
    if not len(atoms):
        raise ValueError("atoms: expected a frame with atoms, got none")
    if fault := fault_of_frame(atoms):
        raise ValueError(f"atoms: {fault}")


def _checked_center(center: int | Sequence[int], n_atoms: int) -> tuple[int, ...]:
    """Indices of atoms, each once, in ascending order."""
    given: Any = [center] if is_integer(center) else center
    if isinstance(given, str | os.PathLike | Reference):
        shown = "a Reference" if isinstance(given, Reference) else repr(os.fspath(given))
        raise TypeError(
            f"center: expected the index of an atom, or several, got {shown}; give a reference by its name: "
            "cut(atoms, reference=...)"
        )
    if not isinstance(given, Sequence | np.ndarray):
        raise TypeError(f"center: expected the index of an atom, or several, got {center!r}")
    indices = list(given)
    if not indices:
        raise ValueError("center: expected the index of an atom, or several, got none")
    for index in indices:
        if not is_integer(index):
            raise TypeError(f"center: expected indices of atoms, got {index!r}")
        if not 0 <= index < n_atoms:
            raise ValueError(f"center: expected atoms from 0 to {n_atoms - 1}, got {index}")
    return tuple(sorted({int(index) for index in indices}))
