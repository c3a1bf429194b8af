"""The chain over many frames: alarms that must fire and alarms that must not, and what the monitor says of itself."""

import gc
import math
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.md.langevin import Langevin
from systems import FS, H, cold_reference, copper, inside, level_at, md_frames, md_reference, outside, verlet

from quests_md import Monitor, Reference, Trigger, calibrate, read_log, save_frame
from quests_md.calibration import DEFAULT_STATISTICS

#: A level between the MD of `md_frames` (up to -7.5) and a frame displaced by 0.3 Å (around 5).
LEVEL = -6.0


def monitored(**options):
    return Monitor(md_reference(), level_at(md_reference(), LEVEL), **({"log": None, "on_error": "raise"} | options))


def feed(monitor, pattern, start=0):
    """Check one frame per character: i inside, o outside, x with NaN; steps 0, 10, 20, ..."""
    checks = []
    for count, what in enumerate(pattern, start=start):
        if what == "i":
            atoms = inside(count)
        else:
            atoms = outside(count)
            if what == "x":
                atoms.positions[3, 0] = math.nan
        checks.append(monitor.check(atoms, step=10 * count, time_ps=0.05 * count))
    return checks


def states(checks):
    return "".join({"in": "i", "out": "o", "invalid": "x"}[check.state] for check in checks)


# alarms that must not fire


def test_other_frames_of_the_same_run_raise_no_event():
    calibration = calibrate(md_reference(), false_alarms=0.05)
    assert calibration.kind == "conformal"
    with Monitor(md_reference(), calibration, log=None, on_error="raise") as monitor:
        checks = [monitor.check(atoms) for atoms in md_frames()[1::2]]
        assert monitor.events == []
    assert sum(check.state == "out" for check in checks) <= 0.1 * len(checks)


@pytest.mark.slow
def test_md_that_stays_where_the_reference_was_raises_no_event(tmp_path):
    atoms = md_frames()[-1].copy()
    atoms.calc = EMT()
    dyn = Langevin(atoms, 5 * FS, temperature_K=280, friction=0.02 / FS, fixcm=False, rng=np.random.default_rng(8))
    with Monitor(md_reference(), log=tmp_path / "run.jsonl", on_error="raise") as monitor:
        monitor.attach(dyn, 5)
        dyn.run(150)
        assert monitor.events == []
    log = read_log(tmp_path / "run.jsonl")
    assert len(log) == 31
    assert log.events == []


# alarms that must fire


@pytest.mark.slow
def test_a_crystal_that_is_molten_raises_one(tmp_path):
    atoms = md_frames()[-1].copy()
    atoms.calc = EMT()
    dyn = Langevin(atoms, 5 * FS, temperature_K=1300, friction=0.1 / FS, fixcm=False, rng=np.random.default_rng(9))
    with Monitor(md_reference(), log=tmp_path / "run.jsonl", on_error="raise") as monitor:
        monitor.attach(dyn, 2)
        dyn.run(100)
        (event,) = monitor.events
    log = read_log(tmp_path / "run.jsonl")
    out = log.state == "out"
    assert (event.kind, event.is_open) == ("novel", True)
    first = int(np.flatnonzero([out[i : i + 3].all() for i in range(len(out) - 2)])[0])
    assert (event.onset_step, event.confirmed_step) == (log.step[first], log.step[first + 2])
    assert event.onset_time_ps == pytest.approx(log.time_ps[first])
    assert event.onset_temperature_K == pytest.approx(log.temperature_K[first])
    assert 0 < event.onset_step < 60
    assert event.last_step == log.step[out][-1]
    assert log.events == [event]


