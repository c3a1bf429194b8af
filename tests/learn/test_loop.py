"""The loop of active learning ends for a reason, pays for no label twice, and survives kills."""

import random
import shutil
import sys
from functools import partial

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.io import read, write
from ase.md.md import MolecularDynamics
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS

from quests_md import Calibration, Labeller, Loop, MismatchError, Monitor, Reference, Trigger, calibrate, run_to_event
from quests_md.errors import FrameError
from tests.support.looped import Teacher, frames_at, kill_until_done, known_and_start, loop_in, make_dynamics
from tests.support.systems import reordered


@pytest.fixture(scope="module")
def system():
    return known_and_start()


@pytest.fixture(scope="module")
def finished(system, tmp_path_factory):
    """A loop that was never killed, and why it ended."""
    folder = tmp_path_factory.mktemp("loop") / "whole"
    loop = loop_in(folder, *system)
    return loop, loop.run()


def positions(frames):
    return [frame.positions.tobytes() for frame in frames]


def test_the_loop_labels_until_its_runs_are_covered(finished, system):
    loop, reason = finished
    assert reason.startswith("covered: no run of 60 steps left what is known")
    assert [done.ends for done in loop.rounds][-1] == ("covered",)
    n = sum(done.n_labelled for done in loop.rounds)
    # it neither ends after the first labels nor goes on for ever
    assert len(loop.rounds) > 2
    assert len(loop.labelled) == n > 4
    assert loop.reference.n_frames == system[0].n_frames + n
    assert loop.calibration.fingerprint == loop.reference.fingerprint
    for frame in loop.labelled:
        bare = frame.copy()
        bare.calc = EMT()
        assert frame.get_potential_energy() == pytest.approx(bare.get_potential_energy(), abs=1e-9)
        assert np.abs(frame.get_forces() - bare.get_forces()).max() < 1e-9
    assert loop.rounds[0].force_error == pytest.approx(0.0, abs=1e-9)  # the model is its own teacher


def test_levels_are_carried_and_not_raised_by_what_was_added(finished, system):
    loop, _ = finished
    before, start = calibrate(system[0]), system[1]
    assert (loop.calibration.levels(start) <= before.levels(start) + 1e-6).all()


def test_levels_set_anew_would_end_it_after_its_first_labels(finished):
    """The first failure of the textbook's loop, which this one has not: the strange frames become usual."""
    loop, _ = finished
    folder = loop.folder / "round-000"
    reference = Reference.load(folder / "reference.safetensors")
    carried, anew = Calibration.load(folder / "calibration.json"), calibrate(reference)
    beyond = read(loop.folder / "round-001" / "run-0.traj", "1:")
    assert len(beyond) > 1
    for levels, state in ((carried, "out"), (anew, "in")):
        with Monitor(reference, levels, log=None, verbose=False, threads=1) as monitor:
            assert {monitor.check(frame, step=i).state for i, frame in enumerate(beyond)} == {state}


def test_frames_that_stay_beyond_end_it_after_three_rounds(tmp_path):
    """The second failure of the textbook's loop: levels that a frame exceeds even when it is known are never met."""
    frames, start = frames_at(20, 12, 0)  # so alike that a level is below the dH of 0 of a frame known once
    known = Reference.from_frames(reordered(frames), groups="frame")
    levels = calibrate(known, statistics=["dh_max"])
    assert (levels.levels(start) < 0).all()
    loop = loop_in(tmp_path / "loop", known, start, calibration=levels, n_per_round=2, steps=40)
    assert loop.run().startswith("stalled: in 3 rounds all frames that were labelled stayed beyond the levels")
    assert [(done.n_labelled, done.n_still_out) for done in loop.rounds] == [(2, 2)] * 3
    # and where it must end before that, a limit does it
    limited = loop_in(tmp_path / "limit", known, start, calibration=levels, n_per_round=2, steps=40, max_labels=2)
    assert limited.run().startswith("labels: all 2 are spent")


