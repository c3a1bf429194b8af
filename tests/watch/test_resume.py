"""Runs that die and come back: whatever is taken up again ends like the run that was never interrupted."""

import contextlib
import functools
import json
import os
import random
import re
import shutil
import signal
import sys
import time
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from ase import units
from ase.calculators.calculator import Calculator, all_changes
from ase.md.verlet import VelocityVerlet
from systems import FS, H, copper, level_at, null_of

from quests_md import FileFormatError, MismatchError, Monitor, Reference, Trigger, calibrate, read_log, save_frame
from quests_md.environments.time_averaged import TimeAveraged
from quests_md.judge.phases import Phases
from quests_md.records import CHECK_FIELDS, Event
from quests_md.watch.actions import sentinel
from quests_md.watch.baseline import Baseline

END, INTERVAL = 120, 3

#: Between the largest dH of most frames of the run and that of the others: events open and close.
LEVEL = -4.2


class Morse(Calculator):
    """Copper after Girifalco and Weizer, neighbours only; its forces depend on nothing but the positions."""

    implemented_properties = ("energy", "forces")

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        steps = self.atoms.positions - self.atoms.positions[:, None]
        steps -= np.round(steps / self.atoms.cell.lengths()) * self.atoms.cell.lengths()
        r = np.linalg.norm(steps, axis=2)
        np.fill_diagonal(r, np.inf)
        rise = np.where(r < 3.6, np.exp(-1.36 * (np.minimum(r, 9.0) - 2.87)), 0.0)
        slope = 2 * 1.36 * 0.34 * (rise - rise**2)
        forces = ((slope / r)[:, :, None] * steps).sum(axis=1)
        self.results = {"energy": float(0.17 * (rise**2 - 2 * rise).sum()), "forces": forces}


@functools.cache
def reference():
    return Reference.from_frames([copper(seed=i, rattle=0.12) for i in range(12)], bandwidth=H, groups="frame")


@functools.cache
def extended():
    return reference().extend([copper(seed=50, rattle=0.12)])


@functools.cache
def checkpoints():
    """Positions and momenta of the run at every step; a monitor does not disturb it."""
    atoms = copper(temperature_K=2400, seed=3, calc=Morse())
    dyn, found = VelocityVerlet(atoms, 3 * FS), []
    dyn.attach(lambda: found.append((atoms.positions.copy(), atoms.get_momenta())))
    dyn.run(END)
    return found


def atoms_at(step):
    atoms = copper(calc=Morse())
    atoms.positions, momenta = checkpoints()[step]
    atoms.set_momenta(momenta)
    return atoms


def nulls():
    entropies = np.linspace(3, 5, 200)
    others = [null_of(np.linspace(-7, -4.5, 200), statistic="dh_mean")]
    return others + [null_of(entropies, 32, "frame_entropy", side=side) for side in ("above", "below")]


def monitor_of(known=None, level=LEVEL, **options):
    known = known or reference()
    given = {"trigger": Trigger(patience=2, release=0.2), "log": "run.jsonl", "on_error": "raise", "resume": True}
    given |= {"actions": [save_frame("flagged.extxyz")], "threads": 1}
    calibration = level_at(known, level, *nulls())
    snapshot_every, fewest = options.pop("snapshot_every", 1000), options.pop("fewest", 10)
    monitor = Monitor(known, options.pop("calibration", calibration), **given | options)
    settings = replace(monitor.watch.settings, snapshot_every=snapshot_every)
    if settings.baseline is not None:
        given = (getattr(settings.baseline, name) for name in ("statistics", "duration_ps", "rate", "release"))
        settings = replace(settings, baseline=Baseline(*given, fewest=fewest))
    monitor.watch.settings = settings
    return monitor


def drive(monitor, begin, end, how):
    """Run from the checkpoint at step `begin` to `end`, in one of the ways to attach a monitor."""
    atoms = atoms_at(begin)
    dyn = VelocityVerlet(atoms, 3 * FS)
    if how == "nsteps":
        dyn.nsteps = begin
    if how in ("loop", "count"):
        for step in range(begin, end + 1):
            if step % INTERVAL == 0:
                frame = atoms_at(step)
                frame.get_potential_energy()
                steps = {"step": step} if how == "loop" else {}
                monitor.check(frame, time_ps=step * 0.003, **steps)
        return
    if how == "own":
        dyn.attach(monitor, INTERVAL, dyn)
    else:
        monitor.attach(dyn, INTERVAL)
    dyn.run(end - begin)


