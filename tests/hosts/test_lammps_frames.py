"""Whatever LAMMPS can make of a frame: the one that is checked has its box, atoms, units, energies and forces."""

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.lammps import convert
from ase.calculators.lj import LennardJones
from ase.io import write

from quests_md import Monitor, Reference, read_log, score_trajectory
from quests_md.lammps import lammps_calculator, load_library, potential
from tests.hosts.test_lammps_run import rattled
from tests.support.lammps_runs import commands_of_copper, copper, needs_lammps, state_of

pytestmark = [needs_lammps, pytest.mark.filterwarnings("ignore:calibration")]


@pytest.fixture(scope="module")
def known():
    return Reference.from_frames(rattled(), groups="frame")


def bare(commands, *, args=()):
    """LAMMPS that was given these commands."""
    load_library()
    from lammps import lammps

    lmp = lammps(cmdargs=["-screen", "none", "-log", "none", *args])
    lmp.commands_string(commands)
    return lmp


def watched(known, log, lmp, commands, monkeypatch, *, interval=5, types=("Cu",), close=True, **options):
    """Frames that are checked while LAMMPS carries out the commands; what LAMMPS says of temperatures at its end."""
    frames = []
    with Monitor(known, log=log, verbose=False) as monitor:
        check = monitor.watch.check_frame
        monkeypatch.setattr(monitor.watch, "check_frame", lambda *args: (frames.append(args[0]), check(*args))[1])
        attachment = monitor.attach_lammps(lmp, interval, types, **options)
        for command in commands:
            lmp.command(command)
            attachment.ensure()
    if close:
        lmp.close()
    return frames


TILTED = "change_box all triclinic\nchange_box all xy final 0.7 xz final 0.3 yz final -0.4 remap units box\n"


def expected(frame):
    """Energy and forces by LAMMPS through ASE, of a frame that has another way into it."""
    again = Atoms(frame.numbers, positions=frame.positions, cell=frame.cell, pbc=frame.pbc)
    for axis in np.flatnonzero(~frame.pbc):
        again.center(vacuum=5, axis=int(axis))
    again.calc = lammps_calculator(["pair_style eam", f'pair_coeff * * "{potential("Cu_u3.eam")}"'], ("Cu",))
    return again.get_potential_energy(), again.get_forces()


@pytest.mark.parametrize(
    ("extra", "commands"),
    [
        pytest.param(TILTED, ["run 10", "run 5"], id="tilted"),
        pytest.param("change_box all boundary p p f z delta -3 3 units box\n", ["run 10"], id="f"),
        pytest.param("change_box all boundary s m p\n", ["run 10"], id="s and m"),
        pytest.param("change_box all triclinic\nfix d all deform 1 xy erate 40 remap x\n", ["run 30"], id="flips"),
        pytest.param("unfix nve\nfix n all npt temp 900 900 0.1 aniso 0 0 0.3\n", ["run 20"], id="npt"),
        pytest.param(
            TILTED + "unfix nve\nfix n all npt temp 900 900 0.1 tri 0 0 0.3\n", ["run 10", "run 10"], id="tri"
        ),
        pytest.param("fix e all evaporate 4 3 box 5\n", ["run 20"], id="evaporate"),
        pytest.param("", ["run 5", "group g id 3 9", "delete_atoms group g compress no", "run 10"], id="ids with gaps"),
        pytest.param("", ["run 5", "create_atoms 1 single 0.25 0.25 0.25 units lattice", "run 5"], id="more atoms"),
        pytest.param("atom_modify sort 2 0.0\nneigh_modify every 1 delay 0 check no\n", ["run 10"], id="sorted"),
        pytest.param("", ["run 3", "velocity all scale 100", "run 4", "run 30 upto", "run 2"], id="odd runs"),
        pytest.param("", ["run 0", "run 20 every 5 NULL", "run 10 pre no post no"], id="parts"),
    ],
)
def test_energy_and_forces_belong_to_the_frame(known, tmp_path, monkeypatch, extra, commands):
    frames = watched(known, tmp_path / "run.jsonl", copper(900, n=2, extra=f"thermo 5\n{extra}"), commands, monkeypatch)
    assert len(frames) >= 3
    for frame in frames:
        energy, forces = expected(frame)
        np.testing.assert_allclose(frame.get_potential_energy(), energy, rtol=1e-12)
        np.testing.assert_allclose(frame.get_forces(), forces, atol=1e-9)
    steps = list(read_log(tmp_path / "run.jsonl").step)
    changed = [5] if "create_atoms" in str(commands) or "delete_atoms" in str(commands) else []
    assert steps == sorted([*range(0, steps[-1] + 1, 5), *changed])


