"""Frames outside a reference of equilibrium frames, from the obvious to the mild: phases, defects, strains, mistakes.

python benchmarks/defects.py [CONDITION ...]    prints what the frames are, and whether the defects are still there
"""

import argparse
import zlib
from collections.abc import Iterator

import numpy as np
from ase import Atoms
from ase.build import bulk, fcc111
from md import CONDITIONS, POTENTIALS, SETTLE_PS, Condition, Simulation, relaxed

__all__ = [
    "CONTROL",
    "N_FRAMES",
    "crystal",
    "crystal_scenarios",
    "excess_energy",
    "liquid_scenarios",
    "scenarios",
    "slab",
    "with_dumbbell",
    "with_fault",
    "with_vacancy",
]

#: The scenario that is none: an independent run of the reference's own condition.
CONTROL = "in distribution"
SURFACE = "surface (100)"
N_FRAMES = 40
#: K, where crystal and liquid coexist at zero pressure, see `md.POTENTIALS`.
MELTING_K = {"Cu": 1330.0, "LJ": 1200.0}
#: The liquid is kept this far above its melting point, so that it stays one.
SUPERHEAT = 1.1
#: The hottest crystal is kept this far below it.
BELOW_MELTING = 0.98
#: fs, ten times a usual and ten times the longest time step for copper, whose crystal survives the first at 300 K.
BROKEN_STEPS_FS = (25.0, 50.0)
#: fs between frames of such a run, frames of one run, and runs before giving up: many die within 10 steps.
BROKEN_SPACING_FS, BROKEN_FRAMES, BROKEN_RUNS = 100.0, 8, 400
#: ps at zero pressure, for structures whose volume is not known beforehand.
BAROSTAT_PS = 40.0
#: Å of vacuum; environments see 5 Å.
GAP = 12.0
#: LAMMPS input and lattice constant (Å) of another fcc metal, of the same family of potentials.
NICKEL, NICKEL_LATTICE = "pair_style eam\npair_coeff 1 1 {potentials}/Ni_u3.eam", 3.52
CELLS = (3, 3, 3)


def scenarios(
    potential: str, temperature_K: float, seed: int, *, phase: str = "solid", n_frames: int = N_FRAMES
) -> Iterator[tuple[str, list[Atoms]]]:
    """Names and frames of the situations to be told from a condition of `md.CONDITIONS`, the control first.

    Frames of a scenario are 0.5 ps apart, after equilibration at the temperature and, unless strained, the volume per
    atom or the pressure of the condition; 107 to 192 atoms. Every scenario and seed is a run of its own.
    """
    condition = CONDITIONS[f"{potential}-{phase}-{temperature_K:g}K"]
    make = crystal_scenarios if phase == "solid" else liquid_scenarios
    return make(condition, seed, n_frames)


def crystal_scenarios(condition: Condition, seed: int, n_frames: int = N_FRAMES) -> Iterator[tuple[str, list[Atoms]]]:
    """What is to be told from a crystal of 108 atoms."""
    potential, kelvin = condition.potential, condition.temperature_K
    perfect = crystal(condition.volume)

    def run(name: str, atoms: Atoms, *, temperature_K: float = kelvin, free: bool = False) -> tuple[str, list[Atoms]]:
        run_seed = _run_seed(condition, name, seed)
        return name, _thermal(potential, atoms, temperature_K, run_seed, n_frames, free=free)

    yield run(CONTROL, perfect)
    yield run("temperature +20 %", perfect, temperature_K=1.2 * kelvin)
    for percent in (1, -1, 3, -3):
        yield run(f"strain {percent:+d} %", _strained(perfect, percent))
    yield run("vacancy", with_vacancy(perfect), free=True)
    yield run("interstitial", with_dumbbell(perfect), free=True)
    yield run("stacking fault", with_fault(condition.volume))
    yield run(SURFACE, slab(condition.volume))
    yield "melted", _molten(potential, _run_seed(condition, "melted", seed), n_frames)
    nickel = _nickel(kelvin, _run_seed(condition, "nickel", seed), n_frames)
    yield "other element", [_labelled(atoms, "Ni") for atoms in nickel]
    yield "other element, same label", nickel
    for step_fs in BROKEN_STEPS_FS:
        run_seed = _run_seed(condition, f"time step {step_fs:g}", seed)
        yield f"time step {step_fs:g} fs", _broken(condition, perfect, run_seed, n_frames, step_fs)


