"""Labels of frames: which of them say that frames belong together."""

import math
from collections.abc import Mapping, Sequence
from collections.abc import Set as AnySet
from typing import Any

import numpy as np

__all__ = ["label_list", "label_of"]


def label_of(value: Any, where: str) -> str:
    """A label as a text: labels that read alike are one, and so are numbers that are equal, 1 and 1.0 and "1".

    An array, list or tuple is a label of several parts. Raises ValueError, which says `where`, for what is missing
    (None, NaN), since a missing label does not say that frames are independent, and for what is no text or number.
    """
    if isinstance(value, np.ndarray):
        value = value.tolist()
    elif isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, list | tuple):
        return f"({', '.join(label_of(part, where) for part in value)})"
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value == int(value) else repr(value)
    is_missing = value is None or (isinstance(value, float) and math.isnan(value))
    if is_missing or not isinstance(value, str | int | float):
        raise ValueError(f"groups: {where}: expected a label, a text or a number, got {value!r}")
    return str(value)


def label_list(groups: Sequence[Any]) -> list[str]:
    """Labels of frames as texts, see `label_of`, or a ValueError that says what `groups` may be."""
    if isinstance(groups, Mapping | AnySet | bytes):
        raise ValueError(f"groups: expected a text or one label per frame, got {type(groups).__name__}")
    try:
        labels = list(groups)
    except TypeError:
        raise ValueError(f"groups: expected a text or one label per frame, got {groups!r}") from None
    return [label_of(label, f"frame {i}") for i, label in enumerate(labels)]
