"""What comes after an event: frames to label."""

from .selection import Selected, Selection, select

__all__ = ["Selected", "Selection", "select"]
