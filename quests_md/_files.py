"""Files that are whole or absent."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["file_size", "replacing"]


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary name beside `path`; once written, force it to the disk and rename it to `path`.

    If anything fails, `path` is what it was before and the temporary file is gone.
    """
    target = Path(path)
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
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def file_size(name: str) -> int:
    """Bytes of a file, 0 if there is none."""
    try:
        return Path(name).stat().st_size
    except FileNotFoundError:
        return 0
