"""The log of a monitor: complete, whole under every kind of failure, and never the reason why a run ends."""

import errno
import json
import logging
import math
import os
from pathlib import Path

import numpy as np
import pytest
from ase.calculators.emt import EMT
from logs import strict_lines
from processes import fresh
from systems import CountingEMT, cold_reference, copper, inside, level_at, md_reference, outside, verlet

import quests_md
from quests_md import LogExistsError, Monitor, Trigger, read_log
from quests_md.records import CHECK_FIELDS

LEVEL = -6.0


def monitored(log, **options):
    return Monitor(md_reference(), level_at(md_reference(), LEVEL), log=log, **options)


def final_state(monitor=None, steps=20, interval=1):
    """Everything at the end of a short MD, with or without a monitor."""
    atoms = copper(seed=5, rattle=0.05, temperature_K=400, calc=CountingEMT())
    dyn = verlet(atoms)
    if monitor is not None:
        monitor.attach(dyn, interval)
    dyn.run(steps)
    return state_of(atoms)


def state_of(atoms):
    return atoms.positions.tobytes(), atoms.get_momenta().tobytes(), atoms.get_potential_energy(), atoms.calc.calls


def test_the_log_holds_the_checks_that_were_returned(tmp_path):
    frames = [inside(0), outside(0), outside(1), outside(2), inside(1), outside(3)]
    frames[5].positions[0] = math.nan
    frames[4].numbers[3] = 47
    frames[1].calc = EMT()
    frames[1].get_potential_energy()
    with monitored(tmp_path / "run.jsonl") as monitor:
        checks = [monitor.check(f, step=3 * i, time_ps=None if i == 2 else 0.1 * i) for i, f in enumerate(frames)]
        events = monitor.events
    log = read_log(tmp_path / "run.jsonl")
    assert len(log) == 6
    for name in CHECK_FIELDS:
        expected = [getattr(check, name) for check in checks]
        if name in ("phases", "phase_clusters"):
            assert getattr(log, name) == {}
        elif name == "excesses":
            assert "dh_max" in log.excesses
            for statistic, column in log.excesses.items():
                np.testing.assert_array_equal(column, [excesses.get(statistic, math.nan) for excesses in expected])
        elif name in ("state", "digest", "worst_element", "explosion"):
            assert list(getattr(log, name)) == ["" if x is None else x for x in expected]
        elif name in ("worst_atom", "n_tail"):
            assert list(getattr(log, name)) == [-1 if x is None else x for x in expected]
        elif name == "alarms":
            assert list(log.alarms) == [" ".join(x) for x in expected]
        else:
            expected = [math.nan if x is None else x for x in expected]
            np.testing.assert_array_equal(getattr(log, name), expected, err_msg=name)
    np.testing.assert_equal([event.to_line() for event in log.events], [event.to_line() for event in events])


def test_the_header_says_against_what_and_what_it_is_worth(tmp_path):
    reference = md_reference()
    with monitored(tmp_path / "run.jsonl", trigger=Trigger(patience=7)) as monitor:
        monitor.check(inside(0))
    first = json.loads((tmp_path / "run.jsonl").read_text().splitlines()[0])
    header = read_log(tmp_path / "run.jsonl").header
    assert first["type"] == header["type"] == "header"
    assert header["schema"] == 1
    assert header["version"] == quests_md.__version__
    assert header["reference"]["fingerprint"] == reference.fingerprint
    assert header["reference"]["bandwidth"] == reference.bandwidth
    assert header["reference"]["n_environments"] == reference.n_environments
    assert header["reference"]["settings"] == reference.settings
    assert header["calibration"]["level"] == LEVEL
    assert header["calibration"]["kind"] == "conformal"
    assert "at most 0.01 false alarms per check" in header["calibration"]["promise"]
    assert header["trigger"]["patience"] == 7
    assert header["values"]["used"] == "full"
    assert header["values"]["seed"] == 0
    assert header["n_atoms"] == 32


def test_a_log_of_another_run_is_refused_before_any_step_and_left_as_it_was(tmp_path):
    path = tmp_path / "run.jsonl"
    with monitored(path) as monitor:
        monitor.check(inside(0), step=40)
    before = path.read_bytes()
    with pytest.raises(LogExistsError) as error:
        monitored(path)
    assert isinstance(error.value, FileExistsError)
    for part in (str(path), "1 checks", "last at step 40", md_reference().fingerprint, "move it away"):
        assert part in str(error.value)
    assert path.read_bytes() == before


