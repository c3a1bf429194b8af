"""What each statistic catches: frames outside a crystal's or a liquid's reference. Prints docs/power.md.

python benchmarks/power.py --cache FOLDER [CONDITION ...] > docs/power.md
"""

import argparse
import math
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io import read, write
from defects import CONTROL, N_FRAMES, scenarios
from md import CONDITIONS, Condition, condition_frames

from quests_md import Calibration, Reference, calibrate
from quests_md.calibration import DEFAULT_STATISTICS, STATISTICS, Level
from quests_md.judge import Judge
from quests_md.records import Check

#: Asked rate of false alarms per check.
RATE = 1e-2
#: Atoms, frames and seed of the references; seed of the scenarios.
REFERENCE_ATOMS, REFERENCE_FRAMES, REFERENCE_SEED = 108, 400, 1
SEED = 1
#: Every crystal, and one liquid.
REFERENCES = [name for name, c in CONDITIONS.items() if c.phase == "solid"] + ["Cu-liquid-1500K"]
#: Statistics of averaged rows and of plain rows, each alone, and the default before there were averaged rows.
LOCAL = ("local_mean", "local_cluster", "local_max", "local_tail")
PLAIN = ("dh_max", "tail_cluster", "dh_mean", "dh_q99", "n_tail", "frame_entropy")
BEFORE = ("dh_max", "tail_cluster", "dh_mean")
#: What is judged: by name, the statistics in use.
JUDGED = {"default": DEFAULT_STATISTICS, "before": BEFORE} | {name: (name,) for name in (*LOCAL, *PLAIN)}
#: Numbers of which medians are printed.
MEDIANS = ("local_mean", "local_max", "dh_mean", "dh_max")
#: Points of per cent that are called a difference.
DIFFERENCE = 10

INTRO = f"""# What the monitor catches

Share of frames flagged, in %, among {N_FRAMES} frames of each scenario (`python benchmarks/power.py --cache FOLDER`).
The reference is {REFERENCE_FRAMES} frames of {REFERENCE_ATOMS} atoms of one equilibrium run at fixed volume, 0.5 ps
apart (`benchmarks/md.py`). The scenarios are runs of their own (`benchmarks/defects.py`), their frames 0.5 ps apart,
those of the wrong time step 0.1 ps. Cu is an EAM potential, LJ Lennard-Jones with copper's neighbour distance. Nothing
of the default was chosen on these frames.

- "default" is {", ".join(DEFAULT_STATISTICS)}, which share a rate of {RATE:g} false alarms per check. "before" is
  {", ".join(BEFORE)} of plain rows, the default before there were local scores, which share it too. Every statistic
  stands alone in its column, with the whole rate.
- In brackets: the calibration has too few frames of that size to promise the rate.
- The last columns are medians over frames, in deviations or nats.
- {N_FRAMES} frames do not measure a rate of {RATE:.0%}: "{CONTROL}" is there to show that nothing is grossly wrong.

What to take from it:

- Caught in every frame by both: melting, a surface, +3 % and -3 % of strain, another element (by its label, and by
  its geometry alone), a run that blows up (a time step of 50 fs, ten times the longest that copper bears), and at
  300 K strain of 1 %, a vacancy and an interstitial.
- **Better**: strain of 1 % in crystals at 900 K is seen in every frame (before: 0 to 22 %), a vacancy at 900 K in
  98 and 100 % (75 and 92 %), a liquid that has frozen just below its melting point in every frame (68 %; then
  `frame_entropy` alone saw all).
- **Worse**: an interstitial in copper at 900 K, 72 % (before: 100 %, and the largest dH alone 100 %). The dumbbell
  disturbs few atoms, and averaging dilutes few. Heat is seen less often in copper: 20 % hotter crystals 8 and 15 %
  (22 and 35 %), a liquid 400 K hotter 60 % (88 %), since averaging takes away much of what heat changes. A liquid
  under -1 % of strain: 8 % (25 %).
- Part of what is worse comes from the level. Local scores of all {REFERENCE_FRAMES} frames are held out, as many as
  keep the joint rate without an estimate, and the three statistics then share it evenly: a third each. Of plain
  rows 277 frames are held out, and the joint rate is an estimate, which gives each nearly half. `local_mean` alone
  sees the hotter liquid in 82 % of frames.
- In frames of {REFERENCE_ATOMS} atoms `local_mean` alone would do nearly as well as the three: all these frames are
  small, and what is strange is a large part of them. `local_cluster` and `local_max` are for one bad region among
  thousands of atoms. `local_tail` follows `local_cluster`.
- A time step of 25 fs does not blow up copper at 300 and 900 K: a thermostat holds it, and its structures are like
  those of a run with the right time step. So it is right that only 2 to 5 % of these frames are out. The softer
  Lennard-Jones crystals and the liquid do break at 25 fs: 70 to 100 % of their frames are out.
- A stacking fault stays nearly invisible (10 % of frames in the Lennard-Jones crystal at 300 K): the rows of ideal
  fcc and hcp differ by 1.2 bandwidths, averaging does not part them enough, and thermal motion changes rows by
  more.
- Of a frame with an element that is not in the reference the default says "out" whatever its levels; the unknown
  atoms have no local score, so that `local_mean` and `local_max` alone show 0 there."""


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="Print what each statistic catches.")
    parser.add_argument("conditions", nargs="*", default=REFERENCES, help=f"of {', '.join(CONDITIONS)}")
    parser.add_argument("--cache", type=Path, required=True, help="folder of the frames")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    unknown = set(arguments.conditions) - set(CONDITIONS)
    if unknown:
        sys.exit(f"no condition {', '.join(sorted(unknown))}; there are {', '.join(CONDITIONS)}")
    found: dict[str, dict[str, tuple[str, str]]] = {}
    sections = []
    for name in arguments.conditions:
        start = time.perf_counter()
        sections.append(section(CONDITIONS[name], arguments.cache, arguments.threads, found))
        print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    print(INTRO)
    print(f"\n{summary(found, arguments.conditions)}\n" + "\n".join(sections))


