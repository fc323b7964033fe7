"""The data directory: who may read it, and which one daemon owns it."""

import fcntl
import os
import stat
from pathlib import Path

from ai_task_processor.errors import DataDirectoryError, OutboxLocked
from ai_task_processor.ports import Clock

_LOCK = "lock"
_LOCK_RETRY_S = 0.25


def prepare(directory: Path) -> None:
    """Make the directory with mode 0700, or narrow the one that is there. Raises ``DataDirectoryError``."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _narrow(directory, 0o700)
    except OSError as error:
        raise _unusable(directory, error) from error


def make_private(directory: Path, database: str) -> None:
    """Make an empty database file with mode 0600, or narrow the one that is there.

    Before SQLite sees it, because SQLite gives its ``-wal`` and ``-shm`` the mode of the database.
    Only under the lock: to close a file takes away the POSIX locks that this process has on it.
    Raises ``DataDirectoryError``.
    """
    try:
        os.close(os.open(directory / database, os.O_RDWR | os.O_CREAT, 0o600))
        for suffix in ("", "-wal", "-shm"):
            _narrow(directory / (database + suffix), 0o600)
    except OSError as error:
        raise _unusable(directory, error) from error


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
    try:
        descriptor = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise _unusable(directory, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError as error:
        os.close(descriptor)
        raise _unusable(directory, error) from error
    return descriptor


def _owner(directory: Path) -> str:
    return (directory / _LOCK).read_text("ascii", "replace").strip() or "unknown"


def locked(directory: Path) -> bool:
    """Does a daemon hold this directory? Asks by a shared lock, given back at once."""
    try:
        descriptor = os.open(directory / _LOCK, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _unusable(directory, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