def killed(folder, begin, end, how="new", **options):
    """What a kill at step `end` leaves of a run from step `begin`, which goes on in the log of `folder`."""
    left = folder.with_name(folder.name + "k")
    with contextlib.chdir(folder), monitor_of(**options) as monitor:
        drive(monitor, begin, end, how)
        shutil.copytree(folder, left)
    return left


def finished(folder, begin, how="new", **options):
    with contextlib.chdir(folder), monitor_of(**options) as monitor:
        drive(monitor, begin, END, how)
    return folder, monitor


def assert_same(a, b):
    """Two folders hold the same history, events and flagged frames."""
    left, right = read_log(a / "run.jsonl"), read_log(b / "run.jsonl")
    for name in CHECK_FIELDS:
        if name != "elapsed_us":
            np.testing.assert_equal(getattr(left, name), getattr(right, name), err_msg=name)
    assert len(left.events) == len(right.events)
    for x, y in zip(left.events, right.events, strict=True):
        for field in fields(Event):
            np.testing.assert_equal(getattr(x, field.name), getattr(y, field.name), err_msg=field.name)
    flagged = [folder / "flagged.extxyz" for folder in (a, b)]
    texts = [file.read_text() if file.exists() else "" for file in flagged]
    assert texts[0] == texts[1]


@pytest.fixture
def folder(tmp_path):
    new = tmp_path / "run"
    new.mkdir()
    return new


@functools.cache
def _whole(how, options, root):
    new = Path(root) / f"whole-{how}-{abs(hash(options))}"
    new.mkdir()
    finished(new, 0, how, **dict(options))
    return new


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """The run without an interruption, by the way to attach and options."""
    root = str(tmp_path_factory.mktemp("whole"))
    return lambda how="new", **options: _whole(how, tuple(options.items()), root)


def test_the_run_of_these_tests_has_events_open_and_closed(whole):
    log = read_log(whole() / "run.jsonl")
    assert len(log) == 41
    assert len(log.events) >= 3
    assert sum(not event.is_open for event in log.events) >= 2
    assert (whole() / "flagged.extxyz").read_text().count("Lattice") >= 3


# where a run can be taken up


@pytest.mark.parametrize("how", ["new", "nsteps", "own", "loop", "count"])
@pytest.mark.parametrize(("died", "begin"), [(20, 18), (50, 42), (61, 60), (90, 6), (40, 0)])
def test_a_run_taken_up_at_a_check_ends_like_the_whole(whole, folder, how, died, begin):
    left = killed(folder, 0, died, how)
    again, _ = finished(left, begin, how)
    assert_same(again, whole(how))
    if how == "count":
        log = read_log(again / "run.jsonl")
        np.testing.assert_array_equal(log.step, log.frame)


@pytest.mark.parametrize("how", ["new", "own", "nsteps", "loop", "count"])
@pytest.mark.parametrize(("died", "begin"), [(20, 19), (50, 40), (61, 61), (90, 7), (40, 1)])
def test_a_run_taken_up_between_checks_needs_its_step(whole, folder, how, died, begin):
    left = killed(folder, 0, died, how)
    if how in ("new", "own", "count"):
        with pytest.raises(MismatchError, match=r"does not hold the frame.*start_step="):
            finished(left, begin, how if how != "count" else "new")
    if how == "count":
        return
    again, _ = finished(left, begin, how, **{} if how in ("nsteps", "loop") else {"start_step": begin})
    assert_same(again, whole(how))


@pytest.mark.slow
@pytest.mark.parametrize("snapshot", [1, 5, 1000])
def test_it_may_die_again_and_again(whole, folder, snapshot):
    for begin, end in [(0, 50), (30, 33), (33, 70), (9, 20), (19, 80), (77, 90), (60, 60), (60, 101)]:
        folder = killed(folder, begin, end, start_step=begin, snapshot_every=snapshot)
    again, _ = finished(folder, 42, "new", snapshot_every=snapshot)
    assert_same(again, whole())
    log = read_log(again / "run.jsonl")
    assert [line["step"] for line in log.rewinds] == [30, 33, 9, 77, 60, 60, 42]


def test_a_run_that_ended_can_be_made_longer(whole, folder):
    with contextlib.chdir(folder), monitor_of() as monitor:
        drive(monitor, 0, 60, "new")
    again, _ = finished(folder, 60)
    assert_same(again, whole())


