"""What is said before step 1, and that every kernel is compiled by then."""

import itertools
import math
import re

import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from processes import fresh
from systems import H, alloy, alloy_reference, copper, inside, level_at, md_reference, outside, verlet

from quests_md import Monitor, Reference, Trigger, UnsuitableFrameError, calibrate, read_log


def text_of(atoms, reference=None, calibration=None, **options):
    reference = reference or md_reference()
    calibration = calibration or level_at(reference, -6.0)
    with Monitor(reference, calibration, log=None, on_error="raise", **options) as monitor:
        return monitor.preflight(atoms)


def line(text, name):
    """What stands under a name, in one line."""
    lines = text.splitlines()
    (first,) = [i for i, part in enumerate(lines) if part.startswith(f"  {name} ")]
    more = itertools.takewhile(lambda part: part.startswith(" " * 13), lines[first + 1 :])
    return " ".join([lines[first], *(part.strip() for part in more)])


def in_one_line(text):
    return " ".join(text.split())


def test_the_block_goes_to_stderr_and_to_the_log_and_is_no_check_and_no_event(tmp_path, capsys):
    atoms = outside()
    atoms.calc = EMT()
    with Monitor(md_reference(), log=tmp_path / "run.jsonl", trigger=Trigger(patience=1)) as monitor:
        monitor.attach(verlet(atoms))
        text = capsys.readouterr()
        assert (monitor.n_checks, monitor.events, monitor.last_check) == (0, [], None)
        assert monitor.preflight(bulk("Cu", cubic=True)).startswith("quests_md ")
        assert capsys.readouterr().err == ""  # it returns the block, and does not print it
    log = read_log(tmp_path / "run.jsonl")
    assert text.out == ""
    assert text.err.startswith("quests_md ")
    assert log.notes[0]["level"] == "info"
    assert log.notes[0]["message"] == text.err.rstrip("\n")
    assert len(log) == 0


def test_it_names_reference_level_and_promise():
    reference = md_reference()
    calibration = calibrate(reference, false_alarms=0.05)
    text = text_of(copper(), reference, calibration)
    for part in ("3840 environments of Cu in 120 frames", "h = 0.05 1/Å", "k = 32", "cutoff = 5.0 Å"):
        assert part in line(text, "reference")
    assert reference.fingerprint in text
    for part in calibration.describe(32).splitlines():
        assert in_one_line(part) in in_one_line(text)
    assert max(map(len, text.splitlines())) <= 80
    assert "promise: at most 0.05 false alarms per check" in text


def test_a_start_that_is_covered():
    assert "max not above the level" in line(text_of(inside(0), values="proven"), "start")
    text = text_of(inside(0))
    check = Monitor(md_reference(), level_at(md_reference(), -6.0), log=None).check(inside(0))
    assert "inside the reference: 32 of 32 atoms covered" in line(text, "start")
    assert f"dH mean {check.dh_mean:.2f}, max {check.dh_max:.2f}" in line(text, "start")


def test_a_start_that_is_judged_by_local_scores():
    reference = md_reference()
    calibration = calibrate(reference)
    text = text_of(outside(), reference, calibration)
    names = [part.split()[0] for part in text.splitlines()[1:] if part[2] != " "]
    assert names.index("sight") < names.index("levels") < names.index("start")
    check = Monitor(reference, calibration, log=None).check(outside())
    score, cluster = check.local_score, check.further["local_cluster"]
    said = line(text, "start")
    assert f"OUTSIDE the reference already ({', '.join(check.alarms)}): " in said
    assert f"local score mean {score.mean():.2f}, largest {score.max():.2f} at atom {score.argmax()}; " in said
    assert f"largest cluster above the local level {cluster:.0f} atoms; " in said
    assert f"dH mean {check.dh_mean:.2f}, max {check.dh_max:.2f}; worst: atom {check.worst_atom} (Cu)" in said
    assert line(text, "evaluation").endswith("local scores of 32 atoms, and dH, which raises no alarm")
    proven = text_of(outside(), reference, calibration, values="proven")
    assert "dH mean" not in line(proven, "start")
    assert line(proven, "evaluation").endswith("local scores of 32 atoms")


@pytest.mark.parametrize("values", ["full", "proven"])
def test_a_start_that_is_not(values):
    text = text_of(outside(), values=values)
    assert "OUTSIDE the reference already (dh_max): " in line(text, "start")
    check = Monitor(md_reference(), level_at(md_reference(), -6.0), log=None).check(outside())
    assert f"{32 - check.n_above} of 32 atoms covered" in line(text, "start")
    assert f"worst: atom {check.worst_atom} (Cu)" in line(text, "start")
    assert "is this the reference for this material" in line(text, "start")
    assert f'"{values}" values for 32 atoms' in line(text, "evaluation")


def test_unknown_elements_are_counted():
    atoms = alloy(gold=False)
    atoms.numbers[atoms.numbers == 47] = [47] * 5 + [28] * 3
    text = text_of(atoms, alloy_reference())
    assert "NOT IN THE REFERENCE: 5 Ag, 3 Ni" in line(text, "elements")
    assert "+inf" in line(text, "elements")
    assert "all in the reference" in line(text_of(alloy(), alloy_reference()), "elements")
    blind = Reference.from_frames([copper(seed=i, rattle=0.05) for i in range(3)], bandwidth=H, match="any")
    assert "compared by geometry alone" in line(text_of(atoms, blind), "elements")