def test_a_loop_that_is_done_does_nothing_again(finished, system):
    loop, reason = finished
    paid = loop.folder.with_suffix(".paid").read_text()
    again = loop_in(loop.folder, *system, label=fail)
    assert again.run() == reason
    assert again.rounds == loop.rounds
    assert loop.folder.with_suffix(".paid").read_text() == paid


def fail(atoms):
    raise RuntimeError("no licence")


def test_runs_restart_from_the_last_covered_frame_with_its_momenta(finished):
    loop, _ = finished
    end = read(loop.folder / "round-000" / "run-0.traj", 0)
    start = read(loop.folder / "round-001" / "starts.traj", 0)
    assert np.array_equal(end.positions, start.positions)
    assert np.array_equal(end.get_momenta(), start.get_momenta())
    assert np.abs(start.get_momenta()).max() > 0


def check_killed(whole, reason, folder, system, **options):
    """A loop that is killed again and again ends as the whole one."""

    def make():
        return loop_in(folder, *system, **options)

    n_kills = kill_until_done(lambda: make().run(), random.Random(1), 0.6, 1.3)
    assert n_kills > 2
    loop = make()
    assert loop.run() == reason
    assert positions(loop.labelled) == positions(whole.labelled)
    assert loop.reference.fingerprint == whole.reference.fingerprint
    paid = folder.with_suffix(".paid").read_text().splitlines()
    # at most the label that a kill met is paid twice
    assert len(set(paid)) == len(whole.labelled)
    assert len(paid) - len(set(paid)) <= n_kills


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_kills_at_any_moment_change_nothing(finished, system, tmp_path):
    check_killed(*finished, tmp_path / "killed", system)


@pytest.mark.long
@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_kills_change_nothing_where_alarms_ask_colder_copies(tmp_path):
    system = known_and_start(in_motion=True)
    whole = loop_in(tmp_path / "whole", *system, n_per_round=4)
    reason = whole.run()
    assert reason.startswith("covered: no run of 60 steps left what is known")
    check_killed(whole, reason, tmp_path / "killed", system, n_per_round=4)


def test_labels_that_fail_are_kept_apart_and_the_others_count(finished, system, tmp_path):
    folder, calls = only_round_0_of(finished[0], tmp_path / "loop"), []
    shutil.rmtree(folder / "labels")
    (folder / "round-000" / "round.json").unlink()

    def sometimes(atoms):
        calls.append(1)
        if len(calls) % 2:
            raise RuntimeError("SCF did not converge")
        atoms.calc = EMT()
        return atoms

    loop = loop_in(folder, *system, label=sometimes, max_rounds=1)
    assert loop.run().startswith("rounds: all 1 are done")
    assert (loop.rounds[0].n_failed, loop.rounds[0].n_labelled) == (2, 1)
    failed = sorted((folder / "failed").glob("*.json"))
    assert len(failed) == 2
    assert "SCF did not converge" in failed[0].read_text()
    # and are not tried again
    loop_in(folder, *system, label=fail, max_rounds=1).run()
    assert len(calls) == 3


def test_nothing_that_can_be_labelled_ends_the_loop(finished, system, tmp_path):
    folder = only_round_0_of(finished[0], tmp_path / "loop")
    shutil.rmtree(folder / "labels")
    (folder / "round-000" / "round.json").unlink()  # as after a kill before the labels
    loop = loop_in(folder, *system, label=fail)
    reason = loop.run()
    assert reason.startswith(
        "nothing new: all 3 frames chosen failed to be labelled, the first by RuntimeError: no lic"
    )
    # and where the reason is gone, it goes on
    for path in (folder / "failed").iterdir():
        path.unlink()
    assert loop_in(folder, *system, max_rounds=1).run().startswith("rounds: all 1 are done")


def test_limits_end_the_loop(system, tmp_path):
    loop = loop_in(tmp_path / "labels", *system, max_labels=5)
    assert loop.run().startswith("labels: all 5 are spent")
    assert len(loop.labelled) == 5


def only_round_0_of(loop, folder):
    """A copy of the folder of a loop, as it was after the first round."""
    shutil.copytree(loop.folder, folder)
    for path in folder.glob("round-*"):
        if path.name != "round-000":
            shutil.rmtree(path)
    return folder


