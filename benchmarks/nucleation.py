"""Does the monitor see melts freeze and crystals melt, when, and is it quiet where nothing happens? Five materials.

python benchmarks/nucleation.py FOLDER [FOLDER ...] > docs/nucleation.md

The folders hold what benchmarks/freezing_runs.py makes: NAME.extxyz, NAME.csv, NAME.ptm.npz, NAME.freud.npz and, of
some runs, NAME.ptm_avg.npz. With ``--only NAME ...`` these runs alone are judged.
"""

import argparse
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io import read
from freezing_runs import LATE_RUNS, RUNS, SOLID_BONDS
from numpy.typing import NDArray

from quests_md import Calibration, Check, Event, Monitor, Phases, Reference, calibrate

#: The ways of watching a run, by their names in the tables.
DEFAULT, BASELINE, OLD, LABELLED, HOT = "default", "baseline", "old default", "labelled", "default, ramp alone"
#: What was in use by default before: plain rows, each statistic with a level of its own.
OLD_STATISTICS = ("dh_max", "tail_cluster", "dh_mean")
#: How far behind PTM's 5 % an event may be with a baseline, ps (LJ: tau); by the default: `Material.goal`.
BASELINE_GOAL = 3.0
#: Å in a sigma of Lennard-Jones runs, for the neighbour distance of argon.
SIGMA = 3.4
#: ps (LJ: tau) until which a quench lasts; frames of crystals that are left out at their beginning.
SETTLED, SKIPPED = 8.0, 5
#: PTM's share at the onset; PTM's share and freud's cluster in the last liquid; share of freud's cluster in a crystal.
CRYSTAL, TRACE, NUCLEUS, HALF = 0.05, 0.01, 50, 0.5
#: Share of the energy of freezing that must be gone for good: the onset by potential energy.
DROP = 0.2
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Material:
    """The runs of which references are made and those that freeze; other melts are controls. Times in ps (LJ: tau)."""

    product: str
    solids: tuple[str, ...]
    ramp: str
    freezing: tuple[str, ...]
    """Early frames of the first are in the liquid reference of all others, those of the second in that of the first."""
    heated: tuple[str, float] | None = None
    """A crystal that is heated, and the time up to which its frames are the reference of melting."""
    early: tuple[float, float] = (10.0, 20.0)
    """The quench is over, and the melt is liquid for certain."""
    settled: float = 10.0
    """From when on the ramp is a reference."""
    baseline: float = 20.0
    """Length of the baseline."""
    goal: float = 10.0
    """How far behind PTM's 5 % an event of the default may be."""


