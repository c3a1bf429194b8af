"""Frames, one by one, into the arrays of a reference."""

import math
import warnings
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from quests_md.environments import DescriptorLike, describe, is_center, is_neighbor, nearest_by_element
from quests_md.errors import FrameError
from quests_md.io import Frame, frame_time_ps

from .file import ARRAYS
from .groups import blocks_of_frames, join_copies

__all__ = ["PAIR_BIN", "Builder", "copies_rule", "label_list", "provenance", "sorted_by_element"]

#: Å, width of the bins in which nearest-neighbour distances of element pairs are counted.
PAIR_BIN = 0.01


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
        self.rows: list[NDArray[np.float64]] = []
        self.atoms: dict[str, list[NDArray[Any]]] = {name: [] for name in ("numbers", "atom_index", "positions")}
        self.frames: dict[str, list[Any]] = {
            name: []
            for name in ("frame_source", "frame_index", "frame_natoms", "frame_volume", "frame_time", "cells", "pbc")
        }
        self.sources: dict[str, int] = {}
        self.labels: list[Any] = []
        self.segments: list[int] = []
        self.last_key: Any = None
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
        if self.rows and rows.shape[1] != self.rows[0].shape[1]:
            raise ValueError(
                f"{frame.source}, frame {frame.index}: descriptor: expected {self.rows[0].shape[1]} columns as in the "
                f"frames before, got {rows.shape[1]}"
            )
        self._count_pairs(atoms.numbers, elements, distances)
        self.labels.append(self._label(frame))
        source = self.sources.setdefault(frame.source, len(self.sources))
        key = (source, atoms.numbers.tobytes(), str(atoms.info.get("config_type")))
        new_segment = key != self.last_key
        self.segments.append((self.segments[-1] if self.segments else -1) + new_segment)
        self.last_key = key
        self.rows.append(rows if centers.all() else rows[centers])
        self.atoms["numbers"].append(atoms.numbers[centers].astype(np.uint8))
        self.atoms["atom_index"].append(np.flatnonzero(centers))
        self.atoms["positions"].append(atoms.positions[centers].astype(np.float32))
        self.frames["frame_source"].append(source)
        self.frames["frame_index"].append(frame.index)
        self.frames["frame_natoms"].append(len(atoms))
        self.frames["frame_volume"].append(abs(atoms.cell.volume) if atoms.pbc.all() else math.nan)
        time_ps = frame_time_ps(atoms)
        self.frames["frame_time"].append(math.nan if time_ps is None else time_ps)
        self.frames["cells"].append(atoms.cell.array.astype(np.float32))
        self.frames["pbc"].append(atoms.pbc.copy())

    def _label(self, frame: Frame) -> Any:
        if isinstance(self.groups, list):
            if len(self.labels) + sum(self.left_out.values()) >= len(self.groups):
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
        n_bins = math.ceil(self.cutoff / PAIR_BIN) + 1
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

    def finish(self) -> tuple[dict[str, NDArray[Any]], list[str], dict[str, Any]]:
        """The arrays of the reference file, the names of the sources, and the provenance."""
        if isinstance(self.groups, list) and len(self.groups) != self.n_read:
            raise ValueError(f"groups: expected one label for each of {self.n_read} frames, got {len(self.groups)}")
        self._warn_left_out()
        if self.groups is None:
            frame_group, lengths = blocks_of_frames(self.segments, self.frames["frame_source"], self.rows)
            rule = _block_rule(lengths, list(self.sources))
        else:
            names = {label: i for i, label in enumerate(dict.fromkeys(self.labels))}
            frame_group = np.array([names[label] for label in self.labels], dtype=np.int64)
            rule = f"by {self.groups!r}" if isinstance(self.groups, str) else "labels given"
        natoms = np.array(self.frames["frame_natoms"], dtype=np.int64)
        width = self.rows[0].shape[1] if self.rows else int(getattr(self.descriptor, "width", 0))
        pairs = sorted(self.pairs)
        n_bins = math.ceil(self.cutoff / PAIR_BIN) + 1
        arrays: dict[str, NDArray[Any]] = {
            "atom_frame": np.repeat(np.arange(len(natoms)), np.array([len(rows) for rows in self.rows], np.int64)),
            "pair_elements": np.array(pairs, dtype=np.uint8).reshape(-1, 2),
            "pair_smallest": np.array([self.pairs[p][0] for p in pairs], dtype=np.float64),
            "pair_histogram": np.array([self.pairs[p][1] for p in pairs], dtype=np.int64).reshape(-1, n_bins),
            "rows": _concatenated(self.rows, (0, width), "float64"),
            "numbers": _concatenated(self.atoms["numbers"], (0,), "uint8"),
            "atom_index": _concatenated(self.atoms["atom_index"], (0,), "int64"),
            "positions": _concatenated(self.atoms["positions"], (0, 3), "float32"),
        }
        tails = {"cells": (3, 3), "pbc": (3,)}
        for name, values in self.frames.items():
            arrays[name] = np.array(values, dtype=ARRAYS[name][0]).reshape(len(natoms), *tails.get(name, ()))
        numbers = arrays["numbers"] if self.match == "element" else None
        arrays["frame_group"], n_copies = join_copies(frame_group, arrays["atom_frame"], arrays["rows"], numbers)
        left_out = {why: n for why, n in self.left_out.items() if n}
        origin = provenance() | {"groups": rule + copies_rule(n_copies), "left_out": left_out}
        return sorted_by_element(arrays, self.match), list(self.sources), origin

    def _warn_left_out(self) -> None:
        if n := self.left_out["isolated atoms"]:
            warnings.warn(
                f"left out {n} frame(s) of isolated atoms: their empty environments would make evaporated atoms "
                "look familiar",
                stacklevel=4,
            )
        if n := self.left_out["no atoms"]:
            warnings.warn(f"left out {n} frame(s) without atoms", stacklevel=4)
        if n := self.left_out["no centers"]:
            warnings.warn(f"left out {n} frame(s) without atoms of the elements in `centers`", stacklevel=4)
        if not self.rows:
            warnings.warn("the reference holds no environment: every atom will score +inf", stacklevel=4)


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


def _block_rule(lengths: Mapping[int, int], sources: Sequence[str]) -> str:
    known = [f"{n} frame(s) in {sources[i]}" for i, n in list(lengths.items())[:5]]
    if not known:
        return "single frames; their correlation in time is unknown"
    more = f" and {len(lengths) - 5} more files" if len(lengths) > 5 else ""
    rest = "" if len(lengths) == len(sources) else "; single frames elsewhere, where correlation in time is unknown"
    return f"blocks two correlation times long: {', '.join(known)}{more}{rest}"


def _concatenated(pieces: list[NDArray[Any]], empty_shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    return np.concatenate(pieces) if pieces else np.empty(empty_shape, dtype)


def sorted_by_element(arrays: dict[str, NDArray[Any]], match: str) -> dict[str, NDArray[Any]]:
    """Per-atom arrays in the order in which sums are taken: by element, then as they came."""
    numbers = arrays["numbers"]
    if match == "any" or (np.diff(numbers.astype(np.int64)) >= 0).all():
        return arrays
    order = np.argsort(numbers, kind="stable")
    return {name: array[order] if ARRAYS[name][1] == "atoms" else array for name, array in arrays.items()}