def test_general_triclinic_boxes(known, tmp_path, monkeypatch):
    atoms = bulk("Cu", a=3.61) * (3, 3, 3)
    atoms.rattle(0.08, seed=3)
    atoms.rotate(35, (1, 2, 3), rotate_cell=True)
    vectors = "".join(f"{' '.join(map(repr, map(float, v)))} {n}vec\n" for n, v in zip("abc", atoms.cell, strict=True))
    places = "".join(f"{i} 1 {x!r} {y!r} {z!r}\n" for i, (x, y, z) in enumerate(atoms.positions.tolist(), 1))
    text = f"a frame\n\n{len(atoms)} atoms\n1 atom types\n{vectors}0 0 0 abc origin\n\nAtoms # atomic\n\n{places}"
    (tmp_path / "data").write_text(text)
    lmp = bare(f"""units metal
read_data {tmp_path / "data"}
pair_style eam
pair_coeff 1 1 "{potential("Cu_u3.eam")}"
fix nve all nve
""")
    (frame,) = watched(known, tmp_path / "run.jsonl", lmp, ["run 0"], monkeypatch)
    np.testing.assert_allclose(known.delta_entropy(frame), known.delta_entropy(atoms), atol=1e-9)
    np.testing.assert_allclose(
        frame.get_all_distances(mic=True), atoms.get_all_distances(mic=True), atol=1e-9
    )  # the cell is turned


#: Of argon: lattice constant and sigma in Å, epsilon in eV, mass in u.
ARGON = (5.3, 3.4, 0.0104, 39.948)


@pytest.fixture(scope="module")
def argon():
    return Reference.from_frames(rattled(n=3, a=ARGON[0], std=0.25, symbol="Ar"), groups="frame")


@pytest.mark.parametrize("style", ["real", "metal", "si", "cgs", "electron", "micro", "nano"])
def test_units(argon, tmp_path, monkeypatch, style):
    a, sigma, epsilon, mass = (
        convert(value, what, "ASE", style)
        for value, what in zip(ARGON, ("distance", "distance", "energy", "mass"), strict=True)
    )
    step = convert(2 * units.fs, "time", "ASE", style)
    lmp = bare(f"""units {style}
lattice custom {a!r} a1 1 0 0 a2 0 1 0 a3 0 0 1 basis 0 0 0 basis 0 .5 .5 basis .5 0 .5 basis .5 .5 0
region box block 0 3 0 3 0 3
create_box 1 box
create_atoms 1 box
mass 1 {mass!r}
velocity all create 90 4 mom yes
pair_style lj/cut {2.2 * sigma!r}
pair_coeff 1 1 {epsilon!r} {sigma!r}
neighbor {0.2 * sigma!r} bin
fix nve all nve
timestep {step!r}
thermo 5
""")
    frames = watched(argon, tmp_path / "run.jsonl", lmp, ["run 50"], monkeypatch, types=["Ar"], close=False)
    temperature, n = lmp.get_thermo("temp"), len(frames[-1])
    lmp.close()
    log = read_log(tmp_path / "run.jsonl")
    np.testing.assert_allclose(log.time_ps, np.arange(0, 51, 5) * 0.002, rtol=1e-6)
    # without the motion of the whole, which LAMMPS leaves out of the degrees of freedom
    np.testing.assert_allclose(log.temperature_K[-1], temperature * (3 * n - 3) / (3 * n), rtol=2e-5)
    np.testing.assert_allclose(log.volume_per_atom, ARGON[0] ** 3 / 4, rtol=1e-6)
    assert log.n_unknown.sum() == 0
    again = frames[-1].copy()
    again.calc = LennardJones(sigma=ARGON[1], epsilon=ARGON[2], rc=2.2 * ARGON[1])
    np.testing.assert_allclose(frames[-1].get_forces(), again.get_forces(), atol=2e-6)


