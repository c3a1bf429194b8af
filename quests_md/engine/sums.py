"""Differential entropy, entropy, diversity and overlap of sets of descriptor rows, in nats."""

import math

import numpy as np
from numpy.typing import ArrayLike

from quests_md._arguments import check_bandwidth, check_rows
from quests_md._kernels.jit import Floats, Integers
from quests_md._kernels.sums import NO_GROUP, log_kernel_sums
from quests_md._threads import available_threads, for_ranges

from .backend import build_index

__all__ = ["BANDWIDTH", "delta_entropy", "diversity", "entropy", "minus_log_sums", "overlap"]

#: Bandwidth h in 1/Å for data sets and uncertainty (doi:10.1038/s41467-025-59232-0, Methods).
BANDWIDTH = 0.015

#: Rows up to which all pairs are summed in float64, which takes a second: the time grows with the square.
FEW_ROWS = 10_000

#: Nats: values of the structure that rounding may have changed by more come from the float64 sum.
INACCURATE = 1e-4

#: Queries that a thread takes at a time; they pass the rows of the reference together.
QUERIES_AT_A_TIME = 64


def delta_entropy(
    rows: ArrayLike, reference: ArrayLike, bandwidth: float = BANDWIDTH, *, threads: int | None = None
) -> Floats:
    """Differential entropy of each row with respect to a reference: how surprising an environment is.

    dH(y) = -log sum_j exp(-|y - x_j|^2 / 2 h^2), with the reference rows x_j and the bandwidth h. It lies between
    -log N and infinity; members of the reference have dH <= 0. The sum is taken in log space, so that dH is right
    where every term underflows.

    Parameters
    ----------
    rows
        (m, d) rows to judge, in 1/Å.
    reference
        (n, d) rows of the reference, n >= 1.
    bandwidth
        h in 1/Å.
    threads
        Threads to use; default the cores that the process may use, or QUESTS_MD_THREADS. Never changes the result.

    Returns
    -------
    delta_entropy
        (m,) in nats, within 1e-9 max(1, |dH|).

    Raises
    ------
    ValueError
        If the arrays are not two-dimensional, of unequal width, empty (reference) or not finite, or `bandwidth` is not
        a positive finite number.

    References
    ----------
    D. Schwalbe-Koda et al., Nat. Commun. 16, 4014 (2025), doi:10.1038/s41467-025-59232-0, Eq. (5).

    Examples
    --------
    >>> delta_entropy([[0.0, 0.0], [0.03, 0.0]], reference=[[0.0, 0.0]], bandwidth=0.015).round(6)
    array([0., 2.])
    """
    bandwidth = check_bandwidth(bandwidth)
    queries = check_rows("rows", rows)
    known = check_rows("reference", reference)
    if len(known) == 0:
        raise ValueError("reference: expected at least one row, got none")
    if queries.shape[1] != known.shape[1]:
        raise ValueError(
            f"rows: expected {known.shape[1]} columns as in the reference, got {queries.shape[1]}; "
            "use one descriptor with the same k for both"
        )
    return minus_log_sums(queries, known, bandwidth, threads=threads)


def entropy(rows: ArrayLike, bandwidth: float = BANDWIDTH, *, threads: int | None = None) -> float:
    """Information entropy of a set of n rows: H = log n + mean_i dH(x_i | X), in nats, between 0 and log n.

    Parameters and errors as in `delta_entropy`; `rows` must not be empty. H is within 1e-9 of up to 10 000 rows; of
    more rows a search structure gives dH, and H is usually within 1e-6.

    References
    ----------
    D. Schwalbe-Koda et al., Nat. Commun. 16, 4014 (2025), doi:10.1038/s41467-025-59232-0, Eq. (3).

    Examples
    --------
    >>> round(entropy([[0.0], [1.0]], bandwidth=0.015), 6)  # two environments that have nothing in common
    0.693147
    """
    own = _own_delta_entropy(rows, bandwidth, threads)
    most = math.log(len(own))
    found = float(most + own.mean())
    return found if len(own) <= FEW_ROWS else min(max(found, 0.0), most)


def diversity(rows: ArrayLike, bandwidth: float = BANDWIDTH, *, threads: int | None = None) -> float:
    """Diversity of a set of rows in log form: D = log sum_i exp(dH(x_i | X)), in nats, D >= H.

    Parameters and errors as in `delta_entropy`; `rows` must not be empty. exp(D) counts distinct environments. As
    accurate as `entropy`.

    References
    ----------
    D. Schwalbe-Koda et al., Nat. Commun. 16, 4014 (2025), doi:10.1038/s41467-025-59232-0, Methods.

    Examples
    --------
    >>> round(diversity([[0.0], [0.0], [1.0]], bandwidth=0.015), 6)  # log 2: two distinct ones
    0.693147
    """
    own = _own_delta_entropy(rows, bandwidth, threads)
    top = own.max()
    return float(top + np.log(np.exp(own - top).sum()))


def overlap(
    rows: ArrayLike, reference: ArrayLike, bandwidth: float = BANDWIDTH, eps: float = 0.0, *, threads: int | None = None
) -> float:
    """Fraction of rows with dH < eps with respect to a reference.

    Three values of `eps` circulate (0, 1e-5 and 1): state the one you used. Parameters and errors as in
    `delta_entropy`; `rows` must not be empty, and `eps` not NaN.

    Examples
    --------
    >>> overlap([[0.0], [1.0]], reference=[[0.0]], bandwidth=0.015, eps=1.0)
    0.5
    """
    if math.isnan(eps):
        raise ValueError(f"eps: expected a number in nats, got {eps!r}")
    values = delta_entropy(rows, reference=reference, bandwidth=bandwidth, threads=threads)
    if len(values) == 0:
        raise ValueError("rows: expected at least one row, got none")
    return float((values < eps).mean())


def minus_log_sums(
    queries: Floats,
    reference: Floats,
    bandwidth: float,
    *,
    query_groups: Integers | None = None,
    groups: Integers | None = None,
    threads: int | None = None,
) -> Floats:
    """`delta_entropy` of checked arrays, leaving out the reference rows of each query's own group (-1: none)."""
    n_threads = available_threads(threads)
    out = np.empty(len(queries))
    if groups is None or query_groups is None:
        groups = np.empty(0, np.int64)
        query_groups = np.full(len(queries), NO_GROUP)

    def work(start: int, stop: int) -> None:
        log_kernel_sums(queries[start:stop], reference, bandwidth, query_groups[start:stop], groups, out[start:stop])

    for_ranges(work, len(queries), QUERIES_AT_A_TIME, n_threads)
    return out


def _own_delta_entropy(rows: ArrayLike, bandwidth: float, threads: int | None) -> Floats:
    """DH of rows with respect to themselves: of more than 10 000 from a search structure, where float32 can follow."""
    array, bandwidth = check_rows("rows", rows), check_bandwidth(bandwidth)
    if len(array) == 0:
        raise ValueError("rows: expected at least one row, got none")
    if len(array) <= FEW_ROWS:
        return minus_log_sums(array, array, bandwidth, threads=threads)
    values, _, usual = build_index(array, bandwidth).minus_log_sums(array, available_threads(threads))
    unsure = np.flatnonzero(~(usual < INACCURATE))
    values[unsure] = minus_log_sums(array[unsure], array, bandwidth, threads=threads)
    return values
