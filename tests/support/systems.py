"""Small real systems for tests of the monitor: copper with EMT, references and levels for it."""

import functools

import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.filters import FrechetCellFilter
from ase.md.bussi import Bussi
from ase.md.langevin import Langevin
from ase.md.nptberendsen import NPTBerendsen
from ase.md.verlet import VelocityVerlet
from ase.neighborlist import neighbor_list
from ase.optimize import BFGS, FIRE

from quests_md import Calibration, Reference, calibrate
from quests_md.calibration.calibration import TypicalFrame
from quests_md.calibration.levels import NullScores
from quests_md.calibration.origin import Origin

FS = units.fs
H = 0.05  # 1/Å


class CountingEMT(EMT):
    """EMT that counts its calculations."""

    calls = 0

    def calculate(self, *args, **kwargs):
        self.calls += 1
        super().calculate(*args, **kwargs)


class TouchyEMT(CountingEMT):
    """Recomputes when atoms.info changes, as MACE >= 0.3.15 does."""

    def check_state(self, atoms, tol=1e-15):
        changes = super().check_state(atoms, tol=tol)
        if not changes and self.atoms.info != atoms.info:
            changes.append("info")
        return changes


def copper(size=2, *, seed=0, rattle=0.0, temperature_K=None, calc=None):
    """4 size^3 atoms of fcc copper; momenta without drift."""
    atoms = bulk("Cu", cubic=True) * (size, size, size)
    rng = np.random.default_rng(seed)
    if rattle:
        atoms.positions += rng.normal(0, rattle, (len(atoms), 3))
    if temperature_K:
        widths = np.sqrt(atoms.get_masses() * units.kB * temperature_K)[:, None]
        momenta = rng.standard_normal((len(atoms), 3)) * widths
        atoms.set_momenta(momenta - momenta.mean(axis=0))
    atoms.calc = calc
    return atoms


def alloy(size=2, *, seed=0, rattle=0.05, gold=True):
    """Ordered Cu3Au, or the same with silver in the place of gold."""
    unit = Atoms(
        "AuCu3" if gold else "AgCu3",
        scaled_positions=[(0, 0, 0), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)],
        cell=[3.75] * 3,
        pbc=True,
    )
    atoms = unit * (size, size, size)
    atoms.positions += np.random.default_rng(seed).normal(0, rattle, (len(atoms), 3))
    return atoms


@functools.cache
def md_frames():
    """240 frames of 32 copper atoms, every 2 steps of 5 fs near 300 K; shared, so copy before you change one."""
    atoms = copper(temperature_K=600, seed=1, calc=EMT())
    dyn = Langevin(atoms, 5 * FS, temperature_K=300, friction=0.02 / FS, fixcm=False, rng=np.random.default_rng(2))
    dyn.run(100)
    frames = []
    dyn.attach(lambda: frames.append(atoms.copy()), 2)
    dyn.run(480)
    return tuple(frames)


@functools.cache
def md_reference():
    """Every second frame of `md_frames`."""
    return Reference.from_frames(list(md_frames()[::2]), bandwidth=H, groups="frame")


@functools.cache
def on_both():
    """Levels of local scores of the first half of `md_frames`, and their reference, also on torch's CPU device."""
    frames = list(md_frames()[:120])
    reference = Reference.from_frames(frames[::2], groups="frame")
    return calibrate(reference, frames=frames[1::2]), {"cpu": reference, "device": reference.to("cpu")}


@functools.cache
def cold_reference():
    """Copper that hardly moves: every MD near 300 K leaves it."""
    return Reference.from_frames([copper(seed=i, rattle=0.01) for i in range(4)], bandwidth=H, groups="frame")


@functools.cache
def alloy_reference():
    return Reference.from_frames([alloy(seed=i) for i in range(8)], bandwidth=H, groups="frame")


def alloys(n, seed=0, amplitude=0.08):
    """Ordered alloys of two elements with atoms of a third in some frames."""
    rng = np.random.default_rng(seed)
    frames = []
    for i in range(n):
        atoms = bulk("NiAl", "cesiumchloride", a=2.9) * (2, 1, 1 + i % 2)
        if i % 3 == 2:
            atoms.numbers[0] = 26
        atoms.rattle(amplitude, rng=rng)
        frames.append(atoms)
    return frames


#: A null distribution as a calibration file has it.
NULL_LINE = {
    "statistic": "dh_max",
    "element": None,
    "side": "above",
    "values": "both",
    "scores": [1.0, 2.0],
    "sizes": [4, 4],
}


def null_of(scores, sizes=10**6, statistic="dh_max", *, element=None, side="above", values="both"):
    """The null distribution of these scores, of groups whose largest frames have so many atoms."""
    scores = np.asarray(scores, float)
    sizes = np.broadcast_to(np.asarray(sizes, np.int64), scores.shape)
    order = np.argsort(scores, kind="stable")
    return NullScores(statistic, element, side, values, scores[order], sizes[order])


def calibration_of(*nulls, reference="abc", statistics=("dh_max",), **changes):
    """A calibration of these null distributions; `reference` may be a fingerprint."""
    settings = {
        "fingerprint": getattr(reference, "fingerprint", reference),
        "false_alarms": 0.01,
        "per": "check",
        "statistics": statistics,
        "nulls": nulls,
        "atom_levels": {0: 0.0},
        "n_groups": max((len(null.scores) for null in nulls), default=0),
        "typical": TypicalFrame(max((int(null.sizes.max(initial=0)) for null in nulls), default=0), {}),
        "origin": Origin("set by hand", getattr(reference, "fingerprint", reference)),
    }
    return Calibration(**(settings | changes))


