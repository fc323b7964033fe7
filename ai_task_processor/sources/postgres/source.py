"""A table of PostgreSQL as a task source.

A claim is exclusive: one statement sets a task to processing, with an owner id that is new for each claim; the end, the
release and the take-over of a task are guarded by it. How a claim outlives or follows its process: ``session``.

Candidates are locked, shown to admission, and claimed, in one transaction of a few milliseconds: a task that admission
refuses is never taken from other workers. When all of a page are refused, the next pages are looked at without locks,
and the claims of the next seconds begin behind them.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Final

from ai_task_processor.core.checks import Check, Remote
from ai_task_processor.core.component import Problem
from ai_task_processor.core.errors import Rejected, RemoteError
from ai_task_processor.core.groups import Group
from ai_task_processor.core.ports import Admission, Backlog, TaskSource, Want
from ai_task_processor.core.profiles import ProfileSource
from ai_task_processor.models.task import Claim, Failure, Outcome, Receipt
from ai_task_processor.net.leases import LeaseSettings, attempt_of, incarnation_of, new_incarnation, new_nonce
from ai_task_processor.net.postgres_settings import DatabaseSettings
from ai_task_processor.net.services import Services
from ai_task_processor.ops.logs import get_logger
from ai_task_processor.sources.postgres.page import Claims
from ai_task_processor.sources.postgres.poll import Poll
from ai_task_processor.sources.postgres.profile import PostgresProfile

if TYPE_CHECKING:  # the driver is an extra, and takes time to import
    from ai_task_processor.net.postgres import Database
    from ai_task_processor.sources.postgres.table import Table

#: rows of a further page, and the most that one claim looks at
PAGE, MOST_ROWS = 500, 20_000
#: for how many seconds claims begin behind the rows that were refused
BEHIND_S: Final = 2.0
#: the longest time between two renewals, seconds: a cancelled task ends within it
LONGEST_BEAT_S: Final = 1.0
#: connections of the pool: reports, a claim and a renewal at once
CONNECTIONS: Final = 8
#: claims that ``/status`` names
SHOWN: Final = 100
#: Admission's reasons to keep a task that this process owns and does not work on.
_KEPT: Final = frozenset({"running", "in_outbox", "dead_letter", "quarantined"})

log = get_logger(__name__)


class PostgresSource(ProfileSource, TaskSource):
    """``ports.TaskSource`` for the table that ``profile`` describes."""

    profile_type = PostgresProfile
    profile: ClassVar[PostgresProfile]
    claims = "exclusive"
    report_within_s = 60.0

    @classmethod
    def groups(cls, profile: PostgresProfile) -> Sequence[type[Group]]:  # noqa: ARG003 - the same for all
        return DatabaseSettings, LeaseSettings

    def __init__(self, services: Services) -> None:
        from ai_task_processor.net.postgres import Database
        from ai_task_processor.sources.postgres.reaper import Reaper
        from ai_task_processor.sources.postgres.session import Session

        settings, leases = services.settings, services.settings[LeaseSettings]
        place = settings[DatabaseSettings].place
        self._remotes = () if place is None else (Remote("database", "DATABASE_URL", place),)
        self._unverified = settings[DatabaseSettings].unverified(settings.network)
        database = Database.build(
            lambda: services.secrets[DatabaseSettings],
            settings.network,
            connections=min(CONNECTIONS, settings.delivery.concurrency + 2),
        )
        self._table = self._made_table(database)
        self._instance_id = leases.instance_id
        self._incarnation = new_incarnation(leases.instance_id)
        self._session = Session(
            database,
            self._incarnation,
            lease_ttl_s=leases.lease_ttl_s,
            channel=self.profile.notify,
            on_change=self._session_changed,
            on_notify=self._notified,
        )
        self._reaper = Reaper(self._table, self._session, enabled=self.profile.reap)
        self.renew_every_s = min(LONGEST_BEAT_S, leases.lease_ttl_s / 6)
        self._poll_gate, self._delivery_gate = services.gate("api_poll"), services.gate("api_delivery")
        self._clock, self._metrics = services.clock, services.metrics
        self._woken = asyncio.Event()
        self._deferred: dict[str, float] = {}
        self._held: dict[Receipt, float] = {}
        self._cancelled: Collection[Receipt] = ()
        self._backlog = Backlog()
        #: claims begin behind this position until that time
        self._behind: tuple[tuple[str, str], float] | None = None

    def _made_table(self, database: "Database") -> "Table":
        from ai_task_processor.sources.postgres.statements import Statements
        from ai_task_processor.sources.postgres.table import Table

        return Table(database, Statements(self.profile), self.profile)

    @classmethod
    def preparation(cls) -> Sequence[tuple[str, str]]:
        """What makes claims cheap and wake-ups fast: statements for an operator, and what each is for."""
        from ai_task_processor.sources.postgres import preparation

        return preparation.statements(cls.profile)

    async def run(self, ready: asyncio.Event) -> None:
        """Hold the session until cancelled. A database that is away is no reason to end."""
        if self._unverified:
            log.warning("settings.warned", reason=self._unverified)
        async with self._table.database.opened(), asyncio.TaskGroup() as group:
            ready.set()
            group.create_task(self._warn_of_a_missing_index(), name="source-index")
            await self._session.run()

    async def _warn_of_a_missing_index(self) -> None:
        """Once, after the first connection."""
        from ai_task_processor.sources.postgres.table import LONG

        await self._session.up.wait()
        try:
            async with self._table.database.connection(writes=False) as connection:
                pending = await self._table.sorted_rows(connection)
        except RemoteError:
            return  # the first claim says why
        if pending > LONG:
            remedy = f"ai-task-processor sources prepare {self.name}"
            log.warning("index.missed", table=self.profile.table, pending=pending, remedy=remedy)

    def _session_changed(self, up: bool) -> None:
        """With a new session no pause is needed any more; what was announced meanwhile was not heard."""
        self._metrics.push_connected(up and self.profile.notify is not None)
        if up:
            self._poll_gate.due()
            self._delivery_gate.due()
            self.resume()

    async def reload(self) -> None:
        """Secrets were read again: new connections use them."""
        self.wake()

    # --- claims

    async def claim(self, want: Want) -> Sequence[Claim]:
        poll = Poll(want, self._clock.monotonic(), self._deferred)
        if want.limit <= 0 or not (poll.types is None or self.profile.only_type in (None, *poll.types)):
            return ()
        started_at = time.perf_counter()
        try:
            # Not a matter of the gate: its pauses would outlast the outage, whereas a new session ends the wait.
            await self._session.connected()
            await self._poll_gate.call(lambda: self._claim(poll))
        except RemoteError as error:
            self._metrics.poll_failed(error, duration_s=time.perf_counter() - started_at)
            raise
        self._note(poll, time.perf_counter() - started_at)
        return poll.claims

    async def _claim(self, poll: Poll) -> None:
        await self._release_orphans(poll.admission)
        behind, self._behind = self._behind, None
        if behind is not None and poll.now < behind[1]:
            self._behind = behind
            await self._read(poll, behind[0])
        if not poll.claims:
            self._behind = None
            poll.restart()
            await self._read(poll, None)
        if not poll.claims and not self._reaper.looked:
            await self._reaper.look(())

    async def _read(self, poll: Poll, after: tuple[str, str] | None) -> None:
        """Claim from the pending tasks behind this position: the first page locked, further ones larger and not."""
        nonce, first = new_nonce(self._incarnation), True
        while poll.wanted and poll.seen < MOST_ROWS:
            limit = poll.wanted if first else PAGE
            try:
                claims = await self._table.claim(limit, poll.choose, nonce, types=poll.types, after=after, locked=first)
            except RemoteError:
                if poll.claims:
                    return  # those are ours by now
                raise
            self._take(poll, claims)
            first, after = False, claims.page.last
            poll.complete = after is None
            if after is None:
                return
            if not poll.claims:
                self._behind = after, poll.now + BEHIND_S

    def _take(self, poll: Poll, claims: Claims) -> None:
        poll.note(claims.page)
        for task in claims.page.tasks:
            if (owner := claims.owners.get(task.id)) is not None:
                receipt = Receipt(self.name, task.id, owner)
                self._held[receipt] = poll.now
                poll.claims.append(Claim(replace(task, attempt=attempt_of(owner)), receipt))

    async def _release_orphans(self, admission: Admission) -> None:
        """Release tasks that are ours and that nothing here knows of: the answer to a claim or a release was lost, the
        record was dropped by an operator, or an earlier process worked on them, whose other results wait here.
        """
        orphans, self._reaper.orphans = self._reaper.orphans, {}
        if not orphans:
            return
        found = await self._table.processing(orphans)
        ours = [(task, owner) for task, owner in found.values() if orphans[task.id] == owner]
        reasons = await admission.refuse([task for task, _ in ours])
        for (task, owner), reason in zip(ours, reasons, strict=True):
            if reason not in _KEPT:
                await self._table.release(Receipt(self.name, task.id, owner))
                log.warning("claims.reaped", owner=owner, tasks=1)

    def _note(self, poll: Poll, took_s: float) -> None:
        self._deferred = {task_id: due for task_id, due in self._deferred.items() if due > poll.now}
        metrics = self._metrics
        metrics.poll_finished("tasks" if poll.claims else "empty", duration_s=took_s, bytes_read=poll.size)
        oldest = poll.oldest
        age_s = None if oldest is None else max(0.0, (self._clock.now() - oldest).total_seconds())
        metrics.pending_seen(poll.seen, oldest_age_s=age_s, complete=poll.complete)
        for reason, count in poll.skipped.items():
            metrics.task_skipped(reason, count)
        skipped = Counter(poll.skipped)
        if self._reaper.dying:
            skipped["deferred"] += self._reaper.dying
        self._backlog = Backlog(poll.seen, poll.complete, 0, dict(skipped))

    @property
    def backlog(self) -> Backlog:
        return self._backlog

    async def renew(self, receipts: Sequence[Receipt]) -> Collection[Receipt]:
        """Ask for claims that are lost or cancelled, and end those of dead processes.

        The session keeps claims alive, also those of earlier processes whose results wait in the outbox here.
        """
        self._session.incarnations |= {incarnation_of(each.token) for each in receipts if each.token}
        lost, self._cancelled = await self._table.claimed(receipts) if receipts else ((), ())
        for receipt in lost:
            self._held.pop(receipt, None)
        if await self._reaper.look(receipts):
            self.resume()
        return lost

    def cancelled(self) -> Collection[Receipt]:
        return self._cancelled

    async def report(self, receipt: Receipt, outcome: Outcome) -> None:
        try:
            await self._delivery_gate.call(lambda: self._table.end(receipt, outcome), about=receipt.id)
        except Rejected:
            self._held.pop(receipt, None)
            raise
        self._held.pop(receipt, None)

    async def release(self, receipt: Receipt, delay_s: float, failure: Failure | None = None) -> None:  # noqa: ARG002 - the table has no place for a failure that is not final
        """Other processes may claim it at once. When this fails, it is released as an orphan."""
        self._deferred[receipt.id] = self._clock.monotonic() + delay_s
        self._held.pop(receipt, None)
        await self._table.release(receipt)

    # --- wake-ups

    async def wait(self, timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                await self._woken.wait()
        except TimeoutError:
            return False
        self._woken.clear()
        return True

    def wake(self) -> None:
        self._metrics.woken("http")
        self.resume()

    def _notified(self) -> None:
        self._metrics.woken("notify")
        self.resume()

    def resume(self) -> None:
        self._behind = None
        self._woken.set()

    # --- status and checks

    def sends(self, task_id: str, outcome: Outcome | None) -> tuple[str, bytes] | None:
        return self._table.described(task_id, outcome)

    def problems(self) -> Sequence[Problem]:
        problem = self._session.problem
        return () if problem is None else [Problem("database_unavailable", problem)]

    def status(self) -> Mapping[str, object]:
        now = self._clock.monotonic()
        ages = sorted(((now - since, receipt.id) for receipt, since in self._held.items()), reverse=True)
        shown = {task_id: round(age_s, 1) for age_s, task_id in ages[:SHOWN]}
        return {
            "instance": {
                "id": self._instance_id,
                "owner": self._incarnation,
                "claims": len(ages),
                "claim_age_seconds": shown,
            }
        }

    def remotes(self) -> Sequence[Remote]:
        return self._remotes

    def checks(self) -> Sequence[Check]:
        from ai_task_processor.sources.postgres.checks import examine

        work = partial(examine, self._table, self.profile, self.name, self._unverified)
        return (Check("task table", work, "DATABASE_URL", self._remotes),)
