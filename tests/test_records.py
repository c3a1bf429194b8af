"""Check and Event: frozen, and the same again from their log lines."""

import math
from dataclasses import fields, replace

import numpy as np
import pytest
from logs import CHECK as QUIET
from logs import EVENT

from quests_md import Check, Event

CHECK = replace(QUIET, n_tail=3, tail_cluster=2, alarms=("dh_max", "dh_mean"), trigger_excess=0.5)


def test_arrays_of_a_check_stay_out_of_the_log_and_of_comparison():
    check = replace(CHECK, delta_entropy=np.zeros(64), above=np.zeros(64, bool))
    assert check == CHECK
    assert set(check.to_line()) == {"type"} | {f.name for f in fields(Check)} - {
        *("further", "delta_entropy", "above", "local_score")
    }


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
