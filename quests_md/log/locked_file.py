"""A file that grows by whole pieces, and that one process writes at a time."""

import errno
import fcntl
import functools
import os
import socket
import stat
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import NoReturn
from weakref import WeakSet

from quests_md._files import naming
from quests_md.errors import LogExistsError

__all__ = ["LOOK_SECONDS", "Appender", "is_held"]

#: Time in s between two looks at whether the file still has a name, where one takes longer than CHEAP_SECONDS: on NFS
#: it waits until the server has what was written so far. On a local disk it takes 2 us and comes before every piece.
LOOK_SECONDS, CHEAP_SECONDS = 5.0, 1e-4

#: Last bytes of what was written, which are compared with the file before every piece (1 us).
TAIL_BYTES = 64

_open_files: "WeakSet[Appender]" = WeakSet()


class Appender:
    """Appends pieces to a file: each piece is there whole, or an error is raised and the file is as it was.

    The file is locked (flock, which holds across nodes where the file system does that). Where there are no locks, an
    abstract socket named after the file keeps a second process of the same host out. Lock and socket vanish with the
    process. Where no lock keeps a process on another node out, this process notices what the other one has written: the
    other process goes on, this one stops.

    A file that was deleted, cut short, or changed by another process is never written again: every `append` raises, and
    so does `close` if no `append` has. A file that was moved is followed. Forked children hold neither the file nor the
    lock, and cannot append.

    Raises
    ------
    BlockingIOError
        If another process has it open.
    OSError
        If it cannot be opened or created, or is not a regular file.
    """

    def __init__(self, path: Path, *, look_seconds: float = LOOK_SECONDS) -> None:
        self.path = path
        self._look_seconds = look_seconds
        self._owner = os.getpid()
        self._mutex = threading.Lock()
        self._fd = -1
        self._host_lock: socket.socket | None = None
        self._doubtful = b""  # a piece of which some may be in the file
        self._tail = b""  # the last bytes of what is in the file
        self._lost: OSError | None = None
        self._next_look = 0.0
        try:
            # not blocking: a pipe of that name would wait for someone to read it
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
            self._fd = os.open(path, flags, 0o666)
        except OSError as exc:
            text = f"log: cannot be written ({exc.strerror}); create its folder or choose another name"
            raise type(exc)(exc.errno, text, str(path)) from None
        try:
            if not stat.S_ISREG(os.fstat(self._fd).st_mode):
                raise OSError(errno.EINVAL, "log: expected a regular file; choose another name", str(path))
            self._host_lock = _lock(self._fd, fcntl.LOCK_EX)
            found = os.fstat(self._fd)
        except OSError:
            self.abandon()
            raise
        self.end, self._n_links = found.st_size, found.st_nlink
        self._remember_tail()
        _open_files.add(self)
        _watch_forks()

    def cut(self, end: int) -> None:
        """Shorten the file to `end` bytes."""
        os.ftruncate(self._fd, end)
        self.end = end
        self._remember_tail()

    def append(self, piece: bytes, *, sync: bool = False) -> None:
        """Append a piece; with `sync`, force it to the disk.

        Raises OSError if the piece cannot be written (the file is then as it was, or will be before the next piece),
        LogExistsError if another process has written to the file.
        """
        if os.getpid() != self._owner:  # before the mutex, which a fork may have caught in use
            text = f"it belongs to process {self._owner}; a forked process cannot write it, give it a log of its own"
            raise OSError(errno.EPERM, f"log: {text}", str(self.path))
        with self._mutex:
            if self._fd < 0:
                raise OSError(errno.EBADF, "log: it is closed", str(self.path))
            if self._lost is not None:
                raise self._lost.with_traceback(None)
            self._take_back()
            self._look()
            self._doubtful = piece
            try:
                left = memoryview(piece)
                while left:
                    left = left[os.write(self._fd, left) :]
                if sync:
                    os.fsync(self._fd)
            except BaseException as exc:  # an interrupt too may come between two parts
                with suppress(OSError):  # what cannot be taken back now must not hide why; it is tried again later
                    self._take_back()
                if isinstance(exc, OSError):
                    raise naming(exc, self.path) from None
                raise
            self.end += len(piece)
            self._tail = (self._tail + piece[-TAIL_BYTES:])[-TAIL_BYTES:]
            self._doubtful = b""

    def close(self) -> None:
        """Force the file to the disk and close it; in a forked child, do nothing.

        Raises OSError if the file was lost since the last `append`, or cannot be forced to the disk; it is closed then.
        """
        if os.getpid() != self._owner:
            return
        with self._mutex:
            if self._fd < 0:
                return
            try:
                if self._lost is None:
                    with suppress(OSError):  # half a piece at the end does no harm
                        self._take_back()
                    if self._lost is not None:
                        raise self._lost
                    if not self._doubtful:
                        self._next_look = 0.0
                        self._look()
                os.fsync(self._fd)
            finally:
                self.abandon()

    def __del__(self) -> None:
        self.abandon()  # dropped without close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a log that is being written cannot be pickled or copied: give each process a log of its own")

    def _take_back(self) -> None:
        """Cut away the part of a piece that a failed `append` left in the file, and nothing else."""
        if not self._doubtful:
            return
        found = os.pread(self._fd, len(self._doubtful) + 1, self.end)
        if not self._doubtful.startswith(found):
            self._lose_to_another()
        if found:
            os.ftruncate(self._fd, self.end)
        self._doubtful = b""

    def _remember_tail(self) -> None:
        start = max(self.end - TAIL_BYTES, 0)
        self._tail = os.pread(self._fd, self.end - start, start)

    def _look(self) -> None:
        """Make sure that the file still ends with what this process has written, and still has a name."""
        # not st_size, which some network file systems remember wrongly
        found = os.pread(self._fd, len(self._tail) + 1, self.end - len(self._tail))
        before = time.monotonic()
        if before >= self._next_look:
            n_links = os.fstat(self._fd).st_nlink
            now = time.monotonic()
            self._next_look = now + (self._look_seconds if now - before > CHEAP_SECONDS else 0.0)
            if n_links == 0 < self._n_links:
                self._lose("it was deleted or overwritten while being written")
        if len(found) < len(self._tail):
            self._lose("it was cut short while being written")
        if found[: len(self._tail)] != self._tail:
            self._lose("it was overwritten by another process while being written")
        if found != self._tail:
            self._lose_to_another()

    def _lose_to_another(self) -> NoReturn:
        text = f"log: {self.path} is written by another process too; that one goes on with it, this one stops"
        self._lost = LogExistsError(text)
        raise self._lost

    def _lose(self, fault: str) -> NoReturn:
        self._lost = OSError(errno.ESTALE, f"log: {fault}", str(self.path))
        raise self._lost

    def abandon(self) -> None:
        """Close it without forcing anything to the disk."""
        fd, self._fd = getattr(self, "_fd", -1), -1
        if fd >= 0:
            if self._host_lock is not None:
                self._host_lock.close()
            os.close(fd)


def is_held(path: Path) -> bool:
    """Whether a process has the file open as an Appender, as far as this host can tell."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        host_lock = _lock(fd, fcntl.LOCK_SH)
        if host_lock is not None:
            host_lock.close()
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _lock(fd: int, kind: int) -> socket.socket | None:
    """Lock an open file until it is closed, or raise BlockingIOError. The socket, if any, must be kept meanwhile."""
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # SMB says the latter
        raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK)) from None
    except OSError:  # a file system without locks
        return _lock_on_host(fd)
    return None


def _lock_on_host(fd: int) -> socket.socket | None:
    if not sys.platform.startswith("linux"):
        return None
    found = os.fstat(fd)
    try:
        name = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    except OSError:  # not allowed in this container
        return None
    try:
        name.bind(f"\0quests_md log {found.st_dev}:{found.st_ino}")
    except OSError as exc:
        name.close()
        if exc.errno == errno.EADDRINUSE:
            raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK)) from None
        return None
    return name


@functools.cache
def _watch_forks() -> None:
    """Let forked children close their copies: one that outlives its parent would hold the lock for ever."""
    os.register_at_fork(after_in_child=_abandon_all)


def _abandon_all() -> None:
    for file in list(_open_files):
        file.abandon()
