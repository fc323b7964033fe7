"""The ports between the engine and the world: what a source, a store, a sink, a model and a clock promise.

The engine knows these protocols only. Every implementation passes the contract suite of its port
(``ai_task_processor.testing``), a stranger's too.
"""

import asyncio
from collections.abc import Awaitable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal, Protocol

from ai_task_processor.core.component import Component
from ai_task_processor.models.task import (
    Claim,
    Failure,
    InFlight,
    Outcome,
    Receipt,
    Record,
    Task,
    Tries,
    Usage,
    Vector,
)

Standing = Literal["in_outbox", "dead_letter", "quarantined"]
SkipReason = Literal[Standing, "running", "stale", "unknown_type", "invalid", "duplicate", "deferred", "paused"]


class Clock(Protocol):
    """Time as an argument, so that tests need not wait for it."""

    def monotonic(self) -> float:
        """Seconds of a clock that never jumps; for durations and deadlines."""

    def now(self) -> datetime:
        """The wall clock, aware, UTC; for what is shown or survives a restart."""

    async def sleep(self, seconds: float) -> None:
        """Suspend for that long."""


class Admission(Protocol):
    """Which listed tasks may start now, asked by a source while it reads its list. Both answer for a whole batch."""

    async def busy(self, task_ids: Sequence[str]) -> Mapping[str, SkipReason]:
        """``refuse``, as far as the id alone can say: those that run, or whose outcome waits."""

    async def refuse(self, tasks: Sequence[Task]) -> Sequence[SkipReason | None]:
        """For each task, why it must not start now, or None when it may."""


@dataclass(frozen=True, slots=True)
class Want:
    """What a claim asks for: at most ``limit`` tasks of these types (None: of any) that ``admission`` lets start."""

    limit: int
    admission: Admission
    types: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Backlog:
    """What the last look at the source saw.

    ``seen`` tasks, of which ``skipped`` could not start; ``complete``: that was all of them; ``read_ahead``: so many
    wait here for free slots.
    """

    seen: int = 0
    complete: bool = False
    read_ahead: int = 0
    skipped: Mapping[SkipReason, int] = field(default_factory=dict)


class TaskSource(Component, Protocol):
    """Where tasks come from and where their outcomes go back to. Delivery is at least once.

    ``claims`` says how strong a claim is: ``none`` (whoever lists a task may process it), ``advisory`` (a mark that
    nothing enforces), ``exclusive``. ``renew_every_s``: how often running claims must be renewed, None for never.
    """

    name: str
    claims: Literal["none", "advisory", "exclusive"] = "none"
    renew_every_s: float | None = None

    @property
    def backlog(self) -> Backlog:
        """What the last good look saw."""
        return Backlog()

    async def claim(self, want: Want) -> Sequence[Claim]:
        """At most ``want.limit`` tasks that may start now; empty when there are none; does not wait for more.

        Raises ``RemoteError`` when the source cannot be read.
        """

    async def wait(self, timeout_s: float) -> bool:
        """False after ``timeout_s``; true, at once, when there may be work (push, notify, wake-up).

        A call of ``wake`` while nobody waits ends the next wait, and any number of calls ends one. One waits at a time.
        """
        await asyncio.sleep(timeout_s)
        return False

    def wake(self) -> None:
        """There may be work that was not there: end the wait under way, or the next one, and look anew."""
        self.resume()

    def resume(self) -> None:
        """Something changed here that lets tasks start: like ``wake``, but what was listed is as good as before."""
        return

    async def renew(self, receipts: Sequence[Receipt]) -> Collection[Receipt]:  # noqa: ARG002 - for sources whose claims end
        """Keep these claims alive; answers those that are lost: somebody else owns them now, or they are gone."""
        return ()

    def cancelled(self) -> Collection[Receipt]:
        """Claims whose result nobody wants any more."""
        return ()

    async def report(self, receipt: Receipt, outcome: Outcome) -> None:
        """Report an outcome and return once it is acknowledged.

        Raises ``Rejected`` when it is refused for good (``refused``, ``gone``, ``lost``), ``Ambiguous`` when it may
        have been applied, another ``RemoteError`` when it was not.
        """

    async def release(self, receipt: Receipt, delay_s: float, failure: Failure | None = None) -> None:
        """Give an unfinished task back; it is not claimed again here before ``delay_s`` seconds have passed."""


@dataclass(frozen=True, slots=True)
class OutboxDepth:
    """How full the outbox is.

    ``oldest_finished_at`` is in seconds since the epoch, of the waiting records, as of the last ``apply_requests``.
    ``foreign``: waiting records of sources that are not selected, by source; they are kept and not counted above.
    """

    waiting: int = 0
    dead: int = 0
    quarantined: int = 0
    bytes: int = 0
    oldest_finished_at: float | None = None
    foreign: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Held:
    """What stands in the outbox for a task, and the fingerprint of the content it was made of."""

    standing: Standing
    fingerprint: str


