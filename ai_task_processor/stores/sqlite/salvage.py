"""A damaged outbox: every record that can still be read moves into a new file, the old ones are kept.

``fault`` looks at the files before SQLite does, ``rebuild`` writes a new one beside them, ``replace`` puts it in their
place. How records are found: ``rescue``.
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
#: a new file on its way; whole, it has the other name
_PARTIAL, _WHOLE = ".salvaging", ".salvaged"


@dataclass(frozen=True, slots=True)
class Salvage:
    """What became of a damaged outbox. ``lost``: the tasks whose records could not be read, as far as known.
    ``unnamed``: how many more there were. ``unreadable_bytes``: parts of the log that were committed and are gone.
    """

    aside: Path
    kept: int
    lost: tuple[str, ...] = ()
    unnamed: int = 0
    unreadable_bytes: int = 0


def damaged(error: BaseException) -> bool:
    """Does this error say that the file is not what SQLite wrote?"""
    return isinstance(error, sqlite3.Error) and (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _DAMAGE


def fault(path: Path) -> str:
    """Why SQLite must not open this database, which nobody has open: it would lose something. Empty when it may."""
    # Twice: an operator's command may have written between two of the looks.
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
    """Close the last connection to a damaged database, and leave its files as they are.

    It would copy its log, damage and all, over what is sound in the database, and delete it: not while another one
    is open, and that one may only read.
    """
    with contextlib.suppress(sqlite3.Error), contextlib.closing(_reader(path)) as other:
        with contextlib.suppress(sqlite3.Error):
            other.execute("PRAGMA user_version").fetchone()
        db.close()
    db.close()


def _reader(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)


def rebuild(path: Path, now: datetime) -> Salvage:
    """Write a sound outbox beside the damaged one; ``replace`` puts it in its place. Nobody may have it open.

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
            alone = View(file, size or 0, Log(page_bytes=page_bytes))
            rescue = _rescued(alone, View(file, size or 0, log), log, path, partial)
    except BaseException:
        remove(partial)
        raise
    partial.rename(whole)
    sync(path.parent)
    unreadable = (len(log.damaged) + log.missing) * log.page_bytes
    return Salvage(aside, len(rescue.kept), rescue.lost, rescue.unnamed, unreadable)


def _rescued(alone: View, together: View, log: Log, path: Path, partial: Path) -> Rescue:
    views = [together]
    # Either is sound by itself, and together they make no sense: they do not belong together.
    if log.foreign or (log.latest and not log.fault and consistent(alone) and not consistent(together)):
        views = [alone, View(None, 0, log)]
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
    """Put what ``rebuild`` wrote in the place of the damaged files, which stay under the name ``aside``."""
    if path.exists():
        os.link(path, aside)
    # A log that stayed behind would be taken for the new file's.
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
