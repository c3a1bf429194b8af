"""What the monitor says on real input; prints the tables of docs/real-input.md (needs ../shared/data).

python benchmarks/real_input.py [copper] [nucleation] [molecule] [alloy] [--data FOLDER]
"""

import argparse
import csv
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from ase import units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import read
from ase.md.nptberendsen import NPTBerendsen

from quests_md import Calibration, Monitor, Reference, calibrate, read_log, save_frame, score_trajectory
from quests_md.records import Check


def main() -> None:
    """Run the named parts, or all."""
    parts = {"copper": copper, "nucleation": nucleation, "molecule": molecule, "alloy": alloy}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(parts)}; default all")
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    arguments = parser.parse_args()
    if not arguments.data.is_dir():
        sys.exit(f"no data at {arguments.data}; give --data FOLDER")
    for name in arguments.parts or parts:
        parts[name](arguments.data)


def copper(data: Path) -> None:
    """DFT copper: its test set, then EMT copper heated from 300 to 1800 K."""
    reference, calibration = build(data / "mlearn/Cu_train.xyz")
    frames = read(data / "mlearn/Cu_test.xyz", ":")
    kinds = [f"{atoms.info.get('config_type', '?')} {atoms.info.get('T_K', '')}".strip() for atoms in frames]
    table_by_kind(kinds, score_trajectory(frames, reference, calibration))
    atoms = bulk("Cu", cubic=True) * 4
    atoms.calc = EMT()
    momenta = np.random.default_rng(0).standard_normal((len(atoms), 3))
    atoms.set_momenta(momenta * np.sqrt(2 * atoms.get_masses() * units.kB * 300)[:, None])
    steps = 1500
    dyn = NPTBerendsen(
        atoms,
        4 * units.fs,
        temperature_K=300,
        pressure_au=0.0,
        taut=100 * units.fs,
        taup=500 * units.fs,
        compressibility_au=1 / (140 * units.GPa),
    )
    start = atoms.positions.copy()
    shifts = []
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "run.jsonl"
        with Monitor(reference, calibration, log=log, actions=[save_frame(Path(folder) / "f.xyz")]) as monitor:
            monitor.attach(dyn, 10)
            dyn.attach(lambda: shifts.append(mean_square(atoms, start)), 10)
            dyn.attach(lambda: dyn.set_temperature(temperature_K=300 + 1500 * min(1, dyn.nsteps / 1200)), 10)
            dyn.run(steps)
            events = monitor.events
        content = read_log(log)
    print(
        "\n| ps | T (K) | Å^3/atom | dh_mean | dh_max | atoms above | mean square shift (Å^2) |\n|--|--|--|--|--|--|--|"
    )
    for i in range(0, len(content), 10):
        print(
            f"| {content.time_ps[i]:.1f} | {content.temperature_K[i]:.0f} | {content.volume_per_atom[i]:.2f} "
            f"| {content.dh_mean[i]:.2f} | {content.dh_max[i]:.2f} | {content.n_above[i]} | {shifts[i]:.2f} |"
        )
    for event in events:
        print(
            "\nevent:", {key: value for key, value in event.to_line().items() if key not in ("atoms", "size_history")}
        )
    if not events:
        print("\nno event")


def nucleation(data: Path) -> None:
    """Liquid control and freezing runs of copper against the hot liquid."""
    folder = data / "nucleation"
    ramp = folder / "cu864_liquid_ramp1600_800.extxyz"
    reference, calibration = build(f"{ramp}@:40")
    for name, source in (
        ("control, the rest of the ramp", f"{ramp}@40:"),
        ("freezing run s1, 700 K", folder / "cu864_T700_s1.extxyz"),
        ("freezing run s2, 700 K", folder / "cu864_T700_s2.extxyz"),
    ):
        checks = list(score_trajectory(source, reference, calibration))
        crystal = crystal_fraction(Path(str(source).split("@")[0]).with_suffix(".ptm.csv"))
        heads = "| ps | dh_mean | dh_max | frame_entropy | checks out | PTM crystal |\n|--|--|--|--|--|--|"
        print(f"\n{name}\n\n{heads}")
        for block in np.array_split(np.arange(len(checks)), 12):
            chosen = [checks[i] for i in block]
            times = [check.time_ps for check in chosen]
            print(
                f"| {times[0]:.0f}-{times[-1]:.0f} | {mean(c.dh_mean for c in chosen):.2f} "
                f"| {mean(c.dh_max for c in chosen):.2f} | {mean(c.frame_entropy for c in chosen):.2f} "
                f"| {sum(c.state == 'out' for c in chosen)} of {len(chosen)} "
                f"| {mean(crystal.get(round(t), np.nan) for t in times):.3f} |"
            )


def molecule(data: Path) -> None:
    """Acetylacetone, open boundaries: 300 K against 600 K, a scan and a reaction."""
    folder = data / "acac"
    reference, calibration = build(folder / "train_300K.xyz")
    for name in ("test_MD_300K", "test_MD_600K", "test_dihedral", "test_H_transfer"):
        frames = read(folder / f"{name}.xyz", ":")
        table_by_kind([name] * len(frames), score_trajectory(frames, reference, calibration))


def alloy(data: Path) -> None:
    """NbMoTaW: elements and binaries in the reference, everything in the test set."""
    reference, calibration = build(data / "NbMoTaW/train.xyz")
    frames = read(data / "NbMoTaW/test.xyz", ":")
    kinds = [str(atoms.info.get("config_type", "?")) for atoms in frames]
    table_by_kind(kinds, score_trajectory(frames, reference, calibration))


def build(source: Path | str) -> tuple[Reference, Calibration]:
    """Reference and calibration, printed."""
    reference = Reference.from_frames(source)
    calibration = calibrate(reference)
    print(f"\n## {Path(str(source)).name}\n\n{reference}\n\n{calibration.describe(calibration.typical.n_atoms)}")
    return reference, calibration


def table_by_kind(kinds: list[str], checks: Iterable[Check]) -> None:
    """Share of frames out and mean statistics for each kind of frame."""
    found: dict[str, list[Check]] = defaultdict(list)
    for kind, check in zip(kinds, checks, strict=True):
        found[kind].append(check)
    print("\n| frames | number | atoms | out | dh_mean | dh_max: mean (largest) |\n|--|--|--|--|--|--|")
    for kind, members in sorted(found.items()):
        print(
            f"| {kind} | {len(members)} | {mean(c.n_atoms for c in members):.0f} "
            f"| {sum(c.state == 'out' for c in members)} | {mean(c.dh_mean for c in members):.2f} "
            f"| {mean(c.dh_max for c in members):.2f} ({max(c.dh_max for c in members):.2f}) |"
        )


def crystal_fraction(path: Path) -> dict[int, float]:
    """Fraction of crystalline atoms by polyhedral template matching, per ps."""
    with path.open() as file:
        return {round(float(row["ps"])): float(row["ptm_crystal"]) for row in csv.DictReader(file)}


def mean_square(atoms, start) -> float:
    """Mean square shift since the start, without the common drift and the scaling of the cell."""
    scale = (atoms.cell.volume / len(atoms) / 11.8) ** (1 / 3)
    shift = atoms.positions / scale - start
    return float(((shift - shift.mean(axis=0)) ** 2).sum(axis=1).mean())


def mean(values: Iterable[float | None]) -> float:
    """Mean of the numbers there are."""
    return float(np.nanmean([np.nan if value is None else value for value in values]))


if __name__ == "__main__":
    main()
