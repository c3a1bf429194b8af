"""What to know before step 1: does the reference fit the run, and what do the alarms promise."""

import math
import textwrap

import numpy as np
from ase import Atoms
from ase.build import bulk

from quests_md._version import __version__
from quests_md._words import many
from quests_md.calibration import bandwidth_advice, power, rate_of_checks, sight
from quests_md.engine import entropy
from quests_md.environments import Descriptor, largest_cluster
from quests_md.io import frame_temperature_K, periodic_words
from quests_md.judge import Judge, Judged
from quests_md.records import Check
from quests_md.reference import chemistry_advice, differences, frames_words, unknown_elements

from .baseline import Baseline
from .false_events import MOST_VISITING, checks_per_false_event
from .trigger import Trigger

__all__ = ["preflight_text", "warm_up"]

#: Letters of a line.
WIDTH = 80

#: A blank at which no line is broken, until lines are made.
UNBROKEN = "\N{NO-BREAK SPACE}"

#: Most frames of the reference that are disturbed to see what the levels would catch.
MOST_DISTURBED = 10


#: Rows with which kernels are compiled: enough for a search structure, of one element at least.
FEW_ROWS = 16_384

#: Most pairs of rows that a disturbance may cost where levels of plain rows are looked at, about 9 ns each.
MOST_PAIRS = 6e7


def warm_up(judge: Judge) -> None:
    """Compile or load every kernel that a check or an event may need, so that none compiles inside an MD step."""
    crystal = bulk("Cu", cubic=True)
    reference = judge.reference
    # not the descriptor of the reference: one of the user's own may not take this crystal
    entropy(Descriptor()(crystal))
    largest_cluster(crystal, np.ones(len(crystal), dtype=bool), {})
    if not judge.calibration.is_plain:  # a search structure over all rows is not built before it is needed
        reference = reference.sketch(FEW_ROWS, 0)
    if reference.n_environments:
        z = reference.numbers[:1]
        reference.nearest(reference.rows[:1], numbers=z)
        reference.delta_entropy(reference.rows[:1], numbers=z)
        reference.delta_entropy(reference.rows[:1], numbers=z, float64=True)
        reference.is_covered(reference.rows[:1], 0.0, numbers=z)


