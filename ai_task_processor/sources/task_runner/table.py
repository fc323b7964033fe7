"""The rows of a task runner: each method is one short transaction. Raises ``RemoteError``.

``Rows`` has the interface of ``postgres.table.Table``; queues in Redis follow it: they are changed after each commit.
"""

import asyncio
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import NAMESPACE_OID, UUID, uuid5

from ai_task_processor.core import codec
from ai_task_processor.core.errors import Rejected, Transient
from ai_task_processor.models.task import Completed, Outcome, Receipt, Task
from ai_task_processor.net.leases import attempt_of
from ai_task_processor.net.postgres import Connection, Database
from ai_task_processor.net.s3 import Bucket
from ai_task_processor.ops.logs import get_logger
from ai_task_processor.sources.postgres.page import Claims
from ai_task_processor.sources.postgres.session import lock_key
from ai_task_processor.sources.postgres.table import Choice, Table, rows_of
from ai_task_processor.sources.task_runner.artifacts import Artifact
from ai_task_processor.sources.task_runner.endings import (
    REJECTED,
    RUNTIME_EXCEEDED,
    TIMED_OUT,
    TOO_LARGE,
    Ending,
    Row,
    ending,
)
from ai_task_processor.sources.task_runner.plan import Plan
from ai_task_processor.sources.task_runner.profile import TaskRunnerProfile
from ai_task_processor.sources.task_runner.queue import Queues
from ai_task_processor.sources.task_runner.queued import Limits, key_of, task_of, type_of
from ai_task_processor.sources.task_runner.statements import LOCKED, RunnerStatements

#: objects that one report writes at once
WRITES: Final = 8
log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RunnerClaims(Claims):
    """``waiting``: number of admitted tasks that wait for an equal one that runs."""

    waiting: int = 0


def run_id_of(receipt: Receipt) -> str:
    """The id of the run of a claim: also after a restart, and for each repetition of its report."""
    return str(uuid5(NAMESPACE_OID, f"{receipt.id}\0{receipt.token}"))


