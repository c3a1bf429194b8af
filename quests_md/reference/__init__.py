"""What is known: the environments of a training set, built, saved, merged and asked."""

from .build import label_list
from .file import ARRAYS, shortened
from .reference import Nearest, Reference, near_largest, require_equal_settings

__all__ = ["ARRAYS", "Nearest", "Reference", "label_list", "near_largest", "require_equal_settings", "shortened"]
