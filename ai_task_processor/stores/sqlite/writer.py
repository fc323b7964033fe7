"""Group commit: one thread with one connection writes all queued jobs with one fsync.

While a commit waits for the disk, the next jobs collect in the queue. The thread takes them all into
one transaction and answers them with one call into the event loop. At low load a job does not wait for
others; at high load many jobs share one fsync.
"""

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Generic, TypeVar

from ai_task_processor.core.errors import OutboxUnwritable
from ai_task_processor.stores.sqlite.salvage import damaged

T = TypeVar("T")

_GROUP = 512

#: errors of the disk and not of one job: all writes of the group fail
_STORAGE = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_READONLY,
    }
)


@dataclass(frozen=True, slots=True)
class Many:
    """The same work for several tasks at once; one statement for up to ``at_once`` of them."""

    work: Callable[[sqlite3.Connection, Sequence[Any]], object]
    at_once: int


@dataclass(slots=True, eq=False)
class _Job(Generic[T]):
    """``work`` runs in the thread, perhaps twice, so it uses nothing but the connection.

    ``committed`` and ``failed`` run in the event loop, whether or not the caller still waits.

    ``repeated``: the caller repeats it until it succeeds. Only its failure means that the outbox is not writable: when
    nobody writes again, it would stay so for ever.

    Jobs with ``many`` that are ``about`` different tasks may be merged: one call of ``many`` with the ``item`` of each,
    without results. That is cheaper, because each statement releases the GIL and has to wait for it afterwards.
    """

    work: Callable[[sqlite3.Connection], T]
    writes: bool
    repeated: bool
    many: Many | None
    about: str
    item: object
    committed: Callable[[T], object] | None
    failed: Callable[[], object] | None
    future: asyncio.Future[T]
    value: T | None = None
    error: Exception | None = None

    def settle(self) -> None:
        if self.error is not None:
            if self.failed:
                self.failed()
            if not self.future.done():
                self.future.set_exception(self.error)
            return
        if self.committed:
            self.committed(self.value)  # type: ignore[arg-type]  # there was no error, so it has its value
        if not self.future.done():
            self.future.set_result(self.value)  # type: ignore[arg-type]  # there was no error, so it has its value


class _MergedCallError(Exception):
    """A merged call failed, not because of the disk."""


class _JobError(Exception):
    """A single job failed, not because of the disk."""

    def __init__(self, job: _Job[Any], error: Exception) -> None:
        self.job = job
        self.error = error


