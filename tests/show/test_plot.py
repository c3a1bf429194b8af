import itertools
import subprocess
import sys
import textwrap
from dataclasses import replace

import numpy as np
import pytest
from logs import INF, LEVEL, NAN, check, event, invalid, log_of
from matplotlib.colors import to_rgb

from quests_md.show.plot import COLOURS, cluster_growth, timeline

__all__ = ["log_of"]


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
    pieces = [figure._suptitle, figure.axes[-1].xaxis.label]
    for axis in figure.axes:
        pieces += [axis._left_title, *axis.texts, axis.yaxis.label, axis.get_legend()]
        low, high = sorted(axis.get_ylim())
        ticks = zip(axis.get_yticks(), axis.get_yticklabels(), strict=True)
        pieces += [label for tick, label in ticks if low <= tick <= high]
    pieces = [piece for piece in pieces if piece and piece.get_visible()]
    pieces = [piece for piece in pieces if not hasattr(piece, "get_text") or piece.get_text()]
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
    np.testing.assert_allclose(atoms.patches[0].get_data().values, log.n_above)
    assert atoms.get_ylabel() == "atoms (of 200)"
    np.testing.assert_allclose(temperature.lines[0].get_ydata(), log.temperature_K)
    assert temperature.get_xlabel() == "time (ps)"
    assert figure._suptitle.get_text() == "Left the reference at step 200 (1.00 ps, 500 K)"
    assert entropy.get_title(loc="left").splitlines() == [
        "reference: 15616 environments of Cu, h = 0.015 1/Å",
        "level 2.00 nats: the largest dH of 30 held-out groups of frames; at most 1 false alarm in 31 checks",
    ]
    assert texts(figure) == ["event 1: outside the reference"]
    for axis in figure.axes:
        [span] = spans(axis, COLOURS["novel"])
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
    assert spans(figure.axes[0], COLOURS["novel"]) == []
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
    assert texts(figure) == ["event 1: exploded"]
    [span] = spans(figure.axes[0], COLOURS["exploded"])
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
    assert spans(figure.axes[1], COLOURS["novel"]) == [pytest.approx((195, 345)), pytest.approx((595, 795))]
    assert figure._suptitle.get_text() == "Left the reference at step 200; 2 events"
    assert_legible(figure)