MATERIALS = {
    "Cu": Material(
        "fcc",
        ("cu864_solid_T700",),
        "cu864_liquid_ramp1600_800",
        (
            *(f"cu864_T700_s{seed}" for seed in (1, 2, 3, 4, 7, 12, 13, 14)),
            *("cu_T700_s1", "cu864_T750_s34", "cu864_T750_s35"),
            *(f"cu864_T800_s{seed}" for seed in (31, 32, 33)),
            *("cu864_T700_s51", "cu864_T700_s52", "cu864_T750_s53"),
        ),
        ("cu864_melt_s21", 60.0),
    ),
    "Ta": Material(
        "bcc",
        ("ta_solid_T1800",),
        "ta_liquid_ramp3960_2000",
        ("ta_T1800_s1", "ta_T1800_s2", "ta_T1800_s3_120ps", "ta_T1800_s5", "ta_T1800_s8", "ta1024_T1800_s58"),
    ),
    "LJ": Material(
        "solid",
        ("lj864_solid_T0.65", "lj864_solid_hcp_T0.65"),
        "lj864_liquid_ramp1.5_0.85",
        (*(f"lj864_T0.65_s{seed}" for seed in (1, 2, 3, 9, 10, 11, 59)), "lj864_T0.72_s14"),
        ("lj864_melt_s21", 100.0),
        early=(10.0, 22.5),
        settled=25.0,
        baseline=50.0,
        goal=15.0,
    ),
    "Al": Material(
        "fcc",
        ("al864_solid_T460",),
        "al864_liquid_ramp1111_540",
        (
            *(f"al864_T460_s{seed}" for seed in (1, 2, 3, 4, 5)),
            *("al864_T500_s31", "al864_T500_s32", "al864_T540_s34", "al864_T560_s40"),
            "al864_T460_s54",
        ),
        ("al864_melt_s21", 54.0),
    ),
    "Ni": Material(
        "fcc",
        ("ni864_solid_T1000",),
        "ni864_liquid_ramp2088_1100",
        tuple(f"ni864_T1000_s{seed}" for seed in (1, 2, 3, 4, 56, 57)),
    ),
}
#: Runs that were looked at while the default was chosen.
DEVELOPMENT = {*(f"cu864_T700_s{seed}" for seed in (1, 2, 3, 4, 7)), "cu_T700_s1"}
DEVELOPMENT |= {f"lj864_T0.65_s{seed}" for seed in (1, 2, 3)}
DEVELOPMENT |= {"cu864_liquid_T900_s5", "cu864_liquid_T900_s8", "cu864_liquid_T900_s10", "cu_liquid_ramp1600_800"}
DEVELOPMENT |= {"ta_liquid_T2100_s4", "lj864_liquid_T0.80_s3", "lj864_liquid_ramp1.5_0.85_s2"}
FOLDERS: list[Path] = []


@dataclass(frozen=True)
class Known:
    """A reference with its levels, and the phases that it belongs to."""

    reference: Reference
    calibration: Calibration
    phases: Phases | None = None


@dataclass(frozen=True)
class Course:
    """What a monitor said of a run: its checks, and when each event opened."""

    checks: list[Check]
    opened: list[tuple[float, Event]]

    @property
    def first(self) -> float | None:
        """When the first event opened."""
        return self.opened[0][0] if self.opened else None

    def shown(self) -> str:
        """When the first event opened, and by what."""
        return f"{self.opened[0][0]:g} ({', '.join(self.opened[0][1].alarms)})" if self.opened else "none"

    def nearest(self) -> str:
        """The statistic in use that came nearest to its level, or went farthest beyond it, and how far."""
        pairs = [(value, name) for check in self.checks for name, value in check.excesses.items() if value == value]
        return "{:+.2f} ({})".format(*max(pairs)) if pairs else ""


@dataclass(frozen=True)
class Watched:
    """A run, what monitors said of it, and when it began and ceased to be what the reference knows."""

    name: str
    span: tuple[float, float]
    """First and last time that the monitors saw."""
    known_until: float
    """10 checks before other programs see the first trace of the new phase that stays; inf: never."""
    onset: float | None
    """When PTM sees 5 % of crystal for good; of a crystal: when freud's cluster holds less than half."""
    courses: dict[str, Course]

    @property
    def title(self) -> str:
        """The name in tables."""
        return self.name + (
            " (development)" if self.name in DEVELOPMENT else " (late)" if self.name in LATE_RUNS else ""
        )

    @property
    def kind(self) -> str:
        """What the run had been used for before it was judged."""
        return "development" if self.name in DEVELOPMENT else "late" if self.name in LATE_RUNS else "judged once"

    def behind(self, way: str) -> str:
        """How far the first event is behind the onset, and whether it is out of bounds."""
        first = self.courses[way].first
        if not self.counts(way):
            return "(freezes in the baseline)"
        if first is None or self.onset is None:
            return "missed"
        note = " **early**" if first < self.known_until else "" if self.is_in_time(way) else " **late**"
        return f"{first - self.onset:+g}{note}"

    def counts(self, way: str) -> bool:
        """Whether the run is liquid throughout the baseline, if there is one."""
        end = self.span[0] + MATERIALS[RUNS[self.name].material].baseline
        return way != BASELINE or self.onset is None or self.onset > end

    def is_in_time(self, way: str) -> bool:
        """Whether the run is seen no later than the goal says."""
        first = self.courses[way].first
        goal = BASELINE_GOAL if way == BASELINE else MATERIALS[RUNS[self.name].material].goal
        return first is not None and self.onset is not None and first - self.onset <= goal


