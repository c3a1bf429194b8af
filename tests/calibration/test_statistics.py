"""The registry of statistics."""

import numpy as np
import pytest
from systems import alloy

from quests_md.calibration import BASELINE_STATISTICS, STATISTICS, FrameNumbers
from quests_md.calibration.statistics import check_statistics


def test_statistics_are_known_by_their_names():
    assert all(statistic.name == name for name, statistic in STATISTICS.items())
    assert {"dh_mean", "dh_q99", "frame_entropy"} <= set(BASELINE_STATISTICS)


def test_numbers_of_one_element_are_those_of_its_environments():
    atoms = alloy()
    dh = np.arange(32.0)
    places = np.array([0, 1, 5, 8, 13, 31])  # the sample: gold at 0 and 8
    frame = FrameNumbers(
        atoms=atoms,
        dh=dh,
        ranked=dh % 3 != 0,
        averaged=np.where(np.isin(dh, places), dh, np.nan),
        entropy=1.0,
        pair_distances={},
        excess=dh - 7,
        tail=dh > 20,
    )
    gold, own = frame.of_element(79), atoms.numbers == 79
    assert STATISTICS["dh_max"].of(gold) == dh[own & (dh % 3 != 0)].max()
    assert STATISTICS["dh_mean"].of(gold) == 4.0
    assert STATISTICS["n_tail"].of(gold) == (own & (dh > 20)).sum()
    np.testing.assert_array_equal(gold.averaged, [0.0, np.nan, 8.0, *[np.nan] * 5])
    np.testing.assert_array_equal(gold.excess, gold.dh - 7)
    silver = frame.of_element(47)
    assert [STATISTICS[name].of(silver) for name in ("dh_max", "dh_mean", "dh_q99")] == [None, None, None]


def test_names_of_statistics_are_checked():
    assert check_statistics(["dh_mean", "dh_max", "dh_mean"]) == ("dh_mean", "dh_max")
    for empty in ((), []):
        with pytest.raises(ValueError, match=r"statistics: expected names among dh_max, .*, got none"):
            check_statistics(empty)
    with pytest.raises(ValueError, match=r"statistics: .*'dh_min'"):
        check_statistics(("dh_max", "dh_min"))
    for bad in ("dh_max", None, 3):
        with pytest.raises(TypeError, match=r"statistics: expected a tuple of names"):
            check_statistics(bad)