def test_a_small_error_ends_the_loop(finished, system, tmp_path):
    loop = loop_in(only_round_0_of(finished[0], tmp_path / "loop"), *system, target_error=0.1)
    assert loop.run().startswith("error: forces were")
    assert len(loop.rounds) == 1


def test_labels_of_files_are_waited_for(finished, system, tmp_path):
    folder = only_round_0_of(finished[0], tmp_path / "loop")
    shutil.rmtree(folder / "labels")
    (folder / "round-000" / "round.json").unlink()
    reason = loop_in(folder, *system, label="files", max_rounds=1).run()
    assert reason.startswith("waiting: 3 frames in ")
    assert loop_in(folder, *system, label="files", max_rounds=1).run() == reason
    wanted = sorted((folder / "to-label").glob("*.extxyz"))
    assert len(wanted) == 3
    for path in wanted:
        atoms = read(path)
        atoms.calc = EMT()
        atoms.get_forces()
        write(folder / "labels" / path.name, atoms)
    loop = loop_in(folder, *system, label="files", max_rounds=1)
    assert loop.run().startswith("rounds: all 1")
    assert loop.rounds[0].n_labelled == 3


def test_files_that_are_not_of_the_frame_are_refused(system, tmp_path):
    labeller = Labeller("files", tmp_path)
    frame = system[1].copy()
    name = labeller.label([frame]).waiting[0]
    for fault, message in (
        ("move", "expected the places of the frame"),
        ("element", "expected the atoms of the frame"),
        ("bare", "expected energy and forces"),
    ):
        other = frame.copy()
        if fault == "move":
            other.positions[0] += 0.1
        if fault == "element":
            other.numbers[0] = 79
        if fault != "bare":
            other.calc = EMT()
            other.get_forces()
        write(tmp_path / "labels" / f"{name}.extxyz", other)
        with pytest.raises(FrameError, match=message):
            labeller.label([frame])


@pytest.mark.parametrize("answer", [(np.nan, np.zeros((32, 3))), (1.0, np.zeros((3, 3))), "energy"])
def test_answers_that_are_no_labels_are_failures(system, tmp_path, answer):
    labelled = Labeller(lambda atoms: answer, tmp_path).label([system[1].copy()])
    assert (len(labelled.frames), len(labelled.failed)) == (0, 1)


def test_the_model_is_refitted_and_used(system, tmp_path):
    seen = []

    def refit(frames):
        seen.append(len(frames))
        return EMT()

    known, start = system
    start = start.copy()
    start.calc = Weak()
    loop = loop_in(tmp_path / "loop", known, start, refit=refit, max_rounds=2)
    loop.run()
    assert seen == [loop.rounds[0].n_labelled]
    assert loop.rounds[0].force_error > 0.05
    assert loop.rounds[1].force_error is None or loop.rounds[1].force_error < 1e-9


def exploding(start, part=-15):
    """A start whose first model explodes between two checks, before a frame beyond is fit to be labelled."""
    start = start.copy()
    start.calc = Weak(part)
    return start


def test_a_run_that_explodes_within_what_is_known_gives_the_frames_before(system):
    atoms = exploding(system[1])
    first = atoms.copy()
    with Monitor(system[0], log=None, verbose=False) as monitor:
        end = run_to_event(make_dynamics(atoms, np.random.default_rng(0)), atoms, monitor, steps=60, interval=5)
    assert end.end == "exploded"
    assert 1 < len(end.before) <= 20 + 5
    assert np.array_equal(end.before[0].positions, first.positions)  # the only one that was checked
    apart = [np.abs(frame.positions - first.positions).max() for frame in end.before]
    assert apart == sorted(apart)
    assert all(np.isfinite(frame.calc.results["forces"]).all() for frame in end.before)


