"""How many steps a run needs to leave what is known, plain and biased by `EntropyBias`: `python benchmarks/bias.py`.

Butane (AIREBO) at 300 K, known: 45 frames with the chain stretched out (anti). Until the first step with a gauche
torsion, below 90 degrees. Hexane at 400 K, known at first: the stretched chain. Until so many of its conformers, told
apart by which of the three torsions are gauche, were visited; each time a new one is met, 20 frames of it become known.
Silicon (Stillinger-Weber), 64 atoms at 2000 K, known: 48 frames of the crystal. Until 16 atoms have left their sites.
Needs the extra `lammps`; every part takes some minutes: `python benchmarks/bias.py butane silicon`.
"""

import argparse
import sys
import time

import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.md.langevin import Langevin
from ase.optimize import BFGS

from quests_md import EntropyBias
from quests_md.lammps import lammps_calculator, potential

FS = units.fs
AIREBO = ["pair_style airebo 3.0 0 1", f'pair_coeff * * "{potential("CH.airebo")}" C H']
SW = ["pair_style sw", f'pair_coeff * * "{potential("Si.sw")}" Si']


def alkane(n):
    """The stretched chain of n carbon atoms, in a cell of 25 Å."""
    half = np.radians(112) / 2
    carbon = np.array([[i * 1.53 * np.sin(half), i % 2 * 1.53 * np.cos(half), 0] for i in range(n)])
    places = list(carbon)
    for i in range(n):
        side = 1 if i % 2 else -1
        places += [carbon[i] + 1.09 * np.array([0, side * 0.55, z * 0.83]) for z in (1, -1)]
    for i, along in ((0, -1), (n - 1, 1)):
        side = 1 if i % 2 else -1
        places.append(carbon[i] + 1.09 * np.array([along * 0.9, -side * 0.4, 0]))
    return Atoms(f"C{n}H{2 * n + 2}", places, cell=[25] * 3, pbc=True)


def hydrocarbon():
    """AIREBO."""
    return lammps_calculator(AIREBO, ("C", "H"))


def silicon():
    """Stillinger-Weber."""
    return lammps_calculator(SW, ("Si",))


def gauche(atoms):
    """Which torsions of the chain are gauche."""
    n = int((atoms.numbers == 6).sum())
    angles = np.array([atoms.get_dihedral(i, i + 1, i + 2, i + 3, mic=True) for i in range(n - 3)])
    return np.abs((angles + 180) % 360 - 180) < 90


def langevin(atoms, temperature_K, seed, dt_fs=1.0):
    """MD of these atoms, with new momenta."""
    rng = np.random.default_rng(seed)
    momenta = rng.normal(size=(len(atoms), 3)) * np.sqrt(atoms.get_masses() * units.kB * temperature_K)[:, None]
    atoms.set_momenta(momenta - atoms.get_masses()[:, None] * momenta.sum(axis=0) / atoms.get_masses().sum())
    return Langevin(atoms, dt_fs * FS, temperature_K=temperature_K, friction=0.01 / FS, rng=rng, fixcm=False)


def frames_of(dyn, n, every, is_known=lambda atoms: True):
    """So many frames of a run, one every so many steps, that are known."""
    frames = []

    def keep():
        if is_known(dyn.atoms) and len(frames) < n:
            frames.append(dyn.atoms.copy())

    while len(frames) < n:
        dyn.run(every)
        keep()
    return frames


def watched(dyn, most, look, every=10):
    """Run until `look(step)` is true; the steps, None if it was not within `most`, and the temperatures."""
    temperatures = []
    while dyn.nsteps < most:
        dyn.run(every)
        temperatures.append(dyn.atoms.get_temperature())
        if look(dyn.nsteps):
            return dyn.nsteps, temperatures
    return None, temperatures


