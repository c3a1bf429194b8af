"""Python code in a process of its own."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import quests_md

ROOT = Path(quests_md.__file__).parent.parent


def fresh(code, *args, env=None, cwd=None):
    """Run the code with the package and tests/support on its path; return the finished process with its output."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)])} | (env or {})
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=env, cwd=cwd, check=False)
