import numpy as np
import pytest
from logs import check, checks_of, event, log_of

from quests_md.show.event_spans import Span, event_spans, short_outliers

__all__ = ["log_of"]


def outliers_one_by_one(text, events):
    """Runs of o outside of events, counted by walking along them."""
    count, since, before = 0, None, False
    for i, letter in enumerate(text):
        loose = letter == "o" and not any(first <= i < end for first, end in events)
        if loose and not before:
            count, since = count + 1, 10 * i
        before = loose
    return (count - 1, since) if before else (count, None)


def test_closed_and_open_events_have_their_checks(log_of):
    checks = checks_of("iiooooiiiooo")  # the line on the open event is older than the last check
    log = log_of(checks, [event(checks, 2, 5), event(checks, 9, 10, id=2, is_open=True)])
    assert event_spans(log) == [Span(2, 5, 6), Span(9, 11, 12)]


def test_hysteresis_belongs_to_the_event_but_is_not_out(log_of):
    checks = checks_of("iioooiii")
    assert event_spans(log_of(checks, [event(checks, 2, 4, n_checks=5)])) == [Span(2, 4, 7)]


def test_events_of_two_kinds_may_overlap(log_of):
    checks = checks_of("iioooooooo")
    both = [event(checks, 2, 9, is_open=True), event(checks, 2, 5, id=2, kind="transition")]
    assert event_spans(log_of(checks, both)) == [Span(2, 9, 10), Span(2, 5, 6)]


def test_events_of_one_kind_follow_each_other_where_steps_repeat(log_of):
    checks = [check(i, 5.0 if i % 10 > 5 else 0.0, step=i % 10) for i in range(30)]
    events = [event(checks, first, first + 3, id=i) for i, first in enumerate((6, 16, 26), 1)]
    assert event_spans(log_of(checks, events)) == [Span(6, 9, 10), Span(16, 19, 20), Span(26, 29, 30)]


def test_an_event_whose_onset_is_not_in_the_log_has_no_checks(log_of):
    checks = checks_of("iioo")
    assert event_spans(log_of(checks, [event(checks, 2, 3, onset_step=7)])) == [None]
    assert event_spans(log_of(checks[:2], [event(checks, 2, 3)])) == [None]


@pytest.mark.parametrize(
    ("text", "events", "expected"),
    [
        ("", [], (0, None)),
        ("iiii", [], (0, None)),
        ("iooiioii", [], (2, None)),
        ("iooiioo", [], (1, 50)),
        ("oo", [], (0, 0)),
        ("iooiioooii", [(5, 8)], (1, None)),
        ("ioooioo", [(1, 5)], (0, 50)),
        ("ixxioi", [(1, 3)], (1, None)),
        ("ooxooi", [(2, 3)], (2, None)),
    ],
)
def test_short_outliers_are_counted(log_of, text, events, expected):
    checks = checks_of(text)
    made = [
        event(checks, first, end - 1, id=i, kind="exploded" if text[first] == "x" else "novel")
        for i, (first, end) in enumerate(events, 1)
    ]
    assert short_outliers(log_of(checks, made)) == expected == outliers_one_by_one(text, events)


def test_short_outliers_equal_those_counted_one_by_one(log_of):
    rng = np.random.default_rng(0)
    for _ in range(30):
        text = "".join(rng.choice(list("iioo"), 40))
        checks, events, i = checks_of(text), [], 0
        while (first := text.find("ooo", i)) >= 0:
            end = first + len(text[first:]) - len(text[first:].lstrip("o"))
            events.append((first, end))
            i = end
        made = [event(checks, first, end - 1, id=i) for i, (first, end) in enumerate(events, 1)]
        assert short_outliers(log_of(checks, made)) == outliers_one_by_one(text, events)
