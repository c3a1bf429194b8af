"""Frames, one by one, into the contents of a reference."""

import hashlib
import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from quests_md._arguments import check_bandwidth, check_choice
from quests_md._progress import track
from quests_md._threads import available_threads
from quests_md._words import many
from quests_md.engine import BANDWIDTH
from quests_md.environments import (
    Descriptor,
    DescriptorLike,
    averaged_over,
    describe_both,
    is_center,
    is_neighbor,
    nearest_by_element,
)
from quests_md.errors import FrameError, UnsuitableFrameError
from quests_md.io import (
    Frame,
    count_frames,
    fault_of_frame,
    frame_temperature_K,
    frame_time_ps,
    iter_frames,
    periodic_words,
)

from .contents import ARRAYS, PAIR_BIN, Contents, ReferenceArrays, type_of
from .groups import Measured, blocks_of_frames, join_copies
from .labels import label_list, label_of
from .runs import told_labels
from .same_frames import Placed, first_same, is_of_places
from .spool import Pieces, Spool, columns_of, joined, kept, like
from .too_near import NearestDistances, frames_too_near

__all__ = ["build", "finished", "provenance"]

#: Bad frames that a warning names.
MOST_NAMED = 20


def build(
    frames_or_paths: Any,
    descriptor: DescriptorLike | None,
    bandwidth: float | Literal["auto"] | None,
    match: str,
    groups: str | Sequence[Any] | None,
    threads: int | None,
    *,
    precision: str = "double",
    skip_bad: bool = False,
    out: Path | None = None,
    **reading: Any,
) -> Contents:
    """Check the arguments, and read and describe the frames.

    With `out`, what there is of each atom is written to its folder as it comes, and the arrays are mapped from files
    that have no name: memory holds a frame, and some 130 bytes of each atom at the end.

    The arguments are those of `Reference.from_frames`, `reading` those of `iter_frames`. The bandwidth is 0.015 1/Å
    where "auto" is asked for: it is chosen from the rows.
    """
    chosen = Descriptor() if descriptor is None else descriptor
    if bandwidth is None:
        if not isinstance(chosen, Descriptor):
            raise ValueError(
                "bandwidth: expected a number or 'auto' for a descriptor of one's own, got none; "
                "0.015 1/Å is right for the rows of quests_md.Descriptor only"
            )
        bandwidth = chosen.bandwidth
    h = BANDWIDTH if bandwidth == "auto" else check_bandwidth(bandwidth)
    check_choice("match", match, ("element", "any"))
    check_choice("precision", precision, ("double", "single"))
    fingerprint = getattr(chosen, "fingerprint", None)
    if not callable(chosen) or not isinstance(fingerprint, str):
        raise ValueError(
            f"descriptor: expected a callable with a text `fingerprint`, equal exactly for equal settings, got "
            f"{chosen!r} with fingerprint {fingerprint!r}"
        )
    of_rows = chosen.settings if isinstance(chosen, Descriptor) else {}
    settings = {"descriptor": fingerprint, **of_rows, "bandwidth": h, "match": match}
    if precision == "single":  # references from before know of no other
        settings["precision"] = precision
    available_threads(threads)
    builder = _Builder(chosen, groups, threads, settings, out)
    frames = iter_frames(frames_or_paths, bad=builder.leave_out if skip_bad else _refuse, **reading)
    for frame in track(frames, "reading frames", count_frames(frames_or_paths)):
        try:
            builder.add(frame)
        except UnsuitableFrameError:
            raise
        except FrameError as error:
            if not skip_bad:
                _refuse(error)
            builder.leave_out(error, is_read=True)
    builder.look_for_explosions(skip_bad=skip_bad)
    return builder.finish()


def _refuse(error: Exception) -> NoReturn:
    """Raise the error of one bad frame, with the way to leave such frames out."""
    raise type(error)(f"{error}; --skip-bad (skip_bad=True) leaves bad frames out") from error


