"""Which events are called transitions: clusters that grow and stay, and not a frame that leaves as a whole."""

import functools
import json
from dataclasses import replace

import numpy as np
import pytest
from logs import CHECK
from systems import H, copper

from quests_md import Reference, Trigger
from quests_md._json import dumps
from quests_md.judge.judge import Judged
from quests_md.watch.event_follower import EventFollower
from quests_md.watch.explosion import Explosion

#: Atoms above the level at each check: a cluster that grows, in a frame of 256 atoms.
SIZES = (12, 12, 13, 20, 30, 40, 60, 80, 100)

#: Atoms around which the cluster is: a new phase stays at its place; heat lifts atoms above the level here and there,
#: in turn at two places that are far apart.
ONE_PLACE, CHANGING = (0,) * 9, (0, 168) * 4 + (0,)


@functools.cache
def reference():
    return Reference.from_frames([copper(1, rattle=0.02)], bandwidth=H, groups="frame")


def follower():
    return EventFollower(reference(), Trigger(patience=3), None, Explosion(None))


def checks_of(places, alarms, *, is_local=True):
    """Checks with a cluster around an atom each, as a judge would have made them."""
    atoms = copper(4)
    distances, n = atoms.get_all_distances(mic=True), len(atoms)
    rows, excesses = np.repeat(reference().rows[:1], n, axis=0), dict.fromkeys(alarms, 1.0)
    for i, (place, size) in enumerate(zip(places, SIZES, strict=True)):
        tail = np.zeros(n, bool)
        tail[np.argsort(distances[place], kind="stable")[:size]] = True
        check = replace(
            CHECK,
            step=10 * i,
            frame=i,
            n_atoms=n,
            alarms=tuple(alarms),
            excesses=excesses,
            trigger_excess=1.0,
            state="out",
            delta_entropy=np.zeros(n),
            above=np.zeros(n, bool),
            local_score=3.0 * tail if is_local else None,
        )
        yield Judged(check, rows, tail=tail), atoms


def kind_of(run):
    [event] = run.open_events
    return event.kind


@pytest.mark.parametrize(
    ("places", "alarms", "kind"),
    [
        (ONE_PLACE, ("local_cluster",), "transition"),
        (ONE_PLACE, ("local_mean", "local_cluster"), "transition"),  # freezing raises the mean as well
        (CHANGING, ("local_mean", "local_cluster"), "novel"),
        (CHANGING, ("local_cluster",), "transition"),
        (ONE_PLACE, ("local_mean", "dh_mean", "local_cluster"), "novel"),
    ],
)
def test_where_the_mean_is_out_a_transition_has_atoms_that_stay(places, alarms, kind):
    run = follower()
    for judged, atoms in checks_of(places, alarms):
        run.follow(judged, atoms)
    assert kind_of(run) == kind


@pytest.mark.parametrize("places", [ONE_PLACE, CHANGING])
@pytest.mark.parametrize("is_old", [False, True])
def test_the_log_brings_back_the_kind(places, is_old):
    """Lines of versions that did not write which atoms stay: the event is what it was then."""
    live, again = follower(), follower()
    for judged, atoms in checks_of(places, ("local_mean", "local_cluster")):
        lines = [json.loads(dumps(line)) for line in live.follow(judged, atoms).lines]
        found = next((line for line in lines if line["type"] == "state"), {})
        assert judged.check.frame == 0 or len(found["stayed"]["novel"]) == 4
        if is_old:
            found.pop("stayed", None)
        again.replay(judged.check, found)
    if is_old:
        assert kind_of(again) == "transition"
        states = [json.loads(dumps(run.state())) for run in (live, again)]
        del states[0]["courses"]["novel"]["stayed"]
        again.restore(states[0])  # a state of before
        assert kind_of(again) == kind_of(live)
    else:
        assert dumps(again.state()) == dumps(live.state())
        assert kind_of(again) == ("transition" if places is ONE_PLACE else "novel")


def test_logs_of_plain_statistics_are_as_they_were():
    run = follower()
    for judged, atoms in checks_of(CHANGING, ("tail_cluster",), is_local=False):
        assert not any("stayed" in line for line in run.follow(judged, atoms).lines)
    assert kind_of(run) == "transition"