def test_times_do_not_drift_where_the_log_has_them_rounded(folder):
    for begin in (0, 20, 20, 23):  # a third of a fs: 1/3000 ps
        dyn = VelocityVerlet(atoms_at(begin), units.fs / 3)
        with contextlib.chdir(folder), monitor_of(start_step=begin) as monitor:
            monitor.attach(dyn, 1)
            dyn.run(20)
    log = read_log(folder / "run.jsonl")
    np.testing.assert_array_equal(log.step, np.arange(44))
    np.testing.assert_array_equal(log.time_ps, [round(step / 3000, 9) for step in range(44)])


def test_a_loop_that_counts_from_0_again_is_counted_on(whole, folder):
    left = killed(folder, 0, 50, "loop")
    with contextlib.chdir(left), monitor_of(start_step=42) as monitor:
        for step in range(42, END + 1, INTERVAL):
            frame = atoms_at(step)
            frame.get_potential_energy()
            monitor.check(frame, step=step - 42, time_ps=step * 0.003)
    assert_same(left, whole("loop"))


# logs as kills leave them


@pytest.mark.parametrize("what", ["header only", "torn header", "torn second line", "torn last line", "empty"])
def test_a_log_that_was_cut_anywhere_is_taken_up(whole, folder, what):
    left = killed(folder, 0, 50)
    file = left / "run.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    text = {
        "header only": lines[0],
        "torn header": lines[0][:100],
        "torn second line": lines[0] + lines[1][:20],
        "torn last line": b"".join(lines[:-1]) + lines[-1][: len(lines[-1]) // 2],
        "empty": b"",
    }[what]
    file.write_bytes(text)
    if what in ("torn header", "empty"):  # then nothing was flagged either
        (left / "flagged.extxyz").unlink()
    again, _ = finished(left, 42 if what == "torn last line" else 0)
    assert_same(again, whole())


def test_a_check_without_the_lines_written_with_it_is_given_up(whole, folder):
    left = killed(folder, 0, 60)
    lines = (left / "run.jsonl").read_bytes().splitlines(keepends=True)
    # a power cut has left the check with which an event goes on, and nothing after it
    states = [i for i, line in enumerate(lines) if b'"sizes"' in line]
    cut = states[-1]
    check = json.loads(lines[cut - 1])
    assert check["type"] == "check"
    (left / "run.jsonl").write_bytes(b"".join(lines[:cut]))
    finished(left, check["step"] + 1, start_step=check["step"] + 1)
    log = read_log(left / "run.jsonl")
    assert any("is given up" in note["message"] for note in log.notes)
    full = read_log(whole() / "run.jsonl")
    np.testing.assert_array_equal(log.step, full.step[full.step != check["step"]])


@pytest.mark.parametrize("is_torn", [True, False])
@pytest.mark.parametrize(("is_open", "ahead"), [(False, 0), (False, 1), (True, 0), (True, 1)])
def test_event_lines_that_a_kill_has_torn_off_are_written_again(whole, folder, caplog, is_open, ahead, is_torn):
    finished(folder, 0, "nsteps")
    lines = (folder / "run.jsonl").read_text().splitlines(keepends=True)
    place = next(i for i, line in enumerate(lines) if '"event"' in line and json.loads(line)["is_open"] is is_open)
    step = next(json.loads(line)["step"] for line in reversed(lines[:place]) if '"check"' in line)
    (folder / "run.jsonl").write_text("".join(lines[:place]) + (lines[place][:40] if is_torn else ""))
    again, _ = finished(folder, step + ahead, "nsteps")
    logs = [read_log(each / "run.jsonl") for each in (again, whole("nsteps"))]
    assert logs[0].step.tolist() == logs[1].step.tolist()
    assert [str(event) for event in logs[0].events] == [str(event) for event in logs[1].events]
    is_made_again = is_torn and ahead == 0
    is_missing = is_open and not is_made_again
    assert ("before the actions of the check" in caplog.text) is is_missing
    expected = flagged_steps(whole("nsteps"))
    assert flagged_steps(again) == [at for at in expected if not is_missing or at != str(step)]


def test_lines_missing_in_the_middle_are_not_passed_over(folder):
    left = killed(folder, 0, 60)
    lines = (left / "run.jsonl").read_bytes().splitlines(keepends=True)
    first = next(i for i, line in enumerate(lines) if b'"sizes"' in line)
    (left / "run.jsonl").write_bytes(b"".join(lines[:first] + lines[first + 1 :]))
    with pytest.raises(FileFormatError, match="lacks lines that belong to checks"):
        finished(left, 60)


