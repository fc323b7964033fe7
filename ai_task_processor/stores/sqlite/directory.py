"""The data directory: its permissions, and the lock that gives it to one daemon."""

import errno
import fcntl
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from ai_task_processor.core.errors import DataDirectoryError, OutboxLocked
from ai_task_processor.core.ports import Clock

_LOCK = "lock"
_LOCK_RETRY_S = 0.25
#: never follow a symbolic link, whose target would be truncated, and never block on a pipe
_OPEN_FLAGS: Final = os.O_NOFOLLOW | os.O_NONBLOCK
_ELSEWHERE = "or set DATA_DIR to another directory"
_NO_LOCKS = "file locks are not supported there; set DATA_DIR to a directory on a local disk"
_NO_ROOM = "make room on that disk"
#: remedies for a file in the data directory; for EACCES and EPERM see ``_remedy_for``
_REMEDIES: Final[Mapping[int | None, str]] = {
    errno.ENOLCK: _NO_LOCKS,
    errno.ENOSYS: _NO_LOCKS,
    errno.ENOTSUP: _NO_LOCKS,
    errno.EOPNOTSUPP: _NO_LOCKS,
    errno.EISDIR: f"it must be a file; move the directory away, {_ELSEWHERE}",
    errno.ELOOP: f"it must not be a symbolic link; remove the link, {_ELSEWHERE}",
    errno.EROFS: f"mount the file system writable, {_ELSEWHERE}",
    errno.ENOSPC: _NO_ROOM,
    errno.EDQUOT: _NO_ROOM,
}


def prepare(directory: Path) -> None:
    """Create the directory with mode 0700, or restrict an existing one. Raises ``DataDirectoryError``."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _narrow(directory, 0o700)
    except OSError as error:
        raise _unusable(directory, error) from error


def make_private(directory: Path, database: str, *, create: bool = True) -> None:
    """Create an empty database file with mode 0600, or restrict an existing one and its log.

    Call it before SQLite opens the file, because SQLite gives ``-wal`` and ``-shm`` the mode of the database.
    Only under the lock: closing a file releases the POSIX locks that this process has on it.
    Raises ``DataDirectoryError`` that names the ``-wal`` or ``-shm`` if it is at fault; SQLite names the database.
    """
    for suffix, flags in (("", os.O_CREAT if create else 0), ("-wal", 0), ("-shm", 0)):
        path = directory / (database + suffix)
        try:
            with suppress(FileNotFoundError):
                os.close(os.open(path, os.O_RDWR | flags, 0o600))
            _narrow(path, 0o600)
        except OSError as error:
            raise unusable_file(path, "opened", error) from error


def _narrow(path: Path, mode: int) -> None:
    """Remove the permissions of group and others.

    A path of another user (a Kubernetes volume with fsGroup) and a sticky directory (like ``/tmp``) are not changed.
    """
    try:
        found = path.stat()
        if found.st_uid == os.geteuid() and found.st_mode & 0o077 and not found.st_mode & stat.S_ISVTX:
            path.chmod(mode)
    except (FileNotFoundError, PermissionError):
        pass


def free_bytes(directory: Path) -> int:
    """Bytes that this user can still write there; 0 when unknown."""
    try:
        found = os.statvfs(directory)
    except OSError:
        return 0
    return found.f_bavail * found.f_frsize


def _unusable(directory: Path, error: OSError) -> DataDirectoryError:
    return DataDirectoryError(
        f"DATA_DIR {directory} cannot be used ({error.strerror}): "
        f"make it a directory that user {os.geteuid()} may write to, or set DATA_DIR to one"
    )


def unusable_file(path: Path, action: str, error: OSError) -> DataDirectoryError:
    """The error for a file in the directory; about the directory itself when the file does not exist."""
    remedy = _REMEDIES.get(error.errno)
    if remedy is None:
        try:
            found = path.lstat()
        except OSError:
            return _unusable(path.parent, error)
        remedy = _remedy_for(found, error)
    return DataDirectoryError(f"{path} cannot be {action} ({error.strerror}): {remedy}")


def _remedy_for(found: os.stat_result, error: OSError) -> str:
    user = os.geteuid()
    if error.errno not in (errno.EACCES, errno.EPERM):
        return f"move it away, {_ELSEWHERE}"
    if found.st_uid != user:
        return f"it belongs to user {found.st_uid}; give it to user {user} with chown, {_ELSEWHERE}"
    return f"allow user {user} to read and write it, {_ELSEWHERE}"


async def lock(directory: Path, clock: Clock, timeout_s: float) -> int:
    """Wait for the directory's lock; it is held until the returned descriptor is closed.

    The lock is a ``flock``, which the kernel releases when the process is killed. The lock file is never deleted:
    another process could lock the deleted file. Raises ``OutboxLocked`` and ``DataDirectoryError``.
    """
    deadline = clock.monotonic() + timeout_s
    while (held := _try_lock(directory)) is None:
        if clock.monotonic() >= deadline:
            raise OutboxLocked(
                f"DATA_DIR {directory} is held by another daemon (pid {_owner(directory)}): "
                "stop that one, or give this one a DATA_DIR of its own"
            )
        await clock.sleep(_LOCK_RETRY_S)
    return held


def _try_lock(directory: Path) -> int | None:
    path = directory / _LOCK
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _OPEN_FLAGS, 0o600)
    except OSError as error:
        raise unusable_file(path, "opened", error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError as error:
        os.close(descriptor)
        raise unusable_file(path, "locked", error) from error
    return descriptor


def _owner(directory: Path) -> str:
    return (directory / _LOCK).read_text("ascii", "replace").strip() or "unknown"


def locked(directory: Path) -> bool:
    """Whether a daemon holds this directory: takes a shared lock for a moment. Raises ``DataDirectoryError``."""
    path = directory / _LOCK
    try:
        descriptor = os.open(path, os.O_RDONLY | _OPEN_FLAGS)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise unusable_file(path, "opened", error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        raise unusable_file(path, "locked", error) from error
    finally:
        os.close(descriptor)
    return False
