"""The HTTP client of the daemon, on aiohttp; it has an adapter with httpx2's API for SDKs that need one.

Every client of the daemon (task API, token endpoint, model) speaks to one server, follows no redirect, keeps no
cookie, takes nothing from the environment, verifies TLS 1.2 or later, asks for uncompressed answers and refuses
others (a compressed answer can grow a thousandfold), and bounds what an answer may weigh. Nothing is sent twice by
itself, except that a 401 renews the token and repeats the request once. Whoever calls holds a ``Deadline``, which a
stall of this process does not eat up; aiohttp's own timeouts are off, but for getting a connection.
"""

import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Protocol
from urllib.parse import urlencode, urlsplit

import httpx2
from yarl import URL

from ai_task_processor.core.deadline import Deadline
from ai_task_processor.core.errors import InvalidAnswer, Misconfigured, TimedOut
from ai_task_processor.core.settings import NetworkSettings
from ai_task_processor.net.answers import Answer
from ai_task_processor.net.connection import Response
from ai_task_processor.net.httpx2_transport import Httpx2Transport
from ai_task_processor.net.pool import POOL_TIMEOUT_S, Pool, WebSocket
from ai_task_processor.net.proxy import proxy_of
from ai_task_processor.net.tls import shared_tls
from ai_task_processor.net.transport_errors import FOREIGN, translate

MAX_ANSWER_BYTES = 32 * 2**20
MAX_REFUSAL_BYTES = 2**20


class Bearer(Protocol):
    """A bearer token."""

    @property
    def value(self) -> str: ...


class Tokens(Protocol):
    """Where a client's bearer tokens come from."""

    async def token(self) -> Bearer:
        """The present one. Raises ``NoToken``."""

    async def renewed(self, stale: Any) -> Bearer:
        """Another one, after that was answered with 401."""

    def refused(self, token: Any) -> None:
        """That one was answered with 401, too."""


def make_client(
    network: NetworkSettings,
    *,
    url: str,
    connections: int,
    tokens: Tokens | None = None,
    max_answer_bytes: int | None = MAX_ANSWER_BYTES,
    connect_timeout_s: float = POOL_TIMEOUT_S,
) -> "HttpClient":
    """A client for the server at ``url``, and for no other. It connects when it is first used.

    ``connections`` bounds the pool; ``max_answer_bytes`` bounds one good answer (None: the caller
    reads a stream and stops by itself); ``connect_timeout_s``: to have a connection, the wait for one of the pool too.
    """
    # The authorities take three megabytes: not for a remote in plain http.
    tls = shared_tls(network) if urlsplit(url).scheme == "https" else None
    pool = Pool(connections, tls, proxy_of(network, url) if tls else None, connect_timeout_s)
    return HttpClient(pool, url, tokens=tokens, max_answer_bytes=max_answer_bytes)