def test_a_damaged_line_names_its_number(folder):
    left = killed(folder, 0, 60)
    lines = (left / "run.jsonl").read_bytes().splitlines(keepends=True)
    lines[-3] = b"{nonsense\n"
    (left / "run.jsonl").write_bytes(b"".join(lines))
    with pytest.raises(FileFormatError, match=f"line {len(lines) - 2} is not JSON"):
        finished(left, 60)


# what is not the same run


def test_a_frame_that_the_log_holds_twice_is_ambiguous(folder):
    with contextlib.chdir(folder), monitor_of() as monitor:
        for step in (0, 5, 10):
            monitor.check(atoms_at(0), step=step)
    dyn = VelocityVerlet(atoms_at(0), FS)
    ambiguous = pytest.raises(MismatchError, match=re.escape("more than once (steps 0, 5, 10); give start_step="))
    with contextlib.chdir(folder), monitor_of() as monitor, ambiguous:
        monitor.attach(dyn, 5)
    with contextlib.chdir(folder), monitor_of(start_step=5) as monitor:
        monitor.attach(dyn, 5)
        dyn.run(5)
    np.testing.assert_array_equal(read_log(folder / "run.jsonl").step, [0, 5, 10])


def begin(monitor, dyn, how):
    if how == "loop":
        monitor.check(dyn.atoms, step=15)
    elif how == "own":
        dyn.attach(monitor, 3, dyn)
        dyn.run(3)
    else:
        monitor.attach(dyn, 3)


@pytest.mark.parametrize("on_error", ["raise", "log"])
@pytest.mark.parametrize("how", ["new", "own", "loop", "nsteps"])
def test_another_structure_is_refused_and_leaves_the_log_alone(folder, on_error, how):
    left = killed(folder, 0, 30, "new")
    before = (left / "run.jsonl").read_bytes()
    atoms = copper(seed=9, rattle=0.1, calc=Morse())
    dyn = VelocityVerlet(atoms, 3 * FS)
    dyn.nsteps = 15 if how == "nsteps" else 0
    refused = pytest.raises(MismatchError, match=r"does not hold the frame|another frame")
    with contextlib.chdir(left), monitor_of(on_error=on_error) as monitor, refused:
        begin(monitor, dyn, how)
    assert (left / "run.jsonl").read_bytes() == before


def test_at_a_step_that_is_given_another_frame_is_noted_and_another_system_refused(folder):
    left = killed(folder, 0, 30)
    atoms = atoms_at(15)
    atoms.positions = np.round(atoms.positions, 5)  # a checkpoint with fewer digits
    with contextlib.chdir(left), monitor_of(start_step=15) as monitor:
        monitor.attach(VelocityVerlet(atoms, 3 * FS), 3)
    notes = [note["message"] for note in read_log(left / "run.jsonl").notes]
    assert any("a checkpoint with fewer digits?" in note for note in notes)
    refused = pytest.raises(MismatchError, match=r"32 atoms.*108 atoms")
    with contextlib.chdir(left), monitor_of(start_step=12) as monitor, refused:
        monitor.attach(VelocityVerlet(copper(3, calc=Morse()), 3 * FS), 3)


@functools.cache
def phases(rate=0.01, parent=None):
    cold = Reference.from_frames([copper(seed=70 + i, rattle=0.01) for i in range(4)], bandwidth=H, groups="frame")
    return Phases({"hot": reference(), "cold": cold}, rate=rate, parent=parent)


@pytest.mark.parametrize(
    ("before", "after", "what"),
    [
        ({}, {"trigger": Trigger(patience=4)}, r"trigger = .*'patience': 2.*'patience': 4"),
        ({}, {"statistics": ("dh_max", "dh_mean")}, r"\['dh_max'\].*\['dh_max', 'dh_mean'\]"),
        ({"baseline_ps": 0.1}, {"baseline_ps": 0.2}, r"baseline_ps = 0\.1, .* 0\.2"),
        ({"baseline_ps": 0.1}, {}, r"statistics|baseline_ps = 0\.1, .* None"),
        ({}, {"max_temperature_K": 9000.0}, r"max_temperature_K = None, .* 9000\.0"),
        ({}, {"values": "full"}, r"values = auto, .* full"),
        ({}, {"level": -1.0}, r"levels = \w+, this monitor has \w+"),
        ({}, {"phases": 0.01}, r"phases = None, .*hot"),
        ({"phases": 0.01}, {"phases": (0.01, "cold")}, r"parent phase = hot, .* cold"),
        ({"phases": 0.01}, {"phases": 0.2}, r"thresholds of phases = \{.*\}, .* \{.*\}"),
    ],
)
def test_other_settings_are_refused_with_both_values(folder, before, after, what):
    for options in (before, after):
        if "phases" in options:
            given = options["phases"]
            options["phases"] = phases(*given) if isinstance(given, tuple) else phases(given)
    left = killed(folder, 0, 6, **before)
    text = (left / "run.jsonl").read_bytes()
    with pytest.raises(MismatchError, match=what):
        finished(left, 3, **after)
    assert (left / "run.jsonl").read_bytes() == text
    finished(left, 3, **before)  # and the same are not


