"""Files that are whole or absent, and names that are no files: pipes and devices."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import FileFormatError

__all__ = ["NO_PIPES", "check_output_file", "file_size", "naming", "replacing", "require_regular"]

#: What to do where a pipe is given for a file of frames.
NO_PIPES = "write what comes out of it to a file first; a file that still grows is read as far as it is whole"

#: What a name may stand for that is neither a file nor a folder.
_SPECIAL = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary name beside `path`; once written, force it to the disk and rename it to `path`.

    If anything fails, `path` is what it was before and the temporary file is gone.
    """
    target = Path(path)
    check_output_file("", target)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.touch()
    except OSError as exc:
        text = f"cannot be written ({exc.strerror}); create its folder or choose another name"
        raise type(exc)(exc.errno, text, str(path)) from None
    mode = temporary.stat().st_mode
    try:
        yield temporary
        temporary.chmod(mode)  # as the umask asks: safetensors writes files that only their owner can read
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException as exc:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(exc, OSError) and exc.filename in (None, str(temporary)):
            raise naming(exc, path) from None
        raise


def naming(failure: OSError, path: str | os.PathLike[str]) -> OSError:
    """The same failure, which names the file that it is of."""
    if failure.strerror is None:  # of other libraries, which give a text alone
        return OSError(errno.EIO, str(failure), os.fspath(path))
    return type(failure)(failure.errno, failure.strerror, os.fspath(path))


def require_regular(path: str | os.PathLike[str], advice: str) -> None:
    """Raise FileFormatError if what is to be read is a pipe, a device or a socket; what is not there is let pass.

    Opening a pipe waits until a program opens its other end, perhaps for ever. `advice`: what to do instead.
    """
    if what := _special(path):
        raise FileFormatError(f"{os.fspath(path)}: expected a regular file, got {what}; {advice}")


def check_output_file(argument: str, path: str | os.PathLike[str]) -> None:
    """Raise OSError if a pipe, a device, a socket or a link to itself is to be written; `argument` may be empty."""
    named = f"{argument}: " if argument else ""
    if Path(path).is_symlink() and _leads_to_itself(path):
        raise OSError(
            errno.ELOOP, f"{named}a link that leads to itself; remove it, or choose another name", os.fspath(path)
        )
    if what := _special(path):
        text = f"{named}expected the name of a regular file, got {what}; choose another name"
        raise OSError(errno.EINVAL, text, os.fspath(path))


def _leads_to_itself(path: str | os.PathLike[str]) -> bool:
    try:
        os.stat(path)  # noqa: PTH116  # Path.exists takes it for a link to nothing
    except OSError as exc:
        return exc.errno == errno.ELOOP
    return False


def _special(path: str | os.PathLike[str]) -> str | None:
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116  # names may be bytes
    except (OSError, ValueError):
        return None
    return next((what for is_of, what in _SPECIAL if is_of(mode)), None)


def file_size(name: str) -> int:
    """Bytes of a file, 0 if there is none."""
    try:
        return Path(name).stat().st_size
    except FileNotFoundError:
        return 0
