"""The house of the code: rooms on floors, as the table of docs/design.md has them, and how large a thing may be."""

import ast
import importlib
import re
from pathlib import Path

import pytest

import quests_md

PACKAGE = Path(quests_md.__file__).parent
TESTS = Path(__file__).parent

#: The most lines of a module and of a class, and the most attributes of a class.
MODULE_LINES, CLASS_LINES, ATTRIBUTES = 500, 300, 12

#: What may be larger, and why. An exception that is no longer needed fails.
LARGER = {
    "records.Check": "its fields are the columns of a log",
    "records.Event": "its fields are those of an event line in a log",
    "log.line_types._Header": "its fields are those of the first line of a log",
    "log.line_types._Calibration": "its fields are those of a part of that line",
    "watch.state_types._Course": "its fields are those of an event in a snapshot of a log",
    "log.reader.Log": "its columns are the fields of Check",
    "reference.contents.ReferenceArrays": "its fields are the arrays of a reference file",
    "calibration.statistics.Statistic": "its fields are the columns of the registry of statistics",
    "io.lammps_snapshot.Snapshot": "its fields are the items of a frame in a dump",
}

#: Names in doors for users alone: types of public attributes, to be named in annotations, and the version of a file.
FOR_USERS = {*quests_md.__all__, "SCHEMA", "Kind", "Nearest"}

#: Private names of other libraries, which have no public ones for it.
FOREIGN = {"_exit", "_suptitle", "_left_title"}


def module_name(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "__init__"


def room_of(name):
    return name.partition(".")[0]


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}
DOORS = [name for name, path in MODULES.items() if path.name == "__init__.py" and name not in ("__init__", "_kernels")]

DESIGN = (TESTS.parent / "docs" / "design.md").read_text(encoding="utf-8")

#: The floor of each room (a folder, or a module beside the folders), from the table of docs/design.md.
FLOOR = {
    room: int(floor)
    for floor, rooms in re.findall(
        r"^\| (\d+) \| ([^|]*) \|",
        DESIGN,
        flags=re.MULTILINE,
    )
    for room in re.findall(r"`(\w+)`", rooms)
}