class _Builder:
    """Takes frames one by one, and keeps what each gives to the arrays of a reference."""

    def __init__(
        self,
        descriptor: DescriptorLike,
        groups: str | Sequence[Any] | None,
        threads: int | None,
        settings: Mapping[str, Any],
        out: Path | None,
    ) -> None:
        self.descriptor, self.threads, self.settings = descriptor, threads, settings
        self.groups = groups if groups is None or isinstance(groups, str) else label_list(groups)
        #: What the frames give to the arrays of atoms and frames, by the name of the array.
        names = [name for name, layout in ARRAYS.items() if layout.per in ("atoms", "frames")]
        # what comes later, and averaged rows where rows are averaged themselves or cannot be
        others = {"frame_group"} if averaged_over(descriptor) else {"frame_group", "averaged"}
        self.pieces: dict[str, Pieces] = {name: _pieces(name, settings, out) for name in names if name not in others}
        #: What each frame has in common with all frames of its group.
        self.labels: list[Any] = []
        #: File, elements and `config_type` of each frame: equal for frames that may follow each other in time.
        self.kinds: list[tuple[int, bytes, str | None]] = []
        self.sources: dict[str, int] = {}
        #: Nearest distances of each frame by pair of elements.
        self.nearest: list[dict[tuple[int, int], NearestDistances]] = []
        self.n_read = 0
        self.bad: list[str] = []
        self.left_out = {"isolated atoms": 0, "no atoms": 0, "no centers": 0}

    def add(self, frame: Frame) -> None:
        """Describe one frame and keep its rows; frames that hold nothing to learn are counted and left out."""
        atoms, place = frame.atoms, f"{frame.source}, frame {frame.index}"
        self.n_read += 1
        if len(atoms) == 0:
            self.left_out["no atoms"] += 1
            return
        strange = (atoms.numbers <= 0) | (atoms.numbers >= len(chemical_symbols))
        if strange.any():
            got = f"atomic number {atoms.numbers[strange][0]} for atom {int(np.flatnonzero(strange)[0])}"
            raise FrameError(f"{place}: expected chemical elements, got {got}")
        if (fault := fault_of_frame(atoms)) is not None:
            raise FrameError(f"{place}: {fault}")
        try:
            both = describe_both(self.descriptor, atoms, self.threads)
            elements = np.unique(atoms.numbers)
            distances = nearest_by_element(atoms, elements, self.cutoff)
        except FrameError as exc:
            raise type(exc)(f"{place}: {exc}") from exc
        except ValueError as exc:
            raise ValueError(f"{place}: {exc}") from exc
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
            what = f"atom {i} lies {closest[i]:.2g} Å from another"
            raise FrameError(f"{place}: {what}; remove the doubled atom, or leave the frame out")
        rows = both.plain
        if rows.shape[1] != (n := columns_of(self.pieces["rows"], rows.shape[1])):
            raise ValueError(f"{place}: descriptor: expected {n} columns as in the frames before, got {rows.shape[1]}")
        self.nearest.append(self._by_pair(atoms.numbers, elements, distances))
        self._keep(frame, rows, centers)
        if both.averaged is not None and "averaged" in self.pieces:
            self.pieces["averaged"].append(both.averaged[centers].astype(np.float32))

    @property
    def cutoff(self) -> float:
        """Å, up to which nearest distances are counted."""
        return float(getattr(self.descriptor, "cutoff", 5.0))

    @property
    def n_bins(self) -> int:
        """Bins of the distances of a pair of elements."""
        return math.ceil(self.cutoff / PAIR_BIN) + 1

    def leave_out(self, error: Exception, *, is_read: bool = False) -> None:
        """Note why a frame is left out as a bad one."""
        self.n_read += not is_read
        self.bad.append(str(error))

    def _keep(self, frame: Frame, rows: NDArray[np.float64], centers: NDArray[np.bool_]) -> None:
        atoms = frame.atoms
        self.labels.append(self._label(frame))
        source = self.sources.setdefault(frame.source, len(self.sources))
        config_type = atoms.info.get("config_type")
        label = None if config_type is None else str(config_type)
        elements = hashlib.blake2b(atoms.numbers.tobytes(), digest_size=16).digest()
        self.kinds.append((source, elements, label))
        time_ps, temperature_K = frame_time_ps(atoms), frame_temperature_K(atoms)
        for name, piece in {
            "rows": (rows if centers.all() else rows[centers]).astype(type_of("rows", self.settings), copy=False),
            "numbers": atoms.numbers[centers].astype(np.uint8),
            "atom_frame": np.full(centers.sum(), len(self.labels) - 1),
            "atom_index": np.flatnonzero(centers),
            "positions": atoms.positions[centers].astype(np.float32),
            "frame_source": source,
            "frame_index": frame.index,
            "frame_natoms": len(atoms),
            "frame_volume": abs(atoms.cell.volume) if atoms.pbc.all() else math.nan,
            "frame_time": math.nan if time_ps is None else time_ps,
            "frame_temperature": math.nan if temperature_K is None else temperature_K,
            "cells": atoms.cell.array.astype(np.float32),
            "pbc": atoms.pbc.copy(),
        }.items():
            self.pieces[name].append(piece)

    def _label(self, frame: Frame) -> Any:
        if isinstance(self.groups, list):
            if len(self.labels) + sum(self.left_out.values()) + len(self.bad) >= len(self.groups):
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
        return label_of(frame.atoms.info[self.groups], f"{frame.source}, frame {frame.index}: info[{self.groups!r}]")

    def look_for_explosions(self, *, skip_bad: bool) -> None:
        """Warn of frames whose atoms are far nearer to each other than in all others, or leave them out."""
        found = frames_too_near(self.nearest)
        if not found:
            return
        names = list(self.sources)
        placed = [
            f"{names[self.pieces['frame_source'][i]]}, frame {self.pieces['frame_index'][i]}: {why}"
            for i, why in sorted(found.items())
        ]
        if skip_bad:
            self.bad += placed
            self._drop(frozenset(found))
            return
        some = "".join(f"\n  {text}" for text in placed[:MOST_NAMED])
        more = f"\n  and {len(placed) - MOST_NAMED} more" if len(placed) > MOST_NAMED else ""
        what = "atoms that meet in a run are then no explosion; --skip-bad (skip_bad=True) leaves such frames out"
        warnings.warn(f"{many(len(placed), 'frame')} may have exploded, {what}:{some}{more}", stacklevel=5)

    def _drop(self, frames: frozenset[int]) -> None:
        """Forget kept frames, by their count."""
        keep = [i for i in range(len(self.labels)) if i not in frames]
        names = list(self.sources)
        self.pieces = {name: kept(pieces, keep) for name, pieces in self.pieces.items()}
        self.labels, self.nearest = [self.labels[i] for i in keep], [self.nearest[i] for i in keep]
        of_frames = [names[source] for source in self.pieces["frame_source"]]
        self.sources = {name: i for i, name in enumerate(dict.fromkeys(of_frames))}
        self.pieces["frame_source"] = [self.sources[name] for name in of_frames]
        self.kinds = [(self.sources[names[self.kinds[i][0]]], *self.kinds[i][1:]) for i in keep]
        counted = self.pieces["atom_frame"]
        self.pieces["atom_frame"] = like(counted, (np.full(len(piece), i) for i, piece in enumerate(counted)))

    def _pairs(self) -> dict[tuple[int, int], tuple[float, NDArray[np.int64]]]:
        """Smallest nearest distance of each pair of elements, and how many are in each bin."""
        pairs: dict[tuple[int, int], tuple[float, NDArray[np.int64]]] = {}
        for frame in self.nearest:
            for pair, nearest in frame.items():
                smallest, histogram = pairs.get(pair, (math.inf, np.zeros(self.n_bins, np.int64)))
                histogram += np.bincount(nearest.bins, minlength=self.n_bins)
                pairs[pair] = min(smallest, nearest.smallest), histogram
        return pairs

    def _by_pair(
        self, numbers: NDArray[Any], elements: NDArray[Any], distances: NDArray[np.float64]
    ) -> dict[tuple[int, int], NearestDistances]:
        """Nearest distances (n, n_elements) that are finite, by pair of elements."""
        found: dict[tuple[int, int], list[NDArray[np.float64]]] = {}
        for a in elements.tolist():
            for j, b in enumerate(elements.tolist()):
                r = distances[numbers == a, j]
                r = r[np.isfinite(r)]
                if len(r):
                    found.setdefault((min(a, b), max(a, b)), []).append(r)
        whole = {pair: np.concatenate(parts) for pair, parts in found.items()}
        small = np.min_scalar_type(self.n_bins)
        return {pair: NearestDistances(float(r.min()), (r / PAIR_BIN).astype(small)) for pair, r in whole.items()}

    def finish(self) -> Contents:
        """All that was kept; warns of frames left out.

        Raises ValueError if there are labels for more frames than were added.
        """
        if isinstance(self.groups, list) and len(self.groups) != self.n_read:
            raise ValueError(f"groups: expected one label for each of {self.n_read} frames, got {len(self.groups)}")
        self._warn_left_out()
        self._warn_of_boundaries()
        of_pairs = self._pairs()
        width, pairs = int(getattr(self.descriptor, "width", 0)), sorted(of_pairs)
        arrays = {name: _joined(name, pieces, width, self.settings) for name, pieces in self.pieces.items()} | {
            "pair_elements": np.array(pairs, np.uint8).reshape(-1, 2),
            "pair_smallest": np.array([of_pairs[pair][0] for pair in pairs], np.float64),
            "pair_histogram": np.array([of_pairs[pair][1] for pair in pairs], np.int64).reshape(-1, self.n_bins),
        }
        frame_group, rule = self._frame_groups()
        spools = {name: pieces for name, pieces in self.pieces.items() if isinstance(pieces, Spool)}
        built, copies = finished(arrays | {"frame_group": frame_group}, self.settings, spools)
        left_out = {why: n for why, n in (self.left_out | {"bad, named when built": len(self.bad)}).items() if n}
        origin = provenance() | {"groups": rule + copies, "left_out": left_out}
        return Contents(built, self.descriptor, self.settings, list(self.sources), origin)

    def _frame_groups(self) -> tuple[NDArray[np.int64], str]:
        """The group of each frame, and the rule that made the groups."""
        if self.groups is None:
            files, times, cells = (list(self.pieces[name]) for name in ("frame_source", "frame_time", "cells"))
            told = told_labels(files, [label for _, _, label in self.kinds])
            kinds = [(*kind[:2], label) for kind, label in zip(self.kinds, told, strict=True)]
            groups, measured = blocks_of_frames(kinds, files, self.pieces["rows"], times, cells)
            rule = _block_rule(measured, list(self.sources), len(groups))
            n_groups, n_known = len(np.unique(groups)), sum(blocks.n_frames for blocks in measured)
            if n_groups < len(groups) and not n_known:
                rule = "blocks of frames less than 0.1 ps apart; their correlation in time is unknown"
            return groups, rule
        names = {label: i for i, label in enumerate(dict.fromkeys(self.labels))}
        rule = f"by {self.groups!r}" if isinstance(self.groups, str) else "labels given"
        return np.array([names[label] for label in self.labels], dtype=np.int64), rule

    def _warn_of_boundaries(self) -> None:
        """Warn of files whose frames are periodic in different directions."""
        of_files: dict[int, Counter[tuple[bool, ...]]] = {}
        for source, pbc in zip(self.pieces["frame_source"], self.pieces["pbc"], strict=True):
            of_files.setdefault(source, Counter())[tuple(map(bool, pbc))] += 1
        names = list(self.sources)
        for source, kinds in of_files.items():
            if len(kinds) > 1 and names[source] != "memory":
                words = ", ".join(f"{n} {periodic_words(pbc)}" for pbc, n in kinds.most_common())
                what = "where a cell is missing, atoms at bare faces become known"
                warnings.warn(f"{names[source]}: the boundaries of frames differ: {words}; {what}", stacklevel=5)

    def _warn_left_out(self) -> None:
        n_isolated, n_empty, n_blind = self.left_out.values()
        if self.bad:
            some = "".join(f"\n  {text}" for text in self.bad[:MOST_NAMED])
            more = f"\n  and {len(self.bad) - MOST_NAMED} more" if len(self.bad) > MOST_NAMED else ""
            warnings.warn(f"left out {many(len(self.bad), 'bad frame')}:{some}{more}", stacklevel=5)
        for n, text in (
            (n_isolated, "of isolated atoms: their empty environments would make evaporated atoms look familiar"),
            (n_empty, "without atoms"),
            (n_blind, "without atoms of the elements in `centers`"),
        ):
            if n:
                warnings.warn(f"left out {n} frame(s) {text}", stacklevel=5)
        if not self.labels:
            warnings.warn("the reference holds no environment: every atom will score +inf", stacklevel=5)


