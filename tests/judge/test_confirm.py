"""A second reference that is asked about alarms: of minimised frames, with EMT."""

import functools
import math

import numpy as np
import pytest
from ase.calculators.emt import EMT
from systems import (
    CountingEMT,
    alloy,
    alloy_reference,
    calibration_of,
    cold_reference,
    copper,
    level_at,
    null_of,
    outside,
    verlet,
)

from quests_md import (
    Descriptor,
    Minimised,
    MismatchError,
    Monitor,
    Reference,
    TimeAveraged,
    Trigger,
    read_log,
    score_trajectory,
)

H = 0.05


class Asked(CountingEMT):
    """The calculator of the copies; counts over all of its instances."""

    total = 0

    def calculate(self, *args, **kwargs):
        type(self).total += 1
        super().calculate(*args, **kwargs)


class Moody(EMT):
    """Fails as often as it is told to; counts its instances."""

    failures = made = 0

    def __init__(self):
        super().__init__()
        type(self).made += 1

    def calculate(self, *args, **kwargs):
        if type(self).failures:
            type(self).failures -= 1
            raise RuntimeError("no licence left")
        super().calculate(*args, **kwargs)


@functools.cache
def first():
    """Copper that hardly moves, and a level that any motion exceeds."""
    return cold_reference(), level_at(cold_reference(), -3.0)


def second(calculator=Asked, level=-3.0):
    """The same crystal, minimised; a reference of this descriptor and its calibration."""
    reference = Reference.from_frames(
        [copper(seed=i, rattle=0.1) for i in range(4)],
        descriptor=Minimised(calculator, "EMT", steps=20),
        bandwidth=H,
        groups="frame",
    )
    return reference, level_at(reference, level)


def watch(confirm, **options):
    return Monitor(*first(), confirm=confirm, **({"log": None, "on_error": "raise"} | options))


def warm(seed):
    return copper(rattle=0.1, seed=50 + seed)


def vacancy(seed):
    atoms = warm(seed)
    del atoms[5]
    return atoms


@pytest.mark.slow
def test_thermal_noise_is_called_off_and_defects_stand():
    frames = [warm(i) for i in range(4)] + [vacancy(i) for i in range(4)]
    with watch(None) as alone, watch(second()) as both, Monitor(*second(), log=None, on_error="raise") as other:
        alone_checks = [alone.check(atoms) for atoms in frames]
        checks = [both.check(atoms) for atoms in frames]
        assert [check.confirm_excess for check in checks] == [other.check(atoms).trigger_excess for atoms in frames]
    assert [check.state for check in alone_checks] == ["out"] * 8
    assert [check.state for check in checks] == ["in"] * 4 + ["out"] * 4
    assert [event.onset_step for event in alone.events] == [0]
    assert [event.onset_step for event in both.events] == [4]
    for before, after in zip(alone_checks, checks, strict=True):
        assert before.confirm_excess is None
        assert (after.confirm_excess > 0) == (after.state == "out")
        assert after.alarms == (before.alarms if after.state == "out" else ())
        assert after.trigger_excess == max(after.excesses.values())
        # what the first reference found is still there
        assert (after.dh_max, after.n_above, after.excess) == (before.dh_max, before.n_above, before.excess)


def test_force_calls_are_made_at_checks_with_alarms_alone():
    confirm = second()
    with watch(confirm) as monitor:
        before = Asked.total
        for i in range(5):
            assert monitor.check(copper(seed=i, rattle=0.01)).state == "in"
        assert Asked.total == before
        monitor.check(warm(0))
        assert 0 < Asked.total - before <= 20


@pytest.mark.slow
def test_an_event_ends_when_its_alarms_are_called_off():
    with watch(second(), trigger=Trigger(patience=2)) as monitor:
        for atoms in (vacancy(0), vacancy(1), vacancy(2), warm(0), warm(1)):
            monitor.check(atoms)
    assert [(event.onset_step, event.last_step, event.is_open) for event in monitor.events] == [(0, 2, False)]


@pytest.mark.slow
def test_the_run_is_not_disturbed():
    def run(monitor):
        atoms = copper(temperature_K=2000, seed=8, calc=CountingEMT())
        dyn = verlet(atoms)
        if monitor is not None:
            monitor.attach(dyn, 3)
        dyn.run(30)
        return atoms

    before = Asked.total
    with watch(second()) as monitor:
        watched = run(monitor)
    alone = run(None)
    assert Asked.total > before + 20  # beyond the pre-flight
    assert watched.positions.tobytes() == alone.positions.tobytes()
    assert watched.get_momenta().tobytes() == alone.get_momenta().tobytes()
    assert watched.calc.calls == alone.calc.calls


