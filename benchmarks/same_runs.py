"""The same scenarios by two versions of the package: are logs, files, events and numbers equal to the bit.

    python benchmarks/same_runs.py OLD NEW

OLD and NEW are folders of two checkouts, each of which holds quests_md/. Each runs the scenarios of scenarios.py in a
process of its own, in a folder of the same name. What they leave there (logs, flagged frames, arrays, texts of the
command line, pictures) is compared byte by byte, but for what the clock, the process and the host write. Prints a
table, and where each file differs first; ends with 1 if any does. A minute for both, or twice that where kernels have
to be compiled.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from safetensors import safe_open

#: What the clock, the process and the host write, and what stands in its place.
BLANKS = [
    (rb'("elapsed_us": )[^,}]+', rb"\g<1>0"),
    (rb'("(?:started|host|created)": ")[^"]*', rb"\1..."),
    (rb'("pid": )\d+', rb"\g<1>0"),
    (rb"\(process \d+ on [^,]*, since [^)]*\)", b"(...)"),
    (rb"(, started )\d{4}-[-:T+\d]+", rb"\1..."),
    (rb"kernels +(?:loaded|compiled) in [\d.]+ s", b"kernels ..."),
    (rb"quests_md: compiling kernels[^\n]*\n", b""),
    (rb"(checks: )[\d.]+ s in checks, [\d.]+% of the run, [\d.]+ us per atom", rb"\1..."),
    (rb"(created +)\d{4}-[-:T+\d]+", rb"\1..."),
]


def run_version(folder: Path, work: Path, kept: Path) -> None:
    """Run all by the version in a folder; what it leaves goes to `kept`."""
    print(folder, flush=True)
    work.mkdir()
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path, "COLUMNS": "100"}
    environment.setdefault("QUESTS_MD_THREADS", "1")
    begun = time.perf_counter()
    run = subprocess.run(
        [sys.executable, Path(__file__).with_name("scenarios.py"), folder], cwd=work, env=environment, check=False
    )
    if run.returncode:
        sys.exit(f"the scenarios did not end with the version in {folder}")
    print(f"  {'all':<10} {time.perf_counter() - begun:5.1f} s", flush=True)
    work.rename(kept)


def fields(path: Path) -> Iterator[tuple[str, Any]]:
    """What a file holds, by name, without what the clock writes."""
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            yield from ((n, (str(arrays[n].dtype), arrays[n].shape, arrays[n].tobytes())) for n in arrays.files)
        return
    if path.suffix == ".safetensors":
        with safe_open(path, "numpy") as file:
            for name in file.keys():  # noqa: SIM118  # no mapping
                array = file.get_tensor(name)
                yield name, (str(array.dtype), array.shape, array.tobytes())
            header = json.loads(file.metadata()["quests_md"])
        for name, value in header.items():  # the order of keys says nothing
            yield f"header {name}", _blanked(json.dumps({name: value}, sort_keys=True).encode())
        return
    content = _blanked(path.read_bytes())
    if path.suffix in (".png", ".traj"):
        yield "bytes", content
    else:
        yield from ((f"line {i}", line) for i, line in enumerate(content.split(b"\n"), 1))


def _blanked(content: bytes) -> bytes:
    for pattern, blank in BLANKS:
        content = re.sub(pattern, blank, content)
    return content


def difference(old: Path, new: Path) -> str | None:
    """The first difference of two files, None if there is none."""
    for path in (old, new):
        if not path.exists():
            return "only one version wrote it"
    before, after = dict(fields(old)), dict(fields(new))
    different = [name for name in before | after if before.get(name) != after.get(name)]
    if not different:
        return None
    text = f"{len(different)} of {len(before | after)} parts: {', '.join(different[:5])}"
    for which, one, other in (("old", before, after), ("new", after, before)):
        if alone := [name for name in different if name not in other]:
            text += f"\n      in {which} only: {', '.join(alone[:5])}: {str(one[alone[0]])[:100]}"
    for name in different:
        if name in before and name in after:
            return text + f"\n      {name}: " + _first(before[name], after[name])
    return text


def _first(a: Any, b: Any) -> str:
    """Where two arrays or texts differ first."""
    if isinstance(a, tuple):
        return f"{a[:2]} and {b[:2]}, " + _first_number(a, b)
    where = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    cuts = [text[max(0, where - 60) : where + 60].decode(errors="replace") for text in (a, b)]
    return f"byte {where} {_field(a, b)}\n      old: {cuts[0]}\n      new: {cuts[1]}"


def _first_number(a: tuple[str, tuple[int, ...], bytes], b: tuple[str, tuple[int, ...], bytes]) -> str:
    if a[:2] != b[:2]:
        return "another shape or type"
    x, y = (np.frombuffer(c[2], dtype=c[0]) for c in (a, b))
    bits = [z.view(np.dtype((np.void, z.itemsize))) for z in (x, y)]
    places = np.flatnonzero(bits[0] != bits[1])
    return f"{len(places)} entries, the first at {places[0]}: {x[places[0]]!r} and {y[places[0]]!r}"


def _field(a: bytes, b: bytes) -> str:
    """Which field of two log lines differs first, where they are log lines."""
    try:
        lines = [json.loads(text) for text in (a, b)]
        what, path = f"{lines[0]['type']} at step {lines[0].get('step')}: ", []
    except (ValueError, KeyError, TypeError):
        return ""
    while all(isinstance(line, dict) for line in lines):
        path.append(next(key for key in lines[0] | lines[1] if lines[0].get(key) != lines[1].get(key)))
        lines = [line.get(path[-1]) for line in lines]
    return what + ".".join(path)


def main() -> None:
    """Run both, compare, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, metavar="OLD")
    parser.add_argument("new", type=Path, metavar="NEW")
    parser.add_argument("--keep", type=Path, help="a new folder for what both versions leave")
    options = parser.parse_args()
    for folder in (options.old, options.new):
        if not (folder / "quests_md").is_dir():
            sys.exit("expected OLD and NEW, folders that hold quests_md/")
    with TemporaryDirectory() as temporary:
        place = Path(temporary)
        for name, folder in (("old", options.old), ("new", options.new)):
            run_version(folder.resolve(), place / "run", place / name)
        names = sorted(
            {p.relative_to(place / v) for v in ("old", "new") for p in (place / v).rglob("*") if p.is_file()}
        )
        print(f"\n{'what':<44} equal?")
        n_different = 0
        for name in names:
            found = difference(place / "old" / name, place / "new" / name)
            n_different += found is not None
            print(f"{name!s:<44} {'yes' if found is None else 'NO: ' + found}")
        print(f"\n{len(names)} files, {n_different} differ")
        if options.keep:
            shutil.copytree(place, options.keep)
    sys.exit(1 if n_different else 0)


if __name__ == "__main__":
    main()
