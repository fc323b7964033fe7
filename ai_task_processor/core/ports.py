"""The ports: protocols of sources, stores, sinks, providers and the clock.

The engine depends on these protocols only. Every implementation, also one of another package, passes the
contract suite of its port (``ai_task_processor.testing``).

Each method says what it may raise. Any other exception counts as a mistake of the implementation: see ``Component``.
It never fails a task, and never loses a result.
"""

import asyncio
from collections.abc import Awaitable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from ai_task_processor.core.component import Component
from ai_task_processor.core.errors import Misconfigured
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
    """Time as an argument, so that tests need not wait."""

    def monotonic(self) -> float:
        """Seconds on a clock that never jumps; for durations and deadlines."""

    def now(self) -> datetime:
        """The wall clock, aware, UTC; for times that are shown or stored."""

    async def sleep(self, seconds: float) -> None:
        """Suspend for that long."""


class Admission(Protocol):
    """Decides which listed tasks may start now; a source calls it, with batches, while it reads its list."""

    async def busy(self, task_ids: Sequence[str]) -> Mapping[str, SkipReason]:
        """``refuse`` by id only, as a first filter: tasks that run, or whose outcome is in the outbox."""

    async def refuse(self, tasks: Sequence[Task]) -> Sequence[SkipReason | None]:
        """For each task, why it must not start now, or None when it may.

        Tasks that may start count against limits until the claim ends: ask only for those that would be claimed.
        """


@dataclass(frozen=True, slots=True)
class Want:
    """A request for claims: at most ``limit`` tasks of these types (None: any) that ``admission`` lets start."""

    limit: int
    admission: Admission
    types: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Backlog:
    """What the last successful claim saw.

    ``seen``: number of listed tasks; ``skipped``: those that could not start, by reason; ``complete``: the list was
    read to its end; ``read_ahead``: tasks that were read and wait for free slots.
    """

    seen: int = 0
    complete: bool = False
    read_ahead: int = 0
    skipped: Mapping[SkipReason, int] = field(default_factory=dict)


class TaskSource(Component, Protocol):
    """Where tasks come from and where their outcomes go back to. Delivery is at least once.

    ``claims``: the strength of a claim: ``none`` (every worker that lists a task may process it), ``advisory`` (a mark
    that is not enforced), ``exclusive``. ``renew_every_s``: the interval of renewals, None when claims do not expire.
    ``report_within_s``: a report that takes longer is cancelled. ``task_types``: the types of built-in processors that
    are taken when ``ENABLED_TASK_TYPES`` is not set; None: those of the NestJS API.
    """

    name: str
    task_types: ClassVar[frozenset[str] | None] = None
    claims: Literal["none", "advisory", "exclusive"] = "none"
    renew_every_s: float | None = None
    report_within_s: float = 120.0

    @property
    def backlog(self) -> Backlog:
        """What the last successful claim saw. While it cannot be read, ``run --until-empty`` does not end."""
        return Backlog()

    async def claim(self, want: Want) -> Sequence[Claim]:
        """At most ``want.limit`` tasks that may start now; empty when there are none; does not wait for tasks.

        Raises ``RemoteError`` when the source cannot be read. After any other error, and when a value is no ``Claim``,
        the poll counts as failed, and nothing of it starts.
        """

    async def wait(self, timeout_s: float) -> bool:
        """False after ``timeout_s``; true, at once, when there may be work (push, notify, wake-up).

        ``wake`` without a wait under way ends the next one; several calls end only one. One caller waits at a time.
        """
        await asyncio.sleep(timeout_s)
        return False

    def wake(self) -> None:
        """There may be new work: end the wait under way, or the next one, and list again."""
        self.resume()

    def resume(self) -> None:
        """Tasks that were skipped may start now: like ``wake``, but the last listing stays valid."""
        return

    async def renew(self, receipts: Sequence[Receipt]) -> Collection[Receipt]:  # noqa: ARG002 - for sources whose claims end
        """Renew these claims; returns the lost ones: another worker owns the task now, or it is gone.

        Cancelled when the next renewal is due, after 10 s at least and 120 s at most. Whatever it raises is logged,
        and the next renewal comes in its time.
        """
        return ()

    def cancelled(self) -> Collection[Receipt]:
        """Claims that were cancelled upstream."""
        return ()

    async def report(self, receipt: Receipt, outcome: Outcome) -> None:
        """Report an outcome and return once it is acknowledged. What was acknowledged is not reported again.

        Raises:

        - ``Rejected`` when it is refused for good. ``refused``, ``gone`` and ``conflict`` make a dead letter. After
          ``lost`` the result is deleted, because another worker has the task.
        - ``CircuitOpen`` when it was not tried. The record stays as it is. Nothing is reported for ``retry_after_s``.
        - ``Ambiguous`` when it may have been applied. It is counted, and reported again.
        - another ``RemoteError`` when it was not applied. It is reported again.

        A report is repeated with growing delays, and not before ``retry_after_s`` (up to 15 minutes). A report that is
        cancelled after ``report_within_s`` counts as ``TimedOut``, which is ``Ambiguous``. Anything else it raises,
        ``SystemExit`` too, is logged with its traceback and counts as ``Transient``. A record that fails for a day
        with ``Ambiguous`` or ``Transient``, while others are delivered, becomes a dead letter.
        """

    def expired(self, receipt: Receipt) -> bool:  # noqa: ARG002 - for sources whose outcomes do
        """Whether nobody wants the outcome any more: it is deleted, also when only a sink lacks it."""
        return False

    async def release(self, receipt: Receipt, delay_s: float, failure: Failure | None = None) -> None:
        """Release an unfinished task; this process does not claim it again for ``delay_s`` seconds.

        It may raise a ``RemoteError``. Whatever it raises is logged, and it is not called again for this claim: the
        claim must end by itself. A release is cancelled after 120 s.
        """


