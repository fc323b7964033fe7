"""A damaged outbox: every record that can still be read moves into a new file, the old one is kept.

SQLite reports damage where it meets it: a torn page spoils the rows on it and no others. The index of
task ids usually survives and names the rows that do not.
"""

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ai_task_processor import codec
from ai_task_processor.models.task import Record, TaskStatus
from ai_task_processor.stores import schema

_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
#: where task ids can be read from, each a tree of its own in the file
_INDEXES = (
    "SELECT rowid, task_id FROM records INDEXED BY sqlite_autoindex_records_1 WHERE task_id >= ''",
    "SELECT rowid, NULL FROM records INDEXED BY waiting_by_due WHERE state = 'waiting'",
    "SELECT rowid, NULL FROM records NOT INDEXED",
)


@dataclass(frozen=True, slots=True)
class Salvage:
    """What became of a damaged outbox. ``lost``: the tasks whose records could not be read, as far as known."""

    aside: Path
    kept: int
    lost: tuple[str, ...]


def damaged(error: BaseException) -> bool:
    """Does this error say that the file is not what SQLite wrote?"""
    return isinstance(error, sqlite3.Error) and (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _DAMAGE


def salvage(path: Path, now: datetime) -> Salvage:
    """Put a sound outbox in the place of the damaged one. Nobody may have it open.

    The new file is whole before the old one moves: who is killed in between finds the damage again.
    Raises ``sqlite3.Error`` and ``OSError`` when the new file cannot be written.
    """
    fresh, aside = _beside(path, ".salvaged"), _beside(path, f".damaged-{now:%Y%m%dT%H%M%S%fZ}")
    for suffix in ("", "-journal"):
        _beside(fresh, suffix).unlink(missing_ok=True)
    os.close(os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    kept, lost = _copy(path, fresh)
    os.link(path, aside)
    # A log that stayed behind would be taken for the new file's.
    log = _beside(path, "-wal")
    if log.exists() and log.stat().st_size:
        log.rename(_beside(aside, "-wal"))
    log.unlink(missing_ok=True)
    _beside(path, "-shm").unlink(missing_ok=True)
    fresh.replace(path)
    return Salvage(aside, kept, lost)


def _copy(path: Path, fresh: Path) -> tuple[int, tuple[str, ...]]:
    """How many records moved, and the tasks of those that did not."""
    kept, lost = 0, []
    with contextlib.closing(sqlite3.connect(fresh, isolation_level=None)) as new:
        new.execute("PRAGMA synchronous = FULL")
        schema.create(new, fresh)
        new.execute("BEGIN")
        with _reader(path, fresh) as old:
            for rowid, task_id in _rows(old).items():
                if found := _read(old, rowid):
                    schema.put(new, *found)
                    kept += 1
                elif task_id is not None:
                    lost.append(task_id)
        new.execute("COMMIT")
    return kept, tuple(lost)


@contextlib.contextmanager
def _reader(path: Path, fresh: Path) -> Iterator[sqlite3.Connection]:
    """The damaged file, read only. Without its first page, which names all others, it borrows that of a fresh one."""
    copy = _beside(path, ".copy")
    try:
        with contextlib.closing(_connect(path)) as old:
            if _readable(old):
                yield old
                return
        shutil.copyfile(path, copy)
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(_beside(path, "-wal"), _beside(copy, "-wal"))
        _lend_first_page(copy, fresh)
        with contextlib.closing(_connect(copy)) as old:
            yield old
    finally:
        for suffix in ("", "-wal", "-shm"):
            _beside(copy, suffix).unlink(missing_ok=True)


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)


def _readable(old: sqlite3.Connection) -> bool:
    with contextlib.suppress(sqlite3.Error):
        return old.execute("SELECT name FROM sqlite_schema WHERE name = 'records'").fetchone() is not None
    return False


def _lend_first_page(copy: Path, fresh: Path) -> None:
    """Tables lie where they lie in every file of this schema; only the number of pages is the old file's own."""
    header = fresh.read_bytes()[: schema.PAGE_BYTES]
    pages = copy.stat().st_size // schema.PAGE_BYTES
    # Bytes 28 to 31: the size in pages; 32 to 39: the list of free pages (https://www.sqlite.org/fileformat.html).
    with copy.open("r+b") as file:
        file.write(header[:28] + pages.to_bytes(4, "big") + bytes(8) + header[40:])


def _rows(old: sqlite3.Connection) -> dict[int, str | None]:
    """Every row that some tree of the file knows, with its task id where that is known, in order of storing."""
    found: dict[int, str | None] = {}
    for query in _INDEXES:
        with contextlib.suppress(sqlite3.Error):
            _note(found, old.execute(query))
    return dict(sorted(found.items()))


def _note(found: dict[int, str | None], rows: Iterable[tuple[int, str | None]]) -> None:
    for rowid, task_id in rows:
        found[rowid] = task_id if isinstance(task_id, str) else found.get(rowid)


def _read(old: sqlite3.Connection, rowid: int) -> tuple[Record, schema.State] | None:
    """A record and its state, None when it cannot be read or makes no sense any more."""
    try:
        row = old.execute(f"SELECT state, {schema.RECORD_COLUMNS} FROM records WHERE rowid = ?", (rowid,)).fetchone()  # noqa: S608 - constants only
        state, record = row[0], schema.to_record(row[1:])
        if record.status is not TaskStatus.PENDING:
            codec.outcome(record)
    except (sqlite3.Error, ValueError, TypeError, KeyError):
        return None
    return (record, state) if state in ("waiting", "dead", "quarantined") else None


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)
