"""The monitor called from within an input, by a LAMMPS with its package PYTHON."""

import os
import shutil
import site
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from quests_md import Reference, read_log
from tests.hosts.test_lammps_run import rattled
from tests.support.lammps_runs import commands_of_copper, needs_lammps
from tests.support.processes import ROOT

#: LAMMPS of the system, whose Python is that of the system.
LMP = "/usr/bin/lmp"


def has_python():
    """Whether there is such a LAMMPS, and its Python is of the version that these packages are for."""
    if not Path(LMP).exists() or shutil.which("python3", path="/usr/bin") is None:
        return False
    packages = subprocess.run([LMP, "-h"], capture_output=True, text=True, check=False).stdout
    asked = ["/usr/bin/python3", "-c", "import sys; print(*sys.version_info[:2])"]
    version = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.split()
    return " PYTHON " in packages and version == [str(number) for number in sys.version_info[:2]]


pytestmark = [
    needs_lammps,
    pytest.mark.skipif(not has_python(), reason="no LAMMPS with its package PYTHON: apt install lammps python3-lammps"),
]

LINES = """
python watch input 4 SELF known.safetensors 5 Cu format psis here "from quests_md.lammps import watch"
python watch invoke
"""


def test_two_lines_in_an_input_watch_its_runs(tmp_path):
    Reference.from_frames(rattled(), groups="frame").save(tmp_path / "known.safetensors")
    dump = '\ndump d all custom 5 {} id x y z vx vy vz\ndump_modify d sort id format float "%.17g"\nrun 20\nrun 7\n'
    paths = [str(ROOT), "/usr/lib/python3/dist-packages", *site.getsitepackages()]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    found = []
    for name, lines in (("free", ""), ("watched", LINES)):
        (tmp_path / name).write_text(commands_of_copper(900) + lines + dump.format(f"{name}.dump"))
        command = [LMP, "-in", name, "-screen", "none", "-log", f"{name}.log"]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, done.stderr
        thermo = [line for line in (tmp_path / f"{name}.log").read_text().splitlines() if line[:9].strip().isdigit()]
        found.append((thermo, (tmp_path / f"{name}.dump").read_bytes()))
    assert found[0] == found[1]
    assert len(found[0][0]) == 5
    log = read_log(tmp_path / "quests-md.jsonl")
    assert list(log.step) == [0, 5, 10, 15, 20, 25]
    assert np.isfinite(log.temperature_K).all()
    assert "closed after 6 checks" in (tmp_path / "quests-md.jsonl").read_text()
