"""The tables of the outbox, their versions, and what SQLite's errors about them mean.

This module and ``records``, ``operator_requests`` and ``remembered`` are used by the daemon's writer thread and by
operators' commands beside it. Functions take the connection and leave transactions to the caller.
"""

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Literal

from ai_task_processor.core.errors import DataDirectoryError

#: ``waiting``: to be delivered. With ``acknowledged``, the source has it and a sink does not: it is only written to
#: the sinks. ``dead``: a dead letter, which keeps ``acknowledged``. ``quarantined``: a task that must not start.
State = Literal["waiting", "dead", "quarantined"]

DATABASE = "outbox.db"
VERSION = 2
#: the source of records in schema 1, which had no column for it
FIRST_SOURCE = "aletheia"
#: The usual result (6 kB) fits on one page with its row, without two overflow pages: half as many pages per record go
#: into the log. An existing file keeps its page size.
PAGE_BYTES = 16_384


# Short columns first: SQLite reads a row from its start, and the results are long.
_COLUMNS_1 = """
    state TEXT NOT NULL,
    task_type TEXT NOT NULL,
    status TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    size INTEGER NOT NULL,
    finished_at REAL NOT NULL,
    created_at REAL,
    attempts INTEGER NOT NULL,
    due_at REAL NOT NULL,
    reason TEXT,
"""
_PAYLOAD = "checksum INTEGER NOT NULL, body BLOB NOT NULL, vector BLOB"
# Dead letters stay in the table; two indexes contain only waiting records.
_TABLES = f"""
CREATE TABLE IF NOT EXISTS records (
    task_id TEXT NOT NULL,
    source TEXT NOT NULL,
    {_COLUMNS_1}
    token TEXT NOT NULL,
    trace TEXT,
    usage TEXT,
    acknowledged INTEGER NOT NULL,
    {_PAYLOAD},
    UNIQUE (task_id, source)
);
CREATE INDEX IF NOT EXISTS waiting_by_due ON records (source, due_at) WHERE state = 'waiting';
CREATE INDEX IF NOT EXISTS waiting_by_age ON records (finished_at) WHERE state = 'waiting';
CREATE TABLE IF NOT EXISTS requests (
    id INTEGER PRIMARY KEY, action TEXT NOT NULL, task_id TEXT NOT NULL, due_at REAL NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS remembered (
    source TEXT NOT NULL, until REAL NOT NULL, id TEXT NOT NULL, PRIMARY KEY (source, until, id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS steps (
    source TEXT NOT NULL, task_id TEXT NOT NULL, name TEXT NOT NULL, fingerprint TEXT NOT NULL, saved_at REAL NOT NULL,
    checksum INTEGER NOT NULL, answer BLOB NOT NULL, PRIMARY KEY (source, task_id, name)
) WITHOUT ROWID;
PRAGMA user_version = {VERSION};
"""
#: schema 1, of the releases until November 2026
_TABLES_1 = f"""
CREATE TABLE records (task_id TEXT NOT NULL UNIQUE, {_COLUMNS_1} {_PAYLOAD});
CREATE INDEX waiting_by_due ON records (due_at) WHERE state = 'waiting';
CREATE INDEX waiting_by_age ON records (finished_at) WHERE state = 'waiting';
CREATE TABLE requests (id INTEGER PRIMARY KEY, action TEXT NOT NULL, task_id TEXT NOT NULL);
"""
RECORD_COLUMNS = (
    "source, task_id, token, task_type, status, fingerprint, finished_at, created_at, attempts, due_at, reason, "
    "trace, usage, acknowledged, checksum, body, vector"
)
_FIRST_COLUMNS = RECORD_COLUMNS.replace("source, task_id, token,", f"'{FIRST_SOURCE}', task_id, '',").replace(
    "trace, usage, acknowledged", "NULL, NULL, 0"
)
#: conditions that make SQLite read a whole index
_WALKS = {
    "sqlite_autoindex_records_1": "task_id >= ''",
    "waiting_by_due": "state = 'waiting'",
    "waiting_by_age": "state = 'waiting'",
}

DAMAGED = "the file is damaged: the daemon sets it aside at its next start and keeps what can be read"
_NO_LOCKS = "file locks or shared memory do not work there; set DATA_DIR to a directory on a local disk"
#: by extended error code, otherwise by primary code
_REMEDIES = {
    sqlite3.SQLITE_ERROR: "its tables are not those of an outbox: move the file away, and the daemon makes a new one",
    sqlite3.SQLITE_BUSY: "another process is writing: try again",
    sqlite3.SQLITE_FULL: "make room on that disk",
    sqlite3.SQLITE_READONLY: "the file or its file system is read-only; make it writable for this user",
    sqlite3.SQLITE_PROTOCOL: _NO_LOCKS,
    sqlite3.SQLITE_IOERR_LOCK: _NO_LOCKS,
    sqlite3.SQLITE_IOERR_RDLOCK: _NO_LOCKS,
    sqlite3.SQLITE_IOERR_UNLOCK: _NO_LOCKS,
    sqlite3.SQLITE_IOERR_SHMOPEN: _NO_LOCKS,
    sqlite3.SQLITE_IOERR_SHMMAP: _NO_LOCKS,
    sqlite3.SQLITE_IOERR_SHMLOCK: _NO_LOCKS,
    sqlite3.SQLITE_CORRUPT: DAMAGED,
    sqlite3.SQLITE_NOTADB: DAMAGED,
}


