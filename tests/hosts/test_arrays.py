"""Checks of arrays: the same checks, events and log as those of Atoms, and clear errors for anything else."""

import json
import math
import sys

import numpy as np
import pytest
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator
from systems import alloy, alloy_reference, copper, inside, level_at, md_reference, outside

from quests_md import Monitor, StopRun, save_frame
from quests_md.torch_sim import monitor_reporter

#: What differs between two runs of the same: when, who, how long.
FREE = {"elapsed_us", "started", "pid", "seconds"}


N = len(copper())


def monitored(log=None, **options):
    return Monitor(md_reference(), level_at(md_reference(), -6.0), log=log, **({"on_error": "raise"} | options))


def lines(path):
    found = []
    for text in path.read_text().splitlines():
        line = json.loads(text)
        if not line.get("message", "").startswith("closed after"):  # it tells how long checks took
            found.append({name: value for name, value in line.items() if name not in FREE})
    return found


def arrays_of(atoms):
    return atoms.positions, atoms.cell.array, atoms.pbc, atoms.numbers


def hot(count, *, is_outside):
    """A frame with everything that a frame may carry."""
    atoms = outside(count) if is_outside else inside(count)
    rng = np.random.default_rng(count)
    atoms.set_momenta(rng.normal(0, 0.5, (len(atoms), 3)))
    atoms.arrays["id"] = rng.permutation(len(atoms)) + 1
    atoms.calc = SinglePointCalculator(atoms, energy=-3.5 * count, forces=rng.normal(size=(len(atoms), 3)))
    return atoms


def test_checks_events_log_and_saved_frames_are_those_of_atoms_bit_for_bit(tmp_path):
    frames = [hot(count, is_outside=count in (3, 4, 5, 6)) for count in range(9)]
    frames[8].positions[3, 1] = math.nan
    checks = []
    for name in ("atoms", "arrays"):
        with monitored(tmp_path / f"{name}.jsonl", actions=[save_frame(tmp_path / f"{name}.extxyz")]) as monitor:
            for count, atoms in enumerate(frames):
                when = {"step": 10 * count, "time_ps": 0.02 * count}
                if name == "atoms":
                    monitor.check(atoms, **when)
                else:
                    results = {"momenta": atoms.get_momenta(), "ids": atoms.arrays["id"]} | atoms.calc.results
                    monitor.check_arrays(*arrays_of(atoms), **when, **results)
                checks.append(monitor.last_check.to_line() | {"elapsed_us": 0})
            assert [event.kind for event in monitor.events] == ["novel", "exploded"]
    assert repr(checks[:9]) == repr(checks[9:])
    assert repr(lines(tmp_path / "arrays.jsonl")).replace("arrays", "atoms") == repr(lines(tmp_path / "atoms.jsonl"))
    assert (tmp_path / "arrays.extxyz").read_bytes() == (tmp_path / "atoms.extxyz").read_bytes()


@pytest.mark.parametrize("kind", [list, np.float32, np.asfortranarray])
def test_lists_single_precision_and_any_order_in_memory_will_do(kind):
    atoms = inside(1)
    given = [kind(part) if kind is not list else part.tolist() for part in (atoms.positions, atoms.cell.array)]
    atoms.positions, atoms.cell[:] = (np.asarray(part, float) for part in given)
    with monitored() as one, monitored() as other:
        found = other.check_arrays(*given, True, atoms.numbers.tolist(), momenta=atoms.get_momenta())
        assert repr(one.check(atoms).to_line() | {"elapsed_us": 0}) == repr(found.to_line() | {"elapsed_us": 0})


def test_several_elements_no_cell_one_periodic_direction_and_masses():
    atoms = alloy(seed=3)
    atoms.pbc = [True, True, False]
    atoms.set_masses(np.full(len(atoms), 2.0))
    atoms.set_momenta(np.ones((len(atoms), 3)))
    reference = alloy_reference()
    molecule = Atoms("Cu3", [[0, 0, 0], [2.5, 0, 0], [0, 2.5, 0]])
    with Monitor(reference, level_at(reference, 5.0), log=None, on_error="raise") as monitor:
        found = monitor.check_arrays(*arrays_of(atoms), momenta=atoms.get_momenta(), masses=atoms.get_masses())
        assert found.digest == monitor.check(atoms).digest
        assert found.temperature_K == monitor.last_check.temperature_K
        found = monitor.check_arrays(molecule.positions, None, False, molecule.numbers)
        assert found.digest == monitor.check(molecule).digest
        assert found.volume_per_atom is None


def test_velocities_are_in_angstrom_per_fs():
    atoms = inside(1)
    atoms.set_velocities(np.random.default_rng(1).normal(0, 0.003, (len(atoms), 3)) / units.fs)
    with monitored() as monitor:
        found = monitor.check_arrays(*arrays_of(atoms), velocities=atoms.get_velocities() * units.fs)
    assert found.temperature_K == pytest.approx(atoms.get_temperature(), rel=1e-12)


def test_arrays_are_neither_changed_nor_kept():
    atoms, kept = outside(1), []
    given = [np.array(part) for part in arrays_of(atoms)]
    before = [part.copy() for part in given]
    for part in given:
        part.flags.writeable = False
    with monitored(actions=[lambda event, frame: kept.append(frame)]) as monitor:
        for _ in range(3):
            monitor.check_arrays(*given, momenta=given[0])
        assert len(kept) == 1
        kept[0].positions += 1
        for part in given:
            part.flags.writeable = True
            part[...] = 0
        assert not np.array_equal(kept[0].positions, given[0])
    assert [part.any() for part in before] == [True] * 4


