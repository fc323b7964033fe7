"""The records of the outbox in SQL: statements, and how a row becomes a ``Record``."""

import json
import sqlite3
import zlib
from collections.abc import Iterable, Sequence

from ai_task_processor.models.task import Receipt, Record, TaskStatus, Usage
from ai_task_processor.stores.sqlite.schema import RECORD_COLUMNS, DamagedRecord, State

#: A deferral lasts 15 minutes at most. A record due later than this was deferred before the wall clock
#: jumped back: it counts as due, or it would wait as long as the jump was.
STRANDED_AFTER_S = 960.0
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
_WAITING = "state = 'waiting' AND task_id NOT IN (SELECT value FROM json_each(:exclude))"
_DUE = f"""
SELECT {RECORD_COLUMNS} FROM records WHERE source = :source AND due_at <= :now AND {_WAITING}
UNION ALL
SELECT {RECORD_COLUMNS} FROM records WHERE source = :source AND due_at > :stranded AND {_WAITING}
ORDER BY due_at LIMIT :limit
"""  # noqa: S608 - constants only


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
