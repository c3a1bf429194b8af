"""Flagged frames come back from their file, whatever the run has put into its atoms."""

import errno
import io
import math
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.constraints import FixAtoms, FixBondLengths, FixCom
from ase.io import read
from logs import EVENT, check
from systems import copper

from quests_md.io import append_frame, is_finite, iter_frames, labelled_copy


def labelled(atoms, step=3, dh=None):
    """The copy of a frame that was checked; the check has the energy that the calculator has."""
    n = len(atoms)
    energy = None if atoms.calc is None else atoms.calc.results["energy"] / n
    found = check(0, step=step, energy_per_atom=energy, above=np.arange(n) < 2, alarms=("dh_max", "dh_mean"))
    forces = None if atoms.calc is None else atoms.calc.results.get("forces")
    return labelled_copy(atoms, found, EVENT, np.linspace(1, -3, n) if dh is None else dh, "abc123", forces)


@pytest.fixture
def save(tmp_path):
    """Append a frame to a file and read back what it is there."""

    def append(atoms, **options):
        append_frame(tmp_path / "f.extxyz", labelled(atoms, **options))
        return read(tmp_path / "f.extxyz", -1)

    return append


def with_forces(atoms, calculator=EMT):
    atoms.calc = calculator()
    atoms.get_forces()
    return atoms


def test_a_saved_frame_carries_what_was_found(save):
    atoms = copper(rattle=0.1, temperature_K=300)
    dh = np.where(np.arange(32) == 4, math.inf, np.linspace(1, -3, 32))
    frame = save(atoms, dh=dh)
    np.testing.assert_allclose(frame.positions, atoms.positions, atol=1e-8)
    np.testing.assert_allclose(frame.get_momenta(), atoms.get_momenta(), atol=1e-8)
    np.testing.assert_allclose(frame.cell, atoms.cell)
    np.testing.assert_allclose(frame.arrays["delta_entropy"], dh, atol=1e-8)
    np.testing.assert_array_equal(frame.arrays["above"], np.arange(32) < 2)
    expected = {"step": 3, "event": 1, "kind": "novel", "reference": "abc123", "alarms": "dh_max dh_mean"}
    expected |= {"dh_mean": -4.0, "excess": -2.0, "n_above": 0, "dh_max": math.inf}
    assert frame.info == expected
    assert frame.calc is None


def test_a_frame_that_could_not_be_judged_has_no_values():
    frame = labelled_copy(copper(), check(0), EVENT, None, "abc123")
    assert not {"delta_entropy", "above"} & set(frame.arrays)
    assert "dh_max" not in frame.info


def test_dh_may_be_infinite_but_neither_positions_nor_forces():
    atoms = with_forces(copper())
    frame = labelled(atoms, dh=np.full(32, math.inf))
    assert is_finite(frame)
    frame.calc.results["forces"][3, 1] = math.nan
    assert not is_finite(frame)
    atoms.positions[0, 0] = math.nan
    assert not is_finite(atoms)


def test_forces_are_saved_as_the_calculator_gave_them(save):
    atoms = with_forces(copper(rattle=0.1))
    atoms.set_constraint(FixAtoms([0, 1]))
    free = atoms.get_forces(apply_constraint=False)
    assert np.abs(free[:2]).max() > 0.1
    frame = save(atoms)
    assert frame.get_potential_energy() == pytest.approx(atoms.get_potential_energy())
    np.testing.assert_allclose(frame.get_forces(apply_constraint=False), free, atol=1e-7)


@pytest.mark.parametrize(
    "constraint", [FixAtoms([0, 1]), FixBondLengths([[0, 1]]), FixCom()], ids=["atoms", "bonds", "com"]
)
def test_constrained_atoms_can_be_saved(constraint, save):
    atoms = copper(rattle=0.1)
    atoms.set_constraint(constraint)
    assert "delta_entropy" in save(atoms).arrays
    assert len(atoms.constraints) == 1


def test_atoms_without_a_cell_can_be_saved(save):
    atoms = with_forces(Atoms("Cu3", positions=[(0, 0, 0), (0, 0, 2.2), (0, 2.0, 1)]), LennardJones)
    frame = save(atoms)
    assert not frame.pbc.any()
    assert len(frame.arrays["delta_entropy"]) == 3