def test_what_is_not_finite_is_judged_as_in_atoms():
    good, nothing = inside(1), np.full((N, 3), np.nan)
    for wrong in ({"positions": nothing}, {"forces": nothing}, {"energy": math.nan}, {"momenta": nothing}):
        given = dict(zip(("positions", "cell", "pbc", "numbers"), arrays_of(good), strict=True))
        with monitored() as monitor:
            monitor.check_arrays(**given)
            assert monitor.events == []
            monitor.check_arrays(**given | wrong)
            assert [event.kind for event in monitor.events] == ["exploded"]


WRONG = [
    ({"positions": np.zeros((N, 2))}, r"positions: expected numbers \(n, 3\) in Å, got shape \(32, 2\)"),
    ({"positions": [[0, 0, 0], [0, 0]]}, "positions: expected numbers"),
    ({"positions": np.full((N, 3), "x")}, "positions: expected numbers.* got type <U1"),
    ({"positions": np.zeros((N, 3), complex)}, "positions: expected numbers.* got type complex128"),
    ({"positions": None}, "positions: expected numbers"),
    ({"cell": [3.6, 3.6, 3.6]}, r"cell: expected numbers \(3, 3\) in Å.* got shape \(3,\)"),
    ({"cell": 7.2}, "cell: expected numbers"),
    ({"pbc": "TTT"}, "pbc: expected True or False"),
    ({"pbc": [True, False]}, r"pbc: expected True or False, or three of them, got shape \(2,\)"),
    ({"pbc": [0, 1, 2]}, "pbc: expected True or False"),
    ({"pbc": None}, "pbc: expected True or False"),
    ({"numbers": np.full(N - 1, 29)}, r"numbers: expected atomic numbers \(32,\)"),
    ({"numbers": np.full(N, 29.0)}, "numbers: expected atomic numbers.* got type float64"),
    ({"numbers": ["Cu"] * N}, "numbers: expected atomic numbers"),
    ({"numbers": np.full(N, 0)}, "numbers: expected atomic numbers from 1 to 118, got 0 for atom 0"),
    ({"numbers": np.full(N, -1)}, "got -1 for atom 0"),
    ({"numbers": [*[29] * (N - 1), 119]}, "got 119 for atom 31"),
    ({"momenta": np.zeros((N + 1, 3))}, r"momenta: expected numbers \(32, 3\)"),
    ({"velocities": np.zeros(3)}, r"velocities: expected numbers \(32, 3\) in Å/fs"),
    ({"momenta": np.zeros((N, 3)), "velocities": np.zeros((N, 3))}, "velocities: expected momenta or velocities"),
    ({"masses": np.zeros(N)}, "masses: expected positive finite numbers in amu, got 0.0 for atom 0"),
    ({"masses": 63.5}, r"masses: expected numbers \(32\) in amu, got shape \(\)"),
    ({"ids": np.zeros(N, int)}, "ids: expected a number of its own for each atom, got 0 for 32 atoms"),
    ({"ids": np.arange(N) - 1}, "ids: expected integers of 0 or more, got -1 for atom 0"),
    ({"ids": np.arange(N) + 0.5}, "ids: expected integers"),
    ({"energy": "low"}, "energy: expected a number in eV"),
    ({"energy": np.zeros(2)}, "energy: expected a number in eV"),
    ({"energy": 10**400}, "energy: expected a number in eV"),
    ({"step": 2**63}, "step: expected an integer of 64 bits"),
    ({"time_ps": 10**400}, "time_ps: expected a finite number of ps"),
    ({"forces": np.zeros((3, N))}, r"forces: expected numbers \(32, 3\) in eV/Å, got shape \(3, 32\)"),
    ({"time_ps": math.nan}, "time_ps: expected a finite number of ps"),
    ({"time_ps": "1"}, "time_ps: expected a finite number of ps"),
]


@pytest.mark.parametrize("on_error", ["log", "raise"])
def test_wrong_arguments_are_named_and_no_check_is_made(on_error):
    with monitored(on_error=on_error) as monitor:
        for wrong, message in WRONG:
            right = dict(zip(("positions", "cell", "pbc", "numbers"), arrays_of(inside(1)), strict=True))
            with pytest.raises(ValueError, match=message):
                monitor.check_arrays(**right | wrong)
        with pytest.raises(TypeError, match=r"step: expected an integer, got 1\.5"):
            monitor.check_arrays(*arrays_of(inside(1)), step=1.5)
        assert monitor.n_checks == 0


def test_an_array_that_numpy_cannot_take_says_what_to_do():
    class Tensor:
        def __array__(self, dtype=None, copy=None):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")

    with monitored() as monitor, pytest.raises(ValueError, match=r"positions: .* Tensor .*cuda:0.* give an array"):
        monitor.check_arrays(Tensor(), None, False, [29])


def test_a_stop_and_a_closed_monitor_are_as_in_check():
    def stop(event, frame):
        raise StopRun

    with monitored(actions=[stop], on_error="log") as monitor:
        for count in range(3):
            monitor.check_arrays(*arrays_of(outside(count)), step=count)
        assert monitor.stopped
    assert monitor.check_arrays(*arrays_of(inside(1))).state == "invalid"


def test_a_reporter_for_torch_sim_says_what_to_install_where_it_is_absent(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_sim.trajectory", None)
    with monitored() as monitor, pytest.raises(ImportError, match='install it with "pip install torch-sim'):
        monitor_reporter([monitor])