# references


def test_another_reference_is_refused(folder):
    left = killed(folder, 0, 6)
    other = Reference.from_frames([copper(seed=80, rattle=0.1)], bandwidth=H, groups="frame")
    with pytest.raises(MismatchError, match=f"{reference().fingerprint}.*{other.fingerprint}.*not made from it"):
        finished(left, 3, known=other)


def references_of(folder):
    log = read_log(folder / "run.jsonl")
    return [line["reference"]["fingerprint"] for line in log.references]


def test_an_extended_reference_goes_on_and_is_noted(whole, folder):
    folder = killed(folder, 0, 50)
    folder = killed(folder, 42, 70, known=extended())
    assert references_of(folder) == [extended().fingerprint]
    assert read_log(folder / "run.jsonl").references[0]["chain"] == [reference().fingerprint, extended().fingerprint]
    folder = killed(folder, 60, 80, known=extended())
    assert references_of(folder) == [extended().fingerprint]
    with pytest.raises(MismatchError, match="not made from it"):  # what follows was judged by the longer one
        finished(folder, 78)
    with pytest.raises(MismatchError, match="levels"):
        finished(folder, 78, known=extended(), level=-1.0)
    # what is kept was judged by the first reference: the change is superseded and made anew
    folder = killed(folder, 30, 60, known=extended())
    assert references_of(folder) == [extended().fingerprint]
    log = read_log(folder / "run.jsonl")
    assert log.references[0]["step"] == 30
    again, _ = finished(folder, 27)  # and before it the first may go on
    assert references_of(again) == []
    assert_same(again, whole())


# the state that comes back


@pytest.mark.slow
def test_a_baseline_goes_on_where_it_was(whole, folder):
    options = {"baseline_ps": 0.18, "fewest": 1.01}  # until step 60; short as it is it shall judge
    for begin, end in [(0, 30), (21, 50), (42, 90), (75, 110)]:
        folder = killed(folder, begin, end, **options)
    again, monitor = finished(folder, 99, **options)
    assert_same(again, whole(**options))
    assert monitor.watch.run.follower.baseline.is_complete
    log = read_log(again / "run.jsonl")
    assert np.isfinite(log.excesses["frame_entropy"]).any()


@pytest.mark.slow
def test_labelled_phases_go_on_where_they_were(whole, folder):
    options = {"phases": phases()}
    left = killed(folder, 0, 50, **options)
    again, _ = finished(left, 42, **options)
    assert_same(again, whole(**options))


@pytest.mark.slow
def test_events_before_the_kill_are_known_again(whole, folder):
    for snapshot in (4, 1000):
        target = folder / str(snapshot)
        target.mkdir()
        left = killed(target, 0, 100, snapshot_every=snapshot)
        _, monitor = finished(left, 99)
        log = read_log(whole() / "run.jsonl")
        assert [event.id for event in monitor.events] == [event.id for event in log.events]
        for ours, theirs in zip(monitor.events, log.events, strict=True):
            np.testing.assert_equal(ours.to_line(), theirs.to_line())


def test_an_event_open_at_the_kill_is_not_flagged_twice(folder):
    left = killed(folder, 0, 60, level=-9.0)
    flagged = (left / "flagged.extxyz").read_text()
    again, monitor = finished(left, 60, level=-9.0)
    (event,) = monitor.events
    assert (event.id, event.n_checks, event.is_open) == (1, 41, True)
    text = (again / "flagged.extxyz").read_text()
    assert text.startswith(flagged)
    steps = [int(step) for step in re.findall(r"\bstep=(\d+)", text)]
    assert steps == [3 * (1 + n - 1) for n in (1, 2, 4, 8, 16, 32)]