def imports(name, *, at_run_time=False):
    """All imports of a module, as pairs: the module of the package ("" for another package), the name ("" for none).

    At run time: but for those that only type checkers see.
    """
    seen = [part for part in TREES[name].body if not (at_run_time and ast.unparse(part).startswith("if TYPE_CHECKING"))]
    package = name.split(".") if MODULES[name].name == "__init__.py" else name.split(".")[:-1]
    package = [part for part in package if part != "__init__"]
    for node in (node for part in seen for node in ast.walk(part)):
        if isinstance(node, ast.Import):
            found = [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ["quests_md", *package[: len(package) - node.level + 1]] if node.level else []
            found = [(".".join([*base, *filter(None, [node.module])]), alias.name) for alias in node.names]
        else:
            continue
        for module, item in found:
            top, _, inside = module.partition(".")
            if top != "quests_md":
                yield "", top
            elif (deeper := f"{inside}.{item}".strip(".")) in MODULES:
                yield deeper, ""
            else:
                yield inside or "__init__", item


def test_the_parser_of_imports_sees_what_there_is():
    found = set(imports("reference.reference"))
    assert {("environments", "DescriptorLike"), ("engine", "best_bandwidth"), ("", "numpy"), ("", "ase")} <= found
    assert "_kernels.neighbors" in {module for module, _ in imports("_kernels.rows")}


def test_every_room_has_one_floor():
    assert {room_of(name) for name in MODULES} == set(FLOOR)


def test_the_modules_that_the_design_names_exist():
    named = [TESTS.parent / path for path in re.findall(r"`([\w/]+\.py)`", DESIGN)]
    assert [path for path in named if not (path.exists() or (PACKAGE / path.relative_to(TESTS.parent)).exists())] == []


@pytest.mark.parametrize("name", MODULES)
def test_a_room_imports_from_lower_floors_alone_and_by_doors(name):
    """The ground floor is one room; kernels are imported by their modules; numba is imported by kernels alone."""
    floor = FLOOR[room_of(name)]
    for module, item in imports(name):
        if module == "":
            assert item != "numba" or room_of(name) == "_kernels"
        elif room_of(module) != room_of(name):
            assert FLOOR[room_of(module)] < floor or FLOOR[room_of(module)] == floor == 0, module
            if (name, module) != ("lammps", "hosts.lammps_ase"):  # a documented path, no door
                assert "." not in module or room_of(module) == "_kernels", f"{module}: not by the door"


def test_no_circle_within_a_room():
    edges = {
        name: {module for module, _ in imports(name, at_run_time=True) if room_of(module) == room_of(name)} - {name}
        for name in MODULES
    }
    while free := [name for name, others in edges.items() if not others & set(edges)]:
        for name in free:
            del edges[name]
    assert edges == {}


@pytest.mark.parametrize("room", DOORS)
def test_a_door_says_what_the_room_is_for_and_lists_what_others_use(room):
    listed = set(importlib.import_module(f"quests_md.{room}").__all__)
    used = {
        item for name in MODULES if room_of(name) != room for module, item in imports(name) if module == room and item
    }
    public = FOR_USERS if room in ("reference", "calibration") else set()  # documented paths
    assert len((ast.get_docstring(TREES[room]) or "").splitlines()) == 1
    assert used <= listed
    assert listed <= used | public, listed - used - public
    assert not {f"{room}.{item}" for item in listed} & set(MODULES), "a name hides a module"


@pytest.mark.parametrize("name", [name for name in MODULES if name not in ("_kernels", "__main__")])
def test_every_module_lists_its_public_names(name):
    module = importlib.import_module("quests_md" if name == "__init__" else f"quests_md.{name}")
    assert len(set(module.__all__)) == len(module.__all__)
    assert [item for item in module.__all__ if not hasattr(module, item)] == []


def test_all_of_the_package_is_complete_sorted_and_resolves():
    imported = {item: module for module, item in imports("__init__")}
    assert imported.pop("__version__") == "_version"
    assert imported.pop("") == "_starting"  # imported for what it does
    assert quests_md.__all__ == sorted(imported)
    for item, module in imported.items():
        source = importlib.import_module(f"quests_md.{module}")
        assert item in source.__all__
        assert getattr(quests_md, item) is getattr(source, item)


def test_nothing_is_too_large():
    large = set()
    for name, path in MODULES.items():
        if room_of(name) != "_kernels" and len(path.read_text(encoding="utf-8").splitlines()) > MODULE_LINES:
            large.add(name)
        for item in ast.walk(TREES[name]):
            if isinstance(item, ast.ClassDef):
                names = {x.target.id for x in item.body if isinstance(x, ast.AnnAssign)}
                names |= {
                    x.attr
                    for x in ast.walk(item)
                    if isinstance(x, ast.Attribute) and isinstance(x.ctx, ast.Store) and ast.unparse(x.value) == "self"
                }
                if len(names) > ATTRIBUTES or item.end_lineno - item.lineno >= CLASS_LINES:
                    large.add(f"{name}.{item.name}")
    assert large == set(LARGER)


def private_names(path):
    """Names with one underscore that a test takes from elsewhere: imported, read from an object, or patched."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module != "quests_md":
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) not in ("self", "cls"):
            names = [node.attr]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "monkeypatch.setattr":
            names = [str(arg.value).rpartition(".")[2] for arg in node.args[:2] if isinstance(arg, ast.Constant)]
        yield from (name for name in names if re.match(r"_[^_]", name) and name not in FOREIGN)


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=lambda path: path.name)
def test_tests_touch_no_private_name(path):
    """Modules of the ground floor have names with an underscore, as the room `_kernels` has: these are no secrets."""
    found = [name for name in private_names(path) if name not in FLOOR]
    assert found == []
