"""Files whose first bytes say that they are no text that a reader here takes: packed under a plain name, UTF-16, CR."""

import codecs
import shlex
from pathlib import Path

from ase.io.formats import get_compression

__all__ = ["fault_of_bytes"]

#: First bytes of packed files, what they are called, and the command that unpacks them.
_PACKED = (
    (b"\x1f\x8b", "gzip", ".gz", "gzip -dc"),
    (b"BZh", "bzip2", ".bz2", "bzip2 -dc"),
    (b"\xfd7zXZ\0", "xz", ".xz", "xz -dc"),
    (b"(\xb5/\xfd", "zstd", None, "zstd -dc"),
    (b"\x04\x22M\x18", "lz4", None, "lz4 -dc"),
    (b"\x1f\x9d", "compress", None, "gzip -dc"),
    (b"PK\x03\x04", "zip", None, "unzip -p"),
)

#: Bytes that are looked at.
_BEGINNING = 4096


def fault_of_bytes(name: str, *, unpacks_gzip: bool = False) -> str | None:
    """Why the bytes of a regular file are not read as they are, and what to do; None: nothing is known against it.

    `unpacks_gzip`: its reader knows such data by itself.
    """
    if not Path(name).is_file():
        return None
    with Path(name).open("rb") as file:
        start = file.read(_BEGINNING)
    if get_compression(name)[1] is not None:
        return None
    for magic, called, suffix, command in _PACKED:
        if start.startswith(magic):
            if unpacks_gzip and called == "gzip":
                return None
            unpack = f"unpack it: {command} {shlex.quote(name)} > FILE"
            rename = f"name it {name}{suffix}, or " if suffix else ""
            return f"expected plain bytes, got data packed by {called}; {rename}{unpack}"
    has_mark = start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) and b"\0" in start
    if has_mark or _is_utf16(start):
        return (
            "expected UTF-8 text, got UTF-16, as the PowerShell of Windows writes; convert it: iconv -f utf-16 -t utf-8"
        )
    if b"\r" in start and b"\n" not in start and b"\0" not in start:
        convert = f"convert it: tr '\\r' '\\n' < {shlex.quote(name)} > FILE"
        return f"expected lines that end in LF, got CR alone, as of old Macs; {convert}"
    return None


def _is_utf16(start: bytes) -> bool:
    """Whether every second byte is 0, and none of the others."""
    even, odd = start[:200:2], start[1:200:2]
    if len(odd) < 4:
        return False
    return any(not any(a) and all(b) for a, b in ((even, odd), (odd, even)))
