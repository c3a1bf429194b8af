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
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from quests_md._arguments import check_bandwidth
from quests_md._file_kinds import REFERENCE, mistaken_for
from quests_md._files import replacing, require_regular
from quests_md._words import many
from quests_md.environments import Descriptor, DescriptorLike, averaged_over
from quests_md.errors import FileFormatError, MismatchError, QuestsMDError
from quests_md.io import iter_frames

from .contents import ARRAYS, Contents, ReferenceArrays, type_of
from .contents_checks import check_content, check_descriptor, shortened
from .late_array import LateArray, stored_array
from .mapped import map_array
from .tensors import TYPES, bytes_of, portions, write_tensors

__all__ = ["fingerprint", "read", "shortened", "verify", "write", "write_built"]

#: Key of the one JSON text in the safetensors header.
HEADER = "quests_md"

#: What of the contents is in that text, beside the schema and the checksums.
IN_HEADER = ("settings", "provenance", "sources", "fingerprint")

#: Arrays of the file that decide what a reference answers; their checksums make the fingerprint.
IDENTITY = ("rows", "numbers", "atom_frame", "atom_index", "frame_natoms", "frame_group")

#: Arrays that a file may lack: files of the first release have no times, temperatures and averaged rows, and not every
#: reference has averaged rows or carries scores.
OPTIONAL = ("frame_time", "frame_temperature", "averaged", "score_row", "score")

#: Arrays with an entry for each atom: mapped from the file if asked for.
MAPPED = tuple(name for name, layout in ARRAYS.items() if layout.per == "atoms")

#: Version of the reference file. A newer one is refused.
SCHEMA = 1

#: What the header holds, besides the number of its schema.
_HEADER_TYPES = {"settings": dict, "provenance": dict, "sources": list, "fingerprint": str, "checksums": dict}

#: What types of JSON are called in messages.
_WORDS = {dict: "an object", list: "a list", str: "a text", int: "an integer"}


def write(path: str | os.PathLike[str], contents: Contents) -> None:
    """Write all with checksums of the arrays, a part at a time; an older file stays until the new one is whole."""
    arrays = contents.arrays.held()
    checksums = {name: _checksum(array) for name, array in arrays.items()}
    header = {"schema": SCHEMA, **{name: getattr(contents, name) for name in IN_HEADER}, "checksums": checksums}
    with replacing(path) as temporary, temporary.open("wb") as file:
        write_tensors(file, arrays, {HEADER: json.dumps(header)})


def write_built(path: str | os.PathLike[str], contents: Contents) -> None:
    """`write` what was built of frames; ValueError if these gave nothing, so that no older file is lost for that."""
    if not len(contents.arrays.rows):
        left_out = {why: n for why, n in contents.provenance.get("left_out", {}).items() if n}
        why = ", ".join(f"{many(n, 'frame')} left out ({why})" for why, n in left_out.items()) or "no frames"
        raise ValueError(f"{path}: expected environments to write, got none: {why}; check the frames and `centers`")
    write(path, contents)


def read(path: Path, mmap: bool = False, descriptor: DescriptorLike | None = None) -> Contents:
    """The content of a reference file, which may come from anyone: what no reference holds is refused.

    Raises as `Reference.load`.
    """
    _require_reference(path)
    header, arrays, places = _read_unchecked(path, apart=MAPPED if mmap else ("averaged",))
    if "averaged" in places:
        _require_type(path, "checksum of averaged", header["checksums"].get("averaged"), str)
    for name, (start, shape) in places.items():
        dtype = type_of(name, header["settings"])
        arrays[name] = _mapped(path, name, start, shape, dtype) if mmap else _late(path, name, start, shape, header)
    check_content(path, header, arrays)
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
        check_descriptor(path, descriptor, settings, arrays)
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
    check_content(path, header, arrays)


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


def _fingerprint(settings: Mapping[str, Any], checksums: Mapping[str, str]) -> str:
    text = json.dumps([dict(sorted(settings.items())), [checksums[name] for name in IDENTITY]])
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _checksum(array: NDArray[Any] | LateArray) -> str:
    """Checksum of type, shape and content."""
    return _checksum_of(str(array.dtype), array.shape, portions(array))


def _checksum_of(dtype: str, shape: tuple[int, ...], portions: Iterable[NDArray[Any]]) -> str:
    """Checksum of an array of this type and shape that comes in portions."""
    digest = hashlib.blake2b(f"{dtype} {shape}".encode(), digest_size=16)
    for portion in portions:
        digest.update(bytes_of(portion))
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
            _check_layout(path, layout, header["settings"])
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


def _mapped(path: Path, name: str, start: int, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """An array mapped from the file, as it is: `check_content` looks at all but the rows, see `checked`."""
    if not math.prod(shape):  # nothing can be mapped
        return np.empty(shape, dtype)
    array = map_array(Path(path), dtype, start, shape)
    # kernels take aligned rows; safetensors and save align them, the format does not ask for it
    if not array.flags.aligned:
        return np.array(array)
    return array if name in ("rows", "averaged") else np.asarray(array)  # the class tells what is unchecked


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


def _check_layout(path: Path, layout: Mapping[str, tuple[str, tuple[int, ...]]], settings: Mapping[str, Any]) -> None:
    """Types and shapes as the header tells them, before anything is read."""
    for name, (found, shape) in layout.items():
        dtype, entry = TYPES[type_of(name, settings)], ARRAYS[name].entry
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


def _check_settings(path: Path, settings: Mapping[str, Any]) -> None:
    descriptor, bandwidth, match = (settings[key] for key in ("descriptor", "bandwidth", "match"))
    _require_type(path, "descriptor", descriptor, str)
    if match not in ("element", "any"):
        raise FileFormatError(f"{path}: match: expected 'element' or 'any', got {shortened(repr(match))}")
    if (precision := settings.get("precision", "single")) != "single":
        raise FileFormatError(f"{path}: precision: expected 'single' or none, got {shortened(repr(precision))}")
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
