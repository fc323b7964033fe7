"""A cache on disk: JSON values by key, each until its time is over. A lost entry costs a request and nothing else."""

import asyncio
import os
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar
from weakref import WeakValueDictionary

from ai_task_processor.core import codec

T = TypeVar("T")

#: the most entries, unless the owner says otherwise; above it those that end first are removed
MAX_ENTRIES = 100_000
#: what has ended is removed when the file is opened, and after so many new entries
TIDY_EVERY = 1_000
_TABLE = "CREATE TABLE IF NOT EXISTS entries (key TEXT PRIMARY KEY, value BLOB NOT NULL, ends_at REAL NOT NULL)"


class DiskCache:
    """``file``: None keeps the entries in memory. A file that cannot be used is replaced, or memory is used instead.

    Work is done in threads, one call at a time. ``now`` gives seconds since the epoch.
    """

    def __init__(self, file: Path | None, now: Callable[[], float], max_entries: int = MAX_ENTRIES) -> None:
        self._file = file
        self._now = now
        self._max_entries = max_entries
        self._added = 0
        self._lock = asyncio.Lock()
        self._connection: sqlite3.Connection | None = None
        self._missing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def filling(self, key: str) -> asyncio.Lock:
        """Hold this lock from ``get`` to ``put``: what several tasks lack at the same moment is requested once."""
        return self._missing.setdefault(key, asyncio.Lock())

    async def get(self, key: str) -> tuple[bool, object]:
        """Whether there is an entry that has not ended, and its value."""
        row = await self._done(
            lambda database: database.execute(
                "SELECT value FROM entries WHERE key = ? AND ends_at > ?", (key, self._now())
            ).fetchone()
        )
        if row is None:
            return False, None
        try:
            return True, codec.loads(row[0])
        except ValueError:
            return False, None

    async def put(self, key: str, value: object, *, for_s: float) -> None:
        """Keep a value for so many seconds."""
        entry = key, codec.dumps(value), self._now() + for_s
        await self._done(lambda database: self._add(database, entry))

    def _add(self, connection: sqlite3.Connection, entry: tuple[str, bytes, float]) -> None:
        connection.execute("INSERT OR REPLACE INTO entries VALUES (?, ?, ?)", entry)
        self._added += 1
        if self._added % TIDY_EVERY == 0:
            self._tidy(connection)

    async def aclose(self) -> None:
        async with self._lock:
            if self._connection is not None:
                await asyncio.to_thread(self._connection.close)
                self._connection = None

    async def _done(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        """What the work returns; None when the disk fails: an entry is then missing, or not kept."""
        async with self._lock:
            return await asyncio.to_thread(self._do, work)

    def _do(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        if self._connection is None:
            self._connection = self._opened()
        try:
            return work(self._connection)
        except sqlite3.Error:
            self._connection.close()
            self._connection = None
            return None

    def _opened(self) -> sqlite3.Connection:
        for file in (self._file, self._file, None):
            if file is not None:
                with suppress(OSError):
                    os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))
            try:
                # Autocommit: an entry is a transaction. The threads take turns.
                connection = sqlite3.connect(file or ":memory:", isolation_level=None, check_same_thread=False)
            except sqlite3.Error:
                continue
            try:
                self._tidy(connection)
            except sqlite3.Error:
                connection.close()
                if file is not None:
                    for name in (file, file.with_name(f"{file.name}-journal")):
                        with suppress(OSError):
                            name.unlink()
            else:
                return connection
        raise AssertionError("a database in memory can be opened")

    def _tidy(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA synchronous = OFF")  # a loss of power may cost the file, a crash does not
        connection.execute(_TABLE)
        connection.execute("DELETE FROM entries WHERE ends_at <= ?", (self._now(),))
        kept = "SELECT key FROM entries ORDER BY ends_at DESC LIMIT ?"
        connection.execute(f"DELETE FROM entries WHERE key NOT IN ({kept})", (self._max_entries,))  # noqa: S608 - a constant
