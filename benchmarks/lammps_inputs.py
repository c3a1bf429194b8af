"""LAMMPS's own examples with and without the monitor: the same thermo output and the same atoms, to the last digit.

    python benchmarks/lammps_inputs.py examples [NAME ...] [-- OPTIONS OF LAMMPS]

`examples` is that folder of LAMMPS's source (or of Debian's package lammps-examples). Each input runs as a copy in
which runs are cut to 200 steps and a dump of all atoms with all digits is added: by `lmp`, then by `quests-md lammps`
with a reference of a few of those frames and a check every 20 steps. Prints a table; what did not run by `lmp` is said
and left out. The interest is in the runs, not in the events: every type is given some element.
"""

import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from ase.io import read

from quests_md import Reference, read_log
from quests_md.lammps import potential

#: Inputs by name of their folder, where it has several: those that are tried if none are named.
INPUTS = (
    *("melt", "crack", "indent", "indent/in.indent.min", "friction", "shear", "min", "min/in.min.box", "peptide"),
    *("flow/in.flow.couette", "flow/in.flow.pois", "obstacle", "deposit/in.deposit.atom", "nemd", "msst", "rigid"),
    *(
        "rigid/in.rigid.gravity",
        "colloid",
        "ellipse/in.ellipse.gayberne",
        "micelle",
        "pour",
        "pour/in.pour.2d",
    ),
    *("threebody", "eim", "meam", "comb/in.comb.Cu", "hugoniostat", "vashishta/in.vashishta.sio2", "dipole"),
    *("DIFFUSE/in.msd.2d", "KAPPA/in.heatflux", "rerun/in.first"),
    *(
        "UNITS/in.ar.real",
        "UNITS/in.ar.metal",
        "UNITS/in.ar.lj",
        "ELASTIC/in.elastic",
        "reaxff/AB/in.AB",
        "airebo",
        "balance/in.balance",
    ),
    *(
        "atm",
        "nb3b",
        "ttm",
        "wall/in.wall.ccl",
        "srd/in.srd.pure",
        "peri/in.peri",
        "body",
        "granregion/in.granregion.box",
    ),
)

#: Some element for each type.
TYPES = (
    "Cu",
    "Zr",
    "Ni",
    "Al",
    "Fe",
    "Ag",
    "Au",
    "Pt",
    "Pd",
    "Ti",
    "Mo",
    "W",
    "Nb",
    "Ta",
    "V",
    "Cr",
    "Co",
    "Zn",
    "Mg",
    "Si",
)

#: Å that a length of 1 stands for in units lj, steps of a run, steps between checks and between frames of the dump.
SIGMA_A, STEPS, EVERY, DUMP_EVERY = 3.4, 200, 20, 50

#: Seconds after which an input is given up.
PATIENCE_S = 300

DUMP = f"""dump quests_md_all all custom {DUMP_EVERY} all.dump id type x y z vx vy vz
dump_modify quests_md_all sort id format float %.17g
"""


def shortened(text: str) -> str:
    """The input with shorter runs, and with a dump before the first of them."""
    text = re.sub(r"^(\s*run\s+)(\d+)", lambda found: found[1] + str(min(int(found[2]), STEPS)), text, flags=re.M)
    text = re.sub(r"^(\s*thermo\s+)(\d+)", lambda found: found[1] + str(min(int(found[2]), EVERY)), text, flags=re.M)
    before, _, after = re.split(r"^(?=\s*(run|minimize)\s)", text, maxsplit=1, flags=re.M)
    # a dump forbids it
    after = re.sub(r"^(?=\s*reset_timestep\s)", "undump quests_md_all\n", after, count=1, flags=re.M)
    return before + DUMP + after


def thermo(log: Path) -> list[str]:
    """The lines of thermo output in a log of LAMMPS, without columns of time."""
    lines, timed = [], None
    for line in log.read_text(errors="replace").splitlines():
        words = line.split()
        if words[:1] == ["Step"]:
            timed = [i for i, word in enumerate(words) if word in ("CPU", "T/CPU", "S/CPU", "CPULeft")]
        elif re.match("-+ Step", line):  # thermo_style multi
            timed, line = [], line.partition(" CPU =")[0]
        elif words[:1] in (["Loop"], ["ERROR:"]):
            timed = None
        if timed is not None:
            lines.append(" ".join(word for i, word in enumerate(line.split()) if i not in timed))
    return lines


