"""What is done about an event: saved frames, clean stops, callables of one's own."""

import errno
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT
from ase.io import read
from ase.optimize import FIRE
from logs import EVENT
from systems import cold_reference, copper, inside, level_at, md_reference, outside, verlet

from quests_md import Event, Monitor, Reference, StopRun, Trigger, read_log, save_frame, sentinel, stop
from quests_md.errors import FileFormatError

LEVEL = -6.0


def monitored(*actions, level=LEVEL, **options):
    settings = {"log": None, "on_error": "raise", "trigger": Trigger(patience=1), "actions": actions} | options
    return Monitor(md_reference(), level_at(md_reference(), level), **settings)


def frames_of(path):
    return read(path, ":")


# save_frame


@pytest.mark.parametrize(("values", "level"), [("full", LEVEL), ("proven", LEVEL), ("proven", 3.0)])
def test_saved_frames_carry_every_atoms_value(values, level, tmp_path):
    atoms = copper(temperature_K=300)
    atoms.positions[:3] += 0.35
    atoms.positions[0] += 0.2
    with monitored(save_frame(tmp_path / "f.extxyz"), values=values, level=level) as monitor:
        check = monitor.check(atoms, step=70, time_ps=0.35)
    if level > LEVEL:
        assert np.isnan(check.delta_entropy).any(), "nothing was left open, so nothing is tested"
    (frame,) = frames_of(tmp_path / "f.extxyz")
    exact = md_reference().delta_entropy(atoms, float64=True)
    np.testing.assert_allclose(frame.arrays["delta_entropy"], exact, atol=2e-4)
    np.testing.assert_array_equal(frame.arrays["above"], exact > level)
    known = ("step", "time_ps", "event", "kind", "reference", "n_above")
    expected = [70, 0.35, 1, "novel", md_reference().fingerprint, check.n_above]
    assert [frame.info[name] for name in known] == expected
    assert frame.info["dh_max"] == pytest.approx(exact.max(), abs=1e-4)


def test_energy_and_forces_are_saved_where_the_run_has_them(tmp_path):
    with monitored(save_frame(tmp_path / "f.extxyz"), trigger=Trigger(patience=1)) as monitor:
        atoms = outside()
        atoms.calc = EMT()
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        monitor.check(atoms)
        atoms.positions += 0.01 * np.random.default_rng(0).normal(size=(32, 3))
        monitor.check(atoms)
    first, second = frames_of(tmp_path / "f.extxyz")
    assert first.get_potential_energy() == pytest.approx(energy)
    np.testing.assert_allclose(first.get_forces(), forces, atol=1e-7)
    assert second.calc is None


@pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 40])
def test_a_long_event_gives_few_frames(n, tmp_path):
    with monitored(save_frame(tmp_path / "f.extxyz")) as monitor:
        for step in range(n):
            monitor.check(outside(step), step=step)
    steps = [frame.info["step"] for frame in frames_of(tmp_path / "f.extxyz")]
    assert steps == [2**i - 1 for i in range(int(math.log2(n)) + 1)]


def test_every_event_is_saved_anew_and_only_confirmed_ones(tmp_path):
    with monitored(save_frame(tmp_path / "f.extxyz"), trigger=Trigger(patience=2)) as monitor:
        for step, what in enumerate("oiooooiooi"):
            monitor.check(outside(step) if what == "o" else inside(step), step=step)
    saved = [(frame.info["step"], frame.info["event"]) for frame in frames_of(tmp_path / "f.extxyz")]
    assert saved == [(3, 1), (4, 1), (8, 2)]


def test_frames_that_are_not_finite_are_never_saved(tmp_path):
    bad = outside()
    bad.positions[0, 0] = math.nan
    with monitored(save_frame(tmp_path / "f.extxyz")) as monitor:
        monitor.check(inside())
        monitor.check(bad)
        assert monitor.events[0].kind == "exploded"
        assert not (tmp_path / "f.extxyz").exists()
        monitor.check(outside())
        monitor.check(bad)
    assert len(frames_of(tmp_path / "f.extxyz")) == 1


