"""Workers of a Dask cluster give what one process gives."""

import os
import signal
import warnings

import pytest
from ase.calculators.emt import EMT
from ase.io import write
from deadly import Deadly
from scored import frames_of_run, known, levels, log_lines, scored, write_run
from systems import level_at, md_frames, outside

from quests_md import (
    FileFormatError,
    Minimised,
    Monitor,
    Phases,
    Reference,
    Trigger,
    calibrate,
    save_frame,
    score_trajectory,
    stop,
)

distributed = pytest.importorskip("distributed")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default::ResourceWarning"),
    pytest.mark.filterwarnings("default::DeprecationWarning"),
    pytest.mark.filterwarnings("default::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def client():
    cluster = distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None)
    with cluster, distributed.Client(cluster) as client:
        yield client


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write_run(folder)
    return folder


def same(source, tmp_path, client, **options):
    """Score with one process and on the cluster; the checks of the latter, and warnings."""
    _, one, told_by_one = scored(source, tmp_path / "one.jsonl", threads=1, **options)
    checks, two, told = scored(source, tmp_path / "two.jsonl", client=client, **options)
    assert two == one
    assert told == told_by_one
    for name in ("one.jsonl", "two.jsonl"):
        (tmp_path / name).unlink()
    return checks, told


def test_files_of_all_kinds(folder, tmp_path, client, monkeypatch):
    monkeypatch.chdir(folder)
    files = ["run.xyz", "run.dump", "run.traj", "long.xyz.gz", "part*.xyz", "run.xyz@50:2:-3", "torn.xyz"]
    checks, _ = same(files, tmp_path, client, types=["Cu"])
    assert len(checks) == 60 + 60 + 60 + 120 + 60 + 16 + 59


def test_flagged_frames_are_the_same_and_a_stop_ends_the_work(folder, tmp_path, client):
    for name, options in (("one", {}), ("two", {"client": client})):
        actions = [save_frame(tmp_path / f"{name}.xyz"), stop]
        checks = score_trajectory(
            folder / "run.xyz", known(), levels(), actions=actions, trigger=Trigger(patience=4), **options
        )
        assert len(list(checks)) == 34
    assert (tmp_path / "one.xyz").read_bytes() == (tmp_path / "two.xyz").read_bytes()


def test_frames_of_a_log_and_a_run_that_goes_on(folder, tmp_path, client):
    source = folder / "run.xyz"
    checks, _ = same(source, tmp_path, client, steps=[0, 30, 310, 590, 7])
    assert [check.step for check in checks] == [0, 30, 310, 590]
    bare = [atoms.copy() for atoms in frames_of_run(60)]
    for atoms in bare:
        atoms.info.clear()
    write(tmp_path / "bare.traj", bare)
    checks, _ = same([str(tmp_path / "bare.traj"), str(source)], tmp_path, client, steps=[3, 59, 61, 100])
    assert [check.step for check in checks] == [3, 59, 100]
    short = tmp_path / "short.jsonl"
    list(score_trajectory(f"{source}@:25", known(), levels(), log=short, threads=1))
    for name, options in (("one", {}), ("two", {"client": client})):
        log = tmp_path / name
        log.write_bytes(short.read_bytes())
        with Monitor(known(), levels(), log=log, resume=True, verbose=False, threads=1) as monitor:
            checks = list(score_trajectory(source, monitor=monitor, **options))
        assert [check.frame for check in checks] == list(range(24, 60))
    assert log_lines(tmp_path / "one") == log_lines(tmp_path / "two")


#: What may be asked of a monitor, besides `levels` of dh_max.
SETTINGS = {
    "a reference of which colder copies are made": {
        "reference": lambda: Reference.from_frames(list(md_frames()[:120:6]))
    },
    "default statistics and a baseline": {"baseline_ps": 0.5},
    "a second reference": {"confirm": (lambda: (known(), level_at(known(), -2.0)))},
    "phases": {"phases": lambda: Phases({"cold": known(), "hot": hot_reference()})},
    "proven": {"values": "proven", "statistics": ("dh_max", "tail_cluster", "dh_mean")},
}


