"""The client against servers on real sockets that keep to HTTP/1.1, and some that do not."""

import asyncio
import contextlib
import os
import resource
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import httpx2
import pytest

from ai_task_processor.core.deadline import stalls_of
from ai_task_processor.core.errors import Ambiguous, InvalidAnswer, Misconfigured, RemoteError, TimedOut, Unsent
from ai_task_processor.net import pool as module
from ai_task_processor.net.answers import Answer
from ai_task_processor.net.client import HttpClient, deadline
from tests.contract.helpers import failing
from tests.contract.http.servers import OK, Server, Talk, client_of, serving, with_header

NO = OK.replace(b"ok", b"no")
REFUSED = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno"


async def ask(client: HttpClient, server: Server, body: bytes = b"", timeout_s: float = 5.0) -> Answer:
    return await client.exchange("PATCH", f"{server.url}/x", content=body, timeout_s=timeout_s)


async def read(client: HttpClient, server: Server) -> tuple[int, bytes]:
    async with deadline(5), client.opened(f"{server.url}/x", {"limit": "5"}) as answer:
        return answer.status_code, b"".join([chunk async for chunk in answer.aiter_bytes()])


async def by_exchange(client: HttpClient, server: Server) -> tuple[int, bytes]:
    answer = await ask(client, server, b"body")
    return answer.status_code, answer.content


async def by_get(client: HttpClient, server: Server) -> tuple[int, bytes]:
    answer = await client.exchange("GET", f"{server.url}/x", timeout_s=5)
    return answer.status_code, answer.content


async def by_httpx2(client: HttpClient, server: Server) -> tuple[int, bytes]:
    async with client.over_httpx2() as other:
        answer = await other.patch(f"{server.url}/x", content=b"body")
    return answer.status_code, answer.content


def after(wait: Callable[[], Awaitable[object]], answer: bytes) -> Talk:
    """Answers so when it has waited."""

    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await wait()
        writer.write(answer)
        await writer.drain()

    return talk


@dataclass
class Pouring:
    """Sends pieces of a large body for as long as somebody takes them."""

    piece: int
    sent: int = 0

    async def talk(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while not writer.is_closing():
                writer.write(bytes(self.piece))
                await writer.drain()
                self.sent += self.piece


Way = Callable[[HttpClient, Server], Awaitable[tuple[int, bytes]]]
every_way = pytest.mark.parametrize("way", [by_exchange, by_get, read, by_httpx2])


@every_way
async def test_one_connection_serves_one_request_after_the_other(way: Way) -> None:
    """Kept alive, whoever asks."""
    async with serving(OK) as server, client_of(server.url) as client:
        assert [await way(client, server) for _ in range(3)] == [(200, b"ok")] * 3
    assert server.connections == 1
    assert b"".join(server.bodies) in (b"", b"bodybodybody")


@every_way
async def test_a_lost_answer_is_ambiguous(way: Way) -> None:
    """Nothing is sent twice by itself, not even a GET over a connection that was used before."""

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    async with serving(OK, hang_up, OK) as server, client_of(server.url) as client:
        await way(client, server)
        await failing(Ambiguous, way(client, server))
        assert len(server.heads) == 2
        assert await way(client, server) == (200, b"ok")


@pytest.mark.parametrize(
    "target", ["/a%2Fb", "/%2E%2E/%2e%2e", "/~%7E%41", "/caf%C3%A9", "/x?a=%2B+b", "/a%zz", "/a//b/"]
)
async def test_paths_are_sent_as_quoted(target: str) -> None:
    """An id that was quoted stays below its prefix."""
    async with serving(OK) as server, client_of(server.url) as client:
        await client.exchange("GET", server.url + target, timeout_s=5)
        await client.over_httpx2().get(httpx2.URL(server.url).copy_with(raw_path=target.encode()))
    assert [head.split(b" ")[1] for head in server.heads] == [target.encode()] * 2


async def test_what_is_sent_along() -> None:
    """Nothing but what we say: no cookie that was set, and a header of a request in place of the client's own."""
    cookie = with_header(b"Set-Cookie: session=1; Path=/")
    async with serving(cookie) as server, client_of(server.url) as client:
        for way in (by_exchange, by_httpx2, by_exchange, by_httpx2):
            await way(client, server)
        await client.exchange("POST", f"{server.url}/", headers={"user-agent": "other"}, content=b"", timeout_s=5)
    assert server.headers(b"cookie") == []
    assert server.headers(b"accept-encoding") == [b"identity"] * 5
    assert [agent[:17] for agent in server.headers(b"user-agent")] == [b"ai-task-processor"] * 4 + [b"other"]


@every_way
async def test_a_redirect_is_an_answer(way: Way) -> None:
    """It is not followed: our bearer would go with it."""
    answer = b"HTTP/1.1 307 Go\r\nLocation: /y\r\nContent-Length: 0\r\n\r\n"
    async with serving(answer) as server, client_of(server.url) as client:
        assert await way(client, server) == (307, b"")
    assert len(server.heads) == 1


@pytest.mark.parametrize("headers", [{"X": "a\r\nY: b"}, {"X\r\nY": "b"}, {"X": "a\nb"}, {"X": "a\0b"}])
async def test_nothing_ends_a_line_early(headers: dict[str, str]) -> None:
    """A line break in a header would begin another header, or another request."""
    async with serving(OK) as server, client_of(server.url) as client:
        await failing(Misconfigured, client.exchange("GET", server.url, headers=headers, timeout_s=5))
    assert server.heads == []


# --- the connection afterwards


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(with_header(b"Connection: close"), id="close"),
        pytest.param(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", id="HTTP/1.0"),
        pytest.param(with_header(b"Keep-Alive: timeout=1"), id="one second"),
        pytest.param(OK + NO, id="a second answer"),
    ],
)
async def test_what_cannot_be_used_again_is_not(answer: bytes) -> None:
    """``Connection: close``, an old server, one that is about to hang up, and one that splits responses."""
    async with serving(answer) as server, client_of(server.url) as client:
        for _ in range(2):
            assert (await ask(client, server)).content == b"ok"
    assert server.connections == 2


