"""The outbox in SQL: tables, statements, and how a row becomes a ``Record``.

Used by the daemon's writer thread and by operators' commands beside it. Functions take the connection and
leave transactions to the caller.
"""

import json
import sqlite3
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Literal

from ai_task_processor.core.errors import DataDirectoryError
from ai_task_processor.models.task import Receipt, Record, TaskStatus, Usage

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

#: A deferral lasts 15 minutes at most. A record due later than this was deferred before the wall clock
#: jumped back: it counts as due, or it would wait as long as the jump was.
STRANDED_AFTER_S = 960.0
#: requests whose due time is further ahead stay requests: their records would count as stranded
REQUESTED_AHEAD_S = 900.0

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
_ROW = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_PUT = f"INSERT OR REPLACE INTO records (state, size, {RECORD_COLUMNS}) VALUES {_ROW}"  # noqa: S608 - constants only
#: The largest number of rows per statement. Few distinct statements, so that SQLite's cache has each compiled.
PUT_AT_ONCE = 8
ERASE_AT_ONCE = 64
_PUTS = [_PUT + f", {_ROW}" * more for more in range(PUT_AT_ONCE)]
_ERASE_MANY = {
    size: f"DELETE FROM records WHERE source = ? AND task_id IN ({', '.join('?' * size)})"  # noqa: S608 - constants only
    for size in (8, ERASE_AT_ONCE)
}
#: conditions that make SQLite read a whole index
_WALKS = {
    "sqlite_autoindex_records_1": "task_id >= ''",
    "waiting_by_due": "state = 'waiting'",
    "waiting_by_age": "state = 'waiting'",
}
_WAITING = "state = 'waiting' AND task_id NOT IN (SELECT value FROM json_each(:exclude))"
_DUE = f"""
SELECT {RECORD_COLUMNS} FROM records WHERE source = :source AND due_at <= :now AND {_WAITING}
UNION ALL
SELECT {RECORD_COLUMNS} FROM records WHERE source = :source AND due_at > :stranded AND {_WAITING}
ORDER BY due_at LIMIT :limit
"""  # noqa: S608 - constants only
_RETRY = """
UPDATE records SET due_at = iif(state = 'dead', :due, min(due_at, :due)),
    reason = CASE WHEN :due = 0 THEN NULL WHEN state = 'dead' THEN :reason ELSE reason END,
    attempts = iif(state = 'dead', 0, attempts), state = 'waiting'
WHERE task_id = :task_id RETURNING source, size
"""
#: the reason of a record whose retry is put off
SPREAD = "an operator asked for its retry, as one of many: it waits for its turn"

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


def put(db: sqlite3.Connection, record: Record, state: State = "waiting") -> None:
    db.execute(_PUT, _row(record, state))


def put_all(db: sqlite3.Connection, records: Sequence[Record]) -> None:
    """``put`` for many waiting records."""
    for first in range(0, len(records), PUT_AT_ONCE):
        part = records[first : first + PUT_AT_ONCE]
        db.execute(_PUTS[len(part) - 1], [value for record in part for value in _row(record, "waiting")])


def _row(record: Record, state: State) -> tuple[object, ...]:
    return (
        state,
        record.size,
        record.receipt.source,
        record.receipt.id,
        record.receipt.token,
        record.task_type,
        record.status,
        record.fingerprint,
        record.finished_at,
        record.created_at,
        record.attempts,
        record.due_at,
        record.reason,
        None if record.trace is None else json.dumps(record.trace),
        None if record.usage is None else _counts(record.usage),
        record.acknowledged,
        _checksum(record),
        record.body,
        record.vector,
    )


def _counts(usage: Usage) -> str:
    return f"[{usage.prompt_tokens},{usage.completion_tokens},{usage.cached_tokens}]"


def to_record(row: tuple[object, ...]) -> Record:
    """The record of a row of ``RECORD_COLUMNS``. Raises ``DamagedRecord`` when the checksum does not match.

    SQLite detects a broken page structure, but not changed bytes in a result, which would be delivered.
    """
    values = dict(zip(RECORD_COLUMNS.split(", "), row, strict=True))
    checksum, trace, usage = (values.pop(name) for name in ("checksum", "trace", "usage"))
    receipt = Receipt(str(values.pop("source")), str(values.pop("task_id")), str(values.pop("token")))
    status = TaskStatus(str(values.pop("status")))
    carrier = None if trace is None else json.loads(str(trace))
    acknowledged = bool(values.pop("acknowledged"))
    record = Record(
        receipt=receipt,
        status=status,
        trace=carrier,
        usage=None if usage is None else Usage(*json.loads(str(usage))),
        acknowledged=acknowledged,
        **values,  # type: ignore[arg-type]  # the table has these types
    )
    if checksum != _checksum(record):
        raise DamagedRecord(f"the record of {record.task_id} is damaged")
    return record


def _checksum(record: Record) -> int:
    return zlib.crc32(record.vector or b"", zlib.crc32(record.body))


def due(db: sqlite3.Connection, source: str, now: float, limit: int, exclude: Iterable[str]) -> list[Record]:
    """Waiting records that are due: oldest due time first, those from before a clock jump last."""
    names = {
        "source": source,
        "now": now,
        "stranded": now + STRANDED_AFTER_S,
        "exclude": json.dumps(list(exclude)),
        "limit": limit,
    }
    return [to_record(row) for row in db.execute(_DUE, names)]


def receipts(db: sqlite3.Connection, source: str) -> list[Receipt]:
    """Of all waiting records that are not acknowledged."""
    query = "SELECT task_id, token FROM records WHERE source = ? AND state = 'waiting' AND NOT acknowledged"
    rows = db.execute(query, (source,))
    return [Receipt(source, task_id, token) for task_id, token in rows]


