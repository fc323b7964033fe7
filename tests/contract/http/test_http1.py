"""The client's transport against servers on real sockets that keep to HTTP/1.1, and some that do not."""

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest

from ai_task_processor.core.deadline import stalls_of
from ai_task_processor.core.errors import InvalidAnswer
from ai_task_processor.net import http1
from ai_task_processor.net.http1 import Answer, Http1Transport, origin_of, request_head

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Server:
    """Does as told with each request; counts connections and keeps the requests."""

    def __init__(self, *answers: bytes | Talk) -> None:
        self.connections = 0
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.port = 0
        self._answers = answers
        self._writers: list[asyncio.StreamWriter] = []

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        # RuntimeError: uvloop's word for writing to a connection that is closed
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, RuntimeError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head)
                length = next(
                    (line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), b":0"
                )
                self.bodies.append(await reader.readexactly(int(length.partition(b":")[2])))
                answer = self._answers[min(len(self.heads), len(self._answers)) - 1]
                if isinstance(answer, bytes):
                    writer.write(answer)
                    await writer.drain()
                else:
                    await answer(reader, writer)

    def hang_up(self) -> None:
        for writer in self._writers:
            writer.transport.abort()


@asynccontextmanager
async def serving(*answers: bytes | Talk) -> AsyncIterator[Server]:
    server = Server(*answers)
    listener = await asyncio.start_server(server.talk, "127.0.0.1", 0)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        server.hang_up()
        await asyncio.sleep(0.01)


@asynccontextmanager
async def transport(connections: int = 4) -> AsyncIterator[Http1Transport]:
    made = Http1Transport(ssl.create_default_context(), connections=connections)
    try:
        yield made
    finally:
        await made.aclose()


async def ask(client: Http1Transport, server: Server, body: bytes = b"", limit: int = 10**6) -> Answer:
    head = request_head("PATCH", b"/x", [(b"Host", b"here"), (b"Content-Length", b"%d" % len(body))])
    origin = origin_of(httpx2.URL(f"http://127.0.0.1:{server.port}"))
    async with asyncio.timeout(5):
        return await client.exchange(origin, head, body, lambda _status: limit)


async def test_one_connection_serves_one_request_after_the_other() -> None:
    """Kept alive, and the requests arrive as they were written."""
    async with serving(OK) as server, transport() as client:
        for number in range(3):
            answer = await ask(client, server, b"body %d" % number)
            assert (answer.status_code, answer.content) == (200, b"ok")
    assert server.connections == 1
    assert server.bodies == [b"body 0", b"body 1", b"body 2"]
    assert server.heads[0] == b"PATCH /x HTTP/1.1\r\nHost: here\r\nContent-Length: 6\r\n\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", id="close"),
        pytest.param(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", id="HTTP/1.0"),
        pytest.param(b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=1\r\nContent-Length: 2\r\n\r\nok", id="one second"),
    ],
)
async def test_what_the_server_will_close_is_not_used_again(answer: bytes) -> None:
    """``Connection: close``, an old server, and one that is about to hang up."""
    async with serving(answer) as server, transport() as client:
        for _ in range(2):
            assert (await ask(client, server)).content == b"ok"
    assert server.connections == 2


async def test_a_server_that_hung_up_between_two_requests() -> None:
    """Its end is noticed while nothing is asked, and the next request goes over another connection."""
    async with serving(OK) as server, transport() as client:
        await ask(client, server)
        server.hang_up()
        await asyncio.sleep(0.05)
        assert (await ask(client, server)).content == b"ok"
    assert server.connections == 2


@pytest.mark.parametrize(("hung_up", "connections"), [(True, 2), (False, 1)])
async def test_a_server_that_hung_up_while_we_stood_still(hung_up: bool, connections: int) -> None:
    """After a stall its end is not read yet: no request is lost to a dead connection, and a living one is kept."""
    async with serving(OK) as server, transport() as client:
        await ask(client, server)
        if hung_up:
            with socket.socket(fileno=os.dup(server._writers[0].get_extra_info("socket").fileno())) as theirs:
                theirs.shutdown(socket.SHUT_RDWR)
        stalls_of(asyncio.get_running_loop()).note(0.0, 36.0)
        assert (await ask(client, server)).content == b"ok"
    assert server.connections == connections


