"""What is known: the environments of a training set, built, saved, merged and asked."""

from .build import label_list
from .contents import require_equal_settings
from .file_checks import shortened
from .held_out import near_largest, whole_groups
from .merge import thinned
from .query import Nearest
from .reference import Reference

__all__ = [
    "Nearest",
    "Reference",
    "label_list",
    "near_largest",
    "require_equal_settings",
    "shortened",
    "thinned",
    "whole_groups",
]