def test_onset_confirmation_last_step_and_peak():
    with monitored() as monitor:
        checks = feed(monitor, "iioooo")
        (event,) = monitor.events
        assert event.is_open
        assert (event.id, event.kind) == (1, "novel")
        assert (event.onset_step, event.confirmed_step, event.last_step) == (20, 40, 50)
        assert event.onset_time_ps == pytest.approx(0.1)
        peak = max(checks[2:], key=lambda check: check.excess)
        assert (event.peak_excess, event.peak_step) == (peak.excess, peak.step)
        assert event.n_atoms == peak.n_above
        assert event.atoms == tuple(np.flatnonzero(peak.above))
        assert (event.worst_atom, event.worst_element) == (peak.worst_atom, "Cu")
        assert event.size_history == tuple((check.step, check.n_above) for check in checks[2:])
        assert event.n_checks == 4
        feed(monitor, "ii", start=6)
        (event,) = monitor.events
        assert not event.is_open
        assert event.last_step == 50


def test_an_event_closes_only_well_below_the_level_and_the_next_is_another():
    frames = {"i": inside(0), "o": outside(0), "n": outside(0)}
    reference = md_reference()
    near = -0.3  # excess between 0 and -release: neither opens nor closes anything
    frame_dh = reference.delta_entropy(frames["n"]).max()
    judged_out = level_at(reference, frame_dh - near)
    with Monitor(reference, judged_out, trigger=Trigger(patience=2), log=None, on_error="raise") as monitor:
        far = outside(0)
        far.set_cell(far.cell * 1.1, scale_atoms=True)
        assert monitor.check(far).state == "out"
        assert monitor.check(far).state == "out"
        assert monitor.events[0].is_open
        for _ in range(5):
            check = monitor.check(frames["n"])
            assert check.state == "in"
            assert check.excess == pytest.approx(near)
        assert monitor.events[0].is_open
        assert monitor.events[0].last_step == 1
        monitor.check(frames["i"])
        assert not monitor.events[0].is_open
        monitor.check(frames["n"])
        assert len(monitor.events) == 1
        monitor.check(far)
        assert len(monitor.events) == 1
        monitor.check(far)
    assert [event.id for event in monitor.events] == [1, 2]
    assert [event.onset_step for event in monitor.events] == [0, 9]


@pytest.mark.parametrize("values", ["full", "proven"])
def test_both_ways_to_evaluate_give_the_same_events(values):
    with monitored(values=values) as monitor, monitored(values="full") as full:
        for m in (monitor, full):
            feed(m, "iooooioioooxxoooii")
        assert len(monitor.events) == 4
        courses = [(e.kind[0], e.onset_step, e.confirmed_step, e.last_step, e.is_open) for e in monitor.events]
        assert courses == [
            ("n", 10, 30, 40, False),
            ("n", 80, 100, 100, False),
            ("e", 110, 110, 120, False),
            ("n", 130, 150, 150, False),
        ]
        for a, b in zip(monitor.events, full.events, strict=True):
            for x, y in zip(a.environments, b.environments, strict=True):
                assert (x.atom, x.element, x.coordination, x.nearest) == (y.atom, y.element, y.coordination, y.nearest)
                assert x.delta_entropy == pytest.approx(y.delta_entropy, abs=1e-4)
            bare = [replace(event, environments=()).to_line() for event in (a, b)]
            np.testing.assert_equal(*bare)


def test_the_nearest_environment_is_named():
    frames = [copper(seed=i, rattle=0.02) for i in range(3)]
    frames.append(outside(5))
    reference = Reference.from_frames(frames, bandwidth=H, groups="frame")
    near = outside(5)
    near.positions[4] += 0.2
    with Monitor(reference, level_at(reference, -1.0), trigger=Trigger(patience=1), log=None) as monitor:
        monitor.check(near)
    (event,) = monitor.events
    assert (event.nearest.source, event.nearest.frame) == ("memory", 3)
    rows = reference.descriptor(near)
    distance = np.linalg.norm(rows[event.worst_atom] - reference.rows, axis=1) / H
    assert event.nearest.distance == pytest.approx(distance.min())


