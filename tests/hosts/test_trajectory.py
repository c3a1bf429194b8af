"""Post-processing gives what the live run gave."""

import gc
import math
import types

import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.io import write
from ase.io.trajectory import Trajectory
from ase.md.langevin import Langevin
from systems import FS, cold_reference, inside, level_at, md_frames, md_reference, outside, recording

from quests_md import (
    FileFormatError,
    LogExistsError,
    MismatchError,
    Monitor,
    Trigger,
    read_log,
    save_frame,
    score_trajectory,
    stop,
)
from quests_md.records import CHECK_FIELDS

LEVEL = -6.0

#: Fields that a trajectory file cannot give back, or that no two runs share.
FREE = {"elapsed_us", "interval"}


def calibration():
    return level_at(md_reference(), LEVEL)


def lines(checks, free=frozenset(FREE)):
    return [{name: getattr(check, name) for name in CHECK_FIELDS if name not in free} for check in checks]


def event_lines(events):
    return [event.to_line() for event in events]


def score(source, *, trigger=None, **options):
    monitor = Monitor(md_reference(), calibration(), trigger=trigger, log=None, on_error="raise")
    checks = list(score_trajectory(source, md_reference(), monitor=monitor, **options))
    monitor.close()
    return checks, monitor.events


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    """A run that melts, watched live, and its frames in memory and in files."""
    folder = tmp_path_factory.mktemp("live")
    atoms = md_frames()[-1].copy()
    atoms.calc = EMT()
    atoms.set_array("id", np.arange(32)[::-1].copy())
    dyn = Langevin(atoms, 5 * FS, temperature_K=4000, friction=0.1 / FS, fixcm=False, rng=np.random.default_rng(9))
    monitor = recording(Monitor(md_reference(), calibration(), trigger=Trigger(patience=2), log=None, on_error="raise"))
    monitor.attach(dyn, 2)
    frames = []

    def keep():
        atoms.get_potential_energy()
        frame = atoms.copy()
        frame.info = {"step": dyn.nsteps, "time_ps": dyn.get_time() / (1000 * FS)}
        frame.calc = EMT()
        frame.calc.atoms, frame.calc.results = atoms.copy(), dict(atoms.calc.results)
        frames.append(frame)

    dyn.attach(keep, 2)
    dyn.run(40)
    assert [check.state for check in monitor.checks].count("out") > 5
    assert monitor.events
    with Trajectory(folder / "run.traj", "w") as traj:
        for frame in frames:
            traj.write(frame)
    write(folder / "run.extxyz", frames)
    return types.SimpleNamespace(folder=folder, frames=frames, monitor=monitor)


@pytest.mark.parametrize("source", ["memory", "run.traj"])
def test_the_same_frames_give_the_same_checks_and_events(live, source):
    checks, events = score(live.frames if source == "memory" else live.folder / source, trigger=Trigger(patience=2))
    assert lines(checks) == lines(live.monitor.checks)
    for a, b in zip(checks, live.monitor.checks, strict=True):
        np.testing.assert_array_equal(a.delta_entropy, b.delta_entropy)
        np.testing.assert_array_equal(a.above, b.above)
    if source == "memory":
        assert event_lines(events) == event_lines(live.monitor.events)
    else:  # .traj drops arrays of one's own, ids among them
        ids = {"atoms", "worst_atom", "environments"}
        for a, b in zip(event_lines(events), event_lines(live.monitor.events), strict=True):
            of_files = {"onset_place", "peak_place", "last_place"}
            assert a.keys() >= of_files
            assert {k: v for k, v in a.items() if k not in ids | of_files} == {
                k: v for k, v in b.items() if k not in ids
            }
            assert sorted(31 - i for i in a["atoms"]) == list(b["atoms"])
            assert [31 - e["atom"] for e in a["environments"]] == [e["atom"] for e in b["environments"]]


def test_a_text_file_gives_them_to_its_eight_decimals(live):
    checks, events = score(live.folder / "run.extxyz", trigger=Trigger(patience=2))
    rounded = {"digest", "dh_max", "dh_mean", "dh_q99", "frame_entropy", "excess", "trigger_excess"}
    rounded |= {"temperature_K", "energy_per_atom"}
    free = FREE | rounded | {"time_ps", "volume_per_atom", "excesses"}
    assert lines(checks, free) == lines(live.monitor.checks, free)
    for name in rounded - {"digest"} | {"time_ps", "volume_per_atom"}:
        values = [[getattr(check, name) for check in c] for c in (checks, live.monitor.checks)]
        np.testing.assert_allclose(values[0], values[1], rtol=1e-6, atol=1e-5, err_msg=name)
    for a, b in zip(events, live.monitor.events, strict=True):
        for name in ("id", "kind", "onset_step", "confirmed_step", "last_step", "peak_step", "atoms", "size_history"):
            assert getattr(a, name) == getattr(b, name), name


