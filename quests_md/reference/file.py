"""The reference file: safetensors, no pickle, whole or absent, every length and index checked on the way in."""

import hashlib
import json
import math
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from quests_md._arguments import check_bandwidth
from quests_md._file_kinds import REFERENCE, mistaken_for
from quests_md._files import replacing, require_regular
from quests_md.environments import Descriptor, DescriptorLike, averaged_over
from quests_md.errors import FileFormatError, MismatchError, QuestsMDError
from quests_md.io import iter_frames

from .contents import ARRAYS, PAIR_BIN, Contents, ReferenceArrays, pair_keys
from .late_array import PORTION, LateArray, stored_array

__all__ = ["fingerprint", "read", "shortened", "verify", "write"]

#: Key of the one JSON text in the safetensors header.
HEADER = "quests_md"

#: What of the contents is in that text, beside the schema and the checksums.
IN_HEADER = ("settings", "provenance", "sources", "fingerprint")

#: Arrays of the file that decide what a reference answers; their checksums make the fingerprint.
IDENTITY = ("rows", "numbers", "atom_frame", "atom_index", "frame_natoms", "frame_group")

#: Arrays that a file may lack: files of the first release have no times, temperatures and averaged rows, and not every
#: reference has averaged rows or carries scores.
OPTIONAL = ("frame_time", "frame_temperature", "averaged", "score_row", "score")

#: Version of the reference file. A newer one is refused.
SCHEMA = 1

#: What the header holds, besides the number of its schema.
_HEADER_TYPES = {"settings": dict, "provenance": dict, "sources": list, "fingerprint": str, "checksums": dict}

#: What types of JSON are called in messages.
_WORDS = {dict: "an object", list: "a list", str: "a text", int: "an integer"}

#: Names of the types in the file.
_TYPES = {"float64": "F64", "float32": "F32", "int64": "I64", "uint8": "U8", "bool": "BOOL"}


def write(path: str | os.PathLike[str], contents: Contents) -> None:
    """Write all with checksums of the arrays; an older file stays until the new one is whole."""
    arrays = {name: np.ascontiguousarray(array) for name, array in contents.arrays.present().items()}
    checksums = {name: _checksum(array) for name, array in arrays.items()}
    header = {"schema": SCHEMA, **{name: getattr(contents, name) for name in IN_HEADER}, "checksums": checksums}
    with replacing(path) as temporary:
        try:
            save_file(arrays, temporary, metadata={HEADER: json.dumps(header)})
        except SafetensorError as exc:  # it wraps errors of the operating system
            raise OSError(f"{path}: the reference could not be written: {exc}") from exc


def read(path: Path, mmap: bool = False, descriptor: DescriptorLike | None = None) -> Contents:
    """The content of a reference file, which may come from anyone: what no reference holds is refused.

    Raises as `Reference.load`.
    """
    _require_reference(path)
    header, arrays, places = _read_unchecked(path, apart=("rows", "averaged") if mmap else ("averaged",))
    if "averaged" in places:
        _require_type(path, "checksum of averaged", header["checksums"].get("averaged"), str)
    for name, (start, shape) in places.items():
        arrays[name] = _mapped(path, name, start, shape) if mmap else _late(path, name, start, shape, header)
    _check_content(path, header, arrays)
    settings = header["settings"]
    if descriptor is None and "k" in settings:
        descriptor = _stored_descriptor(path, settings)
    if descriptor is not None and descriptor.fingerprint != settings["descriptor"]:
        raise MismatchError(
            f"descriptor: {path} was made with {settings['descriptor']!r}, got {descriptor.fingerprint!r}"
        )
    if "averaged" in arrays and descriptor is not None and not averaged_over(descriptor):
        raise FileFormatError(f"{path}: averaged: expected none by its descriptor, whose rows are not averaged again")
    if isinstance(descriptor, Descriptor):
        _check_descriptor(path, descriptor, settings, arrays)
    for name in ("frame_time", "frame_temperature"):
        arrays.setdefault(name, np.full(len(arrays["frame_natoms"]), np.nan))
    return Contents(ReferenceArrays(**arrays), descriptor, **{name: header[name] for name in IN_HEADER})