def finished(
    arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any], spools: Mapping[str, Spool] | None = None
) -> tuple[ReferenceArrays, str]:
    """The arrays of a reference, with copies of a frame in one group and rows in order, and what to say of copies.

    `spools`: files in which arrays are, by their name.
    """
    match = settings["match"]
    numbers = arrays["numbers"] if match == "element" else None
    whole = ReferenceArrays(**arrays)
    same = first_same(Placed.of(whole, match)) if is_of_places(settings) else None
    groups, n_copies = join_copies(arrays["frame_group"], arrays["atom_frame"], arrays["rows"], numbers, same)
    whole = replace(whole, frame_group=groups)
    copies = f"; {n_copies} frame(s) that repeat an earlier one share its group" if n_copies else ""
    if match == "element" and not whole.is_by_element:
        order = np.argsort(whole.numbers, kind="stable")
        in_files = {name: spool.taken(order) for name, spool in (spools or {}).items()}
        whole = replace(whole, **in_files) if in_files else whole.with_rows(order)
    return whole, copies


def provenance() -> dict[str, Any]:
    """When and with which versions a reference is made."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: metadata.version(name) for name in ("quests_md", "numpy", "ase", "numba")},
    }


def _block_rule(measured: Sequence[Measured], sources: Sequence[str], n_frames: int) -> str:
    """How blocks were made of so many frames, in words."""
    if not measured:
        return "single frames; their correlation in time is unknown"
    texts: list[str] = []
    for file in dict.fromkeys(blocks.file for blocks in measured):
        of_file: Counter[int] = Counter()
        for blocks in measured:
            if blocks.file == file:
                of_file[blocks.length] += blocks.n_frames
        lengths = ", ".join(
            f"{length} frame(s)" + (f" for {n} of them" if len(of_file) > 1 else "") for length, n in of_file.items()
        )
        texts.append(f"{lengths} in {sources[file]}")
    more = f" and {len(texts) - 5} more files" if len(texts) > 5 else ""
    n_known = sum(blocks.n_frames for blocks in measured)
    rest = "" if n_known == n_frames else "; single frames elsewhere, where correlation in time is unknown"
    return f"blocks two correlation times long: {', '.join(texts[:5])}{more}{rest}"


def _joined(name: str, pieces: Pieces, width: int, settings: Mapping[str, Any]) -> NDArray[Any]:
    """The array of that name out of what each frame gives to it; without frames, rows have that width."""
    dtype, per, entry = ARRAYS[name]
    if per == "frames":
        return np.array(pieces, dtype).reshape(-1, *(n or 0 for n in entry))
    shape = (0, *(n or width for n in entry))
    return joined(pieces) if len(pieces) else np.empty(shape, type_of(name, settings))


def _pieces(name: str, settings: Mapping[str, Any], out: Path | None) -> Pieces:
    """Room for what frames give to the array of that name: of arrays of atoms beside `out`, if that is given."""
    _, per, entry = ARRAYS[name]
    return [] if out is None or per == "frames" else Spool(out, type_of(name, settings), entry)
