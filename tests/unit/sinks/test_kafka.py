"""Kafka messages, what librdkafka is configured with, and what its errors mean."""

import json
from pathlib import Path

import pytest

from ai_task_processor.core.errors import Misconfigured, TimedOut, Transient, Unauthorized, Unsent
from ai_task_processor.models.task import Record
from ai_task_processor.sinks.base import Refused, event_id
from ai_task_processor.sinks.kafka.settings import KafkaSettings, configuration
from ai_task_processor.sinks.kafka.sink import KafkaSink, explained, key, value
from ai_task_processor.testing.store import record
from tests.contract.http.servers import Authority
from tests.helpers import services

VECTOR = b"\xcd\xcc\xcc\x3d\x00\x00\x80\x3f"  # 0.1 and 1 in float32
EVENT = str(event_id(record("a")))
AROUND = {"event_id": EVENT, "task_id": "a", "type": "text_embedding"}


@pytest.mark.parametrize(
    ("finished", "expected"),
    [
        (record("a", body=b'{"t":"T","n":18446744073709551617}'), {"t": "T", "n": 2**64 + 1, "event_id": EVENT}),
        (record("a", body=b'{"event_id":"another"}'), {"event_id": EVENT}),
        (record("a", body=b"[1]"), {**AROUND, "result": [1]}),
        (record("a", vector=VECTOR), {**AROUND, "result": [0.1, 1.0]}),
        (record("a", vector=VECTOR, body=b'{"m":1}'), {"embedding": [0.1, 1.0], "m": 1, "event_id": EVENT}),
    ],
)
def test_a_message_has_the_result_and_the_id_of_the_event(finished: Record, expected: object) -> None:
    assert json.loads(value(finished)) == expected


@pytest.mark.parametrize(
    ("body", "field", "expected"),
    [
        (b'{"n":17}', None, "a"),
        (b'{"n":17}', "n", "17"),
        (b'{"n":"x"}', "n", "x"),
        (b'{"n":null}', "n", "a"),
        (b"{}", "n", "a"),
        (b"[1]", "n", "a"),
    ],
)
def test_the_key_is_a_field_of_the_result_or_the_id_of_the_task(body: bytes, field: str | None, expected: str) -> None:
    assert key(record("a", body=body), field) == expected


@pytest.mark.parametrize(
    ("name", "cause", "kind", "setting"),
    [
        ("_MSG_TIMED_OUT", None, TimedOut, "KAFKA_SECURITY_PROTOCOL"),
        ("_MSG_TIMED_OUT", "_AUTHENTICATION", Unauthorized, "KAFKA_SASL_PASSWORD"),
        ("_MSG_TIMED_OUT", "_TRANSPORT", Unsent, "KAFKA_BOOTSTRAP_SERVERS"),
        ("_MSG_TIMED_OUT", "_RESOLVE", Unsent, "KAFKA_BOOTSTRAP_SERVERS"),
        ("_MSG_TIMED_OUT", "_SSL", Unsent, "CA_BUNDLE"),
        ("TOPIC_AUTHORIZATION_FAILED", None, Unauthorized, "KAFKA_TOPIC"),
        ("_UNKNOWN_TOPIC", "_TRANSPORT", Misconfigured, "KAFKA_TOPIC"),
        ("MSG_SIZE_TOO_LARGE", None, Refused, "KAFKA_TOPIC"),
        ("NOT_ENOUGH_REPLICAS", None, Transient, "NOT_ENOUGH_REPLICAS"),
    ],
)
def test_an_error_of_the_library_says_whose_fault_it_is(
    name: str, cause: str | None, kind: type[Exception], setting: str
) -> None:
    error = explained(name, cause)
    assert type(error) is kind
    assert setting in str(error)


def test_the_certificates_of_every_client_are_those_of_kafka(tmp_path: Path) -> None:
    """Our authority beside the system's, the client certificate with the password of its key, and the login."""
    authority = Authority(tmp_path)
    certificate = authority.issue("client", password="s3cret")
    environ = {
        "CA_BUNDLE": str(authority.pem),
        "CLIENT_CERT_FILE": str(certificate),
        "CLIENT_KEY_PASSWORD": "s3cret",
        "KAFKA_BOOTSTRAP_SERVERS": "a.example.com:9093,b.example.com:9093",
        "KAFKA_TOPIC": "t",
        "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "KAFKA_SASL_USERNAME": "user",
        "KAFKA_SASL_PASSWORD": "password",
    }
    settings = services(environ, KafkaSink).settings
    found = configuration(settings[KafkaSettings], settings.network)
    assert authority.pem.read_text() in found["ssl.ca.pem"]
    assert found["ssl.ca.pem"].count("BEGIN CERTIFICATE") > 50
    assert found["ssl.certificate.location"] == found["ssl.key.location"] == str(certificate)
    assert (found["ssl.key.password"], found["sasl.password"]) == ("s3cret", "password")
    assert found["bootstrap.servers"] == "a.example.com:9093,b.example.com:9093"
    assert found["enable.idempotence"] is True
    assert {"s3cret", "password"} <= set(settings.secrets())
