"""Interrupts that come while actions are done: what is left is made up for, or the log says what is missing."""

import signal

import numpy as np
import pytest
from systems import cold_reference, level_at, outside

from quests_md import Monitor, Trigger, read_log, save_frame, sentinel
from quests_md.io import iter_frames


class TimeLimitError(Exception):
    """What the handler of a user may raise."""


class Interrupting:
    """An action during which a signal comes, the first time."""

    def __init__(self):
        self.calls = 0

    def __call__(self, event, frame):
        self.calls += 1
        if self.calls == 1:
            signal.raise_signal(signal.SIGINT)


@pytest.fixture(params=[KeyboardInterrupt, TimeLimitError])
def interrupt(request):
    def handler(number, frame):
        raise request.param

    before = signal.signal(signal.SIGINT, handler)
    yield request.param
    signal.signal(signal.SIGINT, before)


def monitor_of(folder, *actions, **options):
    reference = cold_reference()
    files = [save_frame(folder / "flagged.extxyz"), sentinel(folder / "event.json")]
    options |= {"trigger": Trigger(patience=2), "log": folder / "run.jsonl", "verbose": False}
    return Monitor(reference, level_at(reference, -50.0), actions=[*actions, *files], **options)


def check_twice(monitor):
    with monitor:
        for step in (0, 1):
            monitor.check(shifted(step), step=step)


def shifted(step):
    atoms = outside()
    atoms.positions += 0.01 * step
    return atoms


def frames_in(folder):
    return [read.atoms for read in iter_frames(folder / "flagged.extxyz")]


def assert_as_it_was(frame, step):
    assert frame.info["step"] == step
    np.testing.assert_allclose(frame.positions, shifted(step).positions, atol=1e-6)


def assert_said(folder):
    notes = read_log(folder / "run.jsonl").notes
    assert any("the action Interrupting was interrupted for event 1" in note["message"] for note in notes)


def test_actions_behind_the_interrupted_one_are_done_at_the_next_check(tmp_path, interrupt):
    action, atoms = Interrupting(), shifted(0)
    with monitor_of(tmp_path, action) as monitor:
        monitor.check(atoms, step=0)
        atoms.positions = shifted(1).positions
        with pytest.raises(interrupt):
            monitor.check(atoms, step=1)
        assert not (tmp_path / "flagged.extxyz").exists()
        for step in (2, 3):
            atoms.positions = shifted(step).positions
            monitor.check(atoms, step=step)
    frames = frames_in(tmp_path)
    assert len(frames) == 2  # of the 1st and 2nd check of the event
    for frame, step in zip(frames, (1, 2), strict=True):
        assert_as_it_was(frame, step)
    assert action.calls == 1
    assert read_log(tmp_path / "run.jsonl").step.tolist() == [0, 1, 2, 3]
    assert_said(tmp_path)


def test_actions_behind_the_interrupted_one_are_done_when_the_monitor_is_closed(tmp_path, interrupt, caplog):
    with pytest.raises(interrupt):
        check_twice(monitor_of(tmp_path, Interrupting()))
    (frame,) = frames_in(tmp_path)
    assert_as_it_was(frame, 1)
    assert (tmp_path / "event.json").exists()
    assert_said(tmp_path)
    with monitor_of(tmp_path, resume=True, start_step=2) as monitor:
        monitor.check(shifted(2), step=2)
    assert "missing" not in caplog.text


def test_actions_of_the_user_behind_the_interrupted_one_are_said_to_be_missing_at_the_end(tmp_path):
    called = []
    with pytest.raises(KeyboardInterrupt):
        check_twice(monitor_of(tmp_path, Interrupting(), lambda event, frame: called.append(event.id)))
    assert called == []
    notes = read_log(tmp_path / "run.jsonl").notes
    assert any("the action <lambda> was not called for event 1" in note["message"] for note in notes)
    assert len(frames_in(tmp_path)) == 1


def test_a_run_may_be_taken_up_at_the_check_after_the_interrupted_one(tmp_path, caplog):
    with monitor_of(tmp_path, Interrupting()) as monitor:
        monitor.check(shifted(0), step=0)
        with pytest.raises(KeyboardInterrupt):
            monitor.check(shifted(1), step=1)
        monitor.check(shifted(2), step=2)
    with monitor_of(tmp_path, Interrupting(), resume=True) as monitor:
        monitor.check(shifted(2), step=2)
    assert [frame.info["step"] for frame in frames_in(tmp_path)] == [1, 2]
    assert "missing" not in caplog.text
