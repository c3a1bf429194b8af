"""The first frame of a run: what cannot be one is bad input, no explosion; and lengths in other units are doubted."""

import functools

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.io import write
from systems import H, copper, level_at, verlet

from quests_md import Descriptor, Monitor, Reference, UnsuitableFrameError, score_trajectory
from quests_md.errors import FileFormatError


@functools.cache
def known():
    reference = Reference.from_frames([copper(seed=i, rattle=0.06) for i in range(6)], bandwidth=H, groups="frame")
    return reference, level_at(reference, 1e3)


def scaled(factor, *, cell=True):
    atoms = copper(seed=9, rattle=0.06)
    atoms.positions *= factor
    if cell:
        atoms.set_cell(atoms.cell * factor)
    return atoms


def fractions():
    atoms = copper(seed=9, rattle=0.06)
    atoms.positions = atoms.get_scaled_positions()
    return atoms


def broken(what, value=np.nan):
    atoms = copper(seed=9, rattle=0.06)
    (atoms.positions if what == "positions" else atoms.cell.array)[1, 1] = value
    return atoms


BAD = {
    "nm": (scaled(0.1), "its lengths are not in Å"),
    "m": (scaled(1e-10), "Å"),
    "positions in nm": (scaled(0.1, cell=False), "fractions of the cell|nm"),
    "reduced units": (scaled(0.44), "0.44 times those of the reference"),
    "fractions": (fractions(), "fractions of the cell"),
    "nan": (broken("positions"), "expected finite numbers"),
    "inf": (broken("positions", np.inf), "expected finite numbers"),
    "far": (broken("positions", 1e10), "expected coordinates up to"),
    "nan in the cell": (broken("cell"), "cell: expected finite numbers"),
    "a point": (Atoms("Cu32", np.zeros((32, 3)), cell=[7.22] * 3, pbc=True), "0 Å"),
    "a point without a cell": (Atoms("Cu32", np.ones((32, 3))), "0 Å"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_a_first_frame_is_bad_input(name, tmp_path):
    atoms, said = BAD[name]
    frames = [atoms] * 2
    with pytest.raises(UnsuitableFrameError, match=said):
        list(score_trajectory(frames, *known(), on_error="log"))
    with Monitor(*known(), log=None, on_error="raise") as monitor, pytest.raises(UnsuitableFrameError, match=said):
        monitor.check(atoms)
    with Monitor(*known(), log=tmp_path / "run.jsonl", on_error="log") as monitor:
        moving = atoms.copy()
        moving.calc = EMT()
        with pytest.raises(UnsuitableFrameError, match=said):
            monitor.attach(verlet(moving), 1)
        assert monitor.check(atoms).state == "invalid"
        assert not monitor.events
        assert monitor.check(copper()).state == "in"  # the log was left free
    if len(atoms):
        write(tmp_path / "run.traj", frames)
        with pytest.raises(FileFormatError, match=f"run.traj: frame 0: .*({said}).*begin with a later, good one"):
            list(score_trajectory(tmp_path / "run.traj", *known()))


@pytest.mark.parametrize("name", sorted(BAD.keys() - {"no atoms"}))
def test_later_it_is_an_explosion(name):
    atoms, _ = BAD[name]
    with Monitor(*known(), log=None, on_error="raise") as monitor:
        checks = [monitor.check(frame) for frame in (copper(), atoms)]
        assert [event.kind for event in monitor.events] == ["exploded"]
    assert checks[1].state in ("invalid", "out")
    if checks[1].state == "invalid" and len(atoms):  # the first check of a loop may come after many steps
        with Monitor(*known(), log=None, on_error="raise") as monitor:
            monitor.check(broken("positions"), step=1000)
            assert [event.kind for event in monitor.events] == ["exploded"]


def test_a_run_that_is_taken_up_may_have_exploded(tmp_path):
    frames = [copper(), broken("positions")]
    for n in (1, 2):
        with Monitor(*known(), log=tmp_path / "run.jsonl", on_error="raise", resume=n == 2) as monitor:
            list(score_trajectory(frames[:n], monitor=monitor))
    assert [event.kind for event in monitor.events] == ["exploded"]
    with Monitor(*known(), log=None, on_error="raise") as monitor:  # a second part of the same run
        list(score_trajectory(frames[:1], monitor=monitor))
        assert [check.state for check in score_trajectory(frames[1:], monitor=monitor)] == ["invalid"]


def overlapping():
    atoms = copper(seed=9, rattle=0.06)
    atoms.positions[:8] = atoms.positions[8:16] + 0.3
    return atoms


GOOD = {
    "some atoms near each other": overlapping(),
    "a hot start": copper(seed=9, rattle=0.4),
    "one atom": Atoms("Cu", cell=[9] * 3, pbc=True),
    "two near atoms": Atoms("Cu2", [[0, 0, 0], [0, 0, 0.6]]),
    "hydrogen": molecule("H2"),
    "another material": bulk("Cs", cubic=True) * 2,
    "a gas of molecules": molecule("N2", cell=[8] * 3, pbc=True) * (2, 2, 2),
    "expanded": scaled(1.3),
    "an isolated cloud": Atoms("Cu4", 1e7 * np.eye(4, 3)),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_may_be_a_first_frame(name, recwarn):
    with Monitor(*known(), log=None, on_error="raise") as monitor:
        list(score_trajectory([GOOD[name]], monitor=monitor))
    assert not [warning for warning in recwarn if "nearest distances" in str(warning.message)]


@pytest.mark.parametrize(
    ("factor", "ratio", "said"),
    [
        (1 / 0.529177, r"1\.[89]\d?", "frames of the run may be in bohr"),
        (100, r"10\d", "frames of the run may be in pm"),
    ],
)
def test_larger_lengths_are_doubted_before_the_first_check(factor, ratio, said, tmp_path):
    atoms = scaled(factor)
    with pytest.warns(UserWarning, match=f"{ratio} times those of the reference; .*{said}"):
        next(score_trajectory([atoms], *known()))
    with Monitor(*known(), log=None) as monitor:
        assert said in " ".join(monitor.preflight(atoms).split())


def test_a_reference_in_bohr_is_doubted():
    reference = Reference.from_frames([scaled(1 / 0.529177)] * 2, bandwidth=H)
    with pytest.warns(UserWarning, match=r"0\.5\d* times .*lengths of the reference may be in bohr"):
        next(score_trajectory([copper(rattle=0.06)], reference, level_at(reference, 1e3)))


def gas(kind, seed=0, spacing=6.0):
    """Eight molecules, or atoms, far from each other."""
    rng, atoms = np.random.default_rng(seed), Atoms(cell=[2 * spacing] * 3, pbc=True)
    for place in np.ndindex(2, 2, 2):
        one = molecule(kind) if len(kind) > 1 and kind != "Ar" else Atoms(kind)
        one.rotate(rng.uniform(0, 360), rng.normal(size=3))
        one.translate(spacing * np.array(place) + rng.normal(0, 0.1, 3))
        atoms += one
    return atoms


@pytest.mark.parametrize(("known_kind", "run"), [("H2O", "H2"), ("CO2", "O2"), ("CH4", "H2"), ("H2O", "C2H2")])
def test_other_bonds_than_those_of_the_reference_are_not_doubted(known_kind, run, recwarn):
    reference = Reference.from_frames([gas(known_kind, seed) for seed in range(3)], bandwidth=H)
    next(score_trajectory([gas(run)], reference, level_at(reference, 1e3)))
    assert not [warning for warning in recwarn if "nearest distances" in str(warning.message)]


def test_a_gas_is_not_doubted_beside_its_liquid(recwarn):
    liquid = Atoms("Ar32", positions=(bulk("Ar", "fcc", a=5.4, cubic=True) * 2).positions, cell=[10.8] * 3, pbc=True)
    liquid.rattle(0.2, seed=1)
    reference = Reference.from_frames([liquid] * 3, descriptor=Descriptor(cutoff=9.0), bandwidth=H)
    next(score_trajectory([gas("Ar", spacing=13.0)], reference, level_at(reference, 1e3)))
    assert not [warning for warning in recwarn if "nearest distances" in str(warning.message)]


def test_in_reduced_units_an_element_is_a_name(recwarn):
    def reduced(element, seed):
        atoms = bulk("Ar", "fcc", a=1.5, cubic=True) * 3
        atoms.symbols[:] = element
        atoms.rattle(0.03, seed=seed)
        return atoms

    reference = Reference.from_frames([reduced("Ar", seed) for seed in range(3)], bandwidth=H, match="any")
    next(score_trajectory([reduced("Kr", 9)], reference, level_at(reference, 1e3)))