def test_frames_of_save_frame_without_a_call_are_cut_back_too(whole, folder):
    options = {"actions": (save_frame,)}
    left = killed(folder, 0, 100, **options)
    assert len((left / "flagged.extxyz").read_text()) > 0
    again, _ = finished(left, 6, **options)
    assert_same(again, whole(**options))


def test_flagged_frames_of_others_are_kept_and_missing_ones_said(folder):
    of_another_run = "1\nevent=1 reference=of_another_run\nCu 0 0 0\n"
    (folder / "flagged.extxyz").write_text(of_another_run)
    left = killed(folder, 0, 60, level=-9.0)
    before = (left / "flagged.extxyz").read_text()
    assert before.startswith(of_another_run)
    copy = shutil.copytree(left, left.with_name("copy"))
    assert (killed(copy, 0, 0, level=-9.0) / "flagged.extxyz").read_text() == of_another_run
    (left / "flagged.extxyz").write_text(of_another_run[:-1])  # cut short
    again, _ = finished(left, 60, level=-9.0)
    notes = [note["message"] for note in read_log(again / "run.jsonl").notes]
    assert any("flagged frames are missing" in note for note in notes)


@pytest.mark.slow
def test_a_sentinel_stands_after_the_run_was_taken_up(folder):
    def options():
        return {"level": -9.0, "actions": [sentinel("event.json"), save_frame("flagged.extxyz")]}

    left = killed(folder, 0, 60, **options())
    finished(left, 51, **options())
    whole = left.with_name("all")
    whole.mkdir()
    finished(whole, 0, **options())
    assert (left / "event.json").read_text() == (whole / "event.json").read_text()


def test_a_sentinel_of_an_event_that_never_happened_is_removed(folder):
    options = {"actions": [sentinel("event.json")]}
    first = read_log(finished(folder, 0, **options)[0] / "run.jsonl").events[0]
    assert (folder / "event.json").exists()
    left = killed(folder, 0, first.confirmed_step - INTERVAL, **options)
    assert not (left / "event.json").exists()
    (left / "event.json").write_text("of somebody else")
    left = killed(left, 0, first.confirmed_step - INTERVAL, **options)
    assert (left / "event.json").read_text() == "of somebody else"


# jobs that end at the worst moment


@pytest.mark.parametrize("how", ["new", "own", "nsteps", "loop"])
def test_a_job_that_ends_before_its_first_check_blocks_no_other(whole, folder, how):
    left = killed(folder, 0, 90, how)
    flagged = (left / "flagged.extxyz").read_bytes()
    for begin in (42, 42, 60, 42):
        with contextlib.chdir(left), monitor_of() as monitor:
            dyn = VelocityVerlet(atoms_at(begin), 3 * FS)
            if how == "nsteps":
                dyn.nsteps = begin
            monitor.attach(dyn, INTERVAL)
            assert monitor.n_checks == begin // INTERVAL + (how == "nsteps")
        assert (left / "flagged.extxyz").read_bytes() == flagged
        assert read_log(left / "run.jsonl").step[-1] == 90
    again, _ = finished(left, 42, how)
    assert_same(again, whole(how))


def test_a_job_that_ends_with_an_extended_reference_before_its_first_check_binds_nobody(whole, folder):
    left = killed(folder, 0, 60)
    with contextlib.chdir(left), monitor_of(extended()) as monitor:
        monitor.attach(VelocityVerlet(atoms_at(42), 3 * FS), INTERVAL)
    again, _ = finished(left, 42)
    assert_same(again, whole())


def killed_in_action(folder, n_calls, how, **options):
    """What a kill leaves that comes when an action has been called so often, and the next has not; the step it was."""
    calls = []

    class Killing:
        repeats = True

        def __call__(self, event, frame):
            calls.append(frame.info["step"])
            if len(calls) == n_calls:
                shutil.copytree(folder, folder.with_name("left"))

    actions = [Killing(), save_frame("flagged.extxyz")]
    finished(folder, 0, how, actions=actions, **options)
    return folder.with_name("left"), calls[n_calls - 1]


def flagged_steps(folder):
    return re.findall(r"\bstep=(\d+)", (folder / "flagged.extxyz").read_text())


@pytest.mark.parametrize("n_calls", [1, 3])
def test_a_kill_inside_an_action_is_made_up_for_where_the_frame_is_shown_again(whole, folder, n_calls):
    left, step = killed_in_action(folder, n_calls, "new")
    assert str(step) not in flagged_steps(left) if n_calls > 1 else not (left / "flagged.extxyz").exists()
    again, _ = finished(left, step, "new")
    assert_same(again, whole("new"))


