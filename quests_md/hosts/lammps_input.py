"""A LAMMPS input, run command by command: as LAMMPS runs it, but Python comes to its turn after each command."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from quests_md.errors import LammpsError

__all__ = ["run_input"]

#: Files that may be open at once, the input and those included in each other: LAMMPS has so many places.
MOST_NESTED = 16

#: The variable of LAMMPS by which it says which branch of an `if` it has chosen.
CHOSEN = "quests_md_branch"

#: A jump among the commands of `run ... every`.
JUMP = re.compile(r"(^|[\s\"'])jump\s")

#: What separates words, and ends them.
BLANKS = " \t\n\v\f\r"


def run_input(
    lmp: Any,
    path: str | os.PathLike[str],
    after: Callable[[], object] | None = None,
    before: Callable[[str], object] | None = None,
) -> int:
    """Run a LAMMPS input, so that `after` is called after every command that LAMMPS has carried out.

    The input does what ``lmp -in path`` does with it, to the bit: each command is passed on to LAMMPS as it stands.
    What concerns the file itself is done here, by the rules of LAMMPS: comments, ``&``, triple quotes, ``include``,
    ``jump`` and ``label``, ``next`` (after which a jump is skipped where a variable is exhausted), ``if`` (LAMMPS
    decides, its commands are carried out here), ``partition`` and ``quit``. The log of LAMMPS shows such lines as
    comments.

    Parameters
    ----------
    lmp
        A `lammps.lammps`; it stays open.
    path
        The input. Names of files in it are looked for in the working directory, as LAMMPS does.
    after
        Called without arguments, such as the ``ensure`` of an attachment; what it raises ends the input.

    before
        Called with the name of each command that LAMMPS is about to carry out, such as ``make_way`` of an attachment.

    Returns
    -------
    The status that the input's ``quit`` gave, 0 without one.

    Raises
    ------
    OSError
        The input cannot be opened.
    LammpsError
        LAMMPS does not accept a command, or a run has failed: the file, the line and LAMMPS's own text.

    Examples
    --------
    >>> from lammps import lammps  # doctest: +SKIP
    >>> with lammps() as lmp:  # doctest: +SKIP
    ...     attachment = monitor.attach_lammps(lmp, 100, ("Cu", "Zr"))
    ...     run_input(lmp, "in.melt", attachment.ensure, attachment.make_way)
    """
    commands = _Commands(lmp, after, before)
    with Path(path).open("rb") as stream:
        try:
            commands.read(_File(os.fspath(path), stream))
        except _Quit as quit_:
            return quit_.status
    return 0


class _Quit(Exception):
    """The input is to end here."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@dataclass
class _File:
    """A file of commands, read line by line: it may be a pipe, and may grow as it is read."""

    name: str
    stream: BinaryIO
    line: int = 0
    """Lines read so far."""
    begins: int = field(default=0, init=False)
    """The line at which the last command began."""

    def next_command(self) -> str | None:
        """The next command, its lines joined; None at the end of the file."""
        text, is_open, self.begins = "", False, self.line + 1
        while raw := self.stream.readline():
            self.line += 1
            piece = raw.decode(errors="replace")
            is_open ^= piece.count('"""') % 2 == 1
            if not piece.endswith("\n"):  # the last line of the file is taken as it is
                return text + piece
            text = (text + piece).rstrip(BLANKS)
            if text.endswith("&"):
                text = text[:-1]
            elif is_open:
                text += "\n"
            else:
                return text
        return text or None

    def rewind(self) -> None:
        """Begin again."""
        self.stream.seek(0)
        self.line = 0


