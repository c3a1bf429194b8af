"""The search structure on a device of torch, as a GPU: all queries and blocks in products of many matrices at once.

Rows lie in float32 around the centres of their blocks, as on CPUs. What decides is proven as there: exponents come with
bounds of their errors that hold whatever the order in which a device adds numbers. Products are made in float32 where
that is good enough, and in float64 elsewhere. That float32 is float32, and not TF32 or another format of fewer digits,
is seen in every product: an extra column and an extra row give a number that only full float32 gives. So no setting of
torch is read or changed.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from quests_md._kernels.jit import Floats, Integers
from quests_md._kernels.sums import NO_GROUP

from .cpu import LEFT_OUT, SUM_ERROR, SUM_ROUNDING
from .devices import undisturbed
from .index import Sums
from .nearest import complete_nearest
from .products import steady_blas
from .torch_blocks import PROBE, UNIT32, UNIT64, Asked, DeviceBlocks, known, needed, reach_of, worst_error, zeros
from .tree import lay_out, principal_axes

try:
    import torch
except ImportError:  # said by `devices`, before anything here is used
    torch = None

__all__ = ["TorchIndex"]

#: Queries of a piece at most, and bounds of their distances from all blocks.
MOST_QUERIES, MOST_BOUNDS = 65_536, 2**26

#: Terms larger than e^-16 of a sum carry nearly all of the sum.
CARRIES = 16.0

#: Part of the promised tolerance of dH that rounding of products may use up.
SHARE = 0.75

#: Nats: a larger bound of its error makes float32 useless for decisions, however small the error usually is.
MOST_SINGLE = 1.0

#: Nats: a larger error is no bound of any use.
MOST_ERROR = 100.0

#: Rows of a tile that may be the nearest to a query, up to which they are looked at one by one.
MOST_NEAREST = 64


class Found(NamedTuple):
    """Sums total exp(top) of the queries of a piece, and errors of them in units of exp(top)."""

    top: Any  #: (m + 1,)
    total: Any  #: (m + 1,)
    worst: Any  #: (m + 1,) inf: beyond the numbers there are.
    usual: Any  #: (m + 1,)


class TorchIndex:
    """An `Index` on a device of torch: 264 bytes a row of width 63 there.

    Rows (n, width) of one element, in 1/Å, are kept as they are on the CPU. `device`: its name, which torch can use.
    """

    def __init__(self, rows: Floats, bandwidth: float, device: str) -> None:
        self.rows = rows
        self.bandwidth = bandwidth
        self.device = device
        with steady_blas(rows.shape[1]), np.errstate(all="ignore"):
            axes = principal_axes(rows, bandwidth)
            layout = lay_out(rows, axes)
        self._blocks = DeviceBlocks(layout, axes, device)

    def decide(self, queries: Floats, levels: Floats, threads: int) -> NDArray[np.int8]:
        """See `Index.decide`: by the nearest block, where that proves enough, else by all blocks that matter."""
        verdict = np.zeros(len(queries), np.int8)
        with undisturbed(self.device):
            for piece in self._pieces(len(queries)):
                asked, level = self._blocks.ask(queries[piece]), self._blocks.sent(levels[piece])
                surely, error, cut = self._first_look(asked, level)
                found = ((error < MOST_ERROR) & (surely + error <= level)).to(torch.int8)
                for is_single in (True, False):  # what float32 leaves open
                    open_ = (found == 0) & (error < MOST_ERROR)
                    if bool(open_.any()):
                        these = torch.where(open_, cut, -math.inf)
                        values, bounds, _ = self._look(asked, these, surely, is_single=is_single)
                        proven = (values + bounds <= level).to(torch.int8) - (values - bounds > level).to(torch.int8)
                        found = torch.where(open_ & (bounds < MOST_ERROR), proven, found)
                verdict[piece] = found.cpu().numpy()
        return verdict

    def minus_log_sums(
        self, queries: Floats, threads: int, query_groups: Integers | None = None, groups: Integers | None = None
    ) -> Sums:
        """See `Index.minus_log_sums`."""
        answer = Sums(*(np.empty(len(queries)) for _ in range(3)))
        with undisturbed(self.device):
            sent_groups = None
            if groups is not None and query_groups is not None:
                numbers = self._blocks.numbers
                sent_groups = self._blocks.sent(np.where(numbers < 0, NO_GROUP, groups[numbers]))
            for piece in self._pieces(len(queries)):
                own = None if query_groups is None or sent_groups is None else query_groups[piece]
                asked = self._blocks.ask(queries[piece], own, sent_groups)
                surely, error, cut = self._first_look(asked, None)
                values, *errors = self._look(asked, cut, surely, is_single=True)
                errors = [torch.where(error < MOST_ERROR, part, math.inf) for part in errors]
                for whole, part in zip(answer, (values, *errors), strict=True):
                    whole[piece] = part.cpu().numpy()
        return answer

    def nearest(self, queries: Floats, threads: int) -> Integers:
        """See `Index.nearest`: float64 on the device finds the few rows that may be, the CPU measures these."""
        rows = np.full(len(queries), -1)
        with undisturbed(self.device):
            for piece in self._pieces(len(queries)):
                which, numbers, is_open = self._may_be_nearest(self._blocks.ask(queries[piece]))
                here = queries[piece]
                with np.errstate(over="ignore", invalid="ignore"):
                    distance2 = ((here[which] - self.rows[numbers]) ** 2).sum(axis=1)
                order = np.lexsort((numbers, distance2, which))
                first = order[np.diff(which[order], prepend=-1) > 0]
                found = np.full(len(here), -1)
                found[which[first]] = numbers[first]
                found[is_open] = -1
                rows[piece] = found
        left = np.flatnonzero(rows < 0)
        best = np.full(len(left), -1)
        distance2 = complete_nearest(queries[left], self.rows, best, threads)
        rows[left] = np.where(np.isfinite(distance2), best, -1)
        return rows

    def _pieces(self, n: int) -> Iterator[slice]:
        step = max(1, min(MOST_QUERIES, MOST_BOUNDS // len(self._blocks.radii)))
        return (slice(start, min(start + step, n)) for start in range(0, n, step))

    def _first_look(self, asked: Asked, level: Any) -> tuple[Any, Any, Any]:
        """Values (m,) that dH is not above, but for an error (m,), and half squares (m,) beyond which no row matters.

        By the nearest block, and by further ones as long as there is no row at all. `level` (m,): it is asked only
        whether dH is above it; None: the value is asked.
        """
        m, n_blocks = asked.bounds.shape
        found, n_seen = _nothing(m, self.device), 0
        length, radius = zeros(m + 1, self.device), zeros(m + 1, self.device)
        lacking = torch.arange(m, device=self.device)
        while len(lacking) and n_seen < n_blocks:
            stop = min(max(1, 2 * n_seen), n_blocks)
            blocks = asked.bounds[lacking].nan_to_num(math.inf).topk(stop, dim=1, largest=False).indices[:, n_seen:]
            queries = lacking[:, None].expand_as(blocks)
            for members, block in self._blocks.tiles(blocks.flatten(), queries.flatten(), m):
                exponents, base, lengths, _ = self._blocks.exponents(asked, members, block, is_single=False)
                _add(found, members, *_summed(exponents, base))
                length.scatter_reduce_(0, members.flatten(), lengths.flatten(), "amax")
                radii = self._blocks.radii[block][:, None].expand_as(members)
                radius.scatter_reduce_(0, members.flatten(), radii.flatten(), "amax")
            n_seen = stop
            lacking = lacking[found.total[lacking] == 0.0]
        total = found.total[:m]
        surely = torch.where(total > 0.0, -found.top[:m] - total.log(), math.inf)
        surely = torch.where(found.worst[:m] < math.inf, surely, math.nan)
        beyond = LEFT_OUT + math.log(len(self.rows)) + 1.0
        lowest = surely if level is None else torch.minimum(surely, level)
        error = torch.zeros_like(surely)
        for _ in range(2):  # the error of the rows that matter, and which rows matter depends on the error
            reach = reach_of(beyond + lowest + error)
            error = worst_error(length[:m], radius[:m], reach, asked.blur[:m], self._blocks.terms, UNIT64)
        error = known(error + SUM_ERROR + SUM_ROUNDING * surely.abs())
        error = torch.where(surely == math.inf, 0.0, error)  # there is no row
        return surely, error, torch.where(error < MOST_ERROR, beyond + lowest + error, -math.inf)

    def _look(self, asked: Asked, cut: Any, surely: Any, *, is_single: bool) -> tuple[Any, Any, Any]:
        """Values of dH (m,), bounds of their errors, and what errors usually are: from all rows nearer than the cut.

        `cut` (m,): half squares; -inf: nothing is asked. `surely` (m,): about dH, or more. In float32 where that is
        good enough and `is_single`, else in float64.
        """
        m = len(cut)
        found, nobody = _nothing(m, self.device), zeros(1, self.device)
        reach = torch.cat([reach_of(cut), nobody])
        carried = torch.cat([reach_of(torch.minimum(CARRIES + surely, cut)), nobody])
        allowed = torch.cat([SHARE * (1e-4 + 1e-6 * surely.abs()), nobody])
        blocks, queries = needed(asked, cut)
        refused = [] if is_single else [(blocks, queries)]
        for members, block in self._blocks.tiles(blocks, queries, m) if is_single else ():
            exponents, base, lengths, probe = self._blocks.exponents(asked, members, block, is_single=True)
            worst, usual = self._blocks.errors(asked, members, block, lengths, reach, carried, UNIT32)
            is_good = (
                (usual <= allowed[members])
                & (worst < MOST_SINGLE)
                & (probe == float(np.float32(PROBE) * np.float32(PROBE)))
            )
            exponent, total, is_bad = _summed(exponents, base)
            exponent, total = torch.where(is_good, exponent, -math.inf), torch.where(is_good, total, 0.0)
            _add(found, members, exponent, total, is_bad & is_good, worst, usual)
            again = ~is_good & (members < m)
            refused.append((block[:, None].expand_as(members)[again], members[again]))
        if refused:
            blocks, queries = (torch.cat(parts) for parts in zip(*refused, strict=True))
            for members, block in self._blocks.tiles(blocks, queries, m):
                exponents, base, lengths, _ = self._blocks.exponents(asked, members, block, is_single=False)
                worst, usual = self._blocks.errors(asked, members, block, lengths, reach, carried, UNIT64)
                _add(found, members, *_summed(exponents, base), worst, usual)
        is_any = found.total[:m] > 0.0
        values = torch.where(is_any, -found.top[:m] - found.total[:m].log(), math.inf)
        rounding = SUM_ERROR + SUM_ROUNDING * values.abs()
        worst, usual = (
            known(torch.where(is_any, (part[:m] / found.total[:m]).log1p() + rounding, part[:m]))
            for part in (found.worst, found.usual)
        )
        return values, worst, usual

    def _may_be_nearest(self, asked: Asked) -> tuple[Integers, Integers, NDArray[np.bool_]]:
        """Queries (k,) and numbers of rows (k,) of which one is the nearest, and which queries (m,) have too many."""
        m = len(asked.bounds)
        best = torch.full((m + 1,), -math.inf, dtype=torch.float64, device=self.device)
        error, is_open = zeros(m + 1, self.device), torch.zeros(m + 1, dtype=torch.bool, device=self.device)
        which, rows = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        blocks, queries = asked.bounds.nan_to_num(math.inf).argmin(dim=1), torch.arange(m, device=self.device)
        for is_last in (False, True):
            if is_last:
                blocks, queries = needed(asked, -best[:m] + 2.0 * error[:m])
            for members, block in self._blocks.tiles(blocks, queries, m):
                exponents, base, lengths, _ = self._blocks.exponents(asked, members, block, is_single=False)
                exponents.add_(base[:, :, None])
                peak, flat = exponents.amax(dim=2), members.flatten()
                radius = self._blocks.radii[block][:, None]
                best.scatter_reduce_(0, flat, peak.nan_to_num(-math.inf).flatten(), "amax")
                doubt = zeros(1, self.device)
                for _ in range(2):
                    reach = reach_of(2.0 * doubt - best[members])
                    doubt = worst_error(lengths, radius, reach, asked.blur[members], self._blocks.terms, UNIT64)
                doubt = known(doubt)
                error.scatter_reduce_(0, flat, doubt.flatten(), "amax")
                is_open[flat[~(peak.isfinite() & (doubt < MOST_ERROR)).flatten()]] = True
                if is_last:
                    may_be = exponents >= (best[members] - error[members] - doubt)[:, :, None]
                    too_many = may_be.sum(dim=2) > MOST_NEAREST
                    is_open[members[too_many]] = True
                    tile, slot, place = (may_be & ~too_many[:, :, None]).nonzero(as_tuple=True)
                    which.append(members[tile, slot].cpu().numpy())
                    rows.append(self._blocks.numbers[block[tile].cpu().numpy(), place.cpu().numpy()])
        of, numbers = np.concatenate(which), np.concatenate(rows)
        is_somebody = (of < m) & (numbers >= 0)
        return of[is_somebody], numbers[is_somebody], is_open[:m].cpu().numpy()


def _nothing(m: int, device: str) -> Found:
    """Sums of m queries and nobody before the first block."""
    top = torch.full((m + 1,), -math.inf, dtype=torch.float64, device=device)
    return Found(top, *(zeros(m + 1, device) for _ in range(3)))


def _summed(exponents: Any, base: Any) -> tuple[Any, Any, Any]:
    """Largest exponents (t, q), sums of exponentials (t, q) relative to them, and where there are no such numbers.

    Exponents (t, q, places), which are overwritten.
    """
    peak = exponents.amax(dim=2)
    is_bad = peak.isnan() | (peak == math.inf) | ~base.isfinite()
    is_none = is_bad | (peak == -math.inf)
    total = exponents.sub_(peak.masked_fill(is_none, 0.0)[:, :, None]).exp_().sum(dim=2, dtype=torch.float64)
    return (peak.double() + base).masked_fill(is_none, -math.inf), total.masked_fill(is_none, 0.0), is_bad


def _add(
    found: Found, members: Any, exponent: Any, total: Any, is_bad: Any, worst: Any = None, usual: Any = None
) -> None:
    """Add total exp(exponent), with errors of the exponents, to the sums of the members, all (t, q)."""
    flat = members.flatten()
    top = found.top.scatter_reduce(0, flat, exponent.flatten(), "amax")
    decay = torch.where(found.top > -math.inf, (found.top - top).exp(), 0.0)
    found.top.copy_(top)
    share = torch.where(total > 0.0, total * (exponent - top[members]).exp(), 0.0)
    parts = [(found.total, share)]
    for errors, of in ((found.worst, worst), (found.usual, usual)):
        doubt = zeros(1, share.device) if of is None else torch.where(share > 0.0, share * of.expm1(), 0.0)
        parts.append((errors, torch.where(is_bad, math.inf, doubt)))
    for whole, part in parts:
        whole.mul_(decay)
        whole.index_put_((flat,), part.flatten(), accumulate=True)  # in one order, unlike `index_add_`
