"""The HTTP client of the daemon, on aiohttp; it has an adapter with httpx2's API for SDKs that need one.

Every client of the daemon (task API, token endpoint, model) speaks to one server, follows no redirect, keeps no
cookie, takes nothing from the environment, verifies TLS 1.2 or later, asks for uncompressed answers and refuses
others (a compressed answer can grow a thousandfold), and bounds what an answer may weigh. Nothing is sent twice by
itself, except that a 401 renews the token and repeats the request once. Whoever calls holds a ``Deadline``, which a
stall of this process does not eat up; aiohttp's own timeouts are off, but for getting a connection.
"""

import asyncio
import os
import re
import socket
import ssl
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from http import HTTPStatus
from http.cookiejar import CookieJar, DefaultCookiePolicy
from io import BytesIO
from typing import Any, Final, Protocol
from urllib.parse import urlencode, urlsplit

import aiohttp
import httpx2
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from ai_task_processor import __version__
from ai_task_processor.core.deadline import Deadline, stalled_s
from ai_task_processor.core.errors import (
    Ambiguous,
    InvalidAnswer,
    Misconfigured,
    RemoteError,
    TimedOut,
    Transient,
    Unsent,
)
from ai_task_processor.core.settings import NetworkSettings
from ai_task_processor.net.answers import Answer
from ai_task_processor.net.frames import ShortMessages
from ai_task_processor.net.proxy import proxy_of
from ai_task_processor.net.tls import Tls, alert, distrust, shared_tls

MAX_ANSWER_BYTES = 32 * 2**20
MAX_REFUSAL_BYTES = 2**20
MAX_HEADER_BYTES, MAX_HEADERS = 2**16, 1000
#: of a WebSocket: longer ones are skipped
MAX_MESSAGE_BYTES = 2**20
#: seconds to connect to one address or through a proxy, and to get a connection at all: what takes longer was not sent
CONNECT_TIMEOUT_S, POOL_TIMEOUT_S = 10.0, 30.0
#: how long an unused connection is kept, unless the server says less: beyond the usual 30 s between two polls,
#: and below the 60 s after which load balancers hang up
KEEPALIVE_S = 55.0
#: how long a failed write waits for the reason, seconds
END_S = 0.1
#: how long the end of a WebSocket waits for the server's closing frame, seconds
CLOSE_S = 1.0
#: larger bodies are written piece by piece
LARGE_BYTES = 2**20
#: life of a resolved name, seconds
DNS_TTL_S = 10

_BLANK_LINE = re.compile(rb"\n\r?\n")
_KEEPALIVE = re.compile(r"\btimeout=(\d{1,5})\b")
#: where the parser's sentence ends and what it shows of the answer begins
_SHOWN = re.compile(r"\n\n|:?\s+b?(?=['\"](?![A-Za-z-]{1,30}['\"]))")
_ENDED: Mapping[type[BaseException], str] = {
    aiohttp.ServerDisconnectedError: "the server closed the connection without an answer",
    aiohttp.ServerTimeoutError: "the server is silent: it answers no ping",
    aiohttp.ClientPayloadError: "the server closed the connection without a whole answer",
    aiohttp.ClientOSError: "the server closed the connection before it had the whole request",
}
#: Many servers refuse a client certificate without an alert, and under TLS 1.3 after our handshake.
_FIRST_REQUEST: Final = "perhaps because of our client certificate, or for want of one: look at CLIENT_CERT_FILE"
#: HttpProcessingError: a body that cannot be parsed; ValueError: a header or a URL that cannot be written
FOREIGN = (aiohttp.ClientError, HttpProcessingError, OSError, ValueError)


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

    def __init__(self, response: aiohttp.ClientResponse, url: str, max_bytes: int) -> None:
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

    def __init__(self, pool: "Pool", url: str, *, tokens: Tokens | None, max_answer_bytes: int | None) -> None:
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

    async def websocket(self, url: str, *, ping_s: float) -> aiohttp.ClientWebSocketResponse[bool]:
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


class _Request(aiohttp.ClientRequest):
    """A request that checks its connection once more before it is written."""

    async def send(self, conn: Any) -> aiohttp.ClientResponse:
        if conn.protocol.should_close:
            # aiohttp looks at this when a connection is given back, not when it is taken again.
            raise Unsent("the server sent something that nobody asked for")
        response = await super().send(conn)
        response.transport = conn.transport  # type: ignore[attr-defined]  # ours, by response_class
        return response


