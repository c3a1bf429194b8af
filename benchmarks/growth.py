"""What a reference that grows does to its levels: labelled frames of a hot crystal, one after the other.

101 frames of 32 copper atoms at 300 K (EMT, one per 0.2 ps) are the reference, 121 frames at 1200 K the hot run. n of
the hot frames are labelled and added; which share of 40 others is out, and which share of 40 new frames at 300 K? Mean
over several choices of the n frames. With levels of each grown reference, and with those of the first one, carried to
it.

    python benchmarks/growth.py docs/growth.png > docs/growth.md
"""

import sys
import warnings
from pathlib import Path

import matplotlib as mpl
import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution

from quests_md import Calibration, Reference, calibrate
from quests_md.judge import Judge

mpl.use("Agg")
import matplotlib.pyplot as plt

#: What is seen.
TAKE = """What to take from it:

- One labelled frame of a new kind sets no level: 99 % of the others are still out (plain rows: all). The share falls as
  frames are added: 0.01 to 0.04 with six to ten of them, 0 of 80 with twenty and with forty (0.01 is promised).
- Frames of the known kind are in throughout.
- Plain rows have one level for all kinds: up to five groups of the new kind count for nothing, from the sixth on they
  set the level. Levels of before, carried to the grown reference, stay stricter: 0.03 with forty.
- Cold frames beside a hot reference become known faster: they are alike, so that each says much of the others. Plain
  rows do not see them at all.
"""

#: Labelled frames.
NUMBERS = 0, 1, 2, 3, 4, 5, 6, 8, 10, 20, 40

#: Choices of the labelled frames.
CHOICES = 2

PLAIN = ("dh_max", "tail_cluster", "dh_mean")


def run(temperature_K: float, n_frames: int, seed: int) -> list[Atoms]:
    """Frames of a run at this temperature, 0.2 ps apart."""
    rng = np.random.default_rng(seed)
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    atoms.calc = EMT()
    MaxwellBoltzmannDistribution(atoms, temperature_K=temperature_K, rng=rng)
    dynamics = Langevin(atoms, 5 * units.fs, temperature_K=temperature_K, friction=0.004 / units.fs, rng=rng)
    dynamics.run(300)
    frames = []
    for _ in range(n_frames):
        dynamics.run(40)
        frames.append(atoms.copy())
    return frames


def share_out(reference: Reference, calibration: Calibration, frames: list[Atoms]) -> float:
    """Share of the frames that are out."""
    judge = Judge(reference, calibration, threads=1)
    return float(np.mean([judge.judge(atoms, step=0, frame=0).check.state == "out" for atoms in frames]))


def shares(known: list[Atoms], added: list[Atoms], quiet: list[Atoms]) -> dict[str, np.ndarray]:
    """Mean shares out for each of `NUMBERS`: of the frames that are not added, and of quiet ones."""
    base = Reference.from_frames(known, groups="frame", threads=1)
    names = "default", "plain", "carried", "quiet", "quiet, plain"
    found = {name: np.zeros(len(NUMBERS)) for name in names}
    first = calibrate(base, threads=1)
    for choice in range(CHOICES):
        order = np.random.default_rng(choice).permutation(len(added))
        for i, n in enumerate(NUMBERS):
            chosen, rest = order[:n], [added[j] for j in order[-40:]]
            reference = base.extend([added[j] for j in chosen], groups="frame") if n else base
            default, plain = (calibrate(reference, statistics=s, threads=1) for s in (None, PLAIN))
            found["default"][i] += share_out(reference, default, rest)
            found["plain"][i] += share_out(reference, plain, rest)
            found["carried"][i] += share_out(reference, first.carried_to(reference), rest)
            found["quiet"][i] += share_out(reference, default, quiet)
            found["quiet, plain"][i] += share_out(reference, plain, quiet)
    return {name: values / CHOICES for name, values in found.items()}


def main() -> None:
    """Print the table and draw the figure."""
    warnings.simplefilter("ignore")
    cold, hot = run(300, 101, 1), run(1200, 121, 2)
    directions = {
        "hot frames, added to 101 cold ones": shares(cold, hot, run(300, 40, 3)),
        "cold frames, added to 121 hot ones": shares(hot, cold, run(1200, 40, 4)),
    }
    print("# What a growing reference does to its levels\n")
    print("Made by `python benchmarks/growth.py docs/growth.png > docs/growth.md`.\n")
    print((__doc__ or "").split("\n\n")[1] + "\n")
    print(TAKE)
    print("![shares of frames out](growth.png)\n")
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True)
    lines = {"default": "C0o-", "plain": "C1s-", "carried": "C2^--", "quiet": "k.:"}
    words = {
        "default": "the others, default",
        "plain": "the others, plain rows",
        "carried": "the others, levels of before",
        "quiet": "new frames of the known kind, default",
        "quiet, plain": "new frames of the known kind, plain rows",
    }
    for panel, (title, found) in zip(panels, directions.items(), strict=True):
        print(f"## {title[0].upper()}{title[1:]}\n")
        print("| share out | " + " | ".join(map(str, NUMBERS)) + " |")
        print("| --- " * (len(NUMBERS) + 1) + "|")
        for name, values in found.items():
            print(f"| {words[name]} | " + " | ".join(f"{x:.2f}" for x in values) + " |")
        print()
        for name, style in lines.items():
            panel.plot(NUMBERS, found[name], style, label=words[name], markersize=4)
        panel.set(title=title, xlabel="frames added", xscale="symlog")
        panel.set_xticks([0, 1, 2, 5, 10, 20, 40], ["0", "1", "2", "5", "10", "20", "40"])
        panel.axhline(0.01, color="0.7", linewidth=0.8)
    panels[0].set_ylabel("share out")
    panels[1].legend(fontsize=7)
    figure.tight_layout()
    if len(sys.argv) > 1:
        figure.savefig(Path(sys.argv[1]), dpi=100)


if __name__ == "__main__":
    main()