def main() -> None:
    """Print the page."""
    parser = argparse.ArgumentParser(description="Print docs/nucleation.md.")
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--only", nargs="+", default=list(RUNS), choices=list(RUNS), metavar="NAME")
    given = parser.parse_args()
    FOLDERS.extend(given.folders)
    freezing = [watched_melt(name) for m in MATERIALS.values() for name in m.freezing if name in given.only]
    controls = [watched_melt(name, is_control=True) for name in control_names() if name in given.only]
    crystals = [watched_crystal(name) for name in crystal_names() if name in given.only]
    atoms = [row for m in MATERIALS.values() for row in agreement(m, [n for n in m.freezing if n in given.only])]
    parts = [INTRODUCTION, SUMMARY_TEXT, summary(freezing, controls), LENGTHS_TEXT, lengths(freezing, controls)]
    parts += [FREEZING_TEXT, freezing_table(freezing), CONTROLS_TEXT, controls_table(controls)]
    parts += [MELTING_TEXT, melting_table(crystals), ATOMS_TEXT, table(ATOMS_HEAD, atoms), PROTOCOL]
    print(*parts, sep="\n\n")


def control_names() -> list[str]:
    """Melts and ramps of which no reference is made and that are not among the freezing runs."""
    others = {name for m in MATERIALS.values() for name in (*m.freezing, m.ramp)}
    return [name for name, run in RUNS.items() if run.kind in ("melt", "ramp") and name not in others]


def crystal_names() -> list[str]:
    """Crystals, heated or hot, of materials with a reference of melting."""
    return [
        name
        for name, run in RUNS.items()
        if (heated := MATERIALS[run.material].heated)
        and run.kind in ("heat", "solid")
        and name != heated[0]
        and run.lattice != "hcp"
    ]


def watched_melt(name: str, *, is_control: bool = False) -> Watched:
    """Watch a melt by all ways; a control only as long as it is liquid for certain."""
    material = MATERIALS[RUNS[name].material]
    traces = lasting(*crystalline(name), TRACE), lasting(*nucleus(name), NUCLEUS)
    spacing = time_of(frames_of(name)[1]) - time_of(frames_of(name)[0])
    until = min((t for t in traces if t is not None), default=np.inf) - 10 * spacing
    frames = [a for a in frames_of(name) if SETTLED < time_of(a) <= (until if is_control else np.inf)]
    courses = watch(frames, liquid_for(name), material.baseline)
    if not is_control:
        courses[HOT] = course_of(frames, liquid_of(RUNS[name].material, None))
    return said(Watched(name, span_of(frames), until, lasting(*crystalline(name), CRYSTAL), courses))


def watched_crystal(name: str) -> Watched:
    """Watch a crystal by all ways; one that is heated without a baseline, since its temperature rises all the time."""
    frames = frames_of(name)[SKIPPED:]
    run, (ps, cluster) = RUNS[name], nucleus(name)
    molten = lasting(ps, -cluster / len(frames[0]), -HALF)
    baseline = None if run.kind == "heat" else MATERIALS[run.material].baseline
    courses = watch(frames, crystal_of(run.material), baseline)
    until = np.inf if molten is None else molten - 10 * (time_of(frames[1]) - time_of(frames[0]))
    return said(Watched(name, span_of(frames), until, molten, courses))


