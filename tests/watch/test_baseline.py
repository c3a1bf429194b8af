"""The run's own beginning as judge: levels against textbook intervals, rates against simulated runs."""

import json
import math
from contextlib import nullcontext

import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.optimize import FIRE
from scipy import stats
from systems import FS, H, cold_reference, copper, level_at, null_of, verlet

from quests_md import Monitor, Reference, Trigger, calibrate, read_log, score_trajectory
from quests_md.calibration import DEFAULT_STATISTICS
from quests_md.watch.baseline import FEWEST_CHECKS, Baseline
from quests_md.watch.correlation import n_independent
from quests_md.watch.counts import OwnCounts
from quests_md.watch.cusum import Cusum


def alternating(n, seed=0):
    """Numbers whose autocorrelation at lag 1 is negative: they count as independent."""
    x = np.abs(np.random.default_rng(seed).normal(size=n)) * np.where(np.arange(n) % 2, 1, -1)
    return x - 3.0


def ar1(n, phi, seed):
    rng = np.random.default_rng(seed)
    x, noise = np.empty(n), rng.normal(size=n) * math.sqrt(1 - phi * phi)
    x[0] = rng.normal()
    for i in range(1, n):
        x[i] = phi * x[i - 1] + noise[i]
    return x


def fed(series, rate=0.04, release=0.0, name="dh_mean", n_checks=1):
    """A baseline that has seen these numbers, one a ps, and is over with the next."""
    baseline = Baseline((name,), len(series) - 0.5, rate, release)
    baseline.n_checks = n_checks
    for i, value in enumerate(series):
        assert baseline.update({name: value}, 100.0 + i) == {}
        assert not baseline.is_complete
    return baseline


def excesses(baseline, values, name="dh_mean"):
    """Excess over level and over the test of drift for the numbers that follow, (n, 2)."""
    found = [baseline.update({name: value}, 1e6 + i) for i, value in enumerate(values)]
    return np.array([[x[name], x[f"{name}_drift"]] for x in found])


def of_level(rate):
    """The part of a rate that alarms of drift leave to the level."""
    return rate / (1 + 1.5 * rate)


def interval(series, rate):
    """Half the width of the prediction interval, by as many numbers as are independent."""
    m = naive_independent(series)
    deviation = np.std(series) * math.sqrt(m / (m - 1))
    return stats.t.ppf(1 - of_level(rate) / 2, df=m - 1) * deviation * math.sqrt(1 + 1 / m)


@pytest.mark.parametrize("n", [14, 20, 100])
@pytest.mark.parametrize("rate", [0.3, 0.02])
def test_the_level_is_the_prediction_interval_of_normal_numbers(n, rate):
    series = alternating(n)
    reach = interval(series, rate)
    high, low = series.mean() + reach, series.mean() - reach
    middle, quarter = (series.mean(), -reach), (high - 0.25 * reach, -0.25 * reach)
    for value, expected in ((high + 1, 1.0), (low - 2.5, 2.5), middle, quarter):
        assert excesses(fed(series, rate), [value])[0, 0] == pytest.approx(expected, abs=1e-9)
    assert excesses(fed(series, rate), [math.inf])[0, 0] == math.inf
    baseline = fed(series, rate)
    excesses(baseline, [0.0])
    m = naive_independent(series)
    assert f"dh_mean: {low:.3f} ... {high:.3f} nats (normal; {m:.0f} of {n} independent)" in baseline.text
    assert baseline.warning is None


def test_statistics_and_checks_share_the_rate():
    series = alternating(30)
    alone = excesses(fed(series, 0.01), [9.0])[0, 0]
    shared = Baseline(("dh_mean", "frame_entropy"), 29.5, 0.02, 0.0)
    for i, value in enumerate(series):
        shared.update({"dh_mean": value, "frame_entropy": 5 * value}, float(i))
    found = shared.update({"dh_mean": 9.0, "frame_entropy": 45.0}, 1e3)
    assert found["dh_mean"] == pytest.approx(alone)
    assert found["frame_entropy"] == pytest.approx(5 * alone)
    assert excesses(fed(series, 0.05, n_checks=5), [9.0])[0, 0] == pytest.approx(alone)