def test_many_events_are_named_where_there_is_room(log_of):
    checks = [check(i, 6.0 if i % 10 > 5 else 0.0) for i in range(400)]
    events = [event(checks, i, i + 3, id=i // 10 + 1) for i in range(6, 400, 10)]
    figure = timeline(log_of(checks, events))
    assert len(spans(figure.axes[0], COLOURS["novel"])) == 40
    assert 5 <= len(texts(figure)) < 20
    assert_legible(figure)


def test_the_span_of_an_event_ends_at_its_last_check_out(log_of):
    # the trigger's hysteresis keeps it open for a while
    checks = [check(i, 6.0 if 20 <= i < 30 else 1.8 if 30 <= i < 36 else 0.0) for i in range(60)]
    figure = timeline(log_of(checks, [event(checks, 20, 29, n_checks=16)]))
    assert spans(figure.axes[0], COLOURS["novel"]) == [pytest.approx((195, 295))]


def test_the_span_of_an_open_event_reaches_the_last_check_even_if_its_line_is_older(log_of):
    checks = heated(out_from=10)
    figure = timeline(log_of(checks, [event(checks, 10, 12, is_open=True)]))
    assert spans(figure.axes[0], COLOURS["novel"]) == [pytest.approx((0.475, 1.975))]


def test_one_check_is_drawn(log_of):
    checks = [check(7, 9.0)]
    figure = timeline(log_of(checks, [event(checks, 0, 0, is_open=True)]))
    assert lines(figure.axes[0])["most novel atom"].get_marker() == "."
    assert figure.axes[1].patches[0].get_data().values.tolist() == [20.0]
    left, right = figure.axes[0].get_xlim()
    assert left < 70 < right
    assert figure.axes[-1].get_xticks().tolist() == [70]
    assert_legible(figure)


def test_steps_that_repeat_are_drawn_over_checks(log_of):
    out = {*range(20, 30), *range(50, 60)}
    checks = [check(i, 6.0 if i in out else 0.0, step=i % 30, time_ps=0.1 * (i % 30)) for i in range(60)]
    figure = timeline(log_of(checks, [event(checks, 20, 29), event(checks, 50, 59, id=2)]))
    assert figure.axes[-1].get_xlabel() == "check"
    assert spans(figure.axes[0], COLOURS["novel"]) == [pytest.approx((19.5, 29.5)), pytest.approx((49.5, 59.5))]


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
        import quests_md.show.plot
        assert "matplotlib" not in sys.modules, "imported before it is needed"
        from quests_md import read_log
        quests_md.show.plot.timeline(read_log(sys.argv[1])).savefig(sys.argv[2])
        assert "matplotlib.pyplot" not in sys.modules
    """
    arguments = [sys.executable, "-c", textwrap.dedent(code), tmp_path / "0.jsonl", tmp_path / "a.png"]
    subprocess.run(arguments, check=True, env={"MPLBACKEND": "gtk4agg", "PATH": "/usr/bin"}, timeout=60)
    assert (tmp_path / "a.png").exists()


# events of several kinds, phases, other statistics


def level(statistic, value, side="above"):
    return {"statistic": statistic, "element": None, "side": side, "value": value}


STATISTICS = ("dh_max", "dh_q99", "dh_mean", "n_tail", "tail_cluster", "frame_entropy")
LEVELS = [
    level("dh_max", LEVEL),
    level("dh_q99", 1.0),
    level("dh_mean", -2.0),
    level("dh_mean", -6.0, "below"),
    level("n_tail", 0.05),
    level("tail_cluster", 6.0),
    level("frame_entropy", 4.5, "below"),
]


PHASES = {"parent": "liquid", "levels": {"fcc": level("phase:fcc", 9.0)}}


def freezing(n=60, out_from=30, explodes=True):
    """A liquid in which a crystal grows, too hot at the end."""
    checks, drifts = [], ("frame_entropy_drift", "dh_mean_drift")
    for i in range(n):
        size = 2 if i < out_from else int(2 * 1.15 ** (i - out_from))
        alarms = ("phase:fcc", "frame_entropy_drift") if i >= out_from else ("dh_max",) if i == 5 else ()
        is_last = explodes and i == n - 1
        checks.append(
            check(
                i,
                9e6 if is_last else 3.0 if i == 5 else 0.0,
                time_ps=0.1 * i,
                temperature_K=9e4 if is_last else 700.0,
                n_above=150 if is_last else int(i == 5),
                n_tail=size // 2,
                tail_cluster=size // 2,
                frame_entropy=5.0 - size / 100,
                phases={"liquid": 190 - size, "fcc": size, "hcp": 4},
                phase_clusters={"liquid": 180 - size, "fcc": size, "hcp": 1},
                alarms=alarms,
                excesses={name: 1.0 if name in alarms else -1.0 for name in ("dh_max", "phase:fcc", *drifts)},
                state="out" if alarms or is_last else "in",
                explosion="a temperature of 90000 K" if is_last else "",
            )
        )
    return checks


def freezing_events(checks, out_from=30):
    sizes = tuple((c.step, c.phases["fcc"]) for c in checks[out_from:-1])
    grown = event(checks, out_from, len(checks) - 2, kind="transition", phase="fcc", size_history=sizes)
    return [grown, event(checks, len(checks) - 1, len(checks) - 1, id=2, kind="exploded", peak_excess=INF)]


def test_every_panel_has_its_numbers_and_levels(log_of):
    checks = freezing()
    log = log_of(checks, freezing_events(checks), statistics=STATISTICS, levels=LEVELS)
    log.header["phases"] = PHASES
    figure = timeline(log)
    entropy, atoms, alarms, self_entropy, phases, temperature = figure.axes
    drawn = lines(entropy)
    np.testing.assert_allclose(drawn["99 % quantile"].get_ydata(), log.dh_q99)
    assert set(drawn["level of the quantile 1.00"].get_ydata()) == {1.0}
    assert set(drawn["levels of the mean -2.00, -6.00"].get_ydata()) == {-2.0}
    assert drawn["explosion"].get_xdata() == pytest.approx([5.9])
    drawn = lines(atoms)
    np.testing.assert_array_equal(drawn["largest cluster in the tail"].get_ydata(), log.tail_cluster)
    np.testing.assert_array_equal(drawn["in the tail"].get_ydata(), log.n_tail)
    assert set(drawn["level 6"].get_ydata()) == {6.0}
    assert set(drawn["level 10"].get_ydata()) == {10.0}  # a share of 0.05 of 200 atoms
    assert [label.get_text() for label in alarms.get_yticklabels()] == [
        "dh_max",
        "phase:fcc",
        "frame_entropy_drift",
    ]
    bars = [[(p.vertices[:, 0].min(), p.vertices[:, 0].max()) for p in row.get_paths()] for row in alarms.collections]
    assert bars == [[pytest.approx((0.45, 0.55))], [pytest.approx((2.95, 5.95))], [pytest.approx((2.95, 5.95))]]
    np.testing.assert_allclose(lines(self_entropy)["frame entropy"].get_ydata(), log.frame_entropy)
    assert set(lines(self_entropy)["level 4.50"].get_ydata()) == {4.5}
    drawn = lines(phases)
    assert list(drawn) == ["liquid", "fcc", "fcc, largest cluster", "hcp"]
    np.testing.assert_allclose(drawn["fcc"].get_ydata(), log.phases["fcc"] / 2)
    assert temperature.get_ylabel() == "temperature (K)"
    assert figure._suptitle.get_text() == (
        "Phase fcc grows from step 300 (3.00 ps, 700 K) on, broke down at step 590; 2 events"
    )
    assert texts(figure) == ["event 1: fcc", "event 2: exploded"]
    assert_legible(figure)


def test_an_exploded_frame_does_not_squeeze_the_run_before_it(log_of):
    checks = freezing()
    entropy, atoms, *_, temperature = timeline(log_of(checks, freezing_events(checks))).axes
    assert entropy.get_yscale() == "linear"
    assert entropy.get_ylim()[1] < 10
    assert atoms.get_ylim()[1] < 10
    assert temperature.get_ylim() == (0, pytest.approx(770))


def test_events_of_two_kinds_at_once_are_both_named(log_of):
    checks = [check(i, 6.0 if i >= 20 else 0.0, alarms=("dh_max",) if i >= 20 else ()) for i in range(100)]
    both = [event(checks, 20, 99), event(checks, 21, 99, id=2, kind="transition")]
    figure = timeline(log_of(checks, both))
    assert texts(figure) == ["event 1: outside the reference", "event 2: transition"]
    assert spans(figure.axes[0], COLOURS["transition"]) == [pytest.approx((205, 995))]
    assert_legible(figure)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"phase": "bcc"}, "Phase bcc grows from step 200 on"),
        ({"reason": "a connected cluster grew"}, "A cluster grows from step 200 on"),
        ({}, "Unlike its own beginning from step 200 on"),
    ],
)
def test_what_a_transition_is_called(log_of, changes, said):
    checks = [check(i, 6.0 if i >= 20 else 0.0) for i in range(40)]
    figure = timeline(log_of(checks, [event(checks, 20, 39, kind="transition", **changes)]))
    assert figure._suptitle.get_text() == said


def test_many_statistics_are_counted_in_the_title(log_of):
    figure = timeline(log_of([check(i) for i in range(9)], statistics=STATISTICS, levels=LEVELS))
    assert "alarms by 6 statistics: the extremes of 30 held-out" in figure.axes[0].get_title(loc="left")
    assert_legible(figure)


def test_the_beginning_that_judges_is_shaded_and_levels_of_the_reference_are_not_drawn(log_of, tmp_path):
    checks = [check(i, time_ps=0.1 * i) for i in range(50)]
    log = log_of(checks, statistics=STATISTICS, levels=LEVELS)
    log.header["baseline_ps"] = 1.5
    figure = timeline(log)
    assert not [name for name in lines(figure.axes[0]) if "mean -" in name or "quantile 1" in name]
    edges = [p.get_extents().transformed(figure.axes[0].transData.inverted()) for p in figure.axes[0].patches]
    assert (edges[0].x0, edges[0].x1) == pytest.approx((0.0, 1.5))
    assert [text.get_text() for text in figure.axes[-1].texts] == ["baseline"]
    assert_legible(figure)


def test_a_level_far_below_the_largest_count_is_not_squeezed(log_of):
    checks = [check(i, tail_cluster=0 if i < 20 else 4000, n_atoms=5000) for i in range(40)]
    figure = timeline(log_of(checks, statistics=("dh_max", "tail_cluster"), levels=[level("tail_cluster", 6.0)]))
    atoms = figure.axes[1]
    assert atoms.get_yscale() == "symlog"
    height = (atoms.transData + atoms.transAxes.inverted()).transform((0, 6.0))[1]
    assert 0.08 < height < 0.5
    assert_legible(figure)


# growth


def test_growth_is_drawn_over_time_with_the_level(log_of):
    checks = freezing()
    log = log_of(checks, freezing_events(checks), statistics=STATISTICS, levels=LEVELS)
    log.header["phases"] = PHASES
    figure = cluster_growth(log)
    [axis] = figure.axes
    assert axis.get_yscale() == "log"
    drawn = lines(axis)
    assert list(drawn) == [
        "largest cluster in the tail",
        "its level, 6 atoms",
        "largest cluster of fcc",
        "its level, 9 atoms",
        "transition, atoms in the cluster",
    ]
    assert set(drawn["its level, 9 atoms"].get_ydata()) == {9.0}
    course = drawn["transition, atoms in the cluster"]
    np.testing.assert_allclose(course.get_xdata(), 0.1 * np.arange(30, 59))
    np.testing.assert_allclose(course.get_ydata(), log.phases["fcc"][30:59])
    assert set(drawn["its level, 6 atoms"].get_ydata()) == {6.0}
    assert axis.get_xlabel() == "time (ps)"
    assert axis.get_ylabel() == "atoms"
    assert texts(figure) == ["event 1: fcc, 100 atoms"]
    assert figure._suptitle.get_text() == "Event 1 (fcc) grew from 2 to 100 atoms within 280 steps"
    assert_legible(figure)


def test_growth_of_several_events_names_the_largest(log_of):
    checks = [check(i, 6.0 if i % 10 > 3 else 0.0) for i in range(100)]
    events = [
        event(checks, i, i + 5, id=1 + i // 10, size_history=tuple((10 * j, i + 1 + j - i) for j in range(i, i + 6)))
        for i in range(4, 100, 10)
    ]
    figure = cluster_growth(log_of(checks, events))
    assert texts(figure)[0] == "event 10, 100 atoms"
    assert 3 <= len(texts(figure)) <= 6
    assert list(lines(figure.axes[0])) == ["novel, atoms above their level"]
    assert figure.axes[0].get_xlabel() == "step"
    assert_legible(figure)


def test_growth_over_steps_that_repeat_is_drawn_over_checks(log_of):
    out = {*range(20, 30), *range(50, 60)}
    checks = [check(i, 6.0 if i in out else 0.0, step=i % 30) for i in range(60)]
    sizes = tuple((step, 2 + step) for step in range(20, 30))
    events = [event(checks, 20, 29, size_history=sizes), event(checks, 50, 59, id=2, size_history=sizes)]
    figure = cluster_growth(log_of(checks, events))
    first, second = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 10]
    assert first.get_xdata().tolist() == list(range(20, 30))
    assert second.get_xdata().tolist() == list(range(50, 60))


def test_growth_without_a_size_is_refused(log_of):
    checks = [check(i, 6.0) for i in range(5)]
    for events in ([], [event(checks, 0, 4, size_history=((0, 0), (10, 0)))], [event(checks, 0, 4, kind="exploded")]):
        with pytest.raises(ValueError, match="log: expected an event with atoms whose number can be drawn, got none"):
            cluster_growth(log_of(checks, events))


def test_alarms_of_a_log_of_the_first_release_are_drawn(log_of):
    checks = [check(i, 6.0, alarms=("dh_max", "n_tail")) if i in (3, 4, 8) else check(i) for i in range(10)]
    alarms = timeline(log_of(checks)).axes[2]
    assert [label.get_text() for label in alarms.get_yticklabels()] == ["dh_max", "n_tail"]
    assert [len(row.get_paths()) for row in alarms.collections] == [2, 2]
