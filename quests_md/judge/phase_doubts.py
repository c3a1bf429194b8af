"""What may be wrong with references of labelled phases: another temperature than the run's, another phase in them."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from quests_md._words import many
from quests_md.reference import Reference

from .phase_rule import HeldOutFrames, PhaseRule

__all__ = ["impurities", "temperature_doubt", "temperatures_of"]

#: Temperatures are alike within this share of them, or three deviations of a mean kinetic temperature.
ALIKE = 0.05

#: Share of the parent's frames that must be as cold (or as hot) as the run.
ENOUGH = 0.05

#: Mean share of a product's own atoms on the parent's side of the middle, from which on the parent's atoms are in it.
ON_THE_OTHER_SIDE = 0.005

#: Share of a product's own atoms that are taken for the parent's, from which on that is said, the reason being unknown.
NOT_TOLD_APART = 0.05


def temperatures_of(reference: Reference) -> NDArray[np.float64]:
    """Temperatures of the frames that carry them, ascending, K."""
    temperatures = reference.arrays.frame_temperature
    return np.sort(temperatures[np.isfinite(temperatures)])


def temperature_doubt(
    temperatures: Mapping[str, NDArray[np.float64]], parent: str, run_K: float, n_atoms: int, n_checks: int = 1
) -> str | None:
    """Why the parent's reference is not for a run at this temperature, in words; None: no reason is known.

    `temperatures`: of the frames of each phase, ascending. `run_K`: mean of `n_checks` checks of `n_atoms` atoms. A
    colder (hotter) run matters only if some product's reference is not hotter (colder) than the parent's: only then
    does the parent come nearer to the product.
    """
    own = temperatures[parent]
    if not len(own) or not run_K > 0:
        return None
    tolerance = max(ALIKE, 3 * math.sqrt(2 / (3 * max(n_atoms, 1) * max(n_checks, 1))))
    products = {name: values for name, values in temperatures.items() if name != parent}
    middle = float(np.median(own))
    for how, than, is_beyond, sign in (
        ("cold", "hotter", own > run_K * (1 + tolerance), 1),
        ("hot", "colder", own < run_K * (1 - tolerance), -1),
    ):
        towards = [
            name
            for name, values in products.items()
            if not len(values) or sign * float(np.median(values)) <= sign * middle + ALIKE * middle
        ]
        if towards and np.mean(~is_beyond) < ENOUGH:
            return (
                f"the reference of {parent} is {than} than the run: the run is at {run_K:.4g} K, and of the "
                f"{many(len(own), 'frame')} of {parent} whose temperature is known ({own[0]:.4g} to {own[-1]:.4g} K) "
                f"{np.mean(~is_beyond):.0%} are as {how}; {parent} as {how} as that looks more like "
                f"{' or '.join(towards)}, which may be seen where there is none: give frames of {parent} at "
                f"{run_K:.4g} K, in its reference or as Phases(..., control=frames), such as the first picoseconds of "
                "another run"
            )
    return None


def impurities(
    rule: PhaseRule,
    held_out: Mapping[str, HeldOutFrames],
    confusion: NDArray[np.float64],
    sources: Mapping[str, Reference],
    rate: float,
) -> list[str]:
    """Which references hold atoms of another phase, in words, with their share.

    Of a product's own held-out atoms hardly any are taken for the parent's, unless atoms of the parent are among them,
    or so many of the product's are in the parent's reference that its threshold lies among the product's atoms. In the
    first case more of them lie on the parent's side of the middle between both medians than of the parent's on theirs,
    in the second none. A hot crystal and a cold melt are alike by themselves.
    """
    said = []
    row, parent = list(rule.names), rule.parent
    for column, product in enumerate(rule.thresholds):
        share = float(confusion[row.index(product), row.index(parent)])
        if share <= rate:
            continue
        sides = {name: _ratios(held_out[name], column) for name in (parent, product)}
        middle = sum(float(np.nanmedian(np.concatenate(parts))) for parts in sides.values()) / 2
        in_product = np.array([float(np.mean(part < middle)) for part in sides[product]])
        in_parent = np.array([float(np.mean(part > middle)) for part in sides[parent]])
        if in_product.mean() > max(ON_THE_OTHER_SIDE, in_parent.mean()):
            labels = [rule.labels(ratios) == row.index(parent) for ratios in held_out[product].ratios]
            shares = np.array([float(np.mean(label)) for label in labels])
            said.append(_impurity(product, parent, share, shares > rate, held_out[product], sources[product]))
        elif in_product.mean() <= ON_THE_OTHER_SIDE and (in_parent > 0.5).any():
            of_all = float(np.mean(np.concatenate(sides[parent]) > middle))
            said.append(_impurity(parent, product, of_all, in_parent > 0.5, held_out[parent], sources[parent]))
        elif share > NOT_TOLD_APART:
            said.append(
                f"{share:.0%} of the atoms in the reference of {product} are taken for {parent}: the two phases are "
                f"alike at these temperatures, or frames of one hold some of the other; growth of {product} may be "
                "seen late"
            )
    return said


def _ratios(part: HeldOutFrames, column: int) -> list[NDArray[np.float64]]:
    return [ratios.of_products[:, column] for ratios in part.ratios]


def _impurity(
    name: str, other: str, share: float, frames: NDArray[np.bool_], held_out: HeldOutFrames, source: Reference
) -> str:
    """One reference that holds another phase, and in which frames."""
    at = held_out.places[np.flatnonzero(frames)]
    files: dict[str, list[int]] = {}
    for place in at:
        file = source.sources[source.arrays.frame_source[place]]
        files.setdefault(file, []).append(int(source.arrays.frame_index[place]))
    where = "; ".join(f"{_numbers(sorted(found))} of {file}" for file, found in list(files.items())[:3])
    return (
        f"the reference of {name} is not pure: at least {share:.0%} of its atoms look like {other} "
        f"({many(len(at), 'frame')} of {len(held_out.frames)} looked at: {where}), so that levels are too high and "
        "growth is seen late; leave these frames out"
    )


def _numbers(frames: Sequence[int]) -> str:
    """The first frames by number."""
    return f"frames {', '.join(map(str, frames[:5]))}{' ...' if len(frames) > 5 else ''}"
