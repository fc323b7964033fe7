"""Repairs a damaged outbox: copies every readable record into a new file, and keeps the old files under another name.

``fault`` checks the files before SQLite opens them, ``rebuild`` writes a new one beside them, ``replace`` renames it
over them. ``rescue`` finds the records.
"""

import contextlib
import mmap
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ai_task_processor.stores.sqlite import schema, wal
from ai_task_processor.stores.sqlite.migration import remove, sync
from ai_task_processor.stores.sqlite.rescue import Rescue, View, consistent
from ai_task_processor.stores.sqlite.wal import Log

_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_HEAD_BYTES = 100
#: suffixes of the new file: while it is written, and when it is complete
_PARTIAL, _WHOLE = ".salvaging", ".salvaged"


@dataclass(frozen=True, slots=True)
class Salvage:
    """The result of a repair. ``lost``: known ids of tasks whose records could not be read; ``unnamed``: how many more
    there were. ``unreadable_bytes``: committed parts of the log that are damaged or gone.
    """

    aside: Path
    kept: int
    lost: tuple[str, ...] = ()
    unnamed: int = 0
    unreadable_bytes: int = 0


def damaged(error: BaseException) -> bool:
    """Whether this error of SQLite means a damaged file."""
    return isinstance(error, sqlite3.Error) and (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _DAMAGE


def fault(path: Path) -> str:
    """Why SQLite would lose data if it opened this database; empty if it would not. Nobody may have it open."""
    # Twice: an operator's command may write while the files are read.
    return _fault(path) and _fault(path)


def _fault(path: Path) -> str:
    if _beside(path, _WHOLE).exists():
        return "an earlier salvage was interrupted"
    size, left = _size(path), any(_size(_beside(path, suffix)) for suffix in ("-wal", "-shm"))
    if size is None:
        return "the database is gone, its log is not" if left else ""
    if size == 0:
        return "the database is empty"
    return _look(path, thorough=False)[0].fault if left else ""


def _look(path: Path, *, thorough: bool) -> tuple[Log, int | None, int]:
    """The log, and the size of the database and of its pages."""
    index = _beside(path, "-shm").read_bytes() if _beside(path, "-shm").exists() else None  # first: it is the older one
    log, size = _beside(path, "-wal"), _size(path)
    head = b""
    data: wal.Bytes = b""
    if size:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    if _size(log):
        with log.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    usual = schema.PAGE_BYTES
    found = wal.read(data, index, head, size or 0, usual_page_bytes=usual, thorough=thorough)
    return found, size, wal.page_bytes(head) or found.page_bytes


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def leave(db: sqlite3.Connection, path: Path) -> None:
    """Close the last connection to a damaged database without changing its files.

    On the last close SQLite copies the damaged log over sound pages of the database, and deletes it. It does not while
    another connection is open, and that one is read-only.
    """
    with contextlib.suppress(sqlite3.Error), contextlib.closing(_reader(path)) as other:
        with contextlib.suppress(sqlite3.Error):
            other.execute("PRAGMA user_version").fetchone()
        db.close()
    db.close()


def _reader(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)


def rebuild(path: Path, now: datetime) -> Salvage:
    """Write a new outbox beside the damaged one, for ``replace``. Nobody may have it open.

    Raises ``sqlite3.Error`` and ``OSError`` when it cannot be written, ``DataDirectoryError`` for a newer schema.
    """
    aside, whole, partial = (_beside(path, name) for name in (f".damaged-{now:%Y%m%dT%H%M%S%fZ}", _WHOLE, _PARTIAL))
    if whole.exists():
        with contextlib.closing(_reader(whole)) as done:
            return Salvage(aside, done.execute("SELECT count(*) FROM records").fetchone()[0])
    remove(partial)
    os.close(os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    log, size, page_bytes = _look(path, thorough=True)
    try:
        with _opened(path) as file:
            without_log = View(file, size or 0, Log(page_bytes=page_bytes))
            rescue = _rescued(without_log, View(file, size or 0, log), log, path, partial)
    except BaseException:
        remove(partial)
        raise
    partial.rename(whole)
    sync(path.parent)
    unreadable = (len(log.damaged) + log.missing) * log.page_bytes
    return Salvage(aside, len(rescue.kept), rescue.lost, rescue.unnamed, unreadable)


def _rescued(without_log: View, with_log: View, log: Log, path: Path, partial: Path) -> Rescue:
    views = [with_log]
    # Database and log are each sound, but not in combination: the log is another database's, so read both separately.
    if log.foreign or (log.latest and not log.fault and consistent(without_log) and not consistent(with_log)):
        views = [without_log, View(None, 0, log)]
    with contextlib.closing(sqlite3.connect(partial, isolation_level=None)) as new:
        new.execute("PRAGMA synchronous = FULL")
        schema.create(new, partial)
        rescue = Rescue(new)
        new.execute("BEGIN")
        for view in views:
            schema.refuse_version(view.version, path)
            rescue.take(view)
        new.execute("COMMIT")
    return rescue


def replace(path: Path, aside: Path) -> None:
    """Rename the new file over the damaged ones, which are kept under the name ``aside``."""
    if path.exists():
        os.link(path, aside)
    # SQLite would apply an old log to the new file.
    for suffix in ("-wal", "-journal"):
        if _size(_beside(path, suffix)):
            _beside(path, suffix).rename(_beside(aside, suffix))
        _beside(path, suffix).unlink(missing_ok=True)
    _beside(path, "-shm").unlink(missing_ok=True)
    sync(path.parent)
    _beside(path, _WHOLE).replace(path)
    sync(path.parent)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int | None]:
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        yield None
        return
    try:
        yield file
    finally:
        os.close(file)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)
