"""A statistic that somebody adds is one entry of the registry: everything else follows."""

import numpy as np
import pytest
from systems import H, copper

from quests_md import Calibration, Monitor, Reference, Trigger, calibrate, read_log
from quests_md.calibration import STATISTICS
from quests_md.calibration.statistics import Statistic
from quests_md.show import timeline


def median(frame):
    return float(np.median(frame.averaged)) if len(frame.averaged) else None


def run(reference, calibration, log, n, **options):
    """Quiet frames, then disordered ones."""
    with Monitor(reference, calibration, log=log, on_error="raise", trigger=Trigger(patience=2), **options) as monitor:
        for i in range(n):
            atoms = copper(seed=500 + i, rattle=0.05 if i < 30 else 0.1)
            monitor.check(atoms, step=i, time_ps=0.1 * i)
        return monitor.last_check, monitor.events


@pytest.mark.parametrize("values", ["full", "proven"])
def test_one_entry_is_enough(values, tmp_path, monkeypatch):
    entry = Statistic("dh_median", "median of dH", "nats", "mean", median, "sample", has_baseline=True)
    monkeypatch.setitem(STATISTICS, "dh_median", entry)
    reference = Reference.from_frames([copper(seed=i, rattle=0.05) for i in range(60)], bandwidth=H, groups="frame")
    calibrate(reference, false_alarms=0.05, statistics=("dh_median",)).save(tmp_path / "levels.json")
    calibration = Calibration.load(tmp_path / "levels.json")
    last, events = run(reference, calibration, tmp_path / "run.jsonl", 40, values=values)
    assert last.alarms == ("dh_median",)
    assert last.statistic("dh_median") == last.further["dh_median"] == pytest.approx(last.dh_mean, abs=5.0)
    assert (events[-1].onset_step, events[-1].alarms, events[-1].is_open) == (30, ("dh_median",), True)
    log = read_log(tmp_path / "run.jsonl")
    np.testing.assert_array_equal(log.statistic("dh_median"), log.further["dh_median"])
    assert log.further["dh_median"][-1] == last.further["dh_median"]
    assert timeline(log).axes
    again, _ = run(reference, calibration, tmp_path / "run.jsonl", 40, values=values, resume=True)
    assert again.further == last.further


def test_a_check_without_it_has_the_line_of_before():
    reference = Reference.from_frames([copper(seed=i, rattle=0.05) for i in range(6)], bandwidth=H, groups="frame")
    with Monitor(reference, log=None, statistics=("dh_max", "dh_mean")) as monitor:
        check = monitor.check(copper(seed=9, rattle=0.05))
    assert check.further == {}
    assert "further" not in check.to_line()
    assert check.statistic("no such") is None