def tried(path: Path, options: list[str], folder: Path) -> tuple[str, ...]:
    """What a table says of an input."""
    work = folder / path.parent.name
    shutil.copytree(path.parent, work, dirs_exist_ok=True, ignore_dangling_symlinks=True)
    text = path.read_text(errors="replace")
    name = f"{path.name}.short"
    (work / name).write_text(shortened(text))
    included = "".join((path.parent / name).read_text() for name in re.findall(r"^include\s+(\S+)", text, flags=re.M))
    style = (re.findall(r"^\s*units\s+(\w+)", text + included, flags=re.M) or ["lj"])[0]
    env = os.environ | {"LAMMPS_POTENTIALS": str(potential("Cu_u3.eam").parent)}

    def run(log: str, *command: str) -> subprocess.CompletedProcess[str]:
        with (work / f"{log}.out").open("w") as out:
            return subprocess.run(
                command, cwd=work, env=env, stdout=out, stderr=subprocess.PIPE, text=True, timeout=PATIENCE_S
            )

    done = run("own", "lmp", "-in", name, "-log", "own.log", *options)
    if done.returncode:
        errors = [line for line in (work / "own.out").read_text(errors="replace").splitlines() if "ERROR" in line]
        return path.name, "-", "-", f"not by lmp: {(errors or ['?'])[0][:60]}", "", ""
    shutil.move(work / "all.dump", work / "own.dump")
    frames = read(work / "own.dump", ":", format="lammps-dump-text", specorder=list(TYPES), units="metal")
    scale = SIGMA_A if style == "lj" else 1.0
    some = frames[:: math.ceil(len(frames) / 4)]
    for frame in some:
        frame.set_cell(frame.cell.array * scale, scale_atoms=True)
    Reference.from_frames(some, groups="frame").save(work / "own.safetensors")
    length = ("--length-A", str(SIGMA_A)) if style == "lj" else ()
    settings = (
        "-r",
        "own.safetensors",
        "--every",
        str(EVERY),
        "--types",
        ",".join(TYPES),
        "--log",
        "run.jsonl",
        *length,
    )
    done = run("watched", "quests-md", "lammps", name, *settings, "--", "-log", "watched.log", *options)
    if done.returncode:
        return path.name, style, str(len(frames[-1])), f"with quests_md: {done.stderr.splitlines()[-1][:300]}", "", ""
    own, watched = thermo(work / "own.log"), thermo(work / "watched.log")
    same = "equal" if own == watched else "DIFFERENT"
    atoms = "equal" if (work / "own.dump").read_bytes() == (work / "all.dump").read_bytes() else "DIFFERENT"
    log = read_log(work / "run.jsonl") if (work / "run.jsonl").exists() else None
    checks = "0" if log is None else f"{len(log.step)} ({sum(state == 'invalid' for state in log.state)} not judged)"
    return path.name, style, str(len(frames[-1])), f"{len(own)} lines {same}", f"{len(frames)} frames {atoms}", checks


def main(root: Path, names: list[str], options: list[str]) -> None:
    """Try the inputs and print the table."""
    print(
        "| input | units | atoms | thermo output | dump, all digits | checks |\n| --- | --- | --- | --- | --- | --- |"
    )
    for name in names or INPUTS:
        path = root / name
        path = path if path.is_file() else path / f"in.{path.name}"
        with tempfile.TemporaryDirectory() as folder:
            try:
                row = tried(path, options, Path(folder))
            except Exception as exc:  # one of many
                row = (path.name, "-", "-", f"{type(exc).__name__}: {exc}"[:200], "", "")
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    given = sys.argv[1:]
    cut = given.index("--") if "--" in given else len(given)
    main(Path(given[0]).resolve(), given[1:cut], given[cut + 1 :])