@pytest.mark.parametrize("release", [0.5, 2.0])
def test_below_the_level_half_of_the_way_counts_as_released(release):
    series = alternating(100) * 0.1
    reach = -excesses(fed(series), [series.mean()])[0, 0]
    assert reach / 2 < 0.5
    for share in (0.0, 0.1, 0.5, 1.0):
        found = excesses(fed(series, release=release), [series.mean() + (1 - share) * reach])[0, 0]
        assert found == pytest.approx(-share * 2 * release, abs=1e-9)
    wide = alternating(100) * 100
    reach = -excesses(fed(wide), [wide.mean()])[0, 0]
    assert excesses(fed(wide, release=release), [wide.mean() + reach - 1.5])[0, 0] == pytest.approx(-1.5)


def naive_independent(x):
    x, n = np.asarray(x) - np.mean(x), len(x)
    variance = sum(x * x) / n
    measured = [sum(x[i] * x[i + lag] for i in range(n - lag)) / (n - lag) / variance for lag in range(1, n // 2)]
    total = 1.0
    for _ in range(21):
        error, total = min(total / n, 0.5) if _ else 0.0, 1.0
        for c in measured:
            c = c * (1 - error) + error
            if c < 0.05:
                break
            total += 2 * c
    p = max(measured[0], 0.0)
    p = min(p + (1 + 3 * p) / n, 1)
    p += math.sqrt((1 - p * p) / n)
    least = (1 + p) / (1 - p) if p < 1 else math.inf
    return n / min(max(total, least), n)


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9])
def test_correlated_checks_count_as_fewer(phi):
    for n in (30, 500):
        x = ar1(n, phi, 3)
        assert n_independent(x) == pytest.approx(naive_independent(x))
    counts = [n_independent(ar1(20_000, phi, seed)) for seed in range(20)]
    assert 0.85 < np.mean(counts) / (20_000 * (1 - phi) / (1 + phi)) <= 1
    assert (n_independent(np.array([])), n_independent(np.array([1.0])), n_independent(np.ones(9))) == (0, 1, 1)


@pytest.mark.parametrize(("tau", "n"), [(1, 20), (2, 50), (5, 100), (10, 200), (20, 400)])
def test_the_count_is_on_the_safe_side(tau, n):
    """Short series seem less correlated than they are; more independent numbers than there are is the rare mistake."""
    phi = math.exp(-1 / tau)
    true = n * (1 - phi) / (1 + phi)
    counts = np.array([n_independent(ar1(n, phi, seed)) for seed in range(200)])
    assert np.mean(counts) < 0.9 * true
    assert np.mean(counts > 1.5 * true) < 0.05


def test_so_few_checks_are_never_enough():
    for n in (FEWEST_CHECKS - 1, FEWEST_CHECKS):
        assert (n_independent(alternating(n)) >= 5) == (n == FEWEST_CHECKS)


@pytest.mark.parametrize(("phi", "n"), [(0.0, 50), (0.0, 200), (0.5, 200), (0.8, 600)])
def test_the_rate_is_kept_in_normal_correlated_series(phi, n):
    rate, after = 0.04, 300
    out = []
    for seed in range(60):
        series = ar1(n + after, phi, seed)
        baseline = fed(series[:n], rate)
        out.append((excesses(baseline, series[n:]) > 0).mean(axis=0))
    levels, drift = np.mean(out, axis=0)
    error = np.std(out, axis=0) / math.sqrt(60)
    assert levels <= rate + 3 * error[0]
    assert levels >= rate / 4
    assert drift <= rate / 4 + 3 * error[1]  # an alarm of drift stays for a while; all of that is counted


@pytest.mark.parametrize("rate", [0.005, 0.05])
@pytest.mark.parametrize("tau", [2, 5, 10])
def test_drift_in_correlated_series_keeps_its_share(tau, rate):
    """It was out in 1.4 to 2.6 % of checks where 0.5 % were asked; runs whose baseline cannot judge have no alarm."""
    n, after, phi = 200, 600, math.exp(-1 / tau)
    out = []
    for seed in range(50):
        series = ar1(n + after, phi, 500 + seed)
        baseline = fed(series[:n], rate)
        if baseline.update({"dh_mean": series[n]}, 1e5):
            out.append((excesses(baseline, series[n + 1 :]) > 0).mean(axis=0))
    assert len(out) > 20
    levels, drift = np.mean(out, axis=0)
    error = np.std(out, axis=0) / math.sqrt(len(out))
    assert levels <= rate + 3 * error[0]
    assert drift <= rate / 4 + 3 * error[1]


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("phi", [0.0, 0.7])
def test_a_step_of_the_mean_is_seen_at_once_on_both_sides(sign, phi):
    series = ar1(300, phi, 5)
    found = excesses(fed(series), sign * 8.0 + ar1(40, phi, 6))
    assert (found[:, 0] > 0).all()
    assert found[-1, 1] > 0  # and by its drift, with the first block
    assert found[0, 1] < 0


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("step", [0.005, 0.0], ids=["slow drift", "small step"])
def test_what_is_too_small_for_the_level_is_seen_by_drift(sign, step):
    """A deviation in two hundred checks, or one deviation for good: three checks beyond their level come later."""
    first = []
    for seed in range(20):
        series = ar1(300, 0.5, seed)
        moved = sign * (np.arange(800) * step if step else np.ones(800))
        found = excesses(fed(series, 0.01), ar1(800, 0.5, 100 + seed) + moved) > 0
        found[2:, 0] &= found[1:-1, 0] & found[:-2, 0]
        assert found[:, 1].any()
        first.append([np.append(column[2:], True).argmax() for column in found.T])
    level, drift = np.median(first, axis=0)
    assert drift < 0.85 * level