def section(condition: Condition, cache: Path, threads: int, found: dict[str, dict[str, tuple[str, str]]]) -> str:
    """The section of one reference; the shares by the default and by the one before are put into `found`."""
    frames = condition_frames(condition, REFERENCE_ATOMS, REFERENCE_FRAMES, REFERENCE_SEED, cache)
    reference = Reference.from_frames(frames, threads=threads)
    calibration = calibrate(reference, false_alarms=RATE, threads=threads)
    of_local, of_plain = [], []
    for scenario, members in cached_scenarios(condition, cache).items():
        numbers = members[0].numbers
        is_known = bool(reference.is_known(numbers).all())  # else it is out without any level
        seen = checks(reference, calibration.with_statistics(tuple(STATISTICS)), members, threads)
        medians = {name: middle(check.statistic(name) for check in seen) for name in MEDIANS}
        cells = {}
        for name, statistics in JUDGED.items():
            levels = calibration.with_statistics(statistics).alarm_levels(numbers)
            cells[name] = share(is_out(check, levels, is_alone=name in STATISTICS) for check in seen)
            if name in STATISTICS and is_known and not is_promised(levels):
                cells[name] = f"({cells[name]})"
        found.setdefault(scenario, {})[condition.name] = cells["default"], cells["before"]
        start = [scenario, str(len(members[0]))]
        of_local.append([*start, cells["default"], *(cells[n] for n in LOCAL), *(medians[n] for n in MEDIANS[:2])])
        of_plain.append([*start, cells["before"], *(cells[n] for n in PLAIN), *(medians[n] for n in MEDIANS[2:])])
    before = calibration.with_statistics(BEFORE)
    heads = ["scenario", "atoms"]
    return "\n\n".join(
        [
            f"\n## Reference: {condition.name}\n\n```\n{calibration.describe()}\n```",
            table([*heads, "default", *LOCAL, *(f"{name} (deviations)" for name in MEDIANS[:2])], of_local),
            f"Plain rows:\n\n```\n{before.describe()}\n```",
            table([*heads, "before", *PLAIN, *(f"{name} (nats)" for name in MEDIANS[2:])], of_plain),
        ]
    )


def summary(found: dict[str, dict[str, tuple[str, str]]], conditions: list[str]) -> str:
    """The default beside the one before, over all references, and where the two differ."""
    lines, better, worse = [], [], []
    for scenario, of in found.items():
        cells = [" / ".join(of[name]) if name in of else "" for name in conditions]
        lines.append([scenario, *cells])
        for name, (new, old) in of.items():
            gain = int(new) - int(old)
            words = f"{scenario} ({name}, {old} to {new})"
            (better if gain > DIFFERENCE else worse if gain < -DIFFERENCE else []).append(words)
    return (
        "The default / the default before, all references:\n\n"
        + table(["scenario", *conditions], lines)
        + f"\n\nMore than {DIFFERENCE} points better: {'; '.join(better) or 'none'}.\n"
        f"\nMore than {DIFFERENCE} points worse: {'; '.join(worse) or 'none'}."
    )


def table(heads: list[str], lines: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(line) + " |" for line in [heads, ["--", *["--:"] * (len(heads) - 1)], *lines])


def checks(reference: Reference, calibration: Calibration, frames: list[Atoms], threads: int) -> list[Check]:
    """Each frame checked by itself."""
    judge = Judge(reference, calibration, values="full", threads=threads)
    return [judge.judge(atoms, step=i, frame=i).check for i, atoms in enumerate(frames)]


def is_out(check: Check, levels: Sequence[Level], *, is_alone: bool) -> bool:
    """Whether a frame is beyond one of these levels; `is_alone`: unknown elements do not count."""
    for level in levels:
        value = check.statistic(level.statistic)
        if value is not None:
            bound = STATISTICS[level.statistic].in_frame(level.value, check.n_atoms)
            if value > bound if level.side == "above" else value < bound:
                return True
    return check.state == "invalid" or (not is_alone and (check.n_unknown > 0 or bool(check.explosion)))


def is_promised(levels: Sequence[Level]) -> bool:
    """Whether the levels keep their rate."""
    return bool(levels) and all(level.kind != "none" for level in levels)


def cached_scenarios(condition: Condition, cache: Path) -> dict[str, list[Atoms]]:
    """Frames of each scenario of a condition, loaded if the folder has them. Empty it after a change of defects.py."""
    file = cache / f"{condition.name}-scenarios-seed{SEED}-{N_FRAMES}.traj"
    if not file.exists():
        made = scenarios(condition.potential, condition.temperature_K, SEED, phase=condition.phase)
        labelled = []
        for name, frames in made:
            for atoms in frames:
                atoms = atoms.copy()
                atoms.info["scenario"] = name
                labelled.append(atoms)
        part = file.with_suffix(".part.traj")
        write(part, labelled)
        part.rename(file)
    found: dict[str, list[Atoms]] = {}
    for atoms in read(file, ":"):
        found.setdefault(atoms.info["scenario"], []).append(atoms)
    return found


def share(flags: Iterable[bool]) -> str:
    """Share of the flags that are up, in %."""
    return f"{100 * float(np.mean(list(flags))):.0f}"


def middle(values: Iterable[float | None]) -> str:
    """Median of the numbers there are."""
    numbers = [math.inf if value is None else value for value in values]
    return f"{np.median(numbers):.2f}"


if __name__ == "__main__":
    main()
