"""The HTTP server over real sockets: what it answers, and what it survives."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from email.utils import parsedate_to_datetime

import httpx2
import pytest

from ai_task_processor.ops.server import Abort, Handler, HttpServer, Request, Response


async def echo(request: Request) -> Response:
    fields = [request.method, request.path, request.target, *(f"{k}={v}" for k, v in request.query.items())]
    return Response(body="|".join(fields).encode() + request.body, content_type="text/plain")


@asynccontextmanager
async def serving(handler: Handler, host: str = "127.0.0.1", **limits: float) -> AsyncIterator[int]:
    server = HttpServer(handler, **limits)  # type: ignore[arg-type]  # limits are ints and floats by name
    port = await server.start(host, 0)
    try:
        yield port
    finally:
        await server.aclose()


async def raw(port: int, sent: bytes) -> bytes:
    """Everything that the server says to these bytes until it closes."""
    async with connected(port) as (reader, writer), asyncio.timeout(5):
        writer.write(sent)
        return await reader.read()


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        await asyncio.sleep(0)


async def raw_or_reset(port: int) -> bytes:
    try:
        return await raw(port, get())
    except ConnectionError:
        return b""


def get(path: str = "/", *, close: bool = True) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n{'Connection: close' if close else 'X-A: b'}\r\n\r\n".encode()


async def test_request_reaches_the_handler_as_it_was_sent() -> None:
    """Path and target stay percent-encoded, the query is decoded, the body is complete."""
    async with serving(echo) as port, httpx2.AsyncClient(trust_env=False) as client:
        answer = await client.post(f"http://127.0.0.1:{port}/a%2Fb?x=1%202&y=", content=b"+body")
    assert answer.text == "POST|/a%2Fb|/a%2Fb?x=1%202&y=|x=1 2|y=+body"
    assert "server" not in answer.headers
    assert parsedate_to_datetime(answer.headers["date"]).tzinfo is not None


async def test_one_connection_serves_many_requests() -> None:
    """Keep-alive: two pipelined requests on one socket get two answers in order."""
    async with serving(echo) as port:
        answered = await raw(port, get("/one", close=False) + get("/two"))
    assert answered.count(b"HTTP/1.1 200") == 2
    assert answered.index(b"|/one") < answered.index(b"|/two")


@pytest.mark.parametrize("streamed", [False, True])
async def test_head_has_headers_and_no_body(streamed: bool) -> None:
    """HEAD is answered like GET without its body, and the connection stays usable."""

    async def handler(request: Request) -> Response:
        return Response(body=pieces(b"hello") if streamed else b"hello", content_type="text/plain")

    async with serving(handler) as port:
        answered = await raw(port, b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n" + get())
    head, _, rest = answered.partition(b"\r\n\r\n")
    assert b"200" in head
    assert rest.startswith(b"HTTP/1.1 200")
    assert answered.count(b"hello") == 1


async def pieces(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def test_ipv6_hosts_are_served() -> None:
    """The server listens on an IPv6 address when it is given one."""
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    async with serving(echo, "::1") as port, httpx2.AsyncClient(trust_env=False) as client:
        assert (await client.get(f"http://[::1]:{port}/")).status_code == 200


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"NONSENSE\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 100_000 + b"\r\n\r\n", 431),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: nine\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n20000\r\n" + b"a" * 0x20000, 413),
    ],
)
async def test_requests_that_break_the_rules_are_refused(sent: bytes, status: int) -> None:
    """Malformed requests are 400, too large ones 413 or 431, and none reaches the handler."""

    async def unreachable(request: Request) -> Response:
        return Response(200)

    async with serving(unreachable) as port:
        assert (await raw(port, sent)).startswith(f"HTTP/1.1 {status} ".encode())


async def test_client_that_waits_for_100_continue_is_told_to_go_on() -> None:
    """``Expect: 100-continue`` is answered before the body comes."""
    async with serving(echo) as port, connected(port) as (reader, writer):
        sent = b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi"
        writer.write(sent[:-2])
        assert b" 100 " in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        writer.write(sent[-2:])
        assert (await asyncio.wait_for(reader.read(), 5)).endswith(b"hi")


@pytest.mark.parametrize(
    ("sent", "answer"),
    [(b"", b""), (b"GET / HTTP/1.1\r\nHo", b""), (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\na", b"408")],
)
async def test_slow_peers_meet_a_deadline(sent: bytes, answer: bytes) -> None:
    """A head or a body that does not come in time ends the connection."""
    async with serving(echo, header_timeout_s=0.05, body_timeout_s=0.05) as port:
        answered = await raw(port, sent)
    assert answered[9:12] == answer


async def test_idle_connection_is_closed() -> None:
    """After an answer a silent peer is let go when the idle time is over."""
    async with serving(echo, idle_timeout_s=0.05) as port:
        assert (await raw(port, get(close=False))).count(b"HTTP/1.1 200") == 1


async def test_half_open_connections_never_lock_out_a_probe() -> None:
    """With 500 half-sent requests open, a real request is answered at once."""
    async with serving(echo, max_connections=64) as port, AsyncExitStack() as idlers:
        for _ in range(500):
            _, writer = await idlers.enter_async_context(connected(port))
            writer.write(b"GET / HTT")
        async with asyncio.timeout(2):
            assert b"200" in await raw(port, get())


async def test_served_connection_outlives_a_flood() -> None:
    """A connection that already had an answer (a scraper's) is kept, and ones that sent nothing go first."""
    async with serving(echo, max_connections=4) as port, connected(port) as (reader, writer):
        writer.write(get(close=False))
        assert b"200" in await asyncio.wait_for(reader.readuntil(b"|/"), 5)
        async with AsyncExitStack() as idlers:
            for _ in range(20):
                await idlers.enter_async_context(connected(port))
            await asyncio.sleep(0.05)
            writer.write(get())
            assert b"200" in await asyncio.wait_for(reader.read(), 5)


async def test_full_house_of_busy_connections_refuses_and_keeps_them() -> None:
    """A connection whose request is being answered is never dropped for a new one."""
    release = asyncio.Event()

    async def handler(request: Request) -> Response:
        await release.wait()
        return Response(body=b"done")

    async with serving(handler, max_connections=2) as port, asyncio.TaskGroup() as group:
        busy = [group.create_task(raw(port, get())) for _ in range(2)]
        await asyncio.sleep(0.05)
        refused = await raw_or_reset(port)
        release.set()
    assert refused == b""
    assert all(task.result().endswith(b"done") for task in busy)


async def test_broken_handler_answers_500_without_details(caplog: pytest.LogCaptureFixture) -> None:
    """A handler's exception is a bare 500; the log has its type and nothing of its message."""

    async def handler(request: Request) -> Response:
        raise TimeoutError("secret-in-message")

    async with serving(handler) as port:
        answered = await raw(port, get())
    assert answered.startswith(b"HTTP/1.1 500 ")
    assert b"secret" not in answered
    assert "TimeoutError" in caplog.text
    assert "secret" not in caplog.text


async def test_abort_resets_the_connection() -> None:
    """``Abort`` reaches the peer as a TCP reset, ``Abort(reset=False)`` as a plain close."""

    async def handler(request: Request) -> Response:
        raise Abort(reset=request.path == "/reset")

    async with serving(handler) as port:
        with pytest.raises(ConnectionResetError):
            await raw(port, get("/reset"))
        assert await raw(port, get("/close")) == b""


async def test_stream_waits_for_its_reader() -> None:
    """A streamed body is produced no faster than the peer takes it, and arrives whole."""
    produced = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal produced
        for _ in range(1000):
            produced += 1
            yield b"x" * 65536

    async def handler(request: Request) -> Response:
        return Response(body=body())

    async with serving(handler) as port, connected(port) as (reader, writer):
        writer.write(get())
        await asyncio.sleep(0.2)
        assert 0 < produced < 500
        received = 0
        while chunk := await reader.read(1 << 20):
            received += len(chunk)
    assert received > 1000 * 65536


@pytest.mark.parametrize("leave", ["close", "abort"])
async def test_handler_ends_when_its_peer_hangs_up(leave: str) -> None:
    """A handler that waits for ever is cancelled soon after its client has gone."""
    entered, cancelled = asyncio.Event(), asyncio.Event()

    async def handler(request: Request) -> Response:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return Response()

    leaving: dict[str, Callable[[asyncio.StreamWriter], object]] = {
        "close": asyncio.StreamWriter.close,
        "abort": lambda writer: writer.transport.abort(),
    }
    async with serving(handler) as port, connected(port) as (_, writer):
        writer.write(get())
        await asyncio.wait_for(entered.wait(), 5)
        leaving[leave](writer)
        await asyncio.wait_for(cancelled.wait(), 5)


async def test_half_closed_peer_still_gets_its_answer() -> None:
    """A client that ends its side right after the request (``nc -N``) is answered."""

    async def slow(request: Request) -> Response:
        await asyncio.sleep(0.1)
        return await echo(request)

    async with serving(slow) as port, connected(port) as (reader, writer):
        writer.write(get())
        writer.write_eof()
        assert b"200 OK" in await asyncio.wait_for(reader.read(), 5)


async def test_closing_drops_every_connection() -> None:
    """``aclose`` ends waiting peers and busy handlers at once."""

    async def handler(request: Request) -> Response:
        await asyncio.Event().wait()
        return Response()

    server = HttpServer(handler)
    port = await server.start("127.0.0.1", 0)
    waiting: list[Awaitable[bytes]] = [asyncio.ensure_future(raw(port, sent)) for sent in (b"", get())]
    await asyncio.sleep(0.05)
    await asyncio.wait_for(server.aclose(), 2)
    assert [await answered for answered in waiting] == [b"", b""]
