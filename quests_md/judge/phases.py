"""Labelled phases: which of several references an atom looks like, at a stated error rate."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from quests_md._arguments import check_share
from quests_md.calibration import Level, level_of
from quests_md.environments import bare, describe, largest_cluster
from quests_md.reference import GivenReference, Reference, built_like, opened_reference, require_equal_settings

from .phase_doubts import impurities, temperature_doubt, temperatures_of
from .phase_rule import compare, confusion_of, learn, null_clusters, with_control

__all__ = ["GROWN", "GROWTH", "Phases"]

#: A cluster has grown if it is this many times what the parent has by itself, and larger than so many atoms.
GROWTH, GROWN = 2.0, 20.0


class Phases:
    """Assigns a phase to every atom of a frame, by the density ratio of references of known phases.

    For each product (a phase that is not the parent) the log density ratio of an environment is L = dH(parent) -
    dH(product), with as many rows of each phase. L of one atom scatters by more than the phases are apart, so it is
    averaged over the atom and its neighbours (those within 1.3 of the median nearest-neighbour distance, the link of
    clusters). An atom is of a product if its average is above a threshold; of the product of the largest average, less
    half of the lead that the product's own environments have in the median, if there are several. Others are of the
    parent. Atoms whose dH is above the levels of all phases are of none, and do not count in the averages of others.

    At most `rate` of the parent's held-out environments are above a threshold, with an allowance for the scatter of
    groups. New environments keep the rate on average, but not for certain: with 100 groups one threshold in ten lets
    more pass, with 12 one in five, with 3 one in three (then up to 2.5 times as many; rattled copper).

    The rate holds for a parent like its reference only: an undercooled liquid looks more like the crystal than a hot
    liquid does. So where nearly all of a product's environments lie higher still, the threshold is a third of the way
    up to them. Above all, the parent's reference should hold frames as cold (or hot) as the run will be, such as the
    first picoseconds of another run. Frames of the parent given as `control` can only raise thresholds and levels.

    Parameters
    ----------
    references
        Name of each phase and its reference (or the name of its file), at least two, made with the same settings. Each
        is thinned to as many rows per element as the smallest has, and to 4096 at most.
    parent
        The phase that runs start in; default the first.
    rate
        Share of the parent's environments that may be assigned to a product by mistake, for each product.
    control
        Frames or files of the parent phase that are not in its reference.
    threads
        Threads to use; never changes the result.

    Raises
    ------
    ValueError
        If there are fewer than two phases, one is empty, or `parent` or `rate` is not usable.
    TypeError
        If something else than a reference or the name of its file is given for a phase.
    MismatchError
        If the settings of two references differ; names both values.

    References
    ----------
    Lechner, Dellago, J. Chem. Phys. 129, 114707 (2008), doi:10.1063/1.2977970, for averages over neighbours.
    """

    def __init__(
        self,
        references: Mapping[str, GivenReference],
        *,
        parent: str | None = None,
        rate: float = 0.01,
        control: Any = None,
        threads: int | None = None,
    ) -> None:
        references = _checked(references)
        self.names = tuple(references)
        self.parent = self.names[0] if parent is None else parent
        if self.parent not in self.names:
            raise ValueError(f"parent: expected one of {', '.join(self.names)}, got {parent!r}")
        self.rate = check_share("rate", rate)
        self._fingerprints = {name: reference.fingerprint for name, reference in references.items()}
        self._ratios, held_out = compare(references, self.parent, threads)
        self._rule = learn(held_out, self.parent, self.rate)
        known, beside = references[self.parent], [held_out[self.parent]]
        self.row_settings = known.settings
        """Settings of the rows of all references."""
        self._n_control_frames = 0
        self._temperatures = {name: temperatures_of(reference) for name, reference in references.items()}
        if control is not None:
            source = built_like(known, control, threads=threads)
            beside.append(self._ratios.of_control(source, threads))
            self._rule = with_control(self._rule, beside[-1], self.rate)
            self._n_control_frames = source.n_frames
            of_control = temperatures_of(source)
            self._temperatures[self.parent] = np.sort(np.append(self._temperatures[self.parent], of_control))
        self._nulls = [null_clusters(self._rule, frames, self._ratios.pair_distances) for frames in beside]
        self.confusion = confusion_of(self._rule, held_out)
        """(n_phases, n_phases + 1) share of held-out environments of a phase (row) assigned to each; last: to none."""
        self.impurities = tuple(impurities(self._rule, held_out, self.confusion, references, self.rate))
        """Which references hold atoms of another phase, in words, with their share."""

    def __repr__(self) -> str:
        return f"<Phases: {self.parent} -> {', '.join(self.products)}, {self.fingerprint}>"

    @property
    def products(self) -> tuple[str, ...]:
        """Names of the phases that are not the parent."""
        return tuple(self._rule.thresholds)

    @property
    def thresholds(self) -> dict[str, float]:
        """Averaged L in nats above which an atom may be of each product."""
        return dict(self._rule.thresholds)

    @property
    def n_rows(self) -> int:
        """Rows of each phase that atoms are compared with (of the parent, where elements differ)."""
        return self._ratios.references[self.parent].n_environments

    @property
    def settings(self) -> dict[str, Any]:
        """Plain data for the header of a log: what decides the phase of an atom, and the errors of that."""
        return {
            "parent": self.parent,
            "references": dict(self._fingerprints),
            "rate": self.rate,
            "rows": self.n_rows,
            "thresholds": self.thresholds,
            "confusion": {
                name: np.round(row, 4).tolist() for name, row in zip(self.names, self.confusion, strict=True)
            },
            "control_frames": self._n_control_frames,
        }

    @property
    def fingerprint(self) -> str:
        """Checksum of references, parent and thresholds: equal exactly for phases that answer alike."""
        parts = [self._fingerprints, self.parent, self.rate, self.thresholds]
        return hashlib.blake2b(json.dumps(parts).encode(), digest_size=8).hexdigest()

    def describe(self) -> str:
        """Thresholds, how they were set and the confusion table, in a few lines."""
        lines = [
            f"phases: parent {self.parent}, products {', '.join(self.products)}; {self.n_rows} rows each; an atom is "
            "of a product where the mean log density ratio of its neighbourhood is above "
            + ", ".join(f"{value:.2f} ({name})" for name, value in self.thresholds.items())
            + f" nats: at most {self.rate:.2g} of the parent's held-out environments"
        ]
        for name, row in zip(self.names, self.confusion, strict=True):
            shares = (f"{share:.2%} {other}" for share, other in zip(row, (*self.names, "none"), strict=True))
            lines.append(f"  held-out {name}: {', '.join(shares)}")
        lines.extend(f"WARNING: {text}" for text in self.impurities)
        if self._n_control_frames:
            lines.append(f"thresholds allow for {self._n_control_frames} control frames of the parent")
        else:
            lines.append(f"valid for {self.parent} like its reference; add frames of it at the run's temperature")
        return "\n".join(lines)

    def temperature_doubt(self, temperature_K: float, n_atoms: int, n_checks: int = 1) -> str | None:
        """Why the parent's reference is not for a run at this temperature, in words; None: no reason is known.

        It is known where frames of the references carry their temperatures: by their momenta, or in their info.

        Parameters
        ----------
        temperature_K
            Mean temperature of the run over so many checks.
        n_atoms, n_checks
            Atoms of a frame, and checks.
        """
        return temperature_doubt(self._temperatures, self.parent, temperature_K, n_atoms, n_checks)

    def assign(
        self, atoms: Atoms, rows: NDArray[np.float64] | None = None, *, threads: int | None = None
    ) -> NDArray[np.int64]:
        """Phase of each atom, (n_atoms,): its place in `names`; -1 for atoms unlike all phases and atoms without rows.

        Parameters
        ----------
        atoms
            The frame, which is not changed.
        rows
            (n_atoms, width) its descriptor rows, if they are at hand.
        threads
            Threads to use; never changes the result.

        Raises
        ------
        FrameError
            If the frame cannot be described.
        """
        known = self._ratios.references[self.parent]
        if rows is None:
            rows = describe(known.descriptor, atoms, threads)
        out = np.full(len(atoms), -1)
        centers = np.flatnonzero(known.is_center(atoms.numbers))
        if len(centers):
            out[centers] = self._rule.labels(self._ratios.of_frame(bare(atoms, centers), rows[centers], threads))
        return out

    def clusters(self, atoms: Atoms, labels: NDArray[np.int64]) -> dict[str, int]:
        """Atoms in the largest connected cluster of each product, by the labels of `assign`."""
        pairs = self._ratios.pair_distances
        return {name: largest_cluster(atoms, labels == self.names.index(name), pairs) for name in self.products}

    def cluster_level(self, product: str, n_atoms: int, false_alarms: float, count: int = 1) -> Level:
        """The size beyond which the largest cluster of a product has grown, in a frame of the parent phase.

        The size that the parent has by itself at the stated rate comes from held-out frames of it and, apart, from
        control frames; the larger counts. The level is twice that, and 20 atoms at least: nuclei of such sizes come
        and go, while nuclei past the critical size double within picoseconds, so waiting for them costs little. The
        rate bounds the mistakes of the size without this factor.

        Parameters
        ----------
        product
            Name of the phase.
        n_atoms
            Atoms of the frame.
        false_alarms
            Rate at which `count` checks together may be out by mistake.
        count
            Checks that share the rate.
        """
        if product not in self.products:
            raise ValueError(f"product: expected one of {', '.join(self.products)}, got {product!r}")
        levels = [level_of(part[product], "extreme", n_atoms, false_alarms, count) for part in self._nulls]
        level = max(levels, key=lambda level: level.value)
        return replace(level, value=max(GROWTH * level.value, GROWN), interval=None)


def _checked(given: Mapping[str, GivenReference]) -> dict[str, Reference]:
    """The references by the names of their phases, after a look at what was given."""
    if not isinstance(given, Mapping) or len(given) < 2:
        raise ValueError(
            "phases: expected the references of at least two phases by name, such as {'liquid': a, 'fcc': b}, got "
            f"{given!r}"
        )
    references: dict[str, Reference] = {}
    for name, reference_or_path in given.items():
        if not isinstance(name, str) or not name or name.split() != [name] or name == "none":
            raise ValueError(f"phases: expected names without spaces other than 'none', got {name!r}")
        reference = references[name] = opened_reference(reference_or_path, f"phases[{name!r}]")
        if not reference.n_environments:
            raise ValueError(f"phases: the reference of {name!r} is empty; build it from frames of that phase")
        first = next(iter(references))
        require_equal_settings(references[first].settings, reference.settings, first, name)
        if len(np.unique(reference.arrays.frame_group)) < 2:
            raise ValueError(
                f"phases: the reference of {name!r} has one group of frames, so that none can be held out; add "
                "independent frames, or say with groups= which of them are independent"
            )
    return references
