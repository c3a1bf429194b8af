"""Write the files of this folder by the version of the package that is imported: python make.py FOLDER."""

import contextlib
import io
import json
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

import quests_md
from quests_md import Calibration, Descriptor, Minimised, Monitor, Reference, Trigger, calibrate, read_log, save_frame

H = 0.05
FIVE = Descriptor(k=5, cutoff=4.0)
ALL = ("dh_max", "dh_mean", "dh_q99", "n_tail", "tail_cluster", "frame_entropy")
#: How far atoms are displaced in the frames of each run, Å.
RUNS = {
    "plain": [0.05] * 2 + [0.18] * 4 + [0.05] * 3 + [0.18] * 2,
    "baseline": [0.06] * 12 + [0.15] * 3,
    "phases": [0.25] * 2 + [0.07] * 3 + [0.25] * 2,
    "confirm": [0.05] * 2 + [0.11] * 2 + [0.2] * 3 + [0.05] * 2,
    "exploded": [0.05] * 9,
}


def rattled(seed: int, width: float, cells: tuple[int, int, int] = (2, 1, 1)) -> Atoms:
    """Eight atoms of copper, displaced."""
    atoms = bulk("Cu", cubic=True, a=3.625) * cells
    atoms.positions += np.random.default_rng(seed).normal(0, width, (len(atoms), 3))
    return atoms


def alloy(seed: int) -> Atoms:
    """Ordered NiAl with displaced atoms."""
    atoms = bulk("NiAl", "cesiumchloride", a=2.9) * (2, 2, 1)
    atoms.positions += np.random.default_rng(seed).normal(0, 0.06, (len(atoms), 3))
    return atoms


def write_frames() -> None:
    """The frames of all runs, in half precision."""
    arrays = {}
    for n, (name, widths) in enumerate(RUNS.items()):
        cells = (2, 2, 2) if name == "phases" else (2, 1, 1)
        frames = [rattled(1000 * n + i, width, cells) for i, width in enumerate(widths)]
        rng = np.random.default_rng(n)
        scale = np.sqrt(frames[0].get_masses() * units.kB * 300)[:, None]
        momenta = rng.standard_normal((len(frames), len(frames[0]), 3)) * scale
        if name == "exploded":
            frames[2].positions[3] = np.nan
            momenta[5] *= 6
            frames[6].positions[0] = frames[6].positions[1] + [0.5, 0.25, 0]
            frames[8].numbers[4:6] = 47
        arrays |= {
            f"{name}_cell": frames[0].cell.lengths(),
            f"{name}_positions": np.array([atoms.positions for atoms in frames], np.float16),
            f"{name}_numbers": np.array([atoms.numbers for atoms in frames], np.uint8),
        }
        if name in ("plain", "exploded"):
            arrays[f"{name}_momenta"] = momenta.astype(np.float16)
    arrays["alloy_cell"] = alloy(90).cell.lengths()
    arrays["alloy_positions"] = np.array([alloy(90).positions], np.float16)
    arrays["alloy_numbers"] = np.array([alloy(90).numbers], np.uint8)
    np.savez_compressed("frames.npz", **arrays)


def read_frames(name: str) -> list[Atoms]:
    """The frames of a run, the same to the bit wherever they are read."""
    stored = np.load("frames.npz")
    frames = []
    for i, positions in enumerate(stored[f"{name}_positions"].astype(np.float64)):
        positions[np.isnan(positions)] = np.nan
        atoms = Atoms(stored[f"{name}_numbers"][i], positions, cell=stored[f"{name}_cell"], pbc=True)
        if f"{name}_momenta" in stored:
            atoms.set_momenta(stored[f"{name}_momenta"][i].astype(np.float64))
        atoms.calc = SinglePointCalculator(atoms, energy=-3.5 * len(atoms) + 0.125 * i)
        frames.append(atoms)
    return frames


def reference_of(seeds: Sequence[int], width: float, descriptor: object, **options: object) -> Reference:
    """A reference of rattled copper."""
    frames = [rattled(seed, width) for seed in seeds]
    return Reference.from_frames(frames, descriptor=descriptor, bandwidth=H, **options)


def write_references() -> dict[str, Reference]:
    """References with held-out scores (copper, alloy) and without."""
    made = {
        "copper": reference_of(range(20), 0.07, FIVE, groups="frame"),
        "hot": reference_of(range(100, 108), 0.25, FIVE, groups="frame"),
        "warm": reference_of(range(200, 206), 0.12, Descriptor(k=4, cutoff=4.0), groups="frame"),
        "many": reference_of(range(300, 333), 0.07, Descriptor(k=2, cutoff=4.5), match="any"),
        "alloy": Reference.from_frames(
            [alloy(i) for i in range(3)], descriptor=Descriptor(k=5, cutoff=4.0, elements=("Ni", "Al")), bandwidth=H
        ),
        "minimised": reference_of((400, 401), 0.1, Minimised(EMT, "EMT", descriptor=FIVE, steps=20)),
    }
    for name in ("copper", "alloy"):
        made[name].held_out_scores()
    for name, reference in made.items():
        reference.save(f"{name}.safetensors")
        Reference.verify(f"{name}.safetensors")
    return made


