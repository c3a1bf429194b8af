import math

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import read, write
from ase.md.langevin import Langevin
from systems import FS, CountingEMT, copper

from quests_md import Descriptor, MismatchError, Monitor, Reference, TimeAveraged, UnsuitableFrameError
from quests_md.judge.phases import Phases


def thermal(times, *, seed=0):
    """Frames of copper at these times in ps, or so many 0.02 ps apart, that shake independently."""
    times = 0.02 * np.arange(times) if isinstance(times, int) else times
    frames = [copper(seed=seed + i, rattle=0.1) for i in range(len(times))]
    for atoms, time_ps in zip(frames, times, strict=True):
        atoms.info["time_ps"] = float(time_ps)
    return frames


def test_a_trajectory_is_averaged_in_blocks_between_its_gaps():
    times = [0.0, 0.02, 0.04, 0.06, 0.08, 1.0, 1.02, 2.0, 2.0201, 2.04]
    frames = thermal(times)
    found = list(TimeAveraged(samples=3).frames(frames))
    assert [atoms.info["time_ps"] for atoms in found] == [0.04, 2.04]
    for atoms, block in zip(found, (frames[0:3], frames[7:10]), strict=True):
        expected = np.mean([frame.positions for frame in block], axis=0)
        np.testing.assert_allclose(atoms.positions, expected, rtol=0, atol=1e-12)


def test_no_average_is_over_two_files(tmp_path):
    frames = thermal([0.0, 0.02, 0.04, 0.06])
    write(tmp_path / "a.xyz", frames[:2])
    write(tmp_path / "b.xyz", frames[2:])
    paths = [tmp_path / "a.xyz", tmp_path / "b.xyz"]
    assert [a.info["time_ps"] for a in TimeAveraged(samples=2).frames(paths)] == [0.02, 0.06]
    with pytest.raises(ValueError, match="got none"):
        list(TimeAveraged(samples=3).frames(paths))


def test_trajectories_that_cannot_be_averaged_say_why():
    frames = thermal([0.0, 1.0, 2.0])
    with pytest.raises(ValueError, match=r"3 frames in a row, 0\.02 ps apart, got none \(the nearest two are 1 ps"):
        list(TimeAveraged(samples=3).frames(frames))
    del frames[1].info["time_ps"]
    with pytest.raises(ValueError, match=r"memory, frame 1: expected a time in info\['time_ps'\], got none"):
        list(TimeAveraged(samples=2).frames(frames))
    frames = thermal([0.0, 0.02])
    once = list(TimeAveraged(samples=2).frames(frames))
    with pytest.raises(ValueError, match=r"got an average over 2 x 0\.02 ps"):
        list(TimeAveraged(samples=2).frames(once))


def test_averaging_takes_noise_away():
    descriptor = TimeAveraged(samples=10)
    perfect = Descriptor()(copper())[0]
    (mean,) = descriptor.frames(thermal(10))
    raw = np.linalg.norm(Descriptor()(thermal(1)[0]) - perfect, axis=1).mean()
    assert np.linalg.norm(descriptor(mean) - perfect, axis=1).mean() < raw / 2


def test_rows_are_those_of_the_averaged_frame_and_no_others(tmp_path):
    descriptor = TimeAveraged(Descriptor(k=12), samples=2)
    (mean,) = descriptor.frames(thermal(2))
    assert np.array_equal(descriptor(mean), Descriptor(k=12)(mean))
    with pytest.raises(
        UnsuitableFrameError, match=r"one that is not averaged; average a trajectory with TimeAveraged\.frames"
    ):
        descriptor(thermal(1)[0])
    with pytest.raises(UnsuitableFrameError, match=r"expected a frame averaged over 3 x 0\.02 ps, got 2 x 0\.02 ps"):
        TimeAveraged(samples=3)(mean)
    write(tmp_path / "mean.xyz", mean)
    assert np.allclose(descriptor(read(tmp_path / "mean.xyz")), descriptor(mean), atol=1e-6)


def test_a_reference_of_averages_remembers_and_refuses_to_mix(tmp_path):
    descriptor = TimeAveraged(samples=2)
    frames = thermal(12)
    reference = Reference.from_frames(descriptor.frames(frames), descriptor=descriptor, bandwidth=0.015)
    assert reference.n_frames == 6
    with pytest.raises(UnsuitableFrameError, match="not averaged"):
        reference.delta_entropy(frames[0])
    with pytest.raises(UnsuitableFrameError, match="not averaged"):
        Reference.from_frames(frames, descriptor=descriptor, bandwidth=0.015)
    reference.save(tmp_path / "ref.safetensors")
    with pytest.raises(ValueError, match=r"averaged over 2 x 0\.02 ps'.*give it to Reference\.load"):
        _ = Reference.load(tmp_path / "ref.safetensors").descriptor
    for other in (TimeAveraged(samples=3), TimeAveraged(samples=2, spacing_ps=0.03), TimeAveraged(Descriptor(k=8))):
        with pytest.raises(MismatchError, match=r"averaged over 2 x 0\.02 ps', got"):
            Reference.load(tmp_path / "ref.safetensors", descriptor=other)
    loaded = Reference.load(tmp_path / "ref.safetensors", descriptor=TimeAveraged(samples=2))
    (mean,) = descriptor.frames(thermal(2, seed=50))
    assert np.array_equal(loaded.delta_entropy(mean), reference.delta_entropy(mean))
    raw = Reference.from_frames(frames)
    with pytest.raises(MismatchError, match="build both with the same settings"):
        Reference.merge([reference, raw])
    with pytest.raises(MismatchError, match="build both with the same settings"):
        Phases({"a": raw, "b": reference})


