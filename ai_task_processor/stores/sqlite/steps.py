"""The answers of calls inside unfinished tasks, in the outbox's database and its group commits.

Their table is created when it is missing and has no schema number of its own: an earlier release ignores it, and the
repair of a damaged file drops it, because a lost answer only costs a repeated call. It is ``WITHOUT ROWID`` and its
last column is no number, so that a repair cannot mistake its pages for those of an index of records.
"""

import asyncio
import sqlite3
import zlib
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TypeVar

from ai_task_processor.core.ports import Clock
from ai_task_processor.stores.sqlite.schema import DamagedRecord
from ai_task_processor.stores.sqlite.writer import Writer

T = TypeVar("T")

#: answers of a task that was not worked on for so long are deleted, seconds: it may never be listed again
MAX_AGE_S = 7 * 86_400.0
#: the part of ``OUTBOX_MAX_BYTES`` that answers may take beside the outbox; then the oldest tasks lose theirs
SHARE = 4
#: what a row takes beside its answer and its name, about, bytes
ROW_BYTES = 200


class SqliteSteps:
    """``ports.StepStore`` of a source. ``task_id in steps``: the task may have answers; from memory."""

    def __init__(self, writer: Writer, source: str, *, max_bytes: int, clock: Clock) -> None:
        self._writer = writer
        self._source = source
        self._max_bytes = max_bytes // SHARE
        self._clock = clock
        #: bytes and time of the last answer by (source, task id), the oldest first; accepted answers are included
        self._tasks: dict[tuple[str, str], tuple[int, float]] = {}
        self._bytes = 0

    def __contains__(self, task_id: str) -> bool:
        return (self._source, task_id) in self._tasks

    def reload(self, rows: Iterable[tuple[str, str, int, float]]) -> None:
        """What ``summaries`` has read. Tasks whose first answer is not committed yet stay known."""
        found = {(source, task_id): (size, saved_at) for source, task_id, size, saved_at in rows}
        self._tasks = found | {key: (0, saved_at) for key, (_, saved_at) in self._tasks.items() if key not in found}
        self._bytes = sum(size for size, _ in self._tasks.values())

    async def load(self, task_id: str, fingerprint: str) -> Mapping[str, bytes]:
        if task_id not in self:
            return {}
        return await self._writer.submit(partial(_load, key=(self._source, task_id, fingerprint)))

    def save(self, task_id: str, fingerprint: str, name: str, answer: bytes) -> asyncio.Future[None]:
        now, key = self._clock.now().timestamp(), (self._source, task_id)
        size, _ = self._tasks.pop(key, (0, 0.0))
        added = len(answer) + len(name.encode()) + ROW_BYTES
        self._tasks[key] = size + added, now
        self._bytes += added
        evicted = self._evict(now)
        row = (*key, name, fingerprint, now, zlib.crc32(answer), answer)

        def work(db: sqlite3.Connection) -> None:
            db.executemany(_ERASE, evicted)
            db.execute(_INSERT, row)

        return self._writer.submit(work, writes=True, repeated=False)

    async def erase(self, task_id: str) -> None:
        if task_id in self:
            work = self.erasing(task_id, lambda _: None)
            await self._writer.submit(work, writes=True, repeated=False, committed=lambda _: self.forget(task_id))

    def erasing(self, task_id: str, work: Callable[[sqlite3.Connection], T]) -> Callable[[sqlite3.Connection], T]:
        """Other work, and in the same transaction the deletion of a task's answers. Call ``forget`` afterwards."""
        key = self._source, task_id

        def both(db: sqlite3.Connection) -> T:
            db.execute(_ERASE, key)
            return work(db)

        return both

    def forget(self, task_id: str) -> None:
        """The answers of a task are deleted."""
        size, _ = self._tasks.pop((self._source, task_id), (0, 0.0))
        self._bytes -= size

    def _evict(self, now: float) -> list[tuple[str, str]]:
        """The tasks that must lose their answers: too old, or too many bytes. The newest task keeps its own."""
        evicted = []
        while len(self._tasks) > 1:
            key, (size, saved_at) = next(iter(self._tasks.items()))
            if self._bytes <= self._max_bytes and saved_at >= now - MAX_AGE_S:
                break
            del self._tasks[key]
            self._bytes -= size
            evicted.append(key)
        return evicted


_INSERT = "INSERT OR REPLACE INTO steps VALUES (?, ?, ?, ?, ?, ?, ?)"
_ERASE = "DELETE FROM steps WHERE source = ? AND task_id = ?"


def summaries(db: sqlite3.Connection, now: float) -> list[tuple[str, str, int, float]]:
    """Delete what is too old; (source, task id, bytes, time of the last answer) of each task left, oldest first."""
    # A time in the future was stored before the clock was corrected.
    db.execute("DELETE FROM steps WHERE saved_at NOT BETWEEN ? AND ?", (now - MAX_AGE_S, now + MAX_AGE_S))
    size = f"sum(length(answer) + length(CAST(name AS BLOB)) + {ROW_BYTES})"
    query = f"SELECT source, task_id, {size}, max(saved_at) FROM steps GROUP BY source, task_id ORDER BY 4"  # noqa: S608 - constants only
    return db.execute(query).fetchall()


def _load(db: sqlite3.Connection, key: tuple[str, str, str]) -> dict[str, bytes]:
    """Raises ``DamagedRecord``."""
    query = "SELECT name, answer, checksum FROM steps WHERE source = ? AND task_id = ? AND fingerprint = ?"
    found = {}
    for name, answer, checksum in db.execute(query, key):
        if zlib.crc32(answer) != checksum:
            raise DamagedRecord(f"a step of {key[1]} is damaged")
        found[name] = answer
    return found
