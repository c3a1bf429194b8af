"""The command line `quests-md`: each command a thin door to one function."""

from .app import main

__all__ = ["main"]