def plain_hydrocarbon(start, temperature_K, seed, most, look, every=10):
    """As `watched`, of a run without bias that LAMMPS makes by itself, with the same thermostat: 20 times as fast."""
    atoms = start.copy()
    atoms.calc = hydrocarbon()
    atoms.get_potential_energy()
    lammps = atoms.calc.lmp
    for command in (
        f"velocity all create {temperature_K} {seed + 1} mom yes dist gaussian",
        "fix moves all nve",
        f"fix bath all langevin {temperature_K} {temperature_K} 0.1 {seed + 1}",
        "timestep 0.001",
        "run 0 post no",
    ):
        lammps.command(command)
    temperatures = []
    for step in range(every, most + 1, every):
        lammps.command(f"run {every} pre no post no")
        velocities = np.array(lammps.gather_atoms("v", 1, 3)).reshape(-1, 3) / (1000 * FS)
        atoms.positions = np.array(lammps.gather_atoms("x", 1, 3)).reshape(-1, 3)
        atoms.set_velocities(velocities)
        temperatures.append(atoms.get_temperature())
        if look(atoms):
            return step, temperatures
    return None, temperatures


def line(share, found, most, temperatures, strengths):
    """One line of the table: median, mean and range of the steps; a run that did not arrive counts `most`."""
    what = f"share {share:g}" if share else "plain"
    steps = [most if one is None else one for one in found]
    late = sum(one is None for one in found)
    strength = f"{1000 * np.mean(strengths):.0f} meV/nat" if strengths else ""
    print(
        f"| {what} | {np.median(steps):.0f} | {np.mean(steps):.0f} | {min(steps)} - {max(steps)} | "
        f"{late} of {len(steps)} | {np.mean(temperatures):.0f} K | {strength} |",
        flush=True,
    )


def header(title):
    """Title and head of a table."""
    print(f"\n{title}\n\n| run | median steps | mean | range | not arrived | temperature | strength |")
    print("| --- | --- | --- | --- | --- | --- | --- |")


def biased(calc, known, share):
    """The calculator, with a bias of this share; 0: without."""
    return EntropyBias(calc, known, share=share) if share else calc


def strengths_of(atoms):
    """The strength of the bias, if there is one."""
    return [atoms.calc.strength] if isinstance(atoms.calc, EntropyBias) else []


def butane(seeds, shares, most, temperature_K=300):
    """From anti to gauche."""
    atoms = alkane(4)
    atoms.calc = hydrocarbon()
    BFGS(atoms, logfile=None).run(fmax=0.01, steps=200)
    known = frames_of(langevin(atoms, temperature_K, 0), 45, 100, lambda frame: not gauche(frame).any())
    header(f"Butane, {temperature_K} K: steps of 1 fs to the first gauche torsion")
    for share in shares:
        found, temperatures, strengths = [], [], []
        for seed in range(seeds):
            start = known[-1 - seed].copy()
            if share:
                start.calc = biased(hydrocarbon(), known, share)
                dyn = langevin(start, temperature_K, 100 + seed)
                steps, heat = watched(dyn, most, lambda step, at=start: gauche(at).any())
            else:
                steps, heat = plain_hydrocarbon(start, temperature_K, seed, most, lambda at: gauche(at).any())
            print(share, seed, steps, file=sys.stderr, flush=True)
            found.append(steps)
            temperatures += heat
            strengths += strengths_of(start)
        line(share, found, most, temperatures, strengths)


def conformer(atoms):
    """Which torsions are gauche; a chain and the chain read backwards are one."""
    torsions = tuple(gauche(atoms).tolist())
    return max(torsions, torsions[::-1])


def hexane(seeds, shares, most, wanted=5, temperature_K=400):
    """From conformer to conformer."""
    atoms = alkane(6)
    atoms.calc = hydrocarbon()
    BFGS(atoms, logfile=None).run(fmax=0.01, steps=200)
    first = frames_of(langevin(atoms, temperature_K, 0), 40, 100, lambda frame: not gauche(frame).any())
    header(f"Hexane, {temperature_K} K: steps of 1 fs until {wanted} of 6 conformers were visited")
    for share in shares:
        found, temperatures, strengths = [], [], []
        for seed in range(seeds):
            if share:
                steps, heat, seen, strength = conformers(first, seed, share, most, wanted, temperature_K)
                strengths += strength
            else:
                seen = set()

                def look(at, seen=seen):
                    seen.add(conformer(at))
                    return len(seen) >= wanted

                steps, heat = plain_hydrocarbon(first[-1 - seed], temperature_K, seed, most, look)
            print(share, seed, steps, sorted(map(sum, seen)), file=sys.stderr, flush=True)
            found.append(steps)
            temperatures += heat
        line(share, found, most, temperatures, strengths)