def verify(path: Path) -> None:
    """Compare the content of a file with the checksums written into it; raise FileFormatError if they differ."""
    _require_reference(path)
    header, arrays, _ = _read_unchecked(path)
    actual = {name: _checksum(array) for name, array in arrays.items()}
    damaged = [name for name in actual if actual[name] != header["checksums"].get(name)]
    if damaged:
        raise FileFormatError(f"{path}: content differs from the checksums written at save: {', '.join(damaged)}")
    found = _fingerprint(header["settings"], actual)
    if found != header["fingerprint"]:
        got = shortened(header["fingerprint"])
        raise FileFormatError(f"{path}: its header says fingerprint {got}, its content gives {found}")
    _check_content(path, header, arrays)


def _require_reference(path: Path) -> None:
    """Refuse what is not there, what is no regular file, and other files of quests_md."""
    require_regular(path, "save the reference to a file first")
    if not path.is_file():
        how = "`quests-md reference build` or Reference.save"
        raise FileNotFoundError(f"{path}: expected a reference file, there is none; make it with {how}")
    if fault := mistaken_for(path, REFERENCE):
        raise FileFormatError(f"{path}: {fault}")


def fingerprint(settings: Mapping[str, Any], arrays: ReferenceArrays) -> str:
    """Checksum of the settings and of the arrays that decide what a reference answers."""
    return _fingerprint(settings, {name: _checksum(getattr(arrays, name)) for name in IDENTITY})


def shortened(text: str) -> str:
    """What a file says, for an error message, cut where it is long."""
    return text if len(text) <= 200 else f"{text[:197]}..."


def _fingerprint(settings: Mapping[str, Any], checksums: Mapping[str, str]) -> str:
    text = json.dumps([dict(sorted(settings.items())), [checksums[name] for name in IDENTITY]])
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _checksum(array: NDArray[Any]) -> str:
    """Checksum of type, shape and content."""
    return _checksum_of(str(array.dtype), array.shape, [array])