def test_a_missing_folder_is_refused_when_the_action_is_made(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"path: the folder of .*nowhere.* does not exist; create it"):
        save_frame(tmp_path / "nowhere" / "f.extxyz")


@pytest.mark.parametrize("text", ["notes\n", "1\nLattice\nCu 0 0 0\n", "1\nevent=1\nCu 0 0 0\n", "\n"])
@pytest.mark.parametrize("make", [save_frame, sentinel])
def test_what_a_file_holds_already_is_never_written_over_or_appended_to(make, text, tmp_path):
    path = tmp_path / "mine"
    path.write_text(text)
    with pytest.raises(FileFormatError, match=r"mine: expected a new file or .*, got .*; choose another name"):
        make(path)
    path.write_text("")
    with monitored(make(path)) as monitor:
        monitor.check(outside())
    assert path.read_text() > ""
    make(path)


def test_save_frame_without_a_call_refuses_another_file_as_well(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flagged.extxyz").write_text("notes\n")
    with pytest.raises(FileFormatError, match="expected a new file or one of flagged frames"):
        monitored(actions=save_frame)


def test_frames_are_appended_to_those_of_an_earlier_run(tmp_path):
    for _ in range(2):
        with monitored(save_frame(tmp_path / "f.extxyz")) as monitor:
            monitor.check(outside())
    assert len(frames_of(tmp_path / "f.extxyz")) == 2


@pytest.mark.parametrize("actions", [save_frame, [save_frame]])
def test_save_frame_serves_without_a_call_and_one_action_without_a_list(actions, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with monitored(actions=actions) as monitor:
        for step in range(4):
            monitor.check(outside(step), step=step)
    (frame,) = frames_of("flagged.extxyz")
    assert frame.info["step"] == 0


def test_saved_frames_make_a_reference(tmp_path):
    with monitored(save_frame(tmp_path / "f.extxyz")) as monitor:
        for step in range(4):
            monitor.check(outside(step), step=step)
    bigger = md_reference().extend(str(tmp_path / "f.extxyz"))
    assert bigger.n_environments == md_reference().n_environments + 3 * 32
    assert isinstance(bigger, Reference)


# stop


def test_stop_ends_the_run_after_the_step_and_a_later_run_goes_on():
    atoms = copper(seed=5, temperature_K=600, calc=EMT())
    dyn, later = verlet(atoms), []
    with Monitor(cold_reference(), log=None, actions=[stop], trigger=Trigger(patience=2)) as monitor:
        monitor.attach(dyn, 2)
        dyn.attach(lambda: later.append(dyn.nsteps), 1)
        dyn.run(40)
        (event,) = monitor.events
        assert dyn.nsteps == event.confirmed_step < 40
        assert later[-1] == dyn.nsteps
        assert monitor.stopped
        ended = dyn.nsteps
        dyn.run(9)
        assert dyn.nsteps == ended + 9
        assert later == list(range(ended + 10))
        assert monitor.stopped


def test_a_second_event_stops_again():
    atoms = inside(0)
    atoms.calc = EMT()
    dyn = FIRE(atoms, logfile=None)  # only a host that counts steps
    with monitored(stop) as monitor:
        monitor.attach(dyn, 1)
        dyn.observers[0][0](*dyn.observers[0][2])
        assert not monitor.stopped
        for frame, is_stopped in ((outside(1), True), (outside(2), False), (inside(1), False), (outside(3), True)):
            dyn.nsteps += 1
            dyn.max_steps = 1000
            atoms.positions = frame.positions
            dyn.call_observers()
            assert (dyn.max_steps == dyn.nsteps) == is_stopped


def test_a_loop_of_ones_own_sees_stopped():
    with monitored(stop, trigger=Trigger(patience=3)) as monitor:
        for step in range(20):
            monitor.check(outside(step), step=step)
            if monitor.stopped:
                break
        assert (step, monitor.watch.run.stop_now) == (2, True)
        monitor.check(inside(0), step=3)
        assert (monitor.stopped, monitor.watch.run.stop_now) == (True, False)


def test_an_excess_that_is_too_high_stops_at_once():
    with monitored(trigger=Trigger(patience=100, stop_excess=5.0)) as monitor:
        monitor.check(inside(0))
        assert not monitor.stopped
        monitor.check(outside())
        assert monitor.stopped
        assert len(monitor.events) == 1


def test_an_action_of_ones_own_may_stop():
    def careful(event, frame):
        if frame.info["n_above"] > 3:
            raise StopRun

    with monitored(careful) as monitor:
        monitor.check(outside())
        assert monitor.stopped


def test_an_exploded_run_is_stopped():
    bad = inside(0)
    bad.positions[0, 0] = math.inf
    with monitored(stop) as monitor:
        monitor.check(inside(1))
        assert not monitor.stopped
        monitor.check(bad)
        assert monitor.stopped


# callables


def test_any_callable_is_called_once_per_event_with_a_copy():
    calls = []

    def note(event, frame):
        calls.append((event, frame))

    with monitored(note, trigger=Trigger(patience=2)) as monitor:
        for step, what in enumerate("oooooiooo"):
            atoms = outside(step) if what == "o" else inside(step)
            atoms.set_array("id", np.arange(32) + 5)
            monitor.check(atoms, step=step)
            for event, frame in calls:
                assert frame is not atoms
                assert not any(
                    np.shares_memory(frame.arrays[key], atoms.arrays[key]) for key in frame.arrays.keys() & atoms.arrays
                )
                assert event.is_open
    assert [event.id for event, _ in calls] == [1, 2]
    assert [frame.info["step"] for _, frame in calls] == [1, 7]
    assert all(len(frame.arrays["delta_entropy"]) == 32 for _, frame in calls)


def test_an_action_that_asks_for_repeats_is_called_at_the_doublings():
    class Each:
        repeats = True

        def __init__(self):
            self.steps = []

        def __call__(self, event, frame):
            self.steps.append(frame.info["step"])

    each, once = Each(), []
    with monitored(each, lambda event, frame: once.append(event.id)) as monitor:
        for step, what in enumerate("iooooooooio"):
            monitor.check(outside(step) if what == "o" else inside(step), step=step)
    assert each.steps == [1, 2, 4, 8, 10]
    assert once == [1, 2]


def broken(event, frame):
    raise RuntimeError("no network")


def test_a_failing_action_and_a_full_disk_do_not_keep_the_others_from_theirs(tmp_path, caplog):
    done, path = [], tmp_path / "run.jsonl"

    def write_to_a_full_disk(event, frame):
        Path("/dev/full").write_text("a frame", encoding="utf-8")

    actions = broken, write_to_a_full_disk, lambda event, frame: done.append(event.id)
    with monitored(*actions, on_error="log", log=path) as monitor:
        for step, what in enumerate("oioio"):
            monitor.check(outside(step) if what == "o" else inside(step), step=step)
    assert done == [1, 2, 3]
    log = read_log(path)
    assert len(log) == 5
    for failure in ("no network", "No space left"):
        assert caplog.text.count(failure) == 1
        noted = [note["message"] for note in log.notes if failure in note["message"]]
        assert noted[0].startswith("the monitor failed")
        assert [re.search(r"for event (\d)", text)[1] for text in noted[1:]] == ["1", "2", "3"]


def test_a_failing_action_raises_if_asked_to():
    with monitored(broken) as monitor, pytest.raises(RuntimeError, match="no network"):
        monitor.check(outside())


# sentinel


def event_in(path):
    """The event of a sentinel, which is one line of strict JSON."""
    [text] = path.read_text(encoding="utf-8").splitlines()

    def refuse(token):
        raise AssertionError(f"{token} is not JSON")

    return Event.from_line(json.loads(text, parse_constant=refuse))


def test_the_sentinel_is_there_from_the_first_event_on_and_holds_it(tmp_path):
    file = tmp_path / "quests-md.event"
    there = []
    with monitored(sentinel(file), trigger=Trigger(patience=3)) as monitor:
        for step in range(6):
            monitor.check(outside(step) if step else inside(0), step=10 * step)
            there.append(file.exists())
            if step == 3:
                assert event_in(file) == monitor.events[0]
    assert there == [False, False, False, True, True, True]
    # the 1st, 2nd and 4th check since it opened: the last of them is step 40
    assert event_in(file).last_step == 40
    assert [entry.name for entry in tmp_path.iterdir()] == ["quests-md.event"]


def test_the_sentinel_of_an_exploded_run_holds_the_explosion(tmp_path):
    broken = outside()
    broken.positions[3, 1] = math.nan
    with monitored(sentinel(tmp_path / "s")) as monitor:
        monitor.check(outside())
        monitor.check(broken)
        monitor.check(outside())
        monitor.check(outside(1))
    assert [event.kind for event in monitor.events][:2] == ["novel", "exploded"]
    found = event_in(tmp_path / "s")
    assert found.kind == "exploded"
    assert math.isnan(found.peak_excess)


COURSE = ["novel", "novel", "transition", "novel", "exploded", "transition", "exploded", "novel"]


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        (("novel", "transition", "exploded"), [1, 2, 3, 3, 5, 5, 7, 7]),
        (("transition",), [None, None, 3, 3, 3, 6, 6, 6]),
        (["novel"], [1, 2, 2, 4, 4, 4, 4, 8]),
        ({"exploded", "novel"}, [1, 2, 2, 4, 5, 5, 7, 7]),
    ],
)
def test_the_sentinel_holds_the_latest_of_the_gravest_kind_asked_for(kinds, expected, tmp_path):
    file = tmp_path / "s"
    act = sentinel(file, kinds)
    found = []
    for i, kind in enumerate(COURSE, start=1):
        act(replace(EVENT, id=i, kind=kind), Atoms("Cu"))
        found.append(event_in(file).id if file.exists() else None)
    assert found == expected