class Rows(Table):
    """The tasks, runs, artifacts and metrics of one profile."""

    _sql: RunnerStatements  # type: ignore[assignment]  # those that ``Table`` uses have the same names
    _profile: TaskRunnerProfile  # type: ignore[assignment]  # the same

    def __init__(
        self, database: Database, profile: TaskRunnerProfile, bucket: Bucket, queues: Queues, limits: Limits
    ) -> None:
        super().__init__(database, RunnerStatements(profile.tables), profile)  # type: ignore[arg-type]  # the same
        self._bucket = bucket
        self._queues = queues
        self._limits = limits
        #: tasks whose failure was reported and that are queued again: how often they were started
        self.retried: dict[str, int] = {}

    # --- claims

    async def claim(
        self,
        limit: int,
        choice: Choice,
        nonce: str,
        *,
        types: Collection[str] | None = None,
        after: tuple[str, str] | None = None,
        locked: bool = True,
    ) -> RunnerClaims:
        """Claim those of the next ``limit`` queued tasks that ``choice`` returns; the others are not touched.

        A chosen one that was cancelled, cannot be processed, or equals a completed one ends here. One that equals a
        task that is running stays queued.
        """
        async with self.database.connection(writes=True) as connection, connection.transaction():
            page = await self._next_page(connection, limit, types, after, locked=locked)
            ids = set(await choice(page.tasks)) if page.tasks else set[str]()
            if ids:
                ids = {id_ for (id_,) in await rows_of(connection, self._sql.lock, {"ids": list(ids)})}
            if not ids:
                return RunnerClaims(page)
            plan = await self._planned(connection, [task for task in page.tasks if task.id in ids])
            await self._end_at_once(connection, plan, {task.id: task for task in page.tasks}, nonce)
            owners = dict(await self._start(connection, plan.start, nonce))
        types_of = {task.id: type_of(task) for task in page.tasks}
        self._queues.note("taken", [(id_, types_of[id_]) for id_ in owners])
        ended = [*plan.cancel, *plan.reject, *plan.repeat]
        self._queues.note("done", [(id_, types_of[id_]) for id_ in ended])
        plan.log(types_of)
        return RunnerClaims(page, owners, plan.waiting)

    async def _planned(self, connection: Connection, tasks: Sequence[Task]) -> Plan:
        plan = Plan()
        usable = plan.sort_out(tasks)
        keys = {key_of(task): lock_key(key_of(task)) for task in usable}
        locked = {key for (key,) in await rows_of(connection, LOCKED, {"keys": sorted(keys.values())})}
        history = {row[0]: row[1:] for row in await rows_of(connection, self._sql.history, {"keys": list(keys)})}
        ours = {key for key, lock in keys.items() if lock in locked}
        plan.decide(usable, ours, history, self._profile.calls_nobody)
        return plan

    async def _end_at_once(self, connection: Connection, plan: Plan, tasks: Mapping[str, Task], nonce: str) -> None:
        if plan.cancel:
            await connection.execute(self._sql.cancel, {"ids": plan.cancel})
        if plan.reject:
            await connection.execute(
                self._sql.reject,
                {"error": REJECTED, **self._runs([tasks[id_] for id_ in plan.reject], nonce)},
            )
        if plan.repeat:
            results = [json.dumps(result) for result in plan.repeat.values()]
            await connection.execute(self._sql.repeat, {"ids": list(plan.repeat), "results": results})

    async def _start(self, connection: Connection, tasks: Sequence[Task], nonce: str) -> list[tuple[Any, ...]]:
        if not tasks:
            return []
        return await rows_of(connection, self._sql.claim, {"nonce": nonce, **self._runs(tasks, nonce)})

    def _runs(self, tasks: Sequence[Task], nonce: str) -> Mapping[str, Sequence[object]]:
        """The ids of tasks, the ids and keys of their runs, and which starts these are."""
        receipts = [Receipt("", task.id, f"{nonce}{task.attempt}") for task in tasks]
        return {
            "ids": [task.id for task in tasks],
            "runs": [run_id_of(receipt) for receipt in receipts],
            "keys": [key_of(task) for task in tasks],
            "starts": [task.attempt for task in tasks],
        }

    def _task(self, row: Sequence[Any]) -> Task | None:
        return task_of(row, self._limits)

    # --- the end of a claim

    async def claimed(self, receipts: Collection[Receipt]) -> tuple[list[Receipt], list[Receipt]]:
        """Those of these claims that are lost, and those that somebody has cancelled."""
        async with self.database.connection(writes=False) as connection:
            ids = [receipt.id for receipt in receipts]
            found = {id_: rest for id_, *rest in await rows_of(connection, self._sql.claimed, {"ids": ids})}
        lost, cancelled = list[Receipt](), list[Receipt]()
        for receipt in receipts:
            kind, state, start, cancel = found.get(receipt.id, ("", "gone", 0, False))
            if state != "running" or start != attempt_of(receipt.token):
                lost.append(receipt)
                self._left(receipt.id, kind, state)
            elif cancel:
                cancelled.append(receipt)
        return lost, cancelled

    async def end(self, receipt: Receipt, outcome: Outcome) -> None:
        """Write the artifacts, then rows of all tables in one transaction, if the claim still holds.

        A repetition changes nothing. Raises ``Rejected`` as ``Table.end`` does; then nothing is left of the artifacts.
        """
        run_id, start = run_id_of(receipt), attempt_of(receipt.token)
        async with self.database.connection(writes=False) as connection:
            rows = await rows_of(connection, self._sql.seen, {"id": receipt.id, "run": run_id})
        if not rows:
            self._left(receipt.id, "", "gone")
            await self._discard(receipt, outcome, "unknown")
            raise Rejected("gone")
        ((kind, starts, retries, timeout_s, state, run_state),) = rows
        if starts != start or state != "running":
            if run_state == "completed" or (starts == start and not isinstance(outcome, Completed)):
                return  # this report was applied before
            self._left(receipt.id, kind, state)
            await self._discard(receipt, outcome, kind)
            raise Rejected("lost")
        limits = self._limits
        end = ending(
            outcome,
            Row(kind, start, retries, timeout_s),
            run_id,
            max_runtime_s=limits.max_runtime_s,
            max_bytes=limits.max_bytes,
        )
        await self._write(receipt.id, end.artifacts)
        if not await self._ended(receipt, run_id, end):
            raise Transient("the task was changed at this moment")
        if end.state == "queued":
            self.retried[receipt.id] = start
        self._queues.note("queued" if end.state == "queued" else "done", [(receipt.id, kind)])
        self._log_end(receipt.id, kind, end)

    def _left(self, task_id: str, kind: str, state: str) -> None:
        """A claim was lost: when its task is neither queued nor running, somebody has ended or deleted it."""
        if state not in ("queued", "running"):
            self._queues.note("done", [(task_id, kind)])

    async def _ended(self, receipt: Receipt, run_id: str, end: Ending) -> bool:
        ids = [artifact.id for artifact in end.artifacts]
        result = {"artifact_ids": ids, "summary": end.summary} if end.state == "completed" else None
        given = {
            "id": receipt.id,
            "start": attempt_of(receipt.token),
            "run": run_id,
            "state": end.state,
            "error": end.error,
            "result": result and json.dumps(result),
            "artifacts": ids,
            "types": [artifact.type for artifact in end.artifacts],
            "content_types": [artifact.content_type for artifact in end.artifacts],
            "paths": [self._name(receipt.id, artifact) for artifact in end.artifacts],
            "metric": str(uuid5(UUID(run_id), "duration_ms")),
            "measured": end.measured,
        }
        ((count,),) = await self._written(self._sql.end, given)
        return bool(count)

    def _log_end(self, task_id: str, kind: str, end: Ending) -> None:
        wide = {"task_id": task_id, "task_type": kind}
        if end.error == TOO_LARGE:
            log.warning("artifact.rejected", **wide, most_bytes=self._limits.max_bytes)
        if end.error == RUNTIME_EXCEEDED:
            log.warning("task.killed", **wide, after_s=self._limits.max_runtime_s)
        if end.state == "queued":
            log.info("task.retried", **wide)

    async def release(self, receipt: Receipt, error: str | None = None) -> None:
        """Set a task to queued, if the claim still holds, and close its run.

        ``error``: the text for its row. When it has used up its time, the text is that it timed out.
        """
        run_id = run_id_of(receipt)
        given = {
            "id": receipt.id,
            "start": attempt_of(receipt.token),
            "run": run_id,
            "error": error,
            "timed_out": TIMED_OUT,
            "most_s": min(self._limits.max_runtime_s, self._limits.timeout_s),
            "metric": str(uuid5(UUID(run_id), "duration_ms")),
        }
        async with self.database.connection(writes=True) as connection:
            released = await rows_of(connection, self._sql.release, given)
        self._queues.note("queued", [(receipt.id, kind) for (kind,) in released])

    async def reap(self, key: int, owners: Collection[str]) -> list[str]:
        """Set the tasks of these owners to queued, unless a session holds their lock, and close their runs."""
        async with self.database.connection(writes=True) as connection:
            freed = await rows_of(connection, self._sql.reap, {"key": key, "owners": list(owners)})
        self._queues.note("queued", [(id_, kind) for id_, kind in freed])
        return [id_ for id_, _ in freed]

    def described(self, task_id: str, outcome: Outcome | None) -> tuple[str, bytes]:
        """``ProfileSource.sends``: the columns of the row that get other values than times."""
        values: dict[str, object] = {"status": "running"}
        if outcome is not None:
            end = ending(
                outcome, Row("", 1, 0, 1.0), run_id_of(Receipt("", task_id)), max_runtime_s=1.0, max_bytes=2**30
            )
            values = {"status": end.state, **({"error": end.error} if end.error else {})}
            if isinstance(outcome, Completed):
                values["result_json"] = {"artifact_ids": ["…"], "summary": "…"}
        return f"UPDATE {self._profile.tables.tasks} {task_id}", codec.line(values)

    # --- artifacts

    def _name(self, task_id: str, artifact: Artifact) -> str:
        return f"{self._profile.prefix}{task_id}/{artifact.type}/{artifact.id}"

    async def _write(self, task_id: str, artifacts: Sequence[Artifact]) -> None:
        """Raises the first ``RemoteError``; the other writes end before."""
        slots = asyncio.Semaphore(WRITES)

        async def put(artifact: Artifact) -> None:
            async with slots:
                await self._bucket.put(self._name(task_id, artifact), artifact.content, artifact.content_type)

        for error in await asyncio.gather(*map(put, artifacts), return_exceptions=True):
            if error is not None:
                raise error

    async def _discard(self, receipt: Receipt, outcome: Outcome, kind: str) -> None:
        """Delete what earlier attempts at this report have written, and close the run."""
        if isinstance(outcome, Completed):
            row = Row(kind, 0, 0, 1.0)
            end = ending(outcome, row, run_id_of(receipt), max_runtime_s=1.0, max_bytes=self._limits.max_bytes)
            for artifact in end.artifacts:
                await self._bucket.delete(self._name(receipt.id, artifact))
        async with self.database.connection(writes=True) as connection:
            await connection.execute(self._sql.close, {"runs": [run_id_of(receipt)]})

    # --- for the index in Redis

    async def waiting(self, limit: int) -> list[tuple[str, str]]:
        """The ids and types of queued tasks, the oldest first."""
        async with self.database.connection(writes=False) as connection:
            return [(id_, kind) for id_, kind in await rows_of(connection, self._sql.waiting, {"limit": limit})]

    async def of_others(self, connection: Connection) -> int:
        """The number of tasks that run without a claim of a daemon of this kind."""
        ((count,),) = await rows_of(connection, self._sql.others, {})
        return int(count)

    async def open(self, ids: Collection[str]) -> set[str]:
        """Those of these tasks that are queued or running."""
        async with self.database.connection(writes=False) as connection:
            return {id_ for (id_,) in await rows_of(connection, self._sql.open, {"ids": list(ids)})}