def test_the_centroid_lies_among_the_atoms_across_the_boundary():
    atoms = copper(3, rattle=0.005)
    chosen = np.argsort(atoms.get_distances(0, range(len(atoms)), mic=True))[:7]
    atoms.positions[chosen] += np.random.default_rng(1).normal(0, 0.3, (7, 3))
    with Monitor(cold_reference(), level_at(cold_reference(), 2.0), trigger=Trigger(patience=1), log=None) as monitor:
        monitor.check(atoms)
    (event,) = monitor.events
    assert 1 <= event.n_atoms < 40
    # the flagged atoms surround atom 0 in the corner of the cell
    expected = atoms.positions[0] + atoms.get_distances(0, event.atoms, mic=True, vector=True).mean(axis=0)
    shift = (event.centroid - expected) / atoms.cell.lengths()
    np.testing.assert_allclose(shift, np.round(shift), atol=1e-9)


def test_identities_are_ids_where_there_are_some():
    ids = np.arange(32)[::-1] + 1000
    with monitored(trigger=Trigger(patience=1)) as monitor:
        atoms = outside()
        atoms.set_array("id", ids.copy())
        check = monitor.check(atoms)
    (event,) = monitor.events
    assert event.worst_atom == ids[check.worst_atom]
    assert set(event.atoms) == set(ids[check.above])


@pytest.mark.slow
def test_the_history_of_a_long_event_is_thinned():
    with Monitor(cold_reference(), trigger=Trigger(patience=1), log=None) as monitor:
        frame = outside()
        for step in range(300):
            monitor.check(frame, step=step)
        (event,) = monitor.events
    assert len(event.size_history) <= 128
    at = [step for step, _ in event.size_history]
    assert at[0] == 0
    assert len(set(np.diff(at))) == 1
    assert event.n_checks == 300


def test_many_events_are_all_in_the_log_and_the_last_thousand_in_memory(tmp_path):
    with monitored(trigger=Trigger(patience=1), log=tmp_path / "run.jsonl") as monitor:
        monitor.watch.settings = replace(monitor.watch.settings, recent_events=5)
        feed(monitor, "oi" * 8)
        assert [event.id for event in monitor.events] == [4, 5, 6, 7, 8]
    assert [event.id for event in read_log(tmp_path / "run.jsonl").events] == [1, 2, 3, 4, 5, 6, 7, 8]


# frames without usable numbers


def test_numbers_that_are_not_finite_are_an_event_at_once(tmp_path):
    log = tmp_path / "run.jsonl"
    with monitored(log=log, actions=[save_frame(tmp_path / "flagged.extxyz")]) as monitor:
        checks = feed(monitor, "iixx")
        (event,) = monitor.events
    assert states(checks) == "iixx"
    assert math.isnan(checks[2].excess)
    assert (event.kind, event.onset_step, event.confirmed_step, event.last_step) == ("exploded", 20, 20, 30)
    assert not (tmp_path / "flagged.extxyz").exists()
    read = read_log(log)
    assert list(read.state) == ["in", "in", "invalid", "invalid"]
    assert np.isnan(read.excess[2:]).all()
    assert read.events[0].kind == "exploded"
    (note,) = [note for note in read.notes if note["level"] == "error"]
    assert "atom 3" in note["message"]
    assert "step 20" in note["message"]


@pytest.mark.parametrize("atoms", [Atoms(), Atoms(pbc=True), Atoms("Cu2", positions=[(0, 0, 0), (0, 0, 2)], pbc=True)])
def test_a_frame_without_a_cell_or_atoms_is_invalid_and_the_run_goes_on(atoms, tmp_path):
    with monitored(log=tmp_path / "run.jsonl") as monitor:
        assert monitor.check(inside(0)).state == "in"
        assert monitor.check(atoms).state == "invalid"
        assert monitor.check(inside(1)).state == "in"
        assert len(monitor.events) == (len(atoms) > 0)  # a frame without atoms is no explosion
    note = next(note for note in read_log(tmp_path / "run.jsonl").notes if note["level"] in ("error", "warning"))
    assert "no atoms" in note["message"] or "zero for a, b, c" in note["message"]


