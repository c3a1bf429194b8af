"""Frames, one by one, into the arrays of a reference."""

import math
import warnings
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from typing import Any, Literal, NamedTuple

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from quests_md._arguments import check_bandwidth, check_choice
from quests_md._progress import track
from quests_md._threads import available_threads
from quests_md.engine import BANDWIDTH
from quests_md.environments import Descriptor, DescriptorLike, describe, is_center, is_neighbor, nearest_by_element
from quests_md.errors import FrameError
from quests_md.io import Frame, count_frames, frame_time_ps, iter_frames

from .arrays import ARRAYS, PAIR_BIN, ReferenceArrays
from .groups import blocks_of_frames, join_copies

__all__ = ["Builder", "Built", "build", "copies_rule", "label_list", "provenance"]


class Built(NamedTuple):
    """What frames became: the arguments of `Reference`."""

    arrays: ReferenceArrays
    descriptor: DescriptorLike
    settings: dict[str, Any]
    sources: list[str]
    provenance: dict[str, Any]


def build(
    frames_or_paths: Any,
    descriptor: DescriptorLike | None,
    bandwidth: float | Literal["auto"] | None,
    match: str,
    groups: str | Sequence[Any] | None,
    types: Sequence[str] | None,
    threads: int | None,
) -> Built:
    """Check the arguments, which are those of `Reference.from_frames`, and read and describe the frames.

    The bandwidth is 0.015 1/Å where "auto" is asked for: it is chosen from the rows.
    """
    chosen = Descriptor() if descriptor is None else descriptor
    if bandwidth is None:
        if not isinstance(chosen, Descriptor):
            raise ValueError(
                "bandwidth: expected a number or 'auto' for a descriptor of one's own, got none; "
                "0.015 1/Å is right for the rows of quests_md.Descriptor only"
            )
        bandwidth = BANDWIDTH
    h = BANDWIDTH if bandwidth == "auto" else check_bandwidth(bandwidth)
    check_choice("match", match, ("element", "any"))
    settings = _settings(chosen, h, match)
    available_threads(threads)
    builder = Builder(chosen, match, groups, threads)
    for frame in track(iter_frames(frames_or_paths, types=types), "reading frames", count_frames(frames_or_paths)):
        builder.add(frame)
    arrays, sources, origin = builder.finish()
    return Built(arrays, chosen, settings, sources, origin)


class _Kept(NamedTuple):
    """What is kept of one frame."""

    of_atoms: dict[str, NDArray[Any]]
    """Its part of the arrays of rows, by name."""
    of_frame: dict[str, Any]
    """Its entry in the arrays of frames, by name."""
    label: Any
    """What frames of its group have in common."""
    segment: int
    """Number of its segment: consecutive frames of one file with the same elements and `config_type`."""


