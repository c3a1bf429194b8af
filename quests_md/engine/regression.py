"""Kernel regression: dH of queries, and means of what rows carry, weighted by the kernel."""

import copy
import math
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from quests_md._kernels.jit import Floats, Floats32, Integers
from quests_md._kernels.sums import NO_GROUP
from quests_md._kernels.tiles import PANEL
from quests_md._kernels.weighted import (
    COMPONENT_ROUNDING,
    COMPONENTS,
    FEATURES,
    REST_PRODUCT,
    REST_ROUNDING,
    MainComponents,
    Scale,
    WeightedRows,
    to_points,
    weighted_sums,
)
from quests_md._threads import for_ranges

from .products import product, steady_blas
from .tree import SPLIT, principal_axes

if TYPE_CHECKING:
    from .torch_regression import DeviceRegression

__all__ = ["KernelRegression", "Regressed"]

#: Queries that one thread takes at a time.
QUERIES_TOGETHER = 128

#: Most rows of a leaf, which is passed or left out as a whole.
LEAF_ROWS = 64

#: Bandwidths. A group of rows is halved until no row is farther from their mean, or SPLIT rows are left.
GROUP_RADIUS = 14.0

#: Rows from which on it pays to multiply main components only.
FEWEST_SHORTENED = 1024

#: Share of the rows that are to need main components only, or whole rows are multiplied.
MOST_SHORT = 0.9

#: 1 / h where that is too large to be multiplied with.
LARGEST_SCALE = 1e300


class Regressed(NamedTuple):
    """What `KernelRegression` says of m queries."""

    delta_entropy: Floats  #: (m,) -log sum_j K_j in nats; inf where no row is left.
    means: Floats  #: (m, p) sum_j K_j values_j / sum_j K_j; NaN where no row is left.


class KernelRegression:
    """Means of values that rows carry, weighted by the kernel K(y, x) = exp(-|y - x|^2 / 2 h^2), and dH.

    Parameters
    ----------
    rows
        (n, width) finite rows, n >= 1, in 1/Å.
    bandwidth
        h in 1/Å.
    values
        (n, p) finite values that the rows carry, p >= 0, in any unit.
    groups
        (n,) group of each row; default none has one.

    References
    ----------
    E. A. Nadaraya, Theory Probab. Appl. 9, 141 (1964), doi:10.1137/1109020; G. S. Watson, Sankhya A 26, 359 (1964).

    Examples
    --------
    >>> import numpy as np
    >>> regression = KernelRegression(np.array([[0.0], [1.0]]), 0.5, np.array([[10.0], [20.0]]))
    >>> result = regression.at(np.array([[0.5], [7.0]]), threads=1)
    >>> result.means.round(3)
    array([[15.],
           [20.]])
    """

    def __init__(self, rows: Floats, bandwidth: float, values: Floats, groups: Integers | None = None) -> None:
        # with several threads principal axes have other bits
        with steady_blas(rows.shape[1]), np.errstate(all="ignore"):
            self._order, self._rows = _lay_out(rows, bandwidth)
        self._carry(values)
        self._groups = None
        if groups is not None:
            self._groups = np.full(self._rows.norms.shape, NO_GROUP, np.int64)
            self._groups[: len(rows)] = groups[self._order]

    def with_values(self, values: Floats) -> Self:
        """The same rows with other values, (n, p); nothing is laid out again."""
        other = copy.copy(self)
        other._carry(values)
        return other

    def on(self, device: str) -> "DeviceRegression":
        """The same rows and values on a device of torch, as `require_device` names it; groups are left behind."""
        from .torch_regression import DeviceRegression  # torch takes a second to import

        return DeviceRegression(self._rows, self._middle, self._half, device)

    def _carry(self, values: Floats) -> None:
        """Keep values (n, p), from -1 to 1 and in the order of the rows that are laid out."""
        with np.errstate(all="ignore"):
            low, high = values.min(axis=0), values.max(axis=0)
            self._middle, half = 0.5 * low + 0.5 * high, 0.5 * high - 0.5 * low
            self._half = np.where(half > 0, half, 1.0)
            carried = np.zeros((values.shape[1], len(self._rows.norms)), np.float32)
            carried[:, : len(values)] = ((values - self._middle) / self._half).astype(np.float32)[self._order].T
        self._rows = self._rows._replace(values=carried)

    def at(self, queries: Floats, threads: int, query_groups: Integers | None = None) -> Regressed:
        """Values dH and means of queries (m, width), within 1e-3 + 1e-4 |dH| nats and 1e-3 of the range of the values.

        Of 1024 rows and more these are what is usual; what is proven is 0.02 more of both, since products of the rests
        of rows besides their main components are left out where they are 0.02 nats at most. The bits of an answer
        depend on the query and the rows alone.

        Parameters
        ----------
        queries
            (m, width) finite rows, in 1/Å.
        threads
            Threads to use at most.
        query_groups
            (m,) group of each query: rows of the same group are left out; -1 leaves none out.
        """
        m, p = len(queries), self._rows.values.shape[0]
        result = Regressed(np.empty(m), np.empty((m, p)))
        queries = np.ascontiguousarray(queries, np.float64)
        groups = self._groups if query_groups is not None else None

        def work(start: int, stop: int) -> None:
            piece = slice(start, stop)
            own = query_groups[piece] if query_groups is not None and groups is not None else None
            with np.errstate(all="ignore"):  # for kernels that are not compiled
                weighted_sums(queries[piece], own, self._rows, groups, result.delta_entropy[piece], result.means[piece])

        for_ranges(work, m, QUERIES_TOGETHER, threads)
        result.means[:] = self._middle + self._half * np.clip(result.means, -1.0, 1.0)
        return result


