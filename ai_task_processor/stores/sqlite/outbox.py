"""The outbox on disk: an outcome whose ``put`` has resolved survives a crash of the process and a loss of power.

SQLite in WAL mode with ``synchronous=FULL``. The event loop only queues jobs (``writer``) and reads
memory (``ledger``); it never touches the file.
"""

import asyncio
import os
import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Self, TypeVar

from ai_task_processor.core.ports import Clock, Held, OutboxDepth
from ai_task_processor.models.task import Receipt, Record
from ai_task_processor.ops.logs import get_logger
from ai_task_processor.stores.sqlite import directory as data_directory
from ai_task_processor.stores.sqlite import operator_requests, records, remembered, salvage, schema, steps
from ai_task_processor.stores.sqlite.ledger import Ledger
from ai_task_processor.stores.sqlite.migration import migrate
from ai_task_processor.stores.sqlite.steps import SqliteSteps
from ai_task_processor.stores.sqlite.writer import Many, Writer

T = TypeVar("T")

log = get_logger(__name__)

_REQUESTS_AT_ONCE = 1000
_CACHE_KB, _LOG_BYTES = 2048, 4 * 2**20
_PUTS = Many(records.put_all, records.PUT_AT_ONCE)


class SqliteOutbox:
    """``ports.Outbox`` and ``ports.SourceMemory`` of a source, in a directory that is locked while it is open.

    ``steps``: the answers of calls inside unfinished tasks, erased by the commit that stores the outcome.
    ``recovered`` counts the waiting records that an earlier process left. Calls that write raise
    ``OutboxUnwritable`` when their commit fails. A damaged file is renamed and its readable records are copied into
    a new one; ``lost`` is called with the id of each task whose record is unreadable, None when the id is, too.
    """

    def __init__(
        self,
        directory: Path,
        source: str,
        *,
        max_bytes: int,
        clock: Clock,
        lock_timeout_s: float = 60.0,
        lost: Callable[[str | None], object] | None = None,
    ) -> None:
        self._directory = directory
        self._source = source
        self._clock = clock
        self._lock_timeout_s = lock_timeout_s
        self._lost = lost
        self._path = directory / schema.DATABASE
        self._writer = Writer(self._connect)
        self._erasures = Many(lambda db, ids: records.erase_all(db, source, ids), records.ERASE_AT_ONCE)
        self._ledger = Ledger(source, max_bytes)
        self.steps = SqliteSteps(self._writer, source, max_bytes=max_bytes, clock=clock)
        self._lock: int | None = None
        self._oldest: float | None = None
        self._next_due_at: float | None = None
        self.recovered = 0

    async def open(self) -> None:
        """Lock the directory, migrate or repair the database, count the records of earlier processes.

        Raises ``OutboxLocked`` after ``lock_timeout_s``, and ``DataDirectoryError``. Opens once.
        """
        data_directory.prepare(self._directory)
        self._lock = await data_directory.lock(self._directory, self._clock, self._lock_timeout_s)
        try:
            data_directory.make_private(self._directory, schema.DATABASE, create=False)
            await self._start()
        except BaseException:
            await self.aclose()
            raise
        self.recovered = self._ledger.depth(None).waiting

    async def _start(self) -> None:
        try:
            await self._writer.start()
        except sqlite3.Error as error:
            raise schema.unusable(self._path, error) from error
        except OSError as error:
            raise data_directory.unusable_file(self._path, "salvaged", error) from error

    async def aclose(self) -> None:
        """Write everything that was accepted, then unlock the directory."""
        await self._writer.aclose()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    @property
    def full(self) -> bool:
        return self._ledger.full

    @property
    def writable(self) -> bool:
        return self._writer.writable

    def free_bytes(self) -> int:
        """Free bytes of the data directory's file system."""
        return data_directory.free_bytes(self._directory)

    async def held(self, task_ids: Sequence[str]) -> Mapping[str, Held]:
        return {task_id: held for task_id in task_ids if (held := self._ledger.held(task_id)) is not None}

    def depth(self) -> OutboxDepth:
        return self._ledger.depth(self._oldest, self._next_due_at)

    def put(self, record: Record) -> asyncio.Future[None]:
        """Accepted when it returns: ``held`` shows it, and it is written even if the future is cancelled."""
        self._ledger.accept(record)
        work = partial(records.put, record=record)
        stepped = record.task_id in self.steps
        return self._writer.submit(
            self.steps.erasing(record.task_id, work) if stepped else work,
            writes=True,
            many=None if stepped else _PUTS,
            about=record.task_id,
            item=record,
            committed=lambda _: self._committed(record, stepped=stepped),
            failed=lambda: self._ledger.refuse(record),
        )

    def _committed(self, record: Record, *, stepped: bool) -> None:
        self._ledger.committed(record)
        if stepped:
            self.steps.forget(record.task_id)

    def quarantine(self, record: Record) -> asyncio.Future[None]:
        return self._write(
            lambda db: records.put(db, record, "quarantined"),
            committed=lambda _: self._ledger.quarantine(record),
        )

    async def due(self, now: float, limit: int, exclude: frozenset[str] = frozenset()) -> Sequence[Record]:
        """Also raises ``OutboxUnwritable``, when the disk cannot be read."""
        return await self._writer.submit(lambda db: records.due(db, self._source, now, limit, exclude))

    async def delivered(self, task_id: str) -> None:
        """Delete the whole record.

        No history is stored: an operator who sets a task back to pending wants it to run again. A listing in flight
        may still show the task; the source handles that in memory.
        """
        stepped = task_id in self.steps

        def erase(db: sqlite3.Connection) -> None:
            records.erase_all(db, self._source, [task_id])

        def committed(_: object) -> None:
            self._ledger.forget(task_id)
            if stepped:
                self.steps.forget(task_id)

        await self._writer.submit(
            self.steps.erasing(task_id, erase) if stepped else erase,
            writes=True,
            many=None if stepped else self._erasures,
            about=task_id,
            item=task_id,
            committed=committed,
        )

    async def acknowledged(self, task_id: str, reason: str) -> None:
        await self._write(lambda db: records.acknowledged(db, self._source, task_id, reason))

    async def defer(self, task_id: str, *, due_at: float, attempts: int, reason: str | None = None) -> None:
        await self._write(lambda db: records.defer(db, self._source, task_id, due_at, attempts, reason))

    async def bury(self, task_id: str, reason: str, *, attempts: int = 1) -> None:
        await self._write(
            lambda db: records.bury(db, self._source, task_id, reason, attempts),
            committed=lambda fingerprint: self._ledger.bury(task_id, fingerprint),
        )

    async def apply_requests(self) -> Mapping[str, str]:
        """One short query when there are none. Requests stay stored when their commit fails."""
        look = partial(operator_requests.look, source=self._source)
        requested, self._oldest, self._next_due_at = await self._writer.submit(look)
        if not requested:
            return {}
        done = await self._write(
            lambda db: operator_requests.apply_requests(db, _REQUESTS_AT_ONCE, self._clock.now().timestamp()),
            committed=self._applied,
        )
        return {task_id: action for action, _, task_id, _ in done}

    def _applied(self, done: Sequence[tuple[str, str, str, int]]) -> None:
        for action, source, task_id, size in done:
            if source != self._source:
                self._ledger.foreign_changed(source, size if action == "drop" else 0)
            elif action == "drop":
                self._ledger.forget(task_id)
            else:
                self._ledger.revive(task_id)

    async def receipts(self) -> Sequence[Receipt]:
        return await self._writer.submit(lambda db: records.receipts(db, self._source))

    async def remember(self, ids: Sequence[str], until: float) -> None:
        await self._write(lambda db: remembered.remember(db, self._source, ids, until))

    async def forget(self, ids: Sequence[str]) -> None:
        now = self._clock.now().timestamp()
        await self._write(lambda db: remembered.forget(db, self._source, ids, now))

    async def remembered(self) -> Collection[str]:
        now = self._clock.now().timestamp()
        return await self._writer.submit(lambda db: remembered.remembered(db, self._source, now))

    def _write(
        self,
        work: Callable[[sqlite3.Connection], T],
        *,
        committed: Callable[[T], object] | None = None,
    ) -> asyncio.Future[T]:
        return self._writer.submit(work, writes=True, committed=committed)

    def _connect(self, broken: sqlite3.Connection | None) -> sqlite3.Connection:
        """Open the database in the writer's thread: first of all, and again when the file turns out to be damaged."""
        if broken is not None:
            salvage.leave(broken, self._path)
            self._salvage("met while it was in use")
        elif reason := salvage.fault(self._path):
            self._salvage(reason)
        try:
            return self._open_database()
        except sqlite3.Error as error:
            if broken is not None or not salvage.damaged(error):
                raise
            self._salvage(str(error))
        return self._open_database()

    def _open_database(self) -> sqlite3.Connection:
        data_directory.make_private(self._directory, schema.DATABASE)
        db = sqlite3.connect(self._path, isolation_level=None)
        try:
            schema.choose_page_size(db)
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            # KiB: the pages that a usual group changes. Pages that do not fit are written to the log twice.
            db.execute(f"PRAGMA cache_size = -{_CACHE_KB}")
            # About the bytes of SQLite's default (1000 pages of 4 KiB).
            db.execute(f"PRAGMA wal_autocheckpoint = {_LOG_BYTES // schema.PAGE_BYTES}")
            schema.refuse_newer(db, self._path)
            rows = schema.summaries(db)  # before anything is written
            if schema.version(db) == 1:
                migrate(db, self._path)
                return self._open_database()
            schema.create(db, self._path)
            now = self._clock.now().timestamp()
            operator_requests.resume_requests(db, now)
            stepped = steps.summaries(db, now)
        except BaseException:
            salvage.leave(db, self._path)
            raise
        self._writer.call_in_loop(self._ledger.reload, rows)
        self._writer.call_in_loop(self.steps.reload, stepped)
        return db

    def _salvage(self, reason: str) -> None:
        found = salvage.rebuild(self._path, self._clock.now())
        # Logged before the damaged files are replaced: a kill in between leads to two log lines, not to none.
        log.error(
            "outbox.salvaged",
            reason=reason,
            kept=found.kept,
            lost=len(found.lost),
            unnamed=found.unnamed,
            unreadable_bytes=found.unreadable_bytes,
            aside=str(found.aside),
        )
        if self._lost is not None:
            for task_id in (*found.lost, *[None] * found.unnamed):
                self._writer.call_in_loop(self._lost, task_id)
        salvage.replace(self._path, found.aside)
