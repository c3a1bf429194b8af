import json
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


def naive_states(excesses, times, *, patience, patience_ps, release, cooldown, max_events, stop_excess, visits, window):
    """The docstring of Trigger restated over the whole history: stretches between events, then events, one by one."""
    n = len(excesses)
    is_out = [math.isnan(x) or x > 0 for x in excesses]
    is_stop = [stop_excess is not None and (math.isnan(x) or x > stop_excess) for x in excesses]
    answer = [None] * n
    begin, deaf_until, n_events = 0, 0, 0
    while begin < n:
        may_open = max_events is None or n_events < max_events
        counted = [is_out[i] and i >= deaf_until and may_open for i in range(n)]
        opened, by_visits, begun, inside = n, False, [], False
        for i in range(begin, n):
            begun += [i] if counted[i] and not inside else []
            inside = (inside or counted[i]) and not excesses[i] <= -release
            first = i
            while first - 1 >= begin and counted[first - 1]:
                first -= 1
            long_enough = i - first + 1 >= patience if patience_ps is None else times[i] - times[first] >= patience_ps
            often = visits is not None and len([at for at in begun if i - at < window]) >= visits
            if is_stop[i] or (counted[i] and (long_enough or often)):
                opened, by_visits = i, not is_stop[i] and not long_enough
                break
            answer[i] = "opening" if counted[i] else "in"
        if opened == n:
            break
        n_events += 1
        if by_visits:
            calm = (j for j in range(opened + window, n) if not any(is_out[j - window + 1 : j + 1]))
            closed = next(calm, n)
        else:
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
        "visits": st.none() | st.integers(2, 4),
        "window": st.integers(2, 12),
    }
).filter(lambda chosen: chosen["visits"] is None or 2 * chosen["visits"] <= chosen["window"] + 1)
STREAM = st.lists(st.tuples(EXCESS, st.sampled_from([0.0, 0.25, 0.5, 1.0])), max_size=40)


@pytest.mark.slow
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


#: Settings, excesses, times in ps, and the states (i: in, o: opening, O: open, S: stop).
BY_HAND = [
    ({"patience": 3}, [1, 1, -1, 1, 1, 1], None, "ooiooO"),
    ({"patience": 1}, [0.0, -0.0, math.nextafter(0, 1)], None, "iiO"),
    ({"patience": 1, "patience_ps": 1.0}, [1] * 4, [5.0, 5.5, 5.75, 6.0], "oooO"),
    ({"patience": 50, "patience_ps": 0.0}, [1], [7.0], "O"),
    ({"patience_ps": 1.0}, [1, -1, 1, 1, 1], [0.0, 0.9, 1.0, 1.9, 2.0], "oiooO"),
    ({"patience": 1, "release": 0.5}, [1, -0.4, 0.2, -0.49, -0.5, 0.1], None, "OOOOiO"),
    ({"patience": 1, "release": 0.0}, [1, 1e-9, 0.0], None, "OOi"),
    ({"patience": 2}, [1, 1, -1, 1, 1], None, "oOioO"),
    ({"patience_ps": 1.0}, [1, 1, -1, 1], [0.0, 1.0, 2.0, 3.0], "oOio"),
    ({"patience": 1, "cooldown": 2}, [1, -1, 1, 1, 1], None, "OiiiO"),
    ({"patience": 2, "cooldown": 2}, [1, 1, -1, 1, 1, 1, 1], None, "oOiiioO"),
    ({"patience": 1, "max_events": 1}, [1, -1, 1, 1], None, "Oiii"),
    ({"patience": 1, "max_events": 0}, [1, 1], None, "ii"),
    ({"patience": 9, "stop_excess": 5.0}, [5.0, 5.1, 1.0], None, "oSO"),
    ({"patience": 1, "cooldown": 9, "max_events": 1, "stop_excess": 5.0}, [1, -1, 6], None, "OiS"),
    ({"patience": 1, "stop_excess": 5.0}, [1, 6, 1], None, "OSO"),
    ({"patience": 2}, [NAN, NAN, NAN], None, "oOO"),
    ({"patience": 9, "stop_excess": 5.0}, [NAN], None, "S"),
    ({"patience": 1}, [INF, -INF], None, "Oi"),
    ({"visits": 2, "window": 4}, [1, -1, -1, 1, -1, -1, 1, -1, -1, -1, -1, 1], None, "oiiOOOOOOOio"),
    ({"visits": 2, "window": 3}, [1, -1, -1, 1, -1], None, "oiioi"),
    ({"visits": 2, "window": 9, "patience": 9}, [1, -0.4, 1, -0.4, 1, -0.5, 1], None, "oioioiO"),  # one visit till -0.5
    ({"visits": 2, "window": 9, "patience": 2}, [1, 1, -1, 1, -1, 1], None, "oOioiO"),  # an event starts the count anew
    ({"visits": 2, "window": 3, "patience": 1}, [1, -1, 1], None, "OiO"),
    (
        {"visits": 2, "window": 9, "cooldown": 3},
        [1, -1, 1] + [-1] * 9 + [1, -1, 1, 1, -1, 1],
        None,
        "oi" + "O" * 9 + "iiiioiO",
    ),
    ({"visits": 2, "window": 9, "max_events": 0}, [1, -1, 1], None, "iii"),
    ({"visits": 2, "window": 9, "stop_excess": 5.0}, [1, -1, 6, -1, 1], None, "oiSio"),  # the level, not the count
    ({"patience": np.int64(2), "cooldown": np.int32(1), "max_events": np.int64(1)}, [1, 1], None, "oO"),
]