@pytest.mark.parametrize(("phi", "n"), [(0.0, 20), (0.0, 50), (0.5, 40), (0.5, 100)])
def test_drift_is_rare_however_short_the_baseline(phi, n):
    """Alarms of drift open events by themselves: one false one in 1/rate^2 blocks, the mean being known or not."""
    rate, after, runs = 0.05, 1000, 40
    begun = 0
    for seed in range(runs):
        series = ar1(n + after, phi, 1000 + seed)
        baseline = fed(series[:n], rate)
        if baseline.update({"dh_mean": series[n]}, 1e5):  # else too short to judge
            found = excesses(baseline, series[n + 1 :])[:, 1] > 0
            begun += np.count_nonzero(found[1:] & ~found[:-1])
    assert begun <= 3 * runs * after * rate**2 / (1 if phi == 0 else 4) + 6


def test_drift_is_looked_for_in_means_of_independent_blocks():
    """Blocks of twice the correlation; each compared with all before it, by Student's distribution."""
    series, rate = ar1(400, 0.6, 1), 0.01
    baseline = fed(series, rate)
    m = naive_independent(series)
    per_block = math.ceil(2 * 400 / m)
    expected = Cusum(0.0, 1.0, shift=1.0, run_length=1 / rate**2)
    mean, n, freedom = series.mean(), 400 / per_block, m - 1
    squares = np.var(series) * m / (m - 1) * 400 / m / per_block * freedom
    later = 0.8 + ar1(30 * per_block, 0.6, 2)
    found = excesses(baseline, later)[:, 1]
    for block in range(30):
        part = slice(block * per_block, (block + 1) * per_block)
        before = expected.excess
        assert found[part][:-1] == pytest.approx(before)
        value = later[part].mean()
        t = (value - mean) / math.sqrt(squares / freedom * (1 + 1 / n))
        expected.update(stats.norm.ppf(stats.t.cdf(t, freedom)))
        assert found[part][-1] == pytest.approx(expected.excess)
        if expected.state != "in":
            break
        squares += (value - mean) ** 2 * n / (n + 1)
        mean, n, freedom = (n * mean + value) / (n + 1), n + 1, freedom + 1
    else:
        raise AssertionError("no drift was found")
    assert f"drift: means of {per_block} checks" in baseline.text


def test_an_alarm_of_drift_lasts_until_the_mean_is_back():
    series = alternating(100)
    baseline = fed(series)
    up = excesses(baseline, np.full(50, series.mean() + 3 * series.std()))
    assert up[-1, 1] > 0
    still = excesses(baseline, np.full(10, series.mean() + 1.5 * series.std()))
    assert (still[:, 1] > 0).all()
    back = excesses(baseline, alternating(40, seed=1))
    assert back[-1, 1] < 0
    again = excesses(baseline, np.full(50, series.mean() - 3 * series.std()))
    assert again[-1, 1] > 0


