"""Crash recovery: finds the task that crashes the process, and quarantines it. All other tasks start at once.

One task can crash the process (a library that dumps core, memory that runs out), and would do so again after every
start. A kill from outside ends the process, too, so one crash proves nothing. A task that was in flight at two
crashes waits for an isolated run, in which no other task runs. A task that survives its isolated run is cleared. A
task in whose isolated runs the process crashed three times is quarantined, until an operator retries or drops it.

Isolated runs cost throughput. They take place when there is nothing else to do, and otherwise between periods of
normal work, within their budget (``isolation.py``). A task that is not listed is not waited for.

A process that is killed again and again from outside has many tasks that were in flight at two crashes. The crashes
go on without them. So a task is not isolated when several more crashes happened without it.

A random kill must not quarantine an innocent task, so an isolated task that was running at a crash waits until the
process has run for ``QUIET_S`` before its next isolated run: most random kills then hit that waiting time.
"""

from collections.abc import Collection, Sequence

from ai_task_processor.core.errors import DataDirectoryError, OutboxUnwritable
from ai_task_processor.core.ports import Clock, Journal, Outbox, SkipReason
from ai_task_processor.engine.isolation import IsolationBudget, Stretch
from ai_task_processor.models.task import Claim, InFlight, Receipt, Record, TaskStatus, Tries
from ai_task_processor.ops.logs import get_logger

#: crashes at which a task was in flight, and crashes in its isolated runs
ISOLATE_AT, QUARANTINE_AT = 2, 3
#: So many crashes without it clear a task that was in flight at two; by this factor more for each further one. Five
#: tasks that crash in turn cause eight crashes without the first. The factor bounds this for any number of them.
DEATHS_WITHOUT, MORE_FOR_EACH = 9, 1.3
#: after this many seconds without a crash, crashes are forgotten, and so are isolated tasks that were never listed
CALM_S = 600.0
#: seconds after the start before an isolated run, of a task whose isolated runs crashed never, once, twice
QUIET_S = (0.0, 5.0, 15.0)
#: Expected duration of a task as a multiple of its age at the crash: the later of two random moments lies at two
#: thirds of the run.
WHOLE = 1.5

log = get_logger(__name__)


