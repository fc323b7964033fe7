"""The session that shows others that this process lives, and hears of new tasks.

How a claim ends without its owner: each process holds an advisory lock whose key is derived from its incarnation, in a
session of its own. The server drops the lock when the session ends: within milliseconds of the process's death, since
the kernel closes its connection. No table is needed for that, and so no right to create one; the column ``updated_at``
cannot serve, because every edit of a task by somebody else would renew the claim of a dead process.

A lock alone would outlive a process that is stopped, or a network that is gone. So the session has
``idle_session_timeout`` (PostgreSQL 14), and a sign of life several times within it: the server itself ends the session
of a process that gives none. Before version 14 a stopped process keeps its tasks.

A connection that was cut is no death. A living process notices at once, and takes the lock again. Others wait
``grace_s`` for that before they take its tasks, from the moment they see the lock missing, or from when they themselves
were connected (again): after a restart of the server everybody has lost the lock. All in all, a claim lives for
``grace_s`` after the end of a process, and for LEASE_TTL after its last sign of life.

The lock is shared: after a network failure the server may still hold the old session, which must not keep us out.

Limits: a pooler must not stand in between in transaction mode (PgBouncer: ``pool_mode = session``, or connect
directly), because locks and LISTEN belong to a session. A failover ends all sessions, like a restart.
"""

import asyncio
from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import Final

from ai_task_processor.core.errors import CircuitOpen, RemoteError, Unsent
from ai_task_processor.net.postgres import Connection, Database, sql, translated
from ai_task_processor.ops.condition import Condition

#: seconds that others wait for a process to take its lock again; no more than a third of LEASE_TTL
GRACE_S: Final = 2.0
#: signs of life within the time after which the server ends the session
BEATS: Final = 5
#: the longest pause between two attempts to connect, seconds: shorter than ``GRACE_S``
LONGEST_PAUSE_S: Final = 1.0
#: a claim waits so long for the first connection
FIRST_S: Final = 15.0

_LOCK: Final = b"SELECT pg_advisory_lock_shared(%(key)s::bigint)"
_BEAT: Final = b"""
SELECT count(DISTINCT (classid::bigint << 32) | objid::bigint) FROM pg_locks
WHERE locktype = 'advisory' AND objsubid = 1 AND granted AND pid = pg_backend_pid()
  AND ((classid::bigint << 32) | objid::bigint) = ANY(%(keys)s::bigint[])"""


def lock_key(incarnation: str) -> int:
    """The key of the advisory lock of a process: 64 bits, signed."""
    return int.from_bytes(blake2b(incarnation.encode(), digest_size=8).digest(), signed=True)


class Session:
    """Holds the locks of ``incarnations``: this process's own, and earlier ones whose results it still reports.

    ``on_change`` is called when there is a session (again), and with False when there is none any more; ``on_notify``
    for each notification on ``channel``. ``up`` is set while there is a session; ``since``: in the loop's time, None
    while there is none.
    """

    def __init__(
        self,
        database: Database,
        incarnation: str,
        *,
        lease_ttl_s: float,
        channel: str | None,
        on_change: Callable[[bool], None],
        on_notify: Callable[[], None],
    ) -> None:
        self.grace_s = min(GRACE_S, lease_ttl_s / 3)
        self.since: float | None = None
        self.up = asyncio.Event()
        self.incarnations = {incarnation}
        self._database = database
        self._timeout_s = lease_ttl_s - self.grace_s
        self._channel = channel
        self._on_change = on_change
        self._on_notify = on_notify
        self._condition = Condition("lease.failed", "lease.restored")
        self._tried = asyncio.Event()

    @property
    def problem(self) -> str | None:
        """Why there is no session; None while there is one."""
        return self._condition.reason

    async def connected(self) -> None:
        """Return when there is a session. Raises ``CircuitOpen``: others would take a claim without one at once."""
        try:
            async with asyncio.timeout(FIRST_S):
                await self._tried.wait()
        except TimeoutError:
            raise CircuitOpen("PostgreSQL does not answer") from None
        if self.since is None:
            raise CircuitOpen(f"nothing is claimed while no session holds the lock of this process: {self.problem}")

    async def run(self) -> None:
        """Connect, and stay connected, until cancelled."""
        pause_s = 0.0
        while True:
            try:
                connection = await self._database.connect()
                try:
                    pause_s = 0.0
                    await self._live(connection)
                finally:
                    self.since = None
                    self.up.clear()
                    self._on_change(False)
                    await connection.close()
            except RemoteError as error:
                self._condition.note(str(error))
                self._tried.set()
            await asyncio.sleep(pause_s)
            pause_s = min(LONGEST_PAUSE_S, max(0.1, 2 * pause_s))

    async def _live(self, connection: Connection) -> None:
        with translated():
            if connection.info.server_version >= 140_000:
                milliseconds = str(int(self._timeout_s * 1000))
                await connection.execute("SELECT set_config('idle_session_timeout', %s, false)", [milliseconds])
            if self._channel is not None:
                await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(self._channel)))
            held = set[int]()
            while True:
                await self._beat(connection, held, {lock_key(each) for each in self.incarnations})
                async for _ in connection.notifies(timeout=self._timeout_s / BEATS):
                    self._on_notify()

    async def _beat(self, connection: Connection, held: set[int], wanted: Iterable[int]) -> None:
        """Take the locks that are missing, and show a sign of life."""
        for key in set(wanted) - held:
            await connection.execute(_LOCK, {"key": key})
            held.add(key)
        (count,) = await (await connection.execute(_BEAT, {"keys": list(held)})).fetchone() or (0,)
        if count < len(held):
            raise Unsent("the session does not keep its locks: connect directly, or with pool_mode = session")
        if self.since is None:
            self.since = asyncio.get_running_loop().time()
            self.up.set()
            self._tried.set()
            self._on_change(True)
        self._condition.note(None)
