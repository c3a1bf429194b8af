"""Other packages read dH by its key: each test uses the real package and is skipped where it is not installed."""

import importlib.util
import logging

import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.io import read
from ase.md.verlet import VelocityVerlet
from systems import FS, cold_reference, copper, level_at, outside

from quests_md import Monitor, MonitoredCalculator, Trigger, read_log, score_trajectory, stop
from quests_md.nvalchemi import monitor_hook

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]  # what other packages warn of is theirs

#: Crossed by the tenth step.
LEVEL = -4.0


def installed(name):
    """The package; skips where it is not installed, or does not go with what is."""
    if importlib.util.find_spec(name.partition(".")[0]) is None:
        pytest.skip(f"{name.partition('.')[0]} is not installed")
    before = logging.root.level
    try:
        return importlib.import_module(name)
    except Exception as exc:
        pytest.skip(f"{name} cannot be imported: {exc}")
    finally:
        logging.root.setLevel(before)


def moving(level=LEVEL, **options):
    """Copper that leaves its reference within a few steps."""
    reference = cold_reference()
    calc = MonitoredCalculator(EMT(), reference, level_at(reference, level), **options)
    return copper(seed=5, rattle=0.005, temperature_K=600, calc=calc)


def largest_grades(steps):
    """The largest grade at each step of the same run."""
    atoms = moving()
    dyn, found = VelocityVerlet(atoms, 2 * FS), []
    dyn.attach(lambda: found.append(atoms.calc.results["dh_grade"].max()), 1)
    dyn.run(steps)
    return found


def test_a_threshold_check_of_ipsuite_ends_a_run_at_the_level():
    checks = installed("ipsuite.dynamics.checks")
    grades = largest_grades(30)
    first = next(step for step, grade in enumerate(grades) if grade > 1)
    assert 0 < first < 30
    atoms = moving()
    dyn = VelocityVerlet(atoms, 2 * FS)
    check = checks.ThresholdCheck(key="dh_grade", max_value=1.0)
    check.initialize(atoms)
    dyn.run(1)
    while not check.check(atoms) and dyn.nsteps < 30:  # as its ASEMD node does
        dyn.run(1)
    assert dyn.nsteps == first
    assert "dh_grade" in check.status
    broken = atoms.copy()
    broken.calc = atoms.calc
    broken.positions[0] = np.nan
    broken.calc.get_property("dh_grade", broken)
    assert check.check(broken)  # a geometry that cannot be described is beyond any level


@pytest.mark.parametrize("is_biased", [False, True])
def test_a_model_of_apax_is_the_same_and_ipsuite_reads_the_grade(is_biased, monkeypatch):
    ase_calc = installed("apax.md.ase_calc")
    from apax.md.function_transformations import UncertaintyDrivenDynamics

    weights = random_model_of_apax()
    monkeypatch.setattr(ase_calc, "restore_parameters", lambda folder: weights)
    reference = cold_reference()

    def moved(wrap):
        transformations = [UncertaintyDrivenDynamics(height=0.5, width=0.5)] if is_biased else []
        calc, calls, seen = ase_calc.ASECalculator("none", transformations=transformations), [], []
        calculate = calc.calculate
        calc.calculate = lambda *given, **named: calls.append(1) or calculate(*given, **named)
        atoms = copper(seed=5, rattle=0.005, temperature_K=600, calc=wrap(calc))
        dyn = VelocityVerlet(atoms, 2 * FS)

        def look():
            results = {k: v for k, v in atoms.calc.results.items() if k not in ("delta_entropy", "dh_grade")}
            seen.append((atoms.positions.tobytes(), {k: np.asarray(v).tobytes() for k, v in results.items()}))

        dyn.attach(look, 1)
        dyn.run(5)
        return atoms, seen, len(calls)

    _, bare, n_bare = moved(lambda calc: calc)
    atoms, watched, n_watched = moved(lambda calc: MonitoredCalculator(calc, reference, level_at(reference, LEVEL)))
    assert watched == bare
    assert n_watched == n_bare
    if is_biased:
        assert "energy_unbiased" in atoms.calc.results
    grade = atoms.calc.results["dh_grade"]
    assert grade.shape == (32,)
    checks = installed("ipsuite.dynamics.checks")
    for factor, is_beyond in ((0.99, True), (1.01, False)):
        check = checks.ThresholdCheck(key="dh_grade", max_value=factor * grade.max())
        check.initialize(atoms)
        assert check.check(atoms) is is_beyond


def random_model_of_apax():
    """The settings of a small shallow ensemble, and its weights, which nobody has trained."""
    import jax
    from apax.config.train_config import Config
    from apax.data.input_pipeline import OTFInMemoryDataset
    from apax.train.checkpoints import create_params

    model = {"name": "gmnn", "nn": [8, 8], "n_radial": 3, "basis": {"name": "bessel", "n_basis": 4, "r_max": 4.0}}
    settings = {
        "n_epochs": 1,
        "data": {"directory": "none", "experiment": "none", "data_path": "none", "n_train": 1, "n_valid": 1},
        "loss": [{"name": "energy"}],
        "model": model | {"ensemble": {"kind": "shallow", "n_members": 4}},
    }
    config = Config.model_validate(settings)
    units = {"pos_unit": "Ang", "energy_unit": "eV"}
    data = OTFInMemoryDataset([copper()], cutoff=4.0, bs=1, n_epochs=1, ignore_labels=True, **units)
    sample, box = data.init_input()
    builder = config.model.get_builder()(config.model.model_dump(), n_species=119)
    made = builder.build_energy_derivative_model(apply_mask=True, init_box=box)
    return config, create_params(made, jax.random.PRNGKey(0), sample, 1)[0]