class Builder:
    """Takes frames one by one and turns them into the arrays of a reference."""

    def __init__(
        self,
        descriptor: DescriptorLike,
        match: str,
        groups: str | Sequence[Any] | None,
        threads: int | None,
    ) -> None:
        self.descriptor, self.match, self.threads = descriptor, match, threads
        self.groups = groups if groups is None or isinstance(groups, str) else label_list(groups)
        self.cutoff = float(getattr(descriptor, "cutoff", 5.0))
        self.kept: list[_Kept] = []
        self.last_content: tuple[int, bytes, str] | None = None
        self.sources: dict[str, int] = {}
        self.pairs: dict[tuple[int, int], tuple[float, NDArray[np.int64]]] = {}
        self.n_read = 0
        self.left_out: dict[str, int] = {"isolated atoms": 0, "no atoms": 0, "no centers": 0}

    def add(self, frame: Frame) -> None:
        """Describe one frame and keep its rows; frames that hold nothing to learn are counted and left out."""
        atoms = frame.atoms
        self.n_read += 1
        if len(atoms) == 0:
            self.left_out["no atoms"] += 1
            return
        strange = (atoms.numbers < 0) | (atoms.numbers >= len(chemical_symbols))
        if strange.any():
            got = f"atomic number {atoms.numbers[strange][0]} for atom {int(np.flatnonzero(strange)[0])}"
            raise FrameError(f"{frame.source}, frame {frame.index}: expected chemical elements, got {got}")
        try:
            rows = describe(self.descriptor, atoms, self.threads)
            elements = np.unique(atoms.numbers)
            distances = nearest_by_element(atoms, elements, self.cutoff)
        except FrameError as exc:
            raise type(exc)(f"{frame.source}, frame {frame.index}: {exc}") from exc
        except ValueError as exc:
            raise ValueError(f"{frame.source}, frame {frame.index}: {exc}") from exc
        centers = is_center(self.descriptor, atoms.numbers)
        if not centers.any():
            self.left_out["no centers"] += 1
            return
        if np.isinf(distances[centers][:, is_neighbor(self.descriptor, elements)]).all():
            self.left_out["isolated atoms"] += 1
            return
        closest = distances.min(axis=1)
        if closest.min() < 1e-3:
            i = int(closest.argmin())
            raise FrameError(
                f"{frame.source}, frame {frame.index}: atom {i} lies {closest[i]:.2g} Å from another; "
                "remove the doubled atom, or leave the frame out"
            )
        expected = self.kept[0].of_atoms["rows"].shape[1] if self.kept else rows.shape[1]
        if rows.shape[1] != expected:
            raise ValueError(
                f"{frame.source}, frame {frame.index}: descriptor: expected {expected} columns as in the "
                f"frames before, got {rows.shape[1]}"
            )
        self._count_pairs(atoms.numbers, elements, distances)
        self.kept.append(self._kept(frame, rows, centers))

    def _kept(self, frame: Frame, rows: NDArray[np.float64], centers: NDArray[np.bool_]) -> _Kept:
        atoms = frame.atoms
        label = self._label(frame)
        source = self.sources.setdefault(frame.source, len(self.sources))
        content = (source, atoms.numbers.tobytes(), str(atoms.info.get("config_type")))
        segment = self.kept[-1].segment + (content != self.last_content) if self.kept else 0
        self.last_content = content
        time_ps = frame_time_ps(atoms)
        return _Kept(
            of_atoms={
                "rows": rows if centers.all() else rows[centers],
                "numbers": atoms.numbers[centers].astype(np.uint8),
                "atom_index": np.flatnonzero(centers),
                "positions": atoms.positions[centers].astype(np.float32),
            },
            of_frame={
                "frame_source": source,
                "frame_index": frame.index,
                "frame_natoms": len(atoms),
                "frame_volume": abs(atoms.cell.volume) if atoms.pbc.all() else math.nan,
                "frame_time": math.nan if time_ps is None else time_ps,
                "cells": atoms.cell.array.astype(np.float32),
                "pbc": atoms.pbc.copy(),
            },
            label=label,
            segment=segment,
        )

    def _label(self, frame: Frame) -> Any:
        if isinstance(self.groups, list):
            if len(self.kept) + sum(self.left_out.values()) >= len(self.groups):
                raise ValueError(f"groups: expected one label per frame, got {len(self.groups)} for more frames")
            return self.groups[self.n_read - 1]
        if self.groups is None or self.groups == "frame":
            return self.n_read
        if self.groups == "file":
            return frame.source
        if self.groups not in frame.atoms.info:
            raise ValueError(
                f"groups: {frame.source}, frame {frame.index} has no {self.groups!r} in its info; "
                "expected 'frame', 'file' or a key that every frame has"
            )
        return str(frame.atoms.info[self.groups])

    def _count_pairs(self, numbers: NDArray[Any], elements: NDArray[Any], distances: NDArray[np.float64]) -> None:
        n_bins = _number_of_bins(self.cutoff)
        for a in elements:
            for j, b in enumerate(elements):
                r = distances[numbers == a, j]
                r = r[np.isfinite(r)]
                if len(r) == 0:
                    continue
                pair = (int(min(a, b)), int(max(a, b)))
                smallest, histogram = self.pairs.get(pair, (math.inf, np.zeros(n_bins, np.int64)))
                histogram += np.bincount((r / PAIR_BIN).astype(np.int64), minlength=n_bins)
                self.pairs[pair] = min(smallest, float(r.min())), histogram

    def finish(self) -> tuple[ReferenceArrays, list[str], dict[str, Any]]:
        """Arrays, names of the files and provenance; warns of frames left out.

        Raises ValueError if there are labels for more frames than were added.
        """
        if isinstance(self.groups, list) and len(self.groups) != self.n_read:
            raise ValueError(f"groups: expected one label for each of {self.n_read} frames, got {len(self.groups)}")
        self._warn_left_out()
        frame_group, rule = self._frame_groups()
        n_rows = np.array([len(kept.of_atoms["rows"]) for kept in self.kept], np.int64)
        arrays: dict[str, NDArray[Any]] = {"atom_frame": np.repeat(np.arange(len(n_rows)), n_rows), **self._pairs()}
        for name in ("numbers", "atom_index", "positions"):
            pieces = [kept.of_atoms[name] for kept in self.kept]
            arrays[name] = np.concatenate(pieces) if pieces else _empty(name)
        width = int(getattr(self.descriptor, "width", 0))
        rows = [kept.of_atoms["rows"] for kept in self.kept]
        arrays["rows"] = np.concatenate(rows) if rows else np.empty((0, width))
        for name in ("frame_source", "frame_index", "frame_natoms", "frame_volume", "frame_time", "cells", "pbc"):
            values = [kept.of_frame[name] for kept in self.kept]
            arrays[name] = np.array(values, ARRAYS[name].dtype) if values else _empty(name)
        numbers = arrays["numbers"] if self.match == "element" else None
        arrays["frame_group"], n_copies = join_copies(frame_group, arrays["atom_frame"], arrays["rows"], numbers)
        left_out = {why: n for why, n in self.left_out.items() if n}
        origin = provenance() | {"groups": rule + copies_rule(n_copies), "left_out": left_out}
        built = ReferenceArrays(**arrays)
        return built.by_element() if self.match == "element" else built, list(self.sources), origin

    def _frame_groups(self) -> tuple[NDArray[np.int64], str]:
        """The group of each frame, and the rule that made the groups."""
        if self.groups is not None:
            labels = [kept.label for kept in self.kept]
            names = {label: i for i, label in enumerate(dict.fromkeys(labels))}
            rule = f"by {self.groups!r}" if isinstance(self.groups, str) else "labels given"
            return np.array([names[label] for label in labels], dtype=np.int64), rule
        segments = [kept.segment for kept in self.kept]
        files = [kept.of_frame["frame_source"] for kept in self.kept]
        groups, lengths = blocks_of_frames(segments, files, [kept.of_atoms["rows"] for kept in self.kept])
        return groups, _block_rule(lengths, list(self.sources))

    def _pairs(self) -> dict[str, NDArray[Any]]:
        pairs = sorted(self.pairs)
        histograms = [self.pairs[pair][1] for pair in pairs]
        return {
            "pair_elements": np.array(pairs, dtype=np.uint8).reshape(-1, 2),
            "pair_smallest": np.array([self.pairs[pair][0] for pair in pairs], dtype=np.float64),
            "pair_histogram": np.array(histograms, dtype=np.int64).reshape(-1, _number_of_bins(self.cutoff)),
        }

    def _warn_left_out(self) -> None:
        if n := self.left_out["isolated atoms"]:
            warnings.warn(
                f"left out {n} frame(s) of isolated atoms: their empty environments would make evaporated atoms "
                "look familiar",
                stacklevel=5,
            )
        if n := self.left_out["no atoms"]:
            warnings.warn(f"left out {n} frame(s) without atoms", stacklevel=5)
        if n := self.left_out["no centers"]:
            warnings.warn(f"left out {n} frame(s) without atoms of the elements in `centers`", stacklevel=5)
        if not self.kept:
            warnings.warn("the reference holds no environment: every atom will score +inf", stacklevel=5)


