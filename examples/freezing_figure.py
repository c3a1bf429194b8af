"""A melt freezes: what the monitor sees, in one picture with snapshots.

python examples/freezing_figure.py run.extxyz --liquid liquid.extxyz --solid crystal.extxyz --out freezing.png

Frames need a time (``info["ps"]`` or ``info["time_ps"]``); names may carry slices of ASE (``run.extxyz@8:``). ``--ptm``
takes a table with columns ``ps`` and ``ptm_crystal``, the share of atoms that template matching calls crystalline.
"""

import argparse
from dataclasses import dataclass, field

import matplotlib as mpl
import numpy as np
from ase import Atoms
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap

from quests_md import Check, Event, Monitor, Reference
from quests_md.environments import clusters
from quests_md.io import frame_time_ps, iter_frames

SOLID, RED, GREEN, GREY, INK = "#0072B2", "#D55E00", "#009E73", "#6b7580", "#1d2733"
#: From far to near.
SOLID_DEPTH = LinearSegmentedColormap.from_list("solid", ["#bcd9ec", "#3d94c9", "#004a7c"])
LIQUID_DEPTH = LinearSegmentedColormap.from_list("liquid", ["#f1f3f5", "#ccd4dc"])
#: Share of the atoms in the largest cluster at the second snapshot; the first is the event, the third the end.
SECOND = 0.25
#: Å, diameter of atoms of the new phase halfway to the eye.
SPHERE = 1.65


