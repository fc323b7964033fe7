"""The ops port's listener over real sockets: what peers, and a lack of descriptors, cannot do to it."""

import asyncio
import json
import re
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager

import pytest
import uvloop
from aiohttp import web
from structlog.testing import capture_logs

from ai_task_processor.ops import listener
from ai_task_processor.ops.listener import Handler, Listener, Response
from tests.e2e.conftest import connected, spawned

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET / HTTP/1.0\r\n\r\n"
BIG = b"x" * 2**25

Logged = Callable[[], list[str]]


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[Logged]:
    """The errors that we log, and whatever libraries do."""
    caplog.set_level("INFO")
    with capture_logs() as lines:
        yield lambda: [line["error"] for line in lines] + caplog.messages


@asynccontextmanager
async def serving(
    handler: Handler = lambda request: Response(body=b"hello"), host: str = "127.0.0.1"
) -> AsyncIterator[int]:
    ops = Listener(handler)
    port = await ops.start(host, 0)
    try:
        yield port
    finally:
        await ops.aclose()


async def said(port: int, sent: bytes, host: str = "127.0.0.1") -> bytes:
    """Everything that the server says to these bytes until it closes."""
    async with connected(port, host) as (reader, writer), asyncio.timeout(5):
        writer.write(sent)
        return await reader.read()


@pytest.mark.parametrize(
    ("sent", "statuses", "bodies", "errors"),
    [
        (GET + LAST, ["200 OK", "200 OK"], 2, []),
        (b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n" + LAST, ["200 OK", "200 OK"], 1, []),
        (b"NONSENSE\r\n\r\n", ["400 Bad Request"], 0, []),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 100_000 + b"\r\n\r\n", ["400 Bad Request"], 0, []),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: a\r\n" * 10_000 + b"\r\n", ["400 Bad Request"], 0, []),
        (b"GET /b HTTP/1.0\r\n\r\n", ["500 Internal Server Error"], 0, ["TimeoutError"]),
    ],
)
async def test_what_it_answers(
    sent: bytes, statuses: list[str], bodies: int, errors: list[str], logged: Logged
) -> None:
    """Keep-alive, HEAD, refusals, a broken handler: no version and no detail, and only a failure of ours is logged."""

    def handler(request: web.BaseRequest) -> Response:
        if request.path == "/b":
            raise TimeoutError("secret")
        return Response(body=b"hello")

    async with serving(handler) as port:
        answered = (await said(port, sent)).decode()
    assert re.findall(r"HTTP/1\.\d (.*)\r\n", answered) == statuses
    assert answered.count("hello") == bodies
    assert answered.count("Server: ai-task-processor\r\n") == len(statuses)
    assert "secret" not in answered
    assert logged() == errors


@pytest.mark.parametrize("end", ["silent", "slow head", "idle", "half a body", "garbage in a body", "not taken"])
async def test_slow_peers_meet_a_deadline(end: str, monkeypatch: pytest.MonkeyPatch, logged: Logged) -> None:
    """A head, a body or the taking of an answer that does not come in time ends the connection, without a log line."""
    for name in ("HEAD_S", "LINGER_S", "SWEEP_S"):
        monkeypatch.setattr(listener, name, 0.1)
    monkeypatch.setattr(listener, "REQUEST_S", 0.3 if end == "not taken" else 30.0)
    post = b"POST / HTTP/1.1\r\nHost: x\r\n"
    sent, answers = {
        "silent": (b"", 0),
        "slow head": (b"GET / HTTP/1.1\r\nX: ", 0),
        "idle": (GET, 1),
        "half a body": (post + b"Content-Length: 99999999\r\n\r\nab", 1),
        "garbage in a body": (post + b"Transfer-Encoding: chunked\r\n\r\n", 1),
        "not taken": (GET, 0),
    }[end]
    body = BIG if end == "not taken" else b"hello"
    async with serving(lambda request: Response(body=body)) as port, connected(port) as (reader, writer):
        writer.write(sent)
        if end == "not taken":
            writer.transport.pause_reading()  # type: ignore[attr-defined]  # a stream's transport reads, too
            await asyncio.sleep(1.0)
            writer.transport.resume_reading()  # type: ignore[attr-defined]
        for _ in range({"slow head": 20, "garbage in a body": 1}.get(end, 0)):
            await asyncio.sleep(0.02)
            if reader.at_eof() or writer.is_closing():
                break
            writer.write(b"z" if end == "slow head" else b"zz\r\n")
        async with asyncio.timeout(3):
            received = await everything(reader)
    assert received.count(body) == answers
    assert logged() == []


async def everything(reader: asyncio.StreamReader) -> bytes:
    received = bytearray()
    try:
        while piece := await reader.read(2**16):
            received += piece
    except ConnectionError:
        pass
    return bytes(received)