def hot_reference():
    return Reference.from_frames([outside(i) for i in range(20, 40)], bandwidth=known().bandwidth)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long if "colder" in name else ()) for name in SETTINGS]
)
def test_settings_of_a_monitor(folder, tmp_path, client, name):
    given = {key: value() if callable(value) else value for key, value in SETTINGS[name].items()}
    with warnings.catch_warnings(action="ignore"):
        reference = given.pop("reference", known())
        its_levels = calibrate(reference, false_alarms=0.1, threads=1)
        for log, options in (("one", {}), ("two", {"client": client})):
            saved = save_frame(tmp_path / "flagged.xyz")
            settings = {"log": tmp_path / log, "verbose": False, "threads": 1, "actions": [saved]} | given
            with Monitor(reference, its_levels, **settings) as monitor:
                list(score_trajectory(folder / "run.xyz", monitor=monitor, **options))
                assert monitor.events
            saved.path.rename(tmp_path / f"{log}.xyz")
    assert log_lines(tmp_path / "one") == log_lines(tmp_path / "two")
    assert (tmp_path / "one.xyz").read_bytes() == (tmp_path / "two.xyz").read_bytes()


def test_a_descriptor_with_a_calculator(folder, tmp_path, client):
    frames = list(md_frames()[:6])
    reference = Reference.from_frames(frames, descriptor=Minimised(EMT, "EMT", steps=3), bandwidth=0.05)
    options = {"reference": reference, "calibration": level_at(reference, -3.0)}
    checks, _ = same(f"{folder / 'run.xyz'}@:12", tmp_path, client, **options)
    assert len(checks) == 12