def test_settings_beside_a_monitor_are_refused(live):
    with Monitor(md_reference(), calibration(), log=None) as monitor:
        for name, value in [("trigger", Trigger()), ("values", "full"), ("log", "a.jsonl"), ("actions", [stop])]:
            with pytest.raises(ValueError, match=rf"^{name}: expected no other settings beside a monitor"):
                score_trajectory(live.frames, monitor=monitor, **{name: value})
        with pytest.raises(MismatchError, match=r"^reference: expected that of the monitor"):
            score_trajectory(live.frames, cold_reference(), monitor=monitor)
        assert len(list(score_trajectory(live.frames[:3], monitor=monitor, threads=1))) == 3
    with pytest.raises(TypeError, match=r"^reference: expected a Reference"):
        score_trajectory(live.frames)


@pytest.mark.parametrize("workers", [2, pytest.param(3, marks=pytest.mark.long)])
def test_workers_change_nothing(live, workers):
    one = score(live.folder / "run.traj")
    many = score(live.folder / "run.traj", workers=workers)
    assert lines(one[0]) == lines(many[0])
    assert event_lines(one[1]) == event_lines(many[1])


def test_the_log_equals_that_of_the_live_run(live, tmp_path):
    with Monitor(md_reference(), calibration(), log=tmp_path / "live.jsonl") as monitor:
        for frame in live.frames:
            monitor.check(frame, step=frame.info["step"], time_ps=frame.info["time_ps"])
    list(score_trajectory(live.frames, md_reference(), calibration(), log=tmp_path / "post.jsonl", workers=2))
    a, b = read_log(tmp_path / "live.jsonl"), read_log(tmp_path / "post.jsonl")
    for name in CHECK_FIELDS:
        if name not in FREE:
            np.testing.assert_equal(getattr(a, name), getattr(b, name), err_msg=name)
    assert event_lines(a.events) == event_lines(b.events)
    moving = {"started", "pid"}
    assert {k: v for k, v in a.header.items() if k not in moving} == {
        k: v for k, v in b.header.items() if k not in moving
    }


def test_steps_and_times_come_from_the_frames_or_are_counted():
    frames = [inside(i) for i in range(5)]
    frames[1].info["step"] = 1
    frames[2].info["step"] = "seventy"
    frames[3].info["time_ps"] = 1.5
    frames[4].info["ps"] = 2
    checks, _ = score(frames)
    assert [check.step for check in checks] == [0, 1, 2, 3, 4]
    assert [check.frame for check in checks] == [0, 1, 2, 3, 4]
    assert [check.time_ps for check in checks] == [None, None, None, 1.5, 2.0]


def torn(folder, n=6, cut=100):
    frames = [inside(i) for i in range(n)]
    write(folder / "torn.xyz", frames, format="extxyz")
    data = (folder / "torn.xyz").read_bytes()
    (folder / "torn.xyz").write_bytes(data[:-cut])
    return folder / "torn.xyz", frames


@pytest.mark.parametrize("workers", [1, 3])
def test_a_torn_last_frame_costs_only_itself(tmp_path, workers):
    path, frames = torn(tmp_path)
    with pytest.warns(UserWarning, match="torn.xyz"):
        checks = list(score_trajectory(path, md_reference(), calibration(), workers=workers))
    assert len(checks) == 5
    expected, _ = score(frames[:5])
    np.testing.assert_allclose([c.dh_mean for c in checks], [c.dh_mean for c in expected], atol=1e-5)


