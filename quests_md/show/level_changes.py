"""What a change of a reference did to its levels, in words."""

from quests_md.calibration import STATISTICS, Calibration, Level

__all__ = ["moved_levels"]

#: Difference, in the unit of a level, that is not worth a line.
SMALL = 0.005


def moved_levels(before: Calibration, after: Calibration) -> list[str]:
    """A line for each level that is another one after frames were added, for frames like those before.

    The last line says how the old levels can be kept, where one of them rose.
    """
    numbers = before.typical.numbers()
    old = {_key(level): level for level in before.alarm_levels(numbers)}
    lines, rose = [], False
    for level in after.alarm_levels(numbers):
        was = old.get(_key(level))
        if was is None:
            continue
        statistic = STATISTICS[level.statistic]
        a, b = (statistic.in_frame(x.value, len(numbers)) for x in (was, level))
        if not abs(b - a) > SMALL:
            continue
        rose |= b > a if level.side == "above" else b < a
        of = f" of {level.element}" if level.element else ""
        lines.append(f"adding these frames moved {level.statistic}{of} from {a:.2f} to {b:.2f} {statistic.unit}")
    if not lines:
        return ["adding these frames moved no level"]
    if rose:
        lines.append("levels of the reference before stay valid for the new one: give its calibration by --calibration")
    return lines


def _key(level: Level) -> tuple[str, str | None, str]:
    return level.statistic, level.element, level.side
