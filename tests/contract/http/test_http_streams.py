"""Requests without httpx2's objects, over real sockets: an answer that is read as it comes is signed as any other."""

import asyncio
from dataclasses import dataclass, field

import httpx2
import pytest

from ai_task_processor.core.errors import InvalidAnswer
from ai_task_processor.core.settings import NetworkSettings
from ai_task_processor.net.client import RemoteClient, exchange, make_client, stream
from tests.contract.http.test_http1 import OK, Server, serving

REFUSED = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno"


@dataclass
class Token:
    value: str


@dataclass
class Tokens(httpx2.Auth):
    """Hands out numbered tokens."""

    number: int = 1
    doubted: list[str] = field(default_factory=list)

    @property
    def tokens(self) -> "Tokens":
        return self

    async def token(self) -> Token:
        return Token(f"t{self.number}")

    async def renewed(self, _stale: Token) -> Token:
        self.number += 1
        return await self.token()

    def refused(self, token: Token) -> None:
        self.doubted.append(token.value)


def client_of(server: Server, tokens: Tokens | None = None, *, limit: int | None = None) -> httpx2.AsyncClient:
    network = NetworkSettings.model_validate({})
    url = f"http://127.0.0.1:{server.port}"
    return make_client(network, url=url, connections=2, auth=tokens, max_answer_bytes=limit)


async def read(client: httpx2.AsyncClient, server: Server) -> tuple[int, bytes]:
    async with asyncio.timeout(5), stream(client, f"http://127.0.0.1:{server.port}/x", {"limit": "5"}) as answer:
        return answer.status_code, b"".join([chunk async for chunk in answer.aiter_bytes()])


def signatures(server: Server) -> list[bytes]:
    return [line for head in server.heads for line in head.split(b"\r\n") if line.startswith(b"Authorization")]


async def test_what_was_read_to_its_end_leaves_its_connection() -> None:
    """The parameters are in the target, and the next request goes over the same connection."""
    async with serving(OK) as server, client_of(server) as client:
        assert isinstance(client, RemoteClient)
        assert [await read(client, server) for _ in range(3)] == [(200, b"ok")] * 3
    assert server.connections == 1
    assert server.heads[0].startswith(b"GET /x?limit=5 HTTP/1.1\r\n")


async def test_what_was_not_read_takes_its_connection_along() -> None:
    """The rest of an answer is not taken for the next one."""
    long = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[1,"
    async with serving(long, OK) as server, client_of(server) as client:
        async with stream(client, f"http://127.0.0.1:{server.port}/x", {}) as answer:
            async for chunk in answer.aiter_bytes():
                assert chunk == b"[1,"
                break
        assert await read(client, server) == (200, b"ok")
    assert server.connections == 2


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
    answers: tuple[bytes, ...], status: int, sent: list[bytes], doubted: list[str]
) -> None:
    """As for an exchange: what follows from a second 401 is not decided here."""
    tokens = Tokens()
    async with serving(*answers) as server, client_of(server, tokens) as client:
        assert (await read(client, server))[0] == status
        assert await read(client, server)
        assert server.connections == 1
    assert signatures(server)[: len(sent)] == [b"Authorization: Bearer " + token for token in sent]
    assert tokens.doubted[:1] == doubted


async def test_a_compressed_answer_is_refused_and_a_compressed_refusal_keeps_its_meaning() -> None:
    """A kilobyte of gzip can be a gigabyte of answer."""
    encoded = b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\nok"
    answers = (b"HTTP/1.1 200 OK\r\n" + encoded, b"HTTP/1.1 500 No\r\n" + encoded)
    async with serving(*answers) as server, client_of(server) as client:
        with pytest.raises(InvalidAnswer):
            await read(client, server)
        async with stream(client, f"http://127.0.0.1:{server.port}/x", {}) as answer:
            assert answer.status_code == 500


async def test_a_stream_over_the_limit_is_cut() -> None:
    """Where there is a limit."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + bytes(100)
    async with serving(answer) as server, client_of(server, limit=99) as client:
        with pytest.raises(InvalidAnswer):
            await read(client, server)


async def test_a_header_of_the_request_takes_the_place_of_the_clients_own() -> None:
    """Whatever its case: two of them would be a list (RFC 9110 §5.3), or a reason to refuse the request."""
    async with serving(OK) as server, client_of(server) as client:
        url = f"http://127.0.0.1:{server.port}/x"
        await exchange(client, "POST", url, headers={"user-agent": "other"}, content=b"{}", timeout_s=5)
    assert [line for line in server.heads[0].split(b"\r\n") if line.lower().startswith(b"user-agent")] == [
        b"user-agent: other"
    ]