@pytest.mark.parametrize("workers", [1, 3])
def test_damage_in_the_middle_is_an_error_after_the_frames_before_it(tmp_path, workers):
    write(tmp_path / "run.xyz", [inside(i) for i in range(6)], format="extxyz")
    text = (tmp_path / "run.xyz").read_text().splitlines(keepends=True)
    text[4 * 34 + 10] = "Cu 1.0 not a number\n"
    (tmp_path / "run.xyz").write_text("".join(text))
    checks = []
    log = tmp_path / "log.jsonl"
    with pytest.raises(FileFormatError, match=r"run\.xyz"):  # noqa: PT012
        for check in score_trajectory(tmp_path / "run.xyz", md_reference(), calibration(), workers=workers, log=log):
            checks.append(check)
    assert [check.frame for check in checks] == [0, 1, 2, 3]
    assert len(read_log(log)) == 4


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
def test_leaving_early_is_fine(workers, tmp_path):
    frames = [inside(i) for i in range(20)]
    seen = []
    for check in score_trajectory(frames, md_reference(), calibration(), workers=workers, log=tmp_path / "log.jsonl"):
        seen.append(check.frame)
        if len(seen) == 3:
            break
    del check
    gc.collect()
    assert seen == [0, 1, 2]
    assert len(read_log(tmp_path / "log.jsonl")) == 3


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
def test_stop_ends_the_scoring(workers):
    frames = [inside(0), inside(1), outside(2), outside(3), outside(4), outside(5), *[inside(i) for i in range(9)]]
    given = {"workers": workers, "actions": [stop], "trigger": Trigger(patience=2)}
    checks = list(score_trajectory(frames, md_reference(), calibration(), **given))
    gc.collect()
    assert [check.frame for check in checks] == [0, 1, 2, 3]


def test_frames_are_read_as_a_stream():
    taken = []

    def generate():
        for i in range(100):
            taken.append(i)
            yield inside(i % 20)

    checks = score_trajectory(generate(), md_reference(), calibration(), workers=2)
    for _ in range(3):
        next(checks)
    assert len(taken) <= 8
    checks.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_invalid_frames_and_unknown_elements_are_checks_like_others(workers):
    frames = [inside(i) for i in range(4)]
    frames[1].positions[0] = math.nan
    frames[2].numbers[0] = 47
    checks, events = score(frames, workers=workers, trigger=Trigger(patience=1))
    assert [check.state for check in checks] == ["in", "invalid", "out", "in"]
    assert [event.kind for event in events] == ["exploded", "novel"]


@pytest.mark.parametrize("workers", [0, -1, 1.5, "2", True, None])
def test_wrong_workers(workers):
    with pytest.raises(ValueError, match="workers: expected a positive integer"):
        score_trajectory([inside(0)], md_reference(), calibration(), workers=workers)


def test_misuse_is_said_before_the_first_frame(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        score_trajectory(tmp_path / "nowhere.traj", md_reference(), calibration())
    with pytest.raises(FileNotFoundError, match=r"ref.safetensors: expected a reference file, there is none"):
        score_trajectory([inside(0)], "ref.safetensors")
    (tmp_path / "log.jsonl").write_text("something\n")
    with pytest.raises(LogExistsError):
        score_trajectory([inside(0)], md_reference(), calibration(), log=tmp_path / "log.jsonl")


def test_no_log_is_written_unless_asked_for_and_actions_are_called(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frames, given = (
        [outside(i) for i in range(4)],
        {"trigger": Trigger(patience=1), "actions": [save_frame("f.extxyz")]},
    )
    checks = list(score_trajectory(frames, md_reference(), calibration(), **given))
    assert [file.name for file in tmp_path.iterdir()] == ["f.extxyz"]
    assert (tmp_path / "f.extxyz").read_text().count("delta_entropy") == 3
    assert {(check.temperature_K, check.energy_per_atom) for check in checks} == {(None, None)}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failing_frame_is_said_and_passed_over_if_asked_to(workers, monkeypatch, caplog):
    """on_error="log", as in Monitor."""
    from quests_md.judge import judge

    describe = judge.describe

    def moody(descriptor, atoms, threads):
        if atoms.info.get("bad"):
            raise RuntimeError("a kernel broke")
        return describe(descriptor, atoms, threads)

    monkeypatch.setattr("quests_md.judge.judge.describe", moody)
    frames = [inside(i) for i in range(6)]
    frames[2].info["bad"] = frames[4].info["bad"] = True
    checks = list(score_trajectory(frames, md_reference(), calibration(), workers=workers, on_error="log"))
    assert [check.state for check in checks] == ["in", "in", "invalid", "in", "invalid", "in"]
    assert caplog.text.count("a kernel broke") == 1
    with pytest.raises(RuntimeError, match="a kernel broke"):
        list(score_trajectory(frames, md_reference(), calibration(), workers=workers))
