import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quests_md import Trigger

NAN, INF = math.nan, math.inf


def states(trigger, excesses, times=None):
    times = [None] * len(excesses) if times is None else times
    return [trigger.update(x, t) for x, t in zip(excesses, times, strict=True)]


def naive_states(excesses, times, *, patience, patience_ps, release, cooldown, max_events, stop_excess):
    """The docstring of Trigger restated over the whole history: stretches between events, then events, one by one."""
    n = len(excesses)
    is_out = [math.isnan(x) or x > 0 for x in excesses]
    is_stop = [stop_excess is not None and (math.isnan(x) or x > stop_excess) for x in excesses]
    answer = [None] * n
    begin, deaf_until, n_events = 0, 0, 0
    while begin < n:
        may_open = max_events is None or n_events < max_events
        counted = [is_out[i] and i >= deaf_until and may_open for i in range(n)]
        opened = n
        for i in range(begin, n):
            first = i
            while first - 1 >= begin and counted[first - 1]:
                first -= 1
            long_enough = i - first + 1 >= patience if patience_ps is None else times[i] - times[first] >= patience_ps
            if is_stop[i] or (counted[i] and long_enough):
                opened = i
                break
            answer[i] = "opening" if counted[i] else "in"
        if opened == n:
            break
        n_events += 1
        closed = next((j for j in range(opened + 1, n) if excesses[j] <= -release), n)
        for i in range(opened, closed):
            answer[i] = "stop" if is_stop[i] else "open"
        if closed < n:
            answer[closed] = "in"
        begin, deaf_until = closed + 1, closed + 1 + cooldown
    return answer, n_events


EXCESS = st.one_of(
    st.sampled_from([-INF, -2.0, -0.5, -0.25, -0.0, 0.0, 1e-12, 0.5, 3.0, 3.5, INF, NAN]), st.floats(-3, 5)
)
SETTINGS = st.fixed_dictionaries(
    {
        "patience": st.integers(1, 4),
        "patience_ps": st.none() | st.sampled_from([0.0, 0.5, 1.0, 3.0]),
        "release": st.sampled_from([0.0, 0.25, 0.5, 1.0]),
        "cooldown": st.integers(0, 4),
        "max_events": st.none() | st.integers(0, 3),
        "stop_excess": st.none() | st.sampled_from([0.5, 3.0, INF]),
    }
)
STREAM = st.lists(st.tuples(EXCESS, st.sampled_from([0.0, 0.25, 0.5, 1.0])), max_size=40)


@settings(max_examples=400)
@given(SETTINGS, STREAM)
def test_states_equal_the_docstring_restated(chosen, stream):
    excesses = [x for x, _ in stream]
    times = [float(t) for t in np.cumsum([dt for _, dt in stream])]
    trigger = Trigger(**chosen)
    expected, n_events = naive_states(excesses, times, **chosen)
    assert states(trigger, excesses, times) == expected
    assert trigger.n_events == n_events
    assert trigger.state == (expected[-1] if expected else "in")


@given(SETTINGS, STREAM)
def test_fresh_has_seen_nothing_and_equal_streams_give_equal_states(chosen, stream):
    excesses = [x for x, _ in stream]
    times = [0.5 * i for i in range(len(stream))]
    used = Trigger(**chosen)
    first = states(used, excesses, times)
    other = used.fresh()
    assert (other.state, other.n_events, other.settings) == ("in", 0, chosen)
    assert states(other, excesses, times) == first


@given(STREAM, st.integers(1, 4))
def test_more_patience_never_opens_earlier(stream, patience):
    excesses = [x for x, _ in stream]
    hasty, patient = Trigger(patience=patience), Trigger(patience=patience + 1)
    opened = [next((i for i, s in enumerate(states(t, excesses)) if s == "open"), INF) for t in (hasty, patient)]
    assert opened[0] <= opened[1]


def test_patience_counts_consecutive_checks():
    expected = ["opening", "opening", "in", "opening", "opening", "open"]
    assert states(Trigger(patience=3), [1, 1, -1, 1, 1, 1]) == expected
    assert states(Trigger(patience=1), [1]) == ["open"]


def test_zero_excess_is_in():
    assert states(Trigger(patience=1), [0.0, -0.0, math.nextafter(0, 1)]) == ["in", "in", "open"]


def test_patience_in_time_takes_the_place_of_checks():
    trigger = Trigger(patience=1, patience_ps=1.0)
    assert states(trigger, [1] * 4, [5.0, 5.5, 5.75, 6.0]) == ["opening", "opening", "opening", "open"]
    assert states(Trigger(patience=50, patience_ps=0.0), [1], [7.0]) == ["open"]


