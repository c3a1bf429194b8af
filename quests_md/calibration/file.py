"""The file of a calibration: JSON, written whole, and checked like a text of anyone when it is read."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from quests_md._arguments import check_choice, check_positive, check_share
from quests_md._file_kinds import CALIBRATION, mistaken_for
from quests_md._files import replacing, require_regular
from quests_md.errors import FileFormatError
from quests_md.reference import shortened

from .labels import Labels, check_of_errors
from .landmarks import Landmarks
from .levels import PERS, BlockTimes, Mode, NullScores
from .origin import Origin
from .statistics import STATISTICS, check_statistics

__all__ = ["SCHEMA", "read", "write"]

#: Version of the calibration file. A newer one is refused; the second, which has no landmarks, is read.
SCHEMA = 3
OLDEST = 2

#: What a file says it is. Files with labels say something else, so that versions that know of none refuse them.
TYPE, TYPE_WITH_LABELS = "quests_md calibration", "quests_md calibration of errors"

#: Most atoms of a typical frame that a file may name: so many numbers are made of it.
MOST_ATOMS = 10_000_000

#: Largest number in a file, and one over the smallest time: no score comes near, and its square is still a number.
LARGEST = 1e100

#: The modes of evaluation that scores are for, by their name in the file.
MODES: dict[str, tuple[Mode, ...]] = {"full": ("full",), "proven": ("proven",), "both": ("full", "proven")}

#: Fields of a calibration, and of its null distributions, that are in the file as they are.
PLAIN = "fingerprint", "false_alarms", "per", "statistics", "n_groups", "checks"
NULL_PLAIN = "statistic", "element", "side", "values"

#: What older files say of scores of separate frames, and of levels that were carried.
OF_SEPARATE, OF_CARRIED = "separate frames scored against the whole reference", "carried from reference"

#: Further fields of a calibration with labels that are in the file as they are.
OF_LABELS = "tolerance", "share"


def write(path: str | os.PathLike[str], fields: Mapping[str, Any]) -> None:
    """Write the fields of a calibration, by name, whole or not at all."""
    content = {
        "type": TYPE_WITH_LABELS if "labels" in fields else TYPE,
        "schema": SCHEMA,
        **{name: fields[name] for name in PLAIN},
        "how": fields["origin"].in_words(fields["fingerprint"]),
        "origin": _origin_content(fields["origin"]),
        "frame_atoms": fields["n_atoms"],
        "block_ps": fields["times"].block_ps,
        "spacing_ps": fields["times"].spacing_ps,
        "composition": {str(z): n for z, n in fields["composition"].items()},
        "atom_levels": {str(z): value for z, value in fields["atom_levels"].items()},
        "nulls": [
            {name: getattr(null, name) for name in NULL_PLAIN}
            | {"scores": null.scores.tolist(), "sizes": null.sizes.tolist()}
            | ({} if null.groups is None else {"groups": null.groups.tolist()})
            for null in fields["nulls"]
        ],
        "landmarks": None if fields["landmarks"] is None else _landmarks_content(fields["landmarks"]),
    }
    if fields["groups_of"]:
        content["groups_of_elements"] = {str(z): list(of) for z, of in fields["groups_of"].items()}
    if "labels" in fields:
        content |= {name: fields[name] for name in OF_LABELS} | {"labels": fields["labels"].content()}
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The fields of the calibration in a file, by name; errors as in `Calibration.load`."""
    file = Path(path)
    require_regular(file, "save the calibration to a file first")
    if not file.is_file():
        raise FileNotFoundError(f"{path}: expected a calibration file, there is none; make it with Calibration.save")
    if fault := mistaken_for(file, CALIBRATION):
        raise FileFormatError(f"{path}: {fault}")
    try:
        return _fields(json.loads(file.read_text(encoding="utf-8")))
    except UnicodeDecodeError:
        raise FileFormatError(f"{path}: not a calibration file of quests_md: it is binary") from None
    except FileFormatError as exc:
        raise FileFormatError(f"{path}: {exc}") from None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as exc:
        what = shortened(str(exc) if isinstance(exc, ValueError) else repr(exc))
        raise FileFormatError(f"{path}: not a calibration file of quests_md, or torn: {what}") from exc