@pytest.mark.parametrize(("chosen", "excesses", "times", "expected"), BY_HAND)
def test_states_by_hand(chosen, excesses, times, expected):
    letters = {"i": "in", "o": "opening", "O": "open", "S": "stop"}
    assert states(Trigger(**chosen), excesses, times) == [letters[letter] for letter in expected]


def test_state_that_has_been_elsewhere_goes_on_the_same():
    rng = np.random.default_rng(0)
    excesses = rng.choice([-1.0, -0.3, 0.7], size=400, p=[0.8, 0.05, 0.15])
    whole = Trigger(visits=3, window=15)
    expected = states(whole, excesses)
    assert {"in", "opening", "open"} == set(expected)
    for cut in range(0, 400, 7):
        first, second = whole.fresh(), whole.fresh()
        states(first, excesses[:cut])
        second.restore(json.loads(json.dumps(first.progress())))
        assert states(second, excesses[cut:]) == expected[cut:]
        assert second.progress() == whole.progress()


def test_those_who_set_patience_keep_what_they_have():
    assert Trigger().visits is Trigger(patience=3).visits is Trigger(patience_ps=1.0).visits is None
    assert states(Trigger(), [1, -1] * 50) == ["opening", "in"] * 50


def test_an_interruption_forgets_visits():
    trigger = Trigger(visits=2, window=9)
    states(trigger, [1, -1])
    trigger.interrupt()
    assert states(trigger, [1, -1, 1]) == ["opening", "in", "open"]
    assert (trigger.n_visits, trigger.since) == (2, 2)
    trigger.interrupt()
    assert (trigger.n_visits, trigger.state) == (0, "in")


def test_patience_in_time_needs_the_time_and_a_refused_check_changes_nothing():
    trigger = Trigger(patience_ps=1.0)
    trigger.update(1.0, 0.0)
    with pytest.raises(ValueError, match=r"time_ps: .*patience"):
        trigger.update(1.0)
    assert trigger.state == "opening"
    assert trigger.update(1.0, 1.0) == "open"


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        *[("patience", x) for x in (0, -1, 1.0, 2.5, True, "3", None, NAN)],
        *[(name, x) for name in ("visits", "window") for x in (0, 1, 2.5, "3", NAN)],
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


def test_repr_says_all_settings_and_makes_the_same_trigger():
    trigger = Trigger(
        patience=2, patience_ps=0.5, release=0.1, cooldown=3, max_events=4, stop_excess=9.0, visits=5, window=9
    )
    assert eval(repr(trigger)).settings == trigger.settings


@pytest.mark.parametrize(("visits", "window", "enough"), [(15, 20, 29), (11, 20, 21), (2, 2, 3)])
def test_visits_that_could_never_open_an_event_are_refused(visits, window, enough):
    """A visit takes a check out and a check back: at most ten of them begin within 20 checks."""
    with pytest.raises(ValueError, match=f"visits: .* never open an event.* window={enough} or more"):
        Trigger(visits=visits, window=window)
    trigger = Trigger(patience=99, visits=visits, window=enough)
    states = [trigger.update(1.0 if i % 2 == 0 else -1.0) for i in range(2 * visits - 1)]
    assert states[-1] == "open"
    assert "open" not in states[:-1]
