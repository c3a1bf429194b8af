"""The program: its commands, how errors end it, and its exit codes."""

import functools
import os
import re
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from quests_md._version import __version__

from .arguments import tell
from .building import build, info, thin
from .cutting import cut_frames
from .demo import show_demo
from .error_levels import set_error_levels
from .exit_codes import ExitCode
from .faults import code_of, error_line
from .growing import extend, merge
from .lammps import run_lammps
from .levels import set_levels
from .listing import list_events
from .looping import run_loop
from .scoring import score_frames
from .selecting import select_frames

__all__ = ["app", "main"]

#: Shown below the commands; \b keeps the line breaks.
EXAMPLE = """\b
From a training set to the events of a run:
  quests-md reference build train.xyz -o train.safetensors
  quests-md score run.traj -r train.safetensors --log run.jsonl --plot run.png
  quests-md events run.jsonl

\b
Exit codes: 0 fine, 1 an error of LAMMPS, 2 misuse or bad input,
130 interrupted; --fail-on-event: 3 after an event (novel, transition),
4 after an explosion; loop: 5 while labels are missing. In job scripts:
  quests-md events run.jsonl --fail-on-event || echo "exit code $?"
  [ -e quests-md.event ] && cat quests-md.event
(that file is of the action sentinel(), or of score --sentinel.)"""

app = typer.Typer(
    name="quests-md",
    help="Watch atomistic MD: flag frames whose environments leave a reference training set.",
    epilog=EXAMPLE,
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
reference_app = typer.Typer(help="Build, inspect, extend and merge reference files.", no_args_is_help=True)
app.add_typer(reference_app, name="reference")


def main() -> None:
    """Run the command line."""
    warnings.showwarning = _show_warning  # this process is ours: one line, no source code
    for name in ("stdout", "stderr"):  # closed by the caller
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115  # lives as long as the process
    try:
        signal.signal(signal.SIGALRM, _interrupt)
        for signum in (signal.SIGINT, signal.SIGTERM):  # the latter is what a batch system sends before it kills
            if signal.getsignal(signum) is not signal.SIG_IGN:  # as in the background of a shell
                signal.signal(signum, _interrupt)
        app()
    except KeyboardInterrupt:  # before the command began
        tell("interrupted")
        sys.exit(ExitCode.INTERRUPTED)
    except SystemExit:
        if _signals:  # also one that came before the command began, or after it
            sys.exit(ExitCode.INTERRUPTED)
        raise


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        typer.echo(f"quests_md {__version__}")
        raise typer.Exit


def _with_exit_code(function: Callable[..., None]) -> Callable[..., None]:
    """The command, whose errors become one line on stderr and an exit code."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except BrokenPipeError:  # `... | head`: the reader has had enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(ExitCode.FAILED) from None
        except KeyboardInterrupt:
            raise _interrupted() from None
        except Exception as exc:
            if _signals:  # compiled code makes other errors of an interrupt
                raise _interrupted() from None
            if (code := code_of(exc)) is None:
                raise
            tell(f"error: {error_line(exc)}")
            raise typer.Exit(code) from None
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    return run


for _group, _name, _function in (
    (app, "demo", show_demo),
    (reference_app, "build", build),
    (reference_app, "info", info),
    (reference_app, "thin", thin),
    (reference_app, "extend", extend),
    (reference_app, "merge", merge),
    (app, "calibrate", set_levels),
    (app, "calibrate-errors", set_error_levels),
    (app, "score", score_frames),
    (app, "lammps", run_lammps),
    (app, "events", list_events),
    (app, "select", select_frames),
    (app, "cut", cut_frames),
    (app, "loop", run_loop),
):
    _group.command(_name)(_with_exit_code(_function))


#: Interrupts so far.
_signals: list[int] = []

#: Seconds after which an interrupt comes again: some code may have taken it for another error, and gone on.
AGAIN_S = 2.0


def _interrupt(signum: int, frame: object) -> None:
    _signals.append(signum)
    signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
    raise KeyboardInterrupt


def _interrupted() -> typer.Exit:
    tell("interrupted")
    return typer.Exit(ExitCode.INTERRUPTED)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    text = " ".join(str(message).split())
    kind = re.sub(r"\d+", "", text.partition(": ")[2] or text)  # without the name of the file
    _shown[kind] += 1
    if _shown[kind] <= MOST_ALIKE:
        more = "; more warnings of this kind are not shown" if _shown[kind] == MOST_ALIKE else ""
        tell(f"warning: {text}{more}")


#: Warnings that differ in numbers and names of files alone are shown so often.
MOST_ALIKE = 3
_shown: Counter[str] = Counter()