def watch(frames: list[Atoms], known: Known, baseline: float | None) -> dict[str, Course]:
    """What monitors of all kinds say of a run."""
    ways: dict[str, dict[str, Any]] = {DEFAULT: {}, OLD: {"statistics": OLD_STATISTICS}}
    ways |= {} if baseline is None else {BASELINE: {"baseline_ps": baseline}}
    ways |= {} if known.phases is None else {LABELLED: {"phases": known.phases}}
    return {way: course_of(frames, known, **ways[way]) for way in (DEFAULT, BASELINE, OLD, LABELLED) if way in ways}


def course_of(frames: list[Atoms], known: Known, **settings: Any) -> Course:
    """What one monitor says of a run; with labelled phases its events of a new phase alone."""
    opened: dict[int, tuple[float, Event]] = {}
    checks = []
    with Monitor(known.reference, known.calibration, log=None, on_error="raise", threads=1, **settings) as monitor:
        for atoms in frames:
            checks.append(monitor.check(atoms, time_ps=time_of(atoms)))
            for event in monitor.events:
                opened.setdefault(event.id, (time_of(atoms), event))
    return Course(checks, [x for x in opened.values() if "phases" not in settings or x[1].phase is not None])


def liquid_for(name: str) -> Known:
    """What is known of the liquid where this run is watched: nothing of the run itself."""
    freezing = MATERIALS[RUNS[name].material].freezing
    return liquid_of(RUNS[name].material, freezing[1] if name == freezing[0] else freezing[0])


@cache
def liquid_of(material: str, donor: str | None) -> Known:
    """The cooling ramp and early frames of another run, as cold as a run is; without a donor the ramp alone."""
    m = MATERIALS[material]
    ramp = [a for a in frames_of(m.ramp) if time_of(a) > m.settled]
    start = [] if donor is None else [a for a in frames_of(donor) if m.early[0] < time_of(a) <= m.early[1]]
    liquid = Reference.from_frames(ramp + start, threads=1)
    phases = None if donor is None else Phases({"liquid": liquid, m.product: solid_of(material)}, threads=1)
    return Known(liquid, calibrate(liquid, threads=1), phases)


@cache
def solid_of(material: str) -> Reference:
    """The crystals at the temperature of the run."""
    frames = [atoms for name in MATERIALS[material].solids for atoms in frames_of(name)[SKIPPED:]]
    return Reference.from_frames(frames, threads=1)


@cache
def crystal_of(material: str) -> Known:
    """A crystal that is heated, as long as it is one."""
    heated = MATERIALS[material].heated
    assert heated is not None, material
    fcc = Reference.from_frames([a for a in frames_of(heated[0])[SKIPPED:] if time_of(a) <= heated[1]], threads=1)
    phases = Phases({"fcc": fcc, "liquid": liquid_of(material, None).reference}, threads=1)
    return Known(fcc, calibrate(fcc, threads=1), phases)


def agreement(material: Material, names: list[str]) -> list[list[str]]:
    """Atoms of the new phase, by labelled phases, against atoms that others call crystalline; sums over runs."""
    counts: dict[str, Numbers] = {}
    for name in names:
        phases = liquid_for(name).phases
        assert phases is not None, name
        judges = {"PTM of frames": matched(name, "ptm"), "freud": solid_like(name)}
        if RUNS[name].dense:
            judges["PTM of averages"] = matched(name, "ptm_avg")
        for frame in frames_of(name):
            ours = phases.assign(frame, threads=1) == 1
            for judge, (ps, flags) in judges.items():
                theirs = flags[np.argmin(np.abs(ps - time_of(frame)))]
                if CRYSTAL <= theirs.mean() <= 1 - CRYSTAL and time_of(frame) > SETTLED:
                    count = [1, len(ours), theirs.sum(), ours.sum(), (ours & theirs).sum()]
                    counts[judge] = counts.get(judge, np.zeros(5)) + count
    rows = []
    for judge, (n, atoms, theirs, ours, both) in counts.items():
        shares = theirs / atoms, both / ours, both / theirs
        rows.append([RUNS[names[0]].material, judge, f"{n:.0f}", *(f"{share:.2f}" for share in shares)])
    return rows


