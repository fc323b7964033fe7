"""The error tree, ordered by whose fault it is. The class of an error decides what happens next.

::

    AiTaskProcessorError
    ├── ConfigurationError        wrong settings, found without the network: exit 78
    ├── DataDirectoryError        the data directory cannot be used: exit 73
    │   └── OutboxLocked          another daemon holds it: exit 75
    ├── OutboxUnwritable          a commit failed: the result stays in memory, intake stops
    ├── TaskError                 the task's own fault: it ends ``failed``
    │   └── InputRefused          the model refuses this very input
    ├── Retry                     a processor gives the task back
    ├── Rejected                  the source refuses this very result: dead letter
    └── RemoteError            somebody else's fault: the task stays pending
        ├── Unsent                nothing was sent: DNS, refused, TLS
        │   └── CircuitOpen       not tried: circuit open or remote paused
        ├── SetAside              not tried: this input fails again and again while others are served
        ├── Transient             5xx, 408, 425
        │   └── InvalidAnswer     an answer that makes no sense
        ├── CallRefused           one model call is refused: its texts or its size may be at fault, or the model
        ├── Throttled             429, or 503 with Retry-After
        ├── Ambiguous             it may have been applied: a reset after writing
        │   ├── TimedOut          no answer in time
        │   └── Unacknowledged    a report was answered, and the answer does not acknowledge it
        ├── Unauthorized          401 after a refresh, 403
        │   └── NoToken           no token from the token endpoint
        ├── Misconfigured         wrong configuration, seen from outside
        │   ├── NeverAcknowledged reports are answered, and never acknowledged
        │   └── ModelRefused      the same, but about one model only
        ├── QuotaExhausted        the provider's account is empty
        └── SinkFailed            a sink did not take a result; raised by the engine

Retries and the circuit breaker read attributes of the class. Messages never contain answers, user text or secrets.
``detail`` holds a remote's own explanation of its refusal; the caller that read the answer has sanitized it.
"""

from typing import ClassVar, Literal


class AiTaskProcessorError(Exception):
    """The root of all errors that are raised on purpose."""


class ConfigurationError(AiTaskProcessorError):
    """One or more local mistakes; ``problems`` has a line for each, naming the variable and the remedy."""

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class DataDirectoryError(AiTaskProcessorError):
    """The data directory cannot be created, read or written."""


class OutboxLocked(DataDirectoryError):
    """Another process holds the outbox of this data directory."""


class OutboxUnwritable(AiTaskProcessorError):
    """A commit failed (disk full, read-only). The caller still has the data and must keep it."""


class TaskError(AiTaskProcessorError):
    """The task's own fault. ``code`` is short and constant, ``message`` one sentence without user text."""

    def __init__(self, code: str, message: str = "") -> None:
        super().__init__(code)
        self.code = code
        self.message = message


class InputRefused(TaskError):
    """The model refuses this input (HTTP 400 in the provider's own error shape)."""


class Retry(AiTaskProcessorError):
    """A processor releases its task without an outcome; it may run again after ``delay_s`` seconds."""

    def __init__(self, delay_s: float = 0.0) -> None:
        super().__init__(f"again in {delay_s:g} s")
        self.delay_s = delay_s


class Rejected(AiTaskProcessorError):
    """The source refuses this result for good. ``lost``: another worker has the claim now.

    ``status``: the HTTP status; 0 when there is none.
    """

    def __init__(self, outcome: Literal["refused", "gone", "conflict", "lost"], status: int = 0) -> None:
        super().__init__(f"{outcome} (HTTP {status})" if status else outcome)
        self.outcome = outcome
        self.status = status
        self.detail = ""


