import itertools
import subprocess
import sys
import textwrap
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from quests_md import Check, Event, read_log
from quests_md.logfile import SCHEMA, LogWriter
from quests_md.plot import timeline
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


@pytest.fixture
def log_of(tmp_path):
    names = itertools.count()

    def make(checks, events=(), **calibration):
        path = tmp_path / f"{next(names)}.jsonl"
        writer = LogWriter(path)
        reference = {"n_environments": 15616, "elements": ["Cu"], "bandwidth": 0.015}
        header = {"type": "header", "schema": SCHEMA, "reference": reference}
        writer.write(header | {"calibration": CALIBRATION | calibration})
        for record in [*checks, *events]:
            writer.write(record.to_line())
        writer.close()
        return read_log(path)

    return make


def heated(n=40, out_from=20, top=8.0):
    """A run that leaves for good, with time and temperature."""
    return [
        check(i, top if i >= out_from else 0.0, time_ps=0.05 * i, temperature_K=300.0 + 10 * i) for i in range(n)
    ]  # fmt: skip


def spans(axis, colour):
    """Left and right border of the shaded spans of a colour."""
    found = [p.get_extents() for p in axis.patches if p.get_alpha() == 0.10 and p.get_facecolor()[:3] == to_rgb(colour)]
    to_data = axis.transData.inverted()
    return [(to_data.transform((box.x0, 0))[0], to_data.transform((box.x1, 0))[0]) for box in found]


def lines(axis):
    return {line.get_label(): line for line in axis.lines if not line.get_label().startswith("_")}


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def assert_legible(figure):
    """No two texts or legends overlap, and none leaves the figure."""
    figure.canvas.draw()
    first = figure.axes[0]
    pieces = [figure._suptitle, first._left_title, *first.texts]
    pieces += [axis.yaxis.label for axis in figure.axes] + [figure.axes[-1].xaxis.label]
    pieces += [legend for legend in [first.get_legend()] if legend]
    boxes = [(piece, piece.get_window_extent()) for piece in pieces]
    for piece, box in boxes:
        assert box.x0 >= -1, piece
        assert box.x1 <= figure.bbox.x1 + 1, piece
        assert box.y1 <= figure.bbox.y1 + 1, piece
    for (a, box_a), (b, box_b) in itertools.combinations(boxes, 2):
        assert not box_a.padded(-1.5).overlaps(box_b.padded(-1.5)), (a, b)
    legend = first.get_legend()
    assert not legend or not legend.get_window_extent().padded(-1.5).overlaps(first.get_window_extent())


def test_a_run_that_leaves_shows_dh_level_atoms_temperature_and_event(log_of):
    checks = heated()
    log = log_of(checks, [event(checks, 20, 39, is_open=True)])
    figure = timeline(log)
    entropy, atoms, temperature = figure.axes
    drawn = lines(entropy)
    assert list(drawn) == ["most novel atom", "mean over atoms", "level 2.00"]
    np.testing.assert_allclose(drawn["most novel atom"].get_ydata(), log.dh_max)
    np.testing.assert_allclose(drawn["most novel atom"].get_xdata(), log.time_ps)
    np.testing.assert_allclose(drawn["mean over atoms"].get_ydata(), log.dh_mean)
    assert set(drawn["level 2.00"].get_ydata()) == {LEVEL}
    np.testing.assert_allclose(atoms.patches[0].get_data().values, np.where(log.n_above, 10.0, 0.0))
    np.testing.assert_allclose(temperature.lines[0].get_ydata(), log.temperature_K)
    assert temperature.get_xlabel() == "time (ps)"
    assert figure._suptitle.get_text() == "Left the reference at step 200 (1.00 ps, 500 K)"
    assert entropy.get_title(loc="left").splitlines() == [
        "reference: 15616 environments of Cu, h = 0.015 1/Å",
        "level 2.00 nats: the largest dH of 30 held-out groups of frames; at most 1 false alarm in 31 checks",
    ]
    assert texts(figure) == ["event 1: outside the reference"]
    for axis in figure.axes:
        [span] = spans(axis, "tab:red")
        assert span == pytest.approx((0.975, 1.975), abs=1e-9)
    assert_legible(figure)


def test_a_title_of_ones_own(log_of):
    assert timeline(log_of([check(0)]), "my run")._suptitle.get_text() == "my run"


def test_a_quiet_run_says_so_and_has_no_span(log_of):
    figure = timeline(log_of([check(i) for i in range(100)]))
    assert figure._suptitle.get_text() == "Stayed inside the reference: 100 checks, no event"
    assert len(figure.axes) == 2
    assert figure.axes[-1].get_xlabel() == "step"
    assert texts(figure) == []
    assert spans(figure.axes[0], "tab:red") == []
    assert figure.axes[0].get_yscale() == "linear"
    assert_legible(figure)


def test_checks_out_without_an_event_are_not_called_inside(log_of):
    figure = timeline(log_of([check(i, 5.0 if i in (3, 4) else 0.0) for i in range(10)]))
    assert figure._suptitle.get_text() == "No event in 10 checks: 2 out, too few in a row"