def test_alarms_stand_if_the_second_cannot_answer(tmp_path, caplog):
    with watch(second(Moody), log=tmp_path / "run.jsonl") as monitor:
        monitor.check(copper(rattle=0.01))
        Moody.made, Moody.failures = 0, 2
        checks = [monitor.check(warm(i)) for i in range(3)]
    assert [check.state for check in checks] == ["out", "out", "in"]
    assert Moody.made == 2  # a new one after each failure
    assert [check.confirm_excess is None for check in checks] == [True, True, False]
    log = read_log(tmp_path / "run.jsonl")
    errors = [note["message"] for note in log.notes if note["level"] == "error"]
    assert len(errors) == 1
    assert "no licence left" in errors[0]
    assert caplog.text.count("no licence left") == 1
    np.testing.assert_array_equal(np.isnan(log.confirm_excess), [True, True, True, False])


def test_a_calculator_that_cannot_be_used_is_found_before_the_run():
    confirm = second(Moody)
    Moody.failures = 1
    with watch(confirm) as monitor, pytest.raises(RuntimeError, match="no licence left"):
        monitor.attach(verlet(copper(temperature_K=300, calc=EMT())), 3)


def test_it_has_no_say_in_unknown_elements_and_explosions():
    reference = alloy_reference()
    confirm = Reference.from_frames(
        [alloy(seed=i, gold=gold) for i in range(4) for gold in (True, False)], bandwidth=H, groups="frame"
    )
    with Monitor(
        reference, level_at(reference, 1e6), confirm=(confirm, level_at(confirm, 1e6)), log=None, on_error="raise"
    ) as monitor:
        check = monitor.check(alloy(gold=False))
        assert check.state == "out"
        assert check.confirm_excess is None
        broken = alloy()
        broken.positions[1] = broken.positions[0] + 0.1
        check = monitor.check(broken)
        assert check.state == "out"
        assert check.explosion
        assert check.confirm_excess is None


@pytest.mark.slow
def test_live_and_afterwards_are_the_same(tmp_path):
    frames = [warm(i) for i in range(3)] + [vacancy(i) for i in range(4)]
    with watch(second(), log=tmp_path / "live.jsonl") as monitor:
        live = [monitor.check(atoms) for atoms in frames]
    for workers in (1, 3):
        with watch(second()) as again:
            after = list(score_trajectory(frames, first()[0], monitor=again, workers=workers))
        assert [(c.confirm_excess, c.state, c.excesses) for c in after] == [
            (c.confirm_excess, c.state, c.excesses) for c in live
        ]
        assert again.events == monitor.events


@pytest.mark.slow
def test_a_log_goes_on_with_the_same_second_reference_only(tmp_path):
    frames = [warm(0), vacancy(1), warm(2), vacancy(3), vacancy(4), vacancy(5)]
    whole = tmp_path / "whole.jsonl"
    with watch(second(), log=whole) as monitor:
        checks = [monitor.check(atoms) for atoms in frames]
    part = tmp_path / "part.jsonl"
    with watch(second(), log=part) as monitor:
        for atoms in frames[:4]:
            monitor.check(atoms)
    for other in (None, second(level=-2.0)):
        with (
            watch(other, log=part, resume=True) as monitor,
            pytest.raises(MismatchError, match=r"was written with confirm = \{.*give the same settings"),
        ):
            monitor.check(frames[3])
    with watch(second(), log=part, resume=True) as monitor:
        for atoms in frames[3:]:
            monitor.check(atoms)
    found = [read_log(name) for name in (whole, part)]
    np.testing.assert_array_equal(found[1].confirm_excess, found[0].confirm_excess)
    assert found[0].confirm_excess.tolist() == [check.confirm_excess for check in checks]
    assert found[1].events == found[0].events
    header = found[0].header["confirm"]
    assert header["reference"] == second()[0].fingerprint
    assert header["statistics"] == ["dh_max"]


def test_the_preflight_names_it(capsys):
    confirm = second()
    before = Asked.total
    with watch(confirm) as monitor:
        text = " ".join(monitor.preflight(warm(0)).split())
    assert Asked.total - before <= 20  # minimised once
    assert "alarms stand only if this reference has some too: 128 environments" in text
    assert "of frames minimised with EMT, 20 steps" in text
    assert text.count("promise: at most 0.01 false alarms per check of 32 atoms") == 2
    assert "called off by the second one (confirm): 16 of 32 atoms covered" in text