# what changes on the way


def test_an_unknown_element_is_noted_once_and_is_out(tmp_path):
    def doped(seed):
        atoms = inside(seed)
        atoms.numbers[[2, 5]] = 47
        return atoms

    with monitored(log=tmp_path / "run.jsonl") as monitor:
        checks = [monitor.check(doped(i)) for i in range(4)]
        (event,) = monitor.events
    assert {check.n_unknown for check in checks} == {2}
    assert {check.dh_max for check in checks} == {check.excess for check in checks} == {math.inf}
    assert event.peak_excess == math.inf
    assert event.worst_element == "Ag"
    assert event.nearest is None
    log = read_log(tmp_path / "run.jsonl")
    assert np.isposinf(log.dh_max).all()
    (note,) = [note for note in log.notes if note["level"] == "warning"]
    assert "2 atoms of elements that the reference has never seen score +inf; it has Cu" in note["message"]


def test_a_changing_number_of_atoms_works_and_is_noted_once(tmp_path):
    with monitored(log=tmp_path / "run.jsonl") as monitor:
        frames = [inside(0), inside(1), inside(2) * (2, 1, 1), inside(3), inside(4)[:-1], outside()[:20], outside()[:1]]
        checks = [monitor.check(atoms) for atoms in frames]
    assert [check.n_atoms for check in checks] == [32, 32, 64, 32, 31, 20, 1]
    assert states(checks) == "iiiiooo"
    assert len(monitor.events) == 1
    log = read_log(tmp_path / "run.jsonl")
    np.testing.assert_array_equal(log.n_atoms, [32, 32, 64, 32, 31, 20, 1])
    (note,) = [note for note in log.notes if note["level"] == "warning"]
    assert "changed from 32 to 64" in note["message"]


def test_an_atom_that_flies_away_is_an_event():
    atoms = copper(rattle=0.01, temperature_K=100)
    atoms.pbc = False
    reference = Reference.from_frames([atoms], bandwidth=H)
    with Monitor(reference, level_at(reference, 0.0), trigger=Trigger(patience=1), log=None) as monitor:
        assert monitor.check(atoms).state == "in"
        for distance in (1e1, 1e3, 1e6, 1e12):
            atoms.positions[0] = -distance
            check = monitor.check(atoms)
            assert check.state == "out"
            assert check.above[0]
        (event,) = monitor.events
    assert 0 in event.atoms
    assert all(map(math.isfinite, event.centroid))


@pytest.mark.parametrize("pbc", [(True, False, False), (False, True, True), (False, False, False)])
def test_events_in_slabs_wires_and_clusters(pbc):
    atoms = outside()
    atoms.pbc = pbc
    for i in range(3):
        if not pbc[i]:
            atoms.cell[i] = 0
    with monitored(trigger=Trigger(patience=1)) as monitor:
        monitor.check(atoms)
    assert all(map(math.isfinite, monitor.events[0].centroid))


# without a calibration


def test_without_a_calibration_the_monitor_makes_its_own(tmp_path):
    with Monitor(md_reference(), log=tmp_path / "run.jsonl") as monitor:
        monitor.check(inside(0))
    header = read_log(tmp_path / "run.jsonl").header
    own = calibrate(md_reference())
    assert own.statistics == DEFAULT_STATISTICS
    levels = own.alarm_levels(inside(0).numbers)
    assert [level.statistic for level in levels] == list(DEFAULT_STATISTICS)
    assert header["calibration"]["kind"] == own.kind
    assert header["calibration"]["rate"] == pytest.approx(0.01)
    assert [level["value"] for level in header["calibration"]["levels"]][:3] == [level.value for level in levels]
    assert header["calibration"]["statistics"] == list(DEFAULT_STATISTICS)
    assert header["calibration"]["promise"] == own.describe(32)