def test_without_a_level_nothing_is_called_inside(log_of):
    figure = timeline(log_of([check(i) for i in range(10)], level=INF, n_groups=0, rate=1.0))
    assert figure._suptitle.get_text() == "Nothing decided in 10 checks: there is no level"
    assert "no level: nothing could be held out" in figure.axes[0].get_title(loc="left")
    assert list(lines(figure.axes[0])) == ["most novel atom", "mean over atoms"]
    assert_legible(figure)


@pytest.mark.parametrize(
    ("calibration", "worth"),
    [
        ({"kind": "conformal", "rate": 0.01}, "level 2.00 nats: at most 1 false alarm in 100 checks, from 30 held-out"),
        ({"kind": "conformal", "rate": 0.01, "per": "ns"}, "at most 1 false alarm in 100 ns"),
        ({"kind": "conformal", "rate": 0.5, "per": "run"}, "at most 1 false alarm in 2 runs"),
        ({"kind": "conformal", "rate": 0.99}, "false alarms in 99% of checks"),
        ({"rate": 1.0}, "the largest dH of 30 held-out groups of frames; it promises nothing"),
        ({"n_groups": 1, "rate": 1.0}, "level 2.00 nats: a guess, the reference is one group of frames"),
    ],
)
def test_the_level_is_put_into_words(log_of, calibration, worth):
    assert worth in timeline(log_of([check(0)], **calibration)).axes[0].get_title(loc="left")


def test_a_run_that_is_outside_from_the_start(log_of):
    checks = [check(i, 9.0) for i in range(8)]
    figure = timeline(log_of(checks, [event(checks, 0, 7, is_open=True)]))
    assert figure._suptitle.get_text() == "Outside the reference from the first check on, step 0"


def test_an_invalid_frame_is_marked_and_breaks_the_lines(log_of):
    checks = [invalid(i, time_ps=0.1 * i) if i == 12 else check(i, time_ps=0.1 * i) for i in range(30)]
    figure = timeline(log_of(checks, [event(checks, 12, 12, kind="exploded", peak_excess=NAN)]))
    drawn = lines(figure.axes[0])
    assert drawn["invalid frame"].get_xdata() == pytest.approx([1.2])
    assert np.flatnonzero(np.isnan(drawn["most novel atom"].get_ydata())).tolist() == [12]
    assert figure._suptitle.get_text() == "Broke down at step 120 (1.20 ps)"
    assert texts(figure) == ["event 1: invalid numbers"]
    [span] = spans(figure.axes[0], "black")
    assert span == pytest.approx((1.15, 1.25), abs=1e-9)
    assert_legible(figure)


def test_nothing_but_invalid_frames(log_of):
    checks = [invalid(i) for i in range(3)]
    figure = timeline(log_of(checks, [event(checks, 0, 2, kind="exploded", is_open=True)], level=INF))
    assert list(lines(figure.axes[0])) == ["invalid frame"]
    assert_legible(figure)


def test_an_explosion_after_a_novel_event_is_in_the_title(log_of):
    checks = [check(i, 9.0 if i > 9 else 0.0) for i in range(20)] + [invalid(20)]
    events = [event(checks, 10, 19), event(checks, 20, 20, id=2, kind="exploded", is_open=True)]
    figure = timeline(log_of(checks, events))
    assert figure._suptitle.get_text() == "Left the reference at step 100, broke down at step 200; 2 events"
    assert_legible(figure)


def test_two_events_have_two_spans_and_names(log_of):
    out = {*range(20, 35), *range(60, 80)}
    checks = [check(i, 6.0 if i in out else 0.0) for i in range(100)]
    figure = timeline(log_of(checks, [event(checks, 20, 34), event(checks, 60, 79, id=2)]))
    assert texts(figure) == ["event 1", "event 2"]
    assert spans(figure.axes[1], "tab:red") == [pytest.approx((195, 345)), pytest.approx((595, 795))]
    assert figure._suptitle.get_text() == "Left the reference at step 200; 2 events"
    assert_legible(figure)


