import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quests_md.watch.cusum import RUN_LENGTHS, Cusum, alarm_rate

NAN, INF = math.nan, math.inf
OPPOSITE = {"in": "in", "rising": "falling", "falling": "rising"}


def states(test, values):
    return [test.update(value) for value in values]


def naive_side(steps, threshold):
    """Step of the first alarm or the last step, and the sum and onset there: the sum is over the worst recent steps."""
    stretch, length = 0.0, 0
    for end in range(1, len(steps) + 1):
        sums = [math.fsum(steps[end - n : end]) for n in range(end + 1)]  # of the last 0, 1, 2 ... steps
        stretch = max(sums)
        length = sums.index(stretch)
        if stretch > threshold:
            return end, stretch, length
    return INF, stretch, length


def naive_test(values, mean, deviation, shift, threshold):
    """The docstring of Cusum restated over the whole history: states, excess, onset."""
    values = [value for value in values if not math.isnan(value)]
    scores = [(value - mean) / deviation for value in values]
    rising = [score - shift / 2 for score in scores]
    falling = [-score - shift / 2 for score in scores]
    alarm = min(naive_side(rising, threshold)[0], naive_side(falling, threshold)[0])
    seen = len(scores) if alarm == INF else alarm
    end_rising, sum_rising, since_rising = naive_side(rising[:seen], threshold)
    _, sum_falling, since_falling = naive_side(falling[:seen], threshold)
    name = "rising" if end_rising == alarm else "falling"
    answer = ["in" if n < alarm else name for n in range(1, len(values) + 1)]
    onset = since_rising if sum_rising >= sum_falling else since_falling
    return answer, max(sum_rising, sum_falling) - threshold, onset


# multiples of 1/8, and deviations that are powers of 2: sums of them are exact
VALUE = st.integers(-40, 40).map(lambda n: n / 8)
STREAM = st.lists(VALUE, max_size=40)
STREAM_WITH_NAN = st.lists(VALUE | st.just(NAN), max_size=40)
SETTINGS = st.fixed_dictionaries(
    {
        "mean": st.sampled_from([0.0, 0.5, -1.25]),
        "deviation": st.sampled_from([0.5, 1.0, 2.0]),
        "shift": st.sampled_from([0.5, 1.0, 2.0]),
        "run_length": st.sampled_from([10, 50.0, 1000]),
    }
)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(SETTINGS, STREAM_WITH_NAN)
def test_states_excess_and_onset_equal_the_docstring_restated(chosen, values):
    test = Cusum(**chosen)
    expected, excess, onset = naive_test(values, chosen["mean"], chosen["deviation"], chosen["shift"], test.threshold)
    found = []
    for value in values:
        before = test.progress()
        found += [test.update(value)]
        assert test.progress() == before or (before["state"] == "in" and not math.isnan(value))  # an alarm stays
    assert [state for state, value in zip(found, values, strict=True) if not math.isnan(value)] == expected
    assert test.state == (expected[-1] if expected else "in")
    assert (test.excess, test.onset) == (excess, onset)
    assert (test.excess <= 0) == (test.state == "in")


@settings(deadline=None)
@given(SETTINGS, STREAM)
def test_fresh_and_restarted_have_seen_nothing(chosen, values):
    used = Cusum(**chosen)
    first = states(used, values)
    other = used.fresh()
    assert (other.state, other.onset, other.excess, other.settings) == ("in", 0, -other.threshold, chosen)
    used.restart()
    assert used.progress() == other.progress()
    assert states(used, values) == states(other, values) == first


# Lucas & Crosier, Technometrics 24, 199 (1982); Montgomery, Statistical Quality Control, average run lengths of the
# tabular CUSUM with k = 1/2; the last digit is rounded
SHIFTS = 0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0
PUBLISHED = {
    4: ("168", "74.2", "26.6", "13.3", "8.38", "4.75", "3.34", "2.62", "2.19", "1.71"),
    5: ("465", "139", "38.0", "17.0", "10.4", "5.75", "4.01", "3.11", "2.57", "2.01"),
}


@pytest.mark.parametrize("threshold", PUBLISHED)
def test_run_lengths_are_the_published_ones_to_their_last_digit(threshold):
    test = Cusum(0.0, 1.0, shift=1.0, run_length=200)
    test.threshold = threshold
    for shift, printed in zip(SHIFTS, PUBLISHED[threshold], strict=True):
        half_a_digit = 0.5 * 10.0 ** -len(printed.partition(".")[2])
        for sign in (1, -1):
            assert test.average_run_length(sign * shift) == pytest.approx(float(printed), abs=1.01 * half_a_digit)


# Hawkins, J. Qual. Technol. 25, 248 (1993): thresholds for an average run length of 370
@pytest.mark.parametrize(
    ("reference", "published"), [(0.25, 8.01), (0.5, 4.77), (0.75, 3.34), (1.0, 2.52), (1.25, 1.99), (1.5, 1.61)]
)
def test_thresholds_are_the_published_ones(reference, published):
    assert Cusum(0.0, 1.0, shift=2 * reference, run_length=370).threshold == pytest.approx(published, abs=0.01)


