"""The one dialect of JSON: strict, with inf and NaN as texts, and records whose fields are what they should be."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from logs import EVENT, check_line, event_line

from quests_md import Check, Event
from quests_md._json import dumps, loads, plain


def test_numbers_that_json_lacks_are_texts_and_numbers_of_numpy_plain_ones():
    value = {
        "a": np.float32(0.5),
        "b": np.int64(3),
        "c": np.bool_(True),
        "d": np.array([[1.0, np.inf]]),
        "e": (math.nan, {"f": -np.float64(np.inf)}),
        7: None,
    }
    assert loads(dumps(value).encode()) == plain(value)
    assert dumps(value) == '{"a": 0.5, "b": 3, "c": true, "d": [[1.0, "inf"]], "e": ["nan", {"f": "-inf"}], "7": null}'


def test_a_record_is_an_object():
    event = replace(EVENT, n_atoms=np.int64(3), peak_excess=np.float32(0.5), centroid=(np.float64(1), np.inf, 0.0))
    line = json.loads(dumps(event))
    assert (line["n_atoms"], line["peak_excess"], line["centroid"]) == (3, 0.5, [1.0, "inf", 0.0])
    assert Event.from_line(line) == event


@pytest.mark.parametrize("text", [b"NaN", b"[-Infinity]", b"{", b"\xff", b"1" * 5000])
def test_what_json_lacks_is_not_read(text):
    with pytest.raises(ValueError):  # noqa: PT011  # each has a text of its own
        loads(text)


def test_what_a_record_cannot_hold_is_named():
    good = check_line(0, phases={"fcc": 1}, excesses={"dh_max": "inf"}, dh_mean=1)
    assert Check.from_line(good).excesses == {"dh_max": math.inf}
    for name, value in [("step", 1.5), ("n_above", True), ("dh_max", "1"), ("phases", {"fcc": 1.5}), ("digest", None)]:
        with pytest.raises(TypeError, match=name):
            Check.from_line(good | {name: value})
    for name, value in [("id", 2**63), ("atoms", "abc"), ("centroid", [1.0]), ("nearest", 3), ("size_history", [[1]])]:
        with pytest.raises(TypeError, match=name):
            Event.from_line(event_line(1) | {name: value})
