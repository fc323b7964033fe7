"""Traces: what the daemon says about its work as spans. ``spans.py`` makes them with OpenTelemetry.

Tracing is on when ``start`` was called with an endpoint. While it is off, OpenTelemetry is not imported, nothing is
built, and each function here tests one attribute.
"""

import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

from ai_task_processor.core import environment
from ai_task_processor.core.errors import ConfigurationError
from ai_task_processor.core.settings import TraceSettings
from ai_task_processor.core.syntax import header_secrets
from ai_task_processor.models.task import Record, Task, Usage
from ai_task_processor.ops import logs

if TYPE_CHECKING:
    from ai_task_processor.ops.spans import Spans

NO_HEADERS: Final[Mapping[str, str]] = {}


class Span:
    """A span, active while its ``with`` block runs. This one is what there is while tracing is off: nothing."""

    __slots__ = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End it; an exception is noted by its type."""

    def carrier(self, upstream: Mapping[str, str] | None) -> Mapping[str, str] | None:
        """What continues this span elsewhere (W3C Trace Context); ``upstream`` while tracing is off."""
        return upstream

    def failed(self, error: BaseException) -> None:
        """Note an error by its type; its message may hold user text."""

    def outcome(self, status: str) -> None:
        """How an attempt ended: ``succeeded``, ``failed`` or ``released``."""

    def used(self, usage: Usage) -> None:
        """The tokens that a model call used."""


class Served(Protocol):
    """Something that a model call carries, and the attempts that wait for it."""

    spans: Sequence[Span]


OFF: Final = Span()


class _State:
    """``spans`` is None while tracing is off."""

    spans: "Spans | None" = None
    stop: Callable[[], object] = staticmethod(lambda: None)


_state = _State()


def start(settings: TraceSettings, version: str) -> None:
    """Turn tracing on when the settings have an endpoint. Raises ``ConfigurationError`` without the extra ``otel``.

    The SDK reads its variables from the environment: those in ``.env`` and in a secret file are added to it.
    """
    endpoint = settings.endpoint_variable
    if endpoint is None:
        return
    if any(find_spec(module) is None for module in ("opentelemetry.sdk", "opentelemetry.exporter")):
        extra = "install it with pip install 'ai-task-processor[otel]', or remove that variable"
        raise ConfigurationError(f"{endpoint} is set, and traces need the extra otel: {extra}")
    below = environment.filled(environment.read_dotenv(Path(".env")).texts)
    for name, text in {**below, **settings.variables()}.items():
        if name.startswith("OTEL_"):
            os.environ.setdefault(name, text)
    logs.learn(header_secrets(os.environ.get("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "")))
    from ai_task_processor.ops.spans import exporting

    try:
        provider = exporting(version)
    except Exception as error:
        reason = str(error).rstrip(".")
        raise ConfigurationError(f"an OTEL_ variable cannot be used ({reason}): correct it") from error
    use(provider, continues=settings.trace_parent)
    _state.stop = provider.shutdown


def use(provider: Any, *, continues: bool = False) -> None:
    """Make spans with this tracer provider of OpenTelemetry. ``continues``: see ``TRACE_PARENT``."""
    from ai_task_processor.ops.spans import Spans

    _state.spans = Spans(provider, continues=continues)


def stop(timeout_s: float) -> None:
    """Send the spans that wait, for at most ``timeout_s``, and turn tracing off. It blocks."""
    ending, _state.stop, _state.spans = _state.stop, lambda: None, None
    if timeout_s > 0:
        last = threading.Thread(target=ending, name="traces-end", daemon=True)
        last.start()
        last.join(timeout_s)


def received(source: str, count: int, began_ns: int) -> None:
    """A claim has brought ``count`` tasks; ``began_ns``: when it was made, nanoseconds since the epoch."""
    if _state.spans is not None:
        _state.spans.received(source, count, began_ns)


def process(task: Task, attempt: int) -> Span:
    """One attempt at a task."""
    return OFF if _state.spans is None else _state.spans.process(task, attempt)


def settle(record: Record) -> Span:
    """One report of an outcome. Its parent is the attempt, perhaps of another process."""
    return OFF if _state.spans is None else _state.spans.settle(record)


def call(operation: str, provider: str, model: str, served: Iterable[Served] = ()) -> Span:
    """One call of a model, linked with the attempts that it serves, also with those that join meanwhile."""
    return OFF if _state.spans is None else _state.spans.call(operation, provider, model, served)


def waiting() -> Sequence[Span]:
    """The attempt in whose context this is called; empty outside of one."""
    return () if _state.spans is None else _state.spans.waiting()


def reached(host: str, port: int) -> None:
    """The call under way goes to this server."""
    if _state.spans is not None:
        _state.spans.reached(host, port)


def headers() -> Mapping[str, str]:
    """The headers with which a request continues the present span; empty outside of one."""
    return NO_HEADERS if _state.spans is None else _state.spans.headers()


def on() -> bool:
    """Whether spans are made."""
    return _state.spans is not None


def exemplar() -> dict[str, str] | None:
    """The labels of an exemplar for a histogram; None outside of a span that is sampled."""
    return None if _state.spans is None else _state.spans.exemplar()
