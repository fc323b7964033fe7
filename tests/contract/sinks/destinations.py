"""Each built-in sink with its server: what the tests of all of them run on."""

import base64
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ai_task_processor.models.task import Record
from ai_task_processor.sinks.base import RemoteSink, event_id
from ai_task_processor.sinks.kafka.sink import KafkaSink
from ai_task_processor.sinks.qdrant import QdrantSink
from ai_task_processor.sinks.s3 import S3Sink
from ai_task_processor.sinks.smtp.sink import SmtpSink
from ai_task_processor.sinks.webhook import WebhookSink
from ai_task_processor.testing.store import record
from tests.contract.sinks.servers import (
    HOST,
    S3_KEYS,
    WEBHOOK_KEY,
    broker,
    mail_server,
    messages,
    objects,
    qdrant_server,
    receiver,
    s3_server,
)

#: the ids that the contract of sinks uses: a mail tells its task only by the event's id
EVENTS = {str(event_id(record(each))): each for each in ("a", "b", "vector", "both", "output", "list")}
SECRET = f"whsec_{base64.b64encode(WEBHOOK_KEY).decode()}"

Written = Callable[[], Sequence[str]]
Serve = Callable[[int, Path], AbstractAsyncContextManager[Written]]


@asynccontextmanager
async def kafka(port: int, _: Path, **how: Any) -> AsyncIterator[Written]:
    async with broker(port, **how):
        yield lambda: list({str(each.key(), "utf-8") for each in messages(port, "results")})  # type: ignore[arg-type]


@asynccontextmanager
async def smtp(port: int, _: Path, **how: Any) -> AsyncIterator[Written]:
    async with mail_server(port, **how) as box:
        yield lambda: [EVENTS[each] for each in {mail["Message-ID"].strip("<>").split("@")[0] for mail in box.mails}]


@asynccontextmanager
async def webhook(port: int, _: Path) -> AsyncIterator[Written]:
    async with receiver(port) as inbox:
        yield lambda: [event["data"]["task_id"] for event in inbox.events.values()]


@asynccontextmanager
async def s3(port: int, folder: Path) -> AsyncIterator[Written]:
    async with s3_server(port, folder) as buckets:
        yield lambda: objects(buckets / "results", "of/testing/")


@asynccontextmanager
async def qdrant(port: int, _: Path) -> AsyncIterator[Written]:
    async with qdrant_server(port) as server:
        yield lambda: [point.payload["task_id"] for point in server.points("vectors")]


@dataclass(frozen=True)
class Destination:
    """``environ``: the settings for a server at this port. ``wrong``: what is changed in them so that it refuses us,
    and ``remedy``: the settings to be named then. ``refusing``: the server for it, if it is another.
    """

    kind: type[RemoteSink]
    environ: Callable[[int], Mapping[str, str]]
    serve: Serve
    wrong: Mapping[str, str]
    remedy: str
    refusing: Serve
    sample: Record
    takes: Callable[[Record], bool] = lambda _: True

    def __str__(self) -> str:
        return self.kind.name


RESULT = record("a", body=b'{"n":1}')
MAIL = record("a", body=b'{"to":"a@example.com","subject":"S","text":"T"}')
VECTOR = record("a", vector=b"\x00\x00\x80\x3f" * 4)

DESTINATIONS = (
    Destination(
        KafkaSink,
        lambda port: {"KAFKA_BOOTSTRAP_SERVERS": f"{HOST}:{port}", "KAFKA_TOPIC": "results"},
        kafka,
        {"KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT", "KAFKA_SASL_MECHANISM": "SCRAM-SHA-256"}
        | {"KAFKA_SASL_USERNAME": "user", "KAFKA_SASL_PASSWORD": "wrong password"},
        "KAFKA_SASL_PASSWORD",
        partial(kafka, refusing=True),
        RESULT,
    ),
    Destination(
        WebhookSink,
        lambda port: {"WEBHOOK_URL": f"http://{HOST}:{port}/hook", "WEBHOOK_SECRET": SECRET},
        webhook,
        {"WEBHOOK_SECRET": base64.b64encode(b"wrong" * 6).decode()},
        "WEBHOOK_SECRET",
        webhook,
        RESULT,
    ),
    Destination(
        SmtpSink,
        lambda port: {"SMTP_URL": f"smtp://user:p%40ss@{HOST}:{port}", "SMTP_FROM": "Us <us@example.com>"},
        smtp,
        {},
        "SMTP_URL",
        partial(smtp, refusing=True),
        MAIL,
        lambda record: b"subject" in record.body,
    ),
    Destination(
        S3Sink,
        lambda port: {
            "S3_ENDPOINT_URL": f"http://{HOST}:{port}",
            "S3_BUCKET": "results",
            "S3_PREFIX": "of/",
            **S3_KEYS,
        },
        s3,
        {"S3_SECRET_ACCESS_KEY": "wrong secret"},
        "S3_SECRET_ACCESS_KEY",
        s3,
        RESULT,
    ),
    Destination(
        QdrantSink,
        lambda port: {
            "QDRANT_URL": f"http://{HOST}:{port}",
            "QDRANT_API_KEY": "the right key",
            "QDRANT_COLLECTION": "vectors",
        },
        qdrant,
        {"QDRANT_API_KEY": "a wrong key"},
        "QDRANT_API_KEY",
        qdrant,
        VECTOR,
        lambda record: record.vector is not None,
    ),
)
