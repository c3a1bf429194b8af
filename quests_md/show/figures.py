"""What all pictures share: colours, an empty figure, its title, and what the checks of a log are drawn over."""

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from quests_md._words import one_line
from quests_md.log import Log

if TYPE_CHECKING:  # importing matplotlib takes half a second, which a monitor need not spend
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "EVENT_COLOURS",
    "FEW_CHECKS",
    "PICTURE_SUFFIXES",
    "Abscissa",
    "Colour",
    "dots",
    "finished",
    "new_figure",
    "phase_colours",
    "put_title",
    "short_name",
    "tidy",
    "write_at",
]

#: Names that a picture may end in.
PICTURE_SUFFIXES = (".png", ".pdf", ".svg", ".jpg")

#: Checks up to which each is marked with a dot.
FEW_CHECKS = 60

#: Letters of a text in a picture (a sentence has some 150), and of a name.
LONGEST_TEXT, LONGEST_NAME = 400, 40

#: Letters of a title in the largest size that fit into a line.
LINE = 72


class Colour(StrEnum):
    """Colours that are told apart with any kind of colour vision: Okabe and Ito, https://jfly.uni-koeln.de/color/."""

    VERMILLION = "#D55E00"
    BLUE = "#0072B2"
    ORANGE = "#E69F00"
    GREEN = "#009E73"
    SKY = "#56B4E9"
    PINK = "#CC79A7"
    GREY = "0.3"


#: Colours of the kinds of events.
EVENT_COLOURS = {"novel": Colour.VERMILLION, "transition": "#6A3D9A", "exploded": "black"}


@dataclass(frozen=True, slots=True, eq=False)
class Abscissa:
    """What the n checks of a log are drawn over."""

    x: NDArray[np.float64]
    """(n,) place of each check; grows."""
    edges: NDArray[np.float64]
    """(n + 1,) borders halfway between the checks."""
    label: str
    """What it is, with its unit."""

    @classmethod
    def of(cls, log: Log) -> "Abscissa":
        """The first of time, step and count of checks that is known at every check and only grows."""
        x, label = np.arange(len(log), dtype=float), "check"
        for values, name in ((log.time_ps, "time (ps)"), (log.step.astype(float), "step")):
            if np.isfinite(values).all() and (np.diff(values) > 0).all():
                x, label = values, name
                break
        if len(x) == 1:
            return cls(x, np.array([x[0] - 0.5, x[0] + 0.5]), label)
        middle = (x[1:] + x[:-1]) / 2
        return cls(x, np.concatenate([[2 * x[0] - middle[0]], middle, [2 * x[-1] - middle[-1]]]), label)

    def put_on(self, axis: "Axes") -> None:
        """Label the horizontal axis of a panel and set its range, with a little room at both ends."""
        room = 0.005 * (self.x[-1] - self.x[0]) or 0.5
        axis.set_xlim(float(self.x[0] - room), float(self.x[-1] + room))
        axis.set_xlabel(self.label)


def new_figure(width: float, height: float) -> "Figure":
    """Make an empty figure, in inches, that belongs to no window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def put_title(figure: "Figure", text: str) -> None:
    """Write a title in one line, smaller where it is long."""
    size = min(13.0, 13.0 * LINE / max(len(text), 1))
    figure.suptitle(text, x=0.01, ha="left", fontsize=size, fontweight="bold")


def finished(figure: "Figure") -> "Figure":
    """The figure, whose texts are shown as they are, and not whole megabytes: names out of a log may be anything."""
    from matplotlib.text import Text

    for text in (found for found in figure.findobj(Text) if isinstance(found, Text)):
        text.set_parse_math(False)  # a name with a dollar is no formula
        lines = text.get_text().split("\n")
        if not all(line.isprintable() and len(line) <= LONGEST_TEXT for line in lines):
            text.set_text("\n".join(one_line(line, LONGEST_TEXT) for line in lines))
    return figure


def short_name(name: str) -> str:
    """The name of a phase or a statistic, which a log may call anything, for a legend."""
    return one_line(name, LONGEST_NAME)


def tidy(axis: "Axes") -> None:
    """Give a panel a faint grid, and no frame at the top and right."""
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def write_at(
    axis: "Axes", text: str, x: float, height: float, colour: str, *, is_left: bool = False, gap: int = 4, **font: Any
) -> None:
    """Write at a place and a height of the panel (0 to 1), to the right of the place or to its left."""
    axis.annotate(
        text,
        (x, height),
        xycoords=("data", "axes fraction"),
        xytext=(-gap if is_left else gap, 0),
        textcoords="offset points",
        ha="right" if is_left else "left",
        color=colour,
        **font,
    )


def phase_colours(log: Log) -> dict[str, Colour]:
    """The colour of each labelled phase."""
    palette = (Colour.BLUE, Colour.ORANGE, Colour.GREEN, Colour.PINK, Colour.SKY, Colour.GREY)
    return {name: palette[i % len(palette)] for i, name in enumerate(log.phases)}


def dots(log: Log, values: NDArray[np.float64] | None = None) -> str:
    """The marker of a line: a dot where checks are few, or where a line would hide a check between two gaps."""
    return "." if len(log) <= FEW_CHECKS or (values is not None and np.isnan(values).any()) else ""