def test_a_missing_folder_is_refused_at_once(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"log: cannot be written.*create its folder"):
        monitored(tmp_path / "nowhere" / "run.jsonl")
    with pytest.raises(IsADirectoryError, match="log: "):
        monitored(tmp_path)


# a disk that fills up


class FullDisk:
    """os.write that stops taking bytes when its space is used up, after a part of the line."""

    def __init__(self, path, space):
        self.path, self.space, self.write = Path(path), space, os.write

    def __call__(self, fd, data):
        if not self.path.exists() or not os.path.samestat(os.fstat(fd), self.path.stat()):
            return self.write(fd, data)
        room = self.space - os.fstat(fd).st_size
        if room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.write(fd, data[:room])


def test_a_full_disk_does_not_stop_or_change_the_run(tmp_path, monkeypatch, caplog):
    free = final_state()
    path = tmp_path / "run.jsonl"
    disk = FullDisk(path, 6000)
    with caplog.at_level(logging.ERROR, logger="quests_md"), monitored(path) as monitor:
        monkeypatch.setattr(os, "write", disk)
        assert final_state(monitor) == free
        assert monitor.n_checks == 21
        lines = strict_lines(path)
        kept = sum(line["type"] == "check" for line in lines)
        assert 0 < kept < 21
        (said,) = [record for record in caplog.records if "cannot be written" in record.getMessage()]
        assert str(path) in said.getMessage()
        assert "No space left" in said.getMessage()
        disk.space = 10**9
        monitor.check(inside(0), step=21)
    lines = strict_lines(path)
    notes = [line["message"] for line in lines if line["type"] == "note" and line["level"] == "error"]
    assert len(notes) == 1
    lost = 21 - kept
    assert int(notes[0].split()[0]) >= lost
    log = read_log(path)
    assert len(log) == kept + 1
    assert log.step[-1] == 21


def test_a_full_disk_raises_if_asked_to(tmp_path, monkeypatch):
    path = tmp_path / "run.jsonl"
    monitor = monitored(path, on_error="raise")
    monkeypatch.setattr(os, "write", FullDisk(path, 6000))
    with pytest.raises(OSError, match="No space left"):
        final_state(monitor)
    monkeypatch.undo()
    strict_lines(path)
    monitor.close()
    n_kept = len(read_log(path))
    assert n_kept > 0
    with monitored(path, on_error="raise", resume=True) as monitor:  # it let go of the log
        final_state(monitor)
        assert monitor.n_checks == 21 > n_kept


def test_a_disk_that_is_full_from_the_start(tmp_path, monkeypatch, caplog):
    path = tmp_path / "run.jsonl"
    free = final_state()
    with caplog.at_level(logging.ERROR, logger="quests_md"), monitored(path) as monitor:
        disk = FullDisk(path, 0)
        monkeypatch.setattr(os, "write", disk)
        assert final_state(monitor) == free
        assert path.read_bytes() == b""
        disk.space = 10**9
        monitor.check(inside(0), step=21)
    assert len([record for record in caplog.records if "cannot be written" in record.getMessage()]) == 1
    log = read_log(path)  # with a header, or no one can read it
    assert log.header["reference"]["fingerprint"] == md_reference().fingerprint
    assert list(log.step) == [21]
    assert any("lines before this one could not be written" in note["message"] for note in log.notes)


def test_a_disk_that_fails_at_the_end_does_not_hide_what_happened(tmp_path, monkeypatch, caplog):
    def fail(fd):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with caplog.at_level(logging.ERROR, logger="quests_md"), pytest.raises(ZeroDivisionError):  # noqa: SIM117, PT012
        with monitored(tmp_path / "run.jsonl") as monitor:
            monitor.check(inside(0))
            monkeypatch.setattr(os, "fsync", fail)
            raise ZeroDivisionError
    monkeypatch.undo()
    assert any("Input/output error" in record.getMessage() for record in caplog.records)
    monitor.close()
    assert len(read_log(tmp_path / "run.jsonl")) == 1


# the monitor's own failures


DESCRIBE = "quests_md.environments.rows_on_grid.fill_rows"


def raising(failure):
    def fail(*args, **kwargs):
        raise failure

    return fail