class _Handler(ResponseHandler):
    """aiohttp's protocol of one connection, but bytes behind a whole answer do not lose the answer.

    A parser that fails drops the messages of the same ``feed_data``. So each head is fed without what follows it.
    The connection is closed after such an answer.
    """

    #: the final head of this request has come
    _headed = False
    #: the last bytes before it: two packets may share a blank line
    _last = b""
    #: this connection has brought an answer
    _answered = False

    def set_response_params(self, **how: Any) -> None:
        self._headed, self._last = False, b""
        super().set_response_params(**how)

    def feed_data(self, data: Any, size: int = 0) -> None:
        """One head, and the stream of its body."""
        code, headers = data[0].code, data[0].headers
        self._headed, self._answered = code >= 200, True
        if code == 204 and (headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in headers):
            self.force_close()  # The body that a 204 cannot have may still follow.
        if code == HTTPStatus.INTERNAL_SERVER_ERROR:
            self.force_close()  # uvicorn closes it after an unhandled exception, and does not say so.
        super().feed_data(data, size)

    def data_received(self, data: bytes) -> None:
        if self._headed:
            super().data_received(data)
            return
        for piece in self._pieces(data):
            if not isinstance(self._exception, HttpProcessingError):
                super().data_received(piece)

    def _pieces(self, data: bytes) -> Iterator[bytes]:
        """The same bytes, cut behind the head of the answer and of each interim one."""
        known, start = self._last, 0
        for blank in _BLANK_LINE.finditer(known + data):
            end = blank.end() - len(known)
            yield data[start:end]
            start = end
            if self._headed:
                break
        rest = data[start:]
        self._last = rest[-2:] if start else (known + rest)[-2:]
        if rest or not start:
            yield rest

    def set_parser(self, parser: Any, *rest: Any, **more: Any) -> None:
        super().set_parser(ShortMessages(parser, MAX_MESSAGE_BYTES), *rest, **more)

    def set_exception(self, exc: BaseException, *cause: BaseException) -> None:
        if isinstance(exc, aiohttp.ClientConnectionError):
            if not self._answered and self.transport is not None and self.transport.get_extra_info("ssl_object"):
                exc.add_note(_FIRST_REQUEST)
            if not self._connection_lost_called:
                # A write has failed. The reason, an alert of TLS for instance, arrives a little later.
                self.force_close()
                self._loop.call_later(END_S, self._fail, exc, *cause)
                return
        super().set_exception(exc, *cause)
        payload = self._payload
        if isinstance(exc, HttpProcessingError) and payload is not None and not payload.is_eof():
            payload.set_exception(exc)  # The C parser leaves a body that it cannot parse without an end.

    def _fail(self, *error: BaseException) -> None:
        if not self.is_eof():
            super().set_exception(*error)


class _Connector(aiohttp.TCPConnector):
    """A connector with our handlers. It says when the proxy has failed, before anything was sent to the server."""

    def __init__(self, **how: Any) -> None:
        super().__init__(**how)
        self._factory: Any = partial(_Handler, loop=self._loop)  # there is no public parameter

    async def _create_proxy_connection(self, *args: Any, **given: Any) -> Any:
        try:
            with Deadline(CONNECT_TIMEOUT_S):
                return await super()._create_proxy_connection(*args, **given)
        except aiohttp.ClientHttpProxyError:
            raise
        except TimeoutError as error:
            raise Unsent("no connection through the proxy in time: look at HTTPS_PROXY and NO_PROXY") from error
        except (aiohttp.ClientResponseError, aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError) as error:
            text = f"the proxy did not answer CONNECT ({describe(error)}): look at HTTPS_PROXY and NO_PROXY"
            raise Unsent(text.replace("the server closed", "it closed")) from error


class Response(aiohttp.ClientResponse):
    """An answer that aborts its transport when it is closed before its end.

    aiohttp would first write what is buffered: to a server that does not read any more, for ever.
    """

    transport: asyncio.Transport | None = None

    def close(self) -> None:
        if self.connection is not None and self.transport is not None:
            self.transport.abort()
        super().close()


