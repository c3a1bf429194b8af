"""The way of a frame from Monitor.check to the line of the log: short, so that a reader can follow it."""

import sys
from pathlib import Path

import pytest
from systems import inside, level_at, md_reference

import quests_md
from quests_md import Monitor

PACKAGE = Path(quests_md.__file__).parent


def modules_that_get(thing, work):
    """The modules of the package whose functions get a thing as an argument, in the order of the calls."""
    seen = []

    def look(frame, event, _):
        path, names = Path(frame.f_code.co_filename), frame.f_code.co_varnames
        n_arguments = frame.f_code.co_argcount + frame.f_code.co_kwonlyargcount
        if event == "call" and path.is_relative_to(PACKAGE):
            name = path.relative_to(PACKAGE).as_posix()
            if any(frame.f_locals.get(x) is thing for x in names[:n_arguments]) and seen[-1:] != [name]:
                seen.append(name)

    sys.setprofile(look)
    try:
        work()
    finally:
        sys.setprofile(None)
    return seen


@pytest.mark.parametrize("values", ["full", "proven"])
def test_a_frame_passes_few_modules_and_seldom_turns_back(values, tmp_path):
    known = md_reference()
    with Monitor(known, level_at(known, 9.0), log=tmp_path / "run.jsonl", values=values, on_error="raise") as monitor:
        monitor.check(inside(0))
        atoms = inside(1)
        way = modules_that_get(atoms, lambda: monitor.check(atoms))
    assert way[0] == "monitor.py"
    assert len(set(way)) <= 10, way
    assert len(way) - len(set(way)) <= 5, way