@pytest.fixture(
    params=[
        (DESCRIBE, RuntimeError("a kernel broke")),
        ("quests_md.reference.query.minus_log_sums", MemoryError("no memory for the sums")),
        ("quests_md.watch.event_course.EventCourse.record", ArithmeticError("the event broke")),
    ]
)
def broken(request, monkeypatch):
    """A function that breaks a part of the monitor, and the kind of failure."""
    where, failure = request.param
    return lambda: monkeypatch.setattr(where, raising(failure)), type(failure)


def test_a_failing_monitor_does_not_end_the_run_and_says_so_once(broken, tmp_path, monkeypatch, caplog):
    breaks, kind = broken
    free = final_state()
    path = tmp_path / "run.jsonl"
    monitor = Monitor(cold_reference(), log=path, trigger=Trigger(patience=1))
    atoms = copper(seed=5, rattle=0.05, temperature_K=400, calc=CountingEMT())
    dyn = verlet(atoms)
    monitor.attach(dyn, 1)
    breaks()
    with caplog.at_level(logging.ERROR, logger="quests_md"):
        dyn.run(20)
    assert state_of(atoms) == free
    (said,) = [record.getMessage() for record in caplog.records if kind.__name__ in record.getMessage()]
    assert "goes on" in said
    monkeypatch.undo()
    assert monitor.check(outside(), step=21).state == "out"
    assert monitor.events
    monitor.close()
    log = read_log(path)
    (note,) = [note for note in log.notes if note["level"] == "error"]
    assert kind.__name__ in note["message"]
    assert "Traceback" in note["message"]
    assert log.step[-1] == 21


def test_a_failing_monitor_raises_if_asked_to(broken, tmp_path, monkeypatch):
    breaks, kind = broken
    monitor = Monitor(cold_reference(), log=tmp_path / "run.jsonl", trigger=Trigger(patience=1), on_error="raise")
    dyn = verlet(copper(seed=5, rattle=0.05, temperature_K=400, calc=EMT()))
    monitor.attach(dyn, 1)
    breaks()
    with pytest.raises(kind):
        dyn.run(20)
    monkeypatch.undo()
    monitor.close()


def test_a_descriptor_that_gives_nonsense_does_not_end_the_run(tmp_path, caplog):
    class Moody:
        fingerprint = "moody"
        good = True

        def __call__(self, atoms):
            return np.full((len(atoms), 2), 1.0 if self.good else math.nan)

    descriptor = Moody()
    reference = quests_md.Reference.from_frames([copper()] * 3, descriptor=descriptor, bandwidth=0.1)
    levels = level_at(reference, 0.0)
    with caplog.at_level(logging.ERROR), Monitor(reference, levels, log=tmp_path / "run.jsonl") as monitor:
        assert monitor.check(copper()).state == "in"
        descriptor.good = False
        assert monitor.check(copper()).state == "invalid"
        descriptor.good = True
        assert monitor.check(copper()).state == "in"
    assert "descriptor" in caplog.text


def test_a_failed_check_of_ones_own_loop_is_invalid_and_an_interrupt_passes(monkeypatch, tmp_path):
    with monitored(tmp_path / "run.jsonl") as monitor:
        monitor.check(inside(0))
        monkeypatch.setattr(DESCRIBE, raising(RuntimeError("a kernel broke")))
        check = monitor.check(inside(1), step=5, time_ps=0.25)
        assert (check.state, check.step, check.time_ps, check.n_atoms) == ("invalid", 5, 0.25, 32)
        monkeypatch.setattr(DESCRIBE, raising(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            monitor.check(inside(1))
        monkeypatch.undo()
        monitor.check(inside(2))
    assert len(read_log(tmp_path / "run.jsonl")) == 2


@pytest.mark.slow
def test_messages_reach_stderr_where_no_logging_is_set_up(tmp_path):
    code = """
        import sys, systems
        import quests_md.environments.rows_on_grid
        from quests_md import Monitor

        with Monitor(systems.cold_reference(), log=sys.argv[1]) as monitor:
            monitor.check(systems.copper())
            def fail(*args): raise RuntimeError("a kernel broke")
            quests_md.environments.rows_on_grid.fill_rows = fail
            for _ in range(5):
                monitor.check(systems.copper())
    """
    done = fresh(code, tmp_path / "run.jsonl")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("a kernel broke") == 1