def test_frames_of_ipsuite_keep_the_values():
    ase_sim = installed("ipsuite.utils.ase_sim")
    atoms = moving()
    atoms.get_forces()
    frozen = ase_sim.freeze_copy_atoms(atoms)
    np.testing.assert_array_equal(frozen.calc.results["dh_grade"], atoms.calc.results["dh_grade"])


def test_md_of_wfl_is_ended_by_the_grade():
    installed("wfl")
    from wfl.configset import ConfigSet, OutputSpec
    from wfl.generate.md import md
    from wfl.generate.md.abort_base import AbortSimBase

    class AbortAboveLevel(AbortSimBase):
        def atoms_ok(self, atoms):
            return atoms.calc.results["dh_grade"].max() <= 1

    first = next(step for step, grade in enumerate(largest_grades(30)) if grade > 1)
    atoms = moving()
    calc, atoms.calc = atoms.calc, None
    found = md(
        ConfigSet([atoms]),
        OutputSpec(),
        calculator=calc,
        steps=30,
        dt=2.0,
        integrator="Langevin",  # of constant energy, since there is no temperature_tau
        abort_check=AbortAboveLevel(),
        rng=np.random.default_rng(0),
    )
    frames = list(found)
    assert len(frames) - 1 == first
    assert frames[-1].info["last_op__md_energy"] is not None


def test_md_of_wfl_is_ended_by_a_monitor_that_has_no_dynamics():
    installed("wfl")
    from wfl.configset import ConfigSet, OutputSpec
    from wfl.generate.md import md

    reference = cold_reference()
    options = {"trigger": Trigger(patience=1), "log": None, "actions": [stop], "verbose": False}
    with Monitor(reference, level_at(reference, LEVEL), **options) as monitor:
        atoms = copper(seed=5, rattle=0.005, temperature_K=600)
        found = md(
            ConfigSet([atoms]),
            OutputSpec(),
            calculator=MonitoredCalculator(EMT(), monitor),
            steps=30,
            dt=2.0,
            integrator="Langevin",
            autopara_info={"num_python_subprocesses": 0},
            rng=np.random.default_rng(0),
        )
        assert 1 < len(list(found)) < 31
        assert "the action stop stopped the run" in monitor.stop_reason


def test_masks_of_deal(tmp_path):
    preprocessing = installed("deal.preprocessing")
    frames = [copper(seed=i, rattle=0.01 * (i + 1)) for i in range(4)] + [outside()]
    out = tmp_path / "out.extxyz"
    list(score_trajectory(frames, cold_reference(), level_at(cold_reference(), LEVEL), annotate=out))
    masker = preprocessing.TrajectoryMasker(key="dh_grade", mask_threshold=1.0, plot=False)
    annotated = read(out, ":")
    summary = masker.apply_to_trajectory(annotated)
    assert summary.n_frames == 5
    assert 0 < summary.n_selected_atoms < summary.n_atoms
    for frame in annotated:
        np.testing.assert_array_equal(frame.arrays["deal_mask"] == 1, frame.arrays["dh_grade"] > 1)


def test_dynamics_of_nvalchemi_call_the_hook_and_are_the_same_with_it(tmp_path):
    installed("nvalchemi.dynamics")
    import torch
    from nvalchemi.data import AtomicData, Batch
    from nvalchemi.dynamics import NVE
    from nvalchemi.dynamics.base import DynamicsStage
    from nvalchemi.hooks import Hook
    from nvalchemi.models.demo import DemoModel, DemoModelWrapper

    def moved(hooks):
        torch.manual_seed(0)
        systems = [copper(seed=i, rattle=0.01, temperature_K=300) for i in range(2)]
        given = [AtomicData.from_atoms(atoms, dtype=torch.float32) for atoms in systems]
        for data, atoms in zip(given, systems, strict=True):
            data.velocities = torch.tensor(atoms.get_velocities(), dtype=torch.float32)
        batch = Batch.from_data_list(given)
        NVE(model=DemoModelWrapper(DemoModel()), dt=0.5, n_steps=5, hooks=hooks).run(batch)
        return batch.positions.numpy().copy()

    logs = [tmp_path / f"{i}.jsonl" for i in range(2)]
    levels = level_at(cold_reference(), LEVEL)
    monitors = [Monitor(cold_reference(), levels, log=log, on_error="raise", verbose=False) for log in logs]
    with monitor_hook(monitors, stage=DynamicsStage.AFTER_STEP, interval=2, timestep_ps=0.0005) as hook:
        assert isinstance(hook, Hook)
        watched = moved([hook])
    np.testing.assert_array_equal(watched, moved([]))
    for log, positions in zip(map(read_log, logs), np.split(watched, 2), strict=True):
        assert log.step.tolist() == [0, 2, 4]
        assert ((log.temperature_K > 100) & (log.temperature_K < 500)).all()
        last = copper()
        last.positions = positions.astype(np.float64)
        assert log.dh_max[-1] == pytest.approx(cold_reference().delta_entropy(last).max(), abs=1e-4)