def test_a_reference_of_one_frame_works_and_says_that_it_promises_nothing(tmp_path, capsys):
    reference = Reference.from_frames([copper(rattle=0.05)], bandwidth=H)
    dyn = verlet(copper(temperature_K=300, calc=EMT()))
    with pytest.warns(UserWarning, match="no groups of frames could be held out"):
        monitor = Monitor(reference, log=tmp_path / "run.jsonl", on_error="raise")
    with monitor:
        monitor.attach(dyn, 1)
        dyn.run(3)
        assert monitor.check(copper(rattle=0.4)).state == "out"
    header = read_log(tmp_path / "run.jsonl").header
    assert header["calibration"]["kind"] == "none"
    assert header["calibration"]["level"] == 0.0
    assert "promise: none" in capsys.readouterr().err


# itself


def test_overhead():
    with monitored() as monitor:
        assert monitor.overhead.checks == 0
        assert monitor.overhead.seconds == monitor.overhead.share == monitor.overhead.us_per_atom == 0
        dyn = verlet(copper(temperature_K=300, calc=EMT()))
        monitor.attach(dyn, 2)
        dyn.run(20)
        cost = monitor.overhead
    assert cost.checks == 11
    assert 0 < cost.seconds < 5
    assert 0 < cost.share < 1
    assert cost.us_per_atom == pytest.approx(cost.seconds * 1e6 / (11 * 32))


def test_close_may_be_called_twice_and_the_log_ends_with_the_open_event(tmp_path):
    monitor = monitored(log=tmp_path / "run.jsonl")
    feed(monitor, "iooooo")
    monitor.close()
    size = (tmp_path / "run.jsonl").stat().st_size
    monitor.close()
    assert (tmp_path / "run.jsonl").stat().st_size == size
    log = read_log(tmp_path / "run.jsonl")
    assert log.events == monitor.events
    assert log.events[0].last_step == 50
    assert "closed after 6 checks" in log.notes[-1]["message"]


def test_the_documented_way_for_who_knows_none_of_the_words(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dyn = verlet(md_frames()[-1].copy())
    dyn.atoms.calc = EMT()
    monitor = Monitor(md_reference())
    monitor.attach(dyn)
    dyn.run(20)
    assert len(read_log("quests-md.jsonl")) == 3
    monitor.close()


def test_frames_of_one_atom():
    atoms = bulk("Cu")
    with monitored() as monitor:
        check = monitor.check(atoms)
    assert check.n_atoms == 1
    assert check.frame_entropy == pytest.approx(0.0)


def test_an_invalid_frame_stops_where_stopping_was_asked_for_and_breaks_a_streak():
    broken = copper()
    broken.positions[0] = math.nan
    with monitored(trigger=Trigger(stop_excess=5.0)) as monitor:
        monitor.check(copper())
        monitor.check(broken)
        assert monitor.stopped
    with monitored(trigger=Trigger(patience=3)) as monitor:
        for step, atoms in enumerate([outside(0), outside(1), broken, outside(2), outside(3), outside(4)]):
            monitor.check(atoms, step=step)
        exploded, novel = monitor.events
    assert (exploded.kind, exploded.onset_step) == ("exploded", 2)
    assert (novel.onset_step, novel.confirmed_step) == (3, 5)


def test_checks_after_close_judge_nothing_and_say_so_once(tmp_path, caplog):
    monitor = monitored(log=tmp_path / "run.jsonl", on_error="log")
    monitor.check(inside(0))
    monitor.close()
    assert not caplog.records
    for _ in range(3):
        assert monitor.check(inside(1)).state == "invalid"
    assert caplog.text.count("monitor: expected an open one") == 1
    assert monitor.n_checks == 1


@pytest.mark.slow
def test_a_dropped_monitor_frees_its_log(tmp_path):
    monitored(log=tmp_path / "run.jsonl")
    gc.collect()
    monitored(log=tmp_path / "run.jsonl").close()