class DamagedRecord(sqlite3.DatabaseError):
    """A record's bytes do not match its checksum, or trees disagree: the file counts as damaged."""

    sqlite_errorcode = sqlite3.SQLITE_CORRUPT


def choose_page_size(db: sqlite3.Connection) -> None:
    """Set the page size of a new file. Call it before the first write; switching to WAL writes."""
    db.execute(f"PRAGMA page_size = {PAGE_BYTES}")


def create(db: sqlite3.Connection, path: Path) -> None:
    """Create missing tables. Always writes one page, so that a read-only or full disk is found at the start."""
    choose_page_size(db)
    refuse_newer(db, path)
    db.executescript(f"BEGIN IMMEDIATE; {_TABLES} COMMIT;")
    add_due_times(db)


def copy_first(db: sqlite3.Connection, old: Path) -> int:
    """Copy everything from a file of schema 1; returns the number of records."""
    db.execute("ATTACH ? AS old", (str(old),))
    db.execute("BEGIN")
    copied = db.execute(
        f"INSERT INTO records (state, size, {RECORD_COLUMNS}) "  # noqa: S608 - constants only
        f"SELECT state, size, {_FIRST_COLUMNS} FROM old.records ORDER BY rowid"
    ).rowcount
    db.execute("INSERT INTO requests (id, action, task_id) SELECT id, action, task_id FROM old.requests")
    db.execute("COMMIT")
    db.execute("DETACH old")
    return copied


def record_columns(db: sqlite3.Connection) -> str:
    """The columns that ``to_record`` reads, as expressions for this file's schema."""
    return RECORD_COLUMNS if version(db) > 1 else _FIRST_COLUMNS


def version(db: sqlite3.Connection) -> int:
    """The file's schema version; 0 for a new file.

    The columns tell schema 1 from 2: tools that copy a database may lose its ``user_version``.
    """
    (found,) = db.execute("PRAGMA user_version").fetchone()
    if found > VERSION:
        return int(found)
    columns = {name for (name,) in db.execute("SELECT name FROM pragma_table_info('records')")}
    return 2 if "source" in columns else 1 if columns else 0


def summaries(db: sqlite3.Connection) -> list[tuple[str, str, str, str, int]]:
    """(source, task_id, state, fingerprint, size) of every record; empty for a new file.

    Reads all trees, so that damage is found now. Raises ``DamagedRecord`` when they do not hold the same records.
    """
    if not db.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'records'").fetchone()[0]:
        return []
    source = "source" if version(db) > 1 else f"'{FIRST_SOURCE}'"
    query = f"SELECT {source}, task_id, state, fingerprint, size FROM records NOT INDEXED"  # noqa: S608 - constants only
    rows = db.execute(query).fetchall()
    waiting = sum(row[2] == "waiting" for row in rows)
    for index, condition in _WALKS.items():
        (found,) = db.execute(f"SELECT count(rowid) FROM records INDEXED BY {index} WHERE {condition}").fetchone()  # noqa: S608 - constants only
        if found != (waiting if "waiting" in index else len(rows)):
            raise DamagedRecord(f"{index} holds {found} of {len(rows)} records")
    if version(db) > 1:
        db.execute("SELECT count(*) FROM remembered").fetchone()
    return rows


@cache
def layout(of: int = VERSION) -> tuple[Mapping[str, int], Sequence[tuple[str, str, bool]]]:
    """The layout of a schema: root page of each table and index by name; (name, type, not null) of each column of
    ``records``. The root pages of schema 1 are those of schema 2.
    """
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        db.executescript(_TABLES_1 if of == 1 else _TABLES)
        roots = dict(db.execute("SELECT name, rootpage FROM sqlite_schema"))
        columns = db.execute('SELECT name, type, "notnull" FROM pragma_table_info(?)', ("records",))
        return roots, [(name, kind, bool(needed)) for name, kind, needed in columns]


def refuse_newer(db: sqlite3.Connection, path: Path) -> None:
    """Raise ``DataDirectoryError`` when a later release wrote this database."""
    refuse_version(version(db), path)


def refuse_version(found: int, path: Path) -> None:
    if found > VERSION:
        raise DataDirectoryError(
            f"{path} has schema version {found}, this release knows {VERSION}: upgrade ai-task-processor"
        )


def unusable(path: Path, error: sqlite3.Error) -> DataDirectoryError:
    """SQLite's error in one line with a remedy."""
    code = getattr(error, "sqlite_errorcode", 0)
    remedy = (
        _REMEDIES.get(code)
        or _REMEDIES.get(code & 0xFF)
        or "see that the disk has room and that this user may write to the file"
    )
    return DataDirectoryError(f"{path} cannot be used ({error}): {remedy}")


def add_due_times(db: sqlite3.Connection) -> None:
    """Requests had no due time in the first releases with schema 2; those releases read a table with it."""
    if "due_at" not in {name for (name,) in db.execute("SELECT name FROM pragma_table_info('requests')")}:
        db.execute("ALTER TABLE requests ADD COLUMN due_at REAL NOT NULL DEFAULT 0")