class Pool:
    """At most ``connections`` at once to one server. Made in the loop that uses it.

    ``socket_factory`` makes the socket for an address of ``getaddrinfo``; an ``OSError`` of it means not connected.
    """

    def __init__(
        self,
        connections: int,
        tls: Tls | None,
        proxy: tuple[str, Mapping[str, str]] | None,
        connect_timeout_s: float = POOL_TIMEOUT_S,
        socket_factory: Callable[[Any], socket.socket] | None = None,
    ) -> None:
        #: of every request that has no others of the same names
        self.headers = {
            "User-Agent": f"ai-task-processor/{__version__}",
            "Accept": "*/*",
            "Accept-Encoding": "identity",
        }
        self.tls = tls
        #: CA_BUNDLE is set
        self.bundled = tls is not None and tls.bundled
        self._connections = connections
        self._proxy = proxy
        self._connect_timeout_s = connect_timeout_s
        self._socket_factory = socket_factory
        self._session: aiohttp.ClientSession | None = None
        self._closed = False
        #: the last ``Keep-Alive``
        self._hint: str | None = None
        self._stalled_s = 0.0

    async def request(
        self,
        method: str,
        url: URL,
        headers: Mapping[str, str],
        content: bytes | None,
        *,
        server_hostname: str | None = None,
    ) -> aiohttp.ClientResponse:
        """One request, as far as the head of its answer. Raises aiohttp's errors, ``OSError`` and ``ValueError``.

        ``server_hostname``: whose certificate is expected, when the URL has an address in the place of a name.
        """
        session = self._session or self._open()
        if self._stalled_s != (stalled := stalled_s()):
            # A server may have hung up meanwhile, and the loop has not read that yet.
            self._stalled_s = stalled
            for _ in range(3):
                await asyncio.sleep(0)
        proxy, proxy_headers = self._proxy or (None, None)
        response = await session.request(
            method,
            url,
            headers=headers,
            # aiohttp warns of large bytes: they would be written in one go
            data=BytesIO(content) if content is not None and len(content) > LARGE_BYTES else content,
            allow_redirects=False,
            ssl=True if self.tls is None else self.tls.context,
            server_hostname=server_hostname,
            proxy=proxy,
            proxy_headers=proxy_headers,
        )
        hint = response.headers.get("Keep-Alive")
        if hint != self._hint:
            self._heed(session, hint)
        return response

    async def websocket(
        self, url: str, headers: Mapping[str, str], *, ping_s: float
    ) -> aiohttp.ClientWebSocketResponse[bool]:
        """An open WebSocket. Raises aiohttp's errors, ``OSError`` and ``ValueError``."""
        proxy, proxy_headers = self._proxy or (None, None)
        return await (self._session or self._open()).ws_connect(
            url,
            headers=headers,
            heartbeat=ping_s,
            max_msg_size=0,  # it would end the connection: see ``ShortMessages``
            decode_text=False,
            timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_S),
            ssl=True if self.tls is None else self.tls.context,
            proxy=proxy,
            proxy_headers=proxy_headers,
        )

    def _open(self) -> aiohttp.ClientSession:
        if self._closed:
            raise Unsent("the client is closed")
        self._session = aiohttp.ClientSession(
            connector=_Connector(
                limit=self._connections,
                keepalive_timeout=KEEPALIVE_S,
                ttl_dns_cache=DNS_TTL_S,
                resolver=aiohttp.ThreadedResolver(),  # whatever else is installed
                interleave=1,
                socket_factory=self._socket_factory,
            ),
            headers=self.headers,
            request_class=_Request,
            response_class=Response,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(
                total=None,
                connect=self._connect_timeout_s,
                sock_connect=min(self._connect_timeout_s, CONNECT_TIMEOUT_S),
            ),
            auto_decompress=False,
            trust_env=False,
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
            max_headers=MAX_HEADERS,
        )
        # A GET whose connection died would be sent once more; there is no public switch.
        self._session._retry_connection = False
        return self._session

    def _heed(self, session: aiohttp.ClientSession, hint: str | None) -> None:
        """Obey ``Keep-Alive: timeout=5``, less a second: a request in the last one may meet a closing connection.

        aiohttp ignores the header, and its pool has no public setting that can change.
        """
        self._hint = hint
        stated = _KEEPALIVE.search(hint or "")
        assert session.connector is not None  # noqa: S101 - the session is open
        session.connector._keepalive_timeout = min(KEEPALIVE_S, int(stated[1]) - 1.0) if stated else KEEPALIVE_S

    async def aclose(self) -> None:
        self._closed = True
        session, self._session = self._session, None
        if session is not None:
            await session.close()