def preflight_text(
    judge: Judge, start: Judged, atoms: Atoms, trigger: Trigger, baseline: Baseline | None = None, pace: str = ""
) -> str:
    """The pre-flight block for a start structure; `pace`: its time step and how often it is checked, in words."""
    reference = judge.reference
    lines = [f"quests_md {__version__}: pre-flight"]

    def add(name: str, text: str) -> None:
        lines.extend(_block(name, text))

    settings = reference.settings
    shape = f", k = {settings['k']}, cutoff = {settings['cutoff']} Å" if "k" in settings else ""
    if "average" in settings:
        shape += f", rows averaged over {settings['average']} neighbours"
    if settings.get("chemistry"):
        shape += ", rows see chemistry"
    add(
        "reference",
        f"{reference.n_environments} environments of {', '.join(reference.elements) or 'no element'} in "
        f"{reference.n_frames} frames; h = {reference.bandwidth} 1/Å{shape}; {reference.fingerprint}",
    )
    pairs = reference.n_environments * reference.arrays.frame_natoms.max(initial=0) * MOST_DISTURBED
    if judge.calibration.is_local or pairs <= MOST_PAIRS:  # of plain rows it may take long
        found = power(
            reference, judge.calibration, n_atoms=len(atoms), most_frames=MOST_DISTURBED, threads=judge.threads
        )
        add("sight", sight(found, reference))
    add("levels", judge.promise(np.asarray(atoms.numbers)[reference.is_center(atoms.numbers)]))
    if judge.confirm is not None:
        add("confirm", _confirm_text(judge.confirm, atoms))
    if baseline is not None:
        add("baseline", baseline.forecast(judge.check_ps))
    add("events", _events_text(trigger, _rate_of_checks(judge, atoms)))
    if judge.phases is not None:
        add("phases", judge.phases.describe())
        temperature_K = frame_temperature_K(atoms)
        doubt = None if temperature_K is None else judge.phases.temperature_doubt(temperature_K, len(atoms))
        if doubt is not None:
            add("", f"WARNING: {doubt}")
    check = start.check
    if check.state == "invalid":
        add("start", f"INVALID: {start.reason}")
    else:
        covered = check.n_atoms - check.n_above
        verdict = "inside the reference"
        if check.state == "in" and check.confirm_excess is not None:
            verdict = "outside the reference, but called off by the second one (confirm)"
        if check.state == "in" and check.n_colder is not None:
            verdict = "colder than the reference or at rest, but in a structure that it holds in motion: no alarm"
        if check.state == "out":
            verdict = f"OUTSIDE the reference already ({', '.join(check.alarms)})"
        add(
            "start",
            f"{verdict}: {covered} of {check.n_atoms} atoms covered; {_scores_text(judge, check)}"
            + (f"; worst: atom {check.worst_atom} ({check.worst_element})" if check.n_above else ""),
        )
        if check.n_atoms > 1 and reference.n_environments and covered < 0.5 * check.n_atoms:
            add("", "most atoms are outside: is this the reference for this material, phase and temperature?")
    add("elements", _elements_text(judge, atoms))
    add("frames", f"{_frame_text(atoms)}{pace and '; '}{pace}\nthe reference: {frames_words(reference)}")
    for doubt in differences(reference, atoms):
        add("", f"WARNING: {doubt}")
    advice = chemistry_advice(reference)
    if advice is not None:
        add("chemistry", advice)
    advice = bandwidth_advice(reference, judge.calibration)
    if advice is not None:
        add("bandwidth", advice)
    add("volume", _volume_text(judge, check.volume_per_atom))
    add("evaluation", _evaluation_text(judge, len(atoms)))
    add("note", "novelty is not error: a new phase can be well predicted, a covered one badly fitted")
    return "\n".join(lines)


def _block(name: str, text: str) -> list[str]:
    """Lines of a text of the block, after its name, none longer than WIDTH."""
    lines = []
    for i, line in enumerate(text.split("\n")):
        start = f"  {name if i == 0 else '':<10} "
        depth = len(line) - len(line.lstrip())
        lines += textwrap.wrap(
            line.strip(),
            WIDTH,
            initial_indent=start + " " * depth,
            subsequent_indent=" " * (len(start) + depth + 2 * (i > 0 or depth > 0)),
            break_long_words=False,
            break_on_hyphens=False,
        ) or [start.rstrip()]
    return [line.replace(UNBROKEN, " ") for line in lines]


def _events_text(trigger: Trigger, rate: float | None) -> str:
    """What opens an event, and how rarely chance does by itself."""
    visits, window = trigger.visits, trigger.window
    by = [f"{many(trigger.patience, 'check')} out in a row", f"{trigger.patience_ps} ps out"]
    rules = [by[trigger.patience_ps is not None]] + ([] if visits is None else [f"{visits} visits in {window} checks"])
    text = f"opened by {' or '.join(rules)}"
    if visits is None:
        text += "; short departures are not counted (Trigger(visits=...) counts them)"
    if rate is None:
        return f"{text}\nno rate of false alarms is promised: nothing is known of how often chance opens one"
    if trigger.patience_ps is not None:
        return text

    def rarity(again: float | None) -> str:
        said = {
            "in a row": checks_per_false_event(rate, patience=trigger.patience, again=again),
            "by visits": np.inf
            if visits is None
            else checks_per_false_event(min(rate, MOST_VISITING), visits=visits, window=window, again=again),
        }
        return ", ".join(f"{name} {_rounded(n)}" for name, n in said.items() if np.isfinite(n))

    text += f"\nby chance, with {rate:.2g} of the checks out, once in so many independent checks: {rarity(None)}"
    if rate >= 0.5:
        return text
    return f"{text}; where half of the checks out are followed by another: {rarity(0.5)}"


