"""Check and Event: frozen, and the same again from their log lines."""

import math
from dataclasses import fields, replace

import numpy as np
import pytest
from logs import CHECK as QUIET
from logs import EVENT

from quests_md import Check, Event
from quests_md.records import FramePlace

CHECK = replace(QUIET, n_tail=3, tail_cluster=2, alarms=("dh_max", "dh_mean"), trigger_excess=0.5)


def test_arrays_of_a_check_stay_out_of_the_log_and_of_comparison():
    check = replace(CHECK, delta_entropy=np.zeros(64), above=np.zeros(64, bool))
    assert check == CHECK
    assert set(check.to_line()) == {"type"} | {f.name for f in fields(Check)} - {
        *("further", "place", "delta_entropy", "above", "local_score", "atom_values")
    }


def test_places_in_files_are_in_the_lines_of_runs_that_have_them():
    place = FramePlace("run.xyz", 7)
    check = replace(CHECK, place=place)
    assert check.to_line()["place"] == {"source": "run.xyz", "frame": 7}
    assert Check.from_line(check.to_line()).place == place
    assert not any("place" in name for name in EVENT.to_line())
    event = replace(EVENT, onset_place=place, peak_place=place, last_place=place)
    assert Event.from_line(event.to_line()).last_place == place
    assert (check, event) == (CHECK, EVENT)  # the same as live


@pytest.mark.parametrize(
    ("places", "said"),
    [
        ([("run.xyz", 3)] * 3, ["where    frame 3 of run.xyz"]),
        ([("run.xyz", 3), ("run.xyz", 5), ("run.xyz", 9)], ["where    frames 3 to 9 of run.xyz", "worst in frame 5"]),
        ([("a", 3), ("b", 5), ("c", 0)], ["where    frame 3 of a", "to frame 0 of c", "worst in frame 5 of b"]),
        ([("x" * 90, 3)] * 3, [f"where    frame 3 of ...{'x' * 55}"]),
        ([None, None, None], []),
    ],
)
def test_an_event_says_in_which_frames_of_which_files_it_was(places, said):
    onset, peak, last = (place and FramePlace(*place) for place in places)
    event = replace(EVENT, onset_place=onset, peak_place=peak, last_place=last)
    lines = [line.strip() for line in event.describe().split("\n")]
    start = next((i for i, line in enumerate(lines) if line.startswith("where")), 0)
    assert lines[start : start + len(said)] == said


def test_a_check_of_a_frame_that_could_not_be_judged_holds_what_is_known():
    check = Check.invalid(step=7, frame=3, time_ps=None, n_atoms=32, temperature_K=300.0)
    assert (check.step, check.frame, check.n_atoms, check.temperature_K) == (7, 3, 32, 300.0)
    assert (check.state, check.dh_max, check.n_above, check.alarms, check.digest) == ("invalid", None, 0, (), "")
    assert math.isnan(check.excess)
    assert math.isnan(check.trigger_excess)


#: Fields that the first release did not write.
LATER = {"n_tail", "tail_cluster", "alarms", "trigger_excess", "excesses"}
LATER |= {"phases", "phase_clusters", "explosion", "confirm_excess", "n_colder"}


def without(line, names):
    return {name: value for name, value in line.items() if name not in names}


@pytest.mark.parametrize(
    ("state", "excess", "alarms"), [("out", 0.5, ("dh_max",)), ("in", -1.5, ()), ("invalid", math.nan, ())]
)
def test_a_check_line_of_the_first_release_is_read(state, excess, alarms):
    """The largest dH was all that raised alarms."""
    check = replace(CHECK, state=state, excess=excess)
    old = Check.from_line(without(check.to_line(), LATER))
    expected = replace(check, n_tail=None, tail_cluster=None, alarms=alarms, trigger_excess=excess)
    np.testing.assert_equal(old.to_line(), expected.to_line())


def test_an_event_line_of_the_first_release_is_read():
    assert Event.from_line(without(EVENT.to_line(), ["alarms"])) == replace(EVENT, alarms=("dh_max",))


def test_only_the_later_fields_may_be_missing():
    for name in set(CHECK.to_line()) - {"type", *LATER}:
        with pytest.raises(KeyError, match=name):
            Check.from_line(without(CHECK.to_line(), [name]))
    for name in set(EVENT.to_line()) - {"type", "alarms", "reason", "phase", "cluster", "environments"}:
        with pytest.raises(KeyError, match=name):
            Event.from_line(without(EVENT.to_line(), [name]))
