"""Spans: their parents and links, what they never hold, and that there are none while tracing is off."""

import asyncio
import json
from collections.abc import Iterator, Mapping
from io import StringIO
from types import SimpleNamespace

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes, messaging_attributes
from opentelemetry.semconv.attributes import error_attributes, http_attributes, server_attributes
from opentelemetry.trace import SpanKind
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from ai_task_processor.core.errors import ConfigurationError, TaskError, Throttled
from ai_task_processor.core.plugins import load_selected
from ai_task_processor.core.reading import load_group
from ai_task_processor.core.settings import TraceSettings
from ai_task_processor.models.task import Receipt, Record, Task, TaskStatus, Usage
from ai_task_processor.ops import logs, spans, tracing
from ai_task_processor.ops.metrics import Metrics

SECRET = "hunter2hunter2"
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
UPSTREAM = f"00-{TRACE}-{PARENT}-01"


@pytest.fixture
def provider() -> TracerProvider:
    return TracerProvider(shutdown_on_exit=False)


@pytest.fixture
def memory(provider: TracerProvider) -> Iterator[InMemorySpanExporter]:
    """Where spans go; tracing is on meanwhile."""
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing.use(provider)
    yield exporter
    tracing.stop(0)
    logs.reset()


def task(trace: Mapping[str, str] | None = None, task_id: str = "a") -> Task:
    return Task(id=task_id, type="text_embedding", content={"text": SECRET}, trace=trace)


def record(trace: Mapping[str, str] | None, attempts: int = 0) -> Record:
    return Record(
        receipt=Receipt("aletheia", "a"),
        task_type="text_embedding",
        status=TaskStatus.SUCCEEDED,
        fingerprint="f",
        finished_at=0.0,
        body=json.dumps(SECRET).encode(),
        trace=trace,
        attempts=attempts,
    )


def one(memory: InMemorySpanExporter, name: str) -> ReadableSpan:
    (found,) = [span for span in memory.get_finished_spans() if span.name == name]
    return found


def linked(span: ReadableSpan) -> list[int]:
    return [int(link.context.span_id) for link in span.links]


