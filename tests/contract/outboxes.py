"""Outboxes on disk, what is put into them, and how their files are spoiled."""

import hashlib
import os
import sqlite3
import struct
from collections.abc import Iterable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ai_task_processor.models.task import Receipt, Record, TaskStatus
from ai_task_processor.stores.sqlite.outbox import SqliteOutbox

ROOT = Path(__file__).parents[2]
NOW = 1_800_000_000.0


class SteppingClock:
    """A clock that moves only when somebody sleeps."""

    def __init__(self) -> None:
        self.elapsed = 0.0
        self.sleeps = 0

    def monotonic(self) -> float:
        return self.elapsed

    def now(self) -> datetime:
        return datetime.fromtimestamp(NOW, UTC)

    async def sleep(self, seconds: float) -> None:
        self.elapsed += seconds
        self.sleeps += 1


def store(directory: Path, source: str = "aletheia", *, clock: Any = None, **options: Any) -> SqliteOutbox:
    options = {"max_bytes": 10**9, "lock_timeout_s": 0.0, **options}
    return SqliteOutbox(directory, source, clock=clock or SteppingClock(), **options)


def record(task_id: str = "a", vector: bytes | None = None, **fields: Any) -> Record:
    fields = {"task_type": "text_embedding", "fingerprint": "f1", "finished_at": NOW, **fields}
    fields.setdefault("status", TaskStatus.SUCCEEDED)
    return Record(receipt=Receipt("aletheia", task_id), vector=vector, **fields)


def numbered(number: int) -> Record:
    """Of the task with this number: its vector says which one it is."""
    vector = struct.pack("<f", number) * 1536
    return record(f"task-{number:03}", vector, body=b'{"n":1}', finished_at=NOW + number)


def task_ids(numbers: Iterable[int]) -> set[str]:
    """The ids of the tasks with these numbers."""
    return {f"task-{number:03}" for number in numbers}


async def waiting(outbox: SqliteOutbox) -> dict[str, Record]:
    """All that is to be delivered, by the ids of the tasks."""
    return {row.task_id: row for row in await outbox.due(NOW + 1e9, 1000)}


def overwrite(path: Path, offset: int, data: bytes) -> None:
    """Counted from the end when the offset is negative."""
    with path.open("r+b") as file:
        file.seek(offset, os.SEEK_END if offset < 0 else os.SEEK_SET)
        file.write(data)


def noise(size: int) -> bytes:
    blocks = range(size // 32 + 1)
    return b"".join(hashlib.sha256(bytes([size % 251, n % 251, n // 251])).digest() for n in blocks)[:size]


def execute(path: Path, *statements: str) -> Any:
    """The first row of the answer to the last statement."""
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as db:
        return [db.execute(statement).fetchone() for statement in statements][-1]


def full_disk(*_: object) -> None:
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = sqlite3.SQLITE_FULL
    raise error
