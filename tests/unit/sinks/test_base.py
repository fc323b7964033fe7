"""What the built-in sinks share: when they are off, what they require, whose fault a refusal is."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from ai_task_processor.core.checks import Remote
from ai_task_processor.core.errors import (
    CircuitOpen,
    ConfigurationError,
    Misconfigured,
    RemoteError,
    Throttled,
    TimedOut,
    Transient,
    Unauthorized,
)
from ai_task_processor.core.plugins import find
from ai_task_processor.models.task import Receipt, Record
from ai_task_processor.net.answers import Answer
from ai_task_processor.net.secrets import Secrets
from ai_task_processor.net.services import Services
from ai_task_processor.sinks import base
from ai_task_processor.sinks.base import Refused, RemoteSink, event_id, refusal
from ai_task_processor.sinks.qdrant import QdrantSink
from ai_task_processor.sinks.smtp.sink import SmtpSink
from ai_task_processor.sinks.webhook import WebhookSettings, WebhookSink
from ai_task_processor.testing.store import record
from tests.helpers import at_once, services, without_origin
from tests.unit.conftest import FakeClock

ADDRESSES = {
    "kafka": "KAFKA_BOOTSTRAP_SERVERS",
    "qdrant": "QDRANT_URL",
    "s3": "S3_ENDPOINT_URL",
    "smtp": "SMTP_URL",
    "webhook": "WEBHOOK_URL",
}
KAFKA = {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9092", "KAFKA_TOPIC": "t"}
SMTP = {"SMTP_URL": "smtp://mail.example.com", "SMTP_FROM": "a@example.com"}


def built(name: str, environ: Mapping[str, str]) -> RemoteSink:
    plugin = find("sinks", name)
    sink: RemoteSink = plugin.build(services(environ, plugin.load()))
    return sink


@pytest.mark.parametrize("name", ADDRESSES)
def test_without_its_address_a_sink_is_off_and_says_so(name: str) -> None:
    """It takes every result and writes none, whatever is installed; the line is logged at the start, too."""
    sink = built(name, {})
    off = f"SINKS names {name}, but {ADDRESSES[name]} is not set: it receives no results"
    (problem,) = sink.problems()
    assert (problem.message, problem.ready, problem.when) == (off, True, "never")
    assert sink.remotes() == ()
    at_once(sink.write(record(body=b"{}")))
    at_once(sink.discard(record()))


@pytest.mark.parametrize(("name", "environ"), [("kafka", KAFKA), ("smtp", SMTP)])
def test_a_library_that_is_missing_is_named_with_its_extra(
    name: str, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "find_spec", lambda _: None)
    with pytest.raises(ConfigurationError, match=rf"pip install 'ai-task-processor\[{name}\]'"):
        built(name, environ)


@pytest.mark.parametrize(
    ("name", "environ", "complaints"),
    [
        ("kafka", {"KAFKA_BOOTSTRAP_SERVERS": "b:1"}, ["KAFKA_TOPIC is missing"]),
        (
            "kafka",
            {**KAFKA, "KAFKA_SECURITY_PROTOCOL": "SASL_SSL"},
            ["KAFKA_SASL_USERNAME is missing", "KAFKA_SASL_PASSWORD is missing"],
        ),
        (
            "kafka",
            {**KAFKA, "KAFKA_SECURITY_PROTOCOL": "sasl"},
            ["KAFKA_SECURITY_PROTOCOL must be one of PLAINTEXT, SSL"],
        ),
        (
            "kafka",
            {**KAFKA, "KAFKA_BOOTSTRAP_SERVERS": "b..c:1"},
            ["KAFKA_BOOTSTRAP_SERVERS must be brokers as host:port"],
        ),
        (
            "kafka",
            {**KAFKA, "KAFKA_BOOTSTRAP_SERVERS": "k.example.com:1"},
            ["KAFKA_BOOTSTRAP_SERVERS has a public host, and results could be read on the way: set KAFKA_SECURITY"],
        ),
        ("smtp", {"SMTP_URL": "smtp://h"}, ["SMTP_FROM is missing"]),
        ("smtp", {**SMTP, "SMTP_URL": "http://h"}, ["SMTP_URL must be like smtp://"]),
        ("smtp", {**SMTP, "SMTP_URL": "smtp://user@h"}, ["SMTP_URL must be like smtp://"]),
        ("smtp", {**SMTP, "SMTP_URL": "smtp://h:99999"}, ["SMTP_URL must be like smtp://"]),
        ("smtp", {**SMTP, "SMTP_FROM": "a@b.c, d@e.f"}, ["SMTP_FROM must be an address"]),
        ("webhook", {"WEBHOOK_URL": "http://h.example.com"}, ["WEBHOOK_URL must use https"]),
        ("webhook", {"WEBHOOK_URL": "https://h", "WEBHOOK_SECRET": "secret"}, ["WEBHOOK_SECRET must be whsec_ and 24"]),
        (
            "s3",
            {"S3_ENDPOINT_URL": "https://s3.test", "S3_PREFIX": "../"},
            ["S3_ACCESS_KEY_ID is missing", "S3_SECRET_ACCESS_KEY is missing", "S3_PREFIX must be"],
        ),
        ("qdrant", {"QDRANT_URL": "https://q.test"}, ["QDRANT_COLLECTION is missing"]),
    ],
)
def test_a_mistake_is_named_with_its_setting(name: str, environ: dict[str, str], complaints: list[str]) -> None:
    with pytest.raises(ConfigurationError) as raised:
        built(name, environ)
    assert [
        without_origin(line)[: len(start)] for line, start in zip(raised.value.problems, complaints, strict=True)
    ] == complaints


def test_a_public_broker_without_tls_is_permitted_by_the_setting_for_it() -> None:
    environ = {**KAFKA, "KAFKA_BOOTSTRAP_SERVERS": "k.example.com:1", "ALLOW_INSECURE_HTTP": "true"}
    sink = built("kafka", environ)
    (line,) = services(environ, type(sink)).settings[sink.settings_groups[0]].warnings()
    assert "to a public host" in line


def test_the_id_of_an_event_never_changes() -> None:
    """Receivers know events by it: not by this version of the code, not by the content, not without the source."""
    assert str(event_id(record("a"))) == "6460a1ae-bf06-5592-80e2-0d6d098ac762"
    others = {record("b"), record("a", receipt=Receipt("other", "a")), record("a", receipt=Receipt("testin", "ga"))}
    assert len({event_id(each) for each in (record("a"), record("a", body=b"[2]"), *others)}) == 4


@pytest.mark.parametrize(
    ("status", "headers", "kind", "text"),
    [
        (400, {}, Refused, ""),
        (413, {}, Refused, ""),
        (422, {}, Refused, ""),
        (401, {}, Unauthorized, "S answered 401: correct KEY"),
        (403, {}, Unauthorized, "S answered 403: correct KEY"),
        (404, {}, Misconfigured, "S answered 404: correct URL"),
        (410, {}, Misconfigured, "S answered 410: correct URL"),
        (301, {"location": "https://b.test/"}, Misconfigured, "a redirect to https://b.test: correct URL"),
        (429, {"retry-after": "7"}, Throttled, "S answered 429"),
        (500, {}, Transient, "S answered 500"),
    ],
)
def test_a_refusal_is_about_one_result_or_about_all(
    status: int, headers: dict[str, str], kind: type[Exception], text: str
) -> None:
    error = refusal(Answer(status, headers, b"", "https://a.test/"), "S", "URL", "KEY")
    assert type(error) is kind
    assert text in str(error)


class Told(RemoteSink):
    """Takes its time, and then fails as told."""

    name = "webhook"

    def __init__(self, shared: Services) -> None:
        super().__init__(shared, shared.settings[WebhookSettings], Remote("told", "WEBHOOK_URL", "https://h.test"))
        self.error: Exception | None = None
        self.takes_s = 0.0
        self.calls = 0

    async def _send(self, record: Record) -> None:
        self.calls += 1
        await self._clock.sleep(self.takes_s)
        if self.error is not None:
            raise self.error


@pytest.mark.parametrize(
    ("error", "takes_s", "raised", "retry_after_s", "calls"),
    [
        (Transient("503"), 0.1, "503", None, 3),
        (TimedOut("no answer"), 30.0, "no answer", 10.0, 1),
        (Unauthorized("401: correct KEY"), 0.1, "401: correct KEY", 10.0, 1),
        (Throttled("429", retry_after_s=7.0), 0.1, "429", 7.0, 1),
        (Refused("too large"), 30.0, "too large", 900.0, 3),
    ],
)
async def test_a_failure_pauses_the_sink_if_it_is_not_about_one_result(
    error: Exception, takes_s: float, raised: str, retry_after_s: float | None, calls: int
) -> None:
    """In a pause nothing is sent, and the reason stays the same, word for word, until it ends."""
    clock = FakeClock()
    sink = Told(services({}, WebhookSink, clock=clock))
    sink.error, sink.takes_s = error, takes_s
    for _ in range(3):
        with pytest.raises(RemoteError) as told:
            await sink.write(record(body=b"{}"))
        assert str(told.value) == raised
    assert sink.calls == calls
    assert told.value.retry_after_s == pytest.approx(retry_after_s, abs=0.01)
    sink.error = None
    clock.advance(60.0)
    await sink.write(record(body=b"{}"))


@pytest.mark.parametrize(
    ("kind", "environ"), [(SmtpSink, SMTP), (QdrantSink, {"QDRANT_URL": "https://q.test", "QDRANT_COLLECTION": "c"})]
)
async def test_what_a_sink_does_not_take_waits_for_no_pause(kind: type[RemoteSink], environ: dict[str, str]) -> None:
    """A result that is no mail is reported while the mail server is away."""
    shared = services(environ, kind)
    sink, gate = kind.build(shared), shared.gates[kind.name]
    gate.hold(gate.enter(), TimedOut("away"))
    with pytest.raises(CircuitOpen):
        await sink.write(record(vector=bytes(4), body=b'{"to":"a@b.c","subject":"S","text":"T"}'))
    await sink.write(record(body=b'{"text":"T"}'))


async def test_a_refused_secret_is_read_again() -> None:
    """What replaced it counts from the next write on."""
    before, after = ({"WEBHOOK_URL": "https://h.test", "WEBHOOK_SECRET": each * 8} for each in ("AAAA", "BBBB"))
    shared = services(before, WebhookSink)
    shared = replace(shared, secrets=Secrets(shared.settings, lambda: services(after, WebhookSink).settings))
    sink = Told(shared)
    sink.error = Unauthorized("401")
    with pytest.raises(Unauthorized):
        await sink.write(record(body=b"{}"))
    secret = shared.secrets[WebhookSettings].secret
    assert secret is not None
    assert secret.get_secret_value() == "BBBB" * 8