def test_without_a_calibration_it_is_calibrated_as_by_default():
    reference, sieve = cold_reference(), level_at(cold_reference(), -3.0, false_alarms=0.3)
    with Monitor(reference, sieve, confirm=second()[0], log=None) as monitor:
        calibration = monitor.judge.confirm.calibration
    assert (calibration.false_alarms, calibration.per) == (0.01, "check")


@pytest.mark.parametrize(
    ("confirm", "error", "text"),
    [
        (lambda: "EMT", FileNotFoundError, "EMT: expected a reference file, there is none"),
        (lambda: (second()[0], 3), TypeError, "confirm: expected a Calibration or the name of its file, got int"),
        (lambda: (second()[0], first()[1]), MismatchError, "calibrat"),
        (lambda: averages(), ValueError, "confirm: expected a reference for single frames, got one of time averages"),
    ],
)
def test_what_cannot_confirm(confirm, error, text):
    with pytest.raises(error, match=text):
        watch(confirm())


def test_time_averages_cannot_be_confirmed():
    reference = averages()
    with pytest.raises(ValueError, match="confirm: expected a first reference for single frames"):
        Monitor(reference, level_at(reference, 0.0), confirm=second(), log=None)


def test_a_second_reference_must_see_all_elements_of_the_first():
    frames = [alloy(seed=i) for i in range(4)]
    copper_only = Reference.from_frames(frames, descriptor=Descriptor(centers=("Cu",)), bandwidth=H, groups="frame")
    with pytest.raises(ValueError, match="environments of all elements of the first, got none of Au"):
        Monitor(alloy_reference(), confirm=(copper_only, level_at(copper_only, 0.0)), log=None)
    with Monitor(copper_only, confirm=(alloy_reference(), level_at(alloy_reference(), 0.0)), log=None) as monitor:
        assert monitor.check(alloy()).state == "in"


def test_a_second_reference_that_sees_an_explosion_confirms():
    reference, _ = first()
    # its atoms have never been as near to each other as 2.4 Å
    wide = Reference.from_frames([copper(seed=i, rattle=0.01) for i in range(4)], bandwidth=H, groups="frame")
    near = Reference.from_frames([outside(seed=i) for i in range(4)], bandwidth=H, groups="frame")
    atoms = copper(rattle=0.01)
    atoms.positions[1] += 0.33 * (atoms.positions[0] - atoms.positions[1])
    with (
        Monitor(near, level_at(near, -50.0), log=None, confirm=(wide, level_at(wide, 1e6)), on_error="raise") as both,
        Monitor(reference, level_at(reference, 1e6), log=None, on_error="raise") as alone,
    ):
        assert alone.check(atoms).explosion
        check = both.check(atoms)
    assert (check.state, check.explosion, check.confirm_excess) == ("out", "", math.inf)


def test_a_second_reference_without_a_level_for_the_frame_calls_nothing_off(caplog):
    reference, _ = second()
    blind = calibration_of(
        null_of([0.0] * 200),
        null_of([1.0] * 200, 5, "frame_entropy"),
        reference=reference,
        statistics=("frame_entropy",),
    )
    with watch((reference, blind)) as monitor:
        check = monitor.check(warm(0))
    assert (check.state, check.confirm_excess) == ("out", None)
    assert "none of its statistics has a level for a frame of 32 atoms" in caplog.text


def test_it_is_not_asked_about_what_the_run_judges_by_itself():
    reference = cold_reference()
    levels = level_at(reference, 1e6, null_of([-4.0] * 200, statistic="dh_mean"), statistics=("dh_max", "dh_mean"))
    confirm = second()
    before = Asked.total
    with Monitor(reference, levels, baseline_ps=0.5, confirm=confirm, log=None, on_error="raise") as monitor:
        checks = [monitor.check(copper(rattle=0.1, seed=i), time_ps=0.05 * i) for i in range(30)]
        assert Asked.total == before
        assert checks[0].alarms == ("dh_mean",)  # by the reference, which nobody may call off
        assert all(check.confirm_excess is None for check in checks)


def averages():
    frames = []
    for i in range(4):
        atoms = copper(rattle=0.1, seed=i)
        atoms.info["time_ps"] = 0.02 * i
        frames.append(atoms)
    descriptor = TimeAveraged(samples=2)
    return Reference.from_frames(descriptor.frames(frames), descriptor=descriptor, bandwidth=H)
