"""What is known: the environments of a training set, built, saved, merged and asked."""

from .advice import chemistry_advice
from .annotating import AtomLevels, kept_results, levels_are_opened_by, with_atom_values
from .colder import colder_copies
from .file import shortened
from .frame_words import differences, frames_words, unknown_elements
from .held_out import MAX_HELD_OUT, near_largest, whole_groups
from .labels import label_list
from .lengths import fault_of_start
from .merge import require_equal_settings
from .molecules import MOST_ATOMS, is_of_molecules
from .nearest import Nearest
from .reference import (
    GivenReference,
    Reference,
    built_like,
    copies_of,
    frames_also_in,
    frames_of_ancestors,
    opened_reference,
    thinned,
)
from .thinning import thinning_loss

__all__ = [
    "MAX_HELD_OUT",
    "MOST_ATOMS",
    "AtomLevels",
    "GivenReference",
    "Nearest",
    "Reference",
    "built_like",
    "chemistry_advice",
    "colder_copies",
    "copies_of",
    "differences",
    "fault_of_start",
    "frames_also_in",
    "frames_of_ancestors",
    "frames_words",
    "is_of_molecules",
    "kept_results",
    "label_list",
    "levels_are_opened_by",
    "near_largest",
    "opened_reference",
    "require_equal_settings",
    "shortened",
    "thinned",
    "thinning_loss",
    "unknown_elements",
    "whole_groups",
    "with_atom_values",
]