def test_centers_stay_centers():
    descriptor = TimeAveraged(Descriptor(k=4, centers=("Cl",)), samples=2)
    salt = bulk("NaCl", "rocksalt", a=5.64)
    assert descriptor.is_center(salt.numbers).tolist() == [False, True]
    assert descriptor.is_neighbor(salt.numbers).all()
    assert descriptor.width == 7


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: TimeAveraged(samples=1), ValueError, "samples: expected an integer of at least 2, got 1"),
        (lambda: TimeAveraged(samples=2.0), ValueError, "samples"),
        (lambda: TimeAveraged(spacing_ps=0), ValueError, "spacing_ps: expected a positive time in ps, got 0"),
        (lambda: TimeAveraged(spacing_ps=math.nan), ValueError, "spacing_ps"),
        (lambda: TimeAveraged(10), TypeError, "descriptor: expected a Descriptor, got 10"),
    ],
)
def test_arguments_that_are_not_usable(make, error, text):
    with pytest.raises(error, match=text):
        make()


def averaged_run(dyn, descriptor, steps):
    """Frames of a run at the spacing of a descriptor, with their times."""
    frames = []

    def keep():
        frame = dyn.atoms.copy()
        frame.info["time_ps"] = dyn.get_time() / (1000 * FS)
        frames.append(frame)

    dyn.attach(keep, round(descriptor.spacing_ps / (dyn.dt / (1000 * FS))))
    dyn.run(steps)
    return frames


def langevin(seed, calc):
    atoms = copper(temperature_K=600, seed=seed, calc=calc)
    return Langevin(atoms, 2 * FS, temperature_K=300, friction=0.02 / FS, fixcm=False, rng=np.random.default_rng(seed))


@pytest.mark.slow
def test_an_attached_monitor_averages_the_run_itself_and_does_not_disturb_it():
    descriptor = TimeAveraged(samples=5, spacing_ps=0.004)
    reference = Reference.from_frames(
        descriptor.frames(averaged_run(langevin(1, EMT()), descriptor, 400)),
        descriptor=descriptor,
        bandwidth=0.05,
        groups="frame",
    )
    alone, watched = langevin(2, CountingEMT()), langevin(2, CountingEMT())
    frames = averaged_run(alone, descriptor, 60)
    with Monitor(reference, log=None, on_error="raise") as monitor:
        checks = []
        monitor.attach(watched, 20)
        watched.attach(lambda: checks.append(monitor.last_check), 20)
        watched.run(60)
    assert [check.step for check in checks[1:]] == [20, 40, 60]
    assert checks[0] is None  # at step 0 there is nothing to average
    for check in checks[1:]:
        place = check.step // 2
        mean = frames[place].copy()
        mean.positions = np.mean([frame.positions for frame in frames[place - 4 : place + 1]], axis=0)
        expected = reference.delta_entropy(descriptor.marked(mean))
        np.testing.assert_allclose(check.delta_entropy, expected, rtol=1e-6, atol=1e-3)
    np.testing.assert_array_equal(alone.atoms.positions, watched.atoms.positions)
    assert alone.atoms.calc.calls == watched.atoms.calc.calls


@pytest.mark.parametrize(
    ("interval", "spacing_ps", "text"),
    [
        (8, 0.004, "interval: expected a multiple of 2 steps, 10 at least"),
        (21, 0.004, "interval: expected a multiple of 2 steps"),
        (20, 0.005, "dyn: expected a time step of which 0.005 ps is a multiple"),
    ],
)
def test_a_run_that_cannot_be_averaged_so_is_refused(interval, spacing_ps, text):
    descriptor = TimeAveraged(samples=5, spacing_ps=spacing_ps)
    frames = [descriptor.marked(copper(rattle=0.05, seed=seed)) for seed in range(8)]
    reference = Reference.from_frames(frames, descriptor=descriptor, bandwidth=0.05, groups="frame")
    with Monitor(reference, log=None) as monitor, pytest.raises(ValueError, match=text):
        monitor.attach(langevin(3, EMT()), interval)
