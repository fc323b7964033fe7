"""The spans of the daemon: their names, kinds and attributes, by OpenTelemetry's semantic conventions.

A span has no content: no text of a task, a result or an error. Those for messaging and generative AI are in
development; ``SCHEMA`` is the version that the names here are of.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar, Token
from functools import lru_cache
from types import TracebackType
from typing import Any, Final, Self, cast

from opentelemetry import trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ai_task_processor.core.errors import TaskError
from ai_task_processor.models.task import Record, Task, Usage
from ai_task_processor.ops import logs
from ai_task_processor.ops.condition import Condition
from ai_task_processor.ops.log_context import TRACE
from ai_task_processor.ops.tracing import NO_HEADERS, Served, Span

#: version of the semantic conventions
SCHEMA: Final = "1.44.0"
SCHEMA_URL: Final = f"https://opentelemetry.io/schemas/{SCHEMA}"

#: the spans, and what each is
SPANS: Final[Mapping[str, tuple[SpanKind, str]]] = {
    "receive ai-tasks": (SpanKind.CLIENT, "a claim that brought tasks from the source"),
    "process {task_type}": (SpanKind.CONSUMER, "one attempt at a task, until its outcome is durable"),
    "embeddings {model}": (SpanKind.CLIENT, "one call of an embedding model, for texts of many tasks"),
    "chat {model}": (SpanKind.CLIENT, "one call of a chat model, within an attempt"),
    "settle {task_type}": (SpanKind.CLIENT, "one report of an outcome to the source"),
}
#: the attributes, and what each is
ATTRIBUTES: Final[Mapping[str, str]] = {
    "messaging.system": "`ai_task_processor`",
    "messaging.destination.name": "`ai-tasks`",
    "messaging.operation.name": "`receive`, `process` or `settle`",
    "messaging.operation.type": "the same",
    "messaging.message.id": "the id of the task (process, settle)",
    "messaging.batch.message_count": "how many tasks it brought (receive)",
    "ai_task_processor.source": "the name of the source (receive, settle)",
    "ai_task_processor.task.type": "the type of the task (process, settle)",
    "ai_task_processor.attempt": "the number of the attempt (process) or of the report (settle), from 1",
    "ai_task_processor.outcome": "`succeeded`, `failed` or `released` (process); the state that is reported (settle)",
    "gen_ai.operation.name": "`embeddings` or `chat`",
    "gen_ai.provider.name": "the name of the provider",
    "gen_ai.request.model": "the provider's name of the model",
    "gen_ai.usage.input_tokens": "tokens of the prompt",
    "gen_ai.usage.output_tokens": "tokens of the answer (chat)",
    "gen_ai.usage.cache_read.input_tokens": "the part of the prompt that the provider had cached, if any",
    "server.address": "the host of the model API",
    "server.port": "its port",
    "http.response.status_code": "the status of a refusal, if an answer came",
    "error.type": "the code of a task's own fault, or the type of the error; the span's status is then an error",
}

#: links of a call with the attempts that it serves; also the SDK's default limit for any span
MAX_LINKS: Final = 128
#: longest text of an attribute: ids and names come from outside
MAX_TEXT: Final = 128

#: loggers of the SDK that repeat themselves, or show what came from outside; ``_Exporter`` logs for the first
_SILENT: Final = ("opentelemetry.exporter", "opentelemetry.trace", "urllib3")

_W3C: Final = TraceContextTextMapPropagator()
_ATTEMPT: ContextVar["ActiveSpan | None"] = ContextVar("attempt", default=None)


class ActiveSpan(Span):
    """A span that is made and ended."""

    __slots__ = ("_logged", "_span", "_tokens")

    def __init__(self, span: trace.Span) -> None:
        self._span = span

    @property
    def context(self) -> SpanContext:
        return self._span.get_span_context()

    def __enter__(self) -> Self:
        self._logged = TRACE.set(trace.format_trace_id(self.context.trace_id))
        self._tokens = attach(trace.set_span_in_context(self._span))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self.failed(error)
        self._span.end()
        detach(self._tokens)
        TRACE.reset(self._logged)

    def carrier(self, upstream: Mapping[str, str] | None) -> Mapping[str, str]:  # noqa: ARG002 - it is continued by this span
        return _carrier(self._span)

    def failed(self, error: BaseException) -> None:
        status = getattr(error, "status", None)
        if isinstance(status, int):
            self._span.set_attribute("http.response.status_code", status)
        named = error.code if isinstance(error, TaskError) else type(error).__name__
        self._span.set_attribute("error.type", _shown(str(named)))
        self._span.set_status(Status(StatusCode.ERROR))

    def outcome(self, status: str) -> None:
        self._span.set_attribute("ai_task_processor.outcome", status)

    def used(self, usage: Usage) -> None:
        self._span.set_attribute("gen_ai.usage.input_tokens", usage.prompt_tokens)
        if usage.completion_tokens:
            self._span.set_attribute("gen_ai.usage.output_tokens", usage.completion_tokens)
        if usage.cached_tokens:
            self._span.set_attribute("gen_ai.usage.cache_read.input_tokens", usage.cached_tokens)

    def link(self, other: SpanContext) -> None:
        """Link it with another one, unless it has ended."""
        if self._span.is_recording():
            self._span.add_link(other)


class AttemptSpan(ActiveSpan):
    """An attempt; texts that it waits for remember it."""

    __slots__ = ("_before",)
    _before: Token[ActiveSpan | None]

    def __enter__(self) -> Self:
        self._before = _ATTEMPT.set(self)
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, traceback)
        _ATTEMPT.reset(self._before)


class CallSpan(ActiveSpan):
    """A call of a model for several attempts, linked both ways."""

    __slots__ = ("_linked", "_served")

    def __init__(self, span: trace.Span, served: Iterable[Served]) -> None:
        super().__init__(span)
        self._served = served
        self._linked: set[Span] = set()

    def __enter__(self) -> Self:
        self._link()
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._link()
        super().__exit__(kind, error, traceback)

    def _link(self) -> None:
        for attempt in (span for each in self._served for span in each.spans):
            if attempt in self._linked or not isinstance(attempt, ActiveSpan):
                continue
            self._linked.add(attempt)
            if len(self._linked) <= MAX_LINKS:
                self.link(attempt.context)
            attempt.link(self.context)


class Spans:
    """Makes the spans. ``continues``: an attempt is a child of the span that its task names, not just linked."""

    def __init__(self, provider: trace.TracerProvider, *, continues: bool) -> None:
        for name in _SILENT:
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        self._tracer = provider.get_tracer("ai_task_processor", schema_url=SCHEMA_URL)
        self._continues = continues

    def received(self, source: str, count: int, began_ns: int) -> None:
        attributes = _messaging("receive") | {
            "messaging.batch.message_count": count,
            "ai_task_processor.source": _shown(source),
        }
        kind, _ = SPANS["receive ai-tasks"]
        self._tracer.start_span("receive ai-tasks", Context(), kind, attributes, start_time=began_ns).end()

    def process(self, task: Task, attempt: int) -> Span:
        kind, _ = SPANS["process {task_type}"]
        parent = _W3C.extract(task.trace or NO_HEADERS, Context())
        upstream = trace.get_current_span(parent).get_span_context()
        links = () if self._continues or not upstream.is_valid else (Link(upstream),)
        attributes = _about("process", task.id, task.type) | {"ai_task_processor.attempt": attempt}
        context = parent if self._continues else Context()
        return AttemptSpan(self._tracer.start_span(f"process {_shown(task.type)}", context, kind, attributes, links))

    def settle(self, record: Record) -> Span:
        kind, _ = SPANS["settle {task_type}"]
        attributes = _about("settle", record.task_id, record.task_type) | {
            "ai_task_processor.source": _shown(record.receipt.source),
            "ai_task_processor.attempt": record.attempts + 1,
            "ai_task_processor.outcome": record.status.value,
        }
        parent = _W3C.extract(record.trace or NO_HEADERS, Context())
        return ActiveSpan(self._tracer.start_span(f"settle {_shown(record.task_type)}", parent, kind, attributes))

    def call(self, operation: str, provider: str, model: str, served: Iterable[Served]) -> Span:
        kind, _ = SPANS[f"{operation} {{model}}"]
        attributes = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": _shown(provider),
            "gen_ai.request.model": _shown(model),
        }
        return CallSpan(
            self._tracer.start_span(f"{operation} {_shown(model)}", kind=kind, attributes=attributes), served
        )

    def waiting(self) -> Sequence[Span]:
        attempt = _ATTEMPT.get()
        return () if attempt is None else (attempt,)

    def reached(self, host: str, port: int) -> None:
        span = trace.get_current_span()
        span.set_attribute("server.address", host)
        span.set_attribute("server.port", port)

    def headers(self) -> Mapping[str, str]:
        return _carrier(trace.get_current_span())

    def exemplar(self) -> dict[str, str] | None:
        context = trace.get_current_span().get_span_context()
        if not context.trace_flags.sampled:
            return None
        return {
            "trace_id": trace.format_trace_id(context.trace_id),
            "span_id": trace.format_span_id(context.span_id),
        }


def _carrier(span: trace.Span) -> Mapping[str, str]:
    carrier: dict[str, str] = {}
    _W3C.inject(carrier, trace.set_span_in_context(span, Context()))
    return carrier


def _messaging(operation: str) -> dict[str, Any]:
    return {
        "messaging.system": "ai_task_processor",
        "messaging.destination.name": "ai-tasks",
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
    }


def _about(operation: str, task_id: str, task_type: str) -> dict[str, Any]:
    return _messaging(operation) | {
        "messaging.message.id": _shown(task_id),
        "ai_task_processor.task.type": _shown(task_type),
    }


@lru_cache(maxsize=1024)
def _shown(text: str) -> str:
    """A name from outside: masked, bounded, and without lone surrogates, which would lose a whole export."""
    return logs.masked(text)[:MAX_TEXT].encode("utf-8", "replace").decode()


class _Exporter:
    """The SDK's exporter, and a log line when it begins to fail and works again."""

    def __init__(self, exporter: Any) -> None:
        self._exporter = exporter
        self._condition = Condition("traces.failed", "traces.restored")

    def export(self, spans: Sequence[Any]) -> Any:
        result = self._exporter.export(spans)
        refused = "the receiver does not answer, or refuses spans: look at the OTEL_EXPORTER_OTLP_ variables"
        self._condition.note(None if result.name == "SUCCESS" else refused)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


def exporting(version: str) -> Any:
    """A tracer provider of the SDK that sends over OTLP/HTTP, as the ``OTEL_`` variables of the environment say.

    Spans wait in memory, at most ``OTEL_BSP_MAX_QUEUE_SIZE`` of them, for a thread that sends them; more are dropped.
    """
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create({"service.version": version})
    if str(resource.attributes["service.name"]).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": "ai-task-processor"}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(cast("Any", _Exporter(OTLPSpanExporter()))))
    return provider
