"""Reference implementations in plain numpy: slow, and meant to be obviously right.

Written from the published formulas alone (Nat. Commun. 16, 4014 (2025)); nothing here imports quests_md.
"""

import itertools
import math

import numpy as np
from scipy.special import logsumexp

TIE = 1e-8  # Å: distances closer than this count as equal
TINY = 1e-10  # Å: distance given to coincident atoms, so that rows stay finite


def neighbours(atoms, cutoff):
    """Distances, vectors and indices of every image within the cutoff, nearest first, for each atom.

    An image j + n C lies within the cutoff only if, for every periodic axis a with dual vector b_a,
    |b_a . (x_j - x_i) + n_a| <= cutoff |b_a|: that is the range of n_a that is tried, for each pair by itself.
    """
    positions = np.asarray(atoms.positions, float)
    vectors = np.asarray(atoms.cell, float)[np.asarray(atoms.pbc, bool)]
    dual = np.linalg.pinv(vectors).T if len(vectors) else vectors
    reach = cutoff * np.linalg.norm(dual, axis=1)
    found = []
    for i, here in enumerate(positions):
        images = []
        for j, there in enumerate(positions):
            offset = there - here
            middle = -dual @ offset
            lowest = np.floor(middle - reach - 1e-6).astype(int)
            highest = np.ceil(middle + reach + 1e-6).astype(int)
            ranges = [range(lo, hi + 1) for lo, hi in zip(lowest, highest, strict=True)]
            tried = list(itertools.product(*ranges))  # a single () without periodic axes
            shifts = np.array(tried, float).reshape(len(tried), len(vectors))
            if i == j:
                shifts = shifts[np.any(shifts != 0, axis=1)]
            images += [(vector, j) for vector in offset + shifts @ vectors if math.hypot(*vector) <= cutoff]
        images.sort(key=lambda image: math.hypot(*image[0]))
        vector = np.array([image[0] for image in images], float).reshape(-1, 3)
        found.append((np.linalg.norm(vector, axis=1), vector, np.array([image[1] for image in images], int)))
    return found


def comes_before(a, b):
    """True if the sequence a is lexicographically smaller than b, numbers closer than TIE being equal."""
    for x, y in zip(a, b, strict=True):
        if abs(x - y) > TIE:
            return x < y
    return False


def choose(distances, vectors, k):
    """Positions in the list of the k nearest neighbours, the last places filled by the rule for ties."""
    if len(distances) <= k:
        return list(range(len(distances)))
    last = np.sort(distances)[k - 1]
    taken = [i for i, d in enumerate(distances) if d < last - TIE]
    tied = [i for i, d in enumerate(distances) if abs(d - last) <= TIE]
    while len(taken) < k:
        if len(taken) + len(tied) == k:
            return taken + tied
        to_taken = {i: np.sort(np.linalg.norm(vectors[taken] - vectors[i], axis=1)) for i in tied}
        best = tied[0]
        for i in tied[1:]:
            if comes_before(to_taken[i], to_taken[best]):
                best = i
        taken.append(best)
        tied.remove(best)
    return taken


def row(distances, vectors, k, cutoff):
    """One descriptor row from the neighbours of one atom."""
    chosen = choose(distances, vectors, k)
    order = sorted(chosen, key=lambda i: distances[i])
    d, v = distances[order], vectors[order]
    w = (1 - (d / cutoff) ** 2) ** 2
    x1 = np.zeros(k)
    x1[: len(d)] = w / np.maximum(d, TINY)
    matrix = np.zeros((k, k))
    for j in range(len(d)):
        for m in range(len(d)):
            if j != m:
                matrix[j, m] = math.sqrt(w[j] * w[m]) / max(math.dist(v[j], v[m]), TINY)
    x2 = -np.sort(-matrix, axis=1)
    return np.concatenate([x1, x2.sum(axis=0)[:-1] / k])


def rows(atoms, k=32, cutoff=5.0):
    """Descriptor rows of every atom, shape (n_atoms, 2k-1), in 1/Å."""
    found = neighbours(atoms, cutoff)
    return np.array([row(d, v, k, cutoff) for d, v, _ in found], float).reshape(len(found), 2 * k - 1)