@dataclass(frozen=True, slots=True)
class OutboxDepth:
    """How full the outbox is.

    ``oldest_finished_at``: of the waiting records, in seconds since the epoch, as of the last ``apply_requests``.
    ``next_due_at``: when the next of them is due, likewise; None when the store does not say.
    ``foreign``: number of records of sources that are not selected, by source; only ``bytes`` includes them, too.
    """

    waiting: int = 0
    dead: int = 0
    quarantined: int = 0
    bytes: int = 0
    oldest_finished_at: float | None = None
    foreign: Mapping[str, int] = field(default_factory=dict)
    next_due_at: float | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """The state of a task's record in the outbox, and the fingerprint of the content that it belongs to."""

    standing: Standing
    fingerprint: str


class Outbox(Protocol):
    """Finished outcomes that are not acknowledged yet: at most one record per task of a source.

    A record is *waiting* (perhaps deferred to a due time) until it is delivered or becomes a *dead letter*, which
    stays with its result until an operator retries or drops it. A waiting record may be *acknowledged*: the source has
    the outcome, and it is only written to the sinks after the report. A task that must not be started any more has a
    *quarantined* record without a result.

    All methods concern tasks of the selected source. Records of other sources are not changed.
    """

    @property
    def full(self) -> bool:
        """Whether the byte limit was reached; stays true until the size falls to 90 % of the limit."""

    @property
    def writable(self) -> bool:
        """Whether the last commit succeeded."""

    def put(self, record: Record) -> Awaitable[None]:
        """Store an outcome. Accepted at once (no await inside); the awaitable resolves when it is durable.

        Replaces the record of the same task. The awaitable raises ``OutboxUnwritable``.
        """

    def quarantine(self, record: Record) -> Awaitable[None]:
        """Prevent a task from being started: like ``put``, but never due. An operator's ``retry`` deletes it."""

    async def held(self, task_ids: Sequence[str]) -> Mapping[str, Held]:
        """The records of these tasks; tasks without a record are left out."""

    async def due(self, now: float, limit: int, exclude: frozenset[str] = frozenset()) -> Sequence[Record]:
        """At most ``limit`` waiting records that are due at ``now``, oldest due time first, without the excluded."""

    async def delivered(self, task_id: str) -> None:
        """The outcome is acknowledged and in every sink: delete the record.

        The answers of its steps are erased, too. Raises ``OutboxUnwritable``, like ``defer`` and ``bury``. After any
        error it is called again until it succeeds.
        """

    async def acknowledged(self, task_id: str, reason: str) -> None:
        """The source has the outcome, a sink does not: set ``Record.acknowledged``, and ``reason``. It stays waiting.

        Durable when it returns. A retry by an operator leaves the flag, a new ``put`` replaces it.
        """

    async def defer(self, task_id: str, *, due_at: float, attempts: int, reason: str | None = None) -> None:
        """Try again at ``due_at``, because of ``reason``."""

    async def bury(self, task_id: str, reason: str, *, attempts: int = 1) -> None:
        """Refused for good after this many attempts: make the record a dead letter with this reason."""

    async def apply_requests(self) -> Mapping[str, str]:
        """Carry out operators' requests (``retry``, ``drop``), perhaps a part of them; returns the actions done, by id.

        It is called again as long as something is done, and after any error. Raises ``OutboxUnwritable``.
        """

    async def receipts(self) -> Sequence[Receipt]:
        """The receipts of all waiting records that are not acknowledged: their claims are renewed."""

    def depth(self) -> OutboxDepth:
        """How full it is, from memory."""