class Httpx2Transport(httpx2.AsyncBaseTransport):
    """httpx2's API over an ``HttpClient``. Raises ``RemoteError``, which SDKs hand through or wrap.

    httpx-aiohttp 0.2 does not do: it quotes paths anew (``test_paths_are_sent_as_quoted``), and calls a connection
    that died after the request was written a ``ConnectTimeout``, as if nothing had been sent
    (``test_a_lost_answer_is_ambiguous``).
    """

    def __init__(self, client: HttpClient) -> None:
        self._client = client

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        url = request.url.copy_with(raw_path=b"/")
        target = request.url.raw_path.decode("ascii")
        headers = {name: value for name, value in request.headers.items() if name not in ("host", "connection")}
        content = await request.aread()
        answer = await self._client.send(request.method, str(url).rstrip("/") + target, headers, content or None)
        fields = [(name, value) for name, value in answer.raw_headers if name.lower() != b"content-encoding"]
        return httpx2.Response(answer.status_code, headers=fields, stream=_Body(answer), request=request)


class _Body(httpx2.AsyncByteStream):
    def __init__(self, answer: StreamedAnswer) -> None:
        self._answer = answer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._answer.aiter_bytes():
            yield chunk

    async def aclose(self) -> None:
        self._answer.close()


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


def translate(error: BaseException, *, bundled: bool = False) -> RemoteError:
    """Whose fault an error of aiohttp is: not sent, or perhaps applied. ``bundled``: CA_BUNDLE is set."""
    match error:
        case RemoteError():
            return error
        case aiohttp.ClientHttpProxyError():
            return Unsent(f"the proxy answered {error.status} to CONNECT: look at HTTPS_PROXY and NO_PROXY")
        case aiohttp.ConnectionTimeoutError():
            return Unsent("no connection in time")
        case aiohttp.WSServerHandshakeError():
            return Transient(f"the server answered {error.status} instead of a WebSocket", status=error.status)
        case aiohttp.InvalidURL():
            return Misconfigured("a URL that cannot be used")
        case aiohttp.ClientError() | HttpProcessingError() | OSError():
            refused = isinstance(error, aiohttp.ClientConnectorError) or any(map(alert, causes(error)))
            text = describe(error, bundled=bundled)
            if _FIRST_REQUEST in getattr(error, "__notes__", ()) and not text.startswith("TLS: "):
                text = f"{text}, {_FIRST_REQUEST}"
            return (Unsent if refused else Ambiguous)(text)
        case ValueError():
            return Misconfigured("a header or a path that cannot be written")
    return Ambiguous(type(error).__name__)


def _sentence(message: str) -> str:
    """The parser's own words, without what it shows of the answer."""
    return " ".join(_SHOWN.split(message, maxsplit=1)[0].split()).rstrip(":.")


def describe(error: BaseException, *, bundled: bool = False) -> str:
    """The cause in the words of the operating system or of OpenSSL, or with a remedy: never a URL or content."""
    for cause in causes(error):
        if isinstance(cause, aiohttp.ClientError):
            continue  # some of them are an OSError or an SSLError, too, without its words
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"TLS: {distrust(cause, bundled=bundled)}"
        if isinstance(cause, ssl.SSLError):
            return f"TLS: {alert(cause) or getattr(cause, 'reason', '') or 'handshake failed'}"
        if isinstance(cause, socket.gaierror):
            return (cause.strerror or "name resolution failed").lower()
        if isinstance(cause, OSError) and cause.errno:
            return os.strerror(cause.errno).lower()  # asyncio puts the address into its own text
        if isinstance(cause, ConnectionError) and isinstance(error, aiohttp.ClientConnectorError):
            return "TLS: handshake failed"  # asyncio's word for a server that hangs up in it
    if isinstance(error, aiohttp.ClientResponseError | HttpProcessingError):
        return f"the answer is no HTTP/1.1: {_sentence(error.message)}"
    return _ENDED.get(type(error), type(error).__name__)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what led to it; of several attempts (one for each address of a host) the first."""
    while error is not None:
        yield error
        group = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else None
        error = group or error.__cause__ or error.__context__
