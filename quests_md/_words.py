"""Words that several rooms print: numbers of things, texts out of files, and an event told in a paragraph."""

import math
import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .records import Environment, Event, NearestEnvironment

__all__ = ["LONGEST_LINE", "describe_event", "many", "nats", "one_line", "printable", "told"]

#: What is said of a transition without a phase; the reason may say it already.
UNKNOWN_PHASE = "; which phase is not known"

#: Letters of a line of words, and atoms of an explosion that are named.
WIDTH, MOST_NAMED = 80, 8

#: Environments that are described: an event of a log may have any number of them.
MOST_ENVIRONMENTS = 3

#: Letters of a line that is printed, and of a text within a line: a file may hold megabytes of it.
LONGEST_LINE, LONGEST_TEXT = 4000, 300


def many(count: int, noun: str) -> str:
    """A number of things: "1 frame", "2 frames"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def nats(value: float) -> str:
    """A number of nats with two decimals, of very large ones three digits."""
    return f"{value:.2f}" if not abs(value) >= 1e6 else f"{value:.3g}"


def printable(text: str, most: int = LONGEST_LINE) -> str:
    """A text, perhaps out of a file, as a terminal can show it: lines and tabs are kept, long lines are cut.

    "?" stands for what would steer the terminal or hide what is written: escape and other control characters, marks
    that turn the direction of writing, separators of other alphabets, halves of characters.
    """
    if text.isprintable() and len(text) <= most:
        return text
    cut = (line if len(line) <= most else f"{line[:most]} ..." for line in text.split("\n"))
    return "\n".join(_visible(line, kept="\t") for line in cut)


def one_line(text: str, most: int = LONGEST_TEXT) -> str:
    """A text, perhaps out of a file, as a part of a line: any white space is one blank, and it is cut where long."""
    short = " ".join(text[: 2 * most].split())
    is_cut = len(short) > most or len(text) > 2 * most
    return _visible(f"{short[: most - 3]}..." if is_cut else short)


def _visible(line: str, kept: str = "") -> str:
    return line if line.isprintable() else "".join(c if c.isprintable() or c in kept else "?" for c in line)


def describe_event(event: "Event") -> str:
    """What `Event.describe` says."""
    first, last = event.onset_step, event.last_step
    steps = f"step {first}" if first == last else f"steps {first} to {last}"
    lines = [f"event {event.id}: {event.kind}, {steps}{', still open' if event.is_open else ''}"]
    for name, text in _facts(event):
        lines += textwrap.wrap(one_line(text, 1000), WIDTH, initial_indent=f"  {name:<9}", subsequent_indent=" " * 11)
        if name == "began":
            lines += _places(event)
    if event.kind != "exploded":
        lines += _worst_atoms(event)
    return "\n".join(_visible(line[:WIDTH]) for line in lines)


def told(event: "Event") -> str:
    """Which event it is, and what made it one, in a part of a sentence."""
    why = f": {one_line(event.reason, LONGEST_TEXT)}" if event.reason else ""
    return f"event {event.id} ({event.kind}, {many(event.n_atoms, 'atom')}, since step {event.onset_step}){why}"


def _facts(event: "Event") -> list[tuple[str, str]]:
    """What is known of the event as a whole, by the name that stands before it."""
    began = [f"step {event.onset_step}"]
    if event.onset_time_ps is not None:
        began.append(f"{event.onset_time_ps:.2f} ps")
    if event.onset_temperature_K is not None:
        began.append(f"{event.onset_temperature_K:.0f} K")
    facts = [("means", _meaning(event))]
    facts.append(("began", f"{', '.join(began)}; confirmed at step {event.confirmed_step}"))
    if event.kind == "exploded":
        if event.atoms:
            named = ", ".join(map(str, event.atoms[:MOST_NAMED])) + (", ..." if event.n_atoms > MOST_NAMED else "")
            which = "" if event.worst_atom is None else f"; the worst is {event.worst_atom} ({_element(event)})"
            facts.append(("atoms", f"{event.n_atoms}: {named}{which}"))
        return facts
    if event.alarms:
        facts.append(("alarms", ", ".join(event.alarms)))
    peak_atoms, sized_atoms = _which_atoms(event)
    n_atoms = f"{many(event.n_atoms, 'atom')} {peak_atoms}" if event.n_atoms else "no single atom is above the level"
    facts.append(("peak", f"step {event.peak_step}: {_beyond(event)}; {n_atoms}"))
    sizes = [size for _, size in event.size_history]
    if len(sizes) > 1 and any(sizes):
        onset = f"{many(sizes[0], 'atom')} {sized_atoms} at the onset"
        facts.append(("size", f"{onset}, at most {max(sizes)}, {sizes[-1]} at last"))
    return facts


def _places(event: "Event") -> list[str]:
    """Which frames of which files the event is of, in a line for each file; none where frames came from no files."""
    first, peak, last = event.onset_place, event.peak_place, event.last_place
    if first is None or last is None:
        return []
    lines = [_in_file("  where    ", f"frame {first.frame} of ", first.source)]
    if last.source != first.source:
        lines.append(_in_file(" " * 11, f"to frame {last.frame} of ", last.source))
    elif last.frame != first.frame:
        lines = [_in_file("  where    ", f"frames {first.frame} to {last.frame} of ", first.source)]
    if peak is not None and peak not in (first, last):
        same = peak.source in (first.source, last.source) and first.source == last.source
        lines.append(
            f"{'':<11}worst in frame {peak.frame}"
            if same
            else _in_file(" " * 11, f"worst in frame {peak.frame} of ", peak.source)
        )
    return lines


def _in_file(start: str, frame: str, source: str) -> str:
    """A line that ends in the name of a file, whose beginning is cut where there is no room for it."""
    room = WIDTH - len(start) - len(frame)
    return f"{start}{frame}{source if len(source) <= room else '...' + source[3 - room :]}"


def _meaning(event: "Event") -> str:
    """What the kind of the event says and what it does not, in a sentence."""
    if event.kind == "exploded":
        invalid = "non-finite numbers or no usable cell" if math.isnan(event.peak_excess) else ""
        return f"broken: {event.reason or invalid or 'numbers that no simulation should have'}"
    if event.kind == "novel":
        return event.reason or "outside the reference; whether the potential fails here is not known"
    if event.phase is not None:
        size = "" if event.cluster is None else f" to {many(event.cluster, 'atom')}"
        return event.reason or f"a cluster of {event.phase} grew{size}"
    what = event.reason.removesuffix(UNKNOWN_PHASE) or "the run differs from its own beginning"
    return f"{what}{UNKNOWN_PHASE}, a change of temperature can look the same"


def _beyond(event: "Event") -> str:
    """How far the peak is beyond the level, with the unit where it is known which one it is."""
    alarms, value = set(event.alarms), _short(event.peak_excess)
    if event.phase is not None or any(name.endswith("_drift") for name in alarms):
        return f"{value} beyond the level"
    if "dh_max" in alarms:
        return f"{value}{' nats' if event.kind == 'novel' else ''} beyond the level"
    if alarms and alarms <= {"local_cluster", "local_tail"}:
        return f"{_short(math.exp(min(event.peak_excess, 700.0)))} times as many atoms as the level"
    if alarms and alarms <= {"local_mean", "local_max"}:
        return f"{value} deviations beyond the level"
    if alarms & {"local_mean", "local_max"}:
        return f"{value} beyond the level (deviations, or log of a ratio of atoms)"
    return f"{value} beyond the level"


def _which_atoms(event: "Event") -> tuple[str, str]:
    """Which atoms are counted at the peak, and which along the event."""
    if event.phase is not None:
        return (f"in the cluster of {event.phase}",) * 2
    if not event.is_cluster:
        return ("above the level",) * 2
    is_local = "local_cluster" in event.alarms and "tail_cluster" not in event.alarms
    clustered = f"in the cluster above the {'local' if is_local else 'atom'} level"
    return ("flagged" if {"dh_max", "dh_q99", "local_max"} & set(event.alarms) else clustered), clustered


def _worst_atoms(event: "Event") -> list[str]:
    """A line or two for each of the worst atoms: what it is, and which known environment is nearest."""
    worst = event.environments[:MOST_ENVIRONMENTS]
    atoms = [(f"atom {e.atom} ({one_line(e.element, 20)}): {_numbers(e)}", e.nearest) for e in worst]
    if not atoms and event.worst_atom is not None:
        atoms = [(f"atom {event.worst_atom} ({_element(event)})", event.nearest)]
    lines = []
    for i, (atom, near) in enumerate(atoms):
        lines += _with_nearest(f"{'' if i else '  worst':<11}{atom}; ", near)
    return lines


def _element(event: "Event") -> str:
    """The element of the worst atom, which a file may call anything."""
    return one_line(str(event.worst_element), 20)


def _numbers(environment: "Environment") -> str:
    """The numbers of an atom of an event in words."""
    local = "" if environment.local_score is None else f"local score {_short(environment.local_score)}, "
    return f"{local}dH {_short(environment.delta_entropy)}, {many(environment.coordination, 'neighbour')}"


def _with_nearest(start: str, near: "NearestEnvironment | None") -> list[str]:
    """The beginning of a line with the nearest known environment, which has its own line where that is too long."""
    if near is None:
        text = f"{start}an element that the reference has never seen"
        return textwrap.wrap(text, WIDTH, subsequent_indent=" " * 13)
    distance = f"{_short(near.distance)} bandwidths from"
    before = []
    if len(start) + len(distance) > WIDTH:
        before, start = [start.rstrip()], " " * 13
    start += distance
    source = "known" if near.source == "memory" else near.source
    place = f" frame {near.frame} atom {near.atom}"
    if len(start) + 1 + len(source) + len(place) <= WIDTH:
        return [*before, f"{start} {source}{place}"]
    room = WIDTH - 13 - len(place)
    return [*before, start, f"{'':<13}{source if len(source) <= room else '...' + source[3 - room :]}{place}"]


def _short(value: float) -> str:
    return f"{value:.1f}" if not 1e6 <= abs(value) < math.inf else f"{value:.1e}"
