"""The read model of the running daemon: what ``/status``, the page at ``/`` and the ``status`` command show.

``/status`` answers it as one JSON object, to which components add fields of their own (``token``, ``push`` …).
It holds ids, names, counts and reasons; no content of a task, no secret and no address.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from math import isfinite
from typing import ClassVar


class _Model:
    """Makes the docstring of each field its description in the JSON Schema."""

    __slots__ = ()
    __pydantic_config__: ClassVar[dict[str, bool]] = {"use_attribute_docstrings": True}


@dataclass(frozen=True, slots=True, kw_only=True)
class Paused(_Model):
    """An operator has stopped the claiming of tasks."""

    since: str
    """When it began: ISO 8601 in UTC."""
    reason: str
    """What the operator gave as the reason; may be empty."""

    def __str__(self) -> str:
        text = f"paused by an operator since {self.since[:10]} {self.since[11:19]}Z"
        return f"{text}: {self.reason}" if self.reason else text


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotCount(_Model):
    """A slot is one running task."""

    total: int
    """Tasks that may run at once."""
    running: int
    """Tasks that run now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningTask(_Model):
    """A task in its slot."""

    id: str
    """The id of the task at its source."""
    type: str
    """The type of the task."""
    age_seconds: float
    """Seconds since it was started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate(_Model):
    """Tasks within a window that ends now. It is shorter than its name says just after the start.

    Rates are those of a whole minute at least: a few seconds are not extrapolated.
    """

    acknowledged: int
    """Outcomes that the source has acknowledged."""
    failed: int
    """Tasks that ended failed, whether that has been acknowledged or not."""
    seconds: float
    """Length of the window."""
    acknowledged_per_minute: float
    """Outcomes acknowledged per minute."""
    failed_per_minute: float
    """Tasks failed per minute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput(_Model):
    """Work done lately."""

    last_minute: Rate
    """The last 60 seconds."""
    last_hour: Rate
    """The last 3,600 seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Poll(_Model):
    """The loop that asks the source for tasks."""

    under_way: bool
    """Whether the source is being asked now."""
    last_seconds_ago: float | None
    """Seconds since the last poll that was answered; null before the first."""
    next_in_seconds: float | None
    """Seconds until the next poll at the latest; null while one is under way, no slot is free, or none is to come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BacklogStatus(_Model):
    """The pending tasks of the source, as the last poll saw them."""

    seen: int
    """Tasks in the part of the list that was read."""
    complete: bool
    """Whether the list was read to its end."""
    read_ahead: int
    """Listed tasks that wait here for a free slot."""
    skipped: Mapping[str, int]
    """Listed tasks that were not started, by reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxStatus(_Model):
    """The outcomes in the outbox."""

    waiting: int
    """Outcomes that wait to be acknowledged."""
    oldest_age_seconds: float | None
    """Age of the oldest waiting outcome; null when none waits."""
    next_due_in_seconds: float | None
    """Seconds until the next report is due, 0 when one is; null when none waits or the store does not say."""
    dead_letters: int
    """Outcomes that the source has refused for good."""
    quarantined: int
    """Tasks that are not started again because they killed the process."""
    bytes: int
    """Size of all records."""
    of_other_sources: Mapping[str, int]
    """Records of sources that are not selected, by source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Isolation(_Model):
    """Tasks that were in flight when the process died run one at a time."""

    waiting: int
    """Tasks that wait for such a run."""
    running: str | None
    """The id of the one that runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Circuit(_Model):
    """The circuit breaker and the pauses of one remote."""

    state: str
    """``closed``, ``open`` or ``half-open``. A pause that is no outage leaves it closed."""
    reason: str | None
    """Why calls pause; null when they do not."""
    wait_seconds: float
    """Seconds until the next call may start; 0 when one may now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStatus(_Model):
    """The calls of one model, and the limits that were learnt from its answers."""

    name: str
    """The name of the model, cut to 64 characters."""
    kind: str
    """``embedding`` or ``chat``."""
    calls_per_minute: float | None
    """The pace; null as long as no limit is known."""
    calls_at_once: int | None
    """Calls that may be in flight; null as long as no limit is known."""
    running_calls: int
    """Calls in flight."""
    waiting_calls: int
    """Calls that are ready and may not start yet."""
    waits_because: str | None
    """Why they may not; null when nothing waits."""
    paused_because: str | None
    """Why the model is paused; null when it is not."""

    @property
    def noteworthy(self) -> bool:
        """Whether there are calls, a limit or a pause. Tasks name models: one that is idle says nothing."""
        limits = self.calls_per_minute, self.calls_at_once, self.waits_because, self.paused_because
        return self.running_calls + self.waiting_calls > 0 or any(limit is not None for limit in limits)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecentError(_Model):
    """A log line of level WARNING or above; equal ones are counted together."""

    time: str
    """When it was logged last: ISO 8601 in UTC."""
    seconds_ago: float
    """Seconds since then."""
    level: str
    """``warning``, ``error`` or ``critical``."""
    event: str
    """The name of the event, such as ``poll.failed``."""
    component: str
    """The component, service or model that it is about, or the module that logged it."""
    reason: str
    """Why, masked as in the log; ``see the log`` when only that may say it."""
    times: int
    """How often it was logged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status(_Model):
    """The state of the daemon at one moment."""

    version: str
    """The version of the daemon."""
    state: str
    """``starting``, ``running``, ``degraded`` (not ready) or ``draining``."""
    mode: str
    """The name of the provider of embeddings; ``none`` without one."""
    source: str
    """The name of the source of tasks."""
    uptime_seconds: float
    """Seconds since the start of the process."""
    why_idle: str | None
    """Why no task is processed, in one sentence; null while one is."""
    not_ready_because: Sequence[str]
    """Every reason why ``/ready`` answers 503; empty when it answers 200."""
    notes: Sequence[str]
    """What an operator may have to mend although the daemon is ready."""
    paused: Paused | None = None
    """Whether an operator has paused the daemon."""
    log_level: str
    """The least severe level that is logged."""
    slots: SlotCount
    """How many tasks run, and how many may."""
    running_tasks: Sequence[RunningTask]
    """The tasks that have been running the longest, 20 at most, the oldest first."""
    throughput: Throughput
    """Tasks of the last minute and of the last hour."""
    poll: Poll
    """When the source was asked for tasks, and will be."""
    backlog: BacklogStatus
    """The pending tasks of the source."""
    outbox: OutboxStatus
    """What the outbox holds."""
    isolation: Isolation
    """Isolated runs after a crash."""
    circuits: Mapping[str, Circuit]
    """The circuit of each remote."""
    models: Sequence[ModelStatus]
    """The models with calls, a limit or a pause, 20 at most, those with the most waiting calls first."""
    last_errors: Sequence[RecentError]
    """The last warnings and errors in the log, 20 at most, the newest first."""

    @property
    def ready(self) -> bool:
        """Whether ``/ready`` answers 200."""
        return not self.not_ready_because


#: the names that no component may use for a field of its own
FIELDS = frozenset(field.name for field in fields(Status))


def document(status: Status, more: Mapping[str, object]) -> Mapping[str, object]:
    """The answer of ``/status``: the model, and the fields of components."""
    return {**asdict(status), **more}


def limit(value: float) -> float | None:
    """A limit as JSON has it: None for infinity."""
    return round(value, 1) if isfinite(value) else None