def test_frames_kept_from_before_an_explosion_are_the_last_and_few(system):
    atoms = ideal()
    with Monitor(system[0], log=None, verbose=False) as monitor:
        dyn = Excursion(atoms, bursts=95)
        end = run_to_event(dyn, atoms, monitor, steps=200, interval=10, n_beyond=2)
    assert (end.end, end.before) == ("event", [])
    atoms = ideal()
    with Monitor(system[0], log=None, verbose=False) as monitor:
        dyn = Excursion(atoms, out=(0, 0), bursts=98)
        end = run_to_event(dyn, atoms, monitor, steps=200, interval=10, n_beyond=2)
    assert (end.end, end.steps) == ("exploded", 100)
    known = [np.array_equal(frame.positions, dyn.visited[n]) for frame, n in zip(end.before, (80, 90, 95), strict=True)]
    assert known == [True] * 3


def test_a_model_that_explodes_within_what_is_known_goes_on_learning(system, tmp_path):
    """The first two models explode; the third is the teacher, as a student that has learnt from the frames before."""
    known, start = system
    seen = []

    def refit(frames):
        seen.append(len(frames))
        return EMT() if len(seen) > 1 else Weak(-15)

    loop = loop_in(tmp_path / "loop", known, exploding(start), refit=refit, max_rounds=3)
    assert loop.run().startswith("rounds: all 3")
    assert [done.ends for done in loop.rounds] == [("exploded",), ("exploded",), ("event",)]
    assert [done.n_before for done in loop.rounds] == [3, 3, 0]
    assert [done.n_labelled for done in loop.rounds] == [3, 3, 3]
    assert seen == [3, 6]
    assert len(set(positions(loop.labelled))) == 9
    assert loop.rounds[0].force_error > 1  # of the model that exploded
    for frame in loop.labelled[:6]:
        assert frame.get_all_distances(mic=True)[np.triu_indices(len(frame), 1)].min() > 1.7


def test_a_model_that_explodes_whatever_it_learns_ends_the_loop(system, tmp_path):
    known, start = system
    loop = loop_in(tmp_path / "loop", known, exploding(start), refit=lambda frames: Weak(-15), target_error=1e6)
    assert loop.run().startswith("stalled: in 3 rounds runs exploded before a frame beyond was fit to be labelled")
    assert all(done.n_before for done in loop.rounds)
    # and where no frame is fit, at once
    start = exploding(start, -300)
    at_once = loop_in(tmp_path / "at-once", known, start)
    assert at_once.run().startswith("nothing new: the last round added no labels (its runs ended exploded")


def test_kills_change_nothing_where_frames_before_an_explosion_are_labelled(system, tmp_path):
    known, start = system
    options = {"refit": lambda frames: Weak(-15)}
    whole = loop_in(tmp_path / "whole", known, exploding(start), max_rounds=2, **options)
    reason = whole.run()
    # as killed after the runs of the last round, and after its frames were chosen
    for kept in ("run-0.json", "chosen-before.extxyz"):
        folder = tmp_path / kept
        shutil.copytree(whole.folder, folder)
        files = sorted((folder / "round-001").iterdir(), key=lambda path: path.stat().st_mtime_ns)
        names = [path.name for path in files]
        for path in files[names.index(kept) + 1 :]:
            path.unlink()
        again = loop_in(folder, known, exploding(start), max_rounds=2, **options)
        assert again.run() == reason
        assert again.rounds == whole.rounds
        assert positions(again.labelled) == positions(whole.labelled)
        assert not folder.with_suffix(".paid").exists()  # no label was asked for again


def test_cells_are_cut_out_of_large_frames_from_before_an_explosion(system, tmp_path):
    known, start = system
    large = exploding(start * (2, 2, 2))
    loop = loop_in(tmp_path / "loop", known, large, max_atoms=130, max_rounds=1, n_per_round=2)
    loop.run()
    assert loop.rounds[0].n_before == loop.rounds[0].n_labelled > 0
    assert all(len(frame) <= 130 for frame in loop.labelled)


