"""Lines of a log from which a run goes on: whatever stands in them, the run goes on or an error names the line."""

import functools
import json
import random
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from systems import H, copper, level_at, null_of, outside

from quests_md import FileFormatError, MismatchError, Monitor, Phases, Reference, Trigger
from quests_md.watch.baseline import Baseline

#: What may stand where something else should.
WRONG = [None, True, -1, 0, 10**40, "x", "", "nan", "inf", [], {}, [None], {"a": 1}, 1.5, [10**30], 2**63, [1, 2, 3]]
WRONG += [{"0": 1}, "9" * 400, "delete"]

N_CHECKS, DIED, SNAPSHOT = 64, 46, 20


@functools.cache
def reference(spread=0.02):
    return Reference.from_frames([copper(seed=i, rattle=spread) for i in range(4)], bandwidth=H, groups="frame")


@functools.cache
def frames():
    """An event is open when the run dies, and when a snapshot is taken."""
    away = (24, 25, 26, 37, 38, 39, 40, 43, 44, 45, 46, 47)
    return [outside(i) if i in away else copper(seed=100 + i, rattle=0.02) for i in range(N_CHECKS)]


@functools.cache
def phases():
    return Phases({"cold": reference(), "hot": reference(0.15)}, rate=0.1)


def checked(log, begin, end, *, resume=False, is_rich):
    """Check frames; returns the events."""
    given = {"trigger": Trigger(patience=2, visits=3)}
    if is_rich:
        given = {"trigger": Trigger(patience_ps=0.05, visits=3), "baseline_ps": 0.7, "phases": phases()}
    entropies = [null_of(np.linspace(3, 5, 200), 32, "frame_entropy", side=side) for side in ("above", "below")]
    calibration = level_at(reference(), 2.0, *(entropies if is_rich else ()))
    with Monitor(
        reference(), calibration, log=log, threads=1, on_error="raise", resume=resume, verbose=False, **given
    ) as monitor:
        settings = replace(monitor.watch.settings, snapshot_every=SNAPSHOT)
        if is_rich:
            made = (getattr(settings.baseline, name) for name in ("statistics", "duration_ps", "rate", "release"))
            settings = replace(settings, baseline=Baseline(*made, fewest=1.01))
        monitor.watch.settings = settings
        for i in range(begin, end):
            monitor.check(frames()[i], step=i, time_ps=0.05 * i)
        return [(event.kind, event.onset_step, event.last_step) for event in monitor.events]


@functools.cache
def lines(is_rich):
    """The lines of a run that has died."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.jsonl"
        checked(path, 0, DIED, is_rich=is_rich)
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def taken_up(path, content, is_rich):
    path.write_text("".join(json.dumps(line) + "\n" for line in content), encoding="utf-8")
    return checked(path, DIED, N_CHECKS, resume=True, is_rich=is_rich)


def places(value, path=()):
    """All places in a line of JSON; of long lists the first two."""
    items = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


def changed(content, i, place, value):
    """The lines with something else at a place of one of them."""
    line = json.loads(json.dumps(content[i]))
    at = line
    for key in place[:-1]:
        at = at[key]
    if value == "delete":
        del at[place[-1]]
    else:
        at[place[-1]] = value
    return [*content[:i], line, *content[i + 1 :]]


def of_state(content, name):
    """The last line of type "state" with a field of this name."""
    return max(i for i, line in enumerate(content) if line["type"] == "state" and name in line)


NAMED = [
    (("sizes",), 5),
    (("sizes", "novel"), [None, 1]),
    (("sizes", "novel"), "delete"),
    (("tracks",), "x"),
    (("tracks", "novel"), "delete"),
    (("tracks", "novel", "n_tracks"), "x"),
    (("tracks", "novel", "followed", 0, "anchors"), [1.5]),
    (("peaks",), None),
    (("peaks", "novel", "environments"), [{"delta_entropy": {"a": 1}}]),
    (("peaks", "novel", "environments", 0, "delta_entropy"), {"a": 1}),
    (("trigger",), {"novel": "closed"}),
    (("snapshot", "triggers", "novel"), "delete"),
    (("snapshot", "triggers", "novel", "state"), "closed"),
    (("snapshot", "triggers", "novel", "state"), "in"),
    (("snapshot", "triggers", "novel", "visits", 0), [None]),
    (("snapshot", "courses", "novel", "every"), 0),
    (("snapshot", "courses", "novel", "peak"), None),
    (("snapshot", "courses", "novel", "history"), [[1]]),
    (("snapshot", "courses", "novel", "tracker", "followed"), 7),
    (("snapshot", "n_checks"), 7),
    (("snapshot", "explosion", "volumes"), ["x"]),
    (("snapshot", "onsets", "novel"), [[1]]),
    (("snapshot", "baseline"), "delete"),
    (("snapshot", "baseline", "start_ps"), "nan"),
    (("snapshot", "baseline", "judged", "frame_entropy", "scale", "n"), -1),
    (("snapshot", "baseline", "judged", "frame_entropy", "per_block"), 0),
    (("snapshot", "own_clusters", "levels"), [1]),
]


@pytest.mark.parametrize(("place", "value"), NAMED)
def test_a_state_line_that_holds_something_else_is_named(tmp_path, place, value):
    content = lines(True)
    i = of_state(content, place[0])
    path = tmp_path / "run.jsonl"
    with pytest.raises(FileFormatError, match=rf"run\.jsonl: line {i + 1} .*the run cannot go on from it"):
        taken_up(path, changed(content, i, place, value), True)
    assert len(path.read_text(encoding="utf-8").splitlines()) == len(content)


@pytest.mark.parametrize("value", [5, {"visits": -1}, {"visits": "x"}, {"patience": "3"}, {"unknown": 1}])
def test_a_header_with_a_trigger_that_is_none_is_named(tmp_path, value):
    content = lines(False)
    header = content[0] | {"trigger": content[0]["trigger"] | value if isinstance(value, dict) else value}
    with pytest.raises(FileFormatError, match=r"run\.jsonl: line 1 "):
        taken_up(tmp_path / "run.jsonl", [header, *content[1:]], False)


@pytest.mark.parametrize("is_rich", [False, True])
def test_whatever_stands_in_a_log_a_run_goes_on_or_the_line_is_named(tmp_path, is_rich):
    content, path, rng = lines(is_rich), tmp_path / "run.jsonl", random.Random(5)
    expected = taken_up(path, content, is_rich)
    assert len(expected) >= 3
    first = of_state(content, "snapshot")  # what stands before it is hardly looked at
    states = [i for i, line in enumerate(content) if line["type"] == "state" and i >= first]
    others = [i for i, line in enumerate(content) if line["type"] != "state"]
    named = []
    for _ in range(60):
        i = rng.choice(states * 2 + others)
        place = rng.choice([place for place in places(content[i]) if place != ("type",)])
        try:
            taken_up(path, changed(content, i, place, rng.choice(WRONG)), is_rich)
        except FileFormatError as exc:
            named.append(str(exc))
        except MismatchError:
            pass
    assert len(named) > 15
    assert [text for text in named if f"{path}: line " not in text and "lacks lines that belong" not in text] == []
