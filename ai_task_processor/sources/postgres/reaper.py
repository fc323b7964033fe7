"""Ends the claims of processes that are dead: their tasks are set to pending.

Only owners with our prefix: workers of another kind neither hold a lock nor give signs of life.
"""

import asyncio
from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Final

from ai_task_processor.models.task import Receipt
from ai_task_processor.net.leases import incarnation_of
from ai_task_processor.ops.logs import get_logger
from ai_task_processor.sources.postgres.session import Session, lock_key
from ai_task_processor.sources.postgres.table import Table

#: Without an index a look reads the whole table: looks take at most one in so many seconds.
SHARE: Final = 20.0

log = get_logger(__name__)


class Reaper:
    """``orphans``: tasks that this process owns and that nothing here works on, with their owners, as of the last look.

    ``dying``: number of tasks whose process has lost its lock a moment ago. ``looked``: at least once.
    """

    def __init__(self, table: Table, session: Session, *, enabled: bool) -> None:
        self.orphans: Mapping[str, str] = {}
        self.dying = 0
        self.looked = False
        self._table = table
        self._session = session
        self._enabled = enabled
        self._missing_since: dict[str, float] = {}
        self._next_at = 0.0

    async def look(self, receipts: Collection[Receipt]) -> int:
        """Look at all claims, and end those of dead processes; how many. ``receipts``: of the claims held here."""
        clock = asyncio.get_running_loop()
        began_at = clock.time()
        if self._session.since is None or began_at < self._next_at:
            return 0
        claims = defaultdict[str, dict[str, str]](dict)
        for task_id, owner in (await self._table.owned()).items():
            claims[incarnation_of(owner)][task_id] = owner
        own = {task_id: owner for each in self._session.incarnations for task_id, owner in claims.pop(each, {}).items()}
        here = {(receipt.id, receipt.token) for receipt in receipts}
        self.orphans = {task_id: owner for task_id, owner in own.items() if (task_id, owner) not in here}
        reaped = await self._end_dead(claims, clock) if self._enabled else 0
        self.looked = True
        self._next_at = clock.time() + SHARE * (clock.time() - began_at)
        return reaped

    async def _end_dead(self, claims: Mapping[str, Mapping[str, str]], clock: asyncio.AbstractEventLoop) -> int:
        keys = {incarnation: lock_key(incarnation) for incarnation in claims}
        held = await self._table.held(keys.values()) if keys else frozenset()
        now, since = clock.time(), self._session.since
        missing = {incarnation for incarnation, key in keys.items() if key not in held}
        self._missing_since = {each: self._missing_since.get(each, now) for each in missing}
        reaped = self.dying = 0
        for incarnation, seen_at in self._missing_since.items():
            owners = claims[incarnation]
            # After a restart of the server everybody has lost the lock, and needs the time that we needed.
            if since is None or now - max(seen_at, since) < self._session.grace_s:
                self.dying += len(owners)
                continue
            ids = await self._table.reap(keys[incarnation], set(owners.values()))
            reaped += len(ids)
            if ids:
                log.warning("claims.reaped", owner=incarnation, tasks=len(ids))
        return reaped