@pytest.mark.parametrize(
    ("series", "words", "advice"),
    [
        (
            [],
            "0 checks, 0.0 independent: too few, not judged by it",
            "check 24 times as often, or give baseline_ps=24000",
        ),
        (alternating(8), "8 checks, 2.8 independent", "check 3 times as often, or give baseline_ps=3000"),
        (np.linspace(0, 1, 40), "40 checks, 1.0 independent", "they are correlated: give baseline_ps=10000 or more"),
    ],
    ids=["none", "eight", "all correlated"],
)
def test_too_few_independent_checks_are_no_judge(series, words, advice):
    baseline = Baseline(("dh_mean",), 1000.0, 0.01, 0.5)
    for i, value in enumerate(series):
        baseline.update({"dh_mean": value}, float(i))
    if len(series) == 0:
        baseline.update({"dh_mean": None}, 0.0)
    assert baseline.update({"dh_mean": 1e9}, 1001.0) == {}
    assert baseline.is_complete
    assert baseline.text.startswith("baseline of 1000 ps complete; dh_mean: ")
    assert words in baseline.text
    assert baseline.warning.startswith("baseline_ps=1000: NOTHING JUDGES dh_mean in this run: ")
    assert advice in baseline.warning


@pytest.mark.parametrize(
    ("check_ps", "words"),
    [
        (None, "the first 20 ps judge dh_mean if they hold 50 checks or more: check every 0.4 ps or more often"),
        (5.0, "TOO FEW CHECKS: 5 checks in the first 20 ps (one every 5 ps); 12 are needed"),
        (5.0, "NOTHING WILL JUDGE dh_mean: check every 0.4 ps or more often, or give baseline_ps=250"),
        (1.0, "21 checks in the first 20 ps (one every 1 ps) judge dh_mean, but only if they are hardly correlated"),
        (0.1, "201 checks in the first 20 ps (one every 0.1 ps) judge dh_mean"),
    ],
)
def test_whether_the_checks_will_do_is_said_beforehand(check_ps, words):
    assert words in Baseline(("dh_mean",), 20.0, 0.01, 0.5).forecast(check_ps)


def test_preflight_says_that_the_baseline_will_have_too_few_checks(reference):
    calibration = calibrate(reference, statistics=("dh_mean",))
    dyn = verlet(copper(temperature_K=300, rattle=0.02, calc=EMT()))
    with Monitor(reference, calibration, baseline_ps=0.5, log=None) as monitor:
        monitor.attach(dyn, 20)
        text = " ".join(monitor.preflight(dyn.atoms).split())
    assert "baseline TOO FEW CHECKS: 6 checks in the first 0.5 ps (one every 0.1 ps)" in text


def test_the_warning_names_the_statistics_that_nothing_judges():
    baseline = Baseline(("dh_mean", "dh_q99", "frame_entropy"), 59.5, 0.01, 0.5)
    for i, value in enumerate(alternating(60)):
        baseline.update({"dh_mean": value, "dh_q99": float(i), "frame_entropy": float(i)}, float(i))
    assert set(baseline.update({"dh_mean": 0.0, "dh_q99": 0.0, "frame_entropy": 0.0}, 99.0)) == {
        "dh_mean",
        "dh_mean_drift",
    }
    assert "NOTHING JUDGES dh_q99, frame_entropy in this run" in baseline.warning


@pytest.mark.parametrize("n", [12, 100])
def test_numbers_without_scatter_count_as_scattering_a_little(n):
    """Entropies of frames whose environments are all far apart are log N, but for rounding: a drop is seen."""
    noise = 1e-14 * np.random.default_rng(0).normal(size=n)
    for series in (np.full(n, 0.1), math.log(500) + noise, np.zeros(n), 1e-6 * alternating(n)):
        baseline = fed(series, name="frame_entropy")
        assert baseline.update({"frame_entropy": series[0]}, 1e6)["frame_entropy"] < 0
        assert baseline.update({"frame_entropy": series[0] - 0.1}, 1e6)["frame_entropy"] == pytest.approx(0.1, abs=0.03)


@pytest.mark.parametrize("missing", [None, math.nan])
def test_numbers_that_are_missing_change_nothing(missing):
    series = alternating(40)
    with_gaps = [missing if i % 5 == 0 else value for i, value in enumerate(np.repeat(series, 2))][: len(series)]
    clean = [x for x in with_gaps if x is not missing]
    a, b = Baseline(("dh_mean",), 100.0, 0.1, 0.5), Baseline(("dh_mean",), 100.0, 0.1, 0.5)
    for i, value in enumerate(with_gaps):
        a.update({"dh_mean": value, "dh_max": 1e9}, float(i))
    for i, value in enumerate(clean):
        b.update({"dh_mean": value}, float(i))
    for i, value in enumerate((series.mean() + 4, missing, series.mean() - 1, missing, 50.0)):
        found = a.update({"dh_mean": value}, 200.0 + i)
        if value is missing:
            assert found == {}
        else:
            assert found == b.update({"dh_mean": value}, 200.0 + i)
    assert Baseline(("dh_q99",), 1.0, 0.1, 0.5).update({}, 0.0) == {}