class StreamedAnswer:
    """An answer whose body is still on its way. To be closed: what was not read ends the connection."""

    __slots__ = ("_left", "_response", "headers", "status_code", "url")

    def __init__(self, response: Response, url: str, max_bytes: int) -> None:
        self.status_code: int = response.status
        #: whatever the case of a name
        self.headers: Mapping[str, str] = response.headers
        self.url = url
        self._response = response
        self._left = max_bytes

    @property
    def is_success(self) -> bool:
        return 200 <= self.status_code < 300

    @property
    def encoded(self) -> bool:
        """Did the server encode a body, although nobody asked for it?"""
        encoding = self.headers.get("Content-Encoding")
        if encoding is None or encoding.strip().lower() in ("", "identity"):
            return False
        # Where the head says that no body follows nothing is compressed, whatever a proxy writes.
        empty = self.status_code in (HTTPStatus.NO_CONTENT, HTTPStatus.RESET_CONTENT) or self._response.method == "HEAD"
        return not empty and self.headers.get("Content-Length", "").strip() != "0"

    @property
    def raw_headers(self) -> Sequence[tuple[bytes, bytes]]:
        return self._response.raw_headers

    @property
    def peer_certificate(self) -> Mapping[str, object] | None:
        """As ``SSLObject.getpeercert`` returns it, with the ``version`` of TLS as ``tls``; None over plain http."""
        transport = getattr(self._response, "transport", None)
        tls = None if transport is None else transport.get_extra_info("ssl_object")
        return None if tls is None else {**tls.getpeercert(), "tls": tls.version()}

    async def aiter_bytes(self) -> AsyncGenerator[bytes, None]:
        """The body as it comes. Raises ``InvalidAnswer`` over the limit, and other ``RemoteError``."""
        while chunk := await self._read():
            yield chunk

    async def whole(self) -> bytes:
        """All of the body. Raises as above."""
        chunks = [await self._read()]
        while chunk := await self._read():
            chunks.append(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def _read(self) -> bytes:
        """What has come of the body since the last time; empty at its end."""
        if self.encoded:
            return b""  # A refusal says enough by its status and headers.
        try:
            chunk: bytes = await self._response.content.readany()
        except FOREIGN as error:
            raise translate(error) from error
        self._left -= len(chunk)
        if self._left < 0:
            raise InvalidAnswer("the answer is larger than we accept")
        return chunk

    def close(self) -> None:
        if not self._response.closed:
            self._response.close()


class HttpClient:
    """Requests to the one server at ``url``, signed by ``tokens`` when there are any.

    Raises ``RemoteError``: ``Unsent`` when nothing was sent, ``Ambiguous`` when something may have been.
    """

    def __init__(self, pool: Pool, url: str, *, tokens: Tokens | None, max_answer_bytes: int | None) -> None:
        #: is shown every answer, as its head has come
        self.observe: Callable[[StreamedAnswer], None] | None = None
        #: headers of every request, such as a secret that may be replaced
        self.always: Callable[[], Mapping[str, str]] | None = None
        self.pool = pool
        self._tokens = tokens
        self._max_bytes = sys.maxsize if max_answer_bytes is None else max_answer_bytes
        parts, known = urlsplit(url), httpx2.URL(url)
        self._origin = f"{known.scheme}://{known.netloc.decode('ascii')}"
        #: how our server is written in URLs: as it was set, and as httpx2 writes it
        self._origins = {self._origin, f"{parts.scheme}://{parts.netloc}"}

    async def exchange(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
        timeout_s: float,
    ) -> Answer:
        """One request and its whole answer, whatever its status, within ``timeout_s`` in total."""
        try:
            with Deadline(timeout_s):
                answer = await self.send(method, url, headers or {}, content)
                try:
                    content = await answer.whole()
                finally:
                    answer.close()
        except TimeoutError as error:
            raise _timed_out(timeout_s) from error
        return Answer(answer.status_code, answer.headers, content, url)

    @asynccontextmanager
    async def opened(
        self, url: str, parameters: Mapping[str, str] | None = None, *, method: str = "GET"
    ) -> AsyncIterator[StreamedAnswer]:
        """A request whose answer is read as it comes, whatever its status. To be called under a ``deadline``."""
        answer = await self.send(method, f"{url}?{urlencode(parameters)}" if parameters else url, {}, None)
        try:
            yield answer
        finally:
            answer.close()

    def over_httpx2(self) -> httpx2.AsyncClient:
        """The same client with httpx2's API, for the SDKs of others. Closing it leaves this one open."""
        return httpx2.AsyncClient(
            transport=Httpx2Transport(self),
            timeout=None,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
            headers=self.pool.headers,
            follow_redirects=False,
            trust_env=False,
        )

    async def websocket(self, url: str, *, ping_s: float) -> WebSocket:
        """An open WebSocket of the server, to be closed, within ``POOL_TIMEOUT_S``. Texts are not decoded.

        A message of more than ``MAX_MESSAGE_BYTES`` comes without its content. Raises ``RemoteError``.
        """
        headers = {} if self.always is None else dict(self.always())
        if self._tokens is not None:
            headers["Authorization"] = f"Bearer {(await self._tokens.token()).value}"
        if not url.startswith(tuple(f"{origin}/" for origin in self._origins)):
            raise Misconfigured("a request to another server than that of its client")
        try:
            async with deadline(POOL_TIMEOUT_S):
                return await self.pool.websocket(url, headers, ping_s=ping_s)
        except FOREIGN as error:
            raise translate(error, bundled=self.pool.bundled) from error

    async def aclose(self) -> None:
        """Close every connection."""
        await self.pool.aclose()

    async def send(self, method: str, url: str, headers: Mapping[str, str], content: bytes | None) -> StreamedAnswer:
        """One request; its answer is to be closed. A 401 renews the token once and repeats the request once."""
        if self._tokens is None:
            return await self._send(method, url, headers, content)
        token = await self._tokens.token()
        answer = await self._send(method, url, {**headers, "Authorization": f"Bearer {token.value}"}, content)
        if answer.status_code == HTTPStatus.UNAUTHORIZED:
            answer.close()
            token = await self._tokens.renewed(token)
            answer = await self._send(method, url, {**headers, "Authorization": f"Bearer {token.value}"}, content)
            if answer.status_code == HTTPStatus.UNAUTHORIZED:
                self._tokens.refused(token)
        return answer

    async def _send(self, method: str, url: str, headers: Mapping[str, str], content: bytes | None) -> StreamedAnswer:
        slash = url.find("/", 8)
        origin, target = (url, "/") if slash < 0 else (url[:slash], url[slash:])
        if origin not in self._origins:
            raise Misconfigured("a request to another server than that of its client")
        if self.always is not None:
            headers = {**self.always(), **headers}
        try:
            # encoded: a path is sent as it was quoted, ``%2E%2E`` and all
            response = await self.pool.request(method, URL(self._origin + target, encoded=True), headers, content)
        except FOREIGN as error:
            raise translate(error, bundled=self.pool.bundled) from error
        answer = StreamedAnswer(response, url, self._max_bytes if response.status < 300 else MAX_REFUSAL_BYTES)
        if answer.is_success and answer.encoded:
            answer.close()
            raise InvalidAnswer("the answer is compressed although we asked for it not to be")
        if self.observe is not None:
            self.observe(answer)
        return answer


@asynccontextmanager
async def deadline(timeout_s: float) -> AsyncIterator[None]:
    """A total deadline for one exchange or several. Raises ``TimedOut``."""
    try:
        with Deadline(timeout_s):
            yield
    except TimeoutError as error:
        raise _timed_out(timeout_s) from error


def _timed_out(timeout_s: float) -> TimedOut:
    return TimedOut(f"no answer within {timeout_s:g} s")
