import numpy as np
import pytest
from logs import check, event
from pictures import freezing, legible, level, lines, texts

from quests_md.show import cluster_growth


def test_growth_is_drawn_over_time_with_the_levels(log_of):
    log = freezing(log_of)
    figure = legible(cluster_growth(log))
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
    assert set(drawn["its level, 6 atoms"].get_ydata()) == {6.0}
    assert set(drawn["its level, 9 atoms"].get_ydata()) == {9.0}
    course = drawn["transition, atoms in the cluster"]
    np.testing.assert_allclose(course.get_xdata(), 0.1 * np.arange(30, 59))
    np.testing.assert_allclose(course.get_ydata(), log.phases["fcc"][30:59])
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("time (ps)", "atoms")
    assert texts(axis) == ["event 1: fcc, 100 atoms"]
    assert figure.get_suptitle() == "Event 1 (fcc) grew from 2 to 100 atoms within 280 steps"


def test_growth_of_several_events_names_the_largest(log_of):
    checks = [check(i, 6.0 if i % 10 > 3 else 0.0) for i in range(100)]
    events = [
        event(checks, i, i + 5, id=1 + i // 10, size_history=tuple((10 * j, i + 1 + j - i) for j in range(i, i + 6)))
        for i in range(4, 100, 10)
    ]
    figure = legible(cluster_growth(log_of(checks, events)))
    [axis] = figure.axes
    assert texts(axis)[0] == "event 10, 100 atoms"
    assert 3 <= len(texts(axis)) <= 6
    assert list(lines(axis)) == ["novel, atoms above their level"]
    assert axis.get_xlabel() == "step"


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


def test_growth_shows_clusters_above_the_local_level(log_of):
    checks = [check(i, 5.0 if i >= 10 else 0.0, further={"local_cluster": 2.0 + i}) for i in range(30)]
    made = event(checks, 10, 29, alarms=("local_cluster",), size_history=tuple((c.step, 5) for c in checks[10:]))
    log = log_of(checks, [made], statistics=("local_cluster",), levels=[level("local_cluster", 13.42)])
    drawn = lines(legible(cluster_growth(log)).axes[0])
    course = drawn["largest cluster above the local level"]
    np.testing.assert_array_equal(course.get_ydata(), log.further["local_cluster"])
    assert set(drawn["its level, 13.4 atoms"].get_ydata()) == {13.42}
