"""After a crash everything runs at full width at once. What was in flight at two deaths runs isolated, in its turn.

One task can end the process (a library that dumps core, memory that runs out), and would do so again after every
start. A kill from outside ends it as well, and no task is to blame: one death proves nothing. A task that was in
flight at two deaths waits for an isolated run, with nothing beside it. A task that survives its isolated run is
cleared. A task in whose isolated runs the process died three times is quarantined, for an operator to look at.

Isolated runs cost throughput. They take place when there is nothing else to do, and otherwise between stretches of
normal work, as far as their budget goes (``isolation.py``). Nothing waits for an isolated task that is not listed.

Who is killed again and again from outside has many tasks that were in flight at two deaths, and no killer among
them: the deaths go on without them. So a task is not isolated while several more deaths happened without it.

A random kill must not quarantine an innocent task, so an isolated task that was running at a crash waits until the
process has lived for ``QUIET_S`` before its next isolated run: whoever kills at random hits the quiet.
"""

from collections.abc import Collection, Sequence

from ai_task_processor.core.errors import DataDirectoryError, OutboxUnwritable
from ai_task_processor.core.ports import Clock, Journal, Outbox, SkipReason
from ai_task_processor.engine.isolation import IsolationBudget, Stretch
from ai_task_processor.models.task import Claim, InFlight, Receipt, Record, TaskStatus, Tries
from ai_task_processor.ops.logs import get_logger

#: deaths at which a task was in flight, and deaths in its isolated runs
ISOLATE_AT, QUARANTINE_AT = 2, 3
#: So many deaths without a task clear it that was in flight at two, and by this factor more for each further one. Five
#: tasks that kill in turn cause eight deaths without the first. The factor ends the turns of any number of them.
DEATHS_WITHOUT, MORE_FOR_EACH = 9, 1.3
#: when the process has lived for so long, deaths are forgotten, and isolated tasks that were never listed meanwhile
CALM_S = 600.0
#: seconds after the start before a task may run isolated that died in its isolated runs never, once, twice
QUIET_S = (0.0, 5.0, 15.0)
#: A task that was seen running for so long when the process died takes about this many times as long: a random
#: moment lies in the middle, the later of two at two thirds.
WHOLE = 1.5

log = get_logger(__name__)


class Recovery:
    """Says which task may start after a crash, and which one with nothing beside it.

    ``journal.in_flight_at_crash`` are the tasks that wait for an isolated run, once ``begin`` has sorted them.
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
        #: was there nothing else to do before the poll under way, and before the next one?
        self._idle = self._idle_next = False
        self._stretch: Stretch | None = None
        self._left_over: list[Claim] = []

    async def begin(self) -> None:
        """Sort what the journal brought; to be called once, before the first poll.

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
        """Did the last poll bring nothing to do, so that the next one may bring isolated tasks for the first time?"""
        return (
            self._idle_next and not self._idle and any(map(self._is_quiet, self._journal.in_flight_at_crash.values()))
        )

    def look(self, running_s: Collection[float]) -> None:
        """Decide, before a poll, which isolated tasks it may bring. ``running_s``: the ages of what runs."""
        self._idle, self._idle_next = self._idle_next and not running_s, False
        if not self._calm and self._age_s >= CALM_S:
            self._calm_down()
        waiting = self._journal.in_flight_at_crash
        if waiting:
            self._budget.bound(max(map(_whole_s, waiting.values())), running_s)
        if self._due or waiting:
            self._due = frozenset(name for name in waiting if self._is_due(name, running_s, idle=self._idle))

    def refuse(self, task_id: str) -> SkipReason | None:
        """Why this task must not start now, or None when nothing here speaks against it."""
        if task_id not in self._journal.in_flight_at_crash:
            return None
        self._listed.add(task_id)
        return None if task_id in self._due else "deferred"

    # --- a stretch of isolated runs

    @property
    def isolating(self) -> bool:
        """Is a stretch under way, in which nothing starts but what ``step`` answers?"""
        return self._stretch is not None

    @property
    def isolation(self) -> str | None:
        """Why slots are kept empty, or None when they are not."""
        if self._stretch is None:
            return None
        what = "runs isolated" if self._stretch.runs else "waits for the others to end and then runs isolated"
        return f"one task {what} because it was running at {ISOLATE_AT} crashes"

    def ended(self, took_s: float) -> None:
        """An attempt has left its slot after so long, whatever came of it."""
        self._budget.ended(took_s)

    def isolate(self, claims: Collection[Claim], running_s: Collection[float]) -> Sequence[Claim]:
        """Begin a stretch with the isolated tasks among a poll's claims; answers what starts at once instead.

        With nothing else to do a stretch costs nothing and is one run long: by then there may be other work, which
        goes first. Once a stretch is paid for, nothing starts that its drain would have to wait for.
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
        """The task to start now, with nothing beside it; None when there is none, or something still runs.

        ``running_s``: as in ``look``. To be asked again every now and then, as long as ``isolating``.
        """
        stretch = self._stretch
        if stretch is None:
            return None
        self._budget.spend(stretch.cost_s(self._clock.monotonic(), len(running_s), slots))
        if running_s:
            # A drain that used everything up waits for a task that takes longer than any before it.
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
        """What was claimed and did not run, to be given back."""
        claims, self._left_over = self._left_over, []
        return claims

    def _calm_down(self) -> None:
        self._calm = True
        self._journal.forget_crashes()
        for task_id in self._journal.in_flight_at_crash.keys() - self._listed:
            self._journal.clear(task_id)

    @property
    def _age_s(self) -> float:
        return self._clock.monotonic() - self._began_at

    def _likely_kills(self, tries: Tries) -> bool:
        """Is it likelier that this task kills the process than that something else does?"""
        if tries.kills < ISOLATE_AT or tries.kills_isolated:
            return tries.kills_isolated > 0
        without = self._journal.crashes - tries.kills
        return without < DEATHS_WITHOUT * MORE_FOR_EACH ** (tries.kills - ISOLATE_AT)

    def _evidence(self, claim: Claim) -> tuple[int, int]:
        """The likeliest first."""
        tries = self._journal.in_flight_at_crash[claim.task.id].tries
        return -tries.kills_isolated, -tries.kills

    def _is_due(self, task_id: str, running_s: Collection[float], *, idle: bool) -> bool:
        entry = self._journal.in_flight_at_crash.get(task_id)
        if entry is None or not self._is_quiet(entry):
            return False
        return idle or self._budget.affords(_whole_s(entry), running_s)

    def _is_quiet(self, entry: InFlight) -> bool:
        """Has the process lived for long enough without a crash?"""
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
    """How long its run is expected to take at least."""
    return WHOLE * entry.ran_s