class Journal(Protocol):
    """The attempts at unfinished tasks, written before each attempt starts.

    It survives every crash of the process; a loss of power may take its last lines.
    """

    @property
    def in_flight_at_crash(self) -> Mapping[str, InFlight]:
        """Tasks that were running when an earlier process crashed, and were neither begun nor settled since.

        Such a task runs isolated when it is begun, unless ``clear`` has removed it.
        """

    @property
    def isolated(self) -> str | None:
        """The task that runs isolated."""

    async def begin(self, tasks: Sequence[Task]) -> Sequence[Tries]:
        """Count an attempt at each task; written when this returns. Counts none when it raises ``OutboxUnwritable``.

        After any error none of the tasks starts; they are released.
        """

    async def give_back(self, task_id: str) -> None:
        """The attempt ended without an outcome: store the counts that ``begin`` returned, as they are now."""

    async def settle(self, task_id: str) -> None:
        """The outcome is durable, or another worker has the task: delete its attempts."""

    def clear(self, task_id: str) -> None:
        """It need not run isolated; its counts stay."""

    @property
    def crashes(self) -> int:
        """The number of crashes since ``forget_crashes`` at which tasks ran that were not isolated."""

    def forget_crashes(self) -> None:
        """Set ``crashes`` to 0: the process has run for long without one."""

    def stopping(self) -> None:
        """Shutdown has begun: if the process ends from here on, that is no crash."""

    def usable(self) -> bool:
        """Whether an attempt could be written now."""


class SourceMemory(Protocol):
    """Ids that the selected source needs after a restart."""

    async def remember(self, ids: Sequence[str], until: float) -> None:
        """Store ids until that time (seconds since the epoch); durable when it returns. Raises ``OutboxUnwritable``."""

    async def forget(self, ids: Sequence[str]) -> None:
        """Delete these ids."""

    async def remembered(self) -> Collection[str]:
        """All ids that have not expired."""


class StepStore(Protocol):
    """The answers of calls inside unfinished tasks, as JSON.

    The key of an answer: the task, the fingerprint of the task's content, and the name of the step. A task's answers
    are erased together with its outcome: when ``Outbox.put`` stores it, at the latest when it is acknowledged or
    dropped. A store may also delete the oldest answers to keep within its size: then a call may be made again.

    Of an acknowledged outcome, the names are those of the sinks that have it; the fingerprint is the record's.
    """

    async def load(self, task_id: str, fingerprint: str) -> Mapping[str, bytes]:
        """The answers of a task, by name; only those for this content. Raises ``OutboxUnwritable``."""

    def save(self, task_id: str, fingerprint: str, name: str, answer: bytes) -> Awaitable[None]:
        """Store an answer; replaces one of the same name. Accepted at once, also when the caller is cancelled.

        The awaitable resolves when it is durable, and raises ``OutboxUnwritable``.
        """

    async def erase(self, task_id: str) -> None:
        """Delete all answers of a task, whatever its content. Raises ``OutboxUnwritable``."""


class Store(Component, Protocol):
    """Durable state of one selected source: outcomes, attempts, steps, and the ids that the source stores."""

    outbox: Outbox
    journal: Journal
    memory: SourceMemory
    steps: StepStore
    #: a directory for small files of the daemon, None when there is none
    directory: Path | None = None

    @property
    def accepting(self) -> bool:
        """Whether the results of further tasks can be stored. Nothing is claimed while it raises."""

    @property
    def recovered(self) -> int:
        """The number of waiting records that earlier processes left."""


