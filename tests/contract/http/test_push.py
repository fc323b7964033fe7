"""The WebSocket that only says that something has changed, and its certificates, on real sockets."""

import asyncio
import base64
import hashlib
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from ai_task_processor.core.clock import SystemClock
from ai_task_processor.core.errors import RemoteError
from ai_task_processor.core.plugins import find
from ai_task_processor.core.ports import Want
from ai_task_processor.core.settings import NetworkSettings
from ai_task_processor.net import client as client_module
from ai_task_processor.net import push as push_module
from ai_task_processor.net import tls
from ai_task_processor.net.client import make_client
from ai_task_processor.net.push import Push
from ai_task_processor.ops.metrics import Metrics
from ai_task_processor.sandbox.app import Sandbox
from ai_task_processor.testing.source import Gatekeeper
from tests.contract.http.servers import NETWORK, OK, Authority, client_of, serving
from tests.helpers import alive, services

SOURCE = find("sources", "agents-playground").load()
METRICS = Metrics(version="1", provider="mock")


async def when(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while True:
            if holds():
                return
            await asyncio.sleep(0.005)


class PacedClock(SystemClock):
    """Notes how long the pauses are, which take no time."""

    def __init__(self) -> None:
        self.pauses: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        await asyncio.sleep(0.01)


class Connected:
    """A push connection, and what came."""

    def __init__(self, url: str, network: NetworkSettings) -> None:
        self.clock = PacedClock()
        self.messages: list[bytes | None] = []
        client = make_client(network, url=url, connections=1)
        rng = random.Random(1)
        self.push = Push(client, f"{url}/ws", self.messages.append, clock=self.clock, rng=rng, metrics=METRICS)

    async def problem(self) -> str:
        """Of the first attempt."""
        await when(lambda: self.clock.pauses)
        assert self.messages == []
        return str(self.push.problem)


@asynccontextmanager
async def pushing(url: str, network: NetworkSettings = NETWORK) -> AsyncIterator[Connected]:
    connected = Connected(url, network)
    with capture_logs():
        running = asyncio.create_task(connected.push.run())
        try:
            yield connected
        finally:
            running.cancel()
            await asyncio.wait([running])


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(profile="agents-playground") as started:
        yield started


async def test_every_message_comes(sandbox: Sandbox) -> None:
    """A connection is news, too: what happened before it was missed."""
    async with pushing(sandbox.url) as connected:
        await when(lambda: connected.messages == [None])
        for number in range(1_000):
            sandbox.playground.add(str(number))
        await sandbox.playground.broadcast()
        await when(lambda: len(connected.messages) == 1_001)
        assert connected.push.status() == {"connected": True, "problem": None}


async def test_a_server_that_comes_back_is_news(sandbox: Sandbox) -> None:
    """While it is away the pauses grow, with jitter."""
    async with pushing(sandbox.url) as connected:
        await when(lambda: connected.messages)
        await sandbox.aclose()
        await when(lambda: len(connected.clock.pauses) > 12)
        assert connected.push.problem == "connection refused"
        pauses = connected.clock.pauses[:13]
        assert all(pause <= min(2.0**n, push_module.LONGEST_S) for n, pause in enumerate(pauses))
        assert max(pauses) > 5.0
        await sandbox.start(port=int(sandbox.url.rpartition(":")[2]))
        await when(lambda: connected.messages == [None, None])


async def test_a_large_message_is_skipped(sandbox: Sandbox) -> None:
    """64 MiB: nothing of it is held, and the connection stays."""
    async with pushing(sandbox.url) as connected:
        await when(lambda: connected.messages)
        task_id = sandbox.playground.add("x")
        sandbox.playground.set(task_id, output={"large": "x" * 2**26})
        sandbox.playground.add("y")
        await sandbox.playground.broadcast()
        await when(lambda: len(connected.messages) == 4)
        assert connected.messages[2] == b""
        assert connected.clock.pauses == []


async def test_silence_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that is dead answers no ping, and its connection stays open."""
    assert push_module.PING_S <= 30.0
    monkeypatch.setattr(push_module, "PING_S", 0.05)

    async def shake_hands(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        key = server.headers(b"sec-websocket-key")[-1]
        accepted = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        writer.write(head + b"Sec-WebSocket-Accept: " + accepted + b"\r\n\r\n")
        await asyncio.sleep(10)

    async with serving(shake_hands) as server, pushing(server.url) as connected:
        await when(lambda: connected.clock.pauses)
        assert connected.messages[:1] == [None]
        assert connected.push.problem == "the server is silent: it answers no ping"


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "the server answered 404 instead of a WebSocket"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "the server answered 200 instead of a WebSocket"),
        (b"", "no answer within 0.05 s"),
    ],
)
async def test_a_server_that_opens_none(monkeypatch: pytest.MonkeyPatch, answer: bytes, problem: str) -> None:
    monkeypatch.setattr(client_module, "POOL_TIMEOUT_S", 0.05)
    async with serving(answer) as server, pushing(server.url) as connected:
        assert await connected.problem() == problem


async def test_a_slow_poll_holds_up_no_message(sandbox: Sandbox) -> None:
    """200 MiB of other results while the list is not answered: the server is never kept waiting."""
    sandbox.faults.add("pending", hang=True)
    case = SOURCE.build(services({**sandbox.environment(), "READ_AHEAD_BYTES": "0"}, SOURCE))
    done = sandbox.playground.add("done")
    sandbox.playground.set(done, output={"large": "x" * 2**20})
    async with alive(case):
        await when(lambda: sandbox.playground.sockets)
        polling = asyncio.create_task(case.claim(Want(5, Gatekeeper())))
        async with asyncio.timeout(10):
            for _ in range(200):
                sandbox.playground.set(done, status="done")
                await sandbox.playground.broadcast()
        assert not polling.done()
        polling.cancel()
        await asyncio.wait([polling])


async def test_doctor_opens_it(sandbox: Sandbox) -> None:
    """Without it tasks are found by polls: a warning."""
    source = SOURCE.build(services(sandbox.environment(), SOURCE))
    *_, check = source.checks()
    assert [finding.mark async for finding in check.work()] == ["ok"]
    await sandbox.aclose()
    (finding,) = [finding async for finding in check.work()]
    assert (finding.mark, finding.text) == ("warning", "new tasks wait for the next poll: connection refused")
    async with alive(source):
        pass


# --- client certificates

HINT = ", perhaps because of our client certificate, or for want of one: look at CLIENT_CERT_FILE"


def shown(root: Authority, which: str, folder: Path) -> Path | None:
    """A client certificate of this kind."""
    match which:
        case "right":
            return root.issue("client")
        case "foreign":
            return Authority(folder, name="other").issue("client")
        case "expired":
            return root.issue("client", days=-1)
    return None


@asynccontextmanager
async def demanding(root: Authority) -> AsyncIterator[Sandbox]:
    """A task API that demands a certificate, and hangs up without an alert: TLS 1.3 after our handshake."""
    sandbox = Sandbox(profile="agents-playground")
    await sandbox.start(ssl=root.context(clients=True))
    try:
        yield sandbox
    finally:
        await sandbox.aclose()


@pytest.mark.parametrize("which", ["right", "none", "foreign", "expired"])
async def test_a_server_that_hangs_up_on_a_certificate(tmp_path: Path, which: str) -> None:
    """Over HTTP and on the WebSocket the message names the setting."""
    root, problems = Authority(tmp_path), list[str]()
    cert = shown(root, which, tmp_path)
    network = NETWORK.model_copy(update={"ca_bundle": root.pem, "client_cert_file": cert})
    async with demanding(root) as sandbox:
        for size in (0, 10, 3 * 2**20):
            async with client_of(sandbox.url, network) as client:
                method, body = ("PATCH", bytes(size)) if size else ("GET", None)
                try:
                    await client.exchange(method, f"{sandbox.url}/tasks", content=body, timeout_s=5)
                except RemoteError as error:
                    problems.append(str(error))
        async with pushing(sandbox.url, network) as connected:
            await when(lambda: connected.messages or connected.clock.pauses)
            problems += [connected.push.problem] if connected.push.problem else []
    assert len(problems) == (0 if which == "right" else 4)
    assert all(problem.endswith(HINT) for problem in problems)


async def test_only_the_first_answer_is_about_certificates(tmp_path: Path) -> None:
    """A connection that has brought an answer ends for other reasons."""
    root = Authority(tmp_path)
    network = NETWORK.model_copy(update={"ca_bundle": root.pem})

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with serving(OK, hang_up, tls=root.context()) as server, client_of(server.url, network) as client:
        await client.exchange("GET", server.url, timeout_s=5)
        with pytest.raises(RemoteError) as caught:
            await client.exchange("GET", server.url, timeout_s=5)
    assert str(caught.value) == "the server closed the connection without an answer"


async def test_a_replaced_certificate_serves_the_next_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "LOOK_EVERY_S", 0.0)
    root, file = Authority(tmp_path), tmp_path / "shown.pem"
    file.write_bytes(Authority(tmp_path, name="other").issue("client").read_bytes())
    network = NETWORK.model_copy(update={"ca_bundle": root.pem, "client_cert_file": file})
    async with demanding(root) as sandbox, pushing(sandbox.url, network) as connected:
        assert (await connected.problem()).endswith(HINT)
        file.write_bytes(root.issue("client").read_bytes())
        await when(lambda: connected.messages == [None])


async def test_a_server_of_another_authority_is_refused(tmp_path: Path) -> None:
    root, other = Authority(tmp_path), Authority(tmp_path, name="other")
    network = NETWORK.model_copy(update={"ca_bundle": other.pem, "client_cert_file": root.issue("client")})
    async with demanding(root) as sandbox, pushing(sandbox.url, network) as connected:
        assert (await connected.problem()).startswith("TLS: nobody known here signed its certificate")