@pytest.mark.parametrize("n_calls", [1, 3])
def test_a_kill_inside_an_action_is_made_up_for_where_the_host_counts_on(whole, folder, n_calls):
    """A writer that saw the step before the monitor has left a checkpoint of it."""
    left, step = killed_in_action(folder, n_calls, "nsteps")
    again, _ = finished(left, step, "nsteps")
    assert flagged_steps(again) == flagged_steps(whole("nsteps"))
    log = read_log(again / "run.jsonl")
    np.testing.assert_array_equal(log.step, read_log(whole("nsteps") / "run.jsonl").step)
    np.testing.assert_array_equal(log.dh_max, read_log(whole("nsteps") / "run.jsonl").dh_max)
    assert any(f"the check at step {step} is made again, without energies" in note["message"] for note in log.notes)


@pytest.mark.parametrize("how", ["nsteps", "own"])
def test_what_a_kill_inside_an_action_has_cost_is_said(folder, caplog, how):
    left, step = killed_in_action(folder, 3, how)
    finished(left, step + INTERVAL - 1, how, start_step=step + INTERVAL - 1)
    wanted = f"the run ended before the actions of the check at step {step} were done"
    assert wanted in caplog.text
    assert any(wanted in note["message"] for note in read_log(left / "run.jsonl").notes)


def test_a_frame_that_is_due_and_that_the_log_lacks_is_checked(whole, folder):
    """A writer that saw the step before the monitor has left a checkpoint of it, and then the run was killed."""
    left = killed(folder, 0, 41, "nsteps")
    again, _ = finished(left, 42, "nsteps")
    log = read_log(again / "run.jsonl")
    np.testing.assert_array_equal(log.step, read_log(whole("nsteps") / "run.jsonl").step)
    assert flagged_steps(again) == flagged_steps(whole("nsteps"))
    assert not any("no checks between" in note["message"] for note in log.notes)


@pytest.mark.parametrize("how", ["nsteps", "new", "loop", "own"])
def test_checks_that_the_log_lacks_are_said(folder, caplog, how):
    left = killed(folder, 0, 30, how)
    finished(left, 60, how, start_step=60)
    assert "no checks between step 30, its last one, and step 60" in caplog.text


# another reference in the middle of a run


def updated_at(step, end=END, begin=0, **options):
    """A loop of one's own in which the monitor takes over an extended reference after the check at a step."""
    with monitor_of(**options) as monitor:
        for at in range(begin, end + 1, INTERVAL):
            frame = atoms_at(at)
            frame.get_potential_energy()
            monitor.check(frame, step=at, time_ps=at * 0.003)
            if at == step:
                monitor.update(extended(), level_at(extended(), LEVEL, *nulls()))
        return monitor


@pytest.mark.parametrize("died", [48, 90])
def test_a_monitor_takes_over_a_new_reference_and_a_resumed_one_knows_it(folder, died):
    options = {"baseline_ps": 0.12, "statistics": ["dh_max", "dh_mean"], "fewest": 4}
    whole = folder.with_name("all")
    whole.mkdir()
    with contextlib.chdir(whole):
        monitor = updated_at(48, **options)
    log = read_log(whole / "run.jsonl")
    assert monitor.reference is extended()
    (line,) = log.references
    assert line["chain"] == [reference().fingerprint, extended().fingerprint]
    assert line["step"] == 48
    assert any("the baseline of 0.12 ps begins anew" in note["message"] for note in log.notes)
    assert sum("baseline" in note["message"] and "anew" not in note["message"] for note in log.notes) >= 2
    with contextlib.chdir(folder):
        updated_at(48, end=died, **options)
        # behind the update with the new reference, before it with the one of before
        updated_at(None, begin=died - 9 if died > 60 else 48 + 3, known=extended(), **options)
    log = read_log(folder / "run.jsonl")
    assert_same(folder, whole)
    assert [line["chain"][-1] for line in log.references] == [extended().fingerprint]
    with contextlib.chdir(folder):
        with pytest.raises(MismatchError, match=extended().fingerprint):
            updated_at(None, begin=90, **options)
        updated_at(48, begin=30, **options)
    assert_same(folder, whole)


