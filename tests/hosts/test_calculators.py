"""Energies and forces of calculators that keep no `results`: read where they are there, never calculated."""

import numpy as np
import pytest
from ase import units
from ase.calculators.emt import EMT
from ase.io import read
from ase.md.verlet import VelocityVerlet
from systems import cold_reference, copper, level_at

from quests_md import Monitor, Trigger, read_log, save_frame


class Bare:
    """EMT without `results`, in the manner of asap3: it counts its calculations, and says what it has if it is asked.

    `known`: what it admits to have; energies are calculated apart from forces.
    """

    def __init__(self, known):
        self.known = known
        self.calls = 0
        self._found = {}
        self._of = None

    def calculation_required(self, atoms, quantities):
        """Also true where it has been calculated, unless the quantity is among `known`."""
        return not all(name in self.known and self._has(name, atoms) for name in quantities)

    def get_potential_energy(self, atoms=None, force_consistent=False):
        return self._get("energy", atoms)

    def get_forces(self, atoms=None):
        return self._get("forces", atoms)

    def _has(self, name, atoms):
        return self._of == atoms.positions.tobytes() and name in self._found

    def _get(self, name, atoms):
        if not self._has(name, atoms):
            self.calls += 1
            if self._of != atoms.positions.tobytes():
                self._of, self._found = atoms.positions.tobytes(), {}
            copy = atoms.copy()
            copy.calc = EMT()
            self._found[name] = copy.get_potential_energy() if name == "energy" else copy.get_forces()
        return self._found[name]


def go(calculator, folder=None, *, before=None):
    """Five steps with a calculator, watched if there is a folder; the last positions, and the calculations made."""
    atoms = copper(seed=5, rattle=0.05, temperature_K=400, calc=calculator)
    dyn = VelocityVerlet(atoms, 5 * units.fs)
    if before is not None:
        dyn.attach(lambda: before(atoms), 1)
    if folder is None:
        dyn.run(5)
    else:
        reference, actions = cold_reference(), [save_frame(folder / "flagged.extxyz")]
        with Monitor(
            reference,
            level_at(reference, -50.0),
            log=folder / "run.jsonl",
            trigger=Trigger(patience=1),
            actions=actions,
            on_error="raise",
        ) as monitor:
            dyn.attach(monitor, 1, dyn)
            dyn.run(5)
    return atoms


def notes_of_energy(folder):
    return [note["message"] for note in read_log(folder / "run.jsonl").notes if "has no energy" in note["message"]]


CASES = {
    "says nothing": ((), None),
    "has forces": (("forces",), None),
    "has both": (("energy", "forces"), lambda atoms: atoms.get_potential_energy()),
}


@pytest.mark.parametrize("case", CASES)
def test_what_a_calculator_without_results_has_is_found_without_a_calculation(case, tmp_path):
    known, before = CASES[case]
    alone = go(Bare(known), before=before)
    watched = go(Bare(known), tmp_path, before=before)
    assert watched.calc.calls == alone.calc.calls
    assert watched.positions.tobytes() == alone.positions.tobytes()
    frame = read(tmp_path / "flagged.extxyz", 0)
    found = {} if frame.calc is None else frame.calc.results
    assert set(found) == set(known)
    log = read_log(tmp_path / "run.jsonl")
    assert np.isfinite(log.energy_per_atom.astype(float)).all() == ("energy" in known)
    assert len(notes_of_energy(tmp_path)) == ("energy" not in known)
    if known:
        start = copper(seed=5, rattle=0.05, temperature_K=400, calc=EMT())
        np.testing.assert_allclose(found["forces"], start.get_forces(), atol=1e-12)
        if "energy" in known:
            assert found["energy"] == pytest.approx(start.get_potential_energy(), abs=1e-9)


def test_a_calculator_that_cannot_answer_is_passed_over(tmp_path):
    class Broken(Bare):
        def calculation_required(self, atoms, quantities):
            raise RuntimeError("no answer")

    go(Broken(("energy",)), tmp_path)
    assert len(notes_of_energy(tmp_path)) == 1
    assert read(tmp_path / "flagged.extxyz", 0).calc is None


@pytest.mark.parametrize("potential", ["EMT", "LennardJones"])
def test_asap3(potential, tmp_path):
    asap3 = pytest.importorskip("asap3", reason="asap3 is not installed")

    def calculator():
        return asap3.EMT() if potential == "EMT" else asap3.LennardJones([29], [0.4], [2.2], rCut=3.4)

    alone, watched = go(calculator()), go(calculator(), tmp_path)
    assert watched.positions.tobytes() == alone.positions.tobytes()
    frame = read(tmp_path / "flagged.extxyz", 0)
    start = copper(seed=5, rattle=0.05, temperature_K=400, calc=calculator())
    assert len(notes_of_energy(tmp_path)) == 1
    if potential == "EMT":  # forces and energies are calculated apart, and a run asks for forces alone
        np.testing.assert_allclose(frame.get_forces(), start.get_forces(), atol=1e-12)
    else:  # says of nothing that it has it
        assert frame.calc is None


def test_asap3_with_energies_that_the_run_has_asked_for(tmp_path):
    asap3 = pytest.importorskip("asap3", reason="asap3 is not installed")
    go(asap3.EMT(), tmp_path, before=lambda atoms: atoms.get_potential_energy())
    assert notes_of_energy(tmp_path) == []
    start = copper(seed=5, rattle=0.05, temperature_K=400, calc=asap3.EMT())
    assert read(tmp_path / "flagged.extxyz", 0).get_potential_energy() == pytest.approx(start.get_potential_energy())