def traceparent(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-{span.context.trace_flags:02x}"


def context_id(span: ReadableSpan) -> int:
    assert span.context is not None
    return int(span.context.span_id)


@pytest.mark.parametrize("continues", [False, True])
@pytest.mark.parametrize(
    ("carrier", "state"),
    [
        ({"traceparent": UPSTREAM}, ""),
        ({"traceparent": UPSTREAM, "tracestate": "a=1,b=2"}, "a=1,b=2"),
        ({"traceparent": UPSTREAM, "tracestate": f"{SECRET} no state", "baggage": f"user={SECRET}"}, ""),
        ({"traceparent": f"01-{TRACE}-{PARENT}-01-of a later version"}, ""),
        (None, None),
        ({}, None),
        ({"tracestate": "a=1"}, None),
        ({"traceparent": ""}, None),
        ({"traceparent": UPSTREAM.upper()}, None),
        ({"traceparent": f"{UPSTREAM}-more"}, None),
        ({"traceparent": f"ff-{TRACE}-{PARENT}-01"}, None),
        ({"traceparent": f"00-{'0' * 32}-{PARENT}-01"}, None),
        ({"traceparent": f"00-{TRACE}-{'0' * 16}-01"}, None),
        ({"traceparent": f"00-{TRACE}-{PARENT}"}, None),
        ({"traceparent": f"{UPSTREAM}\r\nx: y"}, None),
        ({"traceparent": "\ud800" * 600}, None),
    ],
)
def test_the_carrier_of_a_task(
    memory: InMemorySpanExporter,
    provider: TracerProvider,
    carrier: Mapping[str, str] | None,
    state: str | None,
    continues: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A valid one is linked, or continued if that is set; a malformed one is ignored, and never shown."""
    tracing.use(provider, continues=continues)
    with tracing.process(task(carrier), 1) as attempt:
        sent = attempt.carrier(carrier)
    span = one(memory, "process text_embedding")
    assert span.context is not None
    known = state is not None
    assert linked(span) == ([int(PARENT, 16)] if known and not continues else [])
    assert (span.parent.span_id if span.parent else None) == (int(PARENT, 16) if known and continues else None)
    assert (span.context.trace_id == int(TRACE, 16)) == (known and continues)
    assert sent == {"traceparent": traceparent(span)} | ({"tracestate": state} if state and continues else {})
    assert SECRET not in caplog.text


def test_every_report_continues_the_attempt(memory: InMemorySpanExporter) -> None:
    """What the outbox keeps is enough: each report of it is a child, and a request in it carries the report's span."""
    with tracing.process(task(), 2) as attempt:
        kept = json.loads(json.dumps(attempt.carrier(None)))
    with pytest.raises(Throttled), tracing.settle(record(kept)):
        raise Throttled(SECRET, status=429)
    with tracing.settle(record(kept, attempts=1)):
        sent = tracing.headers()
    assert tracing.headers() == {}
    process, failed, settled = memory.get_finished_spans()
    assert [span.parent and span.parent.span_id for span in (failed, settled)] == [context_id(process)] * 2
    assert sent == {"traceparent": traceparent(settled)}
    assert [span.attributes["ai_task_processor.attempt"] for span in (process, failed, settled)] == [2, 1, 2]  # type: ignore[index]
    assert failed.attributes is not None
    assert (failed.attributes["error.type"], failed.attributes["http.response.status_code"]) == ("Throttled", 429)
    assert [span.status.is_ok for span in (process, failed, settled)] == [True, False, True]


def test_a_call_is_linked_with_those_it_serves(memory: InMemorySpanExporter) -> None:
    """The first 128 of them, each once; all of them back, also who joins meanwhile, but not who has left."""
    attempts = [tracing.process(task(task_id=f"{number}"), 1) for number in range(200)]
    late, gone = tracing.process(task(task_id="late"), 1), tracing.process(task(task_id="gone"), 1)
    with gone:
        pass
    served = [SimpleNamespace(spans=(attempt, attempts[0])) for attempt in (gone, *attempts)]
    with tracing.call("embeddings", "openai", "m", served) as call:
        tracing.reached("api.example.com", 443)
        served[0].spans = (*served[0].spans, late)
        call.used(Usage(7, 0, 2))
    for attempt in (*attempts, late):
        with attempt:
            pass
    found = {str((span.attributes or {}).get("messaging.message.id")): span for span in memory.get_finished_spans()}
    span = one(memory, "embeddings m")
    assert span.parent is None
    firsts = [context_id(found[name]) for name in ("gone", *(f"{number}" for number in range(127)))]
    assert linked(span) == firsts
    assert [linked(found[f"{number}"]) for number in range(200)] == [[context_id(span)]] * 200
    assert (linked(found["late"]), linked(found["gone"])) == ([context_id(span)], [])
    assert span.attributes == {
        "gen_ai.operation.name": "embeddings",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "m",
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.cache_read.input_tokens": 2,
        "server.address": "api.example.com",
        "server.port": 443,
    }


async def test_a_chat_call_is_a_child_of_its_attempt(memory: InMemorySpanExporter) -> None:
    """Also out of an asyncio task that the processor starts."""

    async def ask() -> None:
        with tracing.call("chat", "openai", "m"):
            assert tracing.waiting()

    with tracing.process(task(), 1):
        await asyncio.create_task(ask())
    assert not tracing.waiting()
    chat, process = memory.get_finished_spans()
    assert chat.parent is not None
    assert chat.parent.span_id == context_id(process)


def test_no_content_and_no_secret(memory: InMemorySpanExporter) -> None:
    """Not the message of an error, not a masked word in a name, and what is not Unicode does not lose an export."""
    logs.configure(level="INFO", format="json", secrets=[SECRET], stream=StringIO())
    with pytest.raises(ValueError, match=SECRET), tracing.process(task(), 1):
        raise ValueError(SECRET)
    with pytest.raises(TaskError), tracing.call("chat", "openai", f"{SECRET}\ud800" + 500 * "x"):
        raise TaskError("invalid_content", SECRET)
    with tracing.settle(record(None)):
        pass
    tracing.received("aletheia", 3, 0)
    found = memory.get_finished_spans()
    assert SECRET not in encode_spans(found).SerializeToString().decode(errors="replace")
    assert [span.attributes.get("error.type") for span in found if span.attributes] == [
        "ValueError",
        "invalid_content",
        None,
        None,
    ]
    assert all(not span.events for span in found)


def test_the_names_are_those_of_the_conventions(memory: InMemorySpanExporter) -> None:
    """Every attribute is in the catalogue, and those that are not our own are in OpenTelemetry's."""
    modules = (gen_ai_attributes, messaging_attributes, error_attributes, http_attributes, server_attributes)
    official = {value for module in modules for value in vars(module).values() if isinstance(value, str)}
    own = {name for name in spans.ATTRIBUTES if name.startswith("ai_task_processor.")}
    assert spans.ATTRIBUTES.keys() - own <= official
    kinds = {"receive": SpanKind.CLIENT, "process": SpanKind.CONSUMER, "settle": SpanKind.CLIENT}
    tracing.received("aletheia", 3, 0)
    with tracing.process(task(), 1), tracing.call("chat", "openai", "m") as call:
        call.used(Usage(1, 1, 1))
    with tracing.settle(record(None)):
        pass
    for span in memory.get_finished_spans():
        assert (span.attributes or {}).keys() <= spans.ATTRIBUTES.keys()
        assert span.kind is kinds.get(span.name.split()[0], SpanKind.CLIENT)
        assert span.instrumentation_scope is not None
        assert span.instrumentation_scope.schema_url == spans.SCHEMA_URL


def test_exemplars_lead_to_sampled_spans_only(memory: InMemorySpanExporter) -> None:
    """In OpenMetrics, while there are traces; the text format stays as it is."""
    metrics = Metrics(version="1", provider="mock", task_types=["text_embedding"])
    metrics.task_acknowledged("text_embedding", end_to_end_s=1.0)
    with tracing.process(task(), 1):
        metrics.task_settled("text_embedding", status="succeeded", duration_s=1.0)
    tracing.use(TracerProvider(sampler=ParentBased(ALWAYS_OFF), shutdown_on_exit=False))
    with tracing.process(task(), 1):
        metrics.task_started("text_embedding", wait_s=1.0)
    (span,) = memory.get_finished_spans()
    assert span.context is not None
    body, content_type = metrics.exposition(True)
    (line,) = [line for line in body.decode().splitlines() if " # {" in line]
    assert line.startswith("ai_task_processor_task_processing_duration_seconds_bucket")
    assert f'trace_id="{span.context.trace_id:032x}"' in line
    assert content_type.startswith("application/openmetrics-text")
    assert list(text_string_to_metric_families(body.decode()))  # type: ignore[no-untyped-call]
    assert b" # {" not in metrics.exposition()[0]
    tracing.stop(0)
    assert metrics.exposition(True)[1].startswith("text/plain")


def test_lines_of_a_task_name_its_trace(memory: InMemorySpanExporter) -> None:
    """While its span is active, on the fast path and on the long one; others do not."""
    stream = StringIO()
    logs.configure(level="INFO", format="json", secrets=[], stream=stream)
    log = logs.get_logger("test")
    with tracing.process(task(), 1):
        log.info("task.completed")
        log.info("task.completed", more=["x"])
    log.info("task.completed")
    (span,) = memory.get_finished_spans()
    assert span.context is not None
    shown = [json.loads(line).get("trace_id") for line in stream.getvalue().splitlines()]
    assert shown == [f"{span.context.trace_id:032x}"] * 2 + [None]


def test_off_it_makes_nothing() -> None:
    """And a carrier of the upstream goes through as it is."""
    assert {tracing.process(task(), 1), tracing.settle(record(None)), tracing.call("chat", "p", "m")} == {tracing.OFF}
    assert (tracing.waiting(), tracing.headers(), tracing.exemplar()) == ((), {}, None)
    with tracing.process(task(), 1) as attempt:
        assert attempt.carrier({"traceparent": UPSTREAM}) == {"traceparent": UPSTREAM}
    tracing.received("aletheia", 1, 0)
    tracing.reached("h", 1)


@pytest.mark.parametrize(
    ("environ", "variable"),
    [
        ({}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318/"}, "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://localhost/x"}, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318", "OTEL_SDK_DISABLED": "TRUE"}, None),
    ],
)
def test_what_turns_it_on(monkeypatch: pytest.MonkeyPatch, environ: Mapping[str, str], variable: str | None) -> None:
    """An endpoint, unless the SDK is disabled. Without the extra that is an error with its remedy."""
    settings = load_group(TraceSettings, environ, None)
    assert settings.endpoint_variable == variable
    monkeypatch.setattr(tracing, "find_spec", lambda _: None)
    if variable is None:
        tracing.start(settings, "1")
        return
    with pytest.raises(ConfigurationError) as caught:
        tracing.start(settings, "1")
    assert str(caught.value) == (
        f"{variable} is set, and traces need the extra otel: install it with pip install 'ai-task-processor[otel]', "
        "or remove that variable"
    )


def test_a_profile_may_continue_traces() -> None:
    """The API of agents-playground names the span of each task."""
    environ = {"API_BASE_URL": "https://api.example.com", "OPENAI_API_KEY": "k", "TASK_SOURCE": "agents-playground"}
    assert load_selected(environ, None)[0].trace.trace_parent
    assert not load_group(TraceSettings, {}, None).trace_parent


def test_the_headers_of_exports_are_secret() -> None:
    """Whole, by value, and decoded; a mistake in them is told without them."""
    text = "authorization=Bearer%20abcdefgh, x-key=12345678"
    settings = load_group(TraceSettings, {"OTEL_EXPORTER_OTLP_HEADERS": text}, None)
    assert {text, "Bearer%20abcdefgh", "Bearer abcdefgh", "abcdefgh", "12345678"} <= set(settings.secrets())
    with pytest.raises(ConfigurationError) as caught:
        load_group(TraceSettings, {"OTEL_EXPORTER_OTLP_HEADERS": SECRET}, None)
    assert str(caught.value).startswith("OTEL_EXPORTER_OTLP_HEADERS must be name=value")
    assert SECRET not in str(caught.value)
