"""The value types of a task, from the poll to the acknowledged result.

Frozen dataclasses of trusted values: input from outside is parsed before it becomes one of them.
User content never appears in a ``repr``, so that it does not get into a log.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class TaskType(StrEnum):
    """The built-in task types. A new built-in processor starts with a line here."""

    TEXT_EMBEDDING = "text_embedding"
    IDENTIFYING_DATA = "identifying_data"
    DEFINING_TOPICS = "defining_topics"
    DEFINING_IMPACT_AREA = "defining_impact_area"
    DEFINING_SEVERITY = "defining_severity"
    SUMMARIZE = "summarize"
    CHAT = "chat"
    ECHO = "echo"
    SLEEP = "sleep"
    SIMULATE = "simulate"
    SEARCH = "search"
    SEARCH_BATCH = "search_batch"
    FETCH_URL = "fetch_url"
    REMINDER = "reminder"

    @classmethod
    def named(cls, name: str) -> "TaskType | str":
        """The type with this name, with ``-`` or ``_``; an unknown name stays a string."""
        try:
            return cls(name.replace("-", "_"))
        except ValueError:
            return name


class TaskStatus(StrEnum):
    """The states of a task; ``pending`` in the outbox means quarantined."""

    PENDING = "pending"
    IN_PROGRESS = "in_progress"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One task, as a source listed it.

    ``content``: JSON as received; the processor parses it. ``raw``: the whole record with its callback fields, which
    belong to the upstream and are not interpreted here.

    Set by some sources only: ``timeout_s`` and ``attempt_limit``, which apply when they are stricter than the daemon's
    own limits; ``priority`` (higher is more urgent); ``tenant``, the owner; ``trace``, the carrier of its trace (W3C
    Trace Context: ``traceparent``, ``tracestate``).
    """

    id: str
    type: TaskType | str
    content: object = field(repr=False)
    created_at: datetime | None = None
    attempt: int = 1
    raw: Mapping[str, object] = field(default_factory=dict, repr=False)
    timeout_s: float | None = None
    attempt_limit: int | None = None
    priority: int | None = None
    tenant: str | None = None
    trace: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """The tokens that a model charged.

    ``cached_tokens``: the part of ``prompt_tokens`` that the provider had cached, never more than those.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0

    def __post_init__(self) -> None:
        if self.cached_tokens > self.prompt_tokens:
            object.__setattr__(self, "cached_tokens", self.prompt_tokens)

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cached_tokens + other.cached_tokens,
        )


@dataclass(frozen=True, slots=True)
class Vector:
    """An embedding: little-endian float32 components, four bytes each, exactly as the model gave them."""

    data: bytes = field(repr=False)

    @property
    def dimensions(self) -> int:
        return len(self.data) // 4


@dataclass(frozen=True, slots=True)
class Embedded:
    """One text's vector. ``usage``: its share of the call, by bytes; zero when the vector was cached."""

    vector: Vector
    usage: Usage


@dataclass(frozen=True, slots=True)
class TaskResult:
    """The result of a processor.

    ``output``: JSON, which may contain pydantic models; it becomes ``result`` upstream. A ``vector`` without an output
    becomes an array of numbers; with an object it becomes the object's ``embedding``.

    Raises ``ValueError`` when there is neither: the upstream runs its callback only when there is a ``result``.
    """

    output: object = field(default=None, repr=False)
    usage: Usage | None = None
    vector: Vector | None = None

    def __post_init__(self) -> None:
        if self.output is None and self.vector is None:
            raise ValueError("a TaskResult needs an output that is not None")
        if self.vector is not None and not isinstance(self.output, Mapping | None):
            raise ValueError("beside a vector, output must be an object or None")


@dataclass(slots=True)
class Tries:
    """Earlier attempts at an unfinished task.

    ``started``: all; ``failed``: ended without a result for any reason; ``crashed``: ended by an error of the
    processor; ``kills``: the process crashed meanwhile; ``kills_isolated``: the same in isolated runs.
    """

    started: int = 0
    failed: int = 0
    crashed: int = 0
    kills: int = 0
    kills_isolated: int = 0


@dataclass(frozen=True, slots=True)
class InFlight:
    """A task that was running when an earlier process crashed, and for at least how many seconds (``ran_s``)."""

    task_type: str
    fingerprint: str
    tries: Tries
    ran_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a task failed: a short code and a sentence without user text."""

    code: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a source needs to accept the outcome: plain strings, stored in the outbox across restarts.

    (``source``, ``id``) is the key of the task. ``token`` is opaque outside its source (an owner, an epoch).
    """

    source: str
    id: str
    token: str = ""


@dataclass(frozen=True, slots=True)
class Claim:
    """A task, and the receipt with which its outcome is reported."""

    task: Task
    receipt: Receipt


@dataclass(frozen=True, slots=True)
class Completed:
    """The processor returned a result."""

    result: TaskResult


@dataclass(frozen=True, slots=True)
class Failed:
    """The task itself is at fault: final."""

    failure: Failure


@dataclass(frozen=True, slots=True)
class Released:
    """A remote failed, or the processor asked for a retry: the task stays pending for at least ``delay_s``.

    ``failure``: set when the task itself may be at fault (a crash of its processor, a timeout).
    """

    delay_s: float
    reason: str
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The task was cancelled upstream."""


Outcome = Completed | Failed | Cancelled
"""What is reported to a source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A finished outcome as stored in the outbox: everything that delivery needs.

    ``body``: JSON, the output (``null`` when there is only a vector) or, for a failed task, ``{"code", "message"}``.
    Times are seconds since the epoch. ``fingerprint``: of the content that the outcome belongs to
    (see ``codec.fingerprint``). ``acknowledged``: by the source; the sinks after the report are still to be written.
    """

    receipt: Receipt
    task_type: str
    status: TaskStatus
    fingerprint: str
    finished_at: float
    created_at: float | None = None
    body: bytes = field(default=b"null", repr=False)
    vector: bytes | None = field(default=None, repr=False)
    attempts: int = 0
    due_at: float = 0.0
    reason: str | None = None
    trace: Mapping[str, str] | None = None
    usage: Usage | None = None
    acknowledged: bool = False

    @property
    def task_id(self) -> str:
        return self.receipt.id

    @property
    def size(self) -> int:
        """Bytes this record is charged for against ``OUTBOX_MAX_BYTES``."""
        return len(self.body) + len(self.vector or b"") + len(self.receipt.id) + 200