def test_patience_in_time_begins_anew_after_a_check_that_is_in():
    trigger = Trigger(patience_ps=1.0)
    assert states(trigger, [1, -1, 1, 1], [0.0, 0.9, 1.0, 1.9]) == ["opening", "in", "opening", "opening"]
    assert trigger.update(1, 2.0) == "open"


def test_patience_in_time_needs_the_time_and_a_refused_check_changes_nothing():
    trigger = Trigger(patience_ps=1.0)
    trigger.update(1.0, 0.0)
    with pytest.raises(ValueError, match=r"time_ps: .*patience"):
        trigger.update(1.0)
    assert trigger.state == "opening"
    assert trigger.update(1.0, 1.0) == "open"


def test_an_event_stays_open_until_well_below_the_level():
    trigger = Trigger(patience=1, release=0.5)
    assert states(trigger, [1, -0.4, 0.2, -0.49, -0.5, 0.1]) == ["open", "open", "open", "open", "in", "open"]
    assert trigger.n_events == 2


def test_without_release_an_event_closes_at_the_level():
    assert states(Trigger(patience=1, release=0.0), [1, 1e-9, 0.0]) == ["open", "open", "in"]


def test_patience_begins_anew_after_an_event():
    assert states(Trigger(patience=2), [1, 1, -1, 1, 1]) == ["opening", "open", "in", "opening", "open"]
    trigger = Trigger(patience_ps=1.0)
    assert states(trigger, [1, 1, -1, 1], [0.0, 1.0, 2.0, 3.0]) == ["opening", "open", "in", "opening"]


def test_nothing_opens_while_cooling_down():
    trigger = Trigger(patience=1, cooldown=2)
    assert states(trigger, [1, -1, 1, 1, 1]) == ["open", "in", "in", "in", "open"]


def test_checks_during_cooldown_do_not_count_for_patience():
    trigger = Trigger(patience=2, cooldown=2)
    assert states(trigger, [1, 1, -1, 1, 1, 1, 1]) == ["opening", "open", "in", "in", "in", "opening", "open"]


def test_no_event_after_the_last_one_allowed():
    trigger = Trigger(patience=1, max_events=1)
    assert states(trigger, [1, -1, 1, 1]) == ["open", "in", "in", "in"]
    assert states(Trigger(patience=1, max_events=0), [1, 1]) == ["in", "in"]


def test_stop_at_once_whatever_patience_cooldown_and_number_of_events():
    assert states(Trigger(patience=9, stop_excess=5.0), [5.0, 5.1, 1.0]) == ["opening", "stop", "open"]
    trigger = Trigger(patience=1, cooldown=9, max_events=1, stop_excess=5.0)
    assert states(trigger, [1, -1, 6]) == ["open", "in", "stop"]
    assert trigger.n_events == 2


def test_stop_comes_in_an_event_that_is_already_open():
    trigger = Trigger(patience=1, stop_excess=5.0)
    assert states(trigger, [1, 6, 1]) == ["open", "stop", "open"]
    assert trigger.n_events == 1


def test_a_number_that_is_none_is_out_and_never_closes_an_event():
    assert states(Trigger(patience=2), [NAN, NAN, NAN]) == ["opening", "open", "open"]
    assert states(Trigger(patience=9, stop_excess=5.0), [NAN]) == ["stop"]


def test_infinite_excess_is_out_and_minus_infinite_closes():
    assert states(Trigger(patience=1), [INF, -INF]) == ["open", "in"]


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        *[("patience", x) for x in (0, -1, 1.0, 2.5, True, "3", None, NAN)],
        *[("patience_ps", x) for x in (-1.0, NAN, INF)],
        *[("release", x) for x in (-0.1, NAN, INF)],
        *[("cooldown", x) for x in (-1, 0.5, False, None)],
        *[("max_events", x) for x in (-1, 1.5, True)],
        *[("stop_excess", x) for x in (0.0, -1.0, NAN)],
    ],
)
def test_bad_parameters_are_refused_by_name_with_the_value(name, bad):
    with pytest.raises(ValueError, match=f"^{name}: expected .* got ") as info:
        Trigger(**{name: bad})
    assert repr(bad) in str(info.value)


def test_numpy_integers_are_integers():
    trigger = Trigger(patience=np.int64(2), cooldown=np.int32(1), max_events=np.int64(1))
    assert states(trigger, [1, 1]) == ["opening", "open"]


def test_repr_says_all_settings_and_makes_the_same_trigger():
    trigger = Trigger(patience=2, patience_ps=0.5, release=0.1, cooldown=3, max_events=4, stop_excess=9.0)
    assert eval(repr(trigger)).settings == trigger.settings