def test_infinite_numbers_are_left_out_of_the_baseline():
    series = alternating(40)
    baseline = Baseline(("dh_q99",), 100.0, 0.04, 0.0)
    for i, value in enumerate([*series, math.inf, -math.inf]):
        baseline.update({"dh_q99": value}, float(i))
    found = baseline.update({"dh_q99": 9.0}, 200.0)
    assert found["dh_q99"] == pytest.approx(excesses(fed(series), [9.0])[0, 0])


def test_the_time_counts_from_the_first_check():
    baseline = Baseline(("dh_mean",), 2.0, 0.1, 0.5)
    for time_ps in (500.0, 501.0, 502.0):
        baseline.update({"dh_mean": 1.0}, time_ps)
        assert not baseline.is_complete
        assert baseline.text is None
    baseline.update({"dh_mean": 1.0}, 502.1)
    assert baseline.is_complete


# in the monitor


def warm(seed, strain=1.0):
    atoms = copper(seed=seed, rattle=0.05)
    atoms.set_cell(atoms.cell * strain, scale_atoms=True)
    return atoms


@pytest.fixture(scope="module")
def reference():
    return Reference.from_frames([warm(i) for i in range(60)], bandwidth=H, groups="frame")


def watch(monitor, frames, start=0):
    return [monitor.check(atoms, step=10 * i, time_ps=0.1 * i) for i, atoms in enumerate(frames, start)]


@pytest.mark.slow
def test_a_steady_run_elsewhere_is_out_during_the_baseline_and_in_after(tmp_path, reference):
    calibration = calibrate(reference, false_alarms=0.01, statistics=("dh_mean",))
    steady = [warm(100 + i, 1.025) for i in range(60)]
    with Monitor(reference, calibration, log=None) as monitor:
        assert {check.state for check in watch(monitor, steady)} == {"out"}
    path, both = tmp_path / "run.jsonl", ("dh_mean", "frame_entropy")
    options = {"statistics": both, "baseline_ps": 2.95, "trigger": Trigger(patience=2), "on_error": "raise"}
    with Monitor(reference, calibration, log=path, **options) as monitor:
        checks = watch(monitor, steady)
        (event,) = monitor.events
        moved = watch(monitor, [warm(300 + i, 1.045) for i in range(3)], 60)
        cold = watch(monitor, [copper(seed=i, rattle=0.01) for i in range(3)], 63)
    assert all(check.alarms == ("dh_mean",) for check in checks[:30])
    assert sum(check.state == "out" for check in checks[30:]) <= 1
    assert not event.is_open
    assert (event.onset_step, event.last_step) == (0, 290)
    # what differs from the baseline is out, whatever the reference says of it
    assert all("dh_mean" in check.alarms for check in moved)
    assert all({"dh_mean", "frame_entropy"} <= set(check.alarms) for check in cold)
    log = read_log(path)
    assert log.header["baseline_ps"] == 2.95
    (note,) = [note["message"] for note in log.notes if note["message"].startswith("baseline of")]
    assert note.startswith("baseline of 2.95 ps complete; dh_mean: ")
    assert "frame_entropy: " in note
    assert list(log.alarms[:30]) == ["dh_mean"] * 30


def test_a_count_of_atoms_joins_unless_statistics_are_given(tmp_path, reference):
    calibration = calibrate(reference)
    for statistics, expected in ((None, [*DEFAULT_STATISTICS, "local_tail"]), (["dh_mean"], ["dh_mean"])):
        path = tmp_path / f"{len(expected)}.jsonl"
        with Monitor(reference, calibration, statistics=statistics, baseline_ps=1.0, log=path) as monitor:
            watch(monitor, [warm(7)])
        assert read_log(path).header["calibration"]["statistics"] == expected
        assert monitor.calibration.statistics == tuple(expected)
    with Monitor(reference, calibration, log=tmp_path / "none.jsonl") as monitor:
        watch(monitor, [warm(7)])
    assert read_log(tmp_path / "none.jsonl").header["baseline_ps"] is None
    assert calibration.statistics == DEFAULT_STATISTICS