class _Commands:
    """The state of an input that is being run."""

    def __init__(self, lmp: Any, after: Callable[[], object] | None, before: Callable[[str], object] | None) -> None:
        self._lmp, self._after, self._before = lmp, after, before
        self._files: list[_File] = []
        self._label: str | None = None
        """The label that is looked for; commands before it are not carried out."""
        self._missing: LammpsError
        """What is raised if that label does not come."""
        self._is_jump_skipped = False
        self._own: dict[str, Callable[[str, list[str]], None]] = {
            "if": self._if,
            "include": self._include,
            "jump": self._jump,
            "next": self._next,
            "partition": self._partition,
            "quit": self._quit,
        }
        """Commands of which LAMMPS itself is given only a part."""

    def read(self, file: _File) -> None:
        """Carry out the commands of a file, or of those to which it jumps."""
        self._files.append(file)
        try:
            while (line := self._files[-1].next_command()) is not None:
                self._do(line)
            if self._label is not None:
                raise self._missing
        finally:
            self._files.pop().stream.close()

    def _do(self, line: str) -> None:
        """Carry out a command, whether it stands in a file or in the branch of an `if`."""
        text = _without_comment(line)
        words = _words(text)
        if self._label is not None:  # nothing is substituted: variables may not be defined yet
            if words is None:
                raise self._error("ERROR: Unbalanced quotes in input line")
            if words == ["label", self._label]:
                self._label = None
            return
        if words and "$" in words[0]:
            text = self._expanded(text)
            words = _words(text)
        if words and words[0] in self._own and "$" in text:
            words = _words(self._expanded(text))
        if words and words[0] == "run" and any(JUMP.search(word) for word in words):
            raise self._error("a jump among the commands of `run ... every` is not supported; write a loop of runs")
        if words and words[0] in self._own:
            self._own[words[0]](line, words[1:])
        else:  # without end of quotes too: LAMMPS says what is wrong
            if words and self._before is not None:
                self._call(self._before, words[0])
            self._pass(line)

    def _pass(self, line: str) -> None:
        """Have LAMMPS carry out a command."""
        try:
            self._lmp.command(line or " ")  # an empty line is part of LAMMPS's log
        except Exception as exc:
            doubt = (
                "" if "\0" not in line else "; it holds zero bytes: save the input as UTF-8, if it is a text (UTF-16?)"
            )
            raise self._error(f"{getattr(exc, 'message', exc)}{doubt}") from exc
        if self._after is not None:
            self._call(self._after)

    def _call(self, function: Callable[..., object], *arguments: str) -> None:
        """Call what comes before or after a command; where LAMMPS refuses something there, the place is said."""
        try:
            function(*arguments)
        except Exception as exc:
            text = str(getattr(exc, "message", exc))
            if text.startswith("ERROR") and not isinstance(exc, LammpsError):  # by no class of its own
                raise self._error(text) from exc
            raise

    def _note(self, line: str) -> None:
        """Have LAMMPS show a command of which it does nothing itself."""
        for part in line.split("\n"):
            self._lmp.command(f"# {part}")

    def _expanded(self, text: str) -> str:
        """The text with values in the place of variables, as LAMMPS sees it."""
        try:
            return str(self._lmp.expand(text))
        except AttributeError:
            raise self._error("a variable here needs LAMMPS of 22 July 2025 or later; write its value") from None
        except Exception as exc:
            raise self._error(str(exc)) from exc

    def _error(self, text: str) -> LammpsError:
        places = [f"{file.name}, line {file.begins}" for file in reversed(self._files)]
        within = f" (included by {', '.join(places[1:])})" if places[1:] else ""
        return LammpsError(f"{places[0]}{within}: {text}")

    def _include(self, line: str, words: list[str]) -> None:
        if len(words) != 1:
            self._pass(line)  # LAMMPS says what is wrong
            return
        if len(self._files) == MOST_NESTED:
            raise self._error("ERROR: Too many nested levels of input scripts")
        self._note(line)
        name = self._expanded(words[0]) if "$" in words[0] else words[0]  # what stood in quotes
        self.read(self._opened(name))

    def _jump(self, line: str, words: list[str]) -> None:
        if self._is_jump_skipped or not 1 <= len(words) <= 2:
            self._is_jump_skipped = False
            self._pass(line)  # LAMMPS knows that it is to skip it
            return
        self._note(line)
        self._missing = self._error(f"ERROR: Label wasn't found in input script: {words[-1]}")
        if words[0] == "SELF":
            self._files[-1].rewind()
        else:
            file = self._opened(words[0])
            self._files[-1].stream.close()
            self._files[-1] = file
        self._label = words[1] if len(words) == 2 else None

    def _opened(self, name: str) -> _File:
        try:
            return _File(name, Path(name).open("rb"))
        except OSError as exc:
            raise self._error(f"ERROR: Cannot open input script {name}: {exc.strerror}") from exc

    def _next(self, line: str, words: list[str]) -> None:
        self._pass(line)
        # LAMMPS deletes a variable that is exhausted
        self._is_jump_skipped |= not all(self._lmp.has_id("variable", name) for name in words)

    def _if(self, line: str, words: list[str]) -> None:
        """Let LAMMPS choose the branch, and carry it out."""
        if len(words) < 3 or words[1] != "then":
            self._pass(line)  # LAMMPS says what is wrong
            return
        branches: list[list[str]] = [[]]
        question = ["if", _quoted(words[0]), "then"]
        rest = words[2:]
        while rest:
            word = rest.pop(0)
            if word not in ("elif", "else"):
                branches[-1].append(word)
                continue
            question += self._answer(branches)
            question.append(word)
            if word == "elif":
                question += [_quoted(rest.pop(0))] if rest else []
            branches.append([])
        question += self._answer(branches)
        if "else" not in words[2:]:
            question += ["else", _quoted(f"variable {CHOSEN} string none")]
        self._note(line)
        self._pass(" ".join(question))
        chosen = self._lmp.extract_variable(CHOSEN)
        for command in [] if chosen == "none" else branches[int(chosen)]:
            self._do(command)

    def _answer(self, branches: list[list[str]]) -> list[str]:
        """What stands in the place of the commands of the last branch; LAMMPS refuses it where it refuses these."""
        commands = branches[-1]
        if not commands:
            return []
        return [_quoted(f"variable {CHOSEN} string {len(branches) - 1}")] + ['""'] * ("" in commands)

    def _partition(self, line: str, words: list[str]) -> None:
        if len(words) < 3:
            self._pass(line)  # LAMMPS says what is wrong
            return
        self._note(line)
        self._pass(f"variable {CHOSEN} string none")
        self._pass(f"partition {_quoted(words[0])} {_quoted(words[1])} variable {CHOSEN} string 0")
        if self._lmp.extract_variable(CHOSEN) == "0":
            self._do(" ".join([words[2], *map(_quoted, words[3:])]))

    def _quit(self, line: str, words: list[str]) -> None:
        if len(words) > 1 or not all(re.fullmatch(r"[+-]?\d+", word) for word in words):
            self._pass(line)  # LAMMPS says what is wrong
            return
        self._note(line)
        raise _Quit(int(words[0]) if words else 0)