def test_an_action_may_let_the_monitor_take_over_a_new_reference(folder):
    seen = []

    def learn(event, frame):
        seen.append(frame.arrays["delta_entropy"].max())
        monitor.update(reference().extend([frame]))

    with contextlib.chdir(folder), monitor_of(actions=[learn, save_frame("flagged.extxyz")]) as monitor:
        drive(monitor, 0, 60, "loop")
    log = read_log(folder / "run.jsonl")
    assert len(log.references) == len(log.events) == len(seen) >= 1
    assert log.references[0]["step"] == log.events[0].confirmed_step
    text = (folder / "flagged.extxyz").read_text()
    assert float(re.search(r"dh_max=(\S+)", text)[1]) == pytest.approx(seen[0])  # by the reference that judged it


def test_what_a_monitor_cannot_take_over_is_refused_and_changes_nothing(folder):
    other = Reference.from_frames([copper(seed=i, rattle=0.12) for i in range(12)], bandwidth=2 * H, groups="frame")
    with contextlib.chdir(folder), monitor_of() as monitor:
        drive(monitor, 0, 12, "loop")
        with pytest.raises(MismatchError, match="bandwidth"):
            monitor.update(other)
        with pytest.raises(ValueError, match="false_alarms"):
            monitor.update(extended(), calibrate(extended(), false_alarms=0.2))
        with pytest.raises(MismatchError):
            monitor.update(extended(), calibrate(other))
        assert monitor.reference is reference()
        drive(monitor, 15, 30, "loop")
    assert read_log(folder / "run.jsonl").references == []
    with pytest.raises(ValueError, match="closed"):
        monitor.update(extended())


def test_averaged_frames_cannot_be_repeated_so_their_check_is_kept(tmp_path):
    descriptor = TimeAveraged(samples=3, spacing_ps=0.006)  # every second step
    frames = [descriptor.marked(copper(rattle=0.1, seed=seed)) for seed in range(8)]
    known = Reference.from_frames(frames, descriptor=descriptor, bandwidth=H, groups="frame")

    def part(folder, begin, end, *, own=False, **options):
        with contextlib.chdir(folder):
            monitor = Monitor(known, level_at(known, -2.0), log="run.jsonl", on_error="raise", resume=True, **options)
            with monitor:
                dyn = VelocityVerlet(atoms_at(begin), 3 * FS)
                dyn.nsteps = begin if own else 0
                monitor.attach(dyn, 12)
                dyn.run(end - begin)

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    part(tmp_path / "a", 0, 96)
    part(tmp_path / "b", 0, 50)
    part(tmp_path / "b", 36, 60)
    part(tmp_path / "b", 48, 72, own=True)
    part(tmp_path / "b", 63, 96, start_step=63)  # at an odd step: those that are averaged are even
    assert read_log(tmp_path / "a" / "run.jsonl").step.tolist() == [12, 24, 36, 48, 60, 72, 84, 96]
    assert_same(tmp_path / "a", tmp_path / "b")


# processes that are killed


def _run_and_die(folder, write):
    """A job script: from the last checkpoint to the end, killed inside the given write to the log."""
    left, os_write = write, os.write

    def dying_write(fd, data):
        nonlocal left
        left -= 1
        if left == 0:
            os_write(fd, bytes(data)[: random.Random(write).randrange(len(data))])
            os.kill(os.getpid(), signal.SIGKILL)
        return os_write(fd, data)

    os.write = dying_write
    checkpoint = folder / "step"
    begin = int(checkpoint.read_text()) if checkpoint.exists() else 0
    atoms = atoms_at(begin)
    dyn = VelocityVerlet(atoms, 3 * FS)

    def save():
        checkpoint.with_suffix(".new").write_text(str(begin + dyn.nsteps))
        checkpoint.with_suffix(".new").replace(checkpoint)

    os.chdir(folder)
    with monitor_of(start_step=begin) as monitor:
        monitor.attach(dyn, INTERVAL)
        dyn.attach(save, 10)
        dyn.run(END - begin)


def forked(work, *args):
    """Process id of a child that does it."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
        work(*args)
        code = 0
    finally:
        os._exit(code)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_processes_that_are_killed_anywhere_leave_the_same_history(whole, folder):
    expected = whole()
    kills = 0
    for write, seconds in [(17, None), (23, None), (9, None), (None, 0.05), (None, 0.1), (None, None)]:
        pid = forked(_run_and_die, folder, write or 0)
        if seconds is not None:
            time.sleep(seconds)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
        kills += os.WIFSIGNALED(status)
        assert os.WIFSIGNALED(status) or status == 0
    assert kills >= 3
    assert_same(folder, expected)