def test_many_events_are_named_where_there_is_room(log_of):
    checks = [check(i, 6.0 if i % 10 > 5 else 0.0) for i in range(400)]
    events = [event(checks, i, i + 3, id=i // 10 + 1) for i in range(6, 400, 10)]
    figure = timeline(log_of(checks, events))
    assert len(spans(figure.axes[0], "tab:red")) == 40
    assert 5 <= len(texts(figure)) < 20
    assert_legible(figure)


def test_the_span_of_an_event_ends_at_its_last_check_out(log_of):
    # the trigger's hysteresis keeps it open for a while
    checks = [check(i, 6.0 if 20 <= i < 30 else 1.8 if 30 <= i < 36 else 0.0) for i in range(60)]
    figure = timeline(log_of(checks, [event(checks, 20, 29, n_checks=16)]))
    assert spans(figure.axes[0], "tab:red") == [pytest.approx((195, 295))]


def test_the_span_of_an_open_event_reaches_the_last_check_even_if_its_line_is_older(log_of):
    checks = heated(out_from=10)
    figure = timeline(log_of(checks, [event(checks, 10, 12, is_open=True)]))
    assert spans(figure.axes[0], "tab:red") == [pytest.approx((0.475, 1.975))]


def test_one_check_is_drawn(log_of):
    checks = [check(7, 9.0)]
    figure = timeline(log_of(checks, [event(checks, 0, 0, is_open=True)]))
    assert lines(figure.axes[0])["most novel atom"].get_marker() == "."
    assert figure.axes[1].patches[0].get_data().values.tolist() == [10.0]
    left, right = figure.axes[0].get_xlim()
    assert left < 70 < right
    assert figure.axes[-1].get_xticks().tolist() == [70]
    assert_legible(figure)


def test_steps_that_repeat_are_drawn_over_checks(log_of):
    out = {*range(20, 30), *range(50, 60)}
    checks = [check(i, 6.0 if i in out else 0.0, step=i % 30, time_ps=0.1 * (i % 30)) for i in range(60)]
    figure = timeline(log_of(checks, [event(checks, 20, 29), event(checks, 50, 59, id=2)]))
    assert figure.axes[-1].get_xlabel() == "check"
    assert spans(figure.axes[0], "tab:red") == [pytest.approx((19.5, 29.5)), pytest.approx((49.5, 59.5))]


def test_partly_known_times_fall_back_to_steps(log_of):
    figure = timeline(log_of([check(i, time_ps=None if i == 3 else 0.1 * i) for i in range(6)]))
    assert figure.axes[-1].get_xlabel() == "step"


def test_an_unknown_element_is_marked_and_leaves_the_range_alone(log_of):
    checks = [check(i, INF if i > 5 else 0.0, n_unknown=int(i > 5)) for i in range(20)]
    figure = timeline(log_of(checks, [event(checks, 6, 19, peak_excess=INF, is_open=True)]))
    marks = lines(figure.axes[0])["element not in the reference: infinite"]
    assert marks.get_xdata().tolist() == [10.0 * i for i in range(6, 20)]
    low, high = figure.axes[0].get_ylim()
    assert low < -4
    assert LEVEL < high < 10
    assert (LEVEL - low) / (high - low) < 0.8  # the marks, at 0.86, are above the level
    assert_legible(figure)


def test_proven_values_are_drawn_where_they_are_known(log_of):
    checks = [check(i, 6.0, step=10 * i) if i in (7, 8, 30) else check(i, None) for i in range(100)]
    checks = [replace(c, state="in", excess=-1.0) if c.dh_max is None else c for c in checks]
    drawn = lines(timeline(log_of(checks)).axes[0])
    assert drawn["most novel atom, where above its level"].get_marker() == "."  # a line would not show check 30


def test_a_huge_dh_does_not_squeeze_the_level(log_of):
    checks = heated(top=2e5)
    figure = timeline(log_of(checks, [event(checks, 20, 39, is_open=True)]))
    axis = figure.axes[0]
    assert axis.get_yscale() == "symlog"
    assert "log above 10" in axis.get_ylabel()
    figure.canvas.draw()
    to_panel = (axis.transData + axis.transAxes.inverted()).transform
    mean, level, top = (to_panel((0.5, y))[1] for y in (-4.0, LEVEL, 2e5))
    assert 0.03 < mean < level - 0.05
    assert 0.5 < top < 0.95
    assert [text.get_text() for text in axis.get_yticklabels()][:4] == ["-5", "0", "5", "10"]
    assert_legible(figure)


def test_the_logarithm_begins_above_a_high_level(log_of):
    figure = timeline(log_of([check(i, 60.0 + 500 * i) for i in range(9)], level=36.7))
    assert "log above 100" in figure.axes[0].get_ylabel()
    assert_legible(figure)


def test_a_log_without_checks_is_refused(log_of):
    with pytest.raises(ValueError, match="log: expected at least one check"):
        timeline(log_of([]))


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_pictures_can_be_written(log_of, tmp_path, suffix):
    checks = heated()
    figure = timeline(log_of(checks, [event(checks, 20, 39)]))
    figure.savefig(tmp_path / f"timeline.{suffix}")
    assert (tmp_path / f"timeline.{suffix}").stat().st_size > 5000


def test_no_window_and_no_pyplot(log_of, tmp_path):
    log_of([check(i) for i in range(3)])
    code = """
        import sys
        import quests_md.plot
        assert "matplotlib" not in sys.modules, "imported before it is needed"
        from quests_md import read_log
        quests_md.plot.timeline(read_log(sys.argv[1])).savefig(sys.argv[2])
        assert "matplotlib.pyplot" not in sys.modules
    """
    arguments = [sys.executable, "-c", textwrap.dedent(code), tmp_path / "0.jsonl", tmp_path / "a.png"]
    subprocess.run(arguments, check=True, env={"MPLBACKEND": "gtk4agg", "PATH": "/usr/bin"}, timeout=60)
    assert (tmp_path / "a.png").exists()
