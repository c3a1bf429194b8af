"""Files of calibrations: what comes back, and what is refused."""

import json
import math

import pytest
from systems import NULL_LINE, calibration_of, null_of

from quests_md import Calibration, FileFormatError, calibrate
from quests_md.calibration import SCHEMA, STATISTICS


@pytest.fixture
def saved(tmp_path, cu):
    path = tmp_path / "levels.json"
    calibrate(cu, false_alarms=0.05, per="ns").save(path)
    return path


def test_a_calibration_comes_back_as_it_was(tmp_path, saved, cu):
    calibration = calibrate(cu, false_alarms=0.05, per="ns")
    loaded = Calibration.load(saved)
    for name in ("fingerprint", "false_alarms", "per", "how", "kind", "n_groups"):
        assert getattr(loaded, name) == getattr(calibration, name)
    for name in ("statistics", "atom_levels", "typical", "checks", "times"):
        assert getattr(loaded, name) == getattr(calibration, name)
    assert len(loaded.nulls) == len(calibration.nulls) > 5
    for a, b in zip(loaded.nulls, calibration.nulls, strict=True):
        assert (a.statistic, a.element, a.side, a.values) == (b.statistic, b.element, b.side, b.values)
        assert (a.scores.tobytes(), a.sizes.tobytes()) == (b.scores.tobytes(), b.sizes.tobytes())
        assert a.groups.tolist() == b.groups.tolist()
    assert loaded.origin.fingerprint == calibration.origin.fingerprint == cu.fingerprint
    assert loaded.origin.frame_groups.tolist() == cu.arrays.frame_group.tolist()
    for name in ("rows", "usual", "scatter"):
        assert getattr(loaded.landmarks, name).tobytes() == getattr(calibration.landmarks, name).tobytes()
    for name in ("tail_level", "n_alone"):
        assert getattr(loaded.landmarks, name) == getattr(calibration.landmarks, name)
    everything = [c.with_statistics(list(STATISTICS)) for c in (loaded, calibration)]
    for mode in ("full", "proven"):
        assert len({c.alarm_levels([29] * 40, 7, mode=mode) for c in everything}) == 1
        assert len({c.describe(40, 7, mode=mode) for c in everything}) == 1
    loaded.require(cu)
    for few in ([], [1.5]):
        calibration_of(null_of(few, 10)).save(tmp_path / "few.json")
        assert Calibration.load(tmp_path / "few.json").nulls[0].scores.tolist() == few


def test_scores_in_a_file_may_come_in_any_order(saved):
    content = json.loads(saved.read_text())
    before = Calibration.load(saved)
    for null in content["nulls"]:
        null["scores"].reverse()
        null["sizes"].reverse()
    saved.write_text(json.dumps(content))
    for a, b in zip(Calibration.load(saved).nulls, before.nulls, strict=True):
        assert a.scores.tolist() == b.scores.tolist() == sorted(b.scores)


def test_a_torn_file_is_refused_at_any_length(saved):
    whole = saved.read_bytes()
    for length in [*range(0, len(whole) - 2, 11), len(whole) - 2]:
        saved.write_bytes(whole[:length])
        with pytest.raises(FileFormatError, match=r"levels\.json"):
            Calibration.load(saved)


@pytest.mark.parametrize(
    "content",
    [b"[]", b"3", b'"text"', b"{}", b'{"type": "other"}', b"\xff\xfe\x00", b"2\ncomment\nCu 0 0 0\n", b"null"],
)
def test_another_file_is_not_a_calibration(tmp_path, content):
    path = tmp_path / "other.json"
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=r"other\.json"):
        Calibration.load(path)


@pytest.mark.parametrize(
    "change",
    [
        {"nulls": [NULL_LINE | {"side": "left"}]},
        {"nulls": [NULL_LINE | {"values": "some"}]},
        {"nulls": [NULL_LINE | {"statistic": "dh_min"}]},
        {"nulls": [NULL_LINE | {"scores": [math.nan, 1.0]}]},
        {"nulls": [{k: v for k, v in NULL_LINE.items() if k != "element"}]},
        {"nulls": 3},
        {"statistics": []},
        {"statistics": ["dh_min"]},
        {"atom_levels": {"Cu": 1.0}},
        {"false_alarms": 0},
        {"per": "year"},
        {"schema": None},
    ],
)
def test_damaged_content_is_refused(saved, change):
    saved.write_text(json.dumps(json.loads(saved.read_text()) | {"nulls": [NULL_LINE]} | change))
    with pytest.raises(FileFormatError, match=r"levels\.json"):
        Calibration.load(saved)


def test_missing_content_is_refused_by_name(saved):
    content = json.loads(saved.read_text())
    assert len(content) == 17
    for name in content.keys() - {"origin"}:  # which older files lack
        saved.write_text(json.dumps({key: value for key, value in content.items() if key != name}))
        with pytest.raises(FileFormatError, match=name):
            Calibration.load(saved)


@pytest.mark.parametrize(("schema", "todo"), [(SCHEMA + 1, "update quests_md"), (1, "calibrate again")])
def test_another_schema_is_refused_saying_what_to_do(saved, schema, todo):
    saved.write_text(json.dumps({"type": "quests_md calibration", "schema": schema}))
    with pytest.raises(FileFormatError, match=rf"schema {schema}.*reads {SCHEMA}; {todo}"):
        Calibration.load(saved)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Calibration\.save"):
        Calibration.load(tmp_path / "missing.json")


def test_an_interrupted_save_keeps_the_older_file(tmp_path, saved):
    before = saved.read_bytes()
    unwritable = calibration_of(null_of([math.nan], 10))
    with pytest.raises(ValueError, match="JSON"):
        unwritable.save(saved)
    assert saved.read_bytes() == before
    assert list(tmp_path.iterdir()) == [saved]
    with pytest.raises(FileNotFoundError, match="create its folder"):
        calibration_of(null_of([1.0], 10)).save(tmp_path / "missing" / "levels.json")
    assert list(tmp_path.iterdir()) == [saved]