class Weak(Calculator):
    """EMT with forces of nine tenths, or of another part."""

    implemented_properties = ("energy", "forces")

    def __init__(self, part=0.9):
        super().__init__()
        self.part = part

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        other = atoms.copy()
        other.calc = EMT()
        self.results = {"energy": other.get_potential_energy(), "forces": self.part * other.get_forces()}


def test_cells_are_cut_out_of_large_frames(finished, system, tmp_path):
    """A supercell of the small system: what is labelled has at most as many atoms as asked for."""
    known, start = system
    large = start * (2, 2, 2)
    large.set_momenta(np.random.default_rng(3).normal(size=(len(large), 3)) * 3.0)
    large.calc = EMT()
    options = {"max_atoms": 130, "max_rounds": 1, "n_per_round": 2, "steps": 40}
    loop = loop_in(tmp_path / "loop", known, large, **options)
    loop.run()
    assert loop.rounds[0].n_labelled > 0
    for frame in loop.labelled:
        assert len(frame) <= 130
        assert 0 < frame.arrays["core"].sum() < len(frame)
    assert loop.rounds[0].force_error < 0.2  # of core atoms, in the cell and in the frame, by one potential


def test_other_starts_levels_and_triggers_need_another_folder(finished, system):
    known, start = system
    other = start.copy()
    other.positions[0] += 0.1
    with pytest.raises(MismatchError, match="starts was"):
        loop_in(finished[0].folder, known, other)
    with pytest.raises(MismatchError, match="trigger was None"):
        loop_in(finished[0].folder, *system, trigger=Trigger(patience=5))
    with pytest.raises(MismatchError, match="calibration was None"):
        loop_in(finished[0].folder, *system, calibration=calibrate(known, false_alarms=0.2))


def test_other_settings_need_another_folder(finished, system):
    with pytest.raises(MismatchError, match="steps was 60 when the loop began, and is 70 now"):
        loop_in(finished[0].folder, *system, steps=70)


def test_several_starts_make_a_run_each(system, tmp_path):
    known, start = system
    other = start.copy()
    other.calc = EMT()
    loop = loop_in(tmp_path / "loop", known, [start, other], max_rounds=1)
    loop.run()
    assert len(loop.rounds[0].ends) == 2
    a, b = (read(loop.folder / "round-000" / f"run-{k}.traj", -1) for k in (0, 1))
    assert not np.array_equal(a.positions, b.positions)  # other random numbers


