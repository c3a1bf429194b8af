import subprocess
import sys
import textwrap
from dataclasses import replace

import numpy as np
import pytest
from logs import INF, LEVEL, NAN, check, checks_of, event, invalid
from matplotlib.colors import to_rgb
from pictures import ALL_IN_USE, freezing, legible, level, lines, texts

from quests_md.show import timeline
from quests_md.show.figures import EVENT_COLOURS


def heated(top=8.0):
    """A run that leaves for good, with time and temperature."""
    return [check(i, top if i >= 20 else 0.0, time_ps=0.05 * i, temperature_K=300.0 + 10 * i) for i in range(40)]


def spans(axis, kind):
    """Left and right border of the shaded spans of a kind of event."""
    colour = to_rgb(EVENT_COLOURS[kind])
    found = [p.get_extents() for p in axis.patches if p.get_alpha() == 0.10 and p.get_facecolor()[:3] == colour]
    to_data = axis.transData.inverted()
    return [(to_data.transform((box.x0, 0))[0], to_data.transform((box.x1, 0))[0]) for box in found]


def test_a_run_that_leaves_shows_dh_level_atoms_temperature_and_event(log_of):
    checks = heated()
    log = log_of(checks, [event(checks, 20, 39, is_open=True)])
    figure = legible(timeline(log))
    dh, atoms, temperature = figure.axes
    drawn = lines(dh)
    assert list(drawn) == ["most novel atom", "mean over atoms", "level 2.00"]
    np.testing.assert_allclose(drawn["most novel atom"].get_ydata(), log.dh_max)
    np.testing.assert_allclose(drawn["most novel atom"].get_xdata(), log.time_ps)
    np.testing.assert_allclose(drawn["mean over atoms"].get_ydata(), log.dh_mean)
    assert set(drawn["level 2.00"].get_ydata()) == {LEVEL}
    np.testing.assert_allclose(atoms.patches[0].get_data().values, log.n_above)
    assert atoms.get_ylabel() == "atoms (of 200)"
    np.testing.assert_allclose(temperature.lines[0].get_ydata(), log.temperature_K)
    assert temperature.get_xlabel() == "time (ps)"
    assert figure.get_suptitle() == "Left the reference at step 200 (1.00 ps, 500 K)"
    assert dh.get_title(loc="left").splitlines() == [
        "reference: 15616 environments of Cu, h = 0.015 1/Å",
        "level 2.00 nats: the largest dH of 30 held-out groups of frames; at most 1 false alarm in 31 checks",
    ]
    assert texts(dh) == ["event 1: outside the reference"]
    for axis in figure.axes:
        [span] = spans(axis, "novel")
        assert span == pytest.approx((0.975, 1.975), abs=1e-9)


def test_a_quiet_run_has_no_span(log_of):
    checks = [check(i, time_ps=None if i == 3 else 0.1 * i) for i in range(100)]  # over steps: one time is not known
    figure = legible(timeline(log_of(checks), "my run"))
    assert figure.get_suptitle() == "my run"
    assert len(figure.axes) == 2
    assert figure.axes[-1].get_xlabel() == "step"
    assert texts(figure.axes[0]) == []
    assert spans(figure.axes[0], "novel") == []
    assert figure.axes[0].get_yscale() == "linear"


def test_an_invalid_frame_is_marked_and_breaks_the_lines(log_of):
    checks = [invalid(i, time_ps=0.1 * i) if i == 12 else check(i, time_ps=0.1 * i) for i in range(30)]
    figure = legible(timeline(log_of(checks, [event(checks, 12, 12, kind="exploded", peak_excess=NAN)])))
    drawn = lines(figure.axes[0])
    assert drawn["invalid frame"].get_xdata() == pytest.approx([1.2])
    assert np.flatnonzero(np.isnan(drawn["most novel atom"].get_ydata())).tolist() == [12]
    assert texts(figure.axes[0]) == ["event 1: exploded"]
    [span] = spans(figure.axes[0], "exploded")
    assert span == pytest.approx((1.15, 1.25), abs=1e-9)


@pytest.mark.parametrize(
    ("letters", "legend"), [("iiii", ["most novel atom", "mean over atoms"]), ("xxx", ["invalid frame"])]
)
def test_without_a_level_none_is_drawn(log_of, letters, legend):
    checks = checks_of(letters)
    events = [event(checks, 0, 2, kind="exploded", is_open=True)] if letters == "xxx" else []
    figure = legible(timeline(log_of(checks, events, level=INF, n_groups=0, rate=1.0)))
    assert list(lines(figure.axes[0])) == legend


