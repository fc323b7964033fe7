"""The ids that a source remembers, each until a time in seconds since the epoch."""

import sqlite3
from collections.abc import Sequence


def remember(db: sqlite3.Connection, source: str, ids: Sequence[str], until: float) -> None:
    db.executemany("INSERT OR IGNORE INTO remembered VALUES (?, ?, ?)", [(source, until, id_) for id_ in ids])


def forget(db: sqlite3.Connection, source: str, ids: Sequence[str], now: float) -> None:
    """Delete these ids, and all expired ones."""
    db.executemany("DELETE FROM remembered WHERE source = ? AND id = ?", [(source, id_) for id_ in ids])
    db.execute("DELETE FROM remembered WHERE until <= ?", (now,))


def remembered(db: sqlite3.Connection, source: str, now: float) -> list[str]:
    rows = db.execute("SELECT id FROM remembered WHERE source = ? AND until > ? ORDER BY id", (source, now))
    return [id_ for (id_,) in rows]