async def test_the_oldest_connection_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the bound the connection goes whose last request, or accept, is the longest ago."""
    monkeypatch.setattr(listener, "MAX_CONNECTIONS", 3)
    async with serving() as port, AsyncExitStack() as stack:
        first, second, third = [await stack.enter_async_context(connected(port)) for _ in range(3)]
        await asyncio.sleep(0.05)
        first[1].write(GET)
        await asyncio.wait_for(first[0].readuntil(b"hello"), 5)
        await stack.enter_async_context(connected(port))
        assert await asyncio.wait_for(everything(second[0]), 5) == b""
        for reader, writer in (first, third):
            writer.write(LAST)
            assert (await asyncio.wait_for(reader.read(), 5)).endswith(b"hello")


def test_many_clients_at_once_are_all_answered() -> None:
    """More than there may be connections: they wait, instead of dropping one another before they are answered."""

    def answers(port: int) -> list[bytes]:
        with ExitStack() as stack:
            address = "127.0.0.1", port
            clients = [stack.enter_context(socket.create_connection(address)) for _ in range(400)]
            for client in clients:
                client.sendall(GET)
            return [client.recv(2**12) for client in clients]

    async def ask() -> list[bytes]:
        async with serving() as port:
            return await asyncio.to_thread(answers, port)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # the daemon's loop accepts faster
        found = runner.run(ask())
    assert [answer[:15] for answer in found] == [b"HTTP/1.1 200 OK"] * 400


async def test_half_closed_peer_still_gets_its_answer() -> None:
    """A client that ends its side right after the request (``nc -N``) is answered."""
    async with serving() as port, connected(port) as (reader, writer):
        writer.write(GET)
        writer.write_eof()
        assert (await asyncio.wait_for(reader.read(), 2)).endswith(b"hello")


async def test_closing_does_not_wait_for_silent_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that never asked and those that were answered are let go at once."""
    monkeypatch.setattr(listener, "LINGER_S", 30.0)
    ops = Listener(lambda request: Response(body=b"hello"))
    port = await ops.start("127.0.0.1", 0)
    async with connected(port), connected(port) as (reader, writer), asyncio.timeout(3):
        writer.write(GET)
        await reader.readuntil(b"hello")
        await ops.aclose()


async def test_closing_ends_every_connection() -> None:
    """An answer under way is sent to its end; a peer that does not take it is dropped in a second."""
    async with AsyncExitStack() as stack:
        ops = Listener(lambda request: Response(body=BIG))
        port = await ops.start("127.0.0.1", 0)
        taking, stuck = [await stack.enter_async_context(connected(port)) for _ in range(2)]
        taking[1].write(GET)
        stuck[1].write(GET)
        stuck[1].transport.pause_reading()  # type: ignore[attr-defined]  # a stream's transport reads, too
        await asyncio.sleep(0.05)
        reading = asyncio.create_task(everything(taking[0]))
        async with asyncio.timeout(3):
            await ops.aclose()
            assert (await reading).endswith(BIG)
        with pytest.raises(ConnectionRefusedError):
            await said(port, LAST)
        await ops.aclose()


@pytest.mark.parametrize(
    ("host", "answering"),
    [
        ("127.0.0.1", ["127.0.0.1"]),
        ("0.0.0.0", ["127.0.0.1"]),
        ("localhost", ["localhost"]),
        ("::1", ["::1"]),
        ("::", ["127.0.0.1", "::1"]),
        ("0:0:0:0:0:0:0:0", ["127.0.0.1", "::1"]),
    ],
)
@pytest.mark.parametrize("ipv6", [True, False])
async def test_which_addresses_it_listens_on(
    host: str, answering: list[str], ipv6: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``::`` takes both families, and IPv4 alone where there is no IPv6."""
    if not ipv6:
        monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
        answering = [address for address in answering if len(answering) == 1 or ":" not in address]
    elif not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    async with serving(host=host) as port:
        for address in answering:
            assert (await said(port, LAST, address)).endswith(b"hello")


async def test_a_taken_port_is_an_error() -> None:
    """And no socket is left behind."""
    async with serving() as port:
        with pytest.raises(OSError, match="in use") as caught:
            await Listener(lambda request: Response()).start("127.0.0.1", port)
    assert listener.unusable(caught.value, "127.0.0.1", port).startswith(
        f"METRICS_PORT cannot be used, because 127.0.0.1:{port}"
    )


@pytest.mark.parametrize("host", ["::ffff:127.0.0.1", "192.0.2.1", "fe80::1%nobody", "x" * 70])
async def test_an_address_that_is_not_ours_is_an_error(host: str) -> None:
    """It is not the port that is to be changed. One is IPv4 within IPv6, and one cannot be a host name."""
    with pytest.raises((OSError, UnicodeError)) as caught:
        await Listener(lambda request: Response()).start(host, 0)
    text = listener.unusable(caught.value, host, 0)
    assert text.startswith(f"METRICS_HOST cannot be used, because nothing can listen on {host} here (")
    assert "METRICS_PORT" not in text


GREEDY = """
import asyncio, json, os, resource, sys, uvloop
from ai_task_processor.ops.listener import Listener, Response

async def main():
    print(await Listener(lambda request: Response(body=b"hello")).start("127.0.0.1", 0), flush=True)
    failed = False
    while True:
        try:
            os.open(os.devnull, os.O_RDONLY)
        except OSError as error:
            if not failed:
                print(json.dumps([error.strerror, resource.getrlimit(resource.RLIMIT_NOFILE)]), flush=True)
            failed = True
            await asyncio.sleep(0)

resource.setrlimit(resource.RLIMIT_NOFILE, (64, int(sys.argv[1])))
with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(main())
"""


@pytest.mark.parametrize(("hard", "soft"), [(64, 48), (4096, 64)])
async def test_a_lack_of_descriptors_hides_no_probe(hard: int, soft: int) -> None:
    """The process takes every descriptor that it can get, those of ended probes included: all are answered."""
    async with spawned(sys.executable, "-c", GREEDY, str(hard), stdout=asyncio.subprocess.PIPE) as process:
        assert process.stdout is not None
        port = int(await process.stdout.readline())
        assert json.loads(await process.stdout.readline()) == ["Too many open files", [soft, hard]]
        for _ in range(5):
            answers = await asyncio.gather(*(said(port, LAST) for _ in range(10)))
            assert all(answer.endswith(b"hello") for answer in answers)