def energy_onset(name: str) -> float | None:
    """When a fifth of the energy of freezing is gone for good."""
    material = MATERIALS[RUNS[name].material]
    solid = material.solids[0]
    alike = [run for run in material.freezing if RUNS[run].temperature == RUNS[solid].temperature]
    starts = [pe[(ps >= 10) & (ps <= 20)].mean() for ps, pe in map(energies, alike)]
    drop = np.mean(starts) - energies(solid)[1].mean()
    ps, pe = energies(name)
    mean = np.convolve(pe, np.ones(20) / 20, "valid")
    return lasting(ps[19:], (pe[(ps >= 10) & (ps <= 20)].mean() - mean) / drop, DROP)


def lasting(ps: Numbers, values: Numbers, level: float) -> float | None:
    """From when on values stay at the level or above."""
    below = np.flatnonzero(values < level)
    last = int(below[-1]) + 1 if len(below) else 0
    return float(ps[last]) if last < len(ps) else None


def summary(freezing: list[Watched], controls: list[Watched]) -> str:
    """How each way did, on runs of development and on runs judged once."""
    rows = []
    for kind in ("development", "judged once", "late"):
        runs, quiet = ([w for w in all_ if w.kind == kind] for all_ in (freezing, controls))
        if not runs + quiet:
            continue
        for way in (DEFAULT, BASELINE, OLD, LABELLED):
            counted = [w for w in runs if w.counts(way)]
            firsts = [(first, w) for w in counted if (first := w.courses[way].first) is not None]
            behind = [first - w.onset for first, w in firsts if w.onset is not None]
            early = sum(first < w.known_until for first, w in firsts)
            missed = len(counted) - len(firsts)
            in_time = f"{sum(w.is_in_time(way) for w in counted)} of {len(counted)}"
            spread = "{:+g} ... {:+g} ... {:+g}".format(*np.quantile(behind, [0, 0.5, 1])) if behind else ""
            events = f"{sum(len(w.courses[way].opened) for w in quiet)} in {len(quiet)}"
            rows.append([way, kind, in_time, spread, str(missed), str(early), events])
    return table(SUMMARY_HEAD, rows)


def lengths(freezing: list[Watched], controls: list[Watched]) -> str:
    """How long melts were watched."""
    sums = {}
    for material, m in MATERIALS.items():
        mine = [[w for w in all_ if RUNS[w.name].material == material] for all_ in (freezing, controls)]
        cold = {RUNS[name].temperature for name in m.freezing}
        mine.append([w for w in mine[1] if RUNS[w.name].temperature in cold])
        times = [sum(w.span[1] - w.span[0] for w in runs) for runs in mine]
        sums[material] = np.array([len(mine[0]), times[0], len(mine[1]), times[1], times[2]])
    sums["all"] = np.sum(list(sums.values()), axis=0)
    return table(LENGTHS_HEAD, [[name, *(f"{x:g}" for x in row)] for name, row in sums.items()])


def freezing_table(runs: list[Watched]) -> str:
    """A row per run that freezes."""
    rows = []
    for w in runs:
        others = energy_onset(w.name), w.onset, lasting(*nucleus(w.name), NUCLEUS)
        first = w.courses[DEFAULT].first
        then = "" if first is None else f"{np.interp(first, *nucleus(w.name)):.0f}"
        ways = [cell for way in (DEFAULT, BASELINE, LABELLED) for cell in (w.courses[way].shown(), w.behind(way))]
        rest = [w.courses[way].shown() for way in (OLD, HOT)]
        rows.append([w.title, *map(number, others), *ways[:2], then, *ways[2:], *rest])
    return table(FREEZING_HEAD, rows)


