"""The doors between the engine and the world: what a source, an outbox, a model and a clock promise.

The engine knows these protocols only. Every implementation passes the contract suite of its door
(``tests/contract``).
"""

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from ai_task_processor.models.task import (
    Claim,
    Failure,
    Receipt,
    Record,
    Suspect,
    Task,
    TaskResult,
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
    """The engine's word on a listed task, asked by a source while it reads the list."""

    def busy(self, task_id: str) -> SkipReason | None:
        """``refuse``, as far as the id alone can say: is this task running, or its outcome waiting?"""

    def refuse(self, task: Task) -> SkipReason | None:
        """Why this task must not start now, or None when it may."""


class TaskSource(Protocol):
    """Where tasks come from and where their outcomes go back to. Delivery is at least once."""

    async def claim(self, limit: int) -> Sequence[Claim]:
        """At most ``limit`` tasks that may start now; empty when there are none; does not wait for more.

        Raises ``RemoteError`` when the source cannot be read.
        """

    async def wait(self, timeout_s: float) -> bool:
        """False after ``timeout_s``; true, at once, when there may be work (push, notify, wake-up).

        A call while nobody waits ends the next wait, and any number of calls ends one. One waits at a time.
        """

    async def complete(self, receipt: Receipt, result: TaskResult) -> None:
        """Report success and return once it is acknowledged.

        Raises ``Rejected`` when this result is refused for good, ``Ambiguous`` when it may have been
        applied, another ``RemoteError`` when it was not.
        """

    async def fail(self, receipt: Receipt, failure: Failure) -> None:
        """Report that the task failed for a reason of its own; answers like ``complete``."""

    async def release(self, receipt: Receipt, delay_s: float) -> None:
        """Give an unfinished task back; it is not claimed again before ``delay_s`` seconds have passed."""

    async def check(self) -> None:
        """The cheapest proof that the remote answers us; raises ``RemoteError``."""


@dataclass(frozen=True, slots=True)
class OutboxDepth:
    """How full the outbox is.

    ``oldest_finished_at`` is in seconds since the epoch, of the waiting records, as of the last ``apply_requests``.
    """

    waiting: int = 0
    dead: int = 0
    quarantined: int = 0
    bytes: int = 0
    oldest_finished_at: float | None = None


class Outbox(Protocol):
    """Finished and not yet told: the only durable state. At most one record for a task id.

    A record is *waiting* until it is delivered, deferred (waiting, but not before a time) or buried
    as a *dead letter*, which keeps the result until an operator retries or drops it. A task that must not
    be started any more stands here without a result, *quarantined*.
    """

    @property
    def full(self) -> bool:
        """Is the byte limit reached? Once true it stays true until 90 % of the limit."""

    @property
    def writable(self) -> bool:
        """Did the last commit succeed?"""

    def put(self, record: Record) -> Awaitable[None]:
        """Keep an outcome. Accepted at once (no await inside); the awaitable resolves when it is on disk.

        Replaces what stands for the same task. The awaitable raises ``OutboxUnwritable``.
        """

    def quarantine(self, record: Record) -> Awaitable[None]:
        """Keep a task from being started: like ``put``, but never due. An operator's ``retry`` lets it go."""

    def holds(self, task_id: str, fingerprint: str | None = None) -> Standing | None:
        """Does a record stand for this task? One that does not wait stands for its own content (fingerprint) only."""

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

    def depth(self) -> OutboxDepth:
        """How much is in it, from memory."""


class Journal(Protocol):
    """Which tasks are under way and what their earlier attempts came to, written before the work begins.

    It survives every death of the process; a loss of power may take its last lines.
    """

    @property
    def suspects(self) -> Mapping[str, Suspect]:
        """Tasks that were in flight when an earlier process died, and were neither begun nor settled since.

        One that is begun runs isolated; ``acquit`` takes those out that need not.
        """

    @property
    def alone(self) -> str | None:
        """The task that runs isolated."""

    def begin(self, task: Task) -> Tries:
        """Count an attempt; it is written when this returns. Raises ``OutboxUnwritable``."""

    def give_back(self, task_id: str) -> None:
        """The attempt ended without an outcome: what ``begin`` returned, as it is by now, is kept."""

    def settle(self, task_id: str) -> None:
        """The outcome is safe, or somebody else has the task: forget it."""

    def acquit(self, task_id: str) -> None:
        """It need not run isolated; its counts are kept."""

    @property
    def deaths(self) -> int:
        """How often a process died while tasks were in flight that did not run isolated, since ``forget_deaths``."""

    def forget_deaths(self) -> None:
        """The process has lived for long: what killed it before is over."""

    @property
    def marked(self) -> Sequence[str]:
        """Tasks that are marked at the source and not under way here."""

    def mark(self, task_id: str) -> None:
        """What is under way is about to be marked at the source."""

    def unmark(self, task_id: str) -> None:
        """It is not marked any more."""

    def usable(self) -> bool:
        """Could an attempt be written now?"""


class Marks(Protocol):
    """Says at the source what is being worked on, for sources where that is no claim."""

    async def begin(self, receipt: Receipt) -> bool:
        """Mark a task; false when the source says that it is gone or somebody else's."""

    async def withdraw(self, receipt: Receipt) -> None:
        """It is not being worked on any more, and not settled."""


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


class Provider(Protocol):
    """A model that turns texts into vectors."""

    @property
    def name(self) -> str:
        """Label for metrics and ``/status``: ``openai``, ``mock``."""

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