def _lay_out(rows: Floats, bandwidth: float) -> tuple[Integers, WeightedRows]:
    """The order of the rows (n, width), and the rows, leaf by leaf, without any values."""
    n, width = rows.shape
    axes = principal_axes(rows, bandwidth)
    main = np.zeros((width, COMPONENTS))
    main[:, : min(COMPONENTS, width)] = axes.directions[:, ::-1][:, :COMPONENTS]
    scale = Scale(axes.mean, min(1.0 / bandwidth, LARGEST_SCALE), main)
    points, features = np.empty((n, width)), np.empty((n, FEATURES))
    to_points(np.ascontiguousarray(rows, np.float64), scale, points, features)
    order, leaf_start, group_leaf = _split(points, features[:, 1:])
    points, features = points[order], features[order]
    boxes = np.stack([f.reduceat(features, leaf_start[:-1]).T for f in (np.minimum, np.maximum)])
    part = np.full((FEATURES, 1), COMPONENT_ROUNDING)
    part[0] = REST_ROUNDING
    slack = part * np.abs(boxes).max(axis=(0, 1))
    boxes = np.ascontiguousarray(np.stack([boxes[0] - slack, boxes[1] + slack]))
    group_start = leaf_start[group_leaf]
    n_groups = len(group_leaf) - 1
    centres, radii = np.empty((n_groups, width)), np.empty(n_groups)
    relative = np.empty((n, width), np.float32)
    for g in range(n_groups):
        group = slice(group_start[g], group_start[g + 1])
        centres[g] = _centre(points[group], axes.directions)
        relative[group] = points[group] - centres[g]
    main_components = _main_components(points, centres, group_start, axes.directions[:, ::-1])
    norm2 = np.einsum("ij,ij->i", relative, relative, dtype=np.float64)
    radii = np.sqrt(np.maximum.reduceat(norm2, group_start[:-1]))
    padding = -n % PANEL
    norms = np.full(n + padding, -np.inf, np.float32)
    norms[:n] = -0.5 * norm2
    nothing = np.zeros((0, n + padding), np.float32)
    leaf_group = np.repeat(np.arange(n_groups), np.diff(group_leaf))
    leaves = (leaf_start, leaf_group, group_leaf)
    return order, WeightedRows(
        scale,
        boxes,
        *leaves,
        centres,
        radii,
        _panels(points),
        _panels(relative),
        norms,
        main_components,
        nothing,
    )


