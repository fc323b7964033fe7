"""A data directory that cannot be used: the error names the file at fault and a fitting remedy."""

import errno
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ai_task_processor.core.clock import SystemClock
from ai_task_processor.core.errors import DataDirectoryError
from ai_task_processor.stores.sqlite import directory as data_directory
from ai_task_processor.stores.sqlite.checks import unusable_directory

LOCAL_DISK = "file locks are not supported there; set DATA_DIR to a directory on a local disk"
NOBODY = 65534


async def refused(directory: Path) -> list[str]:
    """What the daemon and an operator's command say."""
    with pytest.raises(DataDirectoryError) as daemon:
        await data_directory.lock(directory, SystemClock(), 0.0)
    with pytest.raises(DataDirectoryError) as command:
        data_directory.locked(directory)
    return [str(daemon.value), str(command.value)]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS])
async def test_without_file_locks_a_local_disk_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A network share without locks: the remedy is not about the directory or its permissions."""
    (tmp_path / "lock").touch()

    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    for line in await refused(tmp_path):
        assert line == f"{tmp_path}/lock cannot be locked ({os.strerror(number)}): {LOCAL_DISK}"


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (Path.mkdir, r"lock cannot be opened \(Is a directory\): it must be a file; move the directory away, or "),
        (lambda path: path.symlink_to("precious"), r"lock cannot be opened \(.*\): it must not be a symbolic link; "),
        (lambda path: path.symlink_to("nowhere"), r"lock cannot be opened \(.*\): it must not be a symbolic link; "),
        (os.mkfifo, r"lock cannot be locked \(Invalid argument\): move it away, or set DATA_DIR to another directory"),
    ],
    ids=["directory", "link", "dangling link", "pipe"],
)
async def test_what_is_no_file_is_named(tmp_path: Path, make: Callable[[Path], object], line: str) -> None:
    """Something else in the place of the lock file is named, and the target of a link keeps its content."""
    (tmp_path / "precious").write_text("kept")
    make(tmp_path / "lock")
    with pytest.raises(DataDirectoryError, match=line):
        await data_directory.lock(tmp_path, SystemClock(), 0.0)
    assert (tmp_path / "precious").read_text() == "kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lock", "precious"]  # noqa: ASYNC240 - two files


@contextmanager
def somebody_elses(name: str, mode: int = 0o777) -> Iterator[Path]:
    """A directory of this mode with a file that this user may not open."""
    directory = Path(tempfile.mkdtemp(dir="/var/tmp"))  # TMPDIR may be private to this user
    (directory / name).touch(0)
    directory.chmod(mode)
    root = os.geteuid() == 0
    try:
        if root:
            os.seteuid(NOBODY)
        yield directory
    finally:
        if root:
            os.seteuid(0)
        directory.chmod(0o700)
        shutil.rmtree(directory)


async def test_a_lock_file_of_another_user_is_named_with_its_owner() -> None:
    """The operator learns which file, whose it is and who we are."""
    with somebody_elses("lock") as directory:
        lines = await refused(directory)
        found, user = (directory / "lock").stat().st_uid, os.geteuid()
    remedy = f"allow user {user} to read and write it"
    if found != user:
        remedy = f"it belongs to user {found}; give it to user {user} with chown"
    for line in lines:
        assert line.startswith(f"{directory}/lock cannot be opened (Permission denied): {remedy}, or set DATA_DIR to")


@pytest.mark.parametrize("name", ["outbox.db", "outbox.db-wal", "outbox.db-shm"])
def test_a_database_file_of_another_user_is_named(name: str) -> None:
    """SQLite would say "unable to open database file" about each of them."""
    refusal = pytest.raises(DataDirectoryError, match=rf"/{name} cannot be opened \(Permission denied\): ")
    with somebody_elses(name) as directory, refusal:
        data_directory.make_private(directory, "outbox.db")


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.EROFS, "mount the file system writable, or set DATA_DIR to another directory"),
        (errno.ENOSPC, "make room on that disk"),
        (errno.EDQUOT, "make room on that disk"),
    ],
)
async def test_a_disk_that_takes_no_new_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, remedy: str
) -> None:
    """Read-only or full: said as such, for the file that could not be made."""

    def refuse(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(DataDirectoryError) as caught:
        await data_directory.lock(tmp_path, SystemClock(), 0.0)
    assert str(caught.value) == f"{tmp_path}/lock cannot be opened ({os.strerror(number)}): {remedy}"
    with pytest.raises(DataDirectoryError, match=re.escape(remedy)):
        data_directory.make_private(tmp_path, "outbox.db")
    assert "DATA_DIR" in unusable_directory(caught.value, tmp_path).remedy


async def test_the_error_names_a_directory_that_takes_no_file() -> None:
    """Without a lock file there is nothing else to mend."""
    refusal = pytest.raises(DataDirectoryError, match=r"DATA_DIR .* cannot be used \(Permission denied\): ")
    with somebody_elses("other", 0o555) as directory, refusal:
        await data_directory.lock(directory, SystemClock(), 0.0)
