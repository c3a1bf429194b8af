import re

import numpy as np
import pytest
from logs import check, checks_of, event

from quests_md.show.log_facts import Span, event_spans, short_outliers


def outliers_one_by_one(text, events):
    """Runs of o outside of events, counted by walking along them."""
    count, since, before = 0, None, False
    for i, letter in enumerate(text):
        loose = letter == "o" and not any(first <= i < end for first, end in events)
        if loose and not before:
            count, since = count + 1, 10 * i
        before = loose
    return (count - 1, since) if before else (count, None)


@pytest.mark.parametrize(
    ("checks", "events", "spans"),
    [
        # the line on an open event is older than the last check
        (checks_of("iiooooiiiooo"), [(2, 5, {}), (9, 10, {"is_open": True})], [Span(2, 5, 6), Span(9, 11, 12)]),
        # checks back in before the event closes belong to the event but are not out
        (checks_of("iioooiii"), [(2, 4, {"n_checks": 5})], [Span(2, 4, 7)]),
        # events of two kinds may overlap
        (
            checks_of("iioooooooo"),
            [(2, 9, {"is_open": True}), (2, 5, {"kind": "transition"})],
            [Span(2, 9, 10), Span(2, 5, 6)],
        ),
        # events of one kind follow each other where steps repeat
        (
            [check(i, 5.0 if i % 10 > 5 else 0.0, step=i % 10) for i in range(30)],
            [(6, 9, {}), (16, 19, {}), (26, 29, {})],
            [Span(6, 9, 10), Span(16, 19, 20), Span(26, 29, 30)],
        ),
        # the log lacks the onset
        (checks_of("iioo"), [(2, 3, {"onset_step": 7})], []),
    ],
)
def test_events_have_their_checks(log_of, checks, events, spans):
    made = [event(checks, first, last, id=i, **changes) for i, (first, last, changes) in enumerate(events, 1)]
    assert [span for _, span in event_spans(log_of(checks, made))] == spans


@pytest.mark.parametrize(
    ("text", "events", "expected"),
    [
        ("", [], (0, None)),
        ("iooiioo", [], (1, 50)),
        ("iooiioooii", [(5, 8)], (1, None)),
        ("ooxooi", [(2, 3)], (2, None)),
    ],
)
def test_short_outliers_are_counted(log_of, text, events, expected):
    checks = checks_of(text)
    kinds = ["exploded" if text[first] == "x" else "novel" for first, _ in events]
    made = [event(checks, first, end - 1, kind=kind) for kind, (first, end) in zip(kinds, events, strict=True)]
    assert short_outliers(log_of(checks, made)) == expected == outliers_one_by_one(text, events)


def test_short_outliers_equal_those_counted_one_by_one(log_of):
    rng = np.random.default_rng(0)
    for _ in range(30):
        text = "".join(rng.choice(list("iioo"), 40))
        checks, events = checks_of(text), [found.span() for found in re.finditer("ooo+", text)]
        made = [event(checks, first, end - 1, id=i) for i, (first, end) in enumerate(events, 1)]
        assert short_outliers(log_of(checks, made)) == outliers_one_by_one(text, events)