def oldest_finished_at(db: sqlite3.Connection) -> float | None:
    (oldest,) = db.execute("SELECT min(finished_at) FROM records WHERE state = 'waiting'").fetchone()
    return oldest if oldest is None else float(oldest)


def erase_all(db: sqlite3.Connection, source: str, task_ids: Sequence[str]) -> None:
    """Delete the records of these tasks."""
    for first in range(0, len(task_ids), ERASE_AT_ONCE):
        part = list(task_ids[first : first + ERASE_AT_ONCE])
        size = next(size for size in _ERASE_MANY if size >= len(part))
        db.execute(_ERASE_MANY[size], [source, *part, *part[:1] * (size - len(part))])


def acknowledged(db: sqlite3.Connection, source: str, task_id: str, reason: str) -> None:
    values = (reason, source, task_id)
    db.execute("UPDATE records SET acknowledged = 1, reason = ? WHERE source = ? AND task_id = ?", values)


def defer(db: sqlite3.Connection, source: str, task_id: str, due_at: float, attempts: int, reason: str | None) -> None:
    values = (due_at, attempts, reason, source, task_id)
    db.execute("UPDATE records SET due_at = ?, attempts = ?, reason = ? WHERE source = ? AND task_id = ?", values)


_BURY = """
UPDATE records SET state = 'dead', reason = ?, attempts = ? WHERE source = ? AND task_id = ? AND state = 'waiting'
RETURNING fingerprint
"""


def bury(db: sqlite3.Connection, source: str, task_id: str, reason: str, attempts: int) -> str | None:
    """Make a waiting record a dead letter; returns its fingerprint, None when there is no such record."""
    rows = db.execute(_BURY, (reason, attempts, source, task_id)).fetchall()
    return rows[0][0] if rows else None


def look(db: sqlite3.Connection, source: str) -> tuple[bool, float | None, float | None]:
    """Whether operators left requests, when the oldest waiting record was finished, and when the next one is due."""
    (requested,) = db.execute("SELECT EXISTS (SELECT 1 FROM requests)").fetchone()
    query = "SELECT min(due_at) FROM records WHERE source = ? AND state = 'waiting'"
    (next_due_at,) = db.execute(query, (source,)).fetchone()
    return bool(requested), oldest_finished_at(db), next_due_at


def add_requests(db: sqlite3.Connection, action: str, requests: Iterable[tuple[str, float]]) -> None:
    """Add requests: (task id, due time in seconds since the epoch, 0 for at once)."""
    add_due_times(db)
    rows = ((action, task_id, due_at) for task_id, due_at in requests)
    db.executemany("INSERT INTO requests (action, task_id, due_at) VALUES (?, ?, ?)", rows)


def add_due_times(db: sqlite3.Connection) -> None:
    """Requests had no due time in the first releases with schema 2; those releases read a table with it."""
    if "due_at" not in {name for (name,) in db.execute("SELECT name FROM pragma_table_info('requests')")}:
        db.execute("ALTER TABLE requests ADD COLUMN due_at REAL NOT NULL DEFAULT 0")


def resume_requests(db: sqlite3.Connection, now: float) -> None:
    """The due times of requests that waited for a daemon begin now: they stay as far apart as they were."""
    (first,) = db.execute("SELECT min(due_at) FROM requests WHERE due_at > 0").fetchone()
    if first is not None and first < now:
        db.execute("UPDATE requests SET due_at = due_at + ? WHERE due_at > 0", (now - first,))


def apply_requests(db: sqlite3.Connection, limit: int, now: float) -> Sequence[tuple[str, str, str, int]]:
    """Carry out the oldest ``limit`` requests and delete them; returns (action, source, task id, bytes) per record.

    A request names a task by its id: it applies to the records of every source with this id. A retry whose due time is
    ahead makes its record due at that time.
    """
    until = now + REQUESTED_AHEAD_S
    query = "SELECT id, action, task_id, due_at FROM requests WHERE due_at <= ? ORDER BY id LIMIT ?"
    rows = db.execute(query, (until, limit)).fetchall()
    done = [
        (action, source, task_id, size)
        for _, action, task_id, due_at in rows
        for source, size in _carry_out(db, action, task_id, due_at)
    ]
    if rows:
        db.execute("DELETE FROM requests WHERE id <= ? AND due_at <= ?", (rows[-1][0], until))
    return done


def _carry_out(db: sqlite3.Connection, action: str, task_id: str, due_at: float) -> list[tuple[str, int]]:
    """Source and bytes of the records that were deleted or given a due time."""
    gone = "" if action == "drop" else " AND state = 'quarantined'"
    done = db.execute(f"DELETE FROM records WHERE task_id = ?{gone} RETURNING source, size", (task_id,)).fetchall()  # noqa: S608 - constants only
    if action == "retry":
        done += db.execute(_RETRY, {"due": due_at, "reason": SPREAD, "task_id": task_id}).fetchall()
    return done


def remember(db: sqlite3.Connection, source: str, ids: Sequence[str], until: float) -> None:
    db.executemany("INSERT OR IGNORE INTO remembered VALUES (?, ?, ?)", [(source, until, id_) for id_ in ids])


def forget(db: sqlite3.Connection, source: str, ids: Sequence[str], now: float) -> None:
    """Delete these ids, and all expired ones."""
    db.executemany("DELETE FROM remembered WHERE source = ? AND id = ?", [(source, id_) for id_ in ids])
    db.execute("DELETE FROM remembered WHERE until <= ?", (now,))


def remembered(db: sqlite3.Connection, source: str, now: float) -> list[str]:
    rows = db.execute("SELECT id FROM remembered WHERE source = ? AND until > ? ORDER BY id", (source, now))
    return [id_ for (id_,) in rows]
