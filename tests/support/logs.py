"""Logs made by hand: checks and events as a monitor would have written them."""

import itertools
import json
from collections.abc import Mapping
from dataclasses import fields, replace
from types import UnionType
from typing import Literal, get_args, get_origin, get_type_hints

import pytest
from hypothesis import strategies as st

from quests_md import Check, Event, read_log
from quests_md.log import SCHEMA, LogWriter
from quests_md.records import NearestEnvironment

NAN, INF = float("nan"), float("inf")
LEVEL = 2.0
HEADER = {
    "type": "header",
    "schema": SCHEMA,
    "started": "2026-01-02T03:04:05+00:00",
    "host": "node7",
    "pid": 4321,
    "reference": {"fingerprint": "abc123"},
}
CALIBRATION = {"level": LEVEL, "kind": "none", "rate": 1 / 31, "per": "check", "n_groups": 30}
CHECK = Check(
    step=0,
    frame=0,
    time_ps=None,
    n_atoms=200,
    dh_max=0.0,
    dh_mean=-4.0,
    dh_q99=-1.0,
    n_above=0,
    largest_cluster=0,
    frame_entropy=5.0,
    excess=-LEVEL,
    worst_atom=3,
    worst_element="Cu",
    n_unknown=0,
    temperature_K=None,
    volume_per_atom=12.0,
    energy_per_atom=None,
    interval=10,
    state="in",
    digest="00ff",
    elapsed_us=100.0,
)
EVENT = Event(
    id=1,
    kind="novel",
    onset_step=0,
    confirmed_step=0,
    last_step=0,
    onset_time_ps=None,
    onset_temperature_K=None,
    peak_excess=3.0,
    peak_step=0,
    n_atoms=1,
    atoms=(3,),
    size_history=(),
    centroid=None,
    worst_atom=3,
    worst_element="Cu",
    nearest=NearestEnvironment(5.0, "train.xyz", 4, 2),
    n_checks=1,
    is_open=False,
)


def check(i, dh_max=0.0, **changes):
    excess = NAN if dh_max is None else dh_max - LEVEL
    state = "out" if excess > 0 else "in"
    n_above = 20 if excess > 0 else 0
    return replace(CHECK, **({"step": 10 * i, "frame": i, "dh_max": dh_max, "excess": excess, "state": state} | {
        "n_above": n_above} | changes))  # fmt: skip


def invalid(i, **changes):
    nothing = dict.fromkeys(("dh_mean", "dh_q99", "frame_entropy", "worst_atom", "worst_element", "largest_cluster"))
    return check(i, None, **(nothing | {"state": "invalid", "excess": NAN} | changes))


def checks_of(letters, **changes):
    """A check for each letter: i in, x invalid, any other out."""
    return [
        invalid(i, **changes) if letter == "x" else check(i, 0.0 if letter == "i" else 5.0, **changes)
        for i, letter in enumerate(letters)
    ]


def event(checks, first, last, **changes):
    """The event that a monitor would have written for checks[first] to checks[last]."""
    onset = checks[first]
    known = {"onset_step": onset.step, "confirmed_step": onset.step, "last_step": checks[last].step}
    known |= {"onset_time_ps": onset.time_ps, "onset_temperature_K": onset.temperature_K}
    return replace(EVENT, **(known | {"n_checks": last - first + 1} | changes))


def check_line(frame, **values):
    """A line of a check; any value may be wrong."""
    return check(frame, digest=f"{frame:032x}", trigger_excess=-LEVEL).to_line() | values


def event_line(number, last_step=0, is_open=True):
    return replace(EVENT, id=number, last_step=last_step, is_open=is_open).to_line()


def note(text):
    return {"type": "note", "level": "info", "step": None, "message": text}


def rewind(frame):
    return {"type": "rewind", "step": 10 * frame, "frame": frame}


def write(path, *lines, resume=False):
    writer = LogWriter(path, resume=resume)
    for line in lines:
        writer.write(line)
    writer.close()


def strict_lines(path):
    """Every line as JSON without the NaN and Infinity that Python's parser would let through."""

    def refuse(token):
        raise AssertionError(f"{token} is not JSON")

    data = path.read_bytes()
    assert data.endswith(b"\n")
    return [json.loads(line, parse_constant=refuse) for line in data.decode("utf-8").split("\n")[:-1]]


#: Values of fields by their annotation; numpy strips NUL from texts.
VALUES = {
    int: st.integers(0, 2**53),
    float: st.floats(),
    bool: st.booleans(),
    str: st.text(st.characters(exclude_characters="\x00"), max_size=8) | st.sampled_from(["inf", "-inf", "nan", "1e5"]),
}


def records(kind):
    """Any record of a kind: of the fields that are compared, all that their annotations allow."""
    hints = get_type_hints(kind)
    return st.builds(kind, **{f.name: _values(hints[f.name]) for f in fields(kind) if f.compare})


def _values(hint):
    origin, args = get_origin(hint), get_args(hint)
    if hint in VALUES:
        return VALUES[hint]
    if origin is UnionType:
        return st.none() | _values(args[0])
    if origin is Literal:
        return st.sampled_from(args)
    if origin is tuple and args[-1] is not Ellipsis:
        return st.tuples(*map(_values, args))
    if origin is tuple:
        return st.lists(_values(args[0]), max_size=3).map(tuple)
    if origin is Mapping:
        return st.dictionaries(*map(_values, args), max_size=3)
    return records(hint)


def write_log(path, checks, events=(), **calibration):
    """Write the log of a run with these checks and events, and return its path."""
    reference = {"n_environments": 15616, "elements": ["Cu"], "bandwidth": 0.015}
    header = {"type": "header", "schema": SCHEMA, "reference": reference, "calibration": CALIBRATION | calibration}
    write(path, header, *(record.to_line() for record in [*checks, *events]))
    return path


@pytest.fixture
def log_of(tmp_path):
    names = itertools.count()

    def make(checks, events=(), **calibration):
        return read_log(write_log(tmp_path / f"{next(names)}.jsonl", checks, events, **calibration))

    return make