def test_two_events_have_two_spans_and_names(log_of):
    checks = checks_of("i" * 20 + "o" * 15 + "i" * 25 + "o" * 20 + "i" * 20)
    # a span ends at the last check out, though the trigger keeps the event open for a while
    figure = legible(timeline(log_of(checks, [event(checks, 20, 34, n_checks=20), event(checks, 60, 79, id=2)])))
    assert texts(figure.axes[0]) == ["event 1", "event 2"]
    assert spans(figure.axes[1], "novel") == [pytest.approx((195, 345)), pytest.approx((595, 795))]


def test_many_events_are_named_where_there_is_room(log_of):
    checks = checks_of("iiiiiioooo" * 40)
    events = [event(checks, i, i + 3, id=i // 10 + 1) for i in range(6, 400, 10)]
    figure = legible(timeline(log_of(checks, events)))
    assert len(spans(figure.axes[0], "novel")) == 40
    assert 5 <= len(texts(figure.axes[0])) < 20


def test_one_check_is_drawn(log_of):
    checks = [check(7, 9.0)]
    figure = legible(timeline(log_of(checks, [event(checks, 0, 0, is_open=True)])))
    assert lines(figure.axes[0])["most novel atom"].get_marker() == "."
    assert figure.axes[1].patches[0].get_data().values.tolist() == [20.0]
    left, right = figure.axes[0].get_xlim()
    assert left < 70 < right
    assert figure.axes[-1].get_xticks().tolist() == [70]


def test_steps_that_repeat_are_drawn_over_checks(log_of):
    out = {*range(20, 30), *range(50, 60)}
    checks = [check(i, 6.0 if i in out else 0.0, step=i % 30, time_ps=0.1 * (i % 30)) for i in range(60)]
    figure = timeline(log_of(checks, [event(checks, 20, 29), event(checks, 50, 59, id=2)]))
    assert figure.axes[-1].get_xlabel() == "check"
    assert spans(figure.axes[0], "novel") == [pytest.approx((19.5, 29.5)), pytest.approx((49.5, 59.5))]


def test_an_unknown_element_is_marked_and_leaves_the_range_alone(log_of):
    checks = [check(i, INF if i > 5 else 0.0, n_unknown=int(i > 5)) for i in range(20)]
    figure = legible(timeline(log_of(checks, [event(checks, 6, 19, peak_excess=INF, is_open=True)])))
    marks = lines(figure.axes[0])["element not in the reference: infinite"]
    assert marks.get_xdata().tolist() == [10.0 * i for i in range(6, 20)]
    low, high = figure.axes[0].get_ylim()
    assert low < -4
    assert LEVEL < high < 10
    assert (LEVEL - low) / (high - low) < 0.8  # the marks, at 0.86, are above the level


def test_proven_values_are_drawn_where_they_are_known(log_of):
    checks = [check(i, 6.0, step=10 * i) if i in (7, 8, 30) else check(i, None) for i in range(100)]
    checks = [replace(c, state="in", excess=-1.0) if c.dh_max is None else c for c in checks]
    drawn = lines(timeline(log_of(checks)).axes[0])
    assert drawn["most novel atom, where above its level"].get_marker() == "."  # a line would not show check 30


def test_a_huge_dh_does_not_squeeze_the_level(log_of):
    checks = heated(top=2e5)
    figure = legible(timeline(log_of(checks, [event(checks, 20, 39, is_open=True)])))
    axis = figure.axes[0]
    assert axis.get_yscale() == "symlog"
    assert "log above 10" in axis.get_ylabel()
    figure.canvas.draw()
    to_panel = (axis.transData + axis.transAxes.inverted()).transform
    mean, level, top = (to_panel((0.5, y))[1] for y in (-4.0, LEVEL, 2e5))
    assert 0.03 < mean < level - 0.05
    assert 0.5 < top < 0.95
    assert [text.get_text() for text in axis.get_yticklabels()][:4] == ["-5", "0", "5", "10"]


def test_the_logarithm_begins_above_a_high_level(log_of):
    figure = legible(timeline(log_of([check(i, 60.0 + 500 * i) for i in range(9)], level=36.7)))
    assert "log above 100" in figure.axes[0].get_ylabel()


def test_a_log_without_checks_is_refused(log_of):
    with pytest.raises(ValueError, match="log: expected at least one check"):
        timeline(log_of([]))


@pytest.mark.slow
def test_no_window_and_no_pyplot(log_of, tmp_path):
    log_of([check(i) for i in range(3)])
    code = """
        import sys
        import quests_md.cli
        assert "matplotlib" not in sys.modules, "imported before it is needed"
        from quests_md import read_log
        quests_md.show.timeline(read_log(sys.argv[1])).savefig(sys.argv[2])
        assert "matplotlib.pyplot" not in sys.modules
    """
    arguments = [sys.executable, "-c", textwrap.dedent(code), tmp_path / "0.jsonl", tmp_path / "a.png"]
    subprocess.run(arguments, check=True, env={"MPLBACKEND": "gtk4agg", "PATH": "/usr/bin"}, timeout=60)
    assert (tmp_path / "a.png").exists()


# events of several kinds, phases, other statistics


@pytest.mark.slow
def test_every_panel_has_its_numbers_and_levels(log_of):
    log = freezing(log_of)
    figure = legible(timeline(log))
    dh, atoms, alarms, self_entropy, phases, temperature = figure.axes
    drawn = lines(dh)
    np.testing.assert_allclose(drawn["99 % quantile"].get_ydata(), log.dh_q99)
    assert set(drawn["level of the quantile 1.00"].get_ydata()) == {1.0}
    assert set(drawn["levels of the mean -2.00, -6.00"].get_ydata()) == {-2.0}
    assert drawn["explosion"].get_xdata() == pytest.approx([5.9])
    drawn = lines(atoms)
    np.testing.assert_array_equal(drawn["largest cluster in the tail"].get_ydata(), log.tail_cluster)
    np.testing.assert_array_equal(drawn["in the tail"].get_ydata(), log.n_tail)
    assert set(drawn["level 6"].get_ydata()) == {6.0}
    assert set(drawn["level 10"].get_ydata()) == {10.0}  # a share of 0.05 of 200 atoms
    names = [label.get_text() for label in alarms.get_yticklabels()]
    assert names == ["dh_max", "phase:fcc", "frame_entropy_drift"]
    bars = [[(p.vertices[:, 0].min(), p.vertices[:, 0].max()) for p in row.get_paths()] for row in alarms.collections]
    assert bars == [[pytest.approx((0.45, 0.55))], [pytest.approx((2.95, 5.95))], [pytest.approx((2.95, 5.95))]]
    np.testing.assert_allclose(lines(self_entropy)["frame entropy"].get_ydata(), log.frame_entropy)
    assert set(lines(self_entropy)["level 4.50"].get_ydata()) == {4.5}
    drawn = lines(phases)
    assert list(drawn) == ["liquid", "fcc", "fcc, largest cluster", "hcp"]
    np.testing.assert_allclose(drawn["fcc"].get_ydata(), log.phases["fcc"] / 2)
    assert temperature.get_ylabel() == "temperature (K)"
    assert figure.get_suptitle() == (
        "Phase fcc grows from step 300 (3.00 ps, 700 K) on, broke down at step 590; 2 events"
    )
    assert texts(dh) == ["event 1: fcc", "event 2: exploded"]
    # the exploded frame does not squeeze the run before it
    assert dh.get_yscale() == "linear"
    assert dh.get_ylim()[1] < 10
    assert atoms.get_ylim()[1] < 60
    assert temperature.get_ylim() == (0, pytest.approx(770))


def test_events_of_two_kinds_at_once_are_both_named(log_of):
    checks = [check(i, 6.0 if i >= 20 else 0.0, alarms=("dh_max",) if i >= 20 else ()) for i in range(100)]
    both = [event(checks, 20, 99), event(checks, 21, 99, id=2, kind="transition")]
    figure = legible(timeline(log_of(checks, both)))
    assert texts(figure.axes[0]) == ["event 1: outside the reference", "event 2: transition"]
    assert spans(figure.axes[0], "transition") == [pytest.approx((205, 995))]


def test_the_beginning_that_judges_is_shaded_and_levels_of_the_reference_are_not_drawn(log_of):
    log = log_of([check(i, time_ps=0.1 * i) for i in range(50)], **ALL_IN_USE)
    log.header["baseline_ps"] = 1.5
    figure = legible(timeline(log))
    assert not [name for name in lines(figure.axes[0]) if "mean -" in name or "quantile 1" in name]
    edges = [p.get_extents().transformed(figure.axes[0].transData.inverted()) for p in figure.axes[0].patches]
    assert (edges[0].x0, edges[0].x1) == pytest.approx((0.0, 1.5))
    assert texts(figure.axes[-1]) == ["baseline"]


@pytest.mark.slow
def test_a_level_far_below_the_largest_count_is_not_squeezed(log_of):
    checks = [check(i, tail_cluster=0 if i < 20 else 4000, n_atoms=5000) for i in range(40)]
    figure = legible(
        timeline(log_of(checks, statistics=("dh_max", "tail_cluster"), levels=[level("tail_cluster", 6.0)]))
    )
    atoms = figure.axes[1]
    assert atoms.get_yscale() == "symlog"
    height = (atoms.transData + atoms.transAxes.inverted()).transform((0, 6.0))[1]
    assert 0.08 < height < 0.5


def test_alarms_of_a_log_of_the_first_release_are_drawn(log_of):
    checks = [check(i, 6.0, alarms=("dh_max", "n_tail")) if i in (3, 4, 8) else check(i) for i in range(10)]
    alarms = timeline(log_of(checks)).axes[2]
    assert [label.get_text() for label in alarms.get_yticklabels()] == ["dh_max", "n_tail"]
    assert [len(row.get_paths()) for row in alarms.collections] == [2, 2]


# local scores


LOCAL = {
    "statistics": ("local_mean", "local_cluster", "local_max"),
    "levels": [level("local_mean", 0.3), level("local_cluster", 13.4), level("local_max", 6.0)],
}


def ordered(top=20.0, **changes):
    """A run in which a cluster of novel neighbourhoods grows from the 20th check on."""
    return [
        check(
            i,
            time_ps=0.1 * i,
            frame_entropy=None,
            alarms=("local_cluster", "local_max") if i >= 20 else (),
            state="out" if i >= 20 else "in",
            further={"local_mean": 0.1 * i, "local_max": top if i >= 20 else 3.0, "local_cluster": 5.0 + 3 * i},
            excesses=dict.fromkeys(LOCAL["statistics"], 1.0 if i >= 20 else -1.0),
            **changes,
        )
        for i in range(40)
    ]


@pytest.mark.parametrize("top", [20.0, 3e4])
def test_local_scores_have_panels_of_their_own_with_their_levels(log_of, top):
    checks = ordered(top)
    log = log_of(checks, [event(checks, 20, 39, is_open=True)], **LOCAL)
    figure = legible(timeline(log))
    largest, mean, dh, atoms, _ = figure.axes
    drawn = lines(largest)
    assert list(drawn) == ["worst neighbourhood", "level 6.00"]
    np.testing.assert_array_equal(drawn["worst neighbourhood"].get_ydata(), log.further["local_max"])
    assert largest.get_ylabel().startswith("local score (deviations" + (", log above 20)" if top > 100 else ")"))
    low, high = largest.get_ylim()
    assert low < 3.0 < 6.0 < top < high
    assert texts(largest) == ["event 1: outside the reference"]
    drawn = lines(mean)
    assert list(drawn) == ["mean over neighbourhoods", "level 0.30"]
    np.testing.assert_array_equal(drawn["mean over neighbourhoods"].get_ydata(), log.further["local_mean"])
    assert list(lines(dh)) == ["most novel atom", "mean over atoms"]  # without a level: dH raises no alarms
    drawn = lines(atoms)
    np.testing.assert_array_equal(
        drawn["largest cluster above the local level"].get_ydata(), log.further["local_cluster"]
    )
    assert set(drawn["level 13.4"].get_ydata()) == {13.4}


def test_no_panel_of_dh_where_the_log_has_none(log_of):
    checks = ordered(dh_max=None, dh_mean=None, dh_q99=None)
    log = log_of(checks, [event(checks, 20, 39, is_open=True)], **LOCAL)
    figure = legible(timeline(log))
    assert [axis.get_ylabel().split(" (")[0].split("\n")[0] for axis in figure.axes] == [
        "local score", "local score", "atoms", ""
    ]  # fmt: skip


def test_dh_comes_first_where_it_raises_alarms(log_of):
    log = log_of(ordered(), statistics=("dh_max", "local_tail", "local_mean"), levels=[level("local_tail", 0.05)])
    dh, mean, atoms, _ = timeline(log).axes
    assert list(lines(dh)) == ["most novel atom", "mean over atoms", "level 2.00"]
    assert list(lines(mean)) == ["mean over neighbourhoods"]
    assert atoms.get_ylabel() == "atoms (of 200)"


def test_frames_without_scores_are_marked_in_the_first_panel(log_of):
    nothing = {"further": {}, "dh_mean": None}
    checks = [*ordered()[:19], invalid(19, time_ps=1.9, **nothing), check(20, INF, time_ps=2.0, n_unknown=1, **nothing)]
    figure = legible(timeline(log_of(checks, [event(checks, 20, 20)], **LOCAL)))
    drawn = lines(figure.axes[0])
    assert drawn["invalid frame"].get_xdata() == pytest.approx([1.9])
    assert drawn["element not in the reference: infinite"].get_xdata() == pytest.approx([2.0])
    assert "invalid frame" not in lines(figure.axes[2])
