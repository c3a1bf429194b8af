import numpy as np
import pytest
from ase.build import bulk
from ase.io import write
from ase.io.trajectory import Trajectory
from logs import checks_of, event, write_log
from systems import outside, reordered

from quests_md import Monitor, Reference, calibrate, save_frame
from quests_md.cli.app import app


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Small inputs of all kinds, under a name with a space and letters that are not ASCII."""
    rng = np.random.default_rng(0)

    def crystal(spread, n=0, element="Cu"):
        atoms = bulk("Cu", cubic=True) * (2, 2, 2)
        atoms.positions += rng.normal(0, spread, atoms.positions.shape)
        atoms.symbols[:1] = element
        atoms.info |= {"step": 10 * n, "time_ps": 0.05 * n}
        return atoms

    folder = tmp_path_factory.mktemp("my dätä")
    write(folder / "train.xyz", reordered([crystal(0.08) for _ in range(24)]))
    write(folder / "quiet.xyz", [crystal(0.06, n) for n in range(6)])
    run = [crystal(0.06, n) for n in range(12)]
    for n in range(7, 12):
        run[n].positions = outside(n).positions
    write(folder / "run.xyz", run)
    with Trajectory(folder / "broken.traj", "w") as trajectory:
        for frame in run[:4]:
            trajectory.write(frame)
        run[4].positions[3, 1] = np.nan
        trajectory.write(run[4])
    write(folder / "gold.xyz", [crystal(0.06, n, "Au") for n in range(4)])
    (folder / "torn.xyz").write_text((folder / "run.xyz").read_text(encoding="utf-8")[:-200], encoding="utf-8")
    (folder / "text.xyz").write_text("no atoms here\n", encoding="utf-8")
    reference = Reference.from_frames(folder / "train.xyz", groups="frame")
    reference.save(folder / "train.safetensors")
    Reference.from_frames(folder / "quiet.xyz", bandwidth=0.02).save(folder / "other.safetensors")
    (folder / "torn.safetensors").write_bytes((folder / "train.safetensors").read_bytes()[:5000])
    plain = {"statistics": ("dh_max", "tail_cluster", "dh_mean")}
    calibrate(reference, false_alarms=0.1, **plain).save(folder / "train.json")
    actions = [save_frame(folder / "flagged.xyz")]
    with Monitor(reference, log=folder / "run.jsonl", actions=actions, **plain) as monitor:
        for count, atoms in enumerate(run[:4] + run[5:]):
            monitor.check(atoms, step=10 * count, time_ps=0.05 * count)
    return folder


@pytest.fixture
def quests_md(folder, monkeypatch, capfd):
    """Run the command line in this process, in the folder: exit code, stdout, stderr."""
    monkeypatch.chdir(folder)

    def run(*arguments):
        capfd.readouterr()
        try:
            app([str(argument) for argument in arguments])
        except SystemExit as exit_:
            code = exit_.code
        out, err = capfd.readouterr()
        return code, out, err

    return run


@pytest.fixture
def eventful(tmp_path):
    """A log with an event of each kind, and two times out too shortly."""
    checks = checks_of("ioiooooiiooootttiixo")
    events = [
        event(checks, 3, 6, size_history=((30, 2), (60, 20))),
        event(checks, 9, 15, id=2, kind="transition", phase="fcc", size_history=((90, 20), (150, 90))),
        event(checks, 18, 18, id=3, kind="exploded", peak_excess=float("nan")),
    ]
    return write_log(tmp_path / "eventful.jsonl", checks, events)