@pytest.mark.parametrize("with_client", [False, True])
def test_a_bad_file_is_named_and_the_others_finish(folder, tmp_path, client, with_client, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = {"client": client} if with_client else {}
    for i in range(5):
        (tmp_path / f"run{i}.xyz").write_bytes((folder / f"part{i}.xyz").read_bytes())
    lines = (tmp_path / "run2.xyz").read_text(encoding="utf-8").splitlines(keepends=True)
    lines[2 * 34 + 10] = "Cu 1.0 not a number\n"
    (tmp_path / "run2.xyz").write_text("".join(lines), encoding="utf-8")
    named, at_once = r"^run2\.xyz: frame 2, line 79", r"^run2\.xyz: frame 2, line 79: .*; the files after it are read$"
    places = []
    with pytest.warns(UserWarning, match=at_once), pytest.raises(FileFormatError, match=named):  # noqa: PT012, PT031
        for check in score_trajectory("run*.xyz", known(), levels(), **options):
            places.append(check.place.source)
    assert places == [f"run{i}.xyz" for i in range(5) for _ in range(2 if i == 2 else 5)]
    (tmp_path / "run4.xyz").write_text("no frames\n", encoding="utf-8")
    both = r"^2 files could not be read to their end: run2\.xyz: frame 2.*; run4\.xyz: frame 0"
    with pytest.warns(UserWarning, match=at_once), pytest.raises(FileFormatError, match=both):
        list(score_trajectory("run*.xyz", known(), levels(), **options))


def test_a_failure_of_the_monitor_is_logged_as_that_of_one_process(tmp_path, client):
    frames = frames_of_run(40)
    frames[25].set_initial_charges([3] + [0] * 31)
    write(tmp_path / "run.xyz", frames, format="extxyz")
    reference = Reference.from_frames(list(md_frames()[:20]), descriptor=Deadly(tmp_path / "once"), bandwidth=0.05)
    options = {"reference": reference, "calibration": level_at(reference, -3.0)}
    checks, _ = same(tmp_path / "run.xyz", tmp_path, client, on_error="log", **options)
    assert checks[25].state == "invalid"
    with pytest.raises(ArithmeticError, match="cannot be described"):
        list(score_trajectory(tmp_path / "run.xyz", client=client, **options))


def test_workers_that_die_cost_time_alone_and_a_part_that_kills_them_is_named(tmp_path, client):
    frames = frames_of_run(40)
    frames[25].set_initial_charges([1] + [0] * 31)
    write(tmp_path / "run.xyz", frames, format="extxyz")
    (tmp_path / "once").touch()
    reference = Reference.from_frames(list(md_frames()[:20]), descriptor=Deadly(tmp_path / "once"), bandwidth=0.05)
    options = {"reference": reference, "calibration": level_at(reference, -3.0)}
    checks, two, _ = scored(tmp_path / "run.xyz", tmp_path / "two", client=client, **options)
    assert not (tmp_path / "once").exists()
    assert len(checks) == 40
    assert two == scored(tmp_path / "run.xyz", tmp_path / "one", **options)[1]
    client.wait_for_workers(2)
    # all that the cluster holds is lost
    checks = score_trajectory(tmp_path / "run.xyz", client=client, **options)
    found = [next(checks)]
    for pid in client.run(os.getpid).values():
        os.kill(pid, signal.SIGKILL)
    with warnings.catch_warnings(action="ignore"):
        found += list(checks)
    assert [check.frame for check in found] == list(range(40))
    frames[25].set_initial_charges([2] + [0] * 31)
    write(tmp_path / "run.xyz", frames, format="extxyz")
    with (
        warnings.catch_warnings(action="ignore"),
        pytest.raises(ChildProcessError, match=r"run\.xyz, frames \d+ to .* died of it"),
    ):
        list(score_trajectory(tmp_path / "run.xyz", client=client, **options))


def test_a_reference_that_is_mapped_is_not_sent(folder, tmp_path, client):
    mapped = Reference.load(folder / "reference.safetensors", mmap=True)
    quiet = f"{folder / 'run.xyz'}@:7"
    same(quiet, tmp_path, client, reference=mapped)
    copy = tmp_path / "gone.safetensors"
    copy.write_bytes((folder / "reference.safetensors").read_bytes())
    mapped = Reference.load(copy, mmap=True)
    checks = score_trajectory(quiet, mapped, levels(), client=client)
    copy.unlink()
    assert len(list(checks)) == 7  # sent after all, since there is no file any more


def test_what_a_client_cannot_do_is_said(folder, client):
    with pytest.raises(TypeError, match=r"^client: expected names of files, which its workers read"):
        score_trajectory(list(md_frames()[:3]), known(), levels(), client=client)
    with pytest.raises(ValueError, match=r"^workers: expected none beside a client"):
        score_trajectory(folder / "run.xyz", known(), levels(), client=client, workers=2)
    with pytest.raises(TypeError, match=r"^client: expected a distributed.Client, got str"):
        score_trajectory(folder / "run.xyz", known(), levels(), client="tcp://here:8786")


def test_the_command_line_asks_a_scheduler(folder, quests_md_command, client):
    known = ("-r", "reference.safetensors", "-c", "levels.json")
    _, one, _ = quests_md_command("score", "part*.xyz", *known)
    client.wait_for_workers(2, timeout=60)  # one may have been killed, and started anew
    code, two, err = quests_md_command("score", "part*.xyz", *known, "--dask", client.scheduler.address)
    assert (code, two) == (0, one)
    assert f"Dask at {client.scheduler.address}: 2 workers" in err
    code, _, err = quests_md_command("score", "part*.xyz", *known, "--dask", client.scheduler.address, "--workers", "2")
    assert code == 2
    assert "error: --workers: those of --dask" in err


@pytest.fixture
def quests_md_command(folder, monkeypatch, capfd):
    from quests_md.cli.app import app

    monkeypatch.chdir(folder)

    def run(*arguments):
        capfd.readouterr()
        try:
            app(arguments)
        except SystemExit as end:
            code = end.code
        return code, *capfd.readouterr()

    return run
