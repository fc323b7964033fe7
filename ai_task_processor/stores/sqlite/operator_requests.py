"""What operators ask of the daemon: requests that commands write beside it, and that it carries out."""

import sqlite3
from collections.abc import Iterable, Sequence

from ai_task_processor.stores.sqlite.records import oldest_finished_at
from ai_task_processor.stores.sqlite.schema import add_due_times

#: requests whose due time is further ahead stay requests: their records would count as stranded
REQUESTED_AHEAD_S = 900.0
_RETRY = """
UPDATE records SET due_at = iif(state = 'dead', :due, min(due_at, :due)),
    reason = CASE WHEN :due = 0 THEN NULL WHEN state = 'dead' THEN :reason ELSE reason END,
    attempts = iif(state = 'dead', 0, attempts), state = 'waiting'
WHERE task_id = :task_id RETURNING source, size
"""
#: the reason of a record whose retry is put off
SPREAD = "an operator asked for its retry, as one of many: it waits for its turn"


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