def liquid_scenarios(condition: Condition, seed: int, n_frames: int = N_FRAMES) -> Iterator[tuple[str, list[Atoms]]]:
    """What is to be told from a liquid of 108 atoms."""
    potential, kelvin = condition.potential, condition.temperature_K
    molten = _melt(potential, crystal(condition.volume), kelvin, _run_seed(condition, "melt", seed))

    def run(
        name: str, atoms: Atoms, *, temperature_K: float = kelvin, free: bool = False, melt: bool = True
    ) -> tuple[str, list[Atoms]]:
        run_seed = _run_seed(condition, name, seed)
        if melt:
            atoms = _melt(potential, atoms, temperature_K, run_seed)
        return name, _thermal(potential, atoms, temperature_K, run_seed + 1, n_frames, free=free)

    yield run(CONTROL, crystal(condition.volume))
    yield run("liquid +400 K", crystal(condition.volume), temperature_K=kelvin + 400, free=True)
    for percent in (1, -1, 3, -3):
        yield run(f"strain {percent:+d} %", crystal(condition.volume * (1 + percent / 100) ** 3))
    frozen = CONDITIONS[f"{potential}-solid-900K"]
    yield run("frozen, 900 K", crystal(frozen.volume), temperature_K=frozen.temperature_K, melt=False)
    # colder and denser, that one leaves the liquid by more than its order; this one by little else
    hot = BELOW_MELTING * MELTING_K[potential]
    yield run("frozen, just below melting", crystal(frozen.volume), temperature_K=hot, free=True, melt=False)
    for step_fs in BROKEN_STEPS_FS:
        run_seed = _run_seed(condition, f"time step {step_fs:g}", seed)
        yield f"time step {step_fs:g} fs", _broken(condition, molten, run_seed, n_frames, step_fs)


def excess_energy(potential: str, frame: Atoms, volume: float) -> float:
    """Energy in eV of a frame's nearest minimum above that of as many atoms of the crystal at `volume` per atom."""
    per_atom = relaxed(potential, crystal(volume)).info["pe_per_atom"]
    return len(frame) * (relaxed(potential, frame).info["pe_per_atom"] - per_atom)


def crystal(volume: float, cells: tuple[int, int, int] = CELLS) -> Atoms:
    """Fcc of 4 atoms per cell, 108 by default, at this volume per atom."""
    return bulk("Cu", "fcc", a=_lattice(volume), cubic=True) * cells


def with_vacancy(perfect: Atoms) -> Atoms:
    """The crystal without its first atom."""
    return perfect[1:]


def with_dumbbell(perfect: Atoms) -> Atoms:
    """The first atom, which sits at the origin, split into two along [100], 0.6 lattice constants apart."""
    half = 0.3 * _lattice(perfect.get_volume() / len(perfect)) * np.array([1.0, 0.0, 0.0])
    split = perfect.copy()
    split += split[:1]
    split.positions[0] += half
    split.positions[-1] -= half
    split.wrap()
    return split


def with_fault(volume: float, size: tuple[int, int, int] = (4, 6, 8)) -> Atoms:
    """Layers (111): ABCABCAB, so that the period closes with one intrinsic stacking fault, AB|AB.

    The number of layers, the last of `size`, is two more than a multiple of three; by default 192 atoms in 8 of them.
    """
    return _periodic(fcc111("Cu", size, a=_lattice(volume), orthogonal=True, periodic=True))


def slab(volume: float, cells: tuple[int, int, int] = (3, 3, 4), gap: float = GAP) -> Atoms:
    """Layers (100), two per cell, between two surfaces; by default 144 atoms in 8 layers, a quarter at the surfaces."""
    layers = crystal(volume, cells)
    x, y, z = layers.cell.lengths()
    layers.set_cell(np.diag([x, y, z + gap]))
    layers.positions[:, 2] += gap / 2
    return layers