def test_the_largest_dh_is_judged_by_the_reference_in_any_case():
    reference = cold_reference()
    calibration = level_at(reference, 0.0, statistics=("dh_max", "dh_mean"))
    hot = [copper(seed=i, rattle=0.15) for i in range(40)]
    with Monitor(reference, calibration, baseline_ps=1.95, log=None, on_error="raise") as monitor:
        checks = watch(monitor, hot)
    assert all("dh_max" in check.alarms for check in checks)
    assert not any("dh_mean" in check.alarms for check in checks[20:23])


@pytest.mark.parametrize(("per", "checks", "factor"), [("check", 50, 1), ("run", 50, 50), ("run", None, 1)])
def test_checks_of_a_run_share_the_rate_of_the_baseline(reference, per, checks, factor):
    null = null_of([1e9] * 200, 1, "dh_mean")
    calibration = level_at(
        reference, 1e9, null, statistics=("dh_max", "dh_mean"), false_alarms=0.1, per=per, checks=checks
    )
    warns = pytest.warns(UserWarning, match="number of checks in one is not known")
    with warns if checks is None else nullcontext():
        monitor = Monitor(reference, calibration, statistics=("dh_max", "dh_mean"), baseline_ps=1.95, log=None)
    with monitor:
        values = [check.dh_mean for check in watch(monitor, [warm(i) for i in range(20)])]
        check = monitor.check(warm(7, 1.05), time_ps=10.0)
    m = naive_independent(values)
    # one of two statistics, one of two sides
    t = stats.t.isf(of_level(0.1 / 2 / factor) / 2, m - 1)
    reach = t * np.std(values) * math.sqrt(m / (m - 1)) * math.sqrt(1 + 1 / m)
    assert "dh_mean" in check.alarms
    assert check.trigger_excess == pytest.approx(check.dh_mean - np.mean(values) - reach)


def test_a_baseline_that_is_too_short_says_so_and_judges_nothing(tmp_path, reference, caplog):
    path = tmp_path / "run.jsonl"
    calibration = calibrate(reference, statistics=("dh_mean",))
    with Monitor(reference, calibration, statistics=("dh_mean",), baseline_ps=0.25, log=path) as monitor:
        checks = watch(monitor, [warm(i, 1.03) for i in range(6)])
    assert [check.state for check in checks] == ["out"] * 3 + ["in"] * 3
    assert checks[-1].trigger_excess == -math.inf
    log = read_log(path)
    assert any("3 checks, 1.0 independent: too few" in note["message"] for note in log.notes)
    (warning,) = [note["message"] for note in log.notes if note["level"] == "warning"]
    assert "NOTHING JUDGES dh_mean" in warning
    assert warning in caplog.text  # on the screen too, at once


def test_a_run_that_ends_before_its_baseline_says_that_nothing_was_judged(tmp_path, reference, caplog):
    for name, baseline_ps, is_said in (("short", 20.0, True), ("long", 1.0, False), ("none", None, False)):
        path = tmp_path / f"{name}.jsonl"
        caplog.clear()
        with Monitor(reference, baseline_ps=baseline_ps, log=path) as monitor:
            watch(monitor, [warm(i) for i in range(15)])
        said = [note["message"] for note in read_log(path).notes if "NOTHING HAS JUDGED" in note["message"]]
        assert len(said) == is_said
        assert ("NOTHING HAS JUDGED local_mean, local_tail so far: the run covers 1.4 ps" in caplog.text) == is_said
    caplog.clear()
    with Monitor(reference, baseline_ps=20.0, log=None) as monitor:
        watch(monitor, [warm(i) for i in range(3)])
        monitor.close()
    assert caplog.text.count("NOTHING HAS JUDGED") == 1  # without a log too, and once


def test_invalid_frames_are_not_part_of_the_baseline(reference):
    broken = warm(1)
    broken.positions[0] = math.nan
    frames = [warm(i) for i in range(20)]
    with Monitor(reference, baseline_ps=1.95, log=None, on_error="raise") as monitor:
        states = [check.state for check in watch(monitor, [warm(0), broken, *frames[2:], broken, warm(30)])]
    assert states[1] == states[20] == "invalid"
    assert "invalid" not in states[2:20]
    assert states[21] == "in"


@pytest.mark.parametrize("time_ps", [None, math.nan])
def test_a_check_without_a_time_is_refused(tmp_path, reference, time_ps):
    with Monitor(reference, baseline_ps=1.0, log=tmp_path / "run.jsonl", on_error="raise") as monitor:
        with pytest.raises(ValueError, match=r"(time_ps|baseline_ps): .*expected a time in ps"):
            monitor.check(warm(1), time_ps=time_ps)
        assert monitor.check(warm(1), time_ps=0.0).state == "in"


