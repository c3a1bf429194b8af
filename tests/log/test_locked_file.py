"""A file that one process writes at a time, and that holds whole pieces whatever fails."""

import copy
import errno
import fcntl
import multiprocessing
import os
import pickle
import socket
import subprocess
import sys
import textwrap
import time
from functools import partial
from pathlib import Path

import pytest

import quests_md
from quests_md.errors import LogExistsError
from quests_md.log.locked_file import Appender, is_held

#: A process that imports the log and what it needs alone, and quickly.
BARE = f"""
    import os, pathlib, sys, types
    package = types.ModuleType("quests_md")
    package.__path__ = [{str(Path(quests_md.__file__).parent)!r}]
    sys.modules["quests_md"] = package
    from quests_md.log.locked_file import Appender
"""

BEGIN = """
    file = Appender(pathlib.Path(sys.argv[1]))
    file.append(b"begun\\n")
"""


def process(*codes):
    return [sys.executable, "-c", "".join(map(textwrap.dedent, codes))]


def run(code, path):
    done = subprocess.run([*process(BARE, BEGIN, code), path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


HOLD = """
    print("held", flush=True)
    sys.stdin.read()
"""

NO_LOCKS = """
    import errno, fcntl
    def refuse(fd, kind):
        raise OSError(errno.ENOSYS, "Function not implemented")
    fcntl.flock = refuse
"""


@pytest.mark.parametrize("locks", ["flock", "none"])
def test_a_writer_of_another_process_is_refused_until_that_is_gone(path, locks, monkeypatch):
    if locks == "none":
        if not sys.platform.startswith("linux"):
            pytest.skip("only Linux has sockets without a file")
        without_locks(monkeypatch)
    preface = NO_LOCKS if locks == "none" else ""
    with subprocess.Popen(
        [*process(BARE, preface, BEGIN, HOLD), path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout.readline() == b"held\n"
        assert is_held(path)
        with pytest.raises(BlockingIOError):
            Appender(path)
        holder.kill()
    assert not is_held(path)
    Appender(path).close()


def without_locks(monkeypatch):
    def refuse(*args):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", refuse)
    return refuse


def blind(monkeypatch):
    """A file system without locks, and another host."""
    monkeypatch.setattr(socket, "socket", without_locks(monkeypatch))


def test_where_nothing_locks_the_newer_writer_goes_on_and_the_older_stops(path, monkeypatch):
    blind(monkeypatch)
    old = Appender(path)
    old.append(b"old\n")
    new = Appender(path)
    new.append(b"new\n")
    for _ in range(2):
        with pytest.raises(LogExistsError, match=r"run\.jsonl is written by another process too"):
            old.append(b"lost\n")
    new.append(b"new\n")
    old.close()
    new.close()
    assert path.read_text() == "old\nnew\nnew\n"


def test_of_two_new_files_where_nothing_locks_one_stops_at_its_first_piece(path, monkeypatch):
    blind(monkeypatch)
    first, second = Appender(path), Appender(path)
    second.append(b"second\n")
    with pytest.raises(LogExistsError, match="another process"):
        first.append(b"first\n")
    second.close()
    assert path.read_text() == "second\n"


FORK = """
    import gc
    child = os.fork()
    if child == 0:
        try:
            file.append(b"child\\n")
        except OSError as exc:
            print(exc, flush=True)
        file.close()
        del file
        gc.collect()
        os._exit(0)
    os.waitpid(child, 0)
    try:
        Appender(file.path)
    except BlockingIOError:
        print("still locked")
    file.append(b"parent\\n")
    file.close()
"""


def test_a_forked_child_neither_writes_nor_closes_the_file(path):
    said = run(FORK, path).splitlines()
    assert "belongs to process" in said[0]
    assert said[1:] == ["still locked"]
    assert path.read_text() == "begun\nparent\n"


ORPHAN = """
    import signal, time
    if os.fork() == 0:
        print(os.getpid(), flush=True)
        time.sleep(60)
        os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_child_that_outlives_a_killed_run_does_not_hold_the_file(path):
    with subprocess.Popen([*process(BARE, BEGIN, ORPHAN), path], stdout=subprocess.PIPE) as parent:
        child = int(parent.stdout.readline())
        parent.wait()
        try:
            os.kill(child, 0)
            Appender(path).close()
        finally:
            os.kill(child, 9)


POOL = """
    import multiprocessing

    def work(i):
        return i * i

    if __name__ == "__main__":
        with multiprocessing.get_context("fork").Pool(2) as pool:
            for value in pool.map(work, range(5)):
                file.append(f"{value}\\n".encode())
        file.close()
"""


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
def test_workers_that_inherit_a_file_leave_it_alone(path):
    run(POOL, path)
    assert path.read_text().split() == ["begun", "0", "1", "4", "9", "16"]


def test_a_file_that_is_written_cannot_be_pickled_or_copied(path):
    file = Appender(path)
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="give each process a log of its own"):
            attempt(file)
    file.close()


def test_a_file_in_a_folder_that_does_not_exist(tmp_path):
    missing = tmp_path / "missing" / "run.jsonl"
    with pytest.raises(FileNotFoundError, match="create its folder") as info:
        Appender(missing)
    assert info.value.filename == str(missing)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["fifo", "device", "folder", "inside a file"])
def test_only_a_regular_file_can_be_written(tmp_path, kind):
    place = tmp_path / "place"
    if kind == "fifo":
        os.mkfifo(place)
    elif kind == "device":
        place = Path(os.devnull)
    elif kind == "folder":
        place.mkdir()
    else:
        place.touch()
        place = place / "run.jsonl"
    with pytest.raises(OSError, match=r"log: .*(regular file|directory)"):
        Appender(place)


def test_a_folder_without_permission(tmp_path, monkeypatch):
    if os.geteuid() == 0:  # permissions do not bind root

        def deny(path, *rest):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))

        monkeypatch.setattr(os, "open", deny)
    else:
        tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match=r"Permission denied.*another name"):
        Appender(tmp_path / "run.jsonl")
    monkeypatch.undo()
    tmp_path.chmod(0o700)
    assert list(tmp_path.iterdir()) == []


def failing(monkeypatch, name, code=errno.EIO):
    """Let a function of os fail."""

    def fail(*args):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, name, fail)


def half_written(monkeypatch, room):
    """Let a disk be full after so many bytes."""
    real, space = os.write, [room]

    def short(fd, data):
        if space[0] == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = real(fd, data[: space[0]])
        space[0] -= written
        return written

    monkeypatch.setattr(os, "write", short)


def half_a_piece(path, monkeypatch):
    """A file with the half of a piece that could not be taken back."""
    file = Appender(path)
    file.append(b"whole\n")
    with monkeypatch.context() as broken:
        half_written(broken, 4)
        failing(broken, "ftruncate")
        with pytest.raises(OSError, match="No space left"):
            file.append(b"half a piece\n")
        with pytest.raises(OSError, match="Input/output"):
            file.append(b"not yet\n")
    assert path.read_bytes() == b"whole\nhalf"
    return file


def test_a_full_disk_leaves_whole_pieces_and_later_ones_follow(path, monkeypatch):
    file = Appender(path)
    file.append(b"whole\n")
    with monkeypatch.context() as full:
        half_written(full, 4)
        for _ in range(2):
            with pytest.raises(OSError, match="No space left"):
                file.append(b"half a piece\n")
    assert path.read_bytes() == b"whole\n"
    file.append(b"later\n")
    file.close()
    assert path.read_bytes() == b"whole\nlater\n"


def test_short_writes_are_completed(path, monkeypatch):
    real = os.write
    with monkeypatch.context() as slow:
        slow.setattr(os, "write", lambda fd, data: real(fd, data[:7]))
        file = Appender(path)
        file.append(b"longer than seven bytes\n")
        file.close()
    assert path.read_bytes() == b"longer than seven bytes\n"


def test_half_a_piece_that_cannot_be_cut_away_is_cut_away_before_the_next(path, monkeypatch):
    file = half_a_piece(path, monkeypatch)
    file.append(b"later\n")
    file.close()
    assert path.read_bytes() == b"whole\nlater\n"


@pytest.mark.parametrize("can_truncate", [False, True])
def test_half_a_piece_is_cut_away_at_the_end_where_that_is_possible(path, monkeypatch, can_truncate):
    file = half_a_piece(path, monkeypatch)
    with monkeypatch.context() as broken:
        if not can_truncate:
            failing(broken, "ftruncate")
        file.close()
    assert path.read_bytes() == (b"whole\n" if can_truncate else b"whole\nhalf")


def test_what_another_process_wrote_after_half_a_piece_is_never_cut_away(path, monkeypatch):
    file = half_a_piece(path, monkeypatch)
    with path.open("a") as other:
        other.write("precious\n")
    for _ in range(2):
        with pytest.raises(LogExistsError, match="another process"):
            file.append(b"later\n")
    file.close()
    assert path.read_bytes() == b"whole\nhalfprecious\n"


def test_an_interrupt_in_the_middle_of_a_piece_leaves_whole_pieces(path, monkeypatch):
    file = Appender(path)
    file.append(b"whole\n")
    real = os.write

    def interrupted(fd, data, part):
        real(fd, data[: len(data) // part])
        raise KeyboardInterrupt

    for part in (2, 1):  # in the middle, and when all is there
        with monkeypatch.context() as broken:
            broken.setattr(os, "write", partial(interrupted, part=part))
            with pytest.raises(KeyboardInterrupt):
                file.append(b"half a piece\n")
        assert path.read_bytes() == b"whole\n"
    file.append(b"later\n")
    file.close()
    assert path.read_bytes() == b"whole\nlater\n"


@pytest.mark.parametrize("how", ["unlink", "replace"])
def test_a_file_that_was_deleted_is_said_and_not_made_again(path, how):
    file = Appender(path)
    file.append(b"begun\n")
    if how == "unlink":
        path.unlink()
    else:
        other = path.with_name("other")
        other.write_text("other\n")
        other.replace(path)
    for _ in range(2):
        with pytest.raises(OSError, match=r"deleted or overwritten while being written.*run\.jsonl") as info:
            file.append(b"later\n")
        assert info.value.errno == errno.ESTALE
    file.close()
    assert (path.read_text() if path.exists() else None) == (None if how == "unlink" else "other\n")


def test_a_file_that_was_moved_is_followed(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    file = Appender(Path("run.jsonl"))
    file.append(b"begun\n")
    moved = path.with_name("moved.jsonl")
    path.rename(moved)
    monkeypatch.chdir("/")
    path.write_text("another run in its place\n")
    file.append(b"later\n")
    file.close()
    assert moved.read_text() == "begun\nlater\n"
    assert path.read_text() == "another run in its place\n"


@pytest.mark.parametrize("length", [0, 8, 11])
def test_a_file_that_was_cut_short_is_said_and_left_as_it_is(path, length):
    file = Appender(path)
    file.append(b"begun\nlater\n")
    os.truncate(path, length)
    left = path.read_bytes()
    for _ in range(2):
        with pytest.raises(OSError, match="cut short while being written"):
            file.append(b"lost\n")
    file.close()
    assert path.read_bytes() == left


def test_a_file_of_other_content_and_the_same_length_is_left_as_it_is(path):
    file = Appender(path)
    file.append(b"begun\n" * 20)
    file.close()
    file = Appender(path)
    path.write_bytes(b"other\n" * 20)
    for _ in range(2):
        with pytest.raises(OSError, match="overwritten by another process"):
            file.append(b"lost\n")
    file.close()
    assert path.read_bytes() == b"other\n" * 20


def test_the_end_looks_at_the_file_once_more(path):
    file = Appender(path)
    file.append(b"begun\n")
    path.unlink()
    with pytest.raises(OSError, match="deleted"):
        file.close()
    file.close()
    Appender(path).close()


def test_a_file_is_not_looked_at_with_every_piece_where_looks_are_dear(path, monkeypatch):
    """On NFS a look waits for the server; but the end looks in any case."""
    now, looks = [0.0], []
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    real = os.fstat

    def slow(fd):
        looks.append(fd)
        now[0] += 1e-2
        return real(fd)

    file = Appender(path)
    monkeypatch.setattr(os, "fstat", slow)
    for _ in range(200):
        file.append(b"piece\n")
        now[0] += 0.1
    assert 3 <= len(looks) <= 5
    path.unlink()
    now[0] += 0.1
    file.append(b"piece\n")
    with pytest.raises(OSError, match="deleted"):
        file.close()
