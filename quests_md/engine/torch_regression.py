"""Kernel regression on a device of torch: the sums of the CPU's kernel in float64, and how far these may be apart.

The CPU's kernel multiplies in float32 and, in some groups of rows, main components alone. Here all rows are multiplied
in float64, with the same components where the kernel surely takes these; what is left of the difference is bounded.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from quests_md._kernels.jit import Floats, Floats32
from quests_md._kernels.tiles import HAS_TILES
from quests_md._kernels.weighted import (
    LARGEST,
    LEFT_OUT,
    MOST_ROUNDING,
    PRODUCT_ERROR,
    REST_PRODUCT,
    REST_ROUNDING,
    ROUNDING,
    WeightedRows,
)

from .torch_blocks import UNIT32, UNIT64, known

try:
    import torch
except ImportError:  # said by `devices`, before anything here is used
    torch = None

__all__ = ["DeviceRegressed", "DeviceRegression"]

#: Numbers that are made at once: what keeps a device busy, and what a CPU has caches for.
TOGETHER, TOGETHER_CPU = 2**24, 2**20

#: Product of lengths up to which the kernel may take float32, see `_pack` there, and where it surely does.
MOST_PRODUCT, SURE_PRODUCT = MOST_ROUNDING / PRODUCT_ERROR, ROUNDING / PRODUCT_ERROR

#: What float32 makes of exponentials (a few units) and of sums of 512 of them in a row, as a part of these.
TERM_ERROR, TOTAL_ERROR = 1e-6, 1e-4

#: A product of rests that is nearer to the limit than this part of it may be on either side in the kernel.
UNSURE = 1e-4

#: How `cdist` takes distances without loss: by differences, not by products.
BY_DIFFERENCES = "donot_use_mm_for_euclid_dist"


class DeviceRegressed(NamedTuple):
    """What is known of m queries, on the device."""

    delta_entropy: Any  #: (m,) nats.
    means: Any  #: (m, p) of the values.
    entropy_error: Any  #: (m,) nats: the kernel's dH is no farther away; inf where nothing is proven.
    mean_errors: Any  #: (m, p) the same of the means.


class _Short(NamedTuple):
    """Where the kernel multiplies main components alone."""

    group: Any  #: (n,) of each row.
    rests: Any  #: (width, n) of the rows, besides their main components and relative to the centres of their groups.
    of_centres: Any  #: (n,) products of these with the centres.
    directions: Any  #: (width, c) of the main components.
    centres: Any  #: (g, c) components of the centres.
    longest: Any  #: (g,) longest rests.


class DeviceRegression:
    """The rows of a `KernelRegression` on a device of torch."""

    def __init__(self, rows: WeightedRows, middle: Floats, half: Floats, device: str) -> None:
        n = int(rows.leaf_start[-1])
        group = np.repeat(rows.leaf_group, np.diff(rows.leaf_start))
        points = _unpacked(rows.points)[:n]
        relative = points - rows.centres[group]
        directions = rows.main.directions
        rest = relative - (relative @ directions) @ directions.T
        scaled = rows.values[:, :n].T.astype(np.float64)
        columns = np.concatenate([scaled, scaled**2, np.arange(len(rows.centres)) == group[:, None]], axis=1)

        def sent(array: Any) -> Any:
            return torch.from_numpy(np.array(array, np.float64)).to(device)

        self.n_rows, self.n_values = scaled.shape
        self._origin, self._per_bandwidth = sent(rows.scale.origin), rows.scale.per_bandwidth
        self._points, self._half_norms = sent(points.T), sent(0.5 * (points**2).sum(axis=1))
        self._longest = float(np.sqrt((points**2).sum(axis=1).max()))
        self._centres, self._radii = sent(rows.centres), sent(rows.radii)
        self._columns, self._scale = sent(columns), (sent(middle), sent(half))
        self._short = None
        if HAS_TILES and directions.shape[1] > 0:
            self._short = _Short(
                torch.from_numpy(group).to(device),
                sent(rest.T),
                sent((rows.centres[group] * rest).sum(axis=1)),
                sent(directions),
                sent(rows.main.centres),
                sent(rows.main.rests),
            )

    def at(self, queries: Any, noise: Any) -> DeviceRegressed:
        """Values dH and means of queries (m, width), in 1/Å, and their bounds.

        `noise` (m,): how far the queries may be from those of the CPU, in bandwidths.
        """
        most = TOGETHER_CPU if queries.device.type == "cpu" else TOGETHER
        pieces = zip(*(part.split(max(1, most // self.n_rows)) for part in (queries, noise)), strict=True)
        found = [self._piece(*piece) for piece in pieces]
        return DeviceRegressed(*(torch.cat(parts) for parts in zip(*found, strict=True)))

    def _piece(self, queries: Any, noise: Any) -> DeviceRegressed:
        points = ((queries - self._origin) * self._per_bandwidth).clamp(-LARGEST, LARGEST)
        half_norms = 0.5 * points.square().sum(dim=1)
        errors, is_short = self._errors(points)
        exponents = points @ self._points - self._half_norms - half_norms[:, None]
        if self._short is not None:
            rests = points @ self._short.rests - self._short.of_centres
            exponents -= rests.mul_(is_short[:, self._short.group])
        top = exponents.amax(dim=1)
        weights = (exponents - top[:, None]).exp()
        left_out = weights.masked_fill(weights > 1.01 * math.exp(-LEFT_OUT) / self.n_rows, 0.0).sum(dim=1)
        sums = weights @ self._columns
        total = weights.sum(dim=1)
        sums /= total[:, None]
        p = self.n_values
        means, squares, shares = sums[:, :p], sums[:, p : 2 * p], sums[:, 2 * p :]
        # of the rows that matter, |y - x| is no more than `reach`
        reach = (2.0 * (20.0 + math.log(self.n_rows) - top)).clamp(min=0.0).sqrt()
        rounding = UNIT64 * (points.shape[1] + 8) * ((2.0 * half_norms).sqrt() + self._longest + 1.0).square()
        errors = (errors + (noise * (reach + noise) + rounding)[:, None]).clamp(max=50.0).expm1() + TERM_ERROR
        terms, spread = (shares * errors).sum(dim=1), (shares * errors.square()).sum(dim=1)
        part = terms + left_out / total + TOTAL_ERROR
        is_known = part < 0.5
        entropy_error = torch.where(is_known, -(-part).log1p() + rounding, math.inf)
        dh, (middle, half) = -top - total.log(), self._scale
        # sum_j w_j e_j (a_j - u) by Cauchy and Schwarz; scaled values are from -1 to 1
        scatter = (squares - means.square()).clamp(min=0.0) + 1e-12
        mean_errors = (spread[:, None] * scatter).sqrt() + 2.0 * (left_out / total + TOTAL_ERROR)[:, None]
        mean_errors = torch.where(is_known[:, None], half * mean_errors / (1.0 - part)[:, None], math.inf)
        return DeviceRegressed(dh, middle + half * means.clamp(-1.0, 1.0), known(entropy_error), known(mean_errors))

    def _errors(self, points: Any) -> tuple[Any, Any]:
        """Bounds (m, g) of what the kernel's exponents may be wrong by, and whether it takes main components (m, g)."""
        lengths = torch.cdist(points, self._centres, compute_mode=BY_DIFFERENCES)
        radii, terms = self._radii, points.shape[1] + 6
        if HAS_TILES:
            product = (lengths * radii).clamp(max=MOST_PRODUCT)
            errors = 1.01 * UNIT32 * (terms * product + 2.0 * radii.square() + lengths.square() + 128.0)
        else:
            errors = 1.01 * UNIT32 * (0.5 * terms * (lengths + radii).square() + 128.0)
        if self._short is None:
            return errors, torch.zeros_like(errors, dtype=torch.bool)
        main = torch.cdist(points @ self._short.directions, self._short.centres, compute_mode=BY_DIFFERENCES)
        rests = ((lengths.square() - main.square()).clamp(min=0.0) + (REST_ROUNDING * lengths).square()).sqrt()
        product = rests * self._short.longest
        is_single = lengths * radii < (1.0 - UNSURE) * SURE_PRODUCT
        is_short = is_single & (product < (1.0 - UNSURE) * REST_PRODUCT)
        is_unsure = ~is_short & ~(product > (1.0 + UNSURE) * REST_PRODUCT)
        return errors + is_unsure * (1.0 + UNSURE) * REST_PRODUCT, is_short


def _unpacked(panels: Floats | Floats32) -> Any:
    """Rows (n, width) of panels (p, width, PANEL)."""
    return panels.transpose(0, 2, 1).reshape(-1, panels.shape[1])
