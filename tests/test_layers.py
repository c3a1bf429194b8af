import ast
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import quests_md

PACKAGE = Path(quests_md.__file__).parent

#: A module may import modules of lower levels only.
LEVELS = (
    ("errors", "hosts", "identities", "typed", "_kernels", "_kernels.jit", "_kernels.threads", "_kernels.vectors"),
    (
        "_kernels.neighbors",
        "_kernels.sums",
        "_kernels.tiles",
        "records",
        "appender",
        "loglines",
        "validation",
        "files",
        "progress",
        "cusum",
        "budget",
        "tails",
        "xyz",
    ),
    (
        "_kernels.rows",
        "_kernels.likelihood",
        "_kernels.dense",
        "_kernels.leaves",
        "geometry",
        "lammps_dump",
        "logfile",
        "grouping",
        "entropy",
        "trigger",
    ),
    ("compilation", "frames", "journal", "lammps", "spans"),
    ("descriptor", "captions", "clusters", "explosion", "bandwidth", "index", "reference_file", "levels", "baseline"),
    ("reference_build", "frame_statistics", "smoothing", "events"),
    ("reference",),
    ("heldout", "phases"),
    ("calibration",),
    ("judge", "power"),
    ("preflight", "header", "flagged", "panels", "follower"),
    ("resume",),
    ("monitor",),
    ("actions", "trajectory", "plot"),
    ("demo", "tables"),
    ("cli",),
    ("", "__main__"),
)
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}


def module_name(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(name, path):
    """Modules of the package, by name inside it, and other top-level packages that a module imports anywhere."""
    own, foreign = set(), set()
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            bases, names = [alias.name for alias in node.names], []
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            bases, names = [node.module], [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = [part for part in package if part][: len(package) - (node.level - 1)]
            bases = [".".join(["quests_md", *base, *([node.module] if node.module else [])])]
            names = [alias.name for alias in node.names]
        else:
            continue
        for base in bases:
            top, _, inside = base.partition(".")
            if top != "quests_md":
                foreign.add(top)
                continue
            for item in names or [""]:
                if (inside, item) == ("", "__version__"):  # a constant, there before anything is imported
                    continue
                deeper = f"{inside}.{item}".strip(".")
                own.add(deeper if deeper in MODULES else inside)
    return own, foreign


def test_the_parser_of_imports_sees_what_there_is():
    own, foreign = imports("reference", PACKAGE / "reference.py")
    assert {"reference_file", "_kernels.sums", "descriptor", "errors"} <= own
    assert {"numpy", "ase", "os"} <= foreign
    assert "_kernels.neighbors" in imports("_kernels.rows", PACKAGE / "_kernels" / "rows.py")[0]


def test_every_module_has_one_level():
    assert sorted(set(MODULES) - set(LEVEL)) == []
    assert len(LEVEL) == sum(len(names) for names in LEVELS)


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_downwards(name):
    own, _ = imports(name, MODULES[name])
    assert {other: LEVEL[other] for other in own if LEVEL[other] >= LEVEL[name]} == {}


@pytest.mark.parametrize("name", MODULES)
def test_numba_is_imported_by_kernels_alone(name):
    _, foreign = imports(name, MODULES[name])
    assert "numba" not in foreign or name.startswith("_kernels.")


@pytest.mark.parametrize("name", [name for name in MODULES if name not in ("_kernels", "__main__")])
def test_every_module_lists_its_public_names(name):
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    listed, defined = None, set()
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            listed = ast.literal_eval(node.value)
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.ImportFrom):
            defined |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            defined |= {ast.unparse(t) for t in (node.targets if isinstance(node, ast.Assign) else [node.target])}
    assert listed is not None
    assert sorted(set(listed) - defined) == []
    assert len(set(listed)) == len(listed)


def test_the_version_is_there_before_anything_is_imported():
    first = next(node for node in ast.parse((PACKAGE / "__init__.py").read_text()).body if not is_docstring(node))
    assert ast.unparse(first) == f"__version__ = {quests_md.__version__!r}"


def is_docstring(node):
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def test_all_of_the_package_is_complete_sorted_and_resolves():
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    imported = [
        (node.module, alias.name) for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    ]
    assert quests_md.__all__ == sorted(name for _, name in imported)
    for module, name in imported:
        source = importlib.import_module(f"quests_md.{module}")
        assert name in source.__all__
        assert getattr(quests_md, name) is getattr(source, name)


IMPORT_QUIETLY = """
import json, locale, logging, os, signal, sys, threading, warnings
import ase, ase.io, ase.io.trajectory, ase.io.extxyz, ase.geometry, ase.data
import numba, numpy, rich.progress, safetensors.numpy, scipy.sparse.csgraph, scipy.special

def state():
    loggers = {
        name: [repr(h) for h in logger.handlers] + [logger.level]
        for name, logger in logging.root.manager.loggerDict.items() if isinstance(logger, logging.Logger)
    }
    return {
        "filters": [repr(f) for f in warnings.filters],
        "showwarning": repr(warnings.showwarning),
        "root": [repr(h) for h in logging.root.handlers] + [logging.root.level],
        "loggers": {name: value for name, value in loggers.items() if value != [0]},
        "numba": [numba.config.NUMBA_NUM_THREADS, numba.config.THREADING_LAYER, numba.get_num_threads()],
        "threads": [t.name for t in threading.enumerate()],
        "environment": dict(os.environ),
        "signals": [repr(signal.getsignal(s)) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)],
        "hooks": [repr(sys.excepthook), repr(sys.unraisablehook), repr(threading.excepthook)],
        "numpy": [numpy.geterr(), numpy.get_printoptions()["precision"], numpy.random.get_state()[1].tolist()],
        "locale": locale.setlocale(locale.LC_ALL),
        "cwd": os.getcwd(),
        "path": list(sys.path),
    }

before = state()
import quests_md
after = state()
changed = [key for key in before if before[key] != after[key]]
heavy = [m for m in ("matplotlib", "torch", "typer", "quests", "lammps") if m in sys.modules]
with open(sys.argv[1], "w") as file:
    json.dump({"changed": changed, "heavy": heavy}, file)
"""


def test_import_does_nothing_visible(tmp_path):
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    environment = dict(os.environ, HOME=str(home), XDG_CACHE_HOME=str(home / "cache"))
    environment.pop("PYTHONWARNINGS", None)
    result = tmp_path / "result.json"
    run = subprocess.run(
        [sys.executable, "-c", IMPORT_QUIETLY, str(result)], cwd=work, env=environment, capture_output=True, text=True
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    assert json.loads(result.read_text()) == {"changed": [], "heavy": []}
    assert list(work.iterdir()) == []
    assert list(home.rglob("*")) == []
