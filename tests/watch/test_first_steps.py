"""A relaxation to the crystal at rest ends without an event, against a reference that holds the crystal in motion."""

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.optimize import FIRE
from systems import copper

from quests_md import Monitor, Reference, calibrate, stop
from quests_md.calibration import DEFAULT_STATISTICS


@pytest.mark.parametrize("statistics", [DEFAULT_STATISTICS, ("dh_max", "tail_cluster", "dh_mean")])
def test_a_relaxation_is_not_stopped_and_ends_without_an_event(statistics):
    reference = Reference.from_frames([copper(seed=seed, rattle=0.08) for seed in range(40)], groups="frame")
    atoms = copper(seed=100, rattle=0.06, calc=EMT())
    calibration = calibrate(reference, statistics=statistics)
    with Monitor(reference, calibration, log=None, actions=[stop], on_error="raise") as monitor:
        relaxation = FIRE(atoms, logfile=None)
        monitor.attach(relaxation, interval=1)
        relaxation.run(fmax=1e-3, steps=300)
        last = monitor.check(atoms)
        assert monitor.events == []
        assert not monitor.stopped
    assert relaxation.nsteps > 10
    np.testing.assert_allclose(atoms.get_all_distances(mic=True).max(), bulk_longest(), atol=1e-2)
    assert last.state == "in"
    assert last.n_colder == 32


def bulk_longest():
    return (bulk("Cu", cubic=True) * 2).get_all_distances(mic=True).max()
