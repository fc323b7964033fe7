"""The queues in Redis: they wake us, and are kept as the API and its workers expect them.

PostgreSQL decides which task is whose, so nothing here is needed for a task to be done: changes are sent in batches,
wait while Redis is away, and what was missed is repaired from the rows. An id is in a queue's list while its task is
queued, in the list of processing while it runs, and all the time in the set of ids. Ids of types that are not known
here stay where they are.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from math import inf
from typing import Final, Literal, Protocol

from ai_task_processor.core.errors import RemoteError, Unauthorized
from ai_task_processor.net.redis import BLOCK_S, Client, asked, translated
from ai_task_processor.ops.condition import Condition
from ai_task_processor.ops.logs import get_logger
from ai_task_processor.sources.task_runner.profile import Queue, TaskRunnerProfile

Change = Literal["taken", "queued", "done"]

#: seconds between two signs of life; the API calls a worker dead after 15
BEAT_S: Final = 5.0
#: seconds without a change after which the queues are compared with the rows
IDLE_S: Final = 10.0
#: seconds until the next attempt while Redis is away: tasks are looked for in PostgreSQL in the same interval
AGAIN_S: Final = 1.0
#: seconds between two looks at a queue with ids that stay
LOOK_S: Final = 0.1
#: a read that takes so many seconds has waited for an element
WAITED_S: Final = 0.02
#: The API adds an id after its commit. One that is done by then is removed again after so many seconds.
LATE_S: Final = (1.0, 5.0)
#: ids of one script, and those that are remembered while Redis is away or compared with the rows
BATCH, MOST = 500, 20_000
#: seconds for the last changes when the daemon ends
END_S: Final = 2.0

#: KEYS: queue, processing, ids. ARGV: the change, ids. Returns the done ids that were nowhere.
_SCRIPT: Final = """
local unknown = {}
for i = 2, #ARGV do
  local id = ARGV[i]
  local waiting = redis.call('LREM', KEYS[1], 0, id)
  if ARGV[1] == 'taken' then
    if waiting > 0 then
      redis.call('LREM', KEYS[2], 0, id)
      redis.call('LPUSH', KEYS[2], id)
    end
  else
    local known = waiting + redis.call('LREM', KEYS[2], 0, id)
    if ARGV[1] == 'queued' then
      redis.call('SADD', KEYS[3], id)
      redis.call('RPUSH', KEYS[1], id)
    elseif known + redis.call('SREM', KEYS[3], id) == 0 then
      unknown[#unknown + 1] = id
    end
  end
end
return unknown"""

log = get_logger(__name__)


class Index(Protocol):
    """The rows that the queues are an index of."""

    async def waiting(self, limit: int) -> Sequence[tuple[str, str]]:
        """The ids and types of queued tasks, the oldest first."""

    async def open(self, ids: Collection[str]) -> Collection[str]:
        """Those of these tasks that are queued or running."""


class Queues:
    """``woken`` is called when there may be queued tasks, ``refused`` when Redis refuses our password.

    ``now`` returns seconds since the epoch.
    """

    def __init__(
        self,
        connect: Callable[[], Client],
        profile: TaskRunnerProfile,
        *,
        woken: Callable[[], None],
        refused: Callable[[], Awaitable[None]],
        now: Callable[[], float],
    ) -> None:
        self._connect = connect
        self._profile = profile
        self._woken = woken
        self._refused = refused
        self._now = now
        self._changes: dict[tuple[Queue, str], Change] = {}
        #: done ids that were nowhere: when to look again, and how often that was done
        self._late: list[tuple[float, Queue, str, int]] = []
        #: how far the sets of ids were read
        self._cursors: dict[Queue, int] = {}
        self._changed = asyncio.Event()
        self._changed_at = -inf
        self._repaired_at = -inf
        #: changes may be missing
        self._doubtful = True
        self._condition = Condition("queue.failed", "queue.restored")

    @property
    def problem(self) -> str | None:
        """Why Redis cannot be used; None while it can."""
        return self._condition.reason

    @property
    def unsent(self) -> int:
        """Changes that Redis does not know yet."""
        return len(self._changes)

    def note(self, change: Change, tasks: Iterable[tuple[str, str]]) -> None:
        """Rows were changed: ids and types. Sent soon; a later change of the same task replaces an earlier one."""
        for task_id, task_type in tasks:
            self._change(self._profile.queue_of(task_type), task_id, change)

    def _change(self, queue: Queue, task_id: str, change: Change) -> None:
        if len(self._changes) >= MOST:
            self._changes.clear()
            self._doubtful = True
        self._changes[queue, task_id] = change
        self._changed_at = asyncio.get_running_loop().time()
        self._changed.set()

    async def run(self, rows: Index, types: Collection[str]) -> None:
        """Until cancelled; then what is unsent is sent. ``types``: those that are processed here."""
        client = self._connect()
        self._script = client.register_script(_SCRIPT)
        watched = [queue for queue in self._profile.queues.values() if queue.types is None or {*queue.types} & {*types}]
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._beating(client), name="queue-heartbeat")
                group.create_task(self._sending(), name="queue-changes")
                group.create_task(self._repairing(client, rows), name="queue-repair")
                for queue in watched:
                    group.create_task(self._watch(client, queue), name="queue-watch")
        finally:
            try:
                async with asyncio.timeout(END_S):
                    await self._send()
            except (RemoteError, TimeoutError):
                log.debug("queue.unsent", changes=self.unsent)
            await client.aclose()

    # --- loops: each goes on when Redis is away

    async def _tried(self, call: Callable[[], Awaitable[None]]) -> bool:
        try:
            with translated():
                await call()
        except RemoteError as error:
            self._condition.note(str(error))
            self._doubtful = True
            if isinstance(error, Unauthorized):
                await self._refused()
            return False
        self._condition.note(None)
        return True

    async def _beating(self, client: Client) -> None:
        async def beat() -> None:
            await client.set(self._profile.heartbeat, str(int(self._now())))

        while True:
            pause_s = BEAT_S if await self._tried(beat) else AGAIN_S
            await asyncio.sleep(pause_s)

    async def _sending(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            if not await self._tried(self._send):
                self._changed.set()
                await asyncio.sleep(AGAIN_S)

    async def _send(self) -> None:
        """Send all changes, one script for many ids."""
        by_script = defaultdict[tuple[Queue, Change], list[str]](list)
        for (queue, task_id), change in self._changes.items():
            by_script[queue, change].append(task_id)
        for (queue, change), all_ids in by_script.items():
            for ids in _batches(all_ids):
                await self._send_one(queue, change, ids)

    async def _send_one(self, queue: Queue, change: Change, ids: Sequence[str], tries: int = 0) -> None:
        unknown: list[str] = await self._script(keys=[queue.queue, queue.processing, queue.ids], args=[change, *ids])
        for task_id in ids:
            if self._changes.get((queue, task_id)) == change:
                del self._changes[queue, task_id]
        if unknown and tries < len(LATE_S) and len(self._late) < MOST:
            due = asyncio.get_running_loop().time() + LATE_S[tries]
            self._late += [(due, queue, task_id, tries + 1) for task_id in unknown]

    async def _watch(self, client: Client, queue: Queue) -> None:
        """Wait for new ids, without taking them: the newest is moved from the end of the list to its end."""
        clock, newest = asyncio.get_running_loop(), None

        async def look() -> None:
            nonlocal newest
            began_at = clock.time()
            found = await client.blmove(queue.queue, queue.queue, int(BLOCK_S), "RIGHT", "RIGHT")
            if found is not None and (found != newest or clock.time() - began_at > WAITED_S):
                self._woken()
            newest = found

        while True:
            if not await self._tried(look):
                await asyncio.sleep(AGAIN_S)
                self._woken()
            elif newest is not None:
                await asyncio.sleep(LOOK_S)

    async def _repairing(self, client: Client, rows: Index) -> None:
        clock = asyncio.get_running_loop()
        while True:
            await self._tried(self._send_late)
            idle = clock.time() - max(self._changed_at, self._repaired_at) >= IDLE_S
            if self._doubtful or idle:
                await self._tried(lambda: self._repair(client, rows))
            await asyncio.sleep(AGAIN_S)

    async def _send_late(self) -> None:
        now = asyncio.get_running_loop().time()
        due = [late for late in self._late if late[0] <= now]
        self._late = [late for late in self._late if late[0] > now]
        for _, queue, task_id, tries in due:
            await self._send_one(queue, "done", [task_id], tries)

    async def _repair(self, client: Client, rows: Index) -> None:
        """Offer queued tasks that the queues do not have, and remove ids of tasks that have ended."""
        self._repaired_at, self._doubtful = asyncio.get_running_loop().time(), False
        found: dict[Queue, tuple[set[str], set[str]]] = {}  # those that wait, and others
        for queue in self._profile.queues.values():
            waiting = await asked(client, "LRANGE", queue.queue, 0, MOST)
            processing = await asked(client, "LRANGE", queue.processing, 0, MOST)
            found[queue] = {*waiting}, {*processing, *await self._some_ids(client, queue)}
        ids = {task_id for waiting, others in found.values() for task_id in waiting | others}
        try:
            still_open = {task_id for some in _batches(list(ids), MOST) for task_id in await rows.open(some)}
            listed = await rows.waiting(MOST)
        except RemoteError:
            self._doubtful = True  # the claims say why
            return
        queued = [(id_, kind) for id_, kind in listed if id_ not in found[self._profile.queue_of(kind)][0]]
        stale = [
            (queue, task_id)
            for queue, (waiting, others) in found.items()
            for task_id in (waiting | others) - still_open
        ]
        self.note("queued", queued)
        for queue, task_id in stale:
            self._change(queue, task_id, "done")
        if queued or stale:
            log.info("queue.repaired", offered=len(queued), removed=len(stale))

    async def _some_ids(self, client: Client, queue: Queue) -> Sequence[str]:
        """Ids out of the set, which may be long: the next ones each time."""
        cursor, ids = self._cursors.get(queue, 0), list[str]()
        while len(ids) < MOST:
            cursor, some = await asked(client, "SSCAN", queue.ids, cursor, "COUNT", BATCH)
            ids += some
            if not int(cursor):
                break
        self._cursors[queue] = int(cursor)
        return ids


def _batches(ids: Sequence[str], size: int = BATCH) -> Iterator[Sequence[str]]:
    return (ids[at : at + size] for at in range(0, len(ids), size))