class Outbox(Protocol):
    """Outcomes that are finished and not yet acknowledged: at most one record for a task of a source.

    A record is *waiting* until it is delivered, deferred (waiting, but not before a time) or buried
    as a *dead letter*, which keeps the result until an operator retries or drops it. A task that must not
    be started any more stands here without a result, *quarantined*.

    All methods are about tasks of the selected source. Records of others are kept as they are.
    """

    @property
    def full(self) -> bool:
        """Is the byte limit reached? Once true it stays true until 90 % of the limit."""

    @property
    def writable(self) -> bool:
        """Did the last commit succeed?"""

    def put(self, record: Record) -> Awaitable[None]:
        """Keep an outcome. Accepted at once (no await inside); the awaitable resolves when it is durable.

        Replaces what stands for the same task. The awaitable raises ``OutboxUnwritable``.
        """

    def quarantine(self, record: Record) -> Awaitable[None]:
        """Keep a task from being started: like ``put``, but never due. An operator's ``retry`` lets it go."""

    async def held(self, task_ids: Sequence[str]) -> Mapping[str, Held]:
        """What stands for these tasks; those for which nothing stands are not in the answer."""

    async def due(self, now: float, limit: int, exclude: frozenset[str] = frozenset()) -> Sequence[Record]:
        """At most ``limit`` waiting records whose time has come, oldest due first, without those excluded."""

    async def delivered(self, task_id: str) -> None:
        """The outcome is acknowledged: forget it."""

    async def defer(self, task_id: str, *, due_at: float, attempts: int) -> None:
        """Try again at ``due_at``."""

    async def bury(self, task_id: str, reason: str, *, attempts: int = 1) -> None:
        """Refused for good, after so many attempts: keep as a dead letter with this reason."""

    async def apply_requests(self) -> Mapping[str, str]:
        """Carry out what operators left (``retry``, ``drop``); what was done by task id."""

    async def receipts(self) -> Sequence[Receipt]:
        """Of all waiting records: their claims must be renewed until the outcome is acknowledged."""

    def depth(self) -> OutboxDepth:
        """How much is in it, from memory."""


class Journal(Protocol):
    """Which tasks are under way and what their earlier attempts came to, written before the work begins.

    It survives every death of the process; a loss of power may take its last lines.
    """

    @property
    def in_flight_at_crash(self) -> Mapping[str, InFlight]:
        """Tasks that were running when an earlier process died, and were neither begun nor settled since.

        One that is begun runs isolated; ``clear`` takes those out that need not.
        """

    @property
    def isolated(self) -> str | None:
        """The task that runs isolated."""

    async def begin(self, tasks: Sequence[Task]) -> Sequence[Tries]:
        """Count an attempt at each; they are written when this returns. Raises ``OutboxUnwritable``: then at none."""

    async def give_back(self, task_id: str) -> None:
        """The attempt ended without an outcome: what ``begin`` returned, as it is by now, is kept."""

    async def settle(self, task_id: str) -> None:
        """The outcome is durable, or somebody else has the task: forget it."""

    def clear(self, task_id: str) -> None:
        """It need not run isolated; its counts are kept."""

    @property
    def crashes(self) -> int:
        """How often a process died while tasks ran that were not isolated, since ``forget_crashes``."""

    def forget_crashes(self) -> None:
        """The process has lived for long: what killed it before is over."""

    def stopping(self) -> None:
        """From here on the process may end at any moment, and no task is to blame."""

    def usable(self) -> bool:
        """Could an attempt be written now?"""


class SourceMemory(Protocol):
    """Ids that the selected source must know after a restart."""

    async def remember(self, ids: Sequence[str], until: float) -> None:
        """Durable when it returns, until that time in seconds since the epoch. Raises ``OutboxUnwritable``."""

    async def forget(self, ids: Sequence[str]) -> None:
        """They need not be remembered any more."""

    async def remembered(self) -> Collection[str]:
        """All of them."""


class Store(Component, Protocol):
    """What outlives the process: outcomes, attempts, and what a source must remember. For one selected source."""

    outbox: Outbox
    journal: Journal
    memory: SourceMemory
    #: where small files of the daemon may stand, None when there is no such place
    directory: Path | None = None

    @property
    def accepting(self) -> bool:
        """May something be started whose result must be kept?"""

    @property
    def recovered(self) -> int:
        """How many waiting records an earlier process left."""


class Sink(Component, Protocol):
    """A further destination of results. ``order``: written before the report, or after its acknowledgement."""

    name: str
    order: Literal["before_report", "after_report"] = "before_report"

    async def write(self, record: Record) -> None:
        """Idempotent by (source, id). Raises ``RemoteError``: the record is tried again later."""

    async def discard(self, record: Record) -> None:  # noqa: ARG002 - for sinks that can
        """The claim was lost, gone or cancelled: take back what was written before the report."""
        return


@dataclass(frozen=True, slots=True)
class Allowance:
    """A limit of a provider: ``remaining`` of ``limit`` are left, and all of it again in ``reset_s`` seconds.

    0 ≤ ``remaining`` ≤ ``limit``, 0 ≤ ``reset_s`` and finite.
    """

    limit: int
    remaining: int
    reset_s: float


@dataclass(frozen=True, slots=True)
class RateLimits:
    """What a provider tells about its limits for a model; None where it tells nothing that makes sense."""

    requests: Allowance | None = None
    tokens: Allowance | None = None


@dataclass(frozen=True, slots=True)
class Embeddings:
    """A model's answer for one call.

    ``vectors``: one for each input, in the order of the inputs; None where the model's vector was
    unusable (wrong dimension, not finite, all zero). ``limits``: after this call.
    """

    vectors: Sequence[Vector | None]
    usage: Usage
    limits: RateLimits = RateLimits()


class Provider(Component, Protocol):
    """Models of one provider: texts to vectors. ``name`` is a label of metrics: ``openai``, ``mock``."""

    async def prepare(self) -> None:
        """Do what the first call would have to wait for; nothing is asked of the model."""

    async def embed(self, texts: Sequence[str], model: str) -> Embeddings:
        """One model call, one vector for each text. ``model`` is the provider's name for it.

        Raises ``InputRefused`` when an input is at fault, a ``RemoteError`` otherwise.
        """

    async def check(self, model: str) -> None:
        """The cheapest proof that the key and the model are accepted; raises ``RemoteError``."""

    async def aclose(self) -> None:
        """Let go of the connections."""
