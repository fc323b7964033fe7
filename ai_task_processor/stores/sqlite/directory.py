"""The data directory: who may read it, and which one daemon owns it."""

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
#: Never through a symbolic link, whose target would be emptied, and never waiting for the other end of a pipe.
_PLAINLY: Final = os.O_NOFOLLOW | os.O_NONBLOCK
_ELSEWHERE = "or set DATA_DIR to another directory"
_NO_LOCKS = "file locks are not supported there; set DATA_DIR to a directory on a local disk"
_NO_ROOM = "make room on that disk"
#: what to do about a file in the data directory; EACCES and EPERM depend on its owner
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
    """Make the directory with mode 0700, or narrow the one that is there. Raises ``DataDirectoryError``."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _narrow(directory, 0o700)
    except OSError as error:
        raise _unusable(directory, error) from error


def make_private(directory: Path, database: str, *, create: bool = True) -> None:
    """Make an empty database file with mode 0600, or narrow the one that is there, with its log.

    Before SQLite sees it, because SQLite gives its ``-wal`` and ``-shm`` the mode of the database.
    Only under the lock: to close a file takes away the POSIX locks that this process has on it.
    Raises ``DataDirectoryError``, for a ``-wal`` or ``-shm`` that cannot be written, too: SQLite blames the database.
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
    """Take away what group and others may do.

    A path of somebody else (a Kubernetes volume with fsGroup) and a shared directory (sticky, like
    ``/tmp``) are left as they are.
    """
    try:
        found = path.stat()
        if found.st_uid == os.geteuid() and found.st_mode & 0o077 and not found.st_mode & stat.S_ISVTX:
            path.chmod(mode)
    except (FileNotFoundError, PermissionError):
        pass


def free_bytes(directory: Path) -> int:
    """What this user may still write there; 0 when nobody knows."""
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
    """What failed with a file in the directory; the directory's fault when the file is not even there."""
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
    """Wait until the directory is ours; the descriptor holds the lock until it is closed.

    The lock is a ``flock``, which the kernel takes back from a killed process. The file is never
    deleted: a newcomer could lock a file that no longer has a name. Raises ``OutboxLocked`` and
    ``DataDirectoryError``.
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
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _PLAINLY, 0o600)
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
    """Does a daemon hold this directory? Asks by a shared lock, given back at once. Raises ``DataDirectoryError``."""
    path = directory / _LOCK
    try:
        descriptor = os.open(path, os.O_RDONLY | _PLAINLY)
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