def controls_table(runs: list[Watched]) -> str:
    """A row per melt that stays liquid."""
    rows = []
    for w in runs:
        start, end = w.span
        share, cluster = (max(v for t, v in zip(*f(w.name), strict=True) if t <= end) for f in (crystalline, nucleus))
        ways = [w.courses[way] for way in (DEFAULT, BASELINE, OLD, LABELLED)]
        events = [" ".join([str(len(c.opened)), *([f"at {c.shown()}"] if c.opened else [])]) for c in ways]
        n_out = sum(check.state == "out" for check in ways[0].checks)
        largest = [f"{share:.1%}", f"{cluster:.0f}", str(n_out), *(c.nearest() for c in ways[:2])]
        rows.append([w.title, f"{start:g} to {end:g}", *events, *largest])
    return table(CONTROLS_HEAD, rows)


def melting_table(runs: list[Watched]) -> str:
    """A row per crystal."""
    rows = []
    for w in runs:
        ways = [w.courses[way].shown() if way in w.courses else "" for way in (DEFAULT, BASELINE, OLD, LABELLED)]
        verdict = "" if w.onset is None else w.behind(DEFAULT)
        rows.append([w.title, number(w.onset), ways[0], verdict, *ways[1:], w.courses[DEFAULT].nearest()])
    return table(MELTING_HEAD, rows)


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["--"] * len(head), *rows))


def number(ps: float | None) -> str:
    """A time, or that there is none."""
    return "none" if ps is None else f"{ps:g}"


def said(watched: Watched) -> Watched:
    """The same, with a word on stderr."""
    print(watched.name, {way: c.shown() for way, c in watched.courses.items()}, file=sys.stderr, flush=True)
    return watched


@lru_cache(maxsize=16)
def frames_of(name: str) -> list[Atoms]:
    """All frames of a run, lengths in Å."""
    frames: list[Atoms] = read(path_of(f"{name}.extxyz"), ":")
    if RUNS[name].material == "LJ":
        for atoms in frames:
            atoms.set_cell(atoms.cell * SIGMA, scale_atoms=True)
    return frames


def time_of(atoms: Atoms) -> float:
    """Time in ps, LJ: tau."""
    return float(atoms.info["ps"])


def span_of(frames: list[Atoms]) -> tuple[float, float]:
    """First and last time."""
    return time_of(frames[0]), time_of(frames[-1])


def matched(name: str, kind: str) -> tuple[Numbers, NDArray[np.bool_]]:
    """Times, and (n_frames, n_atoms) which atoms PTM calls crystalline."""
    found = np.load(path_of(f"{name}.{kind}.npz"))
    return found["ps"], found["types"] > 0


def solid_like(name: str) -> tuple[Numbers, NDArray[np.bool_]]:
    """Times, and which atoms have solid-like bonds enough."""
    found = np.load(path_of(f"{name}.freud.npz"))
    return found["ps"], found["num_connections"] >= SOLID_BONDS


def crystalline(name: str) -> tuple[Numbers, Numbers]:
    """Times, and the share of crystalline atoms by PTM."""
    ps, flags = matched(name, "ptm")
    return ps, flags.mean(axis=1)


def nucleus(name: str) -> tuple[Numbers, Numbers]:
    """Times, and atoms in freud's largest cluster."""
    found = np.load(path_of(f"{name}.freud.npz"))
    return found["ps"], found["in_largest_7"].sum(axis=1).astype(np.float64)


def energies(name: str) -> tuple[Numbers, Numbers]:
    """Times and potential energies per atom."""
    found = np.genfromtxt(path_of(f"{name}.csv"), delimiter=",", names=True)
    return found["ps"], found["pe_per_atom"]


def path_of(name: str) -> Path:
    """A file in one of the folders."""
    for folder in FOLDERS:
        if (folder / name).exists():
            return folder / name
    sys.exit(f"{name}: not in {', '.join(map(str, FOLDERS))}; make it with benchmarks/freezing_runs.py")