def _centre(points: Floats, directions: Floats) -> Floats:
    """The median of points (n, d) along each direction (d, d): a few that are far away leave it where the others are.

    Along the main directions, so that the centre is no farther from the plane in which points vary than they are.
    """
    middle = np.median(points, axis=0)
    along = np.median(product(points - middle, directions), axis=0)
    centre: Floats = middle + directions @ along
    return centre if np.isfinite(centre).all() else middle


def _main_components(points: Floats, centres: Floats, starts: Integers, directions: Floats) -> MainComponents:
    """As few main components, a multiple of 8, as leave most rows with a rest so short that it may be left out.

    None where that takes three quarters of the columns or more. `directions` (d, d): the largest first.
    """
    n, width = points.shape
    group = np.repeat(np.arange(len(centres)), np.diff(starts))
    components = product(points - centres[group], directions)
    # (n, width + 1) squared lengths of what is left after so many components
    rests2 = np.zeros((n, width + 1))
    rests2[:, :-1] = np.cumsum(components[:, ::-1] ** 2, axis=1)[:, ::-1]
    for c in range(COMPONENTS, 3 * width // 4 if n >= FEWEST_SHORTENED else 0, COMPONENTS):
        longest2 = np.maximum.reduceat(rests2[:, c], starts[:-1])
        if np.mean(rests2[:, c] * longest2[group] <= REST_PRODUCT**2) >= MOST_SHORT:
            kept = np.ascontiguousarray(directions[:, :c])
            longest = np.sqrt(longest2) + REST_ROUNDING * np.sqrt(np.maximum.reduceat(rests2[:, 0], starts[:-1]))
            return MainComponents(kept, product(centres, kept), _panels(components[:, :c].astype(np.float32)), longest)
    nothing = np.zeros((-(-n // PANEL), 0, PANEL), np.float32)
    return MainComponents(np.zeros((width, 0)), np.zeros((len(centres), 0)), nothing, np.full(len(centres), np.inf))


def _panels(rows: Floats | Floats32) -> Any:
    """Rows (n, width) in panels (p, width, PANEL); 0 in places left over."""
    n, width = rows.shape
    padded = np.zeros((n + -n % PANEL, width), rows.dtype)
    padded[:n] = rows
    return np.ascontiguousarray(padded.reshape(-1, PANEL, width).transpose(0, 2, 1))


def _split(points: Floats, main: Floats) -> tuple[Integers, Integers, Integers]:
    """Order of points (n, width), leaf by leaf, where leaves begin in it, and the first leaf of each group.

    Nodes are halved along their widest main component, evenly but for a remainder of SPLIT, first into groups, and
    groups into leaves.
    """
    n = len(points)
    order = np.arange(n)
    leaf_start: list[int] = []
    group_leaf: list[int] = []
    nodes = [(0, n, False)]
    while nodes:
        start, stop, is_in_group = nodes.pop()
        if not is_in_group and (stop - start <= SPLIT or _radius(points[order[start:stop]]) <= GROUP_RADIUS):
            group_leaf.append(len(leaf_start))
            is_in_group = True
        if is_in_group and stop - start <= LEAF_ROWS:
            leaf_start.append(start)
            continue
        middle = start + (stop - start + SPLIT - 1) // SPLIT // 2 * SPLIT
        here = main[order[start:stop]]
        widest = int((here.max(axis=0) - here.min(axis=0)).argmax())
        order[start:stop] = order[start:stop][np.argpartition(here[:, widest], middle - start)]
        nodes += [(middle, stop, is_in_group), (start, middle, is_in_group)]
    return order, np.array([*leaf_start, n], np.int64), np.array([*group_leaf, len(leaf_start)], np.int64)


def _radius(points: Floats) -> float:
    """Largest distance from the mean."""
    return math.sqrt(float(((points - points.mean(axis=0)) ** 2).sum(axis=1).max()))
