"""Short departures that come again, from frames to the exit code."""

import json

import numpy as np
import pytest
from systems import level_at, md_frames, md_reference, outside

from quests_md import MismatchError, Monitor, Trigger, read_log, save_frame

#: Out at checks 2, 6, 7, 12 and 15, then never again.
PATTERN = [i in (2, 6, 7, 12, 15) for i in range(45)]


def frames(pattern):
    return [outside(i) if out else md_frames()[i % 7].copy() for i, out in enumerate(pattern)]


def levels():
    return level_at(md_reference(), -3.0)


def watched(log, some, *, first=0, **options):
    options = {"on_error": "raise", "threads": 1, **options}
    with Monitor(md_reference(), levels(), log=log, **options) as monitor:
        for i, atoms in enumerate(some, first):
            monitor.check(atoms, step=i, time_ps=0.1 * i)
    return monitor


def test_four_visits_open_an_event_that_began_with_the_first(tmp_path):
    log = tmp_path / "run.jsonl"
    monitor = watched(log, frames(PATTERN), trigger=Trigger(visits=4), actions=[save_frame(tmp_path / "f.extxyz")])
    (event,) = monitor.events
    assert (event.kind, event.onset_step, event.confirmed_step, event.last_step) == ("novel", 2, 15, 15)
    assert event.onset_time_ps == pytest.approx(0.2)
    assert event.reason.endswith("out 4 times within 14 checks")
    assert "out 4 times within 14 checks" in event.describe()
    assert not event.is_open
    closed = [line for line in map(json.loads, log.read_text().splitlines()) if line["type"] == "event"][-1]
    assert read_log(log).events[0].is_open is closed["is_open"] is False
    assert (tmp_path / "f.extxyz").stat().st_size > 0
    still = watched(None, frames(PATTERN[:35]), trigger=Trigger(visits=4))
    assert still.events[0].is_open  # 19 checks without one out
    assert not watched(None, frames(PATTERN), trigger=Trigger(patience=3)).events


def test_the_default_follows_the_rate_and_is_said(tmp_path):
    monitor = watched(tmp_path / "run.jsonl", frames(PATTERN[:1]))
    header = json.loads((tmp_path / "run.jsonl").read_text().splitlines()[0])
    chosen = monitor.watch.settings.trigger
    assert header["trigger"] == chosen.settings
    assert (chosen.patience, chosen.window) == (3, 20)
    assert chosen.visits == 4
    text = " ".join(monitor.preflight(md_frames()[0]).split())
    assert "events opened by 3 checks out in a row or 4 visits in 20 checks" in text
    assert "in a row 1 000 000, by visits 200 000" in text


@pytest.mark.parametrize("cut", [3, 7, 8, 14, 16, 20, 34, 36])
def test_a_run_that_comes_back_has_the_same_event(tmp_path, cut):
    some = frames(PATTERN)
    whole = watched(None, some, trigger=Trigger(visits=4))
    log = tmp_path / "run.jsonl"
    watched(log, some[:cut], trigger=Trigger(visits=4))
    back = watched(log, some[cut - 1 :], first=cut - 1, trigger=Trigger(visits=4), resume=True, start_step=cut - 1)
    (expected,), (found,) = whole.events, read_log(log).events
    np.testing.assert_equal(found.to_line(), expected.to_line())
    assert back.watch.run.n_checks == len(some)


def test_a_log_without_a_count_of_visits_goes_on_without(tmp_path):
    some, log = frames(PATTERN), tmp_path / "run.jsonl"
    watched(log, some[:10], trigger=Trigger(patience=3))
    lines = log.read_text().splitlines()
    header = json.loads(lines[0])
    del header["trigger"]["visits"], header["trigger"]["window"]  # as versions before wrote it
    log.write_text("\n".join([json.dumps(header), *lines[1:]]) + "\n")
    back = watched(log, some[9:], first=9, resume=True, start_step=9)
    assert not back.events
    with pytest.raises(MismatchError, match="trigger"):
        watched(log, some[9:], first=9, resume=True, start_step=9, trigger=Trigger(visits=4))
