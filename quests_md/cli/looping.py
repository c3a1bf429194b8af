"""The command that runs a loop of active learning."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Exit

from quests_md._words import many
from quests_md.learn import loop_of_file

from .arguments import ThreadsOption, put, tell
from .exit_codes import ExitCode

__all__ = ["run_loop"]


def run_loop(
    file: Annotated[Path, Argument(metavar="FILE", help="TOML file that describes the loop, see docs/learning.md.")],
    threads: ThreadsOption = None,
) -> None:
    """Run a loop of active learning, or go on with it.

    Each round: run, select, label, extend, refit.

    Prints a line per round, tab-separated. Why it ended goes to stderr. Everything is kept in the folder of the loop:
    after a kill, or when labels are there that were waited for, run the same command again.

    Exits with 5 while labels are missing, with 0 when the loop has ended.
    """
    loop = loop_of_file(file, threads=threads)
    if loop.rounds:
        tell(f"{loop.folder}: {many(len(loop.rounds), 'round')} done before")
    reason = loop.run()
    put("round\truns\tbeyond\tchosen\tlabelled\tfailed\tforce_error")
    for one in loop.rounds:
        error = "" if one.force_error is None else f"{one.force_error:.4g}"
        counts = [one.number, ",".join(one.ends), one.n_beyond, one.n_chosen, one.n_labelled, one.n_failed, error]
        put("\t".join(map(str, counts)))
    tell(reason)
    if reason.startswith("waiting:"):
        raise Exit(ExitCode.WAITING)
