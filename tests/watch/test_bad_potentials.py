"""Runs that a bad potential drives: exploded as soon as their numbers are impossible, from a reference at 300 K."""

import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.calculators.morse import MorsePotential
from ase.io import read
from ase.md.verlet import VelocityVerlet
from systems import FS, copper, md_frames

from quests_md import Monitor, Reference, calibrate, save_frame

#: fs; checks are 10 fs apart or 40.
STEP = 2

#: K, what no simulation of copper has.
IMPOSSIBLE_K = 20_000


class Inverted(EMT):
    """EMT whose forces point the wrong way."""

    def calculate(self, *args, **kwargs):
        super().calculate(*args, **kwargs)
        self.results["forces"] = -self.results["forces"]


POTENTIALS = {
    "forces inverted": Inverted,
    "Lennard-Jones atoms of 1 Å": lambda: LennardJones(sigma=1.0, epsilon=0.4, rc=5.0),
    "Morse with its minimum at 1 Å": lambda: MorsePotential(epsilon=1.0, r0=1.0, rho0=3.0, rcut1=4.0, rcut2=5.0),
    "EMT": EMT,
}


@pytest.fixture(scope="module")
def known():
    reference = Reference.from_frames(list(md_frames()[::4]))
    return reference, calibrate(reference), reference.pair_distances()[29, 29][0]


def shortest(atoms):
    """Å, of all pairs; 0 where positions are not finite."""
    if not np.isfinite(atoms.positions).all():
        return 0.0
    return atoms.get_all_distances(mic=True)[np.triu_indices(len(atoms), 1)].min()


def driven(potential, every, known, folder, n_checks=25):
    """Checks, shortest pairs and temperatures of a run until two checks after it exploded, and its monitor."""
    reference, calibration, _ = known
    atoms = md_frames()[-1].copy()
    atoms.calc = POTENTIALS[potential]()
    dyn = VelocityVerlet(atoms, STEP * FS)
    checks, pairs, kelvin = [], [], []
    actions = [save_frame(folder / "f.extxyz")]
    with np.errstate(all="ignore"), Monitor(reference, calibration, log=None, actions=actions) as monitor:
        for i in range(n_checks):
            dyn.run(every if i else 0)
            pairs.append(shortest(atoms))
            kelvin.append(atoms.get_temperature())
            checks.append(monitor.check(atoms, step=i * every))
            if len(checks) > 2 and checks[-3].explosion:
                break
    return checks, np.array(pairs), np.array(kelvin), monitor


@pytest.mark.slow
@pytest.mark.parametrize("every", [5, 20])
@pytest.mark.parametrize("potential", [name for name in POTENTIALS if name != "EMT"])
def test_a_bad_potential_has_exploded_when_its_numbers_are_impossible(potential, every, known, tmp_path):
    checks, pairs, kelvin, monitor = driven(potential, every, known, tmp_path)
    impossible = int(np.argmax((pairs < 0.6 * known[2]) | ~(kelvin < IMPOSSIBLE_K)))
    exploded = [bool(check.explosion) for check in checks].index(True)
    assert 0 < exploded <= impossible
    assert all(check.explosion for check in checks[exploded:])  # it stays so
    assert [event.kind for event in monitor.events][-1] == "exploded"
    assert sum(event.kind == "exploded" for event in monitor.events) == 1
    # a collapse is strange before it is impossible, and frames from before may have been saved
    assert checks[exploded - 1].state == "out"
    assert {event.kind for event in monitor.events} <= {"novel", "exploded"}
    saved = read(tmp_path / "f.extxyz", ":") if (tmp_path / "f.extxyz").exists() else []
    assert bool(saved) == any(event.kind == "novel" for event in monitor.events)
    assert all(shortest(atoms) > 0.6 * known[2] for atoms in saved)


@pytest.mark.slow
@pytest.mark.parametrize("every", [5, 20])
def test_the_right_potential_from_the_same_start_has_no_event(every, known, tmp_path):
    checks, pairs, _, monitor = driven("EMT", every, known, tmp_path)
    assert not monitor.events
    assert not any(check.explosion for check in checks)
    assert pairs.min() > 0.9 * known[2]


@pytest.mark.slow
@pytest.mark.parametrize(("share", "kinds"), [(0.55, ["exploded"]), (0.67, ["novel"]), (0.8, ["novel"])])
def test_a_start_with_atoms_near_each_other(share, kinds, known):
    """With momenta a pair is impossible below 0.6; above it is novel, and by EMT it relaxes and nothing explodes."""
    reference, calibration, closest = known
    atoms = copper(2, seed=3, temperature_K=300, calc=EMT())
    atoms.positions[7] = atoms.positions[3] + [0, 0, share * closest]
    dyn = VelocityVerlet(atoms, STEP * FS)
    with Monitor(reference, calibration, log=None) as monitor:
        for i in range(12):
            dyn.run(5 if i else 0)
            check = monitor.check(atoms, step=5 * i)
            assert check.state == "out"
            assert bool(check.explosion) == (share < 0.6 and i == 0)
    assert [event.kind for event in monitor.events][:1] == kinds
