"""An event in words."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from logs import EVENT as NOVEL
from logs import records

from quests_md import Event
from quests_md.records import Environment, NearestEnvironment

EVENT = replace(
    NOVEL,
    onset_step=100,
    confirmed_step=120,
    last_step=150,
    onset_time_ps=0.05,
    onset_temperature_K=300.0,
    peak_excess=2.5,
    peak_step=140,
    n_atoms=3,
    size_history=((100, 1), (140, 3)),
    worst_atom=17,
    nearest=NearestEnvironment(distance=7.5, source="train.xyz", frame=3, atom=1),
    n_checks=6,
    alarms=("dh_max", "dh_mean"),
)


def described(**changes):
    """The lines of an event as a mapping: what stands under each name."""
    first, *rest = replace(EVENT, **changes).describe().splitlines()
    found, name = {"": first}, ""
    for line in rest:
        assert line[:11].strip() or line.startswith(" " * 11)
        name = line[:11].strip() or name
        found[name] = f"{found[name]} {line[11:].strip()}" if name in found else line[11:]
    return found


def environment(atom, source="train.xyz", **changes):
    near = NearestEnvironment(distance=5.25, source=source, frame=4, atom=2)
    return replace(Environment(atom, "Cu", 12.5, 11, near), **changes)


def test_a_novel_event_in_words():
    found = described(environments=(environment(17), environment(3, "memory"), environment(4, nearest=None)))
    assert found == {
        "": "event 1: novel, steps 100 to 150",
        "means": "outside the reference; whether the potential fails here is not known",
        "began": "step 100, 0.05 ps, 300 K; confirmed at step 120",
        "alarms": "dh_max, dh_mean",
        "peak": "step 140: 2.5 nats beyond the level; 3 atoms above the level",
        "size": "1 atom above the level at the onset, at most 3, 3 at last",
        "worst": (
            "atom 17 (Cu): dH 12.5, 11 neighbours; 5.2 bandwidths from train.xyz frame 4 atom 2 "
            "atom 3 (Cu): dH 12.5, 11 neighbours; 5.2 bandwidths from known frame 4 atom 2 "
            "atom 4 (Cu): dH 12.5, 11 neighbours; an element that the reference has never seen"
        ),
    }


def test_an_event_of_the_first_release_in_words():
    found = described(onset_time_ps=None, onset_temperature_K=None, size_history=(), is_open=True, last_step=100)
    assert found[""] == "event 1: novel, step 100, still open"
    assert found["began"] == "step 100; confirmed at step 120"
    assert "size" not in found
    assert found["worst"] == "atom 17 (Cu); 7.5 bandwidths from train.xyz frame 3 atom 1"


def test_a_growing_phase_in_words():
    found = described(kind="transition", phase="fcc", cluster=145, n_atoms=150, size_history=((100, 30), (150, 145)))
    assert found["means"] == "a cluster of fcc grew to 145 atoms"
    assert found["peak"] == "step 140: 2.5 beyond the level; 150 atoms in the cluster of fcc"
    assert found["size"] == "30 atoms in the cluster of fcc at the onset, at most 145, 145 at last"


def test_local_scores_of_atoms_stand_before_dh_and_lines_stay_short():
    environments = (environment(17, local_score=6.25), environment(12345, "a/" * 40 + "run.xyz", local_score=math.inf))
    lines = replace(EVENT, environments=environments).describe().splitlines()
    assert lines[-5:] == [
        "  worst    atom 17 (Cu): local score 6.2, dH 12.5, 11 neighbours;",
        "             5.2 bandwidths from train.xyz frame 4 atom 2",
        "           atom 12345 (Cu): local score inf, dH 12.5, 11 neighbours;",
        "             5.2 bandwidths from",
        f"             ...{'a/' * 21}run.xyz frame 4 atom 2",
    ]


def test_that_the_phase_is_not_known_is_said_once():
    reason = "unlike the run's own beginning: dh_mean_drift; which phase is not known"
    found = described(kind="transition", reason=reason, alarms=("dh_mean_drift",))
    assert found["means"] == f"{reason}, a change of temperature can look the same"


@pytest.mark.parametrize("reason", ["", "a connected cluster unlike the reference grew from 3 to 45 atoms by step 140"])
def test_a_transition_without_a_phase_claims_no_more_than_is_known(reason):
    nothing = {"n_atoms": 0, "worst_atom": None, "size_history": ((100, 0), (150, 0))}
    found = described(kind="transition", reason=reason, **nothing)
    what = reason or "the run differs from its own beginning"
    assert found["means"] == f"{what}; which phase is not known, a change of temperature can look the same"
    assert found["peak"] == "step 140: 2.5 beyond the level; no single atom is above the level"
    assert not {"size", "worst"} & set(found)


@pytest.mark.parametrize(
    ("changes", "means", "atoms"),
    [
        (
            {"reason": "atoms 3 and 4 are 0.31 Å apart", "peak_excess": math.inf, "atoms": (3, 4), "n_atoms": 2},
            "broken: atoms 3 and 4 are 0.31 Å apart",
            "2: 3, 4; the worst is 17 (Cu)",
        ),
        (
            {"reason": "12000 K", "peak_excess": math.inf, "atoms": (), "n_atoms": 0, "worst_atom": None},
            "broken: 12000 K",
            None,
        ),
        (
            {"peak_excess": math.nan, "atoms": tuple(range(50)), "n_atoms": 70, "worst_atom": None},
            "broken: non-finite numbers or no usable cell",
            "70: 0, 1, 2, 3, 4, 5, 6, 7, ...",
        ),
    ],
)
def test_an_explosion_in_words(changes, means, atoms):
    found = described(kind="exploded", alarms=(), **changes)
    assert found["means"] == means
    assert found.get("atoms") == atoms
    assert not {"alarms", "peak", "size", "worst"} & set(found)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(records(Event), st.text(max_size=300), st.text(max_size=200))
def test_no_line_of_words_is_longer_than_80_characters(event, text, source):
    near = NearestEnvironment(distance=1e300, source=source, frame=2**40, atom=2**40)
    worst = replace(environment(2**40), nearest=near, delta_entropy=-1e300)
    for changes in ({}, {"reason": text}, {"nearest": near, "environments": (worst, worst)}):
        for line in replace(event, phase=None, **changes).describe().split("\n"):
            assert len(line) <= 80
            assert line.isprintable()


def test_a_long_name_of_a_file_keeps_its_end():
    source = f"/scratch/{'folder/' * 20}run_0001/vasprun.xml"
    lines = replace(EVENT, environments=(environment(17, source),)).describe().splitlines()
    assert lines[-2] == "  worst    atom 17 (Cu): dH 12.5, 11 neighbours; 5.2 bandwidths from"
    assert lines[-1].endswith("folder/run_0001/vasprun.xml frame 4 atom 2")
    assert lines[-1].strip().startswith("...")
    assert len(lines[-1]) == 80


@pytest.mark.parametrize(
    ("alarms", "peak"),
    [
        (("local_mean", "local_max"), "2.5 deviations beyond the level; 3 atoms above the level"),
        (("local_cluster",), "12.2 times as many atoms as the level; 3 atoms in the cluster above the local level"),
        (
            ("local_cluster", "local_max"),
            "2.5 beyond the level (deviations, or log of a ratio of atoms); 3 atoms flagged",
        ),
        (("tail_cluster",), "2.5 beyond the level; 3 atoms in the cluster above the atom level"),
        (("local_mean_drift",), "2.5 beyond the level; 3 atoms above the level"),
    ],
)
def test_the_peak_is_told_in_the_unit_of_what_raised_the_alarm(alarms, peak):
    text = " ".join(replace(EVENT, alarms=alarms, peak_excess=2.5, n_atoms=3).describe().split())
    assert f"peak step {EVENT.peak_step}: {peak} " in f"{text} "