@pytest.mark.parametrize(
    ("head", "behind", "status", "content"),
    [
        (b"HTTP/1.1 204 No\r\nContent-Length: 2\r\n\r\n", b"ok", 204, b""),
        (b"HTTP/1.1 204 No\nContent-Length: 2\n\n", b"ok", 204, b""),
        (b"HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n", b"0\r\n\r\n", 204, b""),
        (b"HTTP/1.1 103 Hints\r\n\r\nHTTP/1.1 204 No\r\nContent-Length: 2\r\n\r\n", b"ok", 204, b""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"{}", 200, b""),
        (OK, b"junk", 200, b"ok"),
        (with_header(b"Connection: close"), b"junk", 200, b"ok"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", b"junk", 200, b"ok"),
    ],
)
@pytest.mark.parametrize("later", [0, 1, 2])
async def test_bytes_behind_a_whole_answer_end_its_connection(
    head: bytes, behind: bytes, status: int, content: bytes, later: int
) -> None:
    """The answer counts: else each repeat of the request would be lost in the same way. ``later``: bytes of the head
    that come in the same packet as what is behind it."""
    at = len(head) - later

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(2)
        if later:
            writer.write(head[:at])
            await asyncio.sleep(0.02)
        writer.write(head[at if later else 0 :] + behind)
        await writer.drain()

    async with serving(say) as server, client_of(server.url) as client:
        for _ in range(2):
            answer = await ask(client, server, b"{}")
            assert (answer.status_code, answer.content) == (status, content)
    assert (server.connections, len(server.heads)) == (2, 2)


async def test_the_body_of_a_204_may_come_later() -> None:
    """It is not taken for the next answer."""

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(2)
        writer.write(b"HTTP/1.1 204 No\r\nContent-Length: 2\r\n\r\n")
        await asyncio.sleep(0.02)
        writer.write(b"ok")

    async with serving(say) as server, client_of(server.url) as client:
        for _ in range(3):
            assert (await ask(client, server, b"{}")).status_code == 204
    assert (server.connections, len(server.heads)) == (3, 3)


async def test_a_longer_keep_alive_is_heeded_again() -> None:
    """The last word of the server counts."""
    short = with_header(b"Keep-Alive: timeout=1")
    async with serving(short, OK) as server, client_of(server.url) as client:
        for _ in range(4):
            await ask(client, server)
    assert server.connections == 2


@pytest.mark.parametrize("stalled", [False, True])
async def test_a_server_that_hung_up_between_two_requests(stalled: bool) -> None:
    """Its end is noticed while nothing is asked, or after a stall of ours before the next request is written."""
    async with serving(OK) as server, client_of(server.url) as client:
        await ask(client, server)
        if stalled:
            with socket.socket(fileno=os.dup(server.writers[0].get_extra_info("socket").fileno())) as theirs:
                theirs.shutdown(socket.SHUT_RDWR)
            stalls_of(asyncio.get_running_loop()).note(0.0, 36.0)
        else:
            server.hang_up()
            await asyncio.sleep(0.05)
        assert (await ask(client, server)).content == b"ok"
    assert server.connections == 2


async def test_a_server_that_closes_behind_each_answer_is_told_in_words() -> None:
    """It does not say so, and the next request meets the closing connection."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(2)
        writer.write(OK)
        await writer.drain()
        writer.close()

    async with serving(answer) as server, client_of(server.url) as client:
        told = set[str]()
        for _ in range(20):
            try:
                await ask(client, server, b"{}")
            except RemoteError as error:
                told.add(str(error))
    assert told
    assert all("the server closed the connection" in sentence or "reset" in sentence for sentence in told), told


async def test_bytes_that_nobody_asked_for_answer_nothing() -> None:
    """What comes while nothing is asked is not taken for the next answer, and the next request is not sent there."""
    async with serving(OK) as server, client_of(server.url) as client:
        await ask(client, server)
        server.writers[0].write(NO)
        await asyncio.sleep(0.05)
        await failing(Unsent, ask(client, server))
        assert (await ask(client, server)).content == b"ok"
    assert (server.connections, len(server.heads)) == (2, 2)


async def test_what_was_not_read_takes_its_connection_along() -> None:
    """The rest of an answer is not taken for the next one."""
    long = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[1,"
    async with serving(long, OK) as server, client_of(server.url) as client:
        async with client.opened(f"{server.url}/x") as answer:
            async for chunk in answer.aiter_bytes():
                assert chunk == b"[1,"
                break
        assert await read(client, server) == (200, b"ok")
    assert server.connections == 2


@pytest.mark.parametrize("after_s", [0.0, 0.001, 0.02])
async def test_a_cancelled_request_takes_its_connection_along(after_s: float) -> None:
    """Its answer would be taken for that of the next request."""
    late = after(lambda: asyncio.sleep(0.05), NO)
    async with serving(late, OK) as server, client_of(server.url, connections=1) as client:
        request = asyncio.create_task(ask(client, server))
        await asyncio.sleep(after_s)
        request.cancel()
        await failing(asyncio.CancelledError, request)
        await asyncio.sleep(0.06)
        # The first may still meet the server that was to answer late: it was never told of the cancelled request.
        answers = await asyncio.gather(*(ask(client, server) for _ in range(3)))
        assert {answer.status_code for answer in answers} == {200}


async def test_a_server_that_reads_nothing_is_left_at_once() -> None:
    """Else each request under its deadline would leave a connection that waits to be written, for ever."""
    ended = asyncio.Event()

    async def stare(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.5)
        with contextlib.suppress(ConnectionError):
            while await reader.read(2**20):
                pass
        ended.set()

    async with serving(stare) as server, client_of(server.url) as client:
        await failing(TimedOut, ask(client, server, bytes(50 * 2**20), timeout_s=0.2))
        async with asyncio.timeout(2):
            await ended.wait()


# --- the answer


@pytest.mark.parametrize(
    ("answer", "content"),
    [
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" + OK, b"ok", id="interim"),
        pytest.param(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + OK, b"ok", id="hints"),
        pytest.param(b"HTTP/1.1 204 No Content\r\n\r\n", b"", id="204"),
        pytest.param(b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", b"", id="204 of no length"),
        pytest.param(with_header(b"\r\n".join([b"X: y"] * 900)), b"ok", id="many headers"),
        pytest.param(OK.replace(b"\r", b""), b"ok", id="bare line feeds"),
        pytest.param(with_header(b"X: a\r\n b"), b"ok", id="folded header"),
        pytest.param(with_header(b"X: " + b"x" * 60_000), b"ok", id="long header"),
    ],
)
async def test_an_answer_in_another_dress(answer: bytes, content: bytes) -> None:
    """What RFC 9110 and RFC 9112 allow, and the connection lives on."""
    async with serving(answer) as server, client_of(server.url) as client:
        for _ in range(2):
            assert (await ask(client, server)).content == content
    assert server.connections == 1


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"", "the server closed the connection without an answer"),
        (b"HTTP/1.1 200 OK\r\nContent-", "the server closed the connection without an answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", "the server closed the connection without a whole answer"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nok",
         "the server closed the connection without a whole answer"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "the answer is no HTTP/1.1: Bad status line"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
         "the answer is no HTTP/1.1: Transfer-Encoding can't be present with Content-Length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
         "the answer is no HTTP/1.1: Duplicate Content-Length"),
        (b"HTTP/1.1 200 OK\r\n hush\r\n\r\nhush\r\n\r\n", "the answer is no HTTP/1.1: Invalid header token"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nhush\r\n",
         "the answer is no HTTP/1.1: Invalid character in chunk size"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1001 + b"\r\n", "the answer is no HTTP/1.1: Too many headers received"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"hush" * 2**17 + b"\r\n\r\n",
         "the answer is no HTTP/1.1: Got more than 65536 bytes when reading"),
    ],
)  # fmt: skip
async def test_an_answer_that_is_none(answer: bytes, told: str) -> None:
    """The parser's own sentence says what is wrong; the request may have been applied; the connection has ended."""

    async def say(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            writer.write(answer)
            await writer.drain()
        writer.close()

    async with serving(say, OK) as server, client_of(server.url) as client:
        raised = await failing(Ambiguous, ask(client, server))
        assert (await ask(client, server)).content == b"ok"
    assert str(raised).startswith(told)
    assert "hush" not in str(raised)
    assert server.connections == 2


async def test_a_body_that_goes_wrong_later_is_not_waited_for() -> None:
    """The parser's sentence comes at once."""

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(2)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")
        await asyncio.sleep(0.02)
        writer.write(b"hush\r\n")
        await asyncio.sleep(1)

    async with serving(say) as server, client_of(server.url) as client:
        raised = await failing(Ambiguous, ask(client, server, b"{}", timeout_s=1))
    assert str(raised) == "the answer is no HTTP/1.1: Invalid character in chunk size"


async def test_the_deadline_is_total() -> None:
    """A server that sends a byte every now and then is given up at the deadline, however busy the machine."""

    async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.02)

    async with serving(drip) as server, client_of(server.url) as client:
        loop = asyncio.get_running_loop()
        started_at = loop.time()
        await failing(TimedOut, ask(client, server, timeout_s=0.3))
        assert 0.29 <= loop.time() - started_at < 3.0


@pytest.mark.parametrize("way", [by_exchange, read, by_httpx2])
async def test_a_body_over_the_limit_is_not_read_to_its_end(way: Way) -> None:
    """The rest is left where it is, and the connection with it."""
    async with serving(Pouring(2**16).talk, OK) as server, client_of(server.url) as client:
        await failing(InvalidAnswer, way(client, server))
        assert await way(client, server) == (200, b"ok")


async def test_a_stream_presses_back() -> None:
    """A reader that is slow keeps the server waiting, not the memory growing."""
    pouring = Pouring(2**20)
    async with (
        serving(pouring.talk) as server,
        client_of(server.url, limit=None) as client,
        client.opened(f"{server.url}/x") as answer,
    ):
        chunks = answer.aiter_bytes()
        await anext(chunks)
        await asyncio.sleep(0.2)
        before = pouring.sent
        await asyncio.sleep(0.2)
        assert pouring.sent == before < 100 * 2**20
        while pouring.sent < before + 10 * 2**20:
            await anext(chunks)


async def test_a_refusal_before_the_whole_request_was_sent() -> None:
    """The answer counts, and what is left of the request does not spoil the next one."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
        await writer.drain()
        while await reader.read(2**16):
            pass

    async with serving(refuse) as server, client_of(server.url) as client:
        for _ in range(2):
            answer = await ask(client, server, bytes(50 * 2**20))
            assert (answer.status_code, answer.content) == (413, b"big")


# --- the pool


@pytest.mark.parametrize("connections", [1, 2])
async def test_no_more_connections_than_allowed_and_first_come_first_served(connections: int) -> None:
    """Who finds all connections busy waits for one, in the order of coming."""
    order: list[int] = []

    async def one(number: int) -> None:
        await client.exchange("GET", server.url, timeout_s=5)
        order.append(number)

    async with (
        serving(after(lambda: asyncio.sleep(0.01), OK)) as server,
        client_of(server.url, connections=connections) as client,
    ):
        await asyncio.gather(*(one(number) for number in range(10)))
    assert server.connections == connections
    assert connections > 1 or order == list(range(10))


async def test_nobody_waits_for_a_connection_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was sent then. Those who gave up leave no hole in the queue."""
    free = asyncio.Event()
    async with serving(after(free.wait, OK)) as server, client_of(server.url, connections=1) as client:
        client.pool._connect_timeout_s = 0.05
        first = asyncio.create_task(client.exchange("GET", server.url, timeout_s=5))
        await asyncio.sleep(0.02)
        await failing(Unsent, ask(client, server), "no connection in time")
        cancelled = asyncio.create_task(ask(client, server))
        await asyncio.sleep(0)
        cancelled.cancel()
        free.set()
        assert (await first).content == b"ok"
        assert (await client.exchange("GET", server.url, timeout_s=5)).content == b"ok"
        await failing(asyncio.CancelledError, cancelled)
    assert server.connections == 1


async def test_two_thousand_at_once() -> None:
    """Each over a connection of its own, and all of them again."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    here, gate = asyncio.Event(), asyncio.Event()

    async def together() -> None:
        if server.connections == 2000:
            here.set()
        await gate.wait()

    async with serving(after(together, OK)) as server, client_of(server.url, connections=2000) as client:
        asked = [asyncio.create_task(client.exchange("GET", server.url, timeout_s=60)) for _ in range(2000)]
        await here.wait()
        gate.set()
        assert {(await answer).content for answer in asked} == {b"ok"}
        await asyncio.gather(*(client.exchange("GET", server.url, timeout_s=60) for _ in range(2000)))
    assert server.connections == 2000


async def test_the_next_address_gets_its_chance_and_names_are_looked_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host of two addresses, and nobody listens at the first (RFC 8305); next time it may have others."""
    asked: list[str] = []

    async def resolve(_: object, host: str, port: int, *__: Any, **___: Any) -> list[dict[str, Any]]:
        asked.append(host)
        told = {"hostname": host, "port": port, "family": socket.AF_INET, "proto": 6, "flags": 0}
        return [{**told, "host": address} for address in ("127.0.0.3", "127.0.0.1")]

    monkeypatch.setattr(aiohttp.ThreadedResolver, "resolve", resolve)
    monkeypatch.setattr(module, "DNS_TTL_S", 0)
    async with serving(with_header(b"Connection: close")) as server:
        server.url = server.url.replace("127.0.0.1", "api.test")
        async with client_of(server.url) as client:
            for _ in range(2):
                assert (await ask(client, server)).content == b"ok"
    assert asked == ["api.test"] * 2


async def test_nobody_listens() -> None:
    """A closed port was not sent anything, by name and by address, and the port is not in the message."""
    async with serving(OK) as server:
        pass
    for url in (server.url, server.url.replace("127.0.0.1", "localhost")):
        async with client_of(url) as client:
            raised = await failing(Unsent, client.exchange("GET", url, timeout_s=5))
        assert str(raised) == "connection refused"


# --- tokens


@dataclass
class Token:
    value: str


@dataclass
class Tokens:
    """Hands out numbered tokens."""

    number: int = 1
    doubted: list[str] = field(default_factory=list)

    async def token(self) -> Token:
        return Token(f"t{self.number}")

    async def renewed(self, _stale: Token) -> Token:
        self.number += 1
        return await self.token()

    def refused(self, token: Token) -> None:
        self.doubted.append(token.value)


@every_way
@pytest.mark.parametrize(
    ("answers", "status", "sent", "doubted"),
    [
        ((OK,), 200, [b"t1"], []),
        ((REFUSED, OK), 200, [b"t1", b"t2"], []),
        ((REFUSED,), 401, [b"t1", b"t2"], ["t2"]),
    ],
    ids=["good", "renewed", "refused twice"],
)
async def test_a_401_renews_the_token_and_repeats_once(
    way: Way, answers: tuple[bytes, ...], status: int, sent: list[bytes], doubted: list[str]
) -> None:
    """Whoever asks. What follows from a second 401 is not decided here."""
    tokens = Tokens()
    async with serving(*answers) as server, client_of(server.url, tokens=tokens) as client:
        assert (await way(client, server))[0] == status
    assert server.connections == 1
    assert server.headers(b"authorization") == [b"Bearer " + token for token in sent]
    assert tokens.doubted == doubted
    assert len(set(server.bodies)) <= 1
