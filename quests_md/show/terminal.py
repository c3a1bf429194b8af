"""Text for a terminal: how wide it is, and lines folded to that width."""

import shutil
import textwrap
from typing import TextIO

__all__ = ["fold", "terminal_width"]


def fold(text: str, stream: TextIO, indent: int = 2) -> str:
    """Wrap lines at the width of the terminal; what goes elsewhere keeps its lines whole."""
    width = terminal_width(stream)
    if width is None:
        return text
    wrapper = textwrap.TextWrapper(
        max(width, indent + 20),
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(wrapper.fill(line) for line in text.split("\n"))


def terminal_width(stream: TextIO) -> int | None:
    """Letters in a line of the terminal, None where the stream goes elsewhere."""
    return shutil.get_terminal_size().columns if stream.isatty() else None
