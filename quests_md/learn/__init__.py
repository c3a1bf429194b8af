"""What comes after an event: frames to label; calculators that carry dH."""

from .calculator import MonitoredCalculator
from .selection import Selected, Selection, select

__all__ = ["MonitoredCalculator", "Selected", "Selection", "select"]
