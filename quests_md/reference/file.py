"""The reference file: safetensors, no pickle, whole or absent, every length and index checked on the way in."""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from quests_md._files import replacing
from quests_md.environments import Descriptor, DescriptorLike
from quests_md.errors import FileFormatError, MismatchError

from .arrays import ARRAYS, ReferenceArrays
from .file_checks import SCHEMA, check_content, check_descriptor, check_layout, checked_header, shortened

__all__ = ["Stored", "fingerprint", "read", "verify", "write"]

#: Key of the one JSON text in the safetensors header.
HEADER = "quests_md"

#: Arrays of the file that decide what a reference answers; their checksums make the fingerprint.
IDENTITY = ("rows", "numbers", "atom_frame", "atom_index", "frame_natoms", "frame_group")

#: Arrays that a file may lack: files of the first release have no times, and not every reference carries scores.
OPTIONAL = ("frame_time", "score_row", "score")


class Stored(NamedTuple):
    """What a reference file holds: the arguments of `Reference`."""

    arrays: ReferenceArrays
    descriptor: DescriptorLike | None
    settings: dict[str, Any]
    sources: list[str]
    provenance: dict[str, Any]
    fingerprint: str


def write(path: str | os.PathLike[str], header: Mapping[str, Any], arrays: ReferenceArrays) -> None:
    """Write header and arrays with checksums of the content; an older file stays until the new one is whole."""
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.present().items()}
    full = {"schema": SCHEMA, **header, "checksums": {name: _checksum(array) for name, array in contiguous.items()}}
    with replacing(path) as temporary:
        try:
            save_file(contiguous, temporary, metadata={HEADER: json.dumps(full)})
        except SafetensorError as exc:  # it wraps errors of the operating system
            raise OSError(f"{path}: the reference could not be written: {exc}") from exc


def read(path: Path, mmap: bool = False, descriptor: DescriptorLike | None = None) -> Stored:
    """The content of a reference file, which may come from anyone: what no reference holds is refused.

    Raises as `Reference.load`.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a reference file, there is none; make it with Reference.save")
    header, arrays = _read_unchecked(path, mmap)
    check_content(path, header, arrays)
    settings = header["settings"]
    if descriptor is None and "k" in settings:
        descriptor = _stored_descriptor(path, settings)
    if descriptor is not None and descriptor.fingerprint != settings["descriptor"]:
        raise MismatchError(
            f"descriptor: {path} was made with {settings['descriptor']!r}, got {descriptor.fingerprint!r}"
        )
    if isinstance(descriptor, Descriptor):
        check_descriptor(path, descriptor, settings, arrays)
    arrays.setdefault("frame_time", np.full(len(arrays["frame_natoms"]), np.nan))
    return Stored(
        ReferenceArrays(**arrays), descriptor, settings, header["sources"], header["provenance"], header["fingerprint"]
    )


def verify(path: Path) -> None:
    """Compare the content of a file with the checksums written into it; raise FileFormatError if they differ."""
    header, arrays = _read_unchecked(path)
    actual = {name: _checksum(array) for name, array in arrays.items()}
    damaged = [name for name in actual if actual[name] != header["checksums"].get(name)]
    if damaged:
        raise FileFormatError(f"{path}: content differs from the checksums written at save: {', '.join(damaged)}")
    found = _fingerprint(header["settings"], actual)
    if found != header["fingerprint"]:
        got = shortened(header["fingerprint"])
        raise FileFormatError(f"{path}: its header says fingerprint {got}, its content gives {found}")
    check_content(path, header, arrays)


def fingerprint(settings: Mapping[str, Any], arrays: ReferenceArrays) -> str:
    """Checksum of the settings and of the arrays that decide what a reference answers."""
    return _fingerprint(settings, {name: _checksum(getattr(arrays, name)) for name in IDENTITY})


def _fingerprint(settings: Mapping[str, Any], checksums: Mapping[str, str]) -> str:
    text = json.dumps([dict(sorted(settings.items())), [checksums[name] for name in IDENTITY]])
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _checksum(array: NDArray[Any]) -> str:
    """Checksum of type, shape and content."""
    digest = hashlib.blake2b(f"{array.dtype} {array.shape}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _read_unchecked(path: Path, mmap: bool = False) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Header and arrays, of which only the header, types and shapes have been looked at."""
    try:
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get(HEADER)
            if text is None:
                raise FileFormatError(f"{path}: is a safetensors file, but not a quests_md reference")
            header = checked_header(path, text)
            present = set(file.keys())
            missing = [name for name in ARRAYS if name not in OPTIONAL and name not in present]
            if missing:
                raise FileFormatError(f"{path}: the reference lacks {', '.join(missing)}")
            if ("score" in present) != ("score_row" in present):
                raise FileFormatError(f"{path}: the reference has only one of score and score_row")
            names = [name for name in ARRAYS if name in present]
            slices = {name: file.get_slice(name) for name in names}
            layout = {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
            check_layout(path, layout)
            arrays = {name: file.get_tensor(name) for name in names if not (mmap and name == "rows")}
    except PermissionError:
        raise
    except (SafetensorError, OSError) as exc:
        raise FileFormatError(
            f"{path}: expected a reference file of {path.stat().st_size} bytes to be whole, got: "
            f"{shortened(str(exc))}; it is torn or not a reference"
        ) from exc
    if mmap:
        arrays["rows"] = _mapped_rows(path, layout["rows"][1])
    return header, arrays


def _stored_descriptor(path: Path, settings: Mapping[str, Any]) -> Descriptor:
    """The descriptor that a reference file says its rows are made with."""
    names = ("k", "cutoff", "elements", "centers", "neighbors")
    try:
        return Descriptor(**{name: settings[name] for name in names if name in settings})
    except (ValueError, TypeError) as exc:
        raise FileFormatError(f"{path}: settings: {shortened(str(exc))}") from exc


def _mapped_rows(path: Path, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """The rows mapped from the file; safe_open has checked all offsets before."""
    if not math.prod(shape):  # nothing can be mapped
        return np.empty(shape)
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        entry = json.loads(file.read(length))["rows"]
    if not isinstance(entry, dict):  # safetensors reads a list too
        raise FileFormatError(f"{path}: rows: expected an object in the header, got {shortened(repr(entry))}")
    start = 8 + length + entry["data_offsets"][0]
    rows = np.memmap(path, dtype=np.float64, mode="r", offset=start, shape=shape)
    # kernels take aligned rows; safetensors and save align them, the format does not ask for it
    return rows if rows.flags.aligned else np.array(rows)
