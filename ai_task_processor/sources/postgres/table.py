"""The table of tasks: each method is one short transaction. Raises ``RemoteError``."""

import re
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from ai_task_processor.core import codec
from ai_task_processor.core.errors import Rejected, Transient, explained
from ai_task_processor.models.task import Completed, Failed, Outcome, Receipt, Task, TaskType
from ai_task_processor.net.leases import PREFIX, attempt_of
from ai_task_processor.net.postgres import Connection, Database, DataRefused
from ai_task_processor.sources.postgres.page import Claims, Page
from ai_task_processor.sources.postgres.profile import PostgresProfile
from ai_task_processor.sources.postgres.statements import HELD, Ending, Statements

#: a task with a larger content stays pending
MAX_CONTENT_BYTES: Final = 32 * 2**20
#: a claim reads all pending tasks for want of an index: a warning from so many on
LONG: Final = 10_000
_WHOLE: Final = re.compile(r"-?[0-9]{1,18}")
#: a NUL in a string of JSON, which PostgreSQL cannot store
_NUL: Final = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")

#: decides which of these tasks are claimed: their ids
Choice = Callable[[Sequence[Task]], Awaitable[Sequence[str]]]


class Table:
    """The tasks of one profile."""

    def __init__(self, database: Database, statements: Statements, profile: PostgresProfile) -> None:
        self.database = database
        self._sql = statements
        self._profile = profile

    async def claim(
        self,
        limit: int,
        choice: Choice,
        nonce: str,
        *,
        types: Collection[str] | None = None,
        after: tuple[str, str] | None = None,
        locked: bool = True,
    ) -> Claims:
        """Claim those of the next ``limit`` pending tasks that ``choice`` returns; the others are not touched.

        ``locked``: other transactions skip these rows until ``choice`` is made, so that workers that claim at the same
        time do not compete for the same tasks.
        """
        async with self.database.connection(writes=True) as connection, connection.transaction():
            page = await self._next_page(connection, limit, types, after, locked=locked)
            if page.cancelled:
                await connection.execute(self._sql.cancel_pending, {"ids": self._keys(page.cancelled)})
            ids = await choice(page.tasks) if page.tasks else ()
            if not ids:
                return Claims(page)
            claimed = await rows_of(connection, self._sql.claim, {"ids": self._keys(ids), "nonce": nonce})
        return Claims(page, dict(claimed))

    async def processing(self, ids: Iterable[str]) -> Mapping[str, tuple[Task, str]]:
        """Those of these tasks that are being processed, with their owners."""
        async with self.database.connection(writes=False) as connection:
            given = {"ids": self._keys(ids), "most": MAX_CONTENT_BYTES}
            rows = await rows_of(connection, self._sql.processing, given)
        return {row[0]: (self._task(row) or Task(id=row[0], type="", content=None), row[5]) for row in rows}

    async def claimed(self, receipts: Collection[Receipt]) -> tuple[list[Receipt], list[Receipt]]:
        """Those of these claims that are lost, and those that somebody has cancelled."""
        async with self.database.connection(writes=False) as connection:
            rows = await rows_of(connection, self._sql.claimed, {"ids": self._keys(each.id for each in receipts)})
        found = {id_: (owner if processing else None, bool(cancel)) for id_, owner, processing, cancel in rows}
        lost, cancelled = list[Receipt](), list[Receipt]()
        for receipt in receipts:
            owner, cancel = found.get(receipt.id, (None, False))
            if owner != receipt.token:
                lost.append(receipt)
            elif cancel:
                cancelled.append(receipt)
        return lost, cancelled

    async def end(self, receipt: Receipt, outcome: Outcome) -> None:
        """Write the outcome and update the children, if the claim still holds. A repetition changes nothing.

        Raises ``Rejected``: ``gone``, ``lost``; ``refused`` when the database does not take the values.
        """
        key = self._key(receipt.id)
        if key is None:
            raise Rejected("gone")
        ending: Ending = _ENDINGS.get(type(outcome), "cancelled")
        given = {"id": key, "owner": receipt.token, **_values(outcome)}
        found = await self._written(self._sql.end[ending], given)
        if not found:
            raise Rejected("gone")
        ((done, state, owner),) = found
        states = self._profile.states
        if done or (owner == receipt.token and state == (getattr(states, ending) or states.failed)):
            return
        if owner == receipt.token and state == states.processing:
            raise Transient("the task was changed at this moment")
        raise Rejected("lost")

    async def release(self, receipt: Receipt) -> None:
        """Set a task to pending, if the claim still holds."""
        async with self.database.connection(writes=True) as connection:
            await connection.execute(self._sql.release, {"id": self._key(receipt.id), "owner": receipt.token})

    async def owned(self) -> Mapping[str, str]:
        """The owners of all tasks that daemons of this kind are processing, by task id."""
        async with self.database.connection(writes=False) as connection:
            return dict(await rows_of(connection, self._sql.owned, None))

    async def held(self, keys: Collection[int]) -> frozenset[int]:
        """The advisory locks among these that some session holds."""
        async with self.database.connection(writes=False) as connection:
            return frozenset(key for (key,) in await rows_of(connection, HELD, {"keys": list(keys)}))

    async def reap(self, key: int, owners: Collection[str]) -> list[str]:
        """Set the tasks of these owners to pending, unless a session holds their lock; the ids of those."""
        async with self.database.connection(writes=True) as connection:
            return [id_ for (id_,) in await rows_of(connection, self._sql.reap, {"key": key, "owners": list(owners)})]

    async def sample(self, connection: Connection, limit: int) -> Page:
        """The first pending tasks, without claiming any."""
        return await self._next_page(connection, limit, None, None, locked=False)

    async def sorted_rows(self, connection: Connection) -> int:
        """How many pending tasks a claim reads and sorts for want of an index, as the planner expects; 0 with one."""
        ((plan,),) = await rows_of(connection, self._sql.page_plan, {"limit": 1, "types": None})
        rows, sorts = _scanned(plan[0]["Plan"])
        return rows if sorts else 0

    def described(self, task_id: str, outcome: Outcome | None) -> tuple[str, bytes]:
        """``ProfileSource.sends``: the columns that get other values than times, those of children by their key."""
        profile, columns = self._profile, self._profile.columns
        values: dict[str, object]
        if outcome is None:
            values = {columns.state: profile.states.processing, columns.owner: f"{PREFIX}…"}
        else:
            ending: Ending = _ENDINGS.get(type(outcome), "cancelled")
            values = {columns.state: getattr(profile.states, ending)}
            texts = ((getattr(columns, key), text) for key, text in _values(outcome).items())
            values |= {name: text for name, text in texts if name is not None}
            children = {key: getattr(child, ending, None) for key, child in profile.children.items()}
            values |= {key: found for key, found in children.items() if found}
        return f"UPDATE {profile.table} {task_id}", codec.line(values)

    async def _written(self, statement: bytes, given: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """The rows of a statement that ends a task. Raises ``Rejected`` (``refused``) for values it does not take."""
        try:
            async with self.database.connection(writes=True) as connection:
                return await rows_of(connection, statement, given)
        except DataRefused as error:
            rejected = Rejected("refused")
            rejected.detail = explained(error)
            raise rejected from error

    async def _next_page(
        self,
        connection: Connection,
        limit: int,
        types: Collection[str] | None,
        after: tuple[str, str] | None,
        *,
        locked: bool,
    ) -> Page:
        at, id_ = after or (None, None)
        given = {"limit": limit, "types": types and list(types), "most": MAX_CONTENT_BYTES, "at": at, "id": id_}
        return self._page(await rows_of(connection, self._sql.pages[locked, after is not None], given), limit)

    def _page(self, rows: Sequence[Sequence[Any]], limit: int) -> Page:
        cancelled = [row[0] for row in rows if row[4]]
        tasks = {row[0]: self._task(row) for row in rows if not row[4]}
        return Page(
            tasks=[task for task in tasks.values() if task is not None],
            seen=len(rows),
            last=(rows[-1][2], rows[-1][0]) if len(rows) >= limit and rows[-1][2] is not None else None,
            cancelled=cancelled,
            invalid=[id_ for id_, task in tasks.items() if task is None],
            size=sum(len(row[6] or "") for row in rows),
        )

    def _task(self, row: Sequence[Any]) -> Task | None:
        """The task of a row; None when its content is too large or no JSON."""
        id_, kind, _, created_s, _, owner, content = row
        try:
            value = codec.loads(content.encode()) if content is not None else None
        except ValueError:
            return None
        if content is None and not isinstance(self._profile.content, str):
            return None
        return Task(
            id=id_,
            type=TaskType.named(self._profile.only_type or kind or ""),
            content=value,
            created_at=time_of(created_s),
            attempt=attempt_of(owner or "") + 1 if owner else 1,
        )

    def _key(self, task_id: str) -> int | UUID | str | None:
        """The id as a parameter; None for a text that is no id of this table."""
        match self._profile.id_type:
            case "integer":
                return int(task_id) if _WHOLE.fullmatch(task_id) else None
            case "uuid":
                try:
                    return UUID(task_id)
                except ValueError:
                    return None
            case _:
                return task_id if "\0" not in task_id else None

    def _keys(self, ids: Iterable[str]) -> list[int | UUID | str]:
        return [key for id_ in ids if (key := self._key(id_)) is not None]


_ENDINGS: Final[Mapping[type, Ending]] = {Completed: "completed", Failed: "failed"}


def _values(outcome: Outcome) -> Mapping[str, str]:
    match outcome:
        case Completed(result):
            text = codec.result_json(result.output, result.vector).decode()
            return {"result": _NUL.sub("\\1\N{REPLACEMENT CHARACTER}", text)}
        case Failed(failure):
            words = f"{failure.code}: {failure.message}" if failure.message else failure.code
            return {"error": words.replace("\0", "\N{REPLACEMENT CHARACTER}")}
        case _:
            return {}


async def rows_of(connection: Connection, statement: bytes, given: Mapping[str, Any] | None) -> list[tuple[Any, ...]]:
    return await (await connection.execute(statement, given)).fetchall()


def time_of(seconds: float | None) -> datetime | None:
    """Seconds since the epoch as a time, UTC; None for what is none."""
    try:
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError):
        return None


def _scanned(plan: Mapping[str, Any]) -> tuple[int, bool]:
    """The most rows of a step of a plan, and whether it sorts."""
    parts = [_scanned(part) for part in plan.get("Plans", ())]
    rows = max([plan["Plan Rows"], *(rows for rows, _ in parts)])
    return rows, plan["Node Type"] == "Sort" or any(sorts for _, sorts in parts)