def test_pieces_can_be_used_alone(system):
    known, start = system
    atoms = start.copy()
    atoms.calc = EMT()
    dyn = make_dynamics(atoms, np.random.default_rng(0))
    with Monitor(known, log=None, verbose=False) as monitor:
        end = run_to_event(dyn, atoms, monitor, steps=200, interval=5, n_beyond=3)
    assert end.end == "event"
    assert len(end.beyond) == 3
    assert end.beyond[0].calc.results["forces"].shape == (32, 3)
    assert Reference.delta_entropy(known, end.restart).max() < Reference.delta_entropy(known, end.beyond[-1]).max()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"label": 3}, TypeError, "label: expected"),
        ({"label": EMT}, TypeError, "got the class EMT; give EMT"),
        ({"n_per_round": 0}, ValueError, "n_per_round: expected"),
        ({"steps": -1}, ValueError, "steps: expected"),
        ({"max_labels": 0}, ValueError, "max_labels: expected"),
        ({"target_error": -0.1}, ValueError, "target_error: expected"),
    ],
)
def test_bad_arguments_are_named(system, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        loop_in(tmp_path / "loop", *system, **options)
    assert not (tmp_path / "loop" / "loop.json").exists()


class Excursion(MolecularDynamics):
    """Copper that rattles by 0.05 Å, and by 0.16 Å from step 20 to 59 or some others, and bursts at a step if asked."""

    def __init__(self, atoms, out=(20, 60), bursts=None):
        super().__init__(atoms, timestep=1.0)
        self.places, self.rng, self.n = atoms.positions.copy(), np.random.default_rng(1), 0
        self.out, self.bursts, self.visited = out, bursts, {}

    def step(self, forces=None):
        self.n += 1
        width = 0.16 if self.out[0] <= self.n < self.out[1] else 0.05
        if self.bursts is not None and self.n >= self.bursts:
            width = 3.0
        self.atoms.positions = self.places + self.rng.normal(0, width, self.places.shape)
        self.visited[self.n] = self.atoms.positions.copy()
        return self.atoms.get_forces()


def ideal():
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    atoms.calc = EMT()
    return atoms


def test_an_excursion_that_comes_back_is_an_event(system):
    atoms = ideal()
    with Monitor(system[0], log=None, verbose=False) as monitor:
        end = run_to_event(Excursion(atoms), atoms, monitor, steps=200, interval=5, n_beyond=20)
    assert (end.end, end.steps) == ("event", 200)
    assert len(end.beyond) == 8


def test_optimizers_make_their_steps(system):
    atoms = ideal()
    atoms.rattle(0.1, seed=1)
    before = atoms.positions.copy()
    with Monitor(system[0], log=None, verbose=False) as monitor:
        end = run_to_event(BFGS(atoms, logfile=None), atoms, monitor, steps=20, interval=5)
    assert end.steps > 3
    assert np.abs(atoms.positions - before).max() > 0.05


def test_random_numbers_are_given_however_they_are_asked_for(system, tmp_path):
    seen = []

    def by_keyword(atoms, *, rng=None):
        seen.append(rng)
        return make_dynamics(atoms, rng)

    def by_place(atoms, generator):
        return by_keyword(atoms, rng=generator)

    known, start = system
    for k, make in enumerate((by_keyword, by_place, partial(by_keyword))):
        assert Loop(start, make, known, label=EMT(), folder=tmp_path / str(k), steps=5).run().startswith("covered")
    assert [type(one) for one in seen] == [np.random.Generator] * 3


def test_labels_of_other_atoms_are_failures(system, tmp_path):
    frame = system[1].copy()

    def reversed_order(atoms):
        other = atoms[::-1]
        other.calc = EMT()
        return other

    def strained(atoms):
        atoms.set_cell(atoms.cell * 1.1)
        atoms.calc = EMT()
        return atoms

    def wrapped(atoms):
        atoms.wrap()
        atoms.positions += atoms.cell[0]
        atoms.calc = EMT()
        return atoms

    for label, n in ((reversed_order, 0), (strained, 0), (wrapped, 1)):
        labelled = Labeller(label, tmp_path / label.__name__).label([frame])
        assert len(labelled.frames) == n, label.__name__


def test_starts_without_a_calculator_are_refitted_first_and_keep_their_arrays(system, tmp_path):
    known, start = system
    bare = start.copy()
    bare.calc = None
    bare.set_array("mol", np.arange(32))
    seen = []

    def make(atoms, rng):
        seen.append(atoms.arrays["mol"].copy())
        return make_dynamics(atoms, rng)

    loop = Loop(bare, make, known, label=EMT(), refit=lambda frames: EMT(), folder=tmp_path / "l", steps=5, threads=1)
    assert loop.run().startswith("covered")
    assert np.array_equal(seen[0], np.arange(32))


def test_a_dynamics_of_other_atoms_is_refused(system, tmp_path):
    known, start = system
    other = start.copy()
    other.calc = EMT()
    loop = Loop(start, lambda atoms: VelocityVerlet(other, 1.0), known, label=EMT(), folder=tmp_path / "loop")
    with pytest.raises(ValueError, match="make_dynamics: expected a dynamics of the atoms"):
        loop.run()
    with pytest.raises(TypeError, match="starts: expected Atoms"):
        Loop([], make_dynamics, known, label=EMT(), folder=tmp_path / "none")


def test_calibrations_can_be_given(system, tmp_path):
    known, start = system
    levels = calibrate(known, false_alarms=0.05)
    loop = Loop(
        start, make_dynamics, known, label=Teacher(tmp_path / "paid"), calibration=levels, folder=tmp_path / "l"
    )
    assert Calibration.load(tmp_path / "l" / "calibration.json").false_alarms == 0.05
    assert loop.calibration.false_alarms == 0.05