def _fields(content: Any) -> dict[str, Any]:
    """The fields of a calibration out of a JSON text of anyone; raises many kinds of errors for what is none."""
    if content["type"] not in (TYPE, TYPE_WITH_LABELS):
        raise FileFormatError(f"expected a quests_md calibration, got {shortened(repr(content['type']))}")
    if not OLDEST <= content["schema"] <= SCHEMA:
        todo = "update quests_md" if content["schema"] > SCHEMA else "calibrate again"
        raise FileFormatError(
            f"calibration schema {content['schema']}, this version of quests_md reads {SCHEMA}; {todo}"
        )
    nulls = tuple(_read_null(null) for null in content["nulls"])
    names = [(n.statistic, n.element, n.side, mode) for n in nulls for mode in MODES[n.values]]
    if len(set(names)) < len(names):
        raise ValueError("nulls: expected the scores of each number once, got some twice")
    frame_atoms = _count("frame_atoms", content["frame_atoms"], most=MOST_ATOMS)
    if frame_atoms == 0 and any(len(null.scores) for null in nulls):
        raise ValueError("frame_atoms: expected a positive number, since there are scores, got 0")
    labels: dict[str, Any] = {}
    if content["type"] == TYPE_WITH_LABELS:
        check_of_errors(content["statistics"])
        labels = {
            "tolerance": check_positive("tolerance", _number("tolerance", content["tolerance"]), "force error"),
            "share": check_share("share", content["share"]),
            "labels": Labels.from_content(content["labels"]),
        }
    return labels | {
        "fingerprint": _text("fingerprint", content["fingerprint"]),
        "false_alarms": check_share("false_alarms", content["false_alarms"], "rate between 0 and 1"),
        "per": check_choice("per", content["per"], PERS),
        "statistics": check_statistics(content["statistics"]),
        "nulls": nulls,
        "atom_levels": {_atomic_number(z): _number(z, value) for z, value in content["atom_levels"].items()},
        "composition": {_atomic_number(z): _count(z, n, fewest=1) for z, n in content["composition"].items()},
        "groups_of": {_atomic_number(z): _groups(z, of) for z, of in content.get("groups_of_elements", {}).items()},
        "n_groups": _count("n_groups", content["n_groups"]),
        "n_atoms": frame_atoms,
        "origin": _read_origin(content),
        "checks": None if content["checks"] is None else _count("checks", content["checks"], fewest=1),
        "times": BlockTimes(*(_time_ps(name, content[name]) for name in ("block_ps", "spacing_ps"))),
        "landmarks": _read_landmarks(content["landmarks"]) if content["schema"] > OLDEST else None,
    }


def _origin_content(origin: Origin) -> dict[str, Any]:
    return {
        "how": origin.how,
        "fingerprint": origin.fingerprint,
        "frame_groups": None if origin.frame_groups is None else origin.frame_groups.tolist(),
        "is_separate": origin.is_separate,
    }


def _read_origin(content: Mapping[str, Any]) -> Origin:
    """Where scores come from, out of a file; older ones do not say it, but for scores of separate frames."""
    how, fingerprint = (_text(name, content[name]) for name in ("how", "fingerprint"))
    if "origin" not in content:
        return Origin(how, fingerprint, is_separate=OF_SEPARATE in how and OF_CARRIED not in how)
    own = content["origin"]
    how, fingerprint = (_text(name, own[name]) for name in ("how", "fingerprint"))
    if not isinstance(own["is_separate"], bool):
        raise ValueError(f"is_separate: expected true or false, got {own['is_separate']!r}")
    groups = own["frame_groups"]
    if groups is not None:
        if own["is_separate"] or not isinstance(groups, list):
            raise ValueError("frame_groups: expected a list of groups, of frames that are held out")
        groups = np.array([_count("frame_groups", group) for group in groups], dtype=np.int64)
    return Origin(how, fingerprint, groups, own["is_separate"])


def _landmarks_content(landmarks: Landmarks) -> dict[str, Any]:
    return {
        "rows": landmarks.rows.tolist(),
        "usual": landmarks.usual.tolist(),
        "scatter": landmarks.scatter.tolist(),
        "tail_level": None if math.isnan(landmarks.tail_level) else landmarks.tail_level,
        "n_alone": landmarks.n_alone,
        "averaged": landmarks.averaged,
    }