class RemoteError(AiTaskProcessorError):
    """Somebody else's fault. Never fails a task.

    ``retry_after_s`` is the delay that the remote asked for, when it named one.
    """

    #: this is evidence that the remote is down (counted by the circuit breaker)
    trips_breaker: ClassVar[bool] = False
    #: a retry within seconds may succeed
    retryable: ClassVar[bool] = False
    #: first and longest pause in seconds before one probe is sent (doubled each time); None: no pause
    pause_s: ClassVar[tuple[float, float] | None] = None

    def __init__(self, message: str, *, status: int | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s
        self.detail = ""


class Unsent(RemoteError):
    """Nothing reached the remote: name resolution, refused connection, TLS, pool."""

    trips_breaker = True
    retryable = True


class CircuitOpen(Unsent):
    """Not tried: the remote's circuit is open, or it is paused. ``retry_after_s`` says for how long."""

    trips_breaker = False
    retryable = False


class SetAside(RemoteError):
    """Not tried: the model fails for this input repeatedly and serves others. ``retry_after_s``: until the next try."""


class Transient(RemoteError):
    """The remote cannot serve the request now (5xx, 408, 425)."""

    trips_breaker = True
    retryable = True


class InvalidAnswer(Transient):
    """The remote's answer is invalid (HTML, truncated JSON, a wrong vector)."""


class CallRefused(RemoteError):
    """A model refuses one call without naming the cause: its texts, their number or the request itself.

    ``final``: the error for a text that is refused in a call of its own; None when that must not fail its task.
    ``explained``: the refusal names the text as the cause. ``too_large``: the call is too large; ``limit``: the
    limit that the refusal names.
    """

    pause_s = (1.0, 300.0)

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        final: InputRefused | None = None,
        explained: bool = False,
        too_large: bool = False,
        limit: int | None = None,
    ) -> None:
        super().__init__(message, status=status)
        self.final = final
        self.explained = explained
        self.too_large = too_large
        self.limit = limit


class Throttled(RemoteError):
    """The remote asks for a delay (429, 503 with Retry-After): pauses all calls, is no evidence of an outage."""

    retryable = True
    pause_s = (1.0, 60.0)


class Ambiguous(RemoteError):
    """The request was written and the answer is missing or unclear: it may have been applied."""

    trips_breaker = True
    retryable = True


class TimedOut(Ambiguous):
    """The request was written and no answer came in time."""


class Unacknowledged(Ambiguous):
    """A report was answered with 2xx, and the answer does not acknowledge it.

    ``page``: the answer seems to come from something other than the task API, so that no callback ran.
    """

    def __init__(self, message: str, *, status: int | None = None, page: bool = False) -> None:
        super().__init__(message, status=status)
        self.page = page


class Unauthorized(RemoteError):
    """401 after a fresh token, or 403."""

    pause_s = (10.0, 300.0)


class NoToken(Unauthorized):
    """The token endpoint is down or refuses the client; ``retry_after_s``: seconds until the next request to it."""

    pause_s = (0.2, 5.0)


class Misconfigured(RemoteError):
    """A refusal that concerns every task: unknown model, refused parameter, a 404 that is not the API's own."""

    pause_s = (10.0, 300.0)


class NeverAcknowledged(Misconfigured):
    """Several consecutive reports were not acknowledged. Each further probe may run the upstream's callback again."""

    pause_s = (300.0, 300.0)


class ModelRefused(Misconfigured):
    """The provider refuses one model or its parameters: tasks of that model wait, the others go on.

    ``sure``: an error code says so, not only a message that can also mean a wrong address.
    """

    def __init__(
        self, message: str, *, status: int | None = None, retry_after_s: float | None = None, sure: bool = False
    ) -> None:
        super().__init__(message, status=status, retry_after_s=retry_after_s)
        self.sure = sure


class QuotaExhausted(RemoteError):
    """The provider's account is empty. Some throttles use the same name: the first pause is short after a success."""

    pause_s = (300.0, 300.0)


class SinkFailed(RemoteError):
    """A sink did not take a result, whatever it raised. The message names the sink.

    ``tried``: false when nothing was sent at all, because the sink's circuit is open.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None, tried: bool = True) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.tried = tried


def explained(error: Rejected | RemoteError) -> str:
    """The error in one line, with the remote's own explanation if there is one."""
    return f"{error}: {error.detail}" if error.detail else str(error)
