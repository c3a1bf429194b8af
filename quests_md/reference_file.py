"""The reference file: safetensors, no pickle, whole or absent, every length and index checked on the way in."""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from .errors import FileFormatError
from .files import replacing
from .validation import check_bandwidth

__all__ = ["ARRAYS", "IDENTITY", "SCHEMA", "checksum", "fingerprint", "read", "verify", "write"]

#: Version of the reference file. A newer one is refused.
SCHEMA = 1

#: Key of the one JSON text in the safetensors header.
HEADER = "quests_md"

#: Arrays of the file that decide what a reference answers; their checksums make the fingerprint.
IDENTITY = ("rows", "numbers", "atom_frame", "atom_index", "frame_natoms", "frame_group")

#: The arrays of the file: dtype, and which count gives the first dimension.
ARRAYS: dict[str, tuple[str, str]] = {
    "rows": ("float64", "atoms"),
    "numbers": ("uint8", "atoms"),
    "atom_frame": ("int64", "atoms"),
    "atom_index": ("int64", "atoms"),
    "positions": ("float32", "atoms"),
    "frame_source": ("int64", "frames"),
    "frame_index": ("int64", "frames"),
    "frame_natoms": ("int64", "frames"),
    "frame_volume": ("float64", "frames"),
    "frame_group": ("int64", "frames"),
    "frame_time": ("float64", "frames"),
    "cells": ("float32", "frames"),
    "pbc": ("bool", "frames"),
    "pair_elements": ("uint8", "pairs"),
    "pair_smallest": ("float64", "pairs"),
    "pair_histogram": ("int64", "pairs"),
    "score_row": ("int64", "scores"),
    "score": ("float64", "scores"),
}

#: Arrays that a file may lack: files of the first release have no times, and scores are made when first asked for.
OPTIONAL = ("frame_time", "score_row", "score")