def test_masses_of_atoms(known, tmp_path, monkeypatch):
    """Atoms of style sphere have a mass each."""
    commands = commands_of_copper(900, n=2).replace("lattice", "atom_style sphere\nlattice").split("\n")
    at = commands.index("fix nve all nve")
    commands[at:at] = ["set group all diameter 1.0", "set type 1 mass 63.55", "set atom 1 mass 40"]
    lmp = bare("\n".join(commands))
    frames = watched(known, tmp_path / "run.jsonl", lmp, ["run 10"], monkeypatch, close=False)
    np.testing.assert_allclose(frames[-1].get_masses(), [40, *[63.55] * 31], rtol=1e-12)
    temperature = lmp.get_thermo("temp")
    lmp.close()
    np.testing.assert_allclose(frames[-1].get_temperature() * 32 / 31, temperature, rtol=5e-6)


@pytest.mark.parametrize("style", ["cg", "sd", "hftn", "fire", "quickmin"])
def test_each_step_of_a_minimization_is_checked_once_as_it_ends(known, tmp_path, monkeypatch, style):
    extra = f"displace_atoms all random 0.1 0.1 0.1 5\nmin_style {style}\n"
    lmp = copper(n=2, extra=extra)
    lmp.command(f"dump d all custom 1 {tmp_path / 'min.dump'} id type x y z")
    lmp.command('dump_modify d units yes format float "%20.17g"')
    commands = ["minimize 0 1e-4 10 200", "minimize 0 1e-4 5 200", "run 3"]
    frames = watched(known, tmp_path / "run.jsonl", lmp, commands, monkeypatch, interval=1)
    log = read_log(tmp_path / "run.jsonl")
    assert list(log.step) == list(range(19))
    np.testing.assert_allclose(log.time_ps, [*[0.0] * 16, 0.004, 0.008, 0.012], atol=1e-9)
    later = list(score_trajectory(tmp_path / "min.dump", known, types=["Cu"]))
    assert [check.dh_max for check in later] == list(log.dh_max)
    for frame in frames:
        energy, forces = expected(frame)
        np.testing.assert_allclose(frame.get_forces(), forces, atol=1e-9)
        if "energy" in frame.calc.results:
            np.testing.assert_allclose(frame.get_potential_energy(), energy, rtol=1e-12)


def test_a_minimization_that_ends_between_checks_of_its_own(known, tmp_path, monkeypatch):
    lmp = copper(n=2, extra="displace_atoms all random 0.1 0.1 0.1 5\n")
    commands = ["minimize 0 0 4 200", "displace_atoms all move 0.5 0 0", "reset_timestep 0", "run 4"]
    watched(known, tmp_path / "run.jsonl", lmp, commands, monkeypatch, interval=2)
    assert list(read_log(tmp_path / "run.jsonl").step) == [0, 2, 4, 4, 6, 8]


def test_a_stop_ends_a_minimization(known, tmp_path):
    from quests_md import stop

    lmp = copper(n=2, extra="displace_atoms all random 0.9 0.9 0.9 5\n")
    with Monitor(known, log=tmp_path / "run.jsonl", verbose=False, actions=[stop]) as monitor:
        monitor.attach_lammps(lmp, 2, ["Cu"])
        lmp.command("minimize 0 0 100 1000")
        assert "stopped the run" in monitor.stop_reason
        assert lmp.extract_global("ntimestep") == 2
    lmp.close()


@pytest.mark.parametrize(("timestep", "interval"), [(1.0, 5), (0.05, 1)])
def test_lost_atoms_are_an_explosion_and_are_said_before_lammps_ends(known, tmp_path, caplog, timestep, interval):
    lmp = copper(n=3, extra=f"timestep {timestep}\nthermo 10\n")
    with Monitor(known, log=tmp_path / "run.jsonl", verbose=False) as monitor:
        monitor.attach_lammps(lmp, interval, ["Cu"])
        with pytest.raises(Exception, match="Lost atoms"):
            lmp.command("run 100")
    lmp.close()
    log = read_log(tmp_path / "run.jsonl")
    assert next(event.onset_step for event in log.events if event.kind == "exploded") < 10
    assert (log.n_atoms == 108).all()
    assert "LAMMPS has lost" in caplog.text
    assert "the run has exploded" in caplog.text