def copies_rule(n_copies: int) -> str:
    """What to say of frames that repeat earlier ones."""
    return f"; {n_copies} frame(s) that repeat an earlier one share its group" if n_copies else ""


def label_list(groups: Sequence[Any]) -> list[Any]:
    """Labels as a list, or a ValueError that says what `groups` may be."""
    try:
        return list(groups)
    except TypeError:
        raise ValueError(f"groups: expected a text or one label per frame, got {groups!r}") from None


def provenance() -> dict[str, Any]:
    """When and with which versions a reference is made."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: metadata.version(name) for name in ("quests_md", "numpy", "ase", "numba")},
    }


def _settings(descriptor: DescriptorLike, bandwidth: float, match: str) -> dict[str, Any]:
    fingerprint = getattr(descriptor, "fingerprint", None)
    if not callable(descriptor) or not isinstance(fingerprint, str):
        raise ValueError(
            f"descriptor: expected a callable with a text `fingerprint`, equal exactly for equal settings, got "
            f"{descriptor!r} with fingerprint {fingerprint!r}"
        )
    settings: dict[str, Any] = {"descriptor": fingerprint}
    if isinstance(descriptor, Descriptor):
        settings |= descriptor.settings
    return settings | {"bandwidth": bandwidth, "match": match}


def _block_rule(lengths: Mapping[int, int], sources: Sequence[str]) -> str:
    known = [f"{n} frame(s) in {sources[i]}" for i, n in list(lengths.items())[:5]]
    if not known:
        return "single frames; their correlation in time is unknown"
    more = f" and {len(lengths) - 5} more files" if len(lengths) > 5 else ""
    rest = "" if len(lengths) == len(sources) else "; single frames elsewhere, where correlation in time is unknown"
    return f"blocks two correlation times long: {', '.join(known)}{more}{rest}"


def _number_of_bins(cutoff: float) -> int:
    return math.ceil(cutoff / PAIR_BIN) + 1


def _empty(name: str) -> NDArray[Any]:
    """The array of that name for no frames."""
    return np.empty((0, *(n or 0 for n in ARRAYS[name].entry)), ARRAYS[name].dtype)