class Recovery:
    """Decides which tasks may start after a crash, and which ones only isolated.

    After ``begin``, ``journal.in_flight_at_crash`` holds the tasks that wait for an isolated run.
    """

    def __init__(self, journal: Journal, outbox: Outbox, *, source: str, clock: Clock) -> None:
        self._source = source
        self._journal = journal
        self._outbox = outbox
        self._clock = clock
        self._began_at = clock.monotonic()
        self._budget = IsolationBudget(clock)
        self._due: frozenset[str] = frozenset()
        self._listed: set[str] = set()
        self._calm = False
        #: there was nothing else to do before this poll, and before the next one
        self._idle = self._idle_next = False
        self._stretch: Stretch | None = None
        self._left_over: list[Claim] = []

    async def begin(self) -> None:
        """Settle, quarantine, clear or isolate each task in flight at a crash. Call once, before the first poll.

        Raises ``DataDirectoryError`` when a task cannot be quarantined: it must not be started again.
        """
        self._began_at, self._budget = self._clock.monotonic(), IsolationBudget(self._clock)
        unfinished = list(self._journal.in_flight_at_crash.items())
        held = await self._outbox.held([task_id for task_id, _ in unfinished])
        for task_id, entry in unfinished:
            if task_id in held and held[task_id].fingerprint in ("", entry.fingerprint):
                await self._journal.settle(task_id)
            elif entry.tries.kills_isolated >= QUARANTINE_AT:
                await self._quarantine(task_id, entry)
            elif not self._likely_kills(entry.tries):
                self._journal.clear(task_id)
        if unfinished:
            log.warning("recovery.started", tasks=len(unfinished), isolated=len(self._journal.in_flight_at_crash))

    # --- which listed task may start

    @property
    def wants_poll(self) -> bool:
        """Whether the last poll found nothing to do, so that the next one may claim isolated tasks at no cost."""
        return (
            self._idle_next and not self._idle and any(map(self._is_quiet, self._journal.in_flight_at_crash.values()))
        )

    def look(self, running_s: Collection[float]) -> None:
        """Decide before a poll which isolated tasks it may claim. ``running_s``: the ages of the running tasks."""
        self._idle, self._idle_next = self._idle_next and not running_s, False
        if not self._calm and self._age_s >= CALM_S:
            self._forget_crashes()
        waiting = self._journal.in_flight_at_crash
        if waiting:
            self._budget.bound(max(map(_whole_s, waiting.values())), running_s)
        if self._due or waiting:
            self._due = frozenset(name for name in waiting if self._is_due(name, running_s, idle=self._idle))

    def refuse(self, task_id: str) -> SkipReason | None:
        """Why this task must not start now, or None when it may."""
        if task_id not in self._journal.in_flight_at_crash:
            return None
        self._listed.add(task_id)
        return None if task_id in self._due else "deferred"

    # --- a stretch of isolated runs

    @property
    def isolating(self) -> bool:
        """Whether a stretch is under way, in which only the tasks that ``step`` returns start."""
        return self._stretch is not None

    @property
    def isolation(self) -> str | None:
        """Why slots are kept empty, or None when they are not."""
        if self._stretch is None:
            return None
        what = "runs isolated" if self._stretch.runs else "waits for the others to end and then runs isolated"
        return f"one task {what} because it was running at {ISOLATE_AT} crashes"

    def ended(self, took_s: float) -> None:
        """Note how long an attempt took, whatever its outcome."""
        self._budget.ended(took_s)

    def isolate(self, claims: Collection[Claim], running_s: Collection[float]) -> Sequence[Claim]:
        """Begin a stretch with the isolated tasks among a poll's claims; returns the claims to start at once.

        With nothing else to do a stretch costs nothing and is one run long: other work may have come by then, and
        goes first. When a stretch begins, the other claims do not start: its drain would have to wait for them.
        """
        ordinary, isolated = list[Claim](), list[Claim]()
        for claim in claims:
            (isolated if claim.task.id in self._journal.in_flight_at_crash else ordinary).append(claim)
        self._idle_next = not running_s and not claims
        if not isolated:
            return ordinary
        isolated.sort(key=self._evidence)
        spare = self._idle and not ordinary
        if not self._is_due(isolated[0].task.id, running_s, idle=spare):
            self._left_over = isolated
            return ordinary
        self._stretch = Stretch(isolated, len(running_s), spare=spare, at=self._clock.monotonic())
        self._left_over = ordinary
        return ()

    def step(self, running_s: Collection[float], slots: int) -> Claim | None:
        """The task to start isolated now; None when there is none, or others still run.

        ``running_s``: as in ``look``. To be polled while ``isolating``.
        """
        stretch = self._stretch
        if stretch is None:
            return None
        self._budget.spend(stretch.cost_s(self._clock.monotonic(), len(running_s), slots))
        if running_s:
            # A drain that exceeds the budget waits for a task that takes longer than any before it.
            over = not stretch.runs and self._budget.overdrawn
        else:
            over = not stretch.goes_on or not self._is_due(stretch.claims[0].task.id, (), idle=stretch.spare)
        if over:
            self._stretch, self._left_over = None, [*self._left_over, *stretch.claims]
        if over or running_s:
            return None
        stretch.runs += 1
        return stretch.claims.pop(0)

    def left_over(self) -> Sequence[Claim]:
        """Claims that did not run, to be released."""
        claims, self._left_over = self._left_over, []
        return claims

    def _forget_crashes(self) -> None:
        self._calm = True
        self._journal.forget_crashes()
        for task_id in self._journal.in_flight_at_crash.keys() - self._listed:
            self._journal.clear(task_id)

    @property
    def _age_s(self) -> float:
        return self._clock.monotonic() - self._began_at

    def _likely_kills(self, tries: Tries) -> bool:
        """Whether this task is more likely the cause of the crashes than something else."""
        if tries.kills < ISOLATE_AT or tries.kills_isolated:
            return tries.kills_isolated > 0
        without = self._journal.crashes - tries.kills
        return without < DEATHS_WITHOUT * MORE_FOR_EACH ** (tries.kills - ISOLATE_AT)

    def _evidence(self, claim: Claim) -> tuple[int, int]:
        """A sort key: the most likely cause of a crash first."""
        tries = self._journal.in_flight_at_crash[claim.task.id].tries
        return -tries.kills_isolated, -tries.kills

    def _is_due(self, task_id: str, running_s: Collection[float], *, idle: bool) -> bool:
        entry = self._journal.in_flight_at_crash.get(task_id)
        if entry is None or not self._is_quiet(entry):
            return False
        return idle or self._budget.affords(_whole_s(entry), running_s)

    def _is_quiet(self, entry: InFlight) -> bool:
        """Whether the process has run long enough for this task's next isolated run."""
        return self._age_s >= QUIET_S[min(entry.tries.kills_isolated, len(QUIET_S) - 1)]

    async def _quarantine(self, task_id: str, entry: InFlight) -> None:
        now = self._clock.now().timestamp()
        reason = f"the process died {entry.tries.kills_isolated} times while this task ran isolated"
        record = Record(
            receipt=Receipt(self._source, task_id),
            task_type=entry.task_type,
            status=TaskStatus.PENDING,
            fingerprint=entry.fingerprint,
            finished_at=now,
            due_at=now,
            attempts=entry.tries.started,
            reason=reason,
        )
        try:
            await self._outbox.quarantine(record)
        except OutboxUnwritable as error:
            raise DataDirectoryError(str(error)) from error
        await self._journal.settle(task_id)
        log.error("task.quarantined", task_id=task_id, task_type=entry.task_type, reason=reason)


def _whole_s(entry: InFlight) -> float:
    """The expected minimum duration of its run."""
    return WHOLE * entry.ran_s