async def test_bytes_that_nobody_asked_for_answer_nothing() -> None:
    """A second answer in advance (response splitting) ends the connection; the next request gets its own answer."""
    async with serving(OK + OK.replace(b"ok", b"no"), OK) as server, transport() as client:
        assert (await ask(client, server)).content == b"ok"
        assert (await ask(client, server)).content == b"ok"
    assert server.connections == 2


@pytest.mark.parametrize(
    ("answer", "content"),
    [
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" + OK, b"ok", id="interim"),
        pytest.param(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + OK, b"ok", id="hints"),
        pytest.param(b"HTTP/1.1 204 No Content\r\n\r\n", b"", id="204"),
        pytest.param(OK.replace(b"\r", b""), b"ok", id="bare line feeds"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1;x=y\r\nk\r\n0\r\nTrail: er\r\n\r\n",
            b"ok",
            id="chunks with trailers",
        ),
    ],
)
async def test_an_answer_in_another_dress(answer: bytes, content: bytes) -> None:
    """What RFC 9110 and RFC 9112 allow, and the connection lives on."""
    async with serving(answer) as server, transport() as client:
        for _ in range(2):
            assert (await ask(client, server)).content == content
    assert server.connections == 1


async def test_a_body_that_ends_with_the_connection() -> None:
    """Without a length and without chunks, the end of the connection is the end of the body (RFC 9112 §6.3)."""

    async def say(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nall of it")
        await writer.drain()
        writer.close()

    async with serving(say) as server, transport() as client:
        assert (await ask(client, server)).content == b"all of it"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", httpx2.RemoteProtocolError, id="cut body"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-", httpx2.RemoteProtocolError, id="cut head"),
        pytest.param(b"", httpx2.RemoteProtocolError, id="nothing"),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", httpx2.RemoteProtocolError, id="another protocol"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            httpx2.RemoteProtocolError,
            id="two lengths",
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nX: " + b"x" * (http1.MAX_HEAD_BYTES + 2**18) + b"\r\n\r\n",
            httpx2.RemoteProtocolError,
            id="endless head",
        ),
        pytest.param(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
            httpx2.RemoteProtocolError,
            id="another protocol from here on",
        ),
    ],
)
async def test_an_answer_that_is_none(answer: bytes, error: type[Exception]) -> None:
    """What cannot be understood is an error of the server, and its connection is not used again."""

    async def say(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            writer.write(answer)
            await writer.drain()
        writer.close()

    async with serving(say, OK) as server, transport() as client:
        with pytest.raises(error):
            await ask(client, server)
        assert (await ask(client, server)).content == b"ok"
    assert server.connections == 2


async def test_a_body_over_the_limit_is_not_read_to_its_end() -> None:
    """The rest is left where it is, and the connection with it."""

    async def pour(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while not writer.is_closing():
                writer.write(bytes(2**16))
                await writer.drain()

    async with serving(pour, OK) as server, transport() as client:
        with pytest.raises(InvalidAnswer):
            await ask(client, server, limit=10**6)
        assert (await ask(client, server)).content == b"ok"


async def test_an_encoded_body_is_not_read() -> None:
    """A kilobyte of gzip can be a gigabyte of answer."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nok"
    async with serving(answer) as server, transport() as client:
        got = await ask(client, server)
        assert (got.encoded, got.content) == (True, b"")


async def test_a_stream_presses_back() -> None:
    """A reader that is slow keeps the server waiting, not the memory growing."""
    sent = 0

    async def pour(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while not writer.is_closing():
                writer.write(bytes(2**20))
                await writer.drain()
                sent += 2**20

    async with serving(pour) as server, transport() as client:
        request = httpx2.Request("GET", f"http://127.0.0.1:{server.port}/")
        answer = await client.handle_async_request(request)
        chunks = aiter(answer.stream)  # type: ignore[arg-type]  # an async transport answers such a stream
        await anext(chunks)
        await asyncio.sleep(0.2)
        before = sent
        await asyncio.sleep(0.2)
        assert sent == before < 100 * 2**20
        while sent < before + 10 * 2**20:
            await anext(chunks)
        await answer.aclose()


async def test_a_refusal_before_the_whole_request_was_sent() -> None:
    """The answer counts, and what is left of the request does not spoil the next one."""

    writers = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
        await writer.drain()
        await reader.read(2**16)

    listener = await asyncio.start_server(refuse, "127.0.0.1", 0)
    server = Server()
    server.port = listener.sockets[0].getsockname()[1]
    async with transport() as client:
        for _ in range(2):
            answer = await ask(client, server, bytes(50 * 2**20))
            assert (answer.status_code, answer.content) == (413, b"big")
    listener.close()
    for writer in writers:
        writer.transport.abort()
    await asyncio.sleep(0.01)


@pytest.mark.parametrize("connections", [1, 2])
async def test_no_more_connections_than_allowed_and_first_come_first_served(connections: int) -> None:
    """Who finds all connections busy waits for one, in the order of coming."""
    order: list[int] = []

    async def slowly(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.01)
        writer.write(OK)
        await writer.drain()

    async def one(number: int) -> None:
        await ask(client, server)
        order.append(number)

    async with serving(slowly) as server, transport(connections) as client:
        await asyncio.gather(*(one(number) for number in range(10)))
    assert server.connections == connections
    assert connections > 1 or order == list(range(10))


async def test_nobody_waits_for_a_connection_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """``PoolTimeout``: nothing was sent. Those who gave up leave no hole in the queue."""
    monkeypatch.setattr(http1, "POOL_TIMEOUT_S", 0.05)
    free = asyncio.Event()

    async def hang(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await free.wait()
        writer.write(OK)
        await writer.drain()

    async with serving(hang) as server, transport(1) as client:
        first = asyncio.create_task(ask(client, server))
        await asyncio.sleep(0.02)
        with pytest.raises(httpx2.PoolTimeout):
            await ask(client, server)
        cancelled = asyncio.create_task(ask(client, server))
        await asyncio.sleep(0)
        cancelled.cancel()
        free.set()
        assert (await first).content == (await ask(client, server)).content == b"ok"
        with pytest.raises(asyncio.CancelledError):
            await cancelled
    assert server.connections == 1


@pytest.mark.parametrize("after_s", [0.0, 0.001, 0.02])
async def test_a_cancelled_request_takes_its_connection_along(after_s: float) -> None:
    """Its answer would be taken for that of the next request."""

    async def late(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.05)
        writer.write(OK.replace(b"ok", b"no"))
        await writer.drain()

    async with serving(late, OK) as server, transport(1) as client:
        request = asyncio.create_task(ask(client, server))
        await asyncio.sleep(after_s)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        await asyncio.sleep(0.06)
        answers = await asyncio.gather(*(ask(client, server) for _ in range(3)))
        assert {answer.status_code for answer in answers} == {200}


async def test_the_next_address_gets_its_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host of two addresses, and nobody listens at the first (RFC 8305)."""

    async def resolved(*_: object) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in (1, server.port)]

    monkeypatch.setattr(http1, "resolved", resolved)
    async with serving(OK) as server, transport() as client:
        assert (await ask(client, server)).content == b"ok"


@pytest.mark.parametrize(
    ("method", "target", "headers"),
    [
        ("GET", b"/x y", []),
        ("GET", b"/x\r\nX: y", []),
        ("GET", b"/", [(b"X", b"a\r\nY: b")]),
        ("GET", b"/", [(b"X\r\nY", b"b")]),
        ("GET", b"/", [(b"X", b"a\nb")]),
        ("GET", b"/", [(b"X", b"a\0b")]),
        ("GET\r\n", b"/", []),
    ],
)
def test_nothing_ends_a_line_early(method: str, target: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    """A line break in a path or a header would begin another header, or another request."""
    with pytest.raises(httpx2.LocalProtocolError):
        request_head(method, target, headers)