def averaged(atoms, rows, n, cutoff=5.0, *, has_row=None, is_seen=None):
    """Mean of the row of each atom and those of its n nearest neighbours that have a row and are seen (masks).

    Neighbours tied at the n-th distance share the places that are left; those at the cutoff are beyond it.
    """
    everything = np.ones(len(atoms), bool)
    has_row = everything if has_row is None else has_row
    usable = has_row & (everything if is_seen is None else is_seen)
    result = np.full(np.shape(rows), np.nan)
    for i, (d, _, index) in enumerate(neighbours(atoms, cutoff)):
        if not has_row[i]:
            continue
        taken = usable[index] & (d < cutoff - TIE)
        d, index = d[taken], index[taken]
        weights = np.ones(len(d))
        if len(d) > n:
            last = np.sort(d)[n - 1]
            tied = abs(d - last) <= TIE
            weights[d > last + TIE] = 0
            weights[tied] = (n - np.sum(d < last - TIE)) / tied.sum()
        result[i] = (rows[i] + weights @ rows[index]) / (1 + weights.sum())
    return result


def gap(atoms, k, cutoff):
    """The smallest r_(k+1) - r_k over the atoms, in Å; inf where fewer than k+1 neighbours are in reach."""
    gaps = [d[k] - d[k - 1] for d, _, _ in neighbours(atoms, cutoff) if len(d) > k]
    return min(gaps, default=math.inf)


def delta_entropy(rows, reference, bandwidth):
    """DH of each row: -log sum_j exp(-|y - x_j|^2 / 2h^2)."""
    values = []
    for y in np.asarray(rows, float):
        scaled = (y - np.asarray(reference, float)) / bandwidth
        values.append(-logsumexp(-0.5 * np.sum(scaled**2, axis=1)))
    return np.array(values, float)


def entropy(rows, bandwidth):
    """H = log N + mean_i dH(x_i | X)."""
    return math.log(len(rows)) + float(np.mean(delta_entropy(rows, rows, bandwidth)))


def diversity(rows, bandwidth):
    """D = log sum_i exp dH(x_i | X)."""
    return float(logsumexp(delta_entropy(rows, rows, bandwidth)))


def overlap(rows, reference, bandwidth, eps=0.0):
    """Fraction of the rows with dH < eps."""
    return float(np.mean(delta_entropy(rows, reference, bandwidth) < eps))


def kernel_regression(queries, rows, bandwidth, values, own=None, groups=None):
    """Values dH of queries, and means of values (n, p), weighted by the kernel; own group left out, -1: none."""
    entropies, means = [], []
    for i, y in enumerate(queries):
        is_in = np.full(len(rows), True) if own is None or own[i] == -1 else groups != own[i]
        exponents = -((rows[is_in] - y) ** 2).sum(axis=1) / (2 * bandwidth**2)
        if not is_in.any():
            entropies.append(math.inf)
            means.append(np.full(values.shape[1], math.nan))
            continue
        entropies.append(-logsumexp(exponents))
        means.append(np.exp(exponents - logsumexp(exponents)) @ values[is_in])
    return np.array(entropies), np.array(means)


def held_out_delta_entropy(rows, groups, bandwidth):
    """DH of each row against all rows that belong to other groups (+inf where there are none)."""
    rows, groups = np.asarray(rows, float), np.asarray(groups)
    values = []
    for y, group in zip(rows, groups, strict=True):
        others = rows[groups != group]
        values.append(delta_entropy([y], others, bandwidth)[0] if len(others) else math.inf)
    return np.array(values, float)