def level_at(reference, value, *others, **changes):
    """A calibration whose level of dH is `value` for frames of any size; `others` are more null distributions."""
    return calibration_of(null_of([value] * 200), *others, reference=reference, **changes)


def only_level(calibration, n_atoms, checks=None):
    """The only level of a calibration for so many atoms of copper."""
    (only,) = calibration.alarm_levels(np.full(n_atoms, 29), checks)
    return only


def reordered(frames, seed=0):
    """Copies of the frames, the atoms of each in an order of its own; environments are the same.

    A reference of them holds no structure in motion, so that no colder copies of its frames are made at the first
    alarm, which takes seconds: for tests that are not about these copies.
    """
    rng = np.random.default_rng(seed)
    return [atoms[rng.permutation(len(atoms))] for atoms in frames]


def outside(seed=0, size=2):
    """Copper displaced so far that it is no crystal any more; no two atoms are so near that it has exploded."""
    atoms = copper(size, seed=seed, rattle=0.3)
    for _ in range(30):
        i, steps = neighbor_list("iD", atoms, 2.1)
        if not len(i):
            break
        length = np.linalg.norm(steps, axis=1)[:, None]
        push = np.zeros_like(atoms.positions)
        np.add.at(push, i, -steps / length * (2.15 - length) / 2)
        atoms.positions += push
    return atoms


def inside(seed=0):
    """A frame of the MD that is not in `md_reference`."""
    return md_frames()[1::2][seed].copy()


def _mtk(atoms):
    from ase.md.nose_hoover_chain import IsotropicMTKNPT  # younger than the oldest ASE that we take

    return IsotropicMTKNPT(atoms, 5 * FS, temperature_K=300, pressure_au=0.0, tdamp=100 * FS, pdamp=500 * FS)


def _melchionna(atoms):
    from ase.md.melchionna import MelchionnaNPT  # younger than the oldest ASE that we take

    pfactor = (500 * FS) ** 2 * 140 * units.GPa
    return MelchionnaNPT(atoms, 5 * FS, temperature_K=300, externalstress=0.0, ttime=100 * FS, pfactor=pfactor)


def _berendsen(atoms):
    return NPTBerendsen(
        atoms, 5 * FS, temperature_K=300, pressure_au=0.0, taup=500 * FS, compressibility_au=1 / (140 * units.GPa)
    )


def _langevin(atoms):
    return Langevin(atoms, 5 * FS, temperature_K=300, friction=0.02 / FS, fixcm=False, rng=np.random.default_rng(3))


#: Every way to move atoms that is tried; each starts from the atoms given.
DYNAMICS = {
    "verlet": lambda atoms: VelocityVerlet(atoms, 5 * FS),
    "langevin": _langevin,
    "bussi": lambda atoms: Bussi(atoms, 5 * FS, temperature_K=300, taut=50 * FS, rng=np.random.default_rng(4)),
    "berendsen": _berendsen,
    "mtk": _mtk,
    "melchionna": _melchionna,
    "bfgs": lambda atoms: BFGS(atoms, logfile=None),
    "fire": lambda atoms: FIRE(atoms, logfile=None),
    "cell": lambda atoms: FIRE(FrechetCellFilter(atoms), logfile=None),
}


def verlet(atoms):
    return VelocityVerlet(atoms, 5 * FS)


def run(dyn, steps):
    """Run so many steps, whatever kind of dynamics it is."""
    if hasattr(dyn, "get_time"):
        return dyn.run(steps)
    return dyn.run(fmax=1e-9, steps=steps)


def recording(monitor):
    """The monitor, which keeps every check of a host in a list `checks`."""
    monitor.checks, check = [], monitor.watch.check_frame

    def recorded(*args, **options):
        monitor.checks.append(check(*args, **options))
        return monitor.checks[-1]

    monitor.watch.check_frame = recorded
    return monitor


#: Steps of a `course`.
STEPS = 12


def course(name, calc, prepare=None, attach=None):
    """Everything one can see of a run at each of its steps."""
    atoms = copper(seed=5, rattle=0.05, temperature_K=400, calc=calc)
    atoms.info.update({"purpose": "test", "list": [1, 2]})
    atoms.set_array("id", np.arange(len(atoms))[::-1].copy())
    if prepare is not None:
        prepare(atoms)
    dyn = DYNAMICS[name](atoms)
    seen = []

    def look():
        seen.append(
            {
                "positions": atoms.positions.tobytes(),
                "cell": atoms.cell.array.tobytes(),
                "momenta": atoms.arrays["momenta"].tobytes() if atoms.has("momenta") else b"",
                "arrays": {key: value.tobytes() for key, value in atoms.arrays.items()},
                "info": repr(atoms.info),
                "results": {key: np.asarray(value).tobytes() for key, value in calc.results.items()},
                "calls": calc.calls,
                "constraints": repr(atoms.constraints),
                "pbc": atoms.pbc.tobytes(),
            }
        )

    if attach is not None:
        attach(dyn)
    dyn.attach(look, 1)
    run(dyn, STEPS)
    return seen, atoms.get_potential_energy(), calc.calls