def _checksum_of(dtype: str, shape: tuple[int, ...], portions: Iterable[NDArray[Any]]) -> str:
    """Checksum of an array of this type and shape that comes in portions."""
    digest = hashlib.blake2b(f"{dtype} {shape}".encode(), digest_size=16)
    for portion in portions:
        digest.update(np.ascontiguousarray(portion).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _read_unchecked(
    path: Path, apart: Sequence[str] = ()
) -> tuple[dict[str, Any], dict[str, Any], dict[str, tuple[int, tuple[int, ...]]]]:
    """Header and arrays, of which only the header, types and shapes have been looked at.

    Arrays of the names `apart` are not read: their first bytes and shapes are returned.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get(HEADER)
            if text is None:
                raise FileFormatError(f"{path}: is a safetensors file, but not a quests_md reference")
            header = _checked_header(path, text)
            present = set(file.keys())
            missing = [name for name in ARRAYS if name not in OPTIONAL and name not in present]
            if missing:
                raise FileFormatError(f"{path}: the reference lacks {', '.join(missing)}")
            if ("score" in present) != ("score_row" in present):
                raise FileFormatError(f"{path}: the reference has only one of score and score_row")
            names = [name for name in ARRAYS if name in present]
            slices = {name: file.get_slice(name) for name in names}
            layout = {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
            _check_layout(path, layout)
            arrays = {name: file.get_tensor(name) for name in names if name not in apart}
    except PermissionError:
        raise
    except (SafetensorError, OSError) as exc:
        if _holds_frames(path):
            how = "`quests-md reference build` or Reference.from_frames makes a reference of them"
            raise FileFormatError(f"{path}: expected a reference file, got a file of frames; {how}") from exc
        raise FileFormatError(
            f"{path}: expected a reference file of {path.stat().st_size} bytes to be whole, got: "
            f"{shortened(str(exc))}; it is torn or not a reference (of frames, Reference.from_frames makes one)"
        ) from exc
    starts = _first_bytes(path, [name for name in names if name in apart])
    return header, arrays, {name: (start, layout[name][1]) for name, start in starts.items()}


def _holds_frames(path: Path) -> bool:
    """Whether a file that is no reference, nor called one, begins with a frame."""
    if path.suffix == ".safetensors":
        return False
    with suppress(OSError, ValueError, QuestsMDError), warnings.catch_warnings(action="ignore"):
        return next(iter_frames(str(path)), None) is not None
    return False


def _stored_descriptor(path: Path, settings: Mapping[str, Any]) -> Descriptor:
    """The descriptor that a reference file says its rows are made with."""
    names = ("k", "cutoff", "elements", "centers", "neighbors", "average", "chemistry")
    try:
        return Descriptor(**{name: settings[name] for name in names if name in settings})
    except (ValueError, TypeError) as exc:
        raise FileFormatError(f"{path}: settings: {shortened(str(exc))}") from exc


def _first_bytes(path: Path, names: Sequence[str]) -> dict[str, int]:
    """Where in the file arrays begin; safe_open has checked all offsets before."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        entries = json.loads(file.read(length))
    for name in names:
        if not isinstance(entries[name], dict):  # safetensors reads a list too
            got = shortened(repr(entries[name]))
            raise FileFormatError(f"{path}: {name}: expected an object in the header, got {got}")
    return {name: 8 + length + entries[name]["data_offsets"][0] for name in names}


def _mapped(path: Path, name: str, start: int, shape: tuple[int, ...]) -> NDArray[Any]:
    """An array mapped from the file."""
    dtype = np.dtype(ARRAYS[name].dtype)
    if not math.prod(shape):  # nothing can be mapped
        return np.empty(shape, dtype)
    rows = np.memmap(path, dtype=dtype, mode="r", offset=start, shape=shape)
    # kernels take aligned rows; safetensors and save align them, the format does not ask for it
    return rows if rows.flags.aligned else np.array(rows)


def _late(path: Path, name: str, start: int, shape: tuple[int, ...], header: Mapping[str, Any]) -> LateArray:
    """An array that stays in the file until it is asked for, and must then have the checksum that it has now."""
    expected, dtype = header["checksums"][name], ARRAYS[name].dtype

    def is_same(portions: Iterable[NDArray[Any]]) -> bool:
        return bool(_checksum_of(dtype, shape, portions) == expected)

    return stored_array(path, name, start, shape, dtype, is_same)


def _checked_header(path: Path, text: str) -> dict[str, Any]:
    """The header out of its JSON text, all types in it as `Reference.save` writes them."""
    try:
        header = json.loads(text)
        schema = header["schema"]
        if isinstance(schema, bool) or not isinstance(schema, int) or schema < 1:
            raise FileFormatError(f"{path}: schema: expected a positive integer, got {shortened(repr(schema))}")
        if schema > SCHEMA:
            raise FileFormatError(
                f"{path}: reference schema {schema}, this version of quests_md reads up to {SCHEMA}; update quests_md"
            )
        for key, kind in _HEADER_TYPES.items():
            if key not in header:
                raise FileFormatError(f"{path}: the header lacks {key}")
            _require_type(path, key, header[key], kind)
        _check_settings(path, header["settings"])
        for source in header["sources"]:
            _require_type(path, "sources", source, str)
        _check_provenance(path, header["provenance"])
    except FileFormatError:
        raise
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as exc:
        raise FileFormatError(f"{path}: its quests_md header cannot be read: {shortened(repr(exc))}") from exc
    return dict(header)


def _check_layout(path: Path, layout: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    """Types and shapes as the header tells them, before anything is read."""
    for name, (found, shape) in layout.items():
        dtype, entry = _TYPES[ARRAYS[name].dtype], ARRAYS[name].entry
        fits = len(shape) == 1 + len(entry) and all(n in (None, m) for n, m in zip(entry, shape[1:], strict=True))
        if found != dtype or not fits:
            expected = ", ".join(["n", *("m" if n is None else str(n) for n in entry)])
            got = f"{found} {shortened(str(shape))}"
            raise FileFormatError(f"{path}: {name}: expected {dtype} of shape ({expected}), got {got}")
    counts = {"atoms": layout["numbers"][1][0], "frames": layout["frame_natoms"][1][0]}
    for name, (_, shape) in layout.items():
        per = ARRAYS[name].per
        if shape[0] != counts.setdefault(per, shape[0]):
            raise FileFormatError(f"{path}: {name}: expected {counts[per]} entries for the {per}, got shape {shape}")
    n_rows, width = layout["rows"][1]
    if n_rows and not width:
        raise FileFormatError(f"{path}: rows: expected at least one column, got none in {n_rows} rows")
    if "averaged" in layout and layout["averaged"][1][1] != width:
        columns = layout["averaged"][1][1]
        raise FileFormatError(f"{path}: averaged: expected {width} columns, as the rows have, got {columns}")


def _check_content(path: Path, header: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
    """Values: what would lead kernels out of the arrays, come back as a wrong answer, or is in no order."""
    _check_indices(path, arrays, len(header["sources"]))
    _check_values(path, arrays)
    _check_order(path, arrays, header["settings"]["match"])


def _check_descriptor(
    path: Path, descriptor: Descriptor, settings: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> None:
    """Raise FileFormatError unless settings and arrays of a file are such as this descriptor leads to."""
    for key, value in descriptor.settings.items():
        if settings.get(key) != value:
            got = shortened(repr(settings.get(key)))
            raise FileFormatError(f"{path}: {key}: expected {value!r}, as its descriptor has, got {got}")
    n_bins = math.ceil(descriptor.cutoff / PAIR_BIN) + 1
    for name, width in (("rows", descriptor.width), ("pair_histogram", n_bins)):
        if arrays[name].shape[1] != width:
            raise FileFormatError(f"{path}: {name}: expected {width} columns, got {arrays[name].shape[1]}")
    if not descriptor.is_center(arrays["numbers"]).all():
        raise FileFormatError(f"{path}: numbers: expected atoms of {descriptor.centers} alone, the centers of its rows")
    nearest = np.argmax(arrays["pair_histogram"] > 0, axis=1)
    if not np.array_equal(nearest, np.floor(arrays["pair_smallest"] / PAIR_BIN)):
        raise FileFormatError(f"{path}: pair_smallest: expected the smallest distances that pair_histogram counts")


def _check_indices(path: Path, arrays: Mapping[str, NDArray[Any]], n_sources: int) -> None:
    """Indices from a file decide where kernels read: they must lie inside the arrays."""
    n_atoms, n_frames = len(arrays["numbers"]), len(arrays["frame_natoms"])
    limits = {"atom_frame": n_frames, "score_row": n_atoms, "frame_source": n_sources, "frame_group": n_frames}
    for name, limit in limits.items():
        if name in arrays:
            _require(path, name, arrays[name], (arrays[name] >= 0) & (arrays[name] < limit), f"numbers below {limit}")
    natoms = arrays["frame_natoms"]
    _require(path, "frame_natoms", natoms, natoms > 0, "positive numbers of atoms")
    inside = (arrays["atom_index"] >= 0) & (arrays["atom_index"] < natoms[arrays["atom_frame"]])
    _require(path, "atom_index", arrays["atom_index"], inside, "atoms of their frame")


def _check_values(path: Path, arrays: Mapping[str, Any]) -> None:
    """Values that are no numbers or mean nothing: they would come back as wrong answers, not as errors."""
    for name in ("rows", "averaged"):
        array = arrays.get(name, ())
        for start in range(0, len(array), PORTION):
            stop = start + PORTION
            part = array.part(start, stop) if isinstance(array, LateArray) else array[start:stop]
            if not np.isfinite(part).all():
                _require(path, name, part, np.isfinite(part).all(axis=1), "finite numbers", start)
    _require(path, "positions", arrays["positions"], np.isfinite(arrays["positions"]).all(axis=1), "finite numbers")
    for name in ("numbers", "pair_elements"):
        known = arrays[name] < len(chemical_symbols)
        _require(path, name, arrays[name], known if known.ndim == 1 else known.all(axis=1), "atomic numbers")
    bits = arrays["pbc"].view(np.uint8)
    _require(path, "pbc", bits, (bits <= 1).all(axis=1), "bytes of 0 or 1")
    fits = np.isfinite(arrays["cells"]).all(axis=2) | ~arrays["pbc"]
    _require(path, "cells", arrays["cells"], fits.all(axis=1), "finite vectors along periodic directions")
    volume = arrays["frame_volume"]
    _require(path, "frame_volume", volume, np.isnan(volume) | ((volume >= 0) & (volume < np.inf)), "volumes or NaN")
    temperature = arrays.get("frame_temperature", np.empty(0))
    is_one = np.isnan(temperature) | ((temperature > 0) & (temperature < np.inf))
    _require(path, "frame_temperature", temperature, is_one, "temperatures above 0 or NaN")
    _require(path, "frame_index", arrays["frame_index"], arrays["frame_index"] >= 0, "numbers from 0")
    smallest, histogram = arrays["pair_smallest"], arrays["pair_histogram"]
    _require(path, "pair_smallest", smallest, np.isfinite(smallest) & (smallest > 0), "positive distances")
    # as floats, since a sum of large integers may overflow; beyond 2^53 they are no counts
    total = histogram.sum(axis=1, dtype=np.float64)
    counted = (histogram >= 0).all(axis=1) & (total >= 1) & (total <= 2**53)
    _require(path, "pair_histogram", histogram, counted, "counts of at least one distance")
    if "score" in arrays:
        _require(path, "score", arrays["score"], arrays["score"] > -np.inf, "numbers or inf")


def _check_order(path: Path, arrays: Mapping[str, NDArray[Any]], match: str) -> None:
    """Rows sorted by element, frame and atom, pairs by their elements, scores by their rows; no entry twice."""
    if match == "element" and (np.diff(arrays["numbers"].astype(np.int64)) < 0).any():
        raise FileFormatError(f"{path}: numbers: expected rows sorted by element")
    steps = [np.diff(arrays[name].astype(np.int64)) for name in ("numbers", "atom_frame", "atom_index")]
    element, frame, atom = steps if match == "element" else (np.zeros_like(steps[0]), *steps[1:])
    ascending = (element > 0) | (frame > 0) | ((frame == 0) & (atom > 0))
    _require(path, "atom_index", arrays["atom_index"][1:], ascending, "each atom once, in the order of frames", 1)
    per_frame = np.bincount(arrays["atom_frame"], minlength=len(arrays["frame_natoms"]))
    _require(path, "frame_natoms", arrays["frame_natoms"], per_frame <= arrays["frame_natoms"], "as many atoms as rows")
    first, second = arrays["pair_elements"].astype(np.int64).T
    _require(path, "pair_elements", arrays["pair_elements"], first <= second, "the lower atomic number first")
    ascending = np.diff(pair_keys(first, second)) > 0
    _require(path, "pair_elements", arrays["pair_elements"][1:], ascending, "each pair once, ascending", 1)
    if "score_row" in arrays:
        rows = arrays["score_row"]
        _require(path, "score_row", rows[1:], np.diff(rows) > 0, "each row once, ascending", 1)
        groups = arrays["frame_group"][arrays["atom_frame"]]
        n_groups = len(arrays["frame_group"])
        n_all, n_scored = np.bincount(groups, minlength=n_groups), np.bincount(groups[rows], minlength=n_groups)
        whole = ((n_scored == 0) | (n_scored == n_all))[groups[rows]]
        _require(path, "score_row", rows, whole, "rows of whole groups")


def _require(
    path: Path, name: str, values: NDArray[Any], good: NDArray[np.bool_] | np.bool_, expected: str, start: int = 0
) -> None:
    """Raise FileFormatError for the first entry that is not good; `start`: the place of the first one in the file."""
    if not good.all():
        bad = int(np.argmin(good))
        got = shortened(str(values[bad].tolist()))
        raise FileFormatError(f"{path}: {name}: expected {expected}, got {got} in entry {start + bad}")


def _check_settings(path: Path, settings: Mapping[str, Any]) -> None:
    descriptor, bandwidth, match = (settings[key] for key in ("descriptor", "bandwidth", "match"))
    _require_type(path, "descriptor", descriptor, str)
    if match not in ("element", "any"):
        raise FileFormatError(f"{path}: match: expected 'element' or 'any', got {shortened(repr(match))}")
    if isinstance(bandwidth, bool | str):
        raise FileFormatError(f"{path}: bandwidth: expected a number, got {shortened(repr(bandwidth))}")
    check_bandwidth(bandwidth)


def _check_provenance(path: Path, provenance: Mapping[str, Any]) -> None:
    for name in ("left_out", "versions"):
        _require_type(path, name, provenance.get(name, {}), dict)
    for count in provenance.get("left_out", {}).values():
        _require_type(path, "left_out", count, int)
    for name in ("parents", "ancestors"):
        _require_type(path, name, provenance.get(name, []), list)
        for fingerprint_ in provenance.get(name, []):
            _require_type(path, name, fingerprint_, str)
    _require_type(path, "frames_of_ancestors", provenance.get("frames_of_ancestors", {}), dict)
    for frames in provenance.get("frames_of_ancestors", {}).values():
        _require_type(path, "frames_of_ancestors", frames, list)
        integers = [n for n in frames if isinstance(n, int) and not isinstance(n, bool)]
        if len(frames) != 2 or integers != frames or not 0 <= frames[0] <= frames[1]:
            got = shortened(repr(frames))
            raise FileFormatError(f"{path}: frames_of_ancestors: expected two ascending integers each, got {got}")


def _require_type(path: Path, name: str, value: Any, kind: type) -> None:
    if not isinstance(value, kind):
        raise FileFormatError(f"{path}: {name}: expected {_WORDS[kind]}, got {shortened(repr(value))}")