def test_atoms_that_leave_through_a_boundary_are_no_explosion(known, tmp_path, caplog):
    extra = "change_box all boundary p p f z delta -3 3 units box\nthermo_modify lost ignore\n"
    extra += "group g id 5\nvelocity g set 0 0 -90\n"
    lmp = copper(300, n=2, extra=extra)
    with Monitor(known, log=tmp_path / "run.jsonl", verbose=False) as monitor:
        monitor.attach_lammps(lmp, 10, ["Cu"])
        lmp.command("run 60")
    lmp.close()
    log = read_log(tmp_path / "run.jsonl")
    assert log.n_atoms[-1] == 31
    assert set(log.state) <= {"in", "out"}
    assert caplog.text.count("LAMMPS has lost 1 of its 32 atoms") == 1


def test_steps_that_lammps_does_not_show_are_told(known, tmp_path, caplog):
    lmp = copper(n=2, extra="run_style respa 2 2\n")
    with Monitor(known, log=tmp_path / "run.jsonl", verbose=False) as monitor:
        monitor.attach_lammps(lmp, 5, ["Cu"])
        lmp.command("run 20")
        assert "run_style respa: LAMMPS shows only the first step of each run" in caplog.text
        lmp.command("run 20 every 10 NULL")  # which is what it says to do
    lmp.close()
    assert list(read_log(tmp_path / "run.jsonl").step) == [0, 20, 30]


def test_atoms_without_ids(known):
    lmp = bare("atom_modify id no\n" + commands_of_copper(n=2).replace("600 1", "600 1 loop local"))
    with Monitor(known, verbose=False) as monitor, pytest.raises(ValueError, match="leave `atom_modify id no` out"):
        monitor.attach_lammps(lmp, 5, ["Cu"])
    lmp.close()


def test_a_lammps_that_is_closed_and_one_without_a_box(known, caplog):
    lmp = bare("")
    with Monitor(known, verbose=False) as monitor:
        monitor.attach_lammps(lmp, 5, ["Cu"])
        monitor.attach_lammps(lmp, 5, ["Cu"])  # in the place of the first
        lmp.commands_string(commands_of_copper(n=2) + "run 5\n")
    assert "call `ensure` of what attach_lammps returns once the box is there" in caplog.text
    lmp.close()
    with Monitor(known, verbose=False) as monitor, pytest.raises(ValueError, match="an open LAMMPS, got a closed one"):
        monitor.attach_lammps(lmp, 5, ["Cu"])


def test_a_part_that_somebody_took_away_is_put_back(known, tmp_path):
    lmp = copper(n=2)
    with Monitor(known, log=tmp_path / "run.jsonl", verbose=False) as monitor:
        attachment = monitor.attach_lammps(lmp, 5, ["Cu"])
        lmp.command("unfix quests_md")
        attachment.ensure()
        lmp.command("run 5")
    lmp.close()
    assert list(read_log(tmp_path / "run.jsonl").step) == [0, 5]


def test_steps_are_counted_on_where_it_is_attached_again(known, tmp_path):
    lmp = copper(n=2)
    with Monitor(known, log=tmp_path / "run.jsonl", verbose=False) as monitor:
        monitor.attach_lammps(lmp, 5, ["Cu"])
        lmp.commands_string("run 10\nclear\n" + commands_of_copper(700, n=2))
        monitor.attach_lammps(lmp, 5, ["Cu"])
        lmp.command("run 5")
    lmp.close()
    assert list(read_log(tmp_path / "run.jsonl").step) == [0, 5, 10, 10, 15]


def values_of(lmp):
    return {name: lmp.extract_variable(f"dh_{name}") for name in ("max", "mean", "excess", "state", "step")}