def main() -> None:
    """Print a table of the scenarios of the named conditions, default those of crystals."""
    solids = [name for name, condition in CONDITIONS.items() if condition.phase == "solid"]
    parser = argparse.ArgumentParser(description="Print what the frames of the scenarios are.")
    parser.add_argument("conditions", nargs="*", default=solids, help=f"of {', '.join(CONDITIONS)}")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    for name in arguments.conditions:
        condition = CONDITIONS[name]
        print(f"\n{name}\n\n| scenario | frames | atoms | K | Å^3/atom | excess eV, first and last frame |", end="")
        print("\n|--|--|--|--|--|--|")
        found = scenarios(condition.potential, condition.temperature_K, arguments.seed, phase=condition.phase)
        for scenario, frames in found:
            kelvin = np.median([atoms.info["temperature"] for atoms in frames])
            volume = frames[0].get_volume() / len(frames[0])
            potential = "Ni" if scenario.startswith("other element") else condition.potential
            bulk_volume = condition.volume if scenario == SURFACE else volume
            energies = [f"{excess_energy(potential, atoms, bulk_volume):.2f}" for atoms in (frames[0], frames[-1])]
            line = [scenario, len(frames), len(frames[0]), f"{kelvin:.0f}", f"{volume:.2f}", ", ".join(energies)]
            print("|", " | ".join(map(str, line)), "|", flush=True)


def _thermal(
    potential: str, atoms: Atoms, temperature_K: float, seed: int, n_frames: int, *, free: bool = False
) -> list[Atoms]:
    """Frames of an equilibrium run at the volume given or, if `free`, at the mean volume of zero pressure."""
    simulation = Simulation(potential, atoms, temperature_K=temperature_K, seed=seed)
    if free:
        simulation.equilibrate(BAROSTAT_PS)
    simulation.run(SETTLE_PS)
    frames = list(simulation.frames(n_frames))
    simulation.close()
    return frames


def _melt(potential: str, atoms: Atoms, temperature_K: float, seed: int) -> Atoms:
    simulation = Simulation(potential, atoms, temperature_K=temperature_K, seed=seed)
    simulation.melt()
    frame = simulation.frame()
    simulation.close()
    return frame


def _molten(potential: str, seed: int, n_frames: int) -> list[Atoms]:
    """The liquid at zero pressure, just above its melting point; molten at a volume where no crystal resists."""
    kelvin = SUPERHEAT * MELTING_K[potential]
    volume = min(c.volume for c in CONDITIONS.values() if c.potential == potential and c.phase == "liquid")
    molten = _melt(potential, crystal(volume), kelvin, seed)
    return _thermal(potential, molten, kelvin, seed + 1, n_frames, free=True)


def _nickel(temperature_K: float, seed: int, n_frames: int) -> list[Atoms]:
    """The crystal of another element at zero pressure. Its mass stays copper's, of no matter in equilibrium."""
    POTENTIALS.setdefault("Ni", NICKEL)
    return _thermal("Ni", crystal(NICKEL_LATTICE**3 / 4), temperature_K, seed, n_frames, free=True)


def _broken(condition: Condition, atoms: Atoms, seed: int, n_frames: int, step_fs: float) -> list[Atoms]:
    """Frames from the first picosecond of runs with a time step ten times too long, while they last.

    LAMMPS ends a run that blows up, so no frame has non-finite positions; the next run goes on from another frame.
    """
    simulation = Simulation(condition.potential, atoms, temperature_K=condition.temperature_K, seed=seed)
    simulation.run(SETTLE_PS)
    frames: list[Atoms] = []
    for number, start in enumerate(simulation.frames(BROKEN_RUNS)):
        wrong = Simulation(
            condition.potential,
            start,
            temperature_K=condition.temperature_K,
            seed=seed + 1 + number,
            timestep_fs=step_fs,
        )
        try:
            for frame in wrong.frames(BROKEN_FRAMES, BROKEN_SPACING_FS * 1e-3):
                frames.append(frame)
        except RuntimeError:
            pass
        wrong.close()
        if len(frames) >= n_frames:
            break
    simulation.close()
    return frames[:n_frames]


def _lattice(volume: float) -> float:
    return float((4 * volume) ** (1 / 3))


def _strained(atoms: Atoms, percent: float) -> Atoms:
    strained = atoms.copy()
    strained.set_cell(atoms.cell.array * (1 + percent / 100), scale_atoms=True)
    return strained


def _periodic(atoms: Atoms) -> Atoms:
    """The same as plain atoms in a cell with edges along the axes."""
    cell = np.diag(atoms.cell.lengths())
    return Atoms(atoms.symbols, positions=atoms.positions, cell=cell, pbc=True)


def _labelled(atoms: Atoms, element: str) -> Atoms:
    labelled = atoms.copy()
    labelled.symbols[:] = element
    return labelled


def _run_seed(condition: Condition, name: str, seed: int) -> int:
    # no two runs share the random numbers of their thermostats
    return zlib.crc32(f"{condition.name} {name} {seed}".encode())


if __name__ == "__main__":
    main()