def choose_by_element(distances, vectors, kinds, n_kinds, k):
    """For each kind in turn the positions of its k nearest neighbours, the last places filled by the rule for ties.

    Candidates of a kind that are equal by their distances to those taken are told apart by colours: numbers that see
    all candidates up to the tie, of all kinds, those taken counted twice; see docs/design.md.
    """
    chosen = []
    for kind in range(n_kinds):
        own = [i for i in range(len(distances)) if kinds[i] == kind]
        if len(own) <= k:
            chosen.append(own)
            continue
        last = np.sort(distances[own])[k - 1]
        taken = [i for i in own if distances[i] < last - TIE]
        tied = [i for i in own if abs(distances[i] - last) <= TIE]
        points = taken + tied + [i for earlier in chosen for i in earlier]
        for later in range(kind + 1, n_kinds):
            others = [i for i in range(len(distances)) if kinds[i] == later]
            edge = np.sort(distances[others])[k - 1] + TIE if len(others) >= k else math.inf
            points += [i for i in others if distances[i] <= edge]
        between = np.linalg.norm(vectors[points][:, None] - vectors[points], axis=-1)
        while len(taken) < k:
            start = [
                (1 + distances[i])
                * (1 if kinds[i] == kind else 1 + 0.7548776662466927 * (1 + kinds[i]))
                * (2 if i in taken else 1)
                for i in points
            ]
            colour = np.array(start)
            for _ in range(3):
                colour = np.exp(-between) @ colour * np.sqrt(colour)
                colour /= colour.max()
            best = None
            for i in tied:
                if i in taken:
                    continue
                profile = np.sort(np.linalg.norm(vectors[taken].reshape(-1, 3) - vectors[i], axis=1))
                shade = colour[points.index(i)]
                if (
                    best is None
                    or comes_before(profile, best[1])
                    or (not comes_before(best[1], profile) and shade < best[2] - 1e-7)
                ):
                    best = i, profile, shade
            taken.append(best[0])
        chosen.append(taken)
    return chosen


def rank_means(matrix, k):
    """Rows sorted descending, summed rank by rank, divided by k; as many ranks as k, zero where there are none."""
    means = np.zeros(k)
    means[: matrix.shape[1]] = -np.sort(-matrix, axis=1).sum(axis=0) / k
    return means


def rows_by_element(atoms, numbers, k=32, cutoff=5.0):
    """Rows whose neighbours are resolved by element; atoms of other elements than `numbers` are not seen."""
    numbers = sorted(numbers)
    result = []
    for d, v, index in neighbours(atoms, cutoff):
        seen = np.isin(atoms.numbers[index], numbers)
        d, v, kinds = d[seen], v[seen], np.searchsorted(numbers, atoms.numbers[index[seen]])
        chosen = [np.array(c, int) for c in choose_by_element(d, v, kinds, len(numbers), k)]
        w = (1 - (d / cutoff) ** 2) ** 2

        def table(rows, columns, d=d, v=v, w=w):
            r = np.linalg.norm(v[rows][:, None] - v[columns], axis=-1)
            r[rows[:, None] == columns] = math.inf
            return np.sqrt(np.outer(w[rows], w[columns])) / np.maximum(r, TINY)

        parts = []
        for a in chosen:
            x1 = np.zeros(k)
            x1[: len(a)] = -np.sort(-w[a] / np.maximum(d[a], TINY))
            parts += [x1, rank_means(table(a, a), k)[:-1]]
        for a, b in itertools.combinations(chosen, 2):
            parts.append((rank_means(table(a, b), k) + rank_means(table(b, a), k)) / 2)
        result.append(np.concatenate(parts))
    m = len(numbers)
    return np.array(result, float).reshape(len(result), m * (2 * k - 1) + m * (m - 1) // 2 * k)


def element_vector(z):
    """The fixed vector of an element."""
    angles = [math.radians(step * z) for step in (27, 117, 165)]
    return [math.cos(angle) / math.sqrt(3) for angle in angles] + [math.sin(angle) / math.sqrt(3) for angle in angles]


def chemistry(atoms, k=32, cutoff=5.0, seen=None):
    """Columns that see chemistry, for every atom; neighbours of other elements than `seen` are not seen."""
    most = math.ceil(k / 3)
    vectors = {z: element_vector(z) for z in atoms.numbers}
    result = []
    for own, (distances, _, index) in zip(atoms.numbers, neighbours(atoms, cutoff), strict=True):
        columns = []
        for channel in range(6):
            values = [
                (vectors[z][channel] - vectors[own][channel]) * (1 - (d / cutoff) ** 2) / cutoff
                for d, z in zip(distances, atoms.numbers[index], strict=True)
                if seen is None or z in seen
            ]
            for chosen in (sorted((v for v in values if v > 0), reverse=True), sorted(v for v in values if v < 0)):
                columns += (chosen + [0.0] * most)[:most]
        result.append(columns)
    return np.array(result, float).reshape(len(result), 12 * most)
