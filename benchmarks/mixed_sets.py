"""Training sets of many kinds: which strange frames are out, and how many frames that are not strange.

python benchmarks/mixed_sets.py FOLDER > docs/mixed-sets.md       (FOLDER: the frames of strange_frames.py make)

References are the training sets of ../shared/data (`--data FOLDER`). Ten minutes on two idle cores; `--parts` and
`--elements` take less.
"""

import argparse
import math
import sys
import warnings
from collections import namedtuple
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io import read
from scipy.stats import beta
from strange_frames import CRYSTALS, KINDS, TEST_SET, file_of

from quests_md import Calibration, Descriptor, Reference, calibrate
from quests_md.calibration import DEFAULT_STATISTICS
from quests_md.calibration.landmarks import learn_landmarks
from quests_md.judge import Judge

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
PARTS = ("strange", "folds", "others")
RATES = (0.01, 0.1)
DEFAULTS = {"new": DEFAULT_STATISTICS, "old": ("dh_max", "tail_cluster", "dh_mean")}
CHOICES = [(rate, default) for rate in RATES for default in DEFAULTS]
RATE_HEADS = tuple(f"{rate:g}, {default}" for rate, default in CHOICES)
FOLDS, REPETITIONS, SEED = 5, 3, 0
#: Shares of frames out by kind, element and what judges.
Shares = dict[str, dict[str, dict[str, float]]]
#: Share of its frames out at which a kind counts as seen.
SEEN = 0.9
#: Kinds that the sets hold, first in tables; "vacancy" is one for some elements.
FIRST = (TEST_SET, *(name for name, kind in KINDS.items() if not kind.is_strange), "vacancy")

OPENING = f"""\
# Mixed training sets

Made by `python benchmarks/mixed_sets.py FOLDER > docs/mixed-sets.md`.

New default: {", ".join(DEFAULT_STATISTICS)}. Old default: {", ".join(DEFAULTS["old"])}. Levels are those of
`calibrate(reference)`, 0.01 false alarms a check, where no other rate is said. A frame is out if a check of it alone
says so. Cu and Ni were looked at while the method was chosen, with frames of 13 kinds of dynamics and rattled
structures; Mo, Li, acetylacetone and NbMoTaW were not.

What to take from it:

- Of some thirty strange kinds the new default sees four in five with Cu, nine in ten with Ni and Mo, half with Li;
  the old default a fifth. A stacking fault and a twin in fcc pass unseen, and Li is soft: at 300 K its own motion
  hides point defects and strains of a few per cent, part of which its set holds. Two kinds are seen in fewer frames
  than before (a liquid hotter than the hottest of the set).
- Averaged over all kinds the asked rate is kept. One kind breaks it: slabs (config_type Surface), ten thin ones of
  different faces in each set, each half a kind of its own (what was tried: design.md, local scores). A crystal
  between the two temperatures of the set of Mo (300 and 3000 K) is out.
- Of a free molecule rows are not averaged: twelve neighbours are most of it (molecules.md). With
  acetylacetone as reference single environments see a little less than the statistics of plain rows.
- NbMoTaW: the quaternary is out in all frames, with rows that see chemistry and without. With rows that see chemistry
  binaries are out in 15 to 33 % of frames where 10 % are asked, in up to 5 % where 1 % is asked. The bandwidth is small
  for this set, as pre-flight says; design.md has what h = 0.04 gains.
"""
STRANGE = """\
## Strange frames

References: the DFT training sets mlearn. Frames: 20 a kind by SNAP (benchmarks/strange_frames.py), 0.1 ps apart and so
much alike: shares of 0 and 1 are frequent. Share of frames out, new default / old default, in brackets where the
training set holds such frames. Vacancies of Cu and Ni are hot in their sets, whatever labels say: all 36 frames have
the energies and forces of dynamics near 0.6 of the melting point.
"""
RATE_WORDS = """\
## Held-out frames: is the rate kept, kind by kind?

Each training set is split by groups at random into five folds. Each fold is judged with the four others as reference,
three times over. Cells: share out (mean of the three), its 95 % upper limit (Clopper and Pearson, a trial a group), and
"kept" if the limit is at most twice the asked rate; "above" if the 95 % lower limit is above the asked rate; "too few"
if so few groups could not be "kept" with no alarm at all; else "open".

A group is of a kind of its own if a calibration (`learn_landmarks`) calls it unlike all others. Levels know nothing of
such groups, which are novel by right. Groups of a kind of their own in the whole set are not in the table.
"""
#: A held-out frame. `is_own`: of a kind of its own in the whole set; `is_own_here`: out, and so beside the four folds.
Judged = namedtuple("Judged", "element kind group is_own is_own_here out")


def main() -> None:
    """Print the page, or parts of it."""
    parser = argparse.ArgumentParser(description="What is out with training sets of many kinds as reference.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--elements", nargs="+", choices=CRYSTALS, default=list(CRYSTALS), metavar="ELEMENT")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, metavar="PART")
    given = parser.parse_args()
    warnings.simplefilter("ignore")  # what references say of training sets like these
    print(OPENING)
    for part in given.parts:
        {"strange": strange, "folds": folds, "others": others}[part](given)


