"""Levels from labels of a published potential: DFT frames of copper, and the forces of SNAP on them."""

import math
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from ase.io import read

from quests_md import Reference, calibrate_errors
from quests_md.calibration.labels import Labels
from quests_md.hosts.lammps_ase import lammps_calculator, potential

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "mlearn"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is absent"),
    pytest.mark.skipif(find_spec("lammps") is None, reason="LAMMPS is not installed"),
]

SHARE = 0.1


@pytest.fixture(scope="module")
def errors():
    """Of the published test frames, whose training frames are the reference."""
    coefficients, parameters = (potential(f"Cu_Zuo_JPCA2020.snap{x}") for x in ("coeff", "param"))
    frames = read(DATA / "Cu_test.xyz", ":")
    commands = ["pair_style snap", f'pair_coeff * * "{coefficients}" "{parameters}" Cu']
    with lammps_calculator(commands, ["Cu"]) as calc:
        for atoms in frames:
            atoms.arrays["snap"] = calc.get_forces(atoms)
    reference = Reference.from_frames(DATA / "Cu_train.xyz")
    return calibrate_errors(reference, frames, share=SHARE, model="snap", groups="frame"), reference, frames


def part(labels, groups):
    """The labels of some groups, which are frames."""
    rows = np.isin(labels.groups[labels.frames], groups)
    frames = np.searchsorted(groups, labels.groups[labels.frames[rows]])
    of_rows = (labels.numbers[rows], labels.dh[rows], labels.errors[rows], frames)
    chosen = np.isin(labels.groups, groups)
    return Labels(*of_rows, labels.groups[chosen], labels.means[chosen], labels.sampled_means[chosen])


def test_errors_of_the_published_potential_are_read(errors):
    found, _, frames = errors
    true = np.concatenate([np.linalg.norm(a.arrays["snap"] - a.get_forces(), axis=1) for a in frames])
    np.testing.assert_allclose(np.sort(found.labels.errors), np.sort(true), atol=1e-12)
    assert math.sqrt((true**2).mean() / 3) == pytest.approx(0.08, abs=0.01)  # Zuo et al. 2020
    assert found.kind == "conformal"


def test_the_promise_is_kept_by_frames_that_did_not_set_the_level(errors):
    """Two thirds of the frames set the level, one third is judged; 300 divisions."""
    labels, rng = errors[0].labels, np.random.default_rng(0)
    missed, above, inside = [], [], []
    for _ in range(300):
        order = rng.permutation(np.unique(labels.groups))
        own, other = part(labels, np.sort(order[:21])), part(labels, np.sort(order[21:]))
        level = replace(errors[0], labels=own).error_levels.elements[29]
        assert level.kind == "conformal"
        errs, out = other.errors > 0.1, other.dh > level.limit
        expected = own.expected(other.numbers, other.dh, 0.8)
        within = np.isnan(expected.error) | ((other.errors >= expected.low) & (other.errors <= expected.high))
        each = [other.frames == i for i in range(len(other.groups))]
        missed.append(np.mean([(errs & ~out)[i].mean() for i in each]))
        inside.append(np.mean([within[i].mean() for i in each]))
        above.append(np.mean([out[i].mean() for i in each]))
    assert np.mean(missed) <= SHARE
    assert np.mean(above) < 0.5
    assert np.mean(inside) >= 0.8


def test_expected_errors_rank_frames(errors):
    found, reference, frames = errors
    pairs = [
        (found.expected_error(reference, a).error, np.linalg.norm(a.arrays["snap"] - a.get_forces(), axis=1))
        for a in frames
    ]
    expected, true = np.array([(np.nanmean(e), t.mean()) for e, t in pairs if np.isfinite(e).any()]).T
    ranks = [np.argsort(np.argsort(x)) for x in (expected, true)]
    assert np.corrcoef(*ranks)[0, 1] > 0.8