def _without_comment(line: str) -> str:
    """The line up to a `#` that stands in no quotes."""
    quote, i = "", 0
    while i < len(line):
        mark = '"""' if line.startswith('"""', i) and quote in ("", '"""') else line[i]
        if mark == "#" and not quote:
            return line[:i]
        if quote == mark:
            quote = ""
        elif not quote and mark in ('"""', '"', "'"):
            quote = mark
        i += len(mark)
    return line


def _words(text: str) -> list[str] | None:
    """The words of a command without comment: split at blanks, what stands in quotes is one; None: no end of quotes."""
    words = []
    rest = text.lstrip(BLANKS)
    while rest:
        quote = next((mark for mark in ('"""', '"', "'") if rest.startswith(mark)), None)
        if quote is None:
            word = re.split(f"[{BLANKS}]", rest, maxsplit=1)[0]
            rest = rest[len(word) :]
        else:
            word, end, rest = rest[len(quote) :].partition(quote)
            if not end or (rest and rest[0] not in BLANKS):
                return None
        words.append(word)
        rest = rest.lstrip(BLANKS)
    return words


def _quoted(word: str) -> str:
    """A word of an input, in quotes that it does not hold."""
    if '"' not in word:
        return f'"{word}"'
    if "'" not in word:
        return f"'{word}'"
    return f'"""{word} """'  # the blank: it may end with a quote