@pytest.mark.parametrize("trigger", [Trigger(2, visits=4), Trigger(3, visits=3)])
def test_no_line_breaks_a_number(trigger):
    text = text_of(copper(), md_reference(), calibrate(md_reference(), false_alarms=0.002), trigger=trigger)
    numbers = re.findall(r"\d+(?: \d{3})+\b", in_one_line(text))
    assert numbers
    assert all(any(number in part for part in text.splitlines()) for number in numbers), text
    assert text.replace("\n", "").isprintable()


def test_rows_that_are_blind_to_chemistry_are_named():
    text = text_of(alloy(), alloy_reference())
    assert "blind to which element sits where: atoms of Cu and Au" in line(text, "chemistry")
    assert "Descriptor(chemistry=True)" in line(text, "chemistry")
    assert "  chemistry " not in text_of(copper())


def test_the_volume_is_compared_with_the_reference():
    assert line(text_of(copper()), "volume").endswith("11.76 Å^3/atom; reference 11.76 to 11.76")
    wide = copper()
    wide.set_cell(wide.cell * 1.02, scale_atoms=True)
    assert line(text_of(wide), "volume").endswith("12.48 Å^3/atom; reference 11.76 to 11.76: OUTSIDE that range")
    both = Reference.from_frames([copper(), wide], bandwidth=H, groups="frame")
    middle = copper()
    middle.set_cell(middle.cell * 1.01, scale_atoms=True)
    assert line(text_of(middle, both), "volume").endswith("reference 11.76 to 12.48")
    slab = copper()
    slab.pbc = (True, True, False)
    assert "not defined" in line(text_of(slab), "volume")
    open_reference = Reference.from_frames([slab, slab], bandwidth=H, groups="frame")
    assert "none in the reference is fully periodic" in line(text_of(copper(), open_reference), "volume")


@pytest.mark.parametrize("what", ["positions", "cell"])
def test_an_invalid_start_is_refused_and_an_invalid_frame_later_says_why(what):
    atoms = copper()
    if what == "positions":
        atoms.positions[3] = math.nan
    else:
        atoms.cell[:] = math.nan
    with Monitor(md_reference(), level_at(md_reference(), -6.0), log=None, on_error="raise") as monitor:
        with pytest.raises(UnsuitableFrameError, match=f"{what}: expected finite numbers.*bad input, no explosion"):
            monitor.preflight(atoms)
        monitor.check(copper())
        assert f"INVALID: {what}: expected" in line(monitor.preflight(atoms), "start")


def test_it_says_how_kernels_were_had_and_what_novelty_is_not():
    text = text_of(copper())
    assert re.fullmatch(r"  kernels +loaded in [\d.]+ s", line(text, "kernels"))
    assert "novelty is not error" in text


def test_once_for_new_dynamics_of_the_same_system(capsys):
    atoms = copper(temperature_K=300, calc=EMT())
    with Monitor(md_reference(), log=None) as monitor:
        for _ in range(3):
            dyn = verlet(atoms)
            monitor.attach(dyn, 1)
            dyn.run(2)
        assert capsys.readouterr().err.count("pre-flight") == 1
        monitor.attach(verlet(copper(1, temperature_K=300, calc=EMT())), 1)
        assert capsys.readouterr().err.count("pre-flight") == 1


NO_COMPILATION = """
    import sys
    import systems
    from ase.calculators.emt import EMT
    from numba.core.dispatcher import Dispatcher
    from quests_md import Monitor, Reference, Trigger, save_frame

    def n_signatures():
        modules = [module for name, module in sys.modules.items() if name.startswith("quests_md._kernels.")]
        found = [(f"{m.__name__}.{name}", thing) for m in modules for name, thing in vars(m).items()]
        return {name: len(kernel.signatures) for name, kernel in found if isinstance(kernel, Dispatcher)}

    folder, values, source = sys.argv[1:]
    reference = systems.cold_reference()
    if source != "memory":
        reference.save(folder + "/ref.safetensors")
        reference = Reference.load(folder + "/ref.safetensors", mmap=source == "mmap")
    atoms = systems.copper(temperature_K=600, calc=EMT())
    calibration = systems.level_at(reference, -4.5)
    actions = [save_frame(folder + "/f.extxyz")]
    trigger = Trigger(patience=1)
    with Monitor(reference, calibration, log=None, actions=actions, trigger=trigger, values=values) as monitor:
        dyn = systems.verlet(atoms)
        monitor.attach(dyn, 1)
        before = n_signatures()
        assert before
        dyn.run(15)
        assert monitor.events
        half = atoms.copy()[:16]
        half.pbc = False
        monitor.check(half)
        monitor.check(systems.outside())
    after = n_signatures()
    assert after == before, {name: (before[name], after[name]) for name in after if after[name] != before[name]}
"""


@pytest.mark.slow
@pytest.mark.parametrize("values", ["full", "proven"])
@pytest.mark.parametrize("source", ["memory", "file", "mmap"])
def test_no_kernel_is_compiled_or_loaded_after_it(values, source, tmp_path):
    done = fresh(NO_COMPILATION, tmp_path, values, source)
    assert done.returncode == 0, done.stderr
