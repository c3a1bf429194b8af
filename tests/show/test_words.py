import pytest
from logs import INF, check, checks_of, event

from quests_md.show.words import growth_sentence, log_summary, reference_and_level, run_sentence, run_summary

GROWN = {"kind": "transition"}
BY_BASELINE = "unlike the run's own beginning: tail_cluster, local_tail_drift; which phase is not known"
TORN = {"kind": "exploded", "id": 2}


@pytest.mark.parametrize(
    ("letters", "events", "sentence"),
    [
        ("i" * 100, [], "Stayed inside the reference: 100 checks, no event"),
        ("iiiooiiiii", [], "No event in 10 checks: 2 out, too few in a row"),
        ("oooo", [(0, 3, {})], "Outside the reference from the first check on, step 0"),
        ("iooo", [(1, 3, {})], "Left the reference at step 10"),
        ("iooiooo", [(1, 2, {}), (4, 6, {"id": 2})], "Left the reference at step 10; 2 events"),
        ("ixxi", [(1, 2, {"kind": "exploded"})], "Broke down at step 10"),
        ("ioox", [(1, 2, {}), (3, 3, TORN)], "Left the reference at step 10, broke down at step 30; 2 events"),
        ("iooo", [(1, 3, GROWN | {"phase": "bcc"})], "Phase bcc grows from step 10 on"),
        ("iooo", [(1, 3, GROWN | {"reason": "a connected cluster grew"})], "A cluster grows from step 10 on"),
        ("iooo", [(1, 3, GROWN | {"reason": BY_BASELINE})], "Unlike its own beginning from step 10 on"),
        ("iooo", [(1, 3, GROWN)], "Unlike its own beginning from step 10 on"),
    ],
)
def test_a_run_in_a_sentence(log_of, letters, events, sentence):
    checks = checks_of(letters)
    made = [event(checks, first, last, **changes) for first, last, changes in events]
    assert run_sentence(log_of(checks, made)) == sentence


def test_the_onset_has_a_time_and_a_temperature_where_they_are_known(log_of):
    checks = checks_of("iooo", time_ps=0.1, temperature_K=512.3)
    assert run_sentence(log_of(checks, [event(checks, 1, 3)])) == "Left the reference at step 10 (0.10 ps, 512 K)"


def test_without_a_level_nothing_is_called_inside(log_of):
    log = log_of(checks_of("iii"), level=INF, n_groups=0, rate=1.0)
    assert run_sentence(log) == "Nothing decided in 3 checks: there is no level"
    assert "no level: nothing could be held out" in reference_and_level(log.header)


@pytest.mark.parametrize(
    ("calibration", "promise"),
    [
        ({"kind": "conformal", "rate": 0.01}, "level 2.00 nats: at most 1 false alarm in 100 checks, from 30 held-out"),
        ({"kind": "conformal", "rate": 0.01, "per": "ns"}, "at most 1 false alarm in 100 ns"),
        ({"kind": "conformal", "rate": 0.5, "per": "run"}, "at most 1 false alarm in 2 runs"),
        ({"kind": "conformal", "rate": 0.99}, "false alarms in 99% of checks"),
        ({"kind": "extrapolated", "rate": 0.01}, "about 1 false alarm in 100 checks, extrapolated from 30 held-out"),
        ({"rate": 1.0}, "the largest dH of 30 held-out groups of frames; it promises nothing"),
        ({"n_groups": 1, "rate": 1.0}, "level 2.00 nats: a guess, the reference is one group of frames"),
        ({"statistics": ["dh_max", "dh_mean"]}, "alarms by dh_max, dh_mean: the extremes of 30 held-out"),
        ({"statistics": ["local_max"]}, "alarms by local_max: the extremes of 30 held-out"),
        ({"statistics": ["dh_max", "dh_q99", "dh_mean", "n_tail"]}, "alarms by 4 statistics: the extremes of"),
    ],
)
def test_the_reference_and_the_promise_are_put_into_words(log_of, calibration, promise):
    known, level = reference_and_level(log_of([check(0)], **calibration).header).splitlines()
    assert known == "reference: 15616 environments of Cu, h = 0.015 1/Å"
    assert promise in level


@pytest.mark.parametrize(("checks", "unit"), [(1, "checks"), (9, "runs")])
def test_levels_of_one_check_promise_nothing_per_run(log_of, checks, unit):
    header = log_of([check(0)], kind="conformal", rate=0.01, per="run").header
    calibration = header["calibration"] | {"checks": checks}
    assert f"at most 1 false alarm in 100 {unit}" in reference_and_level(header | {"calibration": calibration})


def test_growth_in_a_sentence():
    checks = checks_of("iooo")
    grown = event(checks, 1, 3, size_history=((10, 2), (20, 9), (30, 9)))
    other = event(checks, 1, 3, id=2, phase="fcc", size_history=((10, 8), (20, 3)))
    assert growth_sentence([grown, other]) == "Event 1 grew from 2 to 9 atoms within 10 steps"
    assert growth_sentence([other]) == "Event 2 (fcc) had 8 atoms at step 10 and never more"


def test_a_summary_counts_checks_events_and_short_outliers(log_of):
    checks = checks_of("iiooioiiiooooiiooooo")
    events = [event(checks, 9, 12), event(checks, 15, 16, id=2, kind="transition", is_open=True)]
    assert log_summary(log_of(checks, events)) == (
        "20 checks, last at step 190: 8 in, 12 out, 0 invalid; 2 events: 1 novel, 1 transition, 1 still open; "
        "2 times out too shortly for an event"
    )
    assert log_summary(log_of(checks[:6], [])) == (
        "6 checks, last at step 50: 3 in, 3 out, 0 invalid; 0 events; 1 time out too shortly for an event; "
        "out since step 50, not long enough yet for an event"
    )
    assert log_summary(log_of([], [])) == "0 checks: 0 in, 0 out, 0 invalid; 0 events"


def test_events_are_counted_by_kind():
    checks = checks_of("iooo")
    events = [event(checks, 1, 3, kind=kind) for kind in ("exploded", "novel", "novel")]
    assert run_summary({"in": 3, "out": 2}, events) == "3 in, 2 out; 3 events: 2 novel, 1 exploded"