def test_info_and_arrays_of_any_kind_do_not_spoil_the_file(save):
    atoms = copper(rattle=0.1)
    atoms.info.update(
        {
            "config_type": "a name with 'quotes', = and \"more\"",
            "empty": "",
            "none": None,
            "dict": {"a": [1, {2: 3}]},
            "list": [[1, 2], [3]],
            "flag": np.True_,
            "two lines": "a\nb",
            ("tu", "ple"): 3,
            5: 5,
            "temperature": np.float32(300),
            "nan": math.nan,
            "object": object(),
            "step": "mine",
        }
    )
    atoms.set_array("stresses", np.zeros((32, 3, 3)))
    atoms.set_array("objects", np.array([{}] * 32, dtype=object))
    atoms.set_array("my_charge", np.linspace(0, 1, 32))
    atoms.set_array("complex", np.ones(32) * 1j)
    atoms.set_array("id", np.arange(32, dtype=np.uint32))
    info, arrays = dict(atoms.info), sorted(atoms.arrays)
    for step in (3, 4):  # the second follows whatever the first has left in the file
        frame = save(atoms, step=step)
        assert frame.info["step"] == step
        assert frame.info["config_type"] == info["config_type"]
        np.testing.assert_allclose(frame.arrays["my_charge"], np.linspace(0, 1, 32), atol=1e-8)
        np.testing.assert_array_equal(frame.arrays["id"], np.arange(32))
        assert "delta_entropy" in frame.arrays
        assert len(frame) == 32
    assert atoms.info == info
    assert sorted(atoms.arrays) == arrays


@pytest.mark.parametrize("has_results", [False, True])
def test_labels_of_the_start_structure_are_not_passed_on(save, has_results):
    """ASE takes such names for results of the frame."""
    atoms = with_forces(copper(rattle=0.1)) if has_results else copper(rattle=0.1)
    atoms.info.update({"energy": 1.0, "free_energy": 2.0})
    atoms.set_array("forces", np.ones((32, 3)))
    frame = save(atoms)
    if has_results:
        assert frame.get_potential_energy() == pytest.approx(atoms.get_potential_energy())
        np.testing.assert_allclose(frame.get_forces(), atoms.get_forces(), atol=1e-7)
    else:
        assert frame.calc is None
        assert "energy" not in frame.info
        assert "forces" not in frame.arrays


