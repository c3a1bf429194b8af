"""What a monitor says on stderr while a run goes on: once each, in lines that fit a terminal."""

import logging

import numpy as np
import pytest
from ase.calculators.emt import EMT
from systems import copper, inside, level_at, md_reference, outside, verlet

from quests_md import Descriptor, Monitor, Reference, Trigger, calibrate, score_trajectory

LEVEL = -6.0


def frames_of_an_event():
    """In, then out with more and more atoms, then in again."""
    grown = [outside(seed) for seed in range(3)]
    return [inside(0), inside(1), *grown, inside(2), inside(3)]


def lines_of(err):
    return [line for line in err.splitlines() if line.startswith("quests_md: event")]


def watched(tmp_path, name="run.jsonl", **options):
    options = {"log": tmp_path / name, "trigger": Trigger(patience=1), "on_error": "raise"} | options
    return Monitor(md_reference(), level_at(md_reference(), LEVEL), **options)


@pytest.mark.parametrize("way", ["a loop", "score_trajectory"])
def test_an_event_is_told_when_it_opens_and_when_it_closes(way, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frames = frames_of_an_event()
    with watched(tmp_path, log="run.jsonl") as monitor:
        if way == "a loop":
            for i, frame in enumerate(frames):
                monitor.check(frame, step=10 * i, time_ps=0.05 * i)
        else:
            for i, frame in enumerate(frames):
                frame.info.update(step=10 * i, time_ps=0.05 * i)
            list(score_trajectory(frames, monitor=monitor))
        (event,) = monitor.events
    out, err = capsys.readouterr()
    first, *_, last = lines_of(err)
    assert first == f"quests_md: event 1 opens: novel, step 20, 0.1 ps, {event.size_history[0][1]} atoms; run.jsonl"
    most = max(size for _, size in event.size_history)
    assert last == f"quests_md: event 1 closes: novel, step 50, 0.25 ps, up to {most} atoms; run.jsonl"
    assert out == ""


def test_an_event_that_grows_is_told_each_time_that_it_has_twice_the_atoms(tmp_path, capsys):
    atoms, moved = inside(0), outside(1)
    with watched(tmp_path, trigger=Trigger(patience=1)) as monitor:
        for n in range(1, len(atoms) + 1):
            frame = atoms.copy()
            frame.positions[:n] += 0.9 * (moved.positions[:n] - atoms.positions[:n])
            monitor.check(frame)
        (event,) = monitor.events
    told, last = [], 0
    for step, size in event.size_history:
        if not last or size >= 2 * last:
            told.append((step, size))
            last = max(size, 1)
    said = lines_of(capsys.readouterr().err)
    assert len(told) > 2
    assert len(said) == len(told)
    for (step, size), line in zip(told, said, strict=True):
        assert f"step {step}, {size} atom" in line
    assert [" grows: " in line for line in said] == [False] + [True] * (len(told) - 1)


@pytest.mark.parametrize("folder", ["short", "a-folder-with-a-name-that-is-long" * 5, "one\x1b[31m-that-steers"])
def test_no_line_is_wider_than_a_terminal_or_steers_it(folder, tmp_path, capsys):
    (tmp_path / folder).mkdir()
    with watched(tmp_path / folder) as monitor:
        for i, frame in enumerate(frames_of_an_event()):
            monitor.check(frame, step=10**9 + i, time_ps=12345.678901 + i)
    lines = lines_of(capsys.readouterr().err)
    assert len(lines) >= 2
    assert max(map(len, lines)) <= 80
    assert all(line.isprintable() for line in lines)


def test_it_can_be_quiet(tmp_path, capsys):
    atoms = copper(rattle=0.05, temperature_K=300, calc=EMT())
    with watched(tmp_path, verbose=False) as monitor:
        dyn = verlet(atoms)
        monitor.attach(dyn, 1)
        dyn.run(1)
        for frame in frames_of_an_event():
            monitor.check(frame)
        assert monitor.events
    assert capsys.readouterr().err == ""
    assert "pre-flight" in (tmp_path / "run.jsonl").read_text()  # the log has it


def test_a_run_that_is_taken_up_again_does_not_open_its_event_again(tmp_path, capsys):
    frames = frames_of_an_event()
    with watched(tmp_path) as monitor:
        for i, frame in enumerate(frames[:4]):
            monitor.check(frame, step=i)
    before = lines_of(capsys.readouterr().err)
    with watched(tmp_path, resume=True) as monitor:
        for i, frame in enumerate(frames[3:], start=3):
            monitor.check(frame, step=i)
    after = lines_of(capsys.readouterr().err)
    assert [" opens: " in line for line in before].count(True) == 1
    assert not any(" opens: " in line for line in after)
    assert after[-1].startswith("quests_md: event 1 closes: ")


def test_a_block_for_each_system_and_not_for_each_dynamics(tmp_path, capsys):
    def blocks(atoms):
        monitor.attach(verlet(atoms), 1)
        return capsys.readouterr().err.count("pre-flight")

    crystal, other = copper(temperature_K=300, calc=EMT()), copper(1, temperature_K=300, calc=EMT())
    with watched(tmp_path) as monitor:
        assert [blocks(crystal), blocks(other), blocks(crystal), blocks(other.copy())] == [1, 1, 0, 0]
        crystal.set_cell(crystal.cell * 1.02, scale_atoms=True)  # as a barostat does
        assert blocks(crystal) == 0
        crystal.set_cell(crystal.cell * 1.3, scale_atoms=True)
        assert blocks(crystal) == 1
        crystal.pbc = (True, True, False)
        assert blocks(crystal) == 1


def test_the_block_says_what_the_frames_are_and_how_they_differ(tmp_path, capsys):
    atoms = copper(rattle=0.05, temperature_K=300, calc=EMT())
    atoms.pbc = (True, True, False)
    with watched(tmp_path) as monitor:
        monitor.attach(verlet(atoms), 10)
        said = " ".join(capsys.readouterr().err.split())
    for text in (
        "32 atoms (Cu32), periodic along a, b; time step 5 fs, a check every 10 steps (0.05 ps)",
        "the reference: 120 frames of 1 file: 32 atoms each, periodic along a, b, c",
        "WARNING: the frames of the run are periodic along a, b, all frames of the reference periodic along a, b, c",
    ):
        assert text in said


def test_in_a_loop_of_ones_own_differences_are_told_before_the_first_check(tmp_path, caplog):
    atoms = copper(rattle=0.05)
    atoms.pbc = False
    with watched(tmp_path) as monitor, caplog.at_level(logging.WARNING, "quests_md"):
        monitor.check(atoms)
        monitor.check(atoms)
    assert caplog.text.count("the frames of the run are not periodic") == 1
    np.testing.assert_array_equal(atoms.pbc, False)


def test_unknown_elements_are_told_before_the_first_check_and_are_why_there_is_an_event(tmp_path, caplog):
    told = "Ag (1 atom), Ni (2 atoms) are not in the reference, which has Cu: such atoms are above every level"

    def doped(seed):
        atoms = inside(seed)
        atoms.symbols[[2, 5, 7]] = ["Ni", "Ag", "Ni"]
        return atoms

    levels = calibrate(md_reference(), false_alarms=0.05)
    with Monitor(md_reference(), levels, log=None, trigger=Trigger(patience=1)) as monitor:
        with caplog.at_level(logging.WARNING, "quests_md"):
            monitor.check(doped(0))
            monitor.check(doped(1))
        (event,) = monitor.events
    assert caplog.text.count(told) == 1
    assert event.reason.startswith("Ag (1 atom), Ni (2 atoms): not in the reference, so above every level")
    assert "too few groups" not in event.reason


def test_elements_that_are_no_centers_are_no_difference(caplog):
    reference = Reference.from_frames(
        [copper(seed=i, rattle=0.05) for i in range(20)],
        groups="frame",
        descriptor=Descriptor(centers=("Cu",)),
    )
    atoms = copper(rattle=0.05)
    atoms.symbols[3] = "Ni"
    with Monitor(reference, log=None) as monitor, caplog.at_level(logging.WARNING, "quests_md"):
        monitor.check(atoms)
    assert "not in the reference" not in caplog.text


def test_the_block_warns_of_unknown_elements(tmp_path, capsys):
    atoms = copper(rattle=0.05, temperature_K=300, calc=EMT())
    atoms.symbols[0] = "Ni"
    with watched(tmp_path) as monitor:
        monitor.attach(verlet(atoms), 10)
        said = " ".join(capsys.readouterr().err.split())
    assert "WARNING: Ni (1 atom) is not in the reference, which has Cu: such atoms are above every level" in said


@pytest.mark.parametrize("verbose", [True, False])
def test_a_run_that_is_taken_up_again_says_where(verbose, tmp_path, capsys):
    with watched(tmp_path) as monitor:
        for i in range(3):
            monitor.check(inside(i), step=10 * i)
    capsys.readouterr()
    with watched(tmp_path, resume=True, verbose=verbose) as monitor:
        for i in range(3, 5):
            monitor.check(inside(i), step=10 * i)
    err = capsys.readouterr().err
    assert err.count("quests_md: resumed at step 30: 3 checks before it are kept\n") == verbose
    assert err.count("resumed") == verbose
