"""Whether kernels still have to be compiled, and a word to the user before that."""

from pathlib import Path

from quests_md._kernels.rows import fill_rows
from quests_md._progress import say

__all__ = ["announce_compilation", "are_kernels_cached"]

_said: list[str] = []


def are_kernels_cached() -> bool:
    """Whether an earlier process left compiled kernels on disk."""
    stats = getattr(fill_rows, "stats", None)
    if stats is None or not stats.cache_path:  # jit switched off, or nowhere to cache
        return False
    return any(Path(stats.cache_path).glob("*fill_rows*.nbi"))


def announce_compilation() -> None:
    """Say on stderr, once per process, that kernels are about to be compiled, if they are."""
    if _said or getattr(fill_rows, "overloads", True) or are_kernels_cached():
        return
    _said.append("quests_md: compiling kernels, some 10 s, once per installation ...")
    say(_said[0])