def _rate_of_checks(judge: Judge, atoms: Atoms) -> float | None:
    """Share of checks of such frames that chance puts out, as the levels promise; None: nothing is promised."""
    numbers = np.asarray(atoms.numbers)[judge.reference.is_center(atoms.numbers)]
    levels = judge.frame_levels(numbers, judge.mode(len(atoms)))
    in_use = [level for level in levels if level.statistic in judge.calibration.statistics]
    return rate_of_checks(in_use, judge.calibration.looks(judge.checks, judge.check_ps))


def _rounded(n: float) -> str:
    """A number of checks to two digits, which no line breaks."""
    return f"{float(f'{n:.2g}'):,.0f}".replace(",", UNBROKEN) if n < 1e9 else "more than 1e9"


def _scores_text(judge: Judge, check: Check) -> str:
    """The numbers of the start structure that are judged, and its dH."""
    said = []
    if judge.calibration.is_local and check.local_score is not None and not np.isnan(check.local_score).all():
        scores = check.local_score
        at = int(np.nanargmax(scores))
        said.append(f"local score mean {np.nanmean(scores):.2f}, largest {scores[at]:.2f} at atom {at}")
        cluster = check.statistic("local_cluster")
        if cluster is not None:
            said.append(f"largest cluster above the local level {many(round(cluster), 'atom')}")
    if not said or check.dh_mean is not None:
        top = "not above the level" if check.dh_max is None else f"{check.dh_max:.2f}"
        mean = "none" if check.dh_mean is None else f"{check.dh_mean:.2f}"
        said.append(f"dH mean {mean}, max {top}")
    return "; ".join(said)


def _confirm_text(second: Judge, atoms: Atoms) -> str:
    reference = second.reference
    return (
        f"alarms stand only if this reference has some too: {reference.n_environments} environments; "
        f"{reference.fingerprint}\nrows by {reference.descriptor.fingerprint}\n"
        + second.promise(np.asarray(atoms.numbers)[reference.is_center(atoms.numbers)])
    )


def _evaluation_text(judge: Judge, n_atoms: int) -> str:
    mode = judge.mode(n_atoms)
    if judge.calibration.is_plain:
        return f'"{mode}" values for {n_atoms} atoms'
    return f"local scores of {many(n_atoms, 'atom')}{', and dH, which raises no alarm' if mode == 'full' else ''}"


def _frame_text(atoms: Atoms) -> str:
    """Elements, number of atoms and periodic directions of a frame."""
    symbols, counts = np.unique(atoms.get_chemical_symbols(), return_counts=True)
    named = " ".join(f"{symbol}{count}" for symbol, count in zip(symbols, counts, strict=True))
    return f"{many(len(atoms), 'atom')} ({named}), {periodic_words(atoms)}"


def _elements_text(judge: Judge, atoms: Atoms) -> str:
    unknown = unknown_elements(judge.reference, atoms)
    if not unknown:
        return "all in the reference"
    counts = ", ".join(f"{n} {symbol}" for symbol, n in unknown.items())
    if judge.reference.match == "any":
        return f"NOT IN THE REFERENCE: {counts}; compared by geometry alone (match='any')"
    return f"NOT IN THE REFERENCE: {counts}; these atoms score +inf and every check will be out"


def _volume_text(judge: Judge, volume: float | None) -> str:
    volumes = judge.reference.arrays.frame_volume / judge.reference.arrays.frame_natoms
    volumes = volumes[np.isfinite(volumes)]
    if volume is None or not math.isfinite(volume):
        return "not defined without three periodic directions"
    if len(volumes) == 0:
        return f"{volume:.2f} Å^3/atom; none in the reference is fully periodic"
    low, high = float(volumes.min()), float(volumes.max())
    text = f"{volume:.2f} Å^3/atom; reference {low:.2f} to {high:.2f}"
    return text if low * 0.999 <= volume <= high * 1.001 else text + ": OUTSIDE that range"