def test_values_in_commands_of_the_user(known, tmp_path, monkeypatch):
    from quests_md.judge import Judge

    lmp = copper(4000, n=2)
    with Monitor(known, log=tmp_path / "run.jsonl", verbose=False) as monitor:
        attachment = monitor.attach_lammps(lmp, 10, ["Cu"], values=True)
        assert values_of(lmp) == {"max": 0, "mean": 0, "excess": 0, "state": 0, "step": -1}
        lmp.commands_string(f"""compute p all property/atom d_dh i_dh_above
compute most all reduce max c_p[1]
compute above all reduce sum c_p[2]
thermo_style custom step c_most v_dh_max c_above v_dh_step
thermo 5
log {tmp_path / "log.lammps"}
fix h all halt 10 v_dh_excess > 0.0 error continue message no
run 100
unfix h""")
        halted = lmp.extract_global("ntimestep")
        log = read_log(tmp_path / "run.jsonl")
        assert (log.trigger_excess[log.step > 0] > 0).argmax() * 10 + 10 == halted == log.step[-1]
        lmp.command("create_atoms 1 single 0.25 0.25 0.25 units lattice")
        assert lmp.numpy.extract_atom("d_dh", nelem=33)[-1] == 0  # not judged yet
        lmp.commands_string(f"""dump d all custom 5 {tmp_path / "new.dump"} id d_dh
variable is_old equal v_dh_step!=step
dump_modify d skip v_is_old thresh i_dh_above == 1
run 10""")
        last = values_of(lmp)
        assert last["step"] == halted + 10
        with monkeypatch.context() as patch:
            patch.setattr(Judge, "judge", lambda *args, **rest: 1 / 0)
            lmp.command("run 10")  # LAMMPS would end with an error if a variable were not finite
        assert values_of(lmp) == last | {"state": 3}
        lmp.command("clear")
        lmp.commands_string(commands_of_copper(n=2))
        attachment.ensure()
        lmp.command("run 10")
        assert values_of(lmp)["state"] < 3
        assert values_of(lmp)["step"] == 10
    lmp.close()
    rows = [line.split() for line in (tmp_path / "log.lammps").read_text().splitlines()]
    rows = [row for row in rows if len(row) == 5 and row[0].isdigit() and row[1][0].isdigit()]
    assert all(row[1] == row[2] for row in rows)
    assert [int(row[4]) for row in rows[:3]] == [0, 0, 10]  # thermo between checks shows those before
    texts = (tmp_path / "new.dump").read_text().split("ITEM: TIMESTEP\n")[1:]
    assert {int(text.split()[0]) % 10 for text in texts} == {0}


def test_values_of_an_explosion_are_finite(known, tmp_path):
    lmp = copper(n=2, extra="timestep 1.0\nthermo 100\nthermo_modify lost ignore\n")
    with Monitor(known, log=tmp_path / "run.jsonl", verbose=False) as monitor:
        monitor.attach_lammps(lmp, 5, ["Cu"], values=True)
        lmp.command("fix h all halt 5 v_dh_state > 2 error continue")
        lmp.command("run 50")
        assert lmp.extract_global("ntimestep") == 5
        assert values_of(lmp)["excess"] == 1e30
    lmp.close()


def test_a_variable_of_the_user_is_left_alone(known):
    lmp = copper(n=2, extra="variable dh_max equal 5\n")
    before = {kind: lmp.available_ids(kind) for kind in ("fix", "compute", "variable")}
    with Monitor(known, verbose=False) as monitor, pytest.raises(ValueError, match="no variable 'dh_max' in LAMMPS"):
        monitor.attach_lammps(lmp, 5, ["Cu"], values=True)
    assert {kind: lmp.available_ids(kind) for kind in before} == before
    lmp.close()