class Sink(Component, Protocol):
    """A further destination of results. ``order``: written before the report, or after its acknowledgement.

    ``within_s``: a call that takes longer is cancelled, and has failed.
    """

    name: str
    order: Literal["before_report", "after_report"] = "before_report"
    within_s: float = 120.0

    async def write(self, record: Record) -> None:
        """Write a result; idempotent by (source, id).

        Raises ``RemoteError`` when it could not be written, perhaps with ``retry_after_s``. Anything else it raises,
        ``SystemExit`` too, is also a failure of the sink, and is logged with its traceback. After a failure ``write``
        is called again, with growing delays, until it succeeds. ``Rejected``, after the report: this record will never
        be taken; it becomes a dead letter when the other sinks have it. Before the report that is a failure like
        others: a dead letter would never be reported, and the result is not reported until it is written. After the
        report, it is not reported again, and no sink waits for another; what one of them took is not written to it
        again, except after a kill.
        """

    async def discard(self, record: Record) -> None:  # noqa: ARG002 - for sinks that can
        """The source refused the report as ``lost`` or ``gone``: delete what was written before it.

        Whatever it raises is logged, and it is not called again for this record.
        """
        return


@dataclass(frozen=True, slots=True)
class Allowance:
    """A rate limit of a provider: ``remaining`` of ``limit`` are left; ``limit`` again after ``reset_s`` seconds.

    0 ≤ ``remaining`` ≤ ``limit``, 0 ≤ ``reset_s`` and finite.
    """

    limit: int
    remaining: int
    reset_s: float


@dataclass(frozen=True, slots=True)
class RateLimits:
    """A provider's rate limits for a model; None where it reports none, or an invalid one."""

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


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """One chat call.

    ``model``: the provider's name for it. ``schema``: the JSON Schema of the answer, None for a text. ``max_tokens``:
    the longest answer. None leaves a choice to the provider.
    """

    model: str
    messages: Sequence[Message] = field(repr=False)
    schema: Mapping[str, object] | None = None
    max_tokens: int | None = None
    temperature: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatAnswer:
    """A model's answer to one chat call.

    ``finish``: ``complete`` is the only one that counts as an answer; ``truncated``: ``max_tokens`` were not enough;
    ``filtered``: by the provider's content filter; ``refused``: by the model; ``other``: it wants to call a tool, say.
    """

    text: str = field(repr=False)
    finish: Literal["complete", "truncated", "filtered", "refused", "other"]
    usage: Usage
    limits: RateLimits = RateLimits()


class Provider(Component, Protocol):
    """Models of one provider: texts to vectors, and conversations. ``name`` (``openai``) is a label of metrics.

    ``build`` makes one for embeddings, ``build_chat`` one for conversations. A provider that cannot do one of the two
    leaves its method as it is here. ``chat_groups``: the groups of settings that ``build_chat`` reads.
    """

    chat_groups: ClassVar[tuple[type[Any], ...]] = ()

    @classmethod
    def build_chat(cls, services: Any) -> Any:  # noqa: ARG003 - for providers that can chat
        """Construct for ``complete``; None when it cannot chat, or is not configured for it."""
        return None

    async def prepare(self) -> None:
        """Do the slow preparation of the first call, such as imports; makes no model call."""

    async def embed(self, texts: Sequence[str], model: str) -> Embeddings:  # noqa: ARG002 - for providers that can
        """One model call, one vector for each text. ``model`` is the provider's name for it.

        Raises ``InputRefused`` when an input is at fault, a ``RemoteError`` otherwise.
        """
        raise Misconfigured(f"the provider {self.name} makes no embeddings")

    async def complete(self, request: ChatRequest) -> ChatAnswer:  # noqa: ARG002 - for providers that can
        """One chat call.

        Raises ``InputRefused`` when the messages are at fault, a ``RemoteError`` otherwise.
        """
        raise Misconfigured(f"the provider {self.name} cannot chat")

    async def check(self, model: str) -> None:
        """Check as cheaply as possible that key and model are accepted; raises ``RemoteError``."""