def write(path: str | os.PathLike[str], header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write header and arrays with checksums of the content; an older file stays until the new one is whole."""
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    full = {"schema": SCHEMA, **header, "checksums": {name: checksum(array) for name, array in contiguous.items()}}
    with replacing(path) as temporary:
        try:
            save_file(contiguous, temporary, metadata={HEADER: json.dumps(full)})
        except SafetensorError as exc:  # it wraps errors of the operating system
            raise OSError(f"{path}: the reference could not be written: {exc}") from exc


def read(path: Path, mmap: bool = False) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Header and arrays of a reference file, with every length checked."""
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
            arrays = {name: file.get_tensor(name) for name in names if not (mmap and name == "rows")}
    except PermissionError:
        raise
    except (SafetensorError, OSError) as exc:
        raise FileFormatError(
            f"{path}: expected a reference file of {path.stat().st_size} bytes to be whole, got: {exc}; "
            "it is torn or not a reference"
        ) from exc
    if mmap:
        arrays["rows"] = _mapped_rows(path)
    counts = {"atoms": len(arrays["numbers"]), "frames": len(arrays["frame_natoms"])}
    for name, array in arrays.items():
        dtype, per = ARRAYS[name]
        if str(array.dtype) != dtype or array.ndim == 0 or len(array) != counts.setdefault(per, len(array)):
            raise FileFormatError(
                f"{path}: {name}: expected {dtype} with {counts.get(per)} entries, got {array.dtype} {array.shape}"
            )
    _check_shapes(path, arrays)
    _check_indices(path, arrays, len(header["sources"]))
    if header["settings"]["match"] == "element" and (np.diff(arrays["numbers"].astype(np.int64)) < 0).any():
        raise FileFormatError(f"{path}: numbers: expected rows sorted by element")
    return header, arrays


def verify(path: Path) -> None:
    """Compare the content of a file with the checksums written into it; raise FileFormatError if they differ."""
    header, arrays = read(path)
    actual = {name: checksum(array) for name, array in arrays.items()}
    damaged = [name for name in actual if actual[name] != header["checksums"].get(name)]
    if damaged:
        raise FileFormatError(f"{path}: content differs from the checksums written at save: {', '.join(damaged)}")
    found = fingerprint(header["settings"], actual)
    if found != header["fingerprint"]:
        raise FileFormatError(f"{path}: its header says fingerprint {header['fingerprint']}, its content gives {found}")


def checksum(array: NDArray[Any]) -> str:
    """Checksum of type, shape and content."""
    digest = hashlib.blake2b(f"{array.dtype} {array.shape}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def fingerprint(settings: Mapping[str, Any], checksums: Mapping[str, str]) -> str:
    """Checksum of the settings and of the arrays that decide what a reference answers."""
    parts = [dict(sorted(settings.items())), [checksums[name] for name in IDENTITY]]
    text = json.dumps(parts)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _check_shapes(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    tails = {"rows": (None,), "positions": (3,), "cells": (3, 3), "pbc": (3,), "pair_elements": (2,)}
    tails["pair_histogram"] = (None,)
    for name, array in arrays.items():
        tail, expected = array.shape[1:], tails.get(name, ())
        if len(tail) != len(expected) or any(n not in (None, m) for n, m in zip(expected, tail, strict=True)):
            shape = ", ".join(["n", *("m" if n is None else str(n) for n in expected)])
            raise FileFormatError(f"{path}: {name}: expected shape ({shape}), got {array.shape}")


def _check_indices(path: Path, arrays: Mapping[str, NDArray[Any]], n_sources: int) -> None:
    """Indices from a file decide where kernels read: they must lie inside the arrays."""
    n_atoms, n_frames = len(arrays["numbers"]), len(arrays["frame_natoms"])
    limits = {"atom_frame": n_frames, "score_row": n_atoms, "frame_source": n_sources}
    for name, limit in limits.items():
        values = arrays.get(name)
        if values is not None and len(values) and not (values.min() >= 0 and values.max() < limit):
            raise FileFormatError(f"{path}: {name} points outside the {limit} entries there are")
    inside = (arrays["atom_index"] >= 0) & (arrays["atom_index"] < arrays["frame_natoms"][arrays["atom_frame"]])
    if not inside.all():
        raise FileFormatError(f"{path}: atom_index points outside the atoms of its frame")
    if arrays["frame_group"].min(initial=0) < 0:
        raise FileFormatError(f"{path}: frame_group: expected numbers from 0, got {arrays['frame_group'].min()}")


def _checked_header(path: Path, text: str) -> dict[str, Any]:
    try:
        header = json.loads(text)
        schema = header["schema"]
        needed = ("settings", "provenance", "sources", "fingerprint", "checksums")
        if schema <= SCHEMA:
            missing = [key for key in needed if key not in header]
            if missing:
                raise FileFormatError(f"{path}: the header lacks {', '.join(missing)}")
            settings = {key: header["settings"][key] for key in ("descriptor", "bandwidth", "match")}
            if settings["match"] not in ("element", "any"):
                raise FileFormatError(f"{path}: match: expected 'element' or 'any', got {settings['match']!r}")
            check_bandwidth(settings["bandwidth"])
            if not isinstance(header["sources"], list):
                raise FileFormatError(f"{path}: sources: expected a list of names, got {header['sources']!r}")
    except (ValueError, KeyError, TypeError) as exc:
        if isinstance(exc, FileFormatError):
            raise
        raise FileFormatError(f"{path}: its quests_md header cannot be read: {exc!r}") from exc
    if schema > SCHEMA:
        raise FileFormatError(
            f"{path}: reference schema {schema}, this version of quests_md reads up to {SCHEMA}; update quests_md"
        )
    return dict(header)


def _mapped_rows(path: Path) -> NDArray[np.float64]:
    """The rows mapped from the file; safe_open has checked all offsets before."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        entry = json.loads(file.read(length))["rows"]
    shape = tuple(entry["shape"])
    if entry["dtype"] != "F64":
        raise FileFormatError(f"{path}: rows: expected F64, got {entry['dtype']}")
    if not math.prod(shape):  # nothing can be mapped
        return np.empty(shape)
    return np.memmap(path, dtype=np.float64, mode="r", offset=8 + length + entry["data_offsets"][0], shape=shape)