@pytest.mark.parametrize(
    ("extra", "commands", "args"),
    [
        pytest.param(TILTED + "restart 10 a.restart b.restart\n", ["run 25", "run 5"], (), id="tilted"),
        pytest.param("", ["run 20", "write_restart c.restart", "write_data d.data nocoeff"], (), id="files"),
        pytest.param("timer timeout 1:00:00 every 10\n", ["run 20"], (), id="timer"),
        pytest.param("variable t equal temp\nfix h all halt 3 v_t < 500 error soft\n", ["run 50", "run 5"], (), id="h"),
        pytest.param("fix e all external pf/array 1\nfix_modify e energy yes\n", ["run 15"], (), id="external"),
        pytest.param("fix l all langevin 900 900 0.1 33\n", ["run 15"], ("-sf", "omp", "-pk", "omp", "1"), id="omp"),
        pytest.param(
            "fix a all ave/time 2 3 6 c_thermo_temp c_thermo_pe c_thermo_press file ave.txt\ncompute k all pe/atom\n"
            "dump d all custom 4 d.dump id c_k\nthermo_style custom step temp pe press pxx\nthermo_modify norm no\n",
            ["run 20"],
            ("-sf", "opt"),
            id="averages",
        ),
        pytest.param("fix d all dt/reset 3 NULL 0.003 0.01 units box\n", ["run 20"], (), id="dt"),
        pytest.param("fix b all box/relax iso 0 vmax 0.001\nthermo 1\n", ["minimize 0 1e-5 9 99"], (), id="relax"),
        pytest.param("run_style respa 2 2\n", ["run 10"], (), id="respa"),
    ],
)
def test_nothing_is_disturbed(known, tmp_path, monkeypatch, extra, commands, args):
    found = []
    for name in ("free", "watched"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        lmp = copper(900, n=2, extra=f"log log.lammps\n{extra}", args=args)
        with Monitor(known, log=tmp_path / f"{name}.jsonl", verbose=False) as monitor:
            if name == "watched":
                monitor.attach_lammps(lmp, 5, ["Cu"])
            for command in commands:
                lmp.command(command)
            state = state_of(lmp)
        ids = [lmp.available_ids(kind) for kind in ("fix", "compute", "variable", "group")]
        lmp.close()
        text = (tmp_path / name / "log.lammps").read_text()
        thermo = [part.partition("Loop time")[0] for part in text.split("\n   Step")[1:]]
        files = {p.name: p.read_bytes() for p in sorted((tmp_path / name).iterdir()) if p.name != "log.lammps"}
        found.append((state, ids, thermo, files))
    assert found[0] == found[1]
    assert len(found[0][2]) >= 1


def test_checks_and_events_are_the_same_through_every_door(known, tmp_path, monkeypatch):
    """Of LAMMPS itself, its dump with all digits, LAMMPS through ASE, and extended XYZ, which has fewer digits."""
    lmp = copper(2500, n=3)
    lmp.command(f"dump d all custom 5 {tmp_path / 'run.dump'} id type x y z vx vy vz mass")
    lmp.command('dump_modify d units yes time yes format float "%20.17g"')
    frames = watched(known, tmp_path / "native.jsonl", lmp, ["run 60"], monkeypatch)
    list(score_trajectory(tmp_path / "run.dump", known, types=["Cu"], log=tmp_path / "dump.jsonl"))
    with Monitor(known, log=tmp_path / "ase.jsonl", verbose=False) as monitor:
        for i, frame in enumerate(frames):
            again = frame.copy()
            again.calc = lammps_calculator(["pair_style eam", f'pair_coeff * * "{potential("Cu_u3.eam")}"'], ("Cu",))
            again.get_forces()
            monitor.check(again, step=5 * i, time_ps=0.02 * i)
    for i, frame in enumerate(frames):
        frame.info = {"step": 5 * i, "time_ps": 0.02 * i}
    write(tmp_path / "run.extxyz", [frame.copy() for frame in frames])
    list(score_trajectory(tmp_path / "run.extxyz", known, log=tmp_path / "xyz.jsonl"))
    logs = [read_log(tmp_path / f"{name}.jsonl") for name in ("native", "dump", "ase", "xyz")]
    events = [[(e.kind, e.onset_step, e.confirmed_step, e.last_step, e.n_checks) for e in log.events] for log in logs]
    assert events[0]
    assert events == [events[0]] * 4
    for log, digits in zip(logs[1:], (0, 0, 1e-4), strict=True):
        np.testing.assert_array_equal(log.step, logs[0].step)
        np.testing.assert_array_equal(log.n_above, logs[0].n_above)
        np.testing.assert_allclose(log.trigger_excess, logs[0].trigger_excess, rtol=0, atol=digits)