def write_calibrations(references: dict[str, Reference]) -> dict[str, Calibration]:
    """Calibrations by frames, by given groups, by separate frames, and one that promises nothing."""
    copper, frames = references["copper"], [rattled(500 + i, 0.07) for i in range(12)]
    made = {
        "copper": calibrate(copper, false_alarms=0.2, statistics=["dh_max", "dh_mean"]),
        "groups": calibrate(copper, false_alarms=0.1, per="run", checks=2, groups=[i // 2 for i in range(20)]),
        "all": calibrate(copper, false_alarms=0.2, statistics=ALL),
        "frames": calibrate(copper, false_alarms=0.3, per="ns", statistics=["dh_mean", "frame_entropy"], frames=frames),
        "hot": calibrate(references["hot"], false_alarms=0.1),
        "warm": calibrate(references["warm"], false_alarms=0.1),
        "none": calibrate(references["many"], groups=[0] * 20 + [1] * 13),
    }
    assert made["copper"].kind == "conformal"
    assert made["none"].kind == "none"
    for name, calibration in made.items():
        calibration.save(f"levels_{name}.json")
    return made


def write_logs(references: dict[str, Reference], levels: dict[str, Calibration]) -> None:
    """A log of every run; that of the plain one is also cut off and taken up again."""
    copper, hot = references["copper"], references["hot"]
    second = (references["warm"], levels["warm"])

    def run(name: str, first: int = 0, stop: int | None = None, log: str | None = None, **options: object) -> None:
        options = {"trigger": Trigger(patience=2, release=0.1), "on_error": "raise", "threads": 1} | options
        reference, calibration = options.pop("known", (copper, levels["copper"]))
        with Monitor(reference, calibration, log=log or f"{name}.jsonl", **options) as monitor:
            frames = read_frames(name)
            if not first:
                monitor.preflight(frames[0])
            for i in range(first, stop or len(frames)):
                monitor.check(frames[i], step=10 * i, time_ps=0.05 * i)

    run("plain", actions=[save_frame("flagged.extxyz")])
    run("plain", stop=9, log="resumed.jsonl")
    run("plain", first=4, log="resumed.jsonl", resume=True)
    run("baseline", known=(copper, levels["all"]), baseline_ps=0.52, statistics=ALL)
    run("phases", known=(hot, levels["hot"]), phases={"hot": hot, "cold": copper})
    run("confirm", confirm=second)
    run("exploded", max_temperature_K=5000)


def finite(value: object) -> object:
    """The value for JSON, with eight digits; numbers that it lacks as texts."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.8g}") if np.isfinite(value) else str(value)
    return value


def write_expected(references: dict[str, Reference], levels: dict[str, Calibration]) -> None:
    """What this version says of its own files."""
    expected: dict[str, dict] = {"references": {}, "calibrations": {}, "logs": {}}
    for name, reference in references.items():
        frame = read_frames("alloy" if name == "alloy" else "plain")[0]
        # to minimise a frame again is no matter of files
        asked = (reference.rows[:4], reference.numbers[:4]) if name == "minimised" else (frame, None)
        near = reference.nearest(asked[0], numbers=asked[1])
        expected["references"][name] = answers = {
            "fingerprint": reference.fingerprint,
            "n_environments": reference.n_environments,
            "elements": reference.elements,
            "descriptor": reference.descriptor.fingerprint,
            "dh": reference.delta_entropy(asked[0], numbers=asked[1], float64=True).tolist(),
            "covered": reference.is_covered(asked[0], -3.0, numbers=asked[1]).tolist(),
            "distance": near.distance.tolist(),
            "frame": near.frame.tolist(),
            "atom": near.atom.tolist(),
        }
        if name in ("copper", "alloy"):
            answers["held_out"] = reference.held_out_scores()[1].tolist()[:20]
    for name, calibration in levels.items():
        frame = read_frames("plain")[0]
        expected["calibrations"][name] = {
            "kind": calibration.kind,
            "levels": calibration.levels(frame, 3, check_ps=0.05).tolist()[:2],
            "of_frame": [[x.statistic, x.side, x.value] for x in calibration.frame_levels(frame.numbers)],
        }
    for path in sorted(Path().glob("*.jsonl")):
        log = read_log(path)
        columns = {name: column for name in log.__slots__ if isinstance(column := getattr(log, name), np.ndarray)}
        del columns["elapsed_us"]
        margins = [np.abs(column) for column in (*log.excesses.values(), log.trigger_excess, log.confirm_excess)]
        assert not any(((margin > 0) & (margin < 1e-4)).any() for margin in margins), f"{path}: too near a level"
        if path.stem == "resumed":  # says what the plain one says
            continue
        expected["logs"][path.stem] = {
            "columns": {name: column.tolist() for name, column in columns.items()},
            "excesses": {name: column.tolist() for name, column in log.excesses.items()},
            "phase_clusters": {name: column.tolist() for name, column in log.phase_clusters.items()},
            "events": [event.to_line() for event in log.events],
        }
    text = json.dumps(finite(expected), allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    Path("expected.json").write_text(text + "\n", encoding="utf-8")


def main() -> None:
    """Write everything into an empty folder."""
    folder = Path(sys.argv[1])
    folder.mkdir(exist_ok=True)
    os.chdir(folder)
    socket.gethostname = lambda: "node"
    with contextlib.redirect_stderr(io.StringIO()):
        write_frames()
        references = write_references()
        levels = write_calibrations(references)
        write_logs(references, levels)
        write_expected(references, levels)
    print(f"written by quests_md {quests_md.__version__}: {sum(p.stat().st_size for p in Path().iterdir())} bytes")


if __name__ == "__main__":
    main()