def _read_landmarks(content: Mapping[str, Any] | None) -> Landmarks | None:
    """Landmarks out of a file; whether the reference has such rows is known once it is at hand."""
    if content is None:
        return None
    rows = np.array([_count("landmarks", row) for row in content["rows"]], dtype=np.int64)
    usual, scatter = (
        np.array([_number(name, value) for value in content[name]], dtype=np.float64) for name in ("usual", "scatter")
    )
    if not rows.shape == usual.shape == scatter.shape:
        raise ValueError(f"landmarks: expected as many rows as values, got {len(rows)}, {len(usual)}, {len(scatter)}")
    if (np.diff(rows) <= 0).any():
        raise ValueError("landmarks: expected each row once, ascending")
    if (scatter < 0).any():
        raise ValueError(f"landmarks: expected no scatter below 0, got {scatter.min()}")
    level = content["tail_level"]
    tail_level = math.nan if level is None else _number("tail_level", level)
    averaged = content.get("averaged", True)  # files of older versions know of no others
    if not isinstance(averaged, bool):
        raise ValueError(f"averaged: expected true or false, got {averaged!r}")
    return Landmarks(rows, usual, scatter, tail_level, _count("n_alone", content["n_alone"]), averaged)


def _read_null(content: Mapping[str, Any]) -> NullScores:
    """A null distribution out of a file."""
    name, element, side, values = (content[key] for key in NULL_PLAIN)
    if name not in STATISTICS or side not in ("above", "below") or values not in MODES:
        raise ValueError(f"nulls: expected scores of a known statistic, got {name!r}, {side!r}, {values!r}")
    if side == "below" and "below" not in STATISTICS[name].sides:
        raise ValueError(f"nulls: expected the largest {name} of each group, got the smallest")
    if element is not None and atomic_numbers.get(element, 0) < 1:
        raise ValueError(f"nulls: expected a chemical element, got {element!r}")
    if not isinstance(content["scores"], list) or not isinstance(content["sizes"], list):
        raise ValueError("nulls: expected lists of scores and sizes")
    scores = np.array([_number("scores", score) for score in content["scores"]], dtype=np.float64)
    sizes = np.array([_count("sizes", size) for size in content["sizes"]], dtype=np.int64)
    if sizes.shape != scores.shape:
        raise ValueError(f"sizes: expected a number of atoms for each of {len(scores)} scores, got {len(sizes)}")
    if STATISTICS[name].unit == "atoms" and (scores < 0).any():
        raise ValueError(f"scores: expected no {name} below 0, got {scores.min()}")
    groups = None
    if "groups" in content:
        groups = np.array([_count("groups", group) for group in content["groups"]], dtype=np.int64)
        if groups.shape != scores.shape or len(np.unique(groups)) < len(groups):
            raise ValueError(f"groups: expected a group of its own for each of {len(scores)} scores, got {len(groups)}")
    order = np.argsort(scores, kind="stable")
    return NullScores(
        name, element, side, values, scores[order], sizes[order], None if groups is None else groups[order]
    )


def _atomic_number(text: str) -> int:
    number = int(text)
    if not 0 <= number < len(chemical_symbols) or str(number) != text:
        raise ValueError(f"expected an atomic number, got {text!r}")
    return number


def _groups(name: str, content: Any) -> tuple[int, ...]:
    """Groups of frames that have an element, ascending, each once."""
    if not isinstance(content, list):
        raise ValueError(f"groups_of_elements: expected a list of groups for {name}, got {content!r}")
    groups = tuple(_count("groups_of_elements", group) for group in content)
    if list(groups) != sorted(set(groups)):
        raise ValueError(f"groups_of_elements: expected each group once, ascending, got {content!r}")
    return groups


def _count(name: str, value: Any, *, fewest: int = 0, most: int = 2**53) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not fewest <= value <= most:
        raise ValueError(f"{name}: expected an integer from {fewest} to {most}, got {value!r}")
    return value


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST:
        raise ValueError(f"{name}: expected a number between {-LARGEST} and {LARGEST}, got {value!r}")
    return float(value)


def _time_ps(name: str, value: Any) -> float | None:
    if value is None:
        return None
    number = _number(name, value)
    if not number > 1 / LARGEST:
        raise ValueError(f"{name}: expected a positive time in ps, got {value!r}")
    return number


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name}: expected a text, got {value!r}")
    return value
