"""EntropyBias: a conservative push out of what is known, seen through the public API."""

import copy
import pickle
import warnings
from functools import partial

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.calculators.emt import EMT
from ase.io import read
from ase.md.verlet import VelocityVerlet

from quests_md import (
    EntropyBias,
    FrameError,
    Monitor,
    MonitoredCalculator,
    Reference,
    UnsuitableFrameError,
    read_log,
    save_frame,
    stop,
)
from tests.support.systems import CountingEMT, alloy, cold_reference, copper, level_at, reordered

FS = units.fs


class Nothing(Calculator):
    """No forces at all, so that energies are those of the bias to all digits."""

    implemented_properties = ("energy", "forces", "stress")

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.results = {"energy": 0.0, "forces": np.zeros((len(atoms), 3)), "stress": np.zeros(6)}


def crystals(n=4, amplitude=0.05):
    return [copper(1, seed=seed, rattle=amplitude) for seed in range(n)]


def alloys(n=3):
    return [alloy(1, seed=seed, rattle=0.08) for seed in range(n)]


def skewed(pbc):
    rng = np.random.default_rng(2)
    return Atoms("CuAuCu", rng.uniform(0, 3, (3, 3)), cell=[[3.1, 0, 0], [1.5, 2.8, 0], [-0.7, 0.9, 3.4]], pbc=pbc)


