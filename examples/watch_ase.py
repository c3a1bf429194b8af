"""Attach the monitor to an ASE run: the five lines that matter are marked."""

import numpy as np
from ase import units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.md.verlet import VelocityVerlet

from quests_md import Monitor, Reference, read_log, save_frame, stop

# a stand-in for your training set: frames of a run of 108 copper atoms at 300 K
atoms = bulk("Cu", cubic=True) * 3
atoms.calc = EMT()  # any calculator will do: MACE, LAMMPSlib, xtb, ...
momenta = np.random.default_rng(0).standard_normal((len(atoms), 3))
atoms.set_momenta(momenta * np.sqrt(2 * atoms.get_masses() * units.kB * 300)[:, None])
train = []
dyn = VelocityVerlet(atoms, 5 * units.fs)
dyn.attach(lambda: train.append(atoms.copy()), 5)
dyn.run(400)

reference = Reference.from_frames(train[10:])  # 1. or a file name: Reference.from_frames("train.xyz")

atoms = train[-1].copy()  # inside the reference, but the momenta are doubled: too hot a run for it
atoms.calc = EMT()
atoms.set_momenta(2 * atoms.get_momenta())
dyn = VelocityVerlet(atoms, 5 * units.fs)
with Monitor(reference, log="watch.jsonl", actions=[save_frame("watch.extxyz"), stop]) as monitor:  # 2.
    monitor.attach(dyn, interval=5)  # 3.
    dyn.run(1000)  # 4. ends by itself when the crystal leaves the reference
    print(f"stopped at step {dyn.nsteps}; the checks took {monitor.overhead.share:.1%} of the run")

log = read_log("watch.jsonl")  # 5.
print(f"left the reference at step {log.events[0].onset_step}, {log.events[0].onset_temperature_K:.0f} K")