class Writer:
    """The thread and its connection, which ``connect`` opens, and opens again when the file is damaged.

    ``writable``: the last commit succeeded, apart from those that nobody repeats.
    """

    def __init__(self, connect: Callable[[sqlite3.Connection | None], sqlite3.Connection]) -> None:
        """``connect`` is called with None first, later with the connection that found damage, which it closes."""
        self._connect = connect
        self._damaged = False
        self._jobs: SimpleQueue[Sequence[_Job[Any]] | None] = SimpleQueue()
        self._submitted: list[_Job[Any]] = []
        self._thread: Thread | None = None
        self._closed = False
        self.writable = True

    async def start(self) -> None:
        """Raises what ``connect`` raises."""
        self._loop = asyncio.get_running_loop()
        self._started = self._loop.create_future()
        self._ended = self._loop.create_future()
        # A daemon thread: after an unhandled error nothing would end it.
        self._thread = Thread(target=self._main, name="outbox-writer", daemon=True)
        self._thread.start()
        await self._started

    async def aclose(self) -> None:
        """Write everything that was submitted, close the database, end the thread."""
        if self._thread is None:
            return
        if not self._closed:
            self._hand_over()
            self._closed = True
            self._jobs.put(None)
        await asyncio.shield(self._ended)
        self._thread.join()

    def submit(
        self,
        work: Callable[[sqlite3.Connection], T],
        *,
        writes: bool = False,
        repeated: bool = True,
        many: Many | None = None,
        about: str = "",
        item: object = None,
        committed: Callable[[T], object] | None = None,
        failed: Callable[[], object] | None = None,
    ) -> asyncio.Future[T]:
        """Queue a job at once. Cancelling the future does not cancel the job."""
        job = _Job(work, writes, repeated, many, about, item, committed, failed, self._loop.create_future())
        if self._closed:
            job.error = OutboxUnwritable("the outbox is closed")
            job.settle()
        else:
            self._submitted.append(job)
            if len(self._submitted) == 1:
                # Jobs of one turn of the loop are queued together: waking the thread for each is expensive.
                self._loop.call_soon(self._hand_over)
        return job.future

    def _hand_over(self) -> None:
        if self._submitted:
            self._jobs.put(self._submitted)
            self._submitted = []

    def _main(self) -> None:
        try:
            self._db = self._connect(None)
        except Exception as error:  # noqa: BLE001 - the boundary of the thread: ``start`` raises the error
            self.call_in_loop(_resolve, self._started, error)
        else:
            self.call_in_loop(_resolve, self._started)
            while self._serve():
                pass
            self._db.close()
        self.call_in_loop(_resolve, self._ended)

    def call_in_loop(self, callback: Callable[..., object], *arguments: object) -> None:
        """Run a callback in the event loop, from the thread; the order of calls is kept."""
        # After the loop is closed nobody waits for an answer; queued jobs are still written.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback, *arguments)

    def _serve(self) -> bool:
        """Perform one group; false when it was the last."""
        group, more = self._gather()
        self._perform(group)
        self.call_in_loop(_settle, group)
        return more

    def _gather(self) -> tuple[list[_Job[Any]], bool]:
        """All queued jobs, up to about ``_GROUP``, and whether more may follow."""
        group: list[_Job[Any]] = []
        jobs = self._jobs.get()
        with contextlib.suppress(Empty):
            while jobs is not None:
                group += jobs
                if len(group) >= _GROUP:
                    break
                jobs = self._jobs.get_nowait()
        return group, jobs is not None

    def _perform(self, group: list[_Job[Any]]) -> None:
        """Run the group in one transaction, jobs of the same kind merged.

        When a merged call fails, the group runs again with single jobs. A single job that fails gets its error, and the
        others run again without it. When the disk fails, all jobs that write fail, and the others run without them.
        """
        group, merged = _sorted(group), True
        while group:
            writes = any(job.writes for job in group)
            try:
                self._transact(group, writes=writes, merged=merged)
                self.writable |= writes
                return
            except _MergedCallError:
                merged = False
            except _JobError as failed:
                failed.job.error = failed.error
            except Exception as error:  # noqa: BLE001 - the boundary of one group: the thread must go on
                self._damaged |= damaged(error)
                self.writable &= not any(job.writes and job.repeated for job in group)
                for job in group:
                    if job.writes == writes:
                        job.error = OutboxUnwritable(f"the outbox is unusable: {error}")
                        job.error.__cause__ = error
            group = [job for job in group if job.error is None]

    def _transact(self, group: list[_Job[Any]], *, writes: bool, merged: bool) -> None:
        if self._damaged:
            self._db = self._connect(self._db)
            self._damaged = False
        if merged and _is_one_statement(group):
            # One statement is a transaction by itself; BEGIN and COMMIT would release the GIL twice more.
            self._run_all(group[0].many, group)
            return
        # IMMEDIATE: upgrading a read transaction fails at once, without a busy wait, when a command is writing.
        self._db.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
        try:
            for many, jobs in groupby(group, key=lambda job: job.many if merged else None):
                self._run_all(many, list(jobs))
            self._db.execute("COMMIT")
        finally:
            if self._db.in_transaction:
                self._db.rollback()

    def _run_all(self, many: Many | None, jobs: list[_Job[Any]]) -> None:
        if many is None or len(jobs) == 1:
            for job in jobs:
                self._run(job)
            return
        try:
            many.work(self._db, [job.item for job in jobs])
        except Exception as error:
            if _storage_failed(error):
                raise
            raise _MergedCallError from error

    def _run(self, job: _Job[Any]) -> None:
        try:
            job.value = job.work(self._db)
        except Exception as error:
            if _storage_failed(error):
                raise
            raise _JobError(job, error) from error


def _storage_failed(error: Exception) -> bool:
    return (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _STORAGE


def _is_one_statement(group: list[_Job[Any]]) -> bool:
    many = group[0].many
    return many is not None and len(group) <= many.at_once and all(job.many is many for job in group)


def _sorted(group: list[_Job[Any]]) -> list[_Job[Any]]:
    """Jobs of the same kind next to each other, if each is about a different task, so that their order is free."""
    if len({job.about for job in group if job.many}) < len(group):
        return group
    return sorted(group, key=lambda job: id(job.many))


def _settle(group: list[_Job[Any]]) -> None:
    for job in group:
        job.settle()


def _resolve(future: asyncio.Future[None], error: Exception | None = None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
