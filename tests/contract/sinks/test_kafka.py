"""The Kafka sink and a broker: repetitions, sizes, TLS, replaced secrets."""

import json
from pathlib import Path

import pytest

from ai_task_processor.core.errors import Rejected, Unsent
from ai_task_processor.sinks.base import event_id
from ai_task_processor.sinks.kafka import settings
from ai_task_processor.sinks.kafka.sink import KafkaSink
from ai_task_processor.testing.store import record
from tests.contract.http.servers import Authority
from tests.contract.sinks.servers import HOST, broker, encrypted, free_port, messages
from tests.helpers import alive, services

RESULT = record("a", body=b'{"title":"T"}')


def environ(port: int, **changes: str) -> dict[str, str]:
    return {"KAFKA_BOOTSTRAP_SERVERS": f"{HOST}:{port}", "KAFKA_TOPIC": "reminders", **changes}


async def test_a_repetition_has_the_same_key_and_id() -> None:
    """Also after a restart: consumers keep one of them."""
    port = free_port()
    async with broker(port):
        for _ in range(2):
            async with alive(KafkaSink(services(environ(port), KafkaSink))) as sink:
                await sink.write(RESULT)
        found = [(each.key(), each.headers(), json.loads(each.value() or b"")) for each in messages(port, "reminders")]
    event = str(event_id(RESULT))
    assert found == [(b"a", [("event_id", event.encode())], {"title": "T", "event_id": event})] * 2


async def test_a_message_too_large_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused for good, and becomes a dead letter: nothing is lost. The circuit stays closed."""
    monkeypatch.setattr(settings, "MAX_MESSAGE_BYTES", 2_000)
    port = free_port()
    shared = services(environ(port), KafkaSink)
    async with broker(port), alive(KafkaSink(shared)) as sink:
        for _ in range(10):
            with pytest.raises(Rejected, match=r"max\.message\.bytes"):
                await sink.write(record("large", body=json.dumps("x" * 3_000).encode()))
        assert shared.gates["kafka"].reason is None
        await sink.write(RESULT)
        assert [each.key() for each in messages(port, "reminders")] == [b"a"]


async def test_tls_trusts_the_authority_of_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With it, and with the client certificate that the broker demands, a message is written; without it none is."""
    authority, port = Authority(tmp_path), free_port()
    pem = {"CA_BUNDLE": str(authority.pem), "CLIENT_CERT_FILE": str(authority.issue("client"))}
    async with encrypted(port, authority.context(clients=True)) as outside, broker(port, advertised=outside):
        ssl = environ(outside, KAFKA_SECURITY_PROTOCOL="SSL")
        async with alive(KafkaSink(services({**ssl, **pem}, KafkaSink))) as sink:
            await sink.write(RESULT)
        monkeypatch.setattr(settings, "DELIVERY_S", 3.0)
        async with alive(KafkaSink(services(ssl, KafkaSink))) as sink:
            with pytest.raises(Unsent, match="CA_BUNDLE"):
                await sink.write(RESULT)