INTRODUCTION = """# Freezing and melting

![2048 copper atoms freeze: largest cluster, template matching, mean dH and entropy of the frame](freezing.png)

(The picture: `python examples/freezing_figure.py`, run cu_T700_s1, labelled phases.)

Melts of five materials that freeze by themselves, melts that do not freeze ("controls"), crystals that melt and
crystals that do not. `python benchmarks/nucleation.py FOLDER > docs/nucleation.md` prints the page. Each run is watched
in four ways, each by a monitor of its own that knows nothing of the others:

- **default**: `Monitor(liquid)`;
- **baseline**: `Monitor(liquid, baseline_ps=20)`, Lennard-Jones 50 tau: the run's own beginning judges, too;
- **old default**: `Monitor(liquid, statistics=("dh_max", "tail_cluster", "dh_mean"))`, statistics of plain rows;
- **labelled**: `Monitor(liquid, phases={"liquid": liquid, "fcc": crystal})`, of which events of the new phase count.

Times are in ps, those of Lennard-Jones runs in tau. The time of an event is the time at which it opened, after three
checks in a row; in brackets what was then out. PTM (polyhedral template matching, of OVITO) and freud (bond order) are
other programs' judges of which atoms are crystalline.

The reference `liquid` is a cooling ramp of the liquid and ten early ps of **another** freezing run, which are as cold
as the run that is watched. With the ramp alone (last column of the table of freezing runs) an undercooled melt may
itself be what the reference does not know."""
SUMMARY_TEXT = """## Summary

The goals: an event of the default at most 10 ps (15 tau) after PTM sees 5 % of crystal, with a baseline at most 3
after, labelled and old default as the default; no event in any control. "Behind PTM": smallest, median and largest over
the runs that are seen. "Early": events that open 10 checks or more before the first trace of crystal that stays (1 %
by PTM, or 50 atoms in freud's largest cluster). With a baseline, runs that freeze before it is over do not count. Runs
of development were looked at while the default was chosen; the others were judged once. With a baseline, only the
"late" runs were: the others had 18 false events in 49 controls, all or nearly all by slow drift, whereupon the test of
drift was changed (docs/design.md, "Baseline"), and the late runs were made. One more exception: the reference of
melting aluminium was extended from 50 to 54 ps after al864_solid_T1100 had been seen to open too early, so that its
row was not judged once.

In the freezing run that the default sees late, lj864_T0.65_s10, PTM calls 5 to 7 % of the atoms crystalline for 10 tau
and more before the crystal grows; its event opens 2.5 tau after PTM's 10 %, 5 tau of which are patience (a frame per
2.5 tau). How soon the default sees freezing also depends on the early frames in the reference:
with those of another run than here, and one frame more or less, the event of cu864_T700_s51 opened between 3 and 16 ps
after PTM's 5 %."""
SUMMARY_HEAD = ["way", "runs", "in time", "behind PTM", "missed", "early", "events in controls"]
LENGTHS_TEXT = """## How long melts were watched

Sums over runs of the time from the first to the last frame that the monitors saw. "At the runs' own temperature":
controls of the temperature at which the melts freeze, or ramps that end there."""
LENGTHS_HEAD = ["material", "freezing runs", "their time", "controls", "their time", "at the runs' own temperature"]
FREEZING_TEXT = """## Freezing runs

"Freud's cluster": its size when the event of the default opened."""
FREEZING_HEAD = ["run", "energy", "PTM 5 %", "freud 50", "default", "behind PTM", "freud's cluster"]
FREEZING_HEAD += ["baseline", "behind PTM", "labelled", "behind PTM", "old default", "default, ramp alone"]
CONTROLS_TEXT = """## Controls

Melts that stay liquid, or that freeze later: these are watched until 10 checks before the first trace of crystal that
stays. "Largest excess": how far beyond its level (nats, sizes: log of the ratio) the worst statistic in use was in the
worst check, below 0 where no check was out. Three checks out in a row make an event."""
CONTROLS_HEAD = ["run", "watched", "events: default", "baseline", "old default", "labelled"]
CONTROLS_HEAD += ["largest PTM share", "freud's largest cluster", "checks out", "largest excess, default", "baseline"]
MELTING_TEXT = """## Melting

Crystals that are heated until they melt ("melt"), and crystals at a constant temperature ("solid"), most of them
above melting. The reference is a crystal that was heated in another run, until shortly before it melts (copper up to
1590 K, Lennard-Jones 1.27, aluminium 1100 K). "Molten": from when on freud's largest cluster holds less than half of
the atoms. Heated crystals have no baseline: their temperature rises all the time."""
MELTING_HEAD = ["run", "molten", "default", "behind freud", "baseline", "old default", "labelled", "largest excess"]
ATOMS_TEXT = """## Atoms

Atoms that labelled phases assign to the new phase, against atoms that another judge calls crystalline, in frames of
freezing runs of which this judge calls 5 to 95 % crystalline. Averages: PTM of positions averaged over 0.18 ps. freud
counts disordered and interfacial atoms as solid, PTM of single frames misses atoms of a warm crystal."""
ATOMS_HEAD = ["material", "against", "frames", "crystalline", "precision", "recall"]
PROTOCOL = """## The runs

`python benchmarks/freezing_runs.py make FOLDER` makes the runs with LAMMPS (2025.7.22, one thread), and
`... classify FOLDER` lets OVITO (3.17) and freud (3.4) judge them. The table RUNS in this script lists the system,
temperature, length and seed of each run. On another machine trajectories diverge, and onsets scatter two- to threefold
between seeds. In short:

- Copper (EAM Cu_u3), tantalum (CuTa), aluminium (Al_mm) and nickel (Ni_u3): fcc 6 x 6 x 6 or 8 x 8 x 8 cells, bcc
  10 x 10 x 10 or 8 x 8 x 8 cells, NPT at zero pressure (Nosé-Hoover, 0.1 ps and 1 ps): a crystal gets velocities of
  1.8 Tm (1330, 3300, 926, 1740 K), 6 ps at that temperature, 4 ps of cooling to 1.2 Tm, time step 2 fs; then at once
  the temperature of the run, time step 4 fs, a frame a ps. Ramps are cooled linearly from 1.2 Tm in 80 ps. Crystals:
  velocities of 2 T, 10 ps at T, then frames. Heating: 10 ps at 700 K (copper) or 500 K (aluminium), then to 1900 K or
  1400 K in 80 ps with 2 fs.
- Lennard-Jones, cut at 2.5 sigma, pressure 5.68, time step 0.005 (0.5 and 2 tau): 10 tau from temperature 3 to 1.5, 5
  tau at 1.5, then the run or a ramp from 1.5; a frame per 2.5 tau; heating from 0.65 to 1.9 in 200 tau. Lengths are
  multiplied by 3.4 Å. Crystals at 0.65: fcc and hcp, which together are the reference of "solid".
- Runs are watched from 8 ps (tau) on, when the quench is over. Frames of ramps belong to a reference from 10 ps (25
  tau) on, of early melts from 10 to 20 ps (22.5 tau).
- The temperatures of aluminium and nickel were found by trial: the melt should freeze within 20 to 120 ps. Some melts
  that were meant as controls froze: these are freezing runs, or, where they were liquid for some 50 ps or more,
  controls up to then. No monitor was asked for any of this.

The other judges each give a time, from which on their condition holds for good:

- "energy": a fifth of the energy of freezing (liquid at 10 to 20 ps less the crystal) is gone, mean of 20 samples;
- "PTM 5 %": polyhedral template matching (RMSD 0.10) calls 5 % of the atoms fcc, hcp or bcc;
- "freud 50": the largest cluster of freud's SolidLiquid (l = 6, q > 0.7, 7 bonds, neighbours up to the first minimum of
  the pair distribution of the liquid) holds 50 atoms."""

if __name__ == "__main__":
    main()
