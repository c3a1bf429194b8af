"""Restart files of LAMMPS: the log goes on at their step, each step is checked once."""

import numpy as np
import pytest

from quests_md import MismatchError, Monitor, Reference, read_log
from tests.hosts.test_lammps_frames import TILTED, bare
from tests.hosts.test_lammps_run import rattled
from tests.support.lammps_runs import copper, eam_of_copper, needs_lammps, state_of

pytestmark = [needs_lammps, pytest.mark.filterwarnings("ignore:calibration")]

#: What a restart file does not hold.
AGAIN = f'pair_style eam\npair_coeff 1 1 "{eam_of_copper()}"\nfix nve all nve\nthermo 10\n'


@pytest.fixture(scope="module")
def known():
    return Reference.from_frames(rattled(), groups="frame")


def watched(known, log, lmp, commands, **options):
    """Run with the monitor; the state in which LAMMPS ends."""
    with Monitor(known, log=log, verbose=False, **options) as monitor:
        attachment = monitor.attach_lammps(lmp, 5, ["Cu"])
        for command in commands:
            lmp.command(command)
        attachment.ensure()
        state = state_of(lmp)
    lmp.close()
    return state


@pytest.mark.parametrize("tilt", ["", TILTED], ids=["cuboid", "tilted"])
@pytest.mark.parametrize("at", [20, 12], ids=["checked", "not checked"])
@pytest.mark.parametrize("way", ["restart", "write_restart"])
def test_the_log_goes_on_at_the_step_of_the_restart_file(known, tmp_path, tilt, at, way):
    log, file = tmp_path / "run.jsonl", tmp_path / f"r.{at}"
    if way == "restart":
        commands = [f"restart {at} {tmp_path}/r.*", "run 40"]
    else:
        commands = [f"run {at}", f"write_restart {file}", f"run {40 - at}"]
    free = watched(known, log, copper(900, n=2, extra=tilt), commands)
    before = read_log(log)
    again = watched(known, log, bare(f"read_restart {file}\n{AGAIN}"), [f"run {40 - at}"], resume=True)
    after = read_log(log)
    assert list(after.step) == list(before.step) == list(range(0, 41, 5))
    # LAMMPS itself repeats to the bit what begins with a run, in a box that is a cuboid
    if way == "write_restart" and not tilt:
        assert again == free
        np.testing.assert_array_equal(after.trigger_excess, before.trigger_excess)
    else:
        np.testing.assert_allclose(after.trigger_excess, before.trigger_excess, atol=1e-6)
    assert f"resumed at step {at}" in log.read_text()


@pytest.mark.parametrize("tilt", ["", TILTED], ids=["cuboid", "tilted"])
def test_two_runs_check_the_step_between_them_once(known, tmp_path, tilt):
    watched(known, tmp_path / "run.jsonl", copper(900, n=2, extra=tilt), ["run 10", "run 5", "run 0", "run 5"])
    assert list(read_log(tmp_path / "run.jsonl").step) == [0, 5, 10, 15, 20]


def test_the_log_of_another_run_is_refused(known, tmp_path):
    log = tmp_path / "run.jsonl"
    watched(known, log, copper(900, n=2), ["run 20"])
    other = copper(900, n=2, seed=7)
    other.commands_string(f"run 10\nwrite_restart {tmp_path / 'other.restart'}")
    other.close()
    lmp = bare(f"read_restart {tmp_path / 'other.restart'}\n{AGAIN}")
    with pytest.raises(MismatchError, match=r"has another frame .* at step 10 than this run"):
        watched(known, log, lmp, ["run 20"], resume=True)
    lmp.close()
    assert list(read_log(log).step) == [0, 5, 10, 15, 20]
    lmp = bare(f"read_restart {tmp_path / 'other.restart'}\n{AGAIN}")
    watched(known, log, lmp, ["run 5"], resume=True, start_step=10)  # as the user says
    assert list(read_log(log).step) == [0, 5, 10, 15]