def chain_run_length(threshold, drift, n):
    """Brook & Evans (1972): the sum on n states of width w, the first of them zero and half as wide."""
    width = 2 * threshold / (2 * n - 1)

    def below(x):
        return 0.5 * math.erfc(-x / math.sqrt(2))

    moves = np.zeros((n, n))
    for i in range(n):
        moves[i, 0] = below(width / 2 - i * width - drift)
        for j in range(1, n):
            moves[i, j] = below((j - i + 0.5) * width - drift) - below((j - i - 0.5) * width - drift)
    return np.linalg.solve(np.eye(n) - moves, np.ones(n))[0]


@pytest.mark.parametrize(("threshold", "drift"), [(4.0, -0.5), (5.0, 0.5), (8.0, -0.25), (2.0, -1.5), (0.3, 2.0)])
def test_rates_are_the_limit_of_the_markov_chain(threshold, drift):
    coarse, fine = (chain_run_length(threshold, drift, n) for n in (50, 100))
    ratio = (99 / 199) ** 2  # the error falls as the width squared
    limit = (fine - ratio * coarse) / (1 - ratio)
    assert 1 / alarm_rate(threshold, drift) == pytest.approx(limit, rel=2e-5)


@pytest.mark.parametrize("drift", [-3.0, -0.5, 0.0, 2.0])
def test_without_a_threshold_every_step_up_is_an_alarm(drift):
    assert alarm_rate(0.0, drift) == pytest.approx(0.5 * math.erfc(-drift / math.sqrt(2)), rel=1e-12)


@pytest.mark.parametrize("shift", [0.2, 0.3, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("asked", [10, 1e3, 1e4])
def test_the_run_length_in_control_is_the_asked_one_and_a_shift_shortens_it(shift, asked):
    test = Cusum(0.0, 1.0, shift=shift, run_length=asked)
    assert test.average_run_length(0.0) == pytest.approx(asked, rel=1e-8)
    lengths = [test.average_run_length(s) for s in (0.0, 0.05, 0.5, 1.0, 3.0, 10.0, 40.0, 1e300)]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[1] < lengths[0]
    assert lengths[-1] == 1


@pytest.mark.parametrize("shift", [0.5, 1.2, 2.4, 4.7, 8.0, 11.9])
def test_the_longest_run_length_is_met_too(shift):
    test = Cusum(0.0, 1.0, shift=shift, run_length=RUN_LENGTHS[1])
    assert test.average_run_length(0.0) == pytest.approx(RUN_LENGTHS[1], rel=1e-5)


def test_a_sum_at_the_threshold_is_in():
    test = Cusum(0.0, 1.0, shift=1.0)
    test.threshold = 1.5
    assert (test.update(2.0), test.excess) == ("in", 0.0)
    assert test.update(0.5 + 1e-9) == "rising"


@pytest.mark.parametrize(
    ("value", "name"), [(INF, "rising"), (-INF, "falling"), (1e308, "rising"), (-1e308, "falling")]
)
def test_an_infinite_number_is_an_alarm_at_once(value, name):
    test = Cusum(-1e290, 1e280, run_length=1e9)
    assert states(test, [NAN, value, NAN, -value, -1e290]) == ["in"] + [name] * 4
    assert test.excess > 1e17
    assert test.onset == 1
    test.restart()
    assert test.update(-value) == OPPOSITE[name]


def test_sums_of_small_floats_are_those_of_python():
    test, other = Cusum(0.1, 0.3), Cusum(0.1, 0.3)
    for value in np.random.default_rng(1).normal(size=30).astype(np.float32):
        test.update(value)
        other.update(float(value))
        assert isinstance(test.excess, float)
        assert test.excess == other.excess


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        *[("mean", x) for x in (NAN, INF, -INF)],
        *[("deviation", x) for x in (0.0, -1.0, NAN, INF)],
        *[("shift", x) for x in (0.0, -1.0, 0.049, NAN, INF, 8.0, 1e300)],
        *[("run_length", x) for x in (9.9, 0, -1e4, 1.1e9, NAN, INF)],
    ],
)
def test_bad_parameters_are_refused_by_name_with_the_value_and_a_way_out(name, bad):
    with pytest.raises(ValueError, match=f"^{name}: expected .* got .*[;:] .*") as info:
        Cusum(**{"mean": 0.0, "deviation": 1.0, name: bad})
    assert repr(bad) in str(info.value)


@pytest.mark.parametrize("value", [0.0, 1.5, -0.1, 1e-20, 1e20 / 3])
def test_the_deviation_of_a_constant_series_is_refused(value):
    constant = np.full(30, value)  # of -0.1, the deviation is 1e-17
    with pytest.raises(ValueError, match=r"deviation: .* constant series"):
        Cusum(constant.mean(), constant.std())


def test_the_largest_shift_for_a_run_length_is_the_one_in_the_message():
    with pytest.raises(ValueError, match=r"less than 3\.29 deviations for a run_length of 10"):
        Cusum(0.0, 1.0, shift=3.3, run_length=10)
    assert 0 < Cusum(0.0, 1.0, shift=3.289, run_length=10).threshold < 0.01


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_a_run_length_needs_a_finite_shift(bad):
    with pytest.raises(ValueError, match=r"^shift: expected .* got "):
        Cusum(0.0, 1.0).average_run_length(bad)


def test_repr_says_all_settings_and_makes_the_same_test():
    test = Cusum(-1.5, 0.25, shift=0.5, run_length=500)
    assert eval(repr(test)).settings == test.settings
    assert eval(repr(test)).threshold == test.threshold
