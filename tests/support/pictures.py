"""A run to draw, and what a figure shows, read back from it."""

import itertools

from logs import INF, LEVEL, check, event


def level(statistic, value, side="above"):
    return {"statistic": statistic, "element": None, "side": side, "value": value}


#: Levels of all statistics, as the header of a log has them.
ALL_IN_USE = {
    "statistics": ("dh_max", "dh_q99", "dh_mean", "n_tail", "tail_cluster", "frame_entropy"),
    "levels": [
        level("dh_max", LEVEL),
        level("dh_q99", 1.0),
        level("dh_mean", -2.0),
        level("dh_mean", -6.0, "below"),
        level("n_tail", 0.05),
        level("tail_cluster", 6.0),
        level("frame_entropy", 4.5, "below"),
    ],
}


def freezing(log_of):
    """The log of a liquid in which a crystal grows from the 30th of 60 checks on; the last frame has exploded."""
    n, out_from, checks = 60, 30, []
    for i in range(n):
        size = 2 if i < out_from else int(2 * 1.15 ** (i - out_from))
        alarms = ("phase:fcc", "frame_entropy_drift") if i >= out_from else ("dh_max",) if i == 5 else ()
        is_last = i == n - 1
        judged = ("dh_max", "phase:fcc", "frame_entropy_drift", "dh_mean_drift")
        checks.append(
            check(
                i,
                9e6 if is_last else 3.0 if i == 5 else 0.0,
                time_ps=0.1 * i,
                temperature_K=9e4 if is_last else 700.0,
                n_above=150 if is_last else int(i == 5),
                n_tail=size // 2,
                tail_cluster=size // 2,
                frame_entropy=5.0 - size / 100,
                phases={"liquid": 190 - size, "fcc": size, "hcp": 4},
                phase_clusters={"liquid": 180 - size, "fcc": size, "hcp": 1},
                alarms=alarms,
                excesses={name: 1.0 if name in alarms else -1.0 for name in judged},
                state="out" if alarms or is_last else "in",
                explosion="a temperature of 90000 K" if is_last else "",
            )
        )
    sizes = tuple((c.step, c.phases["fcc"]) for c in checks[out_from:-1])
    grown = event(checks, out_from, n - 2, kind="transition", phase="fcc", size_history=sizes)
    log = log_of(checks, [grown, event(checks, n - 1, n - 1, id=2, kind="exploded", peak_excess=INF)], **ALL_IN_USE)
    log.header["phases"] = {"parent": "liquid", "levels": {"fcc": level("phase:fcc", 9.0)}}
    return log


def lines(axis):
    """The lines of a panel by their label."""
    return {line.get_label(): line for line in axis.lines if not line.get_label().startswith("_")}


def texts(axis):
    """The texts in a panel."""
    return [text.get_text() for text in axis.texts]


def legible(figure):
    """The figure, in which no two texts or legends overlap, and none leaves it."""
    figure.canvas.draw()
    first = figure.axes[0]
    pieces = [figure._suptitle, figure.axes[-1].xaxis.label]
    for axis in figure.axes:
        pieces += [axis._left_title, *axis.texts, axis.yaxis.label, axis.get_legend()]
        low, high = sorted(axis.get_ylim())
        ticks = zip(axis.get_yticks(), axis.get_yticklabels(), strict=True)
        pieces += [label for tick, label in ticks if low <= tick <= high]
    pieces = [piece for piece in pieces if piece and piece.get_visible()]
    pieces = [piece for piece in pieces if not hasattr(piece, "get_text") or piece.get_text()]
    boxes = [(piece, piece.get_window_extent()) for piece in pieces]
    for piece, box in boxes:
        assert box.x0 >= -1, piece
        assert box.x1 <= figure.bbox.x1 + 1, piece
        assert box.y1 <= figure.bbox.y1 + 1, piece
    for (a, box_a), (b, box_b) in itertools.combinations(boxes, 2):
        assert not box_a.padded(-1.5).overlaps(box_b.padded(-1.5)), (a, b)
    legend = first.get_legend()
    assert not legend or not legend.get_window_extent().padded(-1.5).overlaps(first.get_window_extent())
    return figure