def test_frames_of_a_trajectory_need_times(tmp_path, reference):
    frames = [warm(i) for i in range(4)]
    with (
        pytest.raises(ValueError, match="baseline_ps: expected a time in ps with every frame, got none"),
        Monitor(reference, baseline_ps=1.0, log=None, on_error="raise") as monitor,
    ):
        list(score_trajectory(frames, reference, monitor=monitor))
    with Monitor(reference, baseline_ps=1.0, log=tmp_path / "run.jsonl") as monitor:
        list(score_trajectory(frames, reference, monitor=monitor))
    errors = [note["message"] for note in read_log(tmp_path / "run.jsonl").notes if note["level"] == "error"]
    assert len(errors) == 1  # of four frames: it is said once
    assert "baseline_ps: expected a time in ps" in errors[0]
    for i, atoms in enumerate(frames):
        atoms.info["time_ps"] = 0.1 * i
    with Monitor(reference, baseline_ps=1.0, log=None, on_error="raise") as monitor:
        assert len(list(score_trajectory(frames, reference, monitor=monitor))) == 4


def test_optimizers_have_no_time_for_a_baseline(reference):
    with Monitor(reference, baseline_ps=1.0, log=None) as monitor:
        dyn = FIRE(copper(rattle=0.05, calc=EMT()), logfile=None)
        with pytest.raises(ValueError, match="baseline_ps: expected a dynamics that knows the time, got FIRE"):
            monitor.attach(dyn, 1)


@pytest.mark.slow
def test_a_dynamics_gives_its_time(tmp_path, reference):
    path = tmp_path / "run.jsonl"
    dyn = verlet(copper(temperature_K=600, rattle=0.02, calc=EMT()))
    with Monitor(reference, baseline_ps=0.5, log=path, on_error="raise") as monitor:
        monitor.attach(dyn, 4)
        dyn.run(120)
    log = read_log(path)
    assert any(note["message"].startswith("baseline of 0.5 ps complete") for note in log.notes)
    assert log.time_ps[-1] == pytest.approx(120 * 5 * FS / (1000 * FS))


def test_a_baseline_needs_a_statistic_that_it_can_judge(reference):
    with pytest.raises(ValueError, match=r"baseline_ps: expected statistics with .* dh_mean, .* got dh_max, n_tail"):
        Monitor(reference, statistics=("dh_max", "n_tail"), baseline_ps=1.0, log=None)
    for bad in (0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"baseline_ps: expected a positive time in ps, got {bad}"):
            Monitor(reference, baseline_ps=bad, log=None)


def test_counts_of_mostly_none_are_not_out_by_their_own_beginning():
    """Of 51 checks three have one atom: a normal interval would call one atom out, 6 % of the baseline itself."""
    series = np.zeros(51)
    series[[7, 20, 40]] = 1
    baseline = fed(series, 0.005, name="local_tail")
    assert baseline.update({"local_tail": 1.0}, 1e6)["local_tail"] <= 0
    assert baseline.update({"local_tail": 4.0}, 1e6 + 1)["local_tail"] > 0
    assert "local_tail: 0.000 ... 2.000 atoms (counts; " in baseline.text


def out_in_counts(mean, n, rate, after=400, runs=60, seed=0):
    """Checks out after baselines of n Poisson counts, over the checks that were judged, and how many these are."""
    rng, out = np.random.default_rng(seed), []
    for _ in range(runs):
        series = rng.poisson(mean, n + after).astype(float)
        baseline = fed(series[:n], rate, name="local_tail")
        if baseline.update({"local_tail": series[n]}, 1e5):
            out.append((excesses(baseline, series[n + 1 :], "local_tail") > 0).any(axis=1))
    return np.mean(out) if out else 0.0, len(out)


@pytest.mark.parametrize("rate", [0.0025, 0.01])
@pytest.mark.parametrize("mean", [0.02, 0.1, 1.0, 9.0, 12.0])
@pytest.mark.parametrize("n", [6, 12, 50])
def test_the_rate_is_kept_in_counts(n, mean, rate):
    """Six checks without any strange atom called the first one an alarm: 9.7 % of checks where 0.25 % were asked."""
    share, judged = out_in_counts(mean, n, rate)
    assert judged > 20 or n < FEWEST_CHECKS
    assert judged == 0 or n >= FEWEST_CHECKS
    assert share <= rate * 1.2


