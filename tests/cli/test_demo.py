import json
import re

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import read

from quests_md import Reference, read_log
from quests_md.cli import demo
from quests_md.cli.demo import free_folder, run_demo


@pytest.fixture(scope="module")
def short_run(tmp_path_factory):
    """A demo of 32 atoms that is heated fast: events, what was said, and the folder."""
    folder = tmp_path_factory.mktemp("demo") / "a folder"
    said = []
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"SETTLE_STEPS": 20, "REFERENCE_STEPS": 150, "HEAT_STEPS": 80, "RUN_STEPS": 200}.items():
            patch.setattr(demo, name, value)
        patch.setattr(demo, "HOT", 5000.0)
        events = run_demo(folder, said.append, size=2)
    return events, "\n".join(said), folder


def test_the_files_are_there(short_run):
    _, said, folder = short_run
    names = {"reference.safetensors", "run.jsonl", "flagged.extxyz", "timeline.png"}
    assert {file.name for file in folder.iterdir()} == names
    for name in names:
        assert name in said
    assert (folder / "timeline.png").read_bytes()[:4] == b"\x89PNG"


def test_the_event_is_found_and_open_at_the_end(short_run):
    events, said, folder = short_run
    log = read_log(folder / "run.jsonl")
    [event] = events[-1:]
    assert event.is_open
    assert event.kind == "novel"
    assert event.onset_temperature_K > 500
    assert event.n_atoms == 32
    assert log.events[-1] == event
    assert event.describe() in said


def test_the_log_tells_the_run(short_run):
    _, _, folder = short_run
    log = read_log(folder / "run.jsonl")
    np.testing.assert_array_equal(log.step, np.arange(0, 201, demo.INTERVAL))
    np.testing.assert_allclose(log.time_ps, log.step * demo.TIME_STEP_FS / 1000)
    assert (log.n_atoms == 32).all()
    assert log.state[0] == "in"
    assert log.temperature_K[0] < 700 < 2000 < log.temperature_K[-1]
    assert log.header["reference"]["fingerprint"] == Reference.load(folder / "reference.safetensors").fingerprint


def test_the_reference_ends_where_it_says(short_run):
    _, _, folder = short_run
    reference = Reference.load(folder / "reference.safetensors")
    assert reference.elements == ("Cu",)
    assert reference.n_frames == 150 // 5 + 1
    assert reference.n_environments == 32 * reference.n_frames


def test_flagged_frames_carry_dh_per_atom(short_run):
    events, _, folder = short_run
    frames = read(folder / "flagged.extxyz", ":")
    assert frames[0].info["step"] == events[0].confirmed_step
    for frame in frames:
        assert frame.arrays["delta_entropy"].shape == (32,)
        assert np.isfinite(frame.get_potential_energy())


def test_every_line_fits_a_terminal_and_the_course_is_shown(short_run):
    _, said, folder = short_run
    course = re.findall(r"^ +(\d+) +\d+ +-?\d+\.\d+ .* of +32 +\d+%  (in|out)", said, re.MULTILINE)
    assert [int(step) for step, _ in course] == [0, 50, 100, 150, 200]
    assert course[-1][1] == "out"
    assert max(len(line) for line in said.replace(str(folder), "").splitlines()) <= 100
    assert re.search(r"^melted by step \d+ \(\d\.\d\d ps, \d+ K\): half of the atoms had left$", said, re.MULTILINE)
    assert "overhead: 21 checks" in said


def test_a_run_that_does_not_melt_is_not_said_to(short_run):
    [line] = demo._summary(short_run[0][:0], None, 0.02)[1:]
    assert line == "melting: not seen; at the end 2% of the atoms had left their lattice sites"


def test_atoms_off_their_sites_are_counted():
    rng = np.random.default_rng(0)
    atoms = bulk("Cu", cubic=True) * (3, 3, 3)
    sites = atoms.get_scaled_positions(wrap=False)
    atoms.set_cell(atoms.cell.array * 1.1, scale_atoms=True)
    atoms.positions += (0.3, 0.2, 0.1)  # neither expansion nor drift is melting
    assert demo._off_site(atoms, sites) == 0
    atoms.positions += rng.normal(0, 0.15, (108, 3))  # a hot crystal: 0.26 Å from the sites
    assert demo._off_site(atoms, sites) == 0
    atoms.positions[:27] += 2.2 * np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0]]).repeat(9, axis=0)
    assert demo._off_site(atoms, sites) == pytest.approx(0.25, abs=0.02)


def test_the_bath_reaches_its_temperature_and_pressure():
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    atoms.set_cell(atoms.cell.array * 0.98, scale_atoms=True)
    atoms.calc = demo.EMT()
    demo._give_velocities(atoms, 600.0, np.random.default_rng(1))
    assert np.abs(atoms.get_momenta().sum(axis=0)).max() < 1e-10
    squeezed = -atoms.get_stress()[:3].mean()
    dyn = demo._bath(atoms, 300.0, 600.0, 100)
    kelvin = []
    dyn.attach(lambda: kelvin.append(atoms.get_temperature()), 1)
    dyn.run(250)
    assert np.mean(kelvin[-100:]) == pytest.approx(600, rel=0.1)
    assert abs(atoms.get_stress(include_ideal_gas=True)[:3].mean()) < 0.3 * squeezed


def test_a_folder_that_exists_is_left_alone(tmp_path):
    wanted = tmp_path / "quests.md demo"
    assert free_folder(wanted) == wanted
    wanted.mkdir()
    (tmp_path / "quests.md demo-2").write_text("a file\n")
    assert free_folder(wanted) == tmp_path / "quests.md demo-3"


def test_the_watched_run_is_the_same_without_the_monitor(short_run, tmp_path, monkeypatch):
    # the last frame of the log, by its digest, from MD alone
    from quests_md.judge.judge import frame_digest

    _, _, folder = short_run
    for name, value in {"HOT": 5000.0, "HEAT_STEPS": 80}.items():
        monkeypatch.setattr(demo, name, value)
    atoms: Atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    atoms.calc = demo.EMT()
    demo._give_velocities(atoms, 2 * demo.COLD, np.random.default_rng(0))
    demo._bath(atoms, demo.COLD, demo.COLD, 20).run(20)
    cold = atoms.copy()
    cold.calc = demo.EMT()
    dyn = demo._bath(cold, demo.COLD, demo.HOT, demo.HEAT_STEPS)
    digests = []
    dyn.insert_observer(lambda: digests.append(frame_digest(cold)), 0, demo.INTERVAL)  # before the cell is scaled
    dyn.run(200)
    lines = [json.loads(line) for line in (folder / "run.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["digest"] for line in lines if line["type"] == "check"] == digests