def test_a_full_disk_costs_no_frame_that_was_saved(tmp_path, monkeypatch):
    path = tmp_path / "flagged.extxyz"
    frame = labelled(copper())
    append_frame(path, frame)
    whole = path.read_bytes()

    class Full(io.FileIO):
        def write(self, data):
            super().write(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(Path, "open", lambda self, *args, **options: Full(self, "ab"))
        with pytest.raises(OSError, match="No space left"):
            append_frame(path, frame)
    assert path.read_bytes() == whole
    append_frame(path, frame)
    assert len(read(path, ":")) == 2


def odd(n=32):
    """Atoms with what hosts and people put into them."""
    atoms = with_forces(copper(rattle=0.1, temperature_K=300))
    rng = np.random.default_rng(0)
    atoms.set_array("mtt::aux::energy", rng.normal(size=n))
    atoms.set_array("mtt aux energy", rng.normal(size=n))
    atoms.set_array("a,b", rng.normal(size=(n, 2)) * 1e-12)
    atoms.set_array("v", rng.normal(size=(n, 2)) * 1e12)
    atoms.set_array("v0", rng.integers(0, 9, n))
    atoms.set_array("Z", rng.integers(0, 9, n))
    atoms.set_array("species", np.array(["He"] * n))
    atoms.set_array("charge", rng.normal(size=n))
    atoms.set_array("2nd", rng.integers(0, 2, n).astype(bool))
    atoms.set_array("label", np.array([f"Cu{i}" for i in range(n)]))
    atoms.set_array("blanks", np.array(["Cu 1"] * n))
    atoms.set_array("empty", np.array([""] * n))
    atoms.set_array("half", rng.normal(size=n).astype(np.float32))
    kept = {"config_type": "300", "is": "T", "list": "1 2 3", "none": "", "lines": "a\nb", "x": 1e-300, "t": True}
    kept |= {"q": '"', "b": "\\"}
    atoms.info |= kept | {"a b": 1, "Lattice": 3, "pbc": "F F F", "properties": "species", "virial": 2.0, "a=b": 1}
    return atoms


def test_what_is_written_reads_back_equal(save, tmp_path):
    atoms = odd()
    frame = save(atoms)
    found = next(iter_frames(tmp_path / "f.extxyz")).atoms
    for back in (frame, found):
        np.testing.assert_array_equal(back.positions, atoms.positions)
        np.testing.assert_array_equal(back.cell.array, atoms.cell.array)
        np.testing.assert_array_equal(back.numbers, atoms.numbers)
        np.testing.assert_array_equal(back.get_momenta(), atoms.get_momenta())
        np.testing.assert_array_equal(back.get_forces(), atoms.get_forces())
        for name, written in {
            "mtt::aux::energy": "mtt_aux_energy",
            "mtt aux energy": "mtt_aux_energy_",
            "a,b": "a_b",
            "v": "v",
            "v0": "v0_",
            "Z": "array_Z",
            "charge": "array_charge",
            "2nd": "array_2nd",
            "label": "label",
            "half": "half",
        }.items():
            np.testing.assert_array_equal(back.arrays[written], atoms.arrays[name], err_msg=name)
        assert not {"blanks", "empty"} & set(back.arrays)
        kept = ("config_type", "is", "list", "none", "lines", "x", "q", "b", "t")
        assert {key: back.info.get(key) for key in kept} == {key: atoms.info[key] for key in kept}
        assert (back.arrays["delta_entropy"] == np.linspace(1, -3, 32)).all()


def test_what_is_written_is_read_by_ovito(save, tmp_path):
    ovito = pytest.importorskip("ovito.io", reason="OVITO is not installed")
    atoms = odd()
    save(atoms)
    data = ovito.import_file(str(tmp_path / "f.extxyz")).compute()
    np.testing.assert_allclose(np.asarray(data.particles["delta_entropy"]), np.linspace(1, -3, 32))
    np.testing.assert_allclose(np.asarray(data.particles["mtt_aux_energy"]), atoms.arrays["mtt::aux::energy"])
    np.testing.assert_allclose(np.asarray(data.particles.positions), atoms.positions, atol=1e-12)
    np.testing.assert_allclose(np.asarray(data.cell)[:, :3], atoms.cell.array.T)
    assert data.attributes["step"] == 3


TAKEN = (
    "energy free_energy dipole stress forces magmom polarization dielectric_tensor Position position x z type "
    "element Particle_Type id ID Particle_Identifier mass Mass radius color Color Vector_Color transparency selection "
    "Selection hidden velo Velocity Velocity_Magnitude force Force disp Displacement local_energy Kinetic_Energy "
    "total_energy Stress_Tensor cluster Coordination structure_type Rotation orientation Orientation aspherical_shape "
    "dipoles omega angular_momentum torque Torque spin centro_symmetry molecule Molecule_Type Nucleobase n_neighb "
    "map_shift momenta2 "
)


@pytest.mark.parametrize("shape", [(32,), (32, 2), (32, 3), (32, 9)])
def test_names_that_readers_take_for_something_else(save, tmp_path, shape):
    atoms = copper(rattle=0.1)
    written = {}
    for name in TAKEN.split():
        if shape == (32, 3) and name == "forces":
            continue  # a result of a calculator, of whatever frame the run began with
        array = np.random.default_rng(len(written)).uniform(1, 9, shape)
        atoms.set_array(name, array)
        written[name if name == "momenta2" else f"array_{name}"] = array
    frame = save(atoms)
    assert frame.calc is None
    for name, array in written.items():
        np.testing.assert_array_equal(frame.arrays[name], array, err_msg=name)
    ovito = pytest.importorskip("ovito.io", reason="OVITO is not installed")
    data = ovito.import_file(str(tmp_path / "f.extxyz")).compute()
    np.testing.assert_allclose(np.asarray(data.particles.positions), atoms.positions, atol=1e-12)
    for name, array in written.items():
        np.testing.assert_allclose(np.asarray(data.particles[name]), array, err_msg=name)


def test_ids_of_a_dump_keep_their_name(save):
    atoms = copper(rattle=0.1)
    atoms.set_array("id", np.arange(32)[::-1] + 5)
    assert (save(atoms).arrays["id"] == atoms.arrays["id"]).all()


def test_results_of_another_number_of_atoms_are_not_written(save):
    atoms = with_forces(copper(rattle=0.1))
    atoms.calc.results["forces"] = np.zeros((5, 3))
    assert "forces" not in save(atoms).calc.results