def conformers(first, seed, share, most, wanted, temperature_K):
    """Steps to so many conformers, temperatures, conformers and strengths of a run whose bias is renewed at each."""
    known, seen, total = list(first), {conformer(first[0])}, 0
    temperatures, strengths = [], []
    at = first[-1 - seed].copy()
    while total < most:
        at.calc = biased(hydrocarbon(), known, share)
        dyn = langevin(at, temperature_K, 100 * len(seen) + seed)
        steps, heat = watched(dyn, most - total, lambda step, at=at: conformer(at) not in seen)
        total += most if steps is None else steps
        temperatures += heat
        strengths += strengths_of(at)
        if steps is None:
            break
        here = conformer(at)
        seen.add(here)
        if len(seen) >= wanted:
            return total, temperatures, seen, strengths
        at.calc = hydrocarbon()  # the frames that become known, and their steps, are of a plain run
        dyn = langevin(at, temperature_K, 7000 + 100 * len(seen) + seed)
        new = [at.copy()]
        for _ in range(40):
            dyn.run(25)
            if conformer(at) == here:
                new.append(at.copy())
        total += 1000
        known += new[-20:]
        at = new[-1].copy()
    return None, temperatures, seen, strengths


def crystal(seeds, shares, most, temperature_K=2000):
    """Out of a superheated crystal."""
    atoms = bulk("Si", a=5.43 * 1.01, cubic=True) * 2
    sites = atoms.positions.copy()
    atoms.calc = silicon()
    dyn = langevin(atoms, temperature_K, 0, 2.0)
    dyn.run(300)
    known = frames_of(dyn, 48, 25)

    def left(frame):
        away = frame.positions - sites
        return int((np.linalg.norm(away - away.mean(axis=0), axis=1) > 1.6).sum())

    assert max(map(left, known)) == 0
    header(f"Silicon, {temperature_K} K: steps of 2 fs until 16 of 64 atoms have left their sites")
    for share in shares:
        found, temperatures, strengths = [], [], []
        for seed in range(seeds):
            start = known[-1 - seed].copy()
            start.calc = biased(silicon(), known, share)
            dyn = langevin(start, temperature_K, 100 + seed, 2.0)
            steps, heat = watched(dyn, most, lambda step, at=start: left(at) >= 16)
            found.append(steps)
            temperatures += heat
            strengths += strengths_of(start)
        line(share, found, most, temperatures, strengths)


def cost():
    """Processor time of a step with and without the bias, ms, in turns; least of 5."""
    print("\n| system | atoms | rows kept | plain, ms/step | biased, ms/step |\n| --- | --- | --- | --- | --- |")
    chain, lattice = alkane(6), bulk("Si", cubic=True) * 2
    for what, atoms, make in (
        ("hexane, AIREBO", chain, hydrocarbon),
        ("silicon, Stillinger-Weber", lattice, silicon),
        ("silicon, Stillinger-Weber", lattice * 2, silicon),
    ):
        at = atoms.copy()
        at.calc = make()
        known = frames_of(langevin(at, 500, 0), 40, 25)
        pair = []
        for share in (0, 0.1):
            one = known[-1].copy()
            one.calc = biased(make(), known, share)
            pair.append(langevin(one, 500, 1))
            pair[-1].run(20)
        least = [np.inf, np.inf]
        for _ in range(5):
            for i, dyn in enumerate(pair):
                begin = time.process_time()
                dyn.run(50)
                least[i] = min(least[i], (time.process_time() - begin) / 50)
        rows = sum(pair[1].atoms.calc._known.n_rows.values())
        print(f"| {what} | {len(atoms)} | {rows} | {1000 * least[0]:.2f} | {1000 * least[1]:.2f} |", flush=True)


def main():
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=["cost", "butane", "hexane", "silicon"])
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--shares", type=float, nargs="*", default=[0, 0.05, 0.1, 0.2])
    parser.add_argument("--most", type=int, default=100_000, help="steps after which a run is given up")
    given = parser.parse_args()
    for part in given.parts:
        if part == "cost":
            cost()
        else:
            run = {"butane": butane, "hexane": hexane, "silicon": crystal}[part]
            run(given.seeds, given.shares, given.most)


if __name__ == "__main__":
    sys.exit(main())
