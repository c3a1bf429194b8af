"""Calibrations of references so large that dH, where it raises no alarm, is not scored."""

import json

import naive
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from references import repeated

from quests_md import Calibration, Descriptor, FileFormatError, MismatchError, Monitor, Reference, Trigger, calibrate
from quests_md.calibration import DEFAULT_STATISTICS, STATISTICS

#: Rows of three numbers cost little.
TINY = Descriptor(k=2, cutoff=4.0)


def alloys(n, seed=0):
    """Cells of 60 atoms, every other of copper alone."""
    rng = np.random.default_rng(seed)
    frames = []
    for i in range(n):
        atoms: Atoms = bulk("Cu", cubic=True) * (3, 5, 1)
        if i % 2:
            atoms.numbers[::3] = 28
        atoms.positions += rng.normal(0, 0.1, atoms.positions.shape)
        frames.append(atoms)
    return frames


@pytest.fixture(scope="module")
def parent():
    return Reference.from_frames(alloys(500), descriptor=TINY, bandwidth=0.03, groups="frame")


@pytest.fixture(scope="module")
def large(parent):
    return repeated(parent, 12)


@pytest.fixture(scope="module")
def calibration(large):
    return calibrate(large)


def test_dh_is_not_scored_where_it_raises_no_alarm(parent, large, calibration, tmp_path):
    assert large.n_environments > 333_333
    assert {null.statistic for null in calibration.nulls} == {n for n, s in STATISTICS.items() if s.scale == "averaged"}
    assert "dH, which raises no alarm, was not scored" in calibration.describe()
    assert calibration.lacks_dh
    assert not calibrate(parent).lacks_dh
    calibration.save(tmp_path / "c.json")
    loaded = Calibration.load(tmp_path / "c.json")
    assert loaded.typical == calibration.typical
    assert loaded.frame_levels([29] * 60) == calibration.frame_levels([29] * 60)
    for one in (calibration, loaded):
        with pytest.raises(MismatchError, match="statistics: dh_mean is of dH, which this calibration has not scored"):
            one.with_statistics(("local_max", "dh_mean"))
        with pytest.raises(MismatchError, match="dh_max is of dH"):
            one.levels(alloys(1)[0])
        assert one.with_statistics(("local_max",)).statistics == ("local_max",)


def test_statistics_of_dh_are_scored_where_they_are_asked_for(large):
    asked = calibrate(large, frames=alloys(20, seed=7), statistics=("dh_max",))
    assert not asked.lacks_dh
    assert len(asked.levels(alloys(1)[0])) == 60


def test_a_monitor_needs_no_scores_of_dh(large, calibration):
    frame = alloys(2, seed=3)[1]
    for values in ("auto", "full"):
        check = Monitor(large, calibration, log=None, values=values).check(frame)
        assert check.state in ("in", "out")
        assert check.n_tail is None
        assert set(check.excesses) == set(DEFAULT_STATISTICS)
    assert np.isfinite(check.delta_entropy).all()


def test_neither_preflight_nor_an_event_builds_a_search_structure(parent, calibration):
    """Over so many rows it takes seconds and memory, inside an MD step; what an event says is found in one pass."""
    large = repeated(parent, 12)
    monitor = Monitor(large, calibration, log=None, trigger=Trigger(patience=1))
    frame = alloys(2, seed=4)[1]
    assert "inside" in monitor.preflight(frame) or "OUTSIDE" in monitor.preflight(frame)
    strange = frame.copy()
    strange.positions += np.random.default_rng(1).normal(0, 0.25, strange.positions.shape)
    monitor.check(strange)
    (event,) = monitor.events
    assert large.structures == {}
    rows = TINY(strange)
    for found in event.environments:
        own = large.rows[large.numbers == strange.numbers[found.atom]]
        d2 = ((own - rows[found.atom]) ** 2).sum(axis=1)
        assert found.nearest.distance == pytest.approx(np.sqrt(d2.min()) / large.bandwidth)
        expected = naive.delta_entropy(rows[[found.atom]], own, large.bandwidth)
        assert found.delta_entropy == pytest.approx(expected[0], rel=1e-9)
    assert len(event.environments) == 3


def test_groups_speak_for_frames_of_their_elements_alone(large, calibration):
    """A frame of copper has levels of frames of copper; nothing is promised for an element that no frame has."""
    of_copper, of_both = (calibration.frame_levels([29] * 40 + [z] * 20) for z in (29, 28))
    n_copper, n_both = (max(level.n_groups for level in levels) for levels in (of_copper, of_both))
    assert n_copper == pytest.approx(n_both / 2, rel=0.1)
    assert "no frame that sets levels has Au" in calibration.why_unpromised([29, 79])


def test_carried_levels_lack_dh_as_well(parent, large):
    carried = calibrate(parent).carried_to(large)
    assert carried.lacks_dh
    assert carried.n_groups == parent.n_frames


def test_a_torn_list_of_groups_is_refused(calibration, tmp_path):
    path = tmp_path / "c.json"
    calibration.save(path)
    content = json.loads(path.read_text())
    for wrong in ([3, 2], [1, 1], [-1], "1", [1.5]):
        content["groups_of_elements"]["29"] = wrong
        path.write_text(json.dumps(content))
        with pytest.raises(FileFormatError, match="groups_of_elements"):
            Calibration.load(path)
