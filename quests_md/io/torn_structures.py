"""Whether a file of structures is torn, as far as its format tells: ASE's readers take what there is."""

import re
from itertools import islice

from ase import Atoms
from ase.io.formats import ioformats, open_with_compression

from .torn_ends import is_cut_short, last_lines, no_line_end
from .warned import warn

__all__ = ["fault_of_count", "holds_several", "how_torn"]

# Formats of which nothing is read where the end is torn: a torn last block may be part of the first structure.
_WHOLE_FILES = ("cif", "xsf")

# Formats that state no number of atoms and have no last line of their own.
_UNCOUNTED = ("aims", "cif", "gaussian-in", "sys", "v-sim")

#: Lines that files end with, by format: ASE takes fewer atoms where they are torn.
_ENDS = {
    "gromos": rb"END\s*$",
    "res": rb"END\s*$",
    "turbomole": rb"\s*\$",
    "dmol-car": rb"\s*end\s*$",
    "dmol-arc": rb"\s*end\s*$",
    "dmol-incoor": rb"\s*\$end",
    "mol": rb"M\s+END",
    "sdf": rb"\$\$\$\$|M\s+END",
    "magres": rb"\s*[\[<]/",
    "runnerdata": rb"\s*end\s*$",
}

# Formats that are written and read by ASE and whose ends are looked at elsewhere, or are no text.
_NOT_HERE = frozenset(
    ("db", "json", "traj", "bundletrajectory", "mysql", "postgresql", "xsd", "xtd", "castep-md", "castep-geom")
)
_MORE = frozenset(("siesta-xv", "struct_out"))

#: Where a format states its number of atoms, within its first lines.
_STATED = {
    # of DL_POLY Classic the third number is a step, and a fourth follows
    "dlp4": rb"[^\n]*\n\s*\d+\s+\d+\s+(\d+)\s*\n",
    "gen": rb"\s*(\d+)\s+[A-Za-z]",
    "gpumd": rb"\s*(\d+)\s",
    "jsv": rb".*?^\[natom\]\s+(\d+)",
    "lammps-data": rb".*?^\s*(\d+)\s+atoms\s*$",
    "mol": rb"(?:[^\n]*\n){3}\s*(\d{1,3})",
    "rmc6f": rb".*?^Number of atoms:\s*(\d+)",
    "sdf": rb"(?:[^\n]*\n){3}\s*(\d{1,3})",
    "siesta-xv": rb"(?:[^\n]*\n){3}\s*(\d+)\s*$",
    "v-sim": rb".*?^#\s*number of atoms[:=]?\s*(\d+)",
}


def holds_several(kind: str) -> bool:
    """Whether files of a format may hold several frames, of which those before a torn one are read."""
    return not ioformats[kind].single and kind not in _WHOLE_FILES


def how_torn(name: str, kind: str) -> str | None:
    """How the end of a file shows that its last frame is torn; None where it does not.

    Where nobody can know, as of a text without the end of its last line, a warning says so.
    """
    if kind in _ENDS:
        return None if _ends_so(name, _ENDS[kind]) else f"the file ends before the end of its {kind} data"
    if kind == "eon" and _has_torn_eon(name):
        return "the file ends in the middle of the frame"
    if kind in _NOT_HERE or not (ioformats[kind].can_write or kind in _MORE):
        return None
    lines = last_lines(name)
    if not lines:
        return None
    is_cut = is_cut_short(lines[-1], lines[:-1])
    if is_cut:
        return f"the file ends in the middle of a line, in {lines[-1].decode(errors='replace').strip()[-60:]!r}"
    if is_cut is None or (kind in _UNCOUNTED and not lines[-1].endswith((b"\n", b"\r"))):
        warn(f"{name}: {no_line_end(lines[-1])}")
    elif kind == "gaussian-in" and lines[-1].strip():
        warn(f"{name}: no blank line ends the atoms, as Gaussian wants it: atoms and cell vectors may be missing")
    return None


def fault_of_count(name: str, kind: str, atoms: Atoms) -> str | None:
    """What is wrong with the number of atoms that ASE found in a file, by what the file states; None: nothing."""
    if kind in _STATED:
        with open_with_compression(name, "rb") as fd:
            match = re.match(_STATED[kind], fd.read(4000), re.MULTILINE | re.DOTALL)
        if match is not None and int(match[1]) != len(atoms):
            return f"expected {int(match[1])} atoms, as the file states, got {len(atoms)}; is it torn?"
    if len(atoms) == 0 and ioformats[kind].single:
        return "it holds no atoms; is it torn?"
    return None


def _ends_so(name: str, text: bytes) -> bool:
    """Whether the last line that is not blank is of this form."""
    last = b""
    with open_with_compression(name, "rb") as fd:
        for line in fd:
            last = line if line.strip() else last
    return re.match(text, last) is not None


def _has_torn_eon(name: str) -> bool:
    """Whether the last frame of EON's file has fewer lines than its head states."""
    with open_with_compression(name, "rb") as fd:
        lines = iter(fd)
        while b"".join(head := list(islice(lines, 9))).strip():
            if len(head) < 9:
                return True
            counts = head[7].split()
            if not all(map(bytes.isdigit, counts)):
                return False  # ASE says what is wrong
            n_lines = sum(map(int, counts)) + 2 * len(counts)
            if len(list(islice(lines, n_lines))) < n_lines:
                return True
    return False