@dataclass
class Course:
    """What is drawn."""

    product: str
    checks: list[Check] = field(default_factory=list)
    event: Event | None = None
    event_at: int | None = None
    level: float = 0.0
    kept: dict[str, tuple[int, Atoms, np.ndarray]] = field(default_factory=dict)
    """By the name of a snapshot: index of its check, frame, which atoms are of the product."""
    centres: dict[str, np.ndarray] = field(default_factory=dict)
    """Scaled positions of the largest cluster: it is drawn in the middle."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw how a melt freezes.")
    parser.add_argument("run")
    parser.add_argument("--liquid", nargs="+", required=True, help="frames of the liquid, as cold as the run is")
    parser.add_argument("--solid", nargs="+", required=True, help="frames of the crystal")
    parser.add_argument("--name", default="crystal", help="of the solid, in the legend")
    parser.add_argument("--ptm", help="table with the columns ps and ptm_crystal")
    parser.add_argument("--out", default="freezing.png")
    given = parser.parse_args()
    course = follow(given.run, Reference.from_frames(given.liquid), Reference.from_frames(given.solid), given.name)
    draw(course, None if given.ptm is None else np.genfromtxt(given.ptm, delimiter=",", names=True), given.out)


def follow(run: str, liquid: Reference, solid: Reference, product: str) -> Course:
    """Watch the run and keep three frames of it."""
    course = Course(product)
    with Monitor(liquid, phases={"liquid": liquid, product: solid}, log=None, on_error="raise") as monitor:
        phases = monitor.judge.phases
        assert phases is not None
        for i, frame in enumerate(iter_frames(run)):
            atoms = frame.atoms
            check = monitor.check(atoms, time_ps=frame_time_ps(atoms))
            course.checks.append(check)
            wanted = "end"
            if course.event is None and any(event.phase == product for event in monitor.events):
                course.event = next(event for event in monitor.events if event.phase == product)
                course.event_at, wanted = i, "event"
                course.level = monitor.judge.phase_levels(len(atoms))[product].value
            elif "grown" not in course.kept and size_of(check, product) > SECOND * len(atoms):
                wanted = "grown"
            of_product = phases.assign(atoms) == phases.names.index(product)
            course.kept[wanted] = i, atoms.copy(), of_product
            if of_product.any():
                nucleus = clusters(atoms, of_product, phases.pair_distances)[0]
                phase = 2j * np.pi * atoms.get_scaled_positions()[nucleus]
                course.centres[wanted] = np.angle(np.exp(phase).mean(axis=0)) / (2 * np.pi)
    return course


def size_of(check: Check, product: str) -> int:
    """Atoms in the largest cluster of the product."""
    return (check.phase_clusters or {}).get(product, 0)


def draw(course: Course, ptm: np.ndarray | None, out: str) -> None:
    """The picture."""
    mpl.rcParams.update(
        {
            "font.family": "DejaVu Sans",
            "font.size": 10,
            "axes.edgecolor": GREY,
            "axes.labelcolor": INK,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "xtick.color": GREY,
            "ytick.color": GREY,
            "xtick.labelcolor": INK,
            "ytick.labelcolor": INK,
            "text.color": INK,
        }
    )
    figure = plt.figure(figsize=(10, 8.8))
    grid = figure.add_gridspec(
        3, 3, height_ratios=(3.05, 2.2, 2.0), hspace=0.17, wspace=0.05, left=0.08, right=0.92, top=0.965, bottom=0.06
    )
    names = [name for name in ("event", "grown", "end") if name in course.kept]
    for column, (name, letter) in enumerate(zip(names, "abc", strict=False)):
        draw_atoms(figure.add_subplot(grid[0, column]), course, name, letter)
    shares = figure.add_subplot(grid[1, :])
    draw_shares(shares, course, ptm)
    draw_entropies(figure.add_subplot(grid[2, :], sharex=shares), course)
    figure.savefig(out, dpi=120, facecolor="white")


def draw_atoms(axis: Axes, course: Course, name: str, letter: str) -> None:
    """Atoms seen along the third direction of the cell: near ones larger and darker, the new phase in colour."""
    i, atoms, of_product = course.kept[name]
    scaled = (atoms.get_scaled_positions() - course.centres.get(name, 0.5) + 0.5) % 1.0
    depth = scaled[:, 2]
    x, y, _ = (scaled @ atoms.cell.array).T
    width, height = (float(np.abs(atoms.cell.array[:, k]).sum()) for k in (0, 1))
    order = np.argsort(depth)
    box = axis.get_window_extent().width / axis.figure.dpi * 72
    point = (SPHERE * box / width) ** 2
    for flag, colours, size in ((False, LIQUID_DEPTH, 0.3), (True, SOLID_DEPTH, 1.0)):
        chosen = order[of_product[order] == flag]
        axis.scatter(
            x[chosen],
            y[chosen],
            s=point * size * (0.7 + 0.6 * depth[chosen]) ** 2,
            c=colours(depth[chosen]),
            alpha=0.95 if flag else 0.75,
            linewidths=0.5 if flag else 0,
            edgecolors="white",
            zorder=2 if flag else 1,
        )
    axis.set_aspect("equal")
    axis.set_xlim(0, width)
    axis.set_ylim(0, height)
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(True)
        spine.set_color("#d5dbe1")
    check = course.checks[i]
    size = size_of(check, course.product)
    text = f"{size} atoms" if size < 0.1 * len(atoms) else f"{size / len(atoms):.0%} of the atoms"
    axis.set_title(f"$\\bf{{{letter}}}$   {check.time_ps:g} ps: {text}", fontsize=10.5, loc="left", pad=6)


def mark(axis: Axes, course: Course, *, named: bool) -> None:
    """Where the snapshots were taken, the event in red."""
    letters = zip((n for n in ("event", "grown", "end") if n in course.kept), "abc", strict=False)
    for name, letter in letters:
        ps = course.checks[course.kept[name][0]].time_ps
        colour = RED if name == "event" else "#c3cbd3"
        axis.axvline(ps, color=colour, linewidth=1.1, zorder=0)
        if named:
            axis.annotate(
                letter,
                (ps, 1),
                (0, 3),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                ha="center",
                fontweight="bold",
                color=RED if name == "event" else GREY,
            )


def draw_shares(axis: Axes, course: Course, ptm: np.ndarray | None) -> None:
    """How much has frozen."""
    ps = [check.time_ps for check in course.checks]
    n_atoms = course.checks[0].n_atoms
    cluster = np.array([size_of(check, course.product) for check in course.checks])
    axis.fill_between(ps, np.maximum(cluster, 0.5) / n_atoms * 100, 0.02, color=SOLID, alpha=0.12, linewidth=0)
    axis.plot(
        ps,
        np.maximum(cluster, 0.5) / n_atoms * 100,
        color=SOLID,
        linewidth=1.8,
        label=f"largest {course.product} cluster",
    )
    if ptm is not None:
        share = np.maximum(ptm["ptm_crystal"] * 100, 0.03)
        axis.plot(ptm["ps"], share, color=INK, linewidth=1.3, dashes=(4, 1.6), label="crystalline by template matching")
        axis.axhline(5, color=GREY, linewidth=0.6, dashes=(1, 3))
    if course.event_at is not None:
        axis.axhline(
            course.level / n_atoms * 100,
            color=RED,
            linewidth=0.9,
            dashes=(3, 2),
            label=f"level, {course.level:.0f} atoms",
        )
        axis.annotate(
            "event",
            (ps[course.event_at], 0.0),
            (-5, 8),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="right",
            color=RED,
            fontweight="bold",
        )
    axis.set_yscale("log")
    axis.set_ylim(0.04, 150)
    axis.set_yticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"])
    axis.minorticks_off()
    axis.set_ylabel("share of the atoms (%)")
    axis.tick_params(labelbottom=False)
    axis.legend(loc="lower right", frameon=False, fontsize=9.5)
    mark(axis, course, named=True)


def draw_entropies(axis: Axes, course: Course) -> None:
    """Mean dH with respect to the liquid, and the entropy of the frame itself."""
    ps = [check.time_ps for check in course.checks]
    axis.plot(ps, [check.dh_mean for check in course.checks], color=GREY, linewidth=1.6)
    axis.set_ylabel("mean $\\delta\\mathcal{H}$ to the liquid (nats)", color=GREY)
    axis.set_xlabel("time (ps)")
    axis.set_xlim(ps[0], ps[-1])
    other = axis.twinx()
    other.spines["right"].set_visible(True)
    other.plot(ps, [check.frame_entropy for check in course.checks], color=GREEN, linewidth=1.6)
    other.set_ylabel("entropy of the frame $\\mathcal{H}$ (nats)", color=GREEN)
    mark(axis, course, named=False)


if __name__ == "__main__":
    main()