def test_a_novel_event_that_becomes_a_transition_is_renewed(tmp_path):
    act = sentinel(tmp_path / "s", ("transition",))
    act(EVENT, Atoms("Cu"))
    assert not (tmp_path / "s").exists()
    assert act.repeats
    act(replace(EVENT, kind="transition", phase="fcc"), Atoms("Cu"))
    assert event_in(tmp_path / "s").phase == "fcc"


def test_the_sentinel_has_all_that_the_log_has(tmp_path):
    nearest = replace(EVENT.nearest, source="b\udce9.xyz", distance=math.inf)
    event = replace(EVENT, nearest=nearest, peak_excess=math.inf, centroid=(0.0, -math.inf, 1.0))
    sentinel(tmp_path / "s")(event, Atoms("Cu"))
    assert event_in(tmp_path / "s") == event


def test_a_sentinel_that_cannot_be_written_is_whole_as_before(tmp_path, monkeypatch):
    act = sentinel(tmp_path / "s")
    act(EVENT, Atoms("Cu"))
    monkeypatch.setattr("quests_md._files.os.fsync", lambda fd: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with pytest.raises(OSError, match="full"):
        act(replace(EVENT, id=2), Atoms("Cu"))
    assert event_in(tmp_path / "s").id == 1
    assert [file.name for file in tmp_path.iterdir()] == ["s"]


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        (("nowhere/s",), FileNotFoundError, "path: the folder of nowhere/s does not exist; create it"),
        (("s", "novel"), TypeError, r"kinds: expected a tuple of kinds of events such as \('exploded',\), got 'novel'"),
        (("s", ("novel", "new")), ValueError, "kinds: expected some of novel, transition, exploded, got 'new'"),
        (("s", ()), ValueError, "kinds: expected some of novel, transition, exploded, got none"),
    ],
)
def test_a_sentinel_refuses_what_it_cannot_do(arguments, error, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=said):
        sentinel(*arguments)
