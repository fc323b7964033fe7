"""Task, result, record: the words of a task's life, from the poll to the acknowledged result.

These are trusted values (frozen dataclasses): whatever came from outside was parsed before it
became one of them. User content never appears in a ``repr``, so that it cannot slip into a log.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class TaskType(StrEnum):
    """The kinds of task this package knows by name. A new built-in processor starts with a line here."""

    TEXT_EMBEDDING = "text_embedding"

    @classmethod
    def named(cls, name: str) -> "TaskType | str":
        """``text-embedding`` and ``text_embedding`` mean the same; an unknown name is data and stays a string."""
        try:
            return cls(name.replace("-", "_"))
        except ValueError:
            return name


class TaskStatus(StrEnum):
    """The states of a task; ``pending`` in the outbox is a quarantined one."""

    PENDING = "pending"
    IN_PROGRESS = "in_progress"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One piece of work, as a source listed it.

    ``content`` is JSON as it came: a processor parses what it understands. ``raw`` is the whole
    record, callback fields included, which belong to the upstream and are never interpreted here.

    What only some sources know: ``timeout_s`` and ``attempt_limit`` bound its attempts where they are stricter than
    the daemon's own bounds, ``priority`` (higher is more urgent) and ``tenant`` say whom it belongs to, ``trace`` is
    the carrier of its trace (W3C Trace Context: ``traceparent``, ``tracestate``).
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
    """What a model charged, in tokens."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Vector:
    """An embedding: little-endian float32 components, four bytes each, exactly as the model gave them."""

    data: bytes = field(repr=False)

    @property
    def dimensions(self) -> int:
        return len(self.data) // 4


@dataclass(frozen=True, slots=True)
class Embedded:
    """One text's vector. ``usage``: its share of the call, by bytes; nothing when the vector was remembered."""

    vector: Vector
    usage: Usage


@dataclass(frozen=True, slots=True)
class TaskResult:
    """What a processor made of a task.

    ``output`` is JSON (pydantic models are welcome inside) and becomes ``result`` upstream. A
    ``vector`` alone becomes a plain array of numbers; beside an object it becomes its ``embedding``.

    Raises ``ValueError`` when there is neither: a bare ``succeeded`` would lose the result silently,
    because the upstream runs its callback only when there is a ``result``.
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

    ``started``: all of them; ``failed``: without a result, whoever was at fault; ``crashed``: its processor did;
    ``kills``: the process died while the task ran; ``kills_isolated``: in its isolated runs.
    """

    started: int = 0
    failed: int = 0
    crashed: int = 0
    kills: int = 0
    kills_isolated: int = 0


@dataclass(frozen=True, slots=True)
class InFlight:
    """A task that was running when an earlier process died. ``ran_s``: it had been running for at least so long."""

    task_type: str
    fingerprint: str
    tries: Tries
    ran_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a task failed for a reason of its own: a short code and a sentence without user text."""

    code: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a source needs to be given the outcome: plain strings, so that it survives a restart in the outbox.

    (``source``, ``id``) is the key of the task. ``token`` is opaque to everybody but its source (an owner, an epoch).
    """

    source: str
    id: str
    token: str = ""


@dataclass(frozen=True, slots=True)
class Claim:
    """A task, and the receipt under which its outcome goes back."""

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
    """Somebody else is at fault, or the processor asked for more time: the task stays pending for ``delay_s``."""

    delay_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Nobody wants the result any more."""


Outcome = Completed | Failed | Cancelled
"""What is reported to a source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A finished outcome in the outbox: everything delivery needs, in bytes.

    ``body`` is JSON: the output (``null`` when the vector stands alone) or, for a failed task,
    ``{"code", "message"}``. Times are seconds since the epoch, so that they survive a restart.
    ``fingerprint`` identifies the content the outcome belongs to (see ``codec.fingerprint``).
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

    @property
    def task_id(self) -> str:
        return self.receipt.id

    @property
    def size(self) -> int:
        """Bytes this record is charged for against ``OUTBOX_MAX_BYTES``."""
        return len(self.body) + len(self.vector or b"") + len(self.receipt.id) + 200
