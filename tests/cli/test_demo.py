import json
import re

import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.io import read
from systems import cold_reference

from quests_md import Monitor, Reference, read_log
from quests_md.cli.demo import INTERVAL, TIME_STEP_FS, Plan, copper, heat_bath, run_demo, share_off_site

PLAN = Plan(size=2, hot_K=5000.0, settle_steps=20, reference_steps=150, heat_steps=80, run_steps=200)


@pytest.fixture(scope="module")
def short_run(tmp_path_factory):
    """A demo of 32 atoms that is heated fast: events, what was said, and the folder."""
    folder = tmp_path_factory.mktemp("demo") / "a folder"
    said = []
    events = run_demo(folder, said.append, PLAN)
    return events, "\n".join(said), folder


def test_the_files_are_there_and_named(short_run):
    _, said, folder = short_run
    names = {"reference.safetensors", "run.jsonl", "flagged.extxyz", "timeline.png"}
    assert {file.name for file in folder.iterdir()} == names
    assert all(name in said for name in names)
    assert (folder / "timeline.png").read_bytes()[:4] == b"\x89PNG"


def test_the_event_is_found_and_open_at_the_end(short_run):
    events, said, folder = short_run
    [event] = events[-1:]
    assert event.is_open
    assert event.kind == "novel"
    assert event.onset_temperature_K > 500
    assert event.n_atoms == 32
    assert read_log(folder / "run.jsonl").events[-1] == event
    assert event.describe() in said
    frames = read(folder / "flagged.extxyz", ":")
    assert frames[0].info["step"] == events[0].confirmed_step
    for frame in frames:
        assert frame.arrays["delta_entropy"].shape == (32,)
        assert np.isfinite(frame.get_potential_energy())


def test_the_log_tells_the_run_and_names_the_reference(short_run):
    _, _, folder = short_run
    log = read_log(folder / "run.jsonl")
    np.testing.assert_array_equal(log.step, np.arange(0, 201, INTERVAL))
    np.testing.assert_allclose(log.time_ps, log.step * TIME_STEP_FS / 1000)
    assert (log.n_atoms == 32).all()
    assert log.state[0] == "in"
    assert log.temperature_K[0] < 700 < 2000 < log.temperature_K[-1]
    reference = Reference.load(folder / "reference.safetensors")
    assert log.header["reference"]["fingerprint"] == reference.fingerprint
    assert reference.elements == ("Cu",)
    assert reference.n_frames == 150 // 5 + 1
    assert reference.n_environments == 32 * reference.n_frames


def test_every_line_fits_a_terminal_and_the_course_is_shown(short_run):
    _, said, folder = short_run
    course = re.findall(r"^ +(\d+) +\d+ +-?\d+\.\d+ .* of +32 +\d+%  (in|out)", said, re.MULTILINE)
    assert [int(step) for step, _ in course] == [0, 50, 100, 150, 200]
    assert course[-1][1] == "out"
    assert max(len(line) for line in said.replace(str(folder), "").splitlines()) <= 90
    assert re.search(r"^melted by step \d+ \(\d\.\d\d ps, \d+ K\): half of the atoms had left$", said, re.MULTILINE)
    assert "overhead: 21 checks" in said


@pytest.mark.slow
def test_a_run_that_does_not_melt_is_not_said_to(tmp_path):
    said = []
    run_demo(tmp_path, said.append, Plan(size=2, hot_K=350.0, settle_steps=20, reference_steps=50, run_steps=30))
    assert "melting: not seen; at the end 0% of the atoms had left their lattice sites" in said
    assert not [line for line in said if line.startswith("melted")]


def test_atoms_off_their_sites_are_counted():
    rng = np.random.default_rng(0)
    atoms = copper(3, 0.0, rng)
    sites = atoms.get_scaled_positions(wrap=False)
    atoms.set_cell(atoms.cell.array * 1.1, scale_atoms=True)
    atoms.positions += (0.3, 0.2, 0.1)  # neither expansion nor drift is melting
    assert share_off_site(atoms, sites) == 0
    atoms.positions += rng.normal(0, 0.15, (108, 3))  # a hot crystal: 0.26 Å from the sites
    assert share_off_site(atoms, sites) == 0
    atoms.positions[:27] += 2.2 * np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0]]).repeat(9, axis=0)
    assert share_off_site(atoms, sites) == pytest.approx(0.25, abs=0.02)


@pytest.mark.slow
def test_the_bath_reaches_its_temperature_and_pressure():
    atoms = copper(2, 600.0, np.random.default_rng(1))
    atoms.set_cell(atoms.cell.array * 0.98, scale_atoms=True)
    assert np.abs(atoms.get_momenta().sum(axis=0)).max() < 1e-10
    squeezed = -atoms.get_stress()[:3].mean()
    dyn = heat_bath(atoms, 300.0, 600.0, 100)
    kelvin = []
    dyn.attach(lambda: kelvin.append(atoms.get_temperature()), 1)
    dyn.run(250)
    assert np.mean(kelvin[-100:]) == pytest.approx(600, rel=0.1)
    assert abs(atoms.get_stress(include_ideal_gas=True)[:3].mean()) < 0.3 * squeezed


def test_a_folder_that_exists_is_left_alone(quests_md, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("quests_md.cli.demo.run_demo", lambda folder, say: asked.append(folder))
    wanted = tmp_path / "quests.md demo"
    assert quests_md("demo", "--folder", wanted)[0] == 0
    wanted.mkdir()
    (tmp_path / "quests.md demo-2").touch()
    assert quests_md("demo", "--folder", wanted)[0] == 0
    assert asked == [wanted, tmp_path / "quests.md demo-3"]


@pytest.mark.slow
def test_the_watched_run_is_the_same_without_the_monitor(short_run):
    # every frame of the log, by its digest, from MD alone
    atoms = copper(PLAN.size, 2 * PLAN.cold_K, np.random.default_rng(PLAN.seed))
    heat_bath(atoms, PLAN.cold_K, PLAN.cold_K, PLAN.settle_steps).run(PLAN.settle_steps)
    atoms = atoms.copy()
    atoms.calc = EMT()
    dyn = heat_bath(atoms, PLAN.cold_K, PLAN.hot_K, PLAN.heat_steps)
    frames = []
    dyn.insert_observer(lambda: frames.append(atoms.copy()), 0, INTERVAL)  # before the cell is scaled
    dyn.run(PLAN.run_steps)
    monitor = Monitor(cold_reference(), log=None)
    lines = [json.loads(line) for line in (short_run[2] / "run.jsonl").read_text(encoding="utf-8").splitlines()]
    digests = [line["digest"] for line in lines if line["type"] == "check"]
    assert digests == [monitor.check(frame).digest for frame in frames]