def is_out(reference: Reference, calibration: Calibration, frames: Iterable[Atoms]) -> list[bool]:
    """Whether each frame is out."""
    judge = Judge(reference, calibration)
    return [judge.judge(atoms, step=i, frame=i).check.state == "out" for i, atoms in enumerate(frames)]


def out_by_rate(reference: Reference, calibration: Calibration, frames: Sequence[Atoms]) -> list[list[bool]]:
    """Whether each frame is out, for each of CHOICES."""
    own = (replace(calibration, false_alarms=rate, statistics=DEFAULTS[default]) for rate, default in CHOICES)
    return [is_out(reference, of, frames) for of in own]


def strange(given: argparse.Namespace) -> None:
    """Tables of the share of frames out."""
    shares: Shares = {}
    controls = []
    for element in given.elements:
        reference = Reference.from_frames(given.data / "mlearn" / f"{element}_train.xyz")
        calibration = calibrate(reference)
        for name in dict.fromkeys((*FIRST, *KINDS)):
            if not (path := file_of(given.folder / element, name)).exists():
                continue
            frames = read(path, ":")
            shares.setdefault(name, {})[element] = {
                by: float(np.mean(is_out(reference, calibration.with_statistics(names), frames)))
                for by, names in (DEFAULTS | {s: (s,) for s in DEFAULT_STATISTICS}).items()
            }
            if is_control(name, element):
                out = out_by_rate(reference, calibration, frames)
                controls.append([name, element, str(len(frames)), *(f"{np.mean(x):.2f}" for x in out)])
    print(STRANGE)
    rows = cells(shares, given.elements)
    rows = [[*row, KINDS[row[0]].covered if row[0] in KINDS else "the same split"] for row in rows]
    table(("kind", *given.elements, "what the sets hold of it"), rows)
    for element in given.elements:
        found = {k: of[element] for k, of in shares.items() if element in of and not is_control(k, element)}
        seen = (f"{sum(by[of] >= SEEN for by in found.values())} by the {of} default" for of in DEFAULTS)
        unseen = (f"{kind} ({by['new']:.2f})" for kind, by in found.items() if by["new"] < SEEN)
        print(f"- {element}: of {len(found)} strange kinds, seen in at least {SEEN:.0%} of frames: {', '.join(seen)}.")
        print(f"  Unseen by the new default: {', '.join(unseen) or 'none'}.")
    print("\nEach of the new statistics alone, at the whole rate: local_mean / local_cluster / local_max\n")
    table(("kind", *given.elements), cells(shares, given.elements, DEFAULT_STATISTICS))
    print("Controls at two rates, share out:\n")
    table(("kind", "element", "frames", *RATE_HEADS), controls)


def is_control(name: str, element: str) -> bool:
    """Whether the training set of the element holds such frames. Vacancies of Cu and Ni are hotter and denser there."""
    return name in FIRST and not (name == "vacancy" and element in ("Cu", "Ni"))


def cells(shares: Shares, elements: Iterable[str], by: Iterable[str] = DEFAULTS) -> list[list[str]]:
    """Rows of a table: shares out of each kind, bracketed where the set of an element holds such frames."""
    rows = []
    for kind, of in shares.items():
        row = {e: " / ".join(f"{of[e][b]:.2f}" for b in by) if e in of else "" for e in elements}
        rows.append([kind, *(f"({text})" if is_control(kind, e) and text else text for e, text in row.items())])
    return rows


def folds(given: argparse.Namespace) -> None:
    """Table of the realised rate of false alarms on held-out frames, by kind."""
    files = [given.data / "mlearn" / f"{element}_train.xyz" for element in given.elements]
    with ProcessPoolExecutor(len(files), get_context("spawn")) as pool:
        everything = [frame for found in pool.map(held_out, given.elements, files) for frame in found]
    found, rows = [frame for frame in everything if not frame.is_own], []
    for kind in (None, *dict.fromkeys(frame.kind for frame in found)):
        for element in (None, *given.elements):
            chosen = [f for f in found if element in (None, f.element) and kind in (None, f.kind)]
            if chosen and (element or len({f.element for f in chosen}) > 1):
                rows.append([kind or "all", element or "all", *verdicts(chosen)])
    print(RATE_WORDS)
    table(("kind", "element", "groups", *RATE_HEADS), rows)
    for element in given.elements:
        own, rest = ([f for f in everything if f.element == element and f.is_own == x] for x in (True, False))
        kinds = ", ".join(kind for _, kind in sorted({(f.group, f.kind) for f in own}))
        alarms = {rate: [f.is_own_here for f in rest if f.out[rate, "new"]] for rate in RATES}
        here = ", ".join(f"{sum(of)} of {len(of)} at {rate:g}" for rate, of in alarms.items())
        print(f"- {element}, of a kind of its own in the whole set: {kinds or 'none'}.")
        print(f"  Alarms of the new default in the table that are of a kind of its own beside the four folds: {here}.")
    print()