@pytest.mark.parametrize(("mean", "more"), [(0.0, 6), (0.3, 9), (5.0, 30)])
def test_many_more_atoms_than_at_the_beginning_are_out(mean, more):
    """At once, or few more by drift."""
    series = np.random.default_rng(3).poisson(mean, 50).astype(float)
    baseline = fed(series, 0.0025, name="local_tail")
    assert baseline.update({"local_tail": float(more)}, 1e6)["local_tail"] > 0
    later = np.random.default_rng(4).poisson(2 * mean + 1, 200)
    assert (excesses(baseline, later.astype(float), "local_tail")[:, 1] > 0).any()


@pytest.mark.parametrize("mean", [0.05, 0.3])
def test_atoms_that_come_four_at_a_time_are_no_drift(mean):
    """No whole number of them gives a score near 0: an alarm of drift went on for good, in 38 % of checks."""
    rng, rate, out = np.random.default_rng(0), 0.0025, []
    for _ in range(40):
        series = 4.0 * rng.poisson(mean, 400)
        baseline = fed(series[:100], rate, name="local_tail")
        out.append((excesses(baseline, series[100:], "local_tail") > 0).mean(axis=0))
    level, drift = np.mean(out, axis=0)
    assert level <= rate
    assert drift <= rate / 4


def test_an_alarm_of_drift_in_counts_ends_when_they_are_as_before():
    rng = np.random.default_rng(1)
    series = rng.poisson(1.0, 100).astype(float)
    baseline = fed(series, 0.01, name="local_tail")
    assert excesses(baseline, np.full(30, 4.0), "local_tail")[-1, 1] > 0
    assert excesses(baseline, rng.poisson(1.0, 30).astype(float), "local_tail")[-1, 1] < 0


def test_the_limits_of_counts_are_those_of_the_binomial_share():
    for total, n in ((0, 12.0), (3, 50.0), (40, 20.0)):
        low, high = OwnCounts(total, n, 1.0).limits(0.01)
        p = 1 / (n + 1)
        above = [stats.binom.sf(y - 1, y + total, p) for y in range(60)]  # chance of y or more
        below = [stats.binom.cdf(y, y + total, p) for y in range(60)]
        assert high + 1 == next(y for y in range(60) if above[y] <= 0.005)
        assert low == next(y for y in range(60) if below[y] > 0.005)


def test_counts_of_atoms_that_come_together_scatter_more():
    counts = 6.0 * np.random.default_rng(0).poisson(0.3, 200)
    assert OwnCounts.of_series(counts, 200, 1.0).dispersion == pytest.approx(counts.var() / counts.mean(), rel=0.01)
    assert OwnCounts.of_series(np.zeros(20), 20, 1.0).limits(0.01)[1] == 1


def test_a_baseline_of_counts_comes_back_as_it_was():
    series = np.random.default_rng(5).poisson(0.5, 60).astype(float)
    one, other = fed(series[:40], name="local_tail"), Baseline(("local_tail",), 39.5, 0.04, 0.0)
    excesses(one, series[40:50], "local_tail")
    other.restore(json.loads(json.dumps(one.state())))
    assert (excesses(one, series[50:], "local_tail") == excesses(other, series[50:], "local_tail")).all()


def test_numbers_of_few_values_are_judged_where_the_baseline_tells_how_often_they_come():
    """A value that comes once in a hundred checks is out as a normal number would be, and is no alarm."""
    rng = np.random.default_rng(0)
    for n, is_judged in ((100, False), (600, True)):
        series = np.where(rng.random(n) < 0.02, 1.0, 0.0)
        series[n // 2] = 1.0
        baseline = fed(series, 0.005)
        found = baseline.update({"dh_mean": 1.0}, 1e6)
        assert bool(found) == is_judged
        if is_judged:
            assert found["dh_mean"] <= 0
        else:
            assert "NOTHING JUDGES dh_mean in this run: numbers with 2 different values" in baseline.warning


def test_constant_numbers_need_as_many_checks():
    for n in (FEWEST_CHECKS - 1, FEWEST_CHECKS):
        baseline = fed(np.full(n, 3.0))
        assert bool(baseline.update({"dh_mean": 3.0}, 1e6)) == (n == FEWEST_CHECKS)
        assert (baseline.warning is None) == (n == FEWEST_CHECKS)
    assert "12 are needed" in fed_warning(np.zeros(6))


def fed_warning(series):
    baseline = fed(series)
    baseline.update({"dh_mean": 0.0}, 1e6)
    return baseline.warning
