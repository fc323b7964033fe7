"""The error tree, by whose fault it is: that alone decides what happens next.

::

    AiTaskProcessorError
    ├── ConfigurationError        ours, knowable without the network: exit 78
    ├── DataDirectoryError        the data directory cannot be used: exit 73
    │   └── OutboxLocked          another daemon holds it: exit 75
    ├── OutboxUnwritable          a commit failed: the result stays in memory, intake stops
    ├── TaskError                 the task's own fault: it ends ``failed``
    │   └── InputRefused          the model refuses this very input
    ├── Retry                     a processor gives the task back
    ├── Rejected                  the source refuses this very result: dead letter
    └── RemoteError            somebody else's fault: the task stays pending
        ├── Unsent                nothing was sent: DNS, refused, TLS
        │   └── CircuitOpen       we did not even try: circuit open or remote paused
        ├── SetAside              we did not try: this input fails again and again while others are served
        ├── Transient             5xx, 408, 425
        │   └── InvalidAnswer     an answer that makes no sense
        ├── CallRefused           one model call is refused: its texts or its size may be at fault, or the model
        ├── Throttled             429, or 503 with Retry-After
        ├── Ambiguous             it may have been applied: a reset after writing
        │   ├── TimedOut          no answer in time
        │   └── Unacknowledged    a report was answered, and the answer does not acknowledge it
        ├── Unauthorized          401 after a refresh, 403
        │   └── NoToken           the token endpoint gave us none
        ├── Misconfigured         wrong configuration, seen from outside
        │   ├── NeverAcknowledged reports are answered, and never acknowledged
        │   └── ModelRefused      the same, but about one model only
        └── QuotaExhausted        the provider wants money

What a class means for retries and for the circuit breaker are attributes of the class, not
tuples at the caller. Messages never contain answers, user text or secrets; ``detail`` holds what a
remote says about its refusal in its own words, cleaned by whoever read it.
"""

from typing import ClassVar, Literal


class AiTaskProcessorError(Exception):
    """The root: nothing else is raised on purpose."""


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
    """A commit failed (disk full, read-only): what was to be kept is still in the caller's hands."""


class TaskError(AiTaskProcessorError):
    """The task's own fault. ``code`` is short and constant, ``message`` one sentence without user text."""

    def __init__(self, code: str, message: str = "") -> None:
        super().__init__(code)
        self.code = code
        self.message = message


class InputRefused(TaskError):
    """The model refuses this input (HTTP 400 in the provider's own error shape)."""


class Retry(AiTaskProcessorError):
    """A processor gives its task back untried; it may run again after ``delay_s`` seconds."""

    def __init__(self, delay_s: float = 0.0) -> None:
        super().__init__(f"again in {delay_s:g} s")
        self.delay_s = delay_s


class Rejected(AiTaskProcessorError):
    """The source refuses this result for good. ``lost``: its claim belongs to somebody else by now.

    ``status``: of HTTP; 0 where there is none.
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

    #: is this evidence that the remote is down? (counted by the circuit breaker)
    trips_breaker: ClassVar[bool] = False
    #: is a repetition within seconds worth while?
    retryable: ClassVar[bool] = False
    #: first and longest pause in seconds before one probe is sent (doubled each time); None: a pause is not the answer
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
    """Not tried: a model fails for this input again and again and serves others. ``retry_after_s``: the next try."""


class Transient(RemoteError):
    """The remote answered that it cannot now (5xx, 408, 425)."""

    trips_breaker = True
    retryable = True


class InvalidAnswer(Transient):
    """The remote answered something that makes no sense (HTML, truncated JSON, a wrong vector)."""


class CallRefused(RemoteError):
    """A model refuses one call, in words that do not say whether its texts, their number or the request is at fault.

    ``final``: what a text that is alone at fault ends with, None when that must not end it. ``explained``: the
    refusal itself says that it is about the text. ``too_large``: it says that the call is, and ``limit`` of what.
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
    """The remote asks for patience (429, 503 with Retry-After): one hold for all, no evidence of an outage."""

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

    ``page``: by something that is not the task API, as far as one can tell, so that no callback ran.
    """

    def __init__(self, message: str, *, status: int | None = None, page: bool = False) -> None:
        super().__init__(message, status=status)
        self.page = page


class Unauthorized(RemoteError):
    """401 after a fresh token, or 403."""

    pause_s = (10.0, 300.0)


class NoToken(Unauthorized):
    """The token endpoint is down or refuses us; ``retry_after_s`` says when it is asked again."""

    pause_s = (0.2, 5.0)


class Misconfigured(RemoteError):
    """A refusal that is not about one task: unknown model, refused parameter, a 404 that is not the API's own."""

    pause_s = (10.0, 300.0)


class NeverAcknowledged(Misconfigured):
    """Answers that do not acknowledge, several in a row. Each further probe may run the upstream's callback again."""

    pause_s = (300.0, 300.0)


class ModelRefused(Misconfigured):
    """The provider refuses one model or its parameters: tasks of that model wait, the others go on.

    ``sure``: it says so in a code of its own, and not only in words that can mean a wrong address.
    """

    def __init__(
        self, message: str, *, status: int | None = None, retry_after_s: float | None = None, sure: bool = False
    ) -> None:
        super().__init__(message, status=status, retry_after_s=retry_after_s)
        self.sure = sure


class QuotaExhausted(RemoteError):
    """The provider's account is empty, or a throttle is named so: first a short pause when it served a moment ago."""

    pause_s = (300.0, 300.0)


def explained(error: Rejected | RemoteError) -> str:
    """The error in one line, with the remote's own words when it said why."""
    return f"{error}: {error.detail}" if error.detail else str(error)