CASES = {
    "crystal": (crystals, copper(1, seed=9, rattle=0.15)),
    "alloy": (alloys, alloy(1, seed=9, rattle=0.2)),
    "triclinic": (alloys, skewed(True)),
    "slab": (alloys, skewed([True, True, False])),
    "free": (alloys, skewed(False)),
    "nearly coincident": (alloys, Atoms("CuCuAu", [(0, 0, 0), (0.03, 0, 0.01), (1.9, 1.2, 0.3)])),
    "at the cutoff": (alloys, Atoms("CuAuCu", [(0, 0, 0), (4.9997, 0, 0), (0, 2.4, 1.0)])),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("max_dh", [None, 200.0])
def test_forces_and_stress_are_the_derivatives_of_the_energy(name, max_dh):
    frames, atoms = CASES[name]
    atoms = atoms.copy()
    atoms.calc = EntropyBias(Nothing(), frames(), strength=0.3, max_dh=max_dh)

    def difference(at, h):
        values = [at(k * h) for k in (-2, -1, 1, 2)]
        return float(np.dot([1, -8, 8, -1], values) / (12 * h))

    def moved(i, c, by):
        other = atoms.copy()
        other.calc = atoms.calc
        other.positions[i, c] += by
        return other.get_potential_energy()

    def strained(i, k, by):
        other, factor = atoms.copy(), np.eye(3)
        factor[i, k] += by / 2
        factor[k, i] += by / 2
        other.set_cell(atoms.cell.array @ factor, scale_atoms=True)
        other.calc = atoms.calc
        return other.get_potential_energy() / atoms.get_volume()

    forces = atoms.get_forces()
    expected = [[-difference(partial(moved, i, c), 3e-5) for c in range(3)] for i in range(len(atoms))]
    scale = max(np.abs(expected).max(), 1e-3)
    np.testing.assert_allclose(forces, expected, rtol=0, atol=1e-6 * scale)
    np.testing.assert_allclose(forces.sum(axis=0), 0, atol=1e-9 * scale)
    if atoms.cell.rank == 3:
        pairs = [(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]
        expected = [difference(partial(strained, i, k), 1e-5) for i, k in pairs]
        atol = 1e-6 * max(np.abs(expected).max(), 1e-3)
        np.testing.assert_allclose(atoms.get_stress(), expected, rtol=0, atol=atol)


def test_the_bias_lies_lower_farther_away_and_is_bounded():
    known = crystals()
    bias = EntropyBias(Nothing(), known, strength=0.1, max_dh=5.0)
    energies = []
    for amplitude in (0.0, 0.1, 0.2, 0.3, 1.0):
        atoms = copper(1, seed=50, rattle=amplitude, calc=bias)
        energies.append(atoms.get_potential_energy())
    assert (np.diff(energies) <= 1e-12).all()
    assert energies[0] > energies[2] + 0.1
    assert energies[-1] == pytest.approx(-0.1 * 5.0 * 4)
    assert np.abs(atoms.get_forces()).max() < 1e-9
    assert bias.max_dh == 5.0


def test_a_strange_atom_is_pushed_on_and_a_known_one_hardly():
    known = [copper(2, seed=seed, rattle=0.05) for seed in range(3)]
    atoms = copper(2, seed=60, rattle=0.02, calc=EntropyBias(Nothing(), known, strength=0.1))
    way = np.array([0.5, 0.3, 0.2])
    atoms.positions[5] += way
    forces = atoms.get_forces()
    assert forces[5] @ way > 0
    assert np.linalg.norm(forces[5]) > 3 * np.median(np.linalg.norm(forces, axis=1))


def test_one_calculation_for_each_geometry_and_results_that_add_up():
    calc = CountingEMT()
    atoms = copper(1, seed=3, rattle=0.1, calc=EntropyBias(calc, crystals(), strength=0.05))
    alone = copper(1, seed=3, rattle=0.1, calc=EMT())
    atoms.get_forces(), atoms.get_potential_energy(), atoms.get_stress(), atoms.get_potential_energy()
    assert calc.calls == 1
    results = atoms.calc.results
    assert results["unbiased_energy"] == alone.get_potential_energy()
    np.testing.assert_array_equal(results["unbiased_forces"], alone.get_forces())
    np.testing.assert_array_equal(results["unbiased_stress"], alone.get_stress())
    for name, whole in (("energy", atoms.get_potential_energy()), ("forces", atoms.get_forces())):
        np.testing.assert_allclose(whole, results[f"unbiased_{name}"] + results[f"bias_{name}"], rtol=1e-14)
    assert np.abs(results["bias_forces"]).max() > 1e-3
    dyn = VelocityVerlet(atoms, FS)
    dyn.run(10)
    assert calc.calls == 11
    with pytest.raises(PropertyNotImplementedError):
        atoms.calc.get_property("energies", atoms)


def drift(calc):
    """meV per atom by which the energy of an NVE run over 5 ps departs from its mean, at most, after the start."""
    atoms = bulk("Cu", cubic=True)
    atoms.set_momenta(np.random.default_rng(4).normal(size=(4, 3)) * np.sqrt(63.5 * units.kB * 600))
    atoms.set_momenta(atoms.get_momenta() - atoms.get_momenta().mean(axis=0))
    atoms.calc = calc
    dyn = VelocityVerlet(atoms, 4 * FS)
    energies = []
    dyn.attach(lambda: energies.append(atoms.get_total_energy()), 10)
    dyn.run(1250)
    halves = np.array_split(np.array(energies), 2)
    return 1000 * abs(halves[1].mean() - halves[0].mean()) / len(atoms), 1000 * np.std(energies) / len(atoms)


def test_energy_is_kept_once_the_strength_is_fixed():
    frames = [copper(1, seed=seed, rattle=0.05) for seed in range(4)]
    biased = EntropyBias(EMT(), frames, strength=0.03)
    (plain_drift, plain_noise), (biased_drift, biased_noise) = drift(EMT()), drift(biased)
    assert biased_drift < max(3 * plain_drift, 0.05)
    assert biased_noise < 3 * plain_noise
    assert np.abs(biased.results["bias_forces"]).max() > 1e-3


def test_the_strength_becomes_the_share_of_the_forces_and_then_stays():
    atoms = copper(1, seed=5, rattle=0.05, temperature_K=600)
    frames = crystals()
    atoms.calc = EntropyBias(EMT(), frames, share=0.2, warmup=30)
    strengths, ratios = [], []

    def look():
        results = atoms.calc.results
        strengths.append(atoms.calc.strength)
        ratios.append([np.linalg.norm(results[f"{of}_forces"], axis=1).mean() for of in ("bias", "unbiased")])

    assert not atoms.calc.is_fixed
    dyn = VelocityVerlet(atoms, 2 * FS)
    dyn.attach(look, 1)
    dyn.run(60)
    assert atoms.calc.is_fixed
    assert strengths[0] < 0.2 * strengths[-1]
    assert len(set(strengths[29:])) == 1
    bias, plain = np.array(ratios)[29:].mean(axis=0)
    assert 0.1 < bias / plain < 0.4
    again = EntropyBias(EMT(), frames, strength=atoms.calc.strength)
    assert again.is_fixed
    assert again.todict() == atoms.calc.todict()


def test_a_warm_up_outside_of_what_is_known_gives_no_bias_and_says_so():
    atoms = copper(1, seed=6, rattle=0.8)
    atoms.calc = EntropyBias(Nothing(), crystals(), warmup=2)
    atoms.get_forces()
    atoms.positions += np.random.default_rng(0).normal(0, 0.01, atoms.positions.shape)
    with pytest.warns(UserWarning, match="start from a known structure"):
        atoms.get_forces()
    assert atoms.calc.strength == 0.0


def test_the_log_and_saved_frames_hold_the_energy_without_the_bias(tmp_path):
    """A Monitor that watches the biased run; `stop` ends the run."""
    reference = Reference.from_frames(
        reordered([copper(seed=i, rattle=0.01) for i in range(4)]), groups="frame", bandwidth=0.05
    )
    atoms = copper(seed=1, rattle=0.01, temperature_K=900, calc=EntropyBias(EMT(), reference, strength=0.05))
    steps = []
    monitor = Monitor(
        reference,
        level_at(reference, 1.0),
        log=tmp_path / "log.jsonl",
        actions=[save_frame(tmp_path / "flagged.extxyz"), stop],
        verbose=False,
    )
    with monitor:
        dyn = VelocityVerlet(atoms, 5 * FS)
        monitor.attach(dyn, interval=2)
        dyn.attach(lambda: steps.append(atoms.calc.results["unbiased_energy"]), 2)
        dyn.run(200)
    assert dyn.nsteps < 100
    log = read_log(tmp_path / "log.jsonl")
    np.testing.assert_allclose(log.energy_per_atom, np.array(steps) / len(atoms), rtol=1e-12)
    assert abs(atoms.get_potential_energy() - steps[-1]) > 1e-3
    for frame in read(tmp_path / "flagged.extxyz", ":"):
        alone = frame.copy()
        alone.calc = EMT()
        assert frame.get_potential_energy() == pytest.approx(alone.get_potential_energy(), abs=1e-6)
        np.testing.assert_allclose(frame.get_forces(), alone.get_forces(), atol=1e-5)


def test_within_a_monitored_calculator():
    reference = cold_reference()
    bias = EntropyBias(EMT(), reference, strength=0.05)
    atoms = copper(seed=2, rattle=0.1, calc=MonitoredCalculator(bias, reference, level_at(reference, 1.0)))
    assert atoms.get_potential_energy() == bias.results["energy"]
    assert len(atoms.calc.results["delta_entropy"]) == len(atoms)
    frame = atoms.calc.annotate(atoms)
    assert frame.get_potential_energy() == bias.results["unbiased_energy"]


def test_a_reference_its_file_and_its_frames_are_the_same(tmp_path):
    reference = cold_reference()
    reference.save(tmp_path / "known.safetensors")
    frames = [reference.frame(i) for i in range(reference.n_frames)]
    atoms = copper(seed=3, rattle=0.1)
    energies = set()
    for known in (reference, str(tmp_path / "known.safetensors"), frames, tuple(frames)):
        atoms.calc = EntropyBias(Nothing(), known, strength=0.1)
        energies.add(atoms.get_potential_energy())
    assert len(energies) == 1
    atoms.calc = EntropyBias(Nothing(), frames[0], strength=0.1)
    assert np.isfinite(atoms.get_potential_energy())


def test_isolated_atoms_are_not_known():
    alone = Atoms("Cu", cell=[20] * 3, pbc=True)
    with_alone = EntropyBias(Nothing(), [alone, *crystals()], strength=0.1, max_dh=8.0)
    alone.calc = with_alone
    assert alone.get_potential_energy() == pytest.approx(-0.8)
    with pytest.raises(ValueError, match="near each other"):
        EntropyBias(Nothing(), alone)


def test_what_is_exploded_is_not_pushed_and_a_bad_start_is_refused():
    bias = EntropyBias(Nothing(), crystals(), strength=0.1, max_dh=8.0)
    lost = copper(1)
    lost.positions[0] = np.nan
    with pytest.raises(FrameError, match="finite"):
        bias.get_forces(lost)
    bias.get_forces(copper(1))
    assert not bias.get_forces(lost).any()
    assert bias.results["energy"] == pytest.approx(-0.1 * 8 * 4)


def test_copies_bias_alike():
    bias = EntropyBias(Nothing(), crystals(), strength=0.1)
    atoms = copper(1, seed=8, rattle=0.1, calc=bias)
    expected = atoms.get_forces()
    for other in (copy.deepcopy(bias), pickle.loads(pickle.dumps(bias))):
        atoms.calc = other
        np.testing.assert_array_equal(atoms.get_forces(), expected)


def test_equal_rows_and_one_frame_serve():
    """A perfect crystal has no spread at all, one frame no other to be compared with."""
    for known in (bulk("Cu"), [bulk("Cu", cubic=True)] * 3):
        bias = EntropyBias(Nothing(), known, strength=0.1)
        atoms = copper(1, seed=2, rattle=0.05, calc=bias)
        assert np.isfinite(atoms.get_forces()).all()
        assert np.abs(atoms.get_forces()).max() > 0
        assert np.isfinite(bias.max_dh)


class OfOldKind:
    """A calculator without results that must be told of its atoms, as those of asap3."""

    atoms = None

    def set_atoms(self, atoms):
        self.atoms = atoms

    def get_potential_energy(self, atoms):
        assert atoms is self.atoms
        return 1.0

    def get_forces(self, atoms):
        assert atoms is self.atoms
        return np.ones((len(atoms), 3))

    def get_stress(self, atoms):
        return np.ones(6)


def test_calculators_of_the_old_kind():
    atoms = copper(1, seed=8, rattle=0.1, calc=EntropyBias(OfOldKind(), crystals(), strength=0.1))
    assert atoms.get_potential_energy() == 1 + atoms.calc.results["bias_energy"]
    results = atoms.calc.results
    np.testing.assert_array_equal(atoms.get_forces(), 1 + results["bias_forces"])
    np.testing.assert_array_equal(atoms.get_stress(), 1 + results["bias_stress"])


def test_bad_arguments():
    known = crystals()
    with pytest.raises(TypeError, match="calc: expected an ASE calculator"):
        EntropyBias(EMT, known)
    with pytest.raises(TypeError, match="reference: expected a Reference"):
        EntropyBias(EMT(), 3)
    with pytest.raises(ValueError, match="reference: expected frames with atoms"):
        EntropyBias(EMT(), [])
    for bad in ({"share": 0}, {"share": "a"}, {"warmup": 0}, {"strength": -1.0}, {"max_dh": np.inf}):
        with pytest.raises(ValueError, match=f"{next(iter(bad))}: expected"):
            EntropyBias(EMT(), known, **bad)
    atoms = Atoms("CuAg", [(0, 0, 0), (0, 0, 2.5)])
    atoms.calc = EntropyBias(EMT(), known)
    with pytest.raises(UnsuitableFrameError, match="got Ag"):
        atoms.get_forces()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        thinned = Reference.from_frames(known, groups="frame").thin(-0.5)
    with pytest.raises(ValueError, match="give the frames themselves"):
        EntropyBias(EMT(), thinned)
