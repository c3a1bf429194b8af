"""Whether kernels still have to be compiled, and a word to the user before that."""

from functools import cache
from pathlib import Path

from quests_md._kernels.rows import fill_rows
from quests_md._progress import say

__all__ = ["announce_compilation", "are_kernels_cached"]


def are_kernels_cached() -> bool:
    """Whether an earlier process left compiled kernels on disk."""
    stats = getattr(fill_rows, "stats", None)
    if stats is None or not stats.cache_path:  # jit switched off, or nowhere to cache
        return False
    return any(Path(stats.cache_path).glob("*fill_rows*.nbi"))


@cache
def announce_compilation() -> None:
    """Say on stderr that kernels are about to be compiled, if they are: the first call in a process decides."""
    if not getattr(fill_rows, "overloads", True) and not are_kernels_cached():
        say("quests_md: compiling kernels, some 10 s, once per installation ...")