def held_out(element: str, file: Path) -> list[Judged]:
    """Each frame judged in each repetition by the folds that do not hold it."""
    frames = read(file, ":")
    whole = Reference.from_frames(frames)
    groups, alone = whole.arrays.frame_group, groups_alone(whole)
    rng, names, found = np.random.default_rng(SEED), np.unique(groups), []
    for repetition in range(REPETITIONS):
        fold_of = dict(zip(rng.permutation(names).tolist(), np.arange(len(names)) % FOLDS, strict=True))
        fold = np.array([fold_of[group] for group in groups.tolist()])
        for k in range(FOLDS):
            kept, judged = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
            reference = Reference.from_frames([frames[i] for i in kept], groups=groups[kept].tolist())
            out = out_by_rate(reference, calibrate(reference), [frames[i] for i in judged])
            for place, i in enumerate(judged.tolist()):
                here = {choice: of[place] for choice, of in zip(CHOICES, out, strict=True)}
                group, is_own_here = int(groups[i]), False
                if any(here[rate, "new"] for rate in RATES):
                    more = reference.extend([frames[j] for j in judged if groups[j] == group], groups="file")
                    is_own_here = int(more.arrays.frame_group[-1]) in groups_alone(more)
                kelvin = frames[i].info.get("T_K", math.nan)
                kind = frames[i].info["config_type"] + ("" if math.isnan(kelvin) else f" {kelvin:.0f} K")
                found.append(Judged(element, kind, group, group in alone, is_own_here, here))
        print(f"{element}: repetition {repetition + 1}", file=sys.stderr, flush=True)
    return found


def groups_alone(reference: Reference) -> set[int]:
    """Groups of a kind of their own: those whose held-out rows get no local score in a calibration."""
    scores = learn_landmarks(reference, None, np.arange(reference.n_environments)).scores
    frames = np.unique(reference.arrays.atom_frame[np.isnan(scores)])
    return set(reference.arrays.frame_group[frames].tolist())


def verdicts(frames: Sequence[Judged]) -> list[str]:
    """Groups, and for each rate and default the share out, its limit, and a word about it."""
    n, found = len({(frame.element, frame.group) for frame in frames}), []
    for rate, default in frames[0].out:
        k = n * float(np.mean([frame.out[rate, default] for frame in frames]))
        limit, least = (float(beta.ppf(0.95, x + 1, n - x)) if x < n else 1.0 for x in (k, 0))
        is_above = k > 0 and float(beta.ppf(0.05, k, n - k + 1)) > rate
        word = "kept" if limit <= 2 * rate else "above" if is_above else "too few" if least > 2 * rate else "open"
        found.append(f"{k / n:.3f}, {limit:.3f}: {word}")
    return [str(n), *found]


def others(given: argparse.Namespace) -> None:
    """Tables of a molecule and of an alloy."""
    print("## A molecule and an alloy\n\nShare out. Acetylacetone, reference: dynamics at 300 K.\n")
    names = {"MD 300 K": "MD_300K", "MD 600 K": "MD_600K", "dihedral scan": "dihedral", "H transfer": "H_transfer"}
    frames = {name: read(given.data / "acac" / f"test_{file}.xyz", ":") for name, file in names.items()}
    compare(read(given.data / "acac" / "train_300K.xyz", ":"), Descriptor(), frames)
    frames = {}
    for atoms in read(given.data / "NbMoTaW" / "test.xyz", ":"):
        frames.setdefault(atoms.info["config_type"].removesuffix("_Test"), []).append(atoms)
    for words, descriptor in {"Descriptor()": Descriptor(), "chemistry=True": Descriptor(chemistry=True)}.items():
        print(f"NbMoTaW, reference: elements and binaries, {words}; strange is Multinary, of four elements.\n")
        compare(read(given.data / "NbMoTaW" / "train.xyz", ":"), descriptor, frames)


def compare(train: list[Atoms], descriptor: Descriptor, frames: Mapping[str, list[Atoms]]) -> None:
    """Table of the frames of one reference, and how many groups are of a kind of their own."""
    calibration = calibrate(reference := Reference.from_frames(train, descriptor=descriptor))
    out = {kind: out_by_rate(reference, calibration, of) for kind, of in frames.items()}
    rows = [[kind, str(len(frames[kind])), *(f"{np.mean(x):.2f}" for x in values)] for kind, values in out.items()]
    table(("kind", "frames", *RATE_HEADS), rows)
    print(f"Groups of a kind of their own: {calibration.landmarks.n_alone} of {calibration.n_groups}.\n")


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A Markdown table."""
    print("| " + " | ".join(heads) + " |\n|" + " -- |" * len(heads))
    print("\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n", flush=True)


if __name__ == "__main__":
    main()
