"""Reads an outbox and leaves requests in it, for operators' commands: beside a running daemon, without its lock.

Synchronous. Records are read page by page: during one long read transaction SQLite could not truncate its log.
"""

import contextlib
import itertools
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Literal

from ai_task_processor.core.errors import DataDirectoryError
from ai_task_processor.models.task import Record, TaskStatus
from ai_task_processor.stores.sqlite import directory as data_directory
from ai_task_processor.stores.sqlite import operator_requests, records, salvage, schema

Action = Literal["retry", "drop"]

_PAGE = 500
_BUSY_TIMEOUT_S = 2.0
_COLUMNS = "task_id, task_type, status, state, finished_at, due_at, attempts, reason, size"


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A record without its result. Times are seconds since the epoch; ``bytes`` as charged against the limit.

    ``due_at``: None when it does not wait; ``finished_at`` when it was never deferred.
    """

    task_id: str
    task_type: str
    status: TaskStatus
    state: schema.State
    finished_at: float
    due_at: float | None
    attempts: int
    reason: str | None
    bytes: int
    source: str


def list_records(directory: Path) -> list[Summary]:
    """All records in the order of storage. Raises ``DataDirectoryError``, like all functions below."""
    return list(iter_records(directory))


def iter_records(directory: Path) -> Iterator[Summary]:
    """``list_records`` with one page in memory; records stored meanwhile come last."""
    with _connection(directory, "ro") as db:
        last = 0
        while page := db.execute(
            f"SELECT rowid, {_COLUMNS}, {_source(db)} FROM records WHERE rowid > ? ORDER BY rowid LIMIT {_PAGE}",  # noqa: S608 - constants only
            (last,),
        ).fetchall():
            for last, *row in page:  # noqa: B007 - the next page begins after the last row
                yield _to_summary(row)


def load_records(directory: Path, task_id: str) -> list[tuple[Summary, Record]]:
    """The records of a task with their results: usually one, more where several sources have a task of this id."""
    with _connection(directory, "ro") as db:
        query = f"SELECT {_COLUMNS}, {_source(db)}, {schema.record_columns(db)} FROM records WHERE task_id = ?"  # noqa: S608 - constants only
        rows = db.execute(query, (task_id,)).fetchall()
    split = _COLUMNS.count(",") + 2
    return [(_to_summary(row[:split]), records.to_record(row[split:])) for row in rows]


def find_records(directory: Path, task_ids: Iterable[str]) -> list[Summary]:
    """The records of these tasks; tasks without a record are left out."""
    with _connection(directory, "ro") as db:
        ids = json.dumps(list(task_ids))
        query = f"SELECT {_COLUMNS}, {_source(db)} FROM records WHERE task_id IN (SELECT value FROM json_each(?))"  # noqa: S608 - constants only
        return [_to_summary(row) for row in db.execute(query, (ids,))]


def leave_request(
    directory: Path, action: Action, task_ids: Iterable[str], *, from_s: float = 0.0, every_s: float = 0.0
) -> None:
    """Ask the daemon to retry or drop records; it does so within a second, or at its next start.

    With ``every_s`` the first retry is due at ``from_s``, in seconds since the epoch, and each further one that many
    seconds after the one before.
    """
    times = (from_s + every_s * place if every_s else 0.0 for place in itertools.count())
    with _connection(directory, "rw") as db:
        db.execute("BEGIN IMMEDIATE")
        operator_requests.add_requests(db, action, zip(task_ids, times, strict=False))
        db.execute("COMMIT")


def pending_requests(directory: Path, until: float = inf) -> int:
    """The number of requests that are due until then (seconds since the epoch) and that no daemon has carried out."""
    with _connection(directory, "ro") as db:
        (count,) = db.execute("SELECT count(*) FROM requests WHERE due_at <= ?", (until,)).fetchone()
    return int(count)


def exists(directory: Path) -> bool:
    """Whether there is an outbox, or at least its log."""
    return any((directory / f"{schema.DATABASE}{suffix}").exists() for suffix in ("", "-wal"))


def daemon_running(directory: Path) -> bool:
    """Whether a daemon holds this data directory; false also when the directory does not exist."""
    return data_directory.locked(directory)


@contextlib.contextmanager
def _connection(directory: Path, mode: Literal["ro", "rw"]) -> Iterator[sqlite3.Connection]:
    path = directory / schema.DATABASE
    # SQLite would silently show fewer records, and a command that writes would delete the damaged log.
    if not data_directory.locked(directory) and (reason := _fault(path)):
        raise DataDirectoryError(f"{path} cannot be used ({reason}): {schema.DAMAGED}")
    if not os.path.isfile(path):  # noqa: PTH113 - unlike Path.is_file, it is false without read permission
        raise DataDirectoryError(f"DATA_DIR {directory} shows no outbox: no daemon ran there, or it is another user's")
    try:
        uri = f"{path.absolute().as_uri()}?mode={mode}"
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=_BUSY_TIMEOUT_S, isolation_level=None)) as db:
            schema.refuse_newer(db, path)
            yield db
    except sqlite3.Error as error:
        raise schema.unusable(path, error) from error


def _fault(path: Path) -> str:
    try:
        return salvage.fault(path)
    except OSError as error:
        raise data_directory.unusable_file(path, "opened", error) from error


def _source(db: sqlite3.Connection) -> str:
    return "source" if schema.version(db) > 1 else f"'{schema.FIRST_SOURCE}'"


def _to_summary(row: Iterable[object]) -> Summary:
    names = (
        "task_id",
        "task_type",
        "status",
        "state",
        "finished_at",
        "due_at",
        "attempts",
        "reason",
        "bytes",
        "source",
    )
    values = dict(zip(names, row, strict=True))
    values["due_at"] = (values["due_at"] or values["finished_at"]) if values["state"] == "waiting" else None
    return Summary(**{**values, "status": TaskStatus(str(values["status"]))})  # type: ignore[arg-type]  # the table has these types
