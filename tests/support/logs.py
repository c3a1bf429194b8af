"""Logs made by hand: checks and events as a monitor would have written them."""

import itertools
from dataclasses import replace

import pytest

from quests_md import Check, Event, read_log
from quests_md.log import SCHEMA, LogWriter
from quests_md.records import NearestEnvironment

NAN, INF = float("nan"), float("inf")
LEVEL = 2.0
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


def event(checks, first, last, **changes):
    """The event that a monitor would have written for checks[first] to checks[last]."""
    onset = checks[first]
    known = {"onset_step": onset.step, "confirmed_step": onset.step, "last_step": checks[last].step}
    known |= {"onset_time_ps": onset.time_ps, "onset_temperature_K": onset.temperature_K}
    return replace(EVENT, **(known | {"n_checks": last - first + 1} | changes))


def write_log(path, checks, events=(), **calibration):
    """Write the log of a run with these checks and events, and return its path."""
    reference = {"n_environments": 15616, "elements": ["Cu"], "bandwidth": 0.015}
    header = {"type": "header", "schema": SCHEMA, "reference": reference, "calibration": CALIBRATION | calibration}
    writer = LogWriter(path)
    writer.write(header, *(record.to_line() for record in [*checks, *events]))
    writer.close()
    return path


@pytest.fixture
def log_of(tmp_path):
    """Make the log of checks and events, read back."""
    names = itertools.count()

    def make(checks, events=(), **calibration):
        return read_log(write_log(tmp_path / f"{next(names)}.jsonl", checks, events, **calibration))

    return make
