"""HTTP/1.1 under httpx2's API: a transport over asyncio's protocols and the parser of Node.js.

httpx2's own transport looks at every connection of its pool for each request and takes half a millisecond
of the loop when a hundred are open; this one takes a tenth of that. It does what the daemon needs: many
small requests with bodies of known length, answers as streams that press back. It has no proxies, no
HTTP/2 and no timeout for a read: who calls it holds a deadline (``transport.deadline``).

RFC 9112 for the framing, which llhttp checks strictly; RFC 9110 §9.2.2 for what is not done: a request
whose connection died is never repeated here, because it may have been applied.
"""

import asyncio
import contextlib
import re
import select
import socket
import ssl
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from typing import cast

import aiohappyeyeballs
import httptools
import httpx2

from ai_task_processor.core.deadline import Deadline, stalls_of
from ai_task_processor.core.errors import InvalidAnswer

CONNECT_TIMEOUT_S = 10.0
#: a request that found no free connection for so long was not sent
POOL_TIMEOUT_S = 30.0
#: how long an unused connection is kept, unless the server says less: beyond the usual 30 s between two polls,
#: and below the 60 s after which load balancers hang up
KEEPALIVE_S = 55.0
#: the next address of a host gets its chance when the one before has not answered (RFC 8305 §5)
NEXT_ADDRESS_S = 0.25
#: what may arrive without a byte of a body: the head of an answer, or trailers
MAX_HEAD_BYTES = 2**16
#: a body that nobody reads is let in up to here
HIGH_WATER_BYTES = 2**18

_KEEPALIVE = re.compile(rb"\btimeout=(\d{1,5})\b")

Origin = tuple[str, str, int]


class Answer:
    """A whole answer, with httpx2's names for what is read of one. An encoded answer has no ``content``."""

    __slots__ = ("_raw", "content", "status_code")

    def __init__(self, status_code: int, raw: list[tuple[bytes, bytes]]) -> None:
        self.status_code = status_code
        self.content = b""
        self._raw = raw

    @property
    def headers(self) -> httpx2.Headers:
        return httpx2.Headers(self._raw)

    @property
    def encoded(self) -> bool:
        """Did the server encode the body, although nobody asked for it?"""
        for name, value in self._raw:
            if len(name) == 16 and name.lower() == b"content-encoding":
                return value.strip().lower() not in (b"", b"identity")
        return False

    @property
    def is_success(self) -> bool:
        return 200 <= self.status_code < 300

    @property
    def is_server_error(self) -> bool:
        return 500 <= self.status_code < 600


class StreamedAnswer(Answer):
    """An answer whose body is still on its way. To be closed: what was not read ends the connection."""

    __slots__ = ("_close", "_connection", "_left")

    def __init__(self, connection: "_Connection", left: int, close: Callable[["_Connection"], None]) -> None:
        super().__init__(connection.status, connection.headers)
        self._connection: _Connection | None = connection
        self._left = left
        self._close = close

    async def aiter_bytes(self) -> AsyncGenerator[bytes, None]:
        """The body as it comes. Raises ``InvalidAnswer`` over the limit."""
        if self._connection is None:
            return
        async for chunk in self._connection.body():
            self._left -= len(chunk)
            if self._left < 0:
                raise InvalidAnswer("the answer is larger than we accept")
            yield chunk

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._close(connection)


class Http1Transport(httpx2.AsyncBaseTransport):
    """At most ``connections`` at once, kept alive and used again, the last used first. Without a context: plain http.

    Raises httpx2's errors: ``ConnectError``, ``ConnectTimeout``, ``PoolTimeout`` and ``LocalProtocolError``
    when nothing was sent, ``ReadError`` and ``RemoteProtocolError`` when something may have been.
    """

    def __init__(self, context: ssl.SSLContext | None, *, connections: int) -> None:
        self._context = context
        self._limit = connections
        self._open: set[_Connection] = set()
        self._connecting = 0
        self._idle: deque[_Connection] = deque()
        #: who waits for a connection: answered with one, or with None for the right to make one
        self._waiting: deque[asyncio.Future[_Connection | None]] = deque()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        head = request_head(request.method, request.url.raw_path, request.headers.raw)
        body = [chunk async for chunk in request.stream]  # type: ignore[union-attr]  # an async client's request has such a stream
        connection = await self._send(origin_of(request.url), head, body)
        # httpx2's word for what knows the socket; of it, ``get_extra_info`` is here.
        extensions = {"network_stream": connection.transport}
        return httpx2.Response(
            connection.status, headers=connection.headers, stream=_Body(connection, self), extensions=extensions
        )

    async def exchange(self, origin: Origin, head: bytes, body: bytes, limit: Callable[[int], int]) -> "Answer":
        """One request and its whole answer, without httpx2's objects. ``limit``: bytes allowed, by status.

        Raises ``InvalidAnswer`` for a body over the limit.
        """
        connection = await self._send(origin, head, (body,))
        try:
            answer = Answer(connection.status, connection.headers)
            left = limit(answer.status_code)
            if answer.encoded:
                return answer
            parts = []
            async for chunk in connection.body():
                left -= len(chunk)
                if left < 0:
                    raise InvalidAnswer("the answer is larger than we accept")
                parts.append(chunk)
            answer.content = b"".join(parts)
            return answer
        finally:
            self._release(connection)

    async def open(self, origin: Origin, head: bytes, limit: Callable[[int], int]) -> StreamedAnswer:
        """One request without a body, and its answer as a stream."""
        connection = await self._send(origin, head, (b"",))
        return StreamedAnswer(connection, limit(connection.status), self._release)

    async def _send(self, origin: Origin, head: bytes, body: Sequence[bytes]) -> "_Connection":
        connection = await self._acquire(origin)
        try:
            await connection.send(head, body)
        except BaseException:
            self._release(connection)
            raise
        return connection

    async def aclose(self) -> None:
        self._limit = 0
        for connection in list(self._open):
            connection.abort()
        for waiter in self._waiting:
            waiter.cancel()

    async def _acquire(self, origin: Origin) -> "_Connection":
        while self._idle:
            connection = self._idle.pop()
            if connection.usable_for(origin):
                return connection
            connection.abort()
        if len(self._open) + self._connecting < self._limit:
            return await self._connect(origin)
        connection_or_right = await self._wait()
        if connection_or_right is None:
            self._connecting -= 1
            return await self._connect(origin)
        if connection_or_right.usable_for(origin):
            return connection_or_right
        connection_or_right.abort()
        return await self._connect(origin)

    async def _wait(self) -> "_Connection | None":
        waiter: asyncio.Future[_Connection | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            with Deadline(POOL_TIMEOUT_S):
                return await waiter
        except BaseException as error:
            if waiter.done() and not waiter.cancelled():
                self._pass_on(waiter.result())
            else:
                with contextlib.suppress(ValueError):
                    self._waiting.remove(waiter)
            if isinstance(error, TimeoutError):
                raise httpx2.PoolTimeout("no free connection") from error
            raise

    def _release(self, connection: "_Connection") -> None:
        """An exchange is over. What cannot be used again is closed."""
        if connection.finish() and len(self._open) <= self._limit:
            self._give(connection)
        else:
            connection.abort()

    def _give(self, connection: "_Connection") -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        self._idle.append(connection)
        while self._idle and not self._idle[0].usable_for(None):
            self._idle.popleft().abort()

    def _pass_on(self, connection: "_Connection | None") -> None:
        """Who was given this has gone away."""
        if connection is None:
            self._connecting -= 1
            self._admit()
        else:
            self._give(connection)

    def _admit(self) -> None:
        """Room for one more connection: whoever waits first may make it."""
        while self._waiting and len(self._open) + self._connecting < self._limit:
            waiter = self._waiting.popleft()
            if not waiter.done():
                self._connecting += 1
                waiter.set_result(None)

    def closed(self, connection: "_Connection") -> None:
        """A connection has come to its end, whoever ended it."""
        self._open.discard(connection)
        with contextlib.suppress(ValueError):
            self._idle.remove(connection)
        self._admit()

    async def _connect(self, origin: Origin) -> "_Connection":
        scheme, host, port = origin
        loop = asyncio.get_running_loop()
        secure = scheme == "https"
        if secure and self._context is None:
            raise httpx2.UnsupportedProtocol("this client speaks plain http only")
        self._connecting += 1
        connection = _Connection(self, origin)
        try:
            with Deadline(CONNECT_TIMEOUT_S):
                sock = await aiohappyeyeballs.start_connection(
                    await resolved(host, port), happy_eyeballs_delay=NEXT_ADDRESS_S, interleave=1, loop=loop
                )
                try:
                    await loop.create_connection(
                        lambda: connection,
                        sock=sock,
                        ssl=self._context if secure else None,
                        server_hostname=host if secure else None,
                    )
                except BaseException:
                    sock.close()
                    raise
        except TimeoutError as error:
            raise httpx2.ConnectTimeout("no connection in time") from error
        except ConnectionError as error:
            # asyncio's word for a server that hangs up while it should shake hands
            raise httpx2.ConnectError("no connection") from (error if error.errno else ssl.SSLError())
        except OSError as error:
            raise httpx2.ConnectError("no connection") from error
        else:
            self._open.add(connection)
        finally:
            self._connecting -= 1
            if connection not in self._open:
                self._admit()
        return connection


class _Connection(asyncio.Protocol):
    """One connection, one exchange at a time. httptools calls the ``on_…`` methods."""

    def __init__(self, pool: Http1Transport, origin: Origin) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self._pool = pool
        self._origin = origin
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        # A bare line feed ends a line, too (RFC 9112 §2.2 allows it); nobody in between could read it otherwise.
        self._parser.set_dangerous_leniencies(lenient_optional_cr_before_lf=True)
        self.transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._error: Exception | None = None
        self._chunks: list[bytes] = []
        self._buffered = 0
        self._silent = 0
        self._surplus = False
        self._busy = self._headed = self._framed = self._complete = self._paused = self._lives_on = False
        self._keepalive_s = KEEPALIVE_S
        self._idle_since = 0.0
        self._stalls = stalls_of(self._loop)
        self._stalled_s = self._stalls.total_s

    def usable_for(self, origin: Origin | None) -> bool:
        """Open, fresh, and for the right server (any, when None)."""
        open_ = self.transport is not None and self._error is None
        fresh = self._loop.time() - self._idle_since < self._keepalive_s
        return open_ and fresh and origin in (None, self._origin) and self._is_silent()

    def _is_silent(self) -> bool:
        """After a stall: has the server hung up meanwhile? The loop may not have read that yet."""
        if self._stalled_s != self._stalls.total_s and self.transport is not None:
            self._stalled_s = self._stalls.total_s
            poll = select.poll()
            poll.register(self.transport.get_extra_info("socket").fileno(), select.POLLIN)
            return not poll.poll(0)
        return True

    async def send(self, head: bytes, body: Sequence[bytes]) -> None:
        """Write a request, and return when the head of its answer is in ``status`` and ``headers``."""
        self._busy, self._headed, self._complete = True, False, False
        self._silent = 0
        if self.transport is None:
            raise self._error or httpx2.ReadError("the connection is closed")
        self.transport.writelines([head, *body])
        while not self._headed:
            await self._news()

    def _take(self) -> bytes:
        """What has arrived of the body."""
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._buffered = 0
        if self._paused and self.transport is not None:
            self._paused = False
            self.transport.resume_reading()
        return data

    async def body(self) -> AsyncIterator[bytes]:
        """The bytes of the answer as they come."""
        while True:
            if self._chunks:
                yield self._take()
            elif self._complete:
                return
            else:
                await self._news()

    async def _news(self) -> None:
        if self._error is not None:
            raise self._error
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def finish(self) -> bool:
        """The exchange is over; can there be another?"""
        self._busy = False
        self._chunks.clear()
        self._buffered = 0
        self._idle_since = self._loop.time()
        if self.transport is None or self._error is not None or not self._complete or self._paused:
            return False
        # A server that answers before it has read the request will take its rest for the next one.
        return self.transport.get_write_buffer_size() == 0 and self._lives_on

    def abort(self) -> None:
        """Close now, whatever is under way."""
        if self.transport is not None:
            self.transport.abort()
        self._fail(httpx2.ReadError("the connection was closed"))

    # --- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is one and does not say so
        self._idle_since = self._loop.time()

    def data_received(self, data: bytes) -> None:
        if not self._busy or self._complete or self._error is not None:
            # Nothing was asked: whatever this is, it answers nothing.
            self.abort()
            return
        self._silent += len(data)
        failure = self._fed(data)
        if failure is not None:
            self._fail(failure)
            self.abort()
        elif self._headed:
            self._tell()

    def _fed(self, data: bytes) -> httpx2.RemoteProtocolError | None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            failure = httpx2.RemoteProtocolError("the answer is no HTTP/1.1")
            failure.__cause__ = error
            return failure
        too_long = self._silent > MAX_HEAD_BYTES
        return httpx2.RemoteProtocolError("the head of the answer is too large") if too_long else None

    def eof_received(self) -> None:
        self._ended(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._ended(exc)
        self._pool.closed(self)

    def _ended(self, exc: Exception | None) -> None:
        """The server sends nothing more. Without a length, that is the end of a body (RFC 9112 §6.3)."""
        if exc is None and self._busy and self._headed and not self._framed:
            self._complete = True
        if exc is None:
            self._fail(httpx2.RemoteProtocolError("the server closed the connection without a whole answer"))
        else:
            failure = httpx2.ReadError("the connection broke")
            failure.__cause__ = exc
            self._fail(failure)

    def _fail(self, error: Exception) -> None:
        self._error = self._error or error
        self._tell()

    def _tell(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # --- httptools

    def on_message_begin(self) -> None:
        if self._complete:
            # A second answer to one request. It answers nothing, and neither will what follows it.
            self._surplus, self._lives_on = True, False
            return
        self.headers, self._framed = [], False

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._headed:
            return  # trailers, or a second answer
        self.headers.append((name, value))
        name = name.lower()
        if name in (b"content-length", b"transfer-encoding"):
            self._framed = True
        elif name == b"keep-alive" and (told := _KEEPALIVE.search(value)):
            # Who asks in the last second may meet the server as it hangs up.
            self._keepalive_s = min(KEEPALIVE_S, int(told[1]) - 1.0)

    def on_headers_complete(self) -> None:
        if self._surplus:
            return
        self.status = self._parser.get_status_code()
        # An interim answer (1xx) is followed by the one that counts (RFC 9110 §15.2).
        self._headed = self.status >= 200
        self._framed |= self.status in (204, 304)
        self._lives_on = self._parser.should_keep_alive()
        self._silent = 0

    def on_body(self, data: bytes) -> None:
        if self._surplus:
            return
        self._chunks.append(data)
        self._buffered += len(data)
        self._silent = 0
        if self._buffered > HIGH_WATER_BYTES and not self._paused and self.transport is not None:
            self._paused = True
            self.transport.pause_reading()

    def on_message_complete(self) -> None:
        self._complete = self._headed


class _Body(httpx2.AsyncByteStream):
    """The body of one answer. Closing it gives the connection back, or ends it when there was more to come."""

    def __init__(self, connection: _Connection, pool: Http1Transport) -> None:
        self._connection: _Connection | None = connection
        self._pool = pool

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self._connection is not None:
            async for chunk in self._connection.body():
                yield chunk

    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool._release(connection)


def request_head(method: str, target: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The request line and the headers, as bytes. Raises ``LocalProtocolError`` for what would end a line early."""
    lines = [b"%s %s HTTP/1.1" % (method.encode("ascii"), target), *(b"%s: %s" % header for header in headers)]
    head = b"\r\n".join(lines) + b"\r\n\r\n"
    breaks = len(lines) + 1
    if head.count(b"\n") != breaks or head.count(b"\r") != breaks or b"\0" in head or b" " in target:
        raise httpx2.LocalProtocolError("a header or the path holds a line break")
    return head


async def resolved(host: str, port: int) -> list[aiohappyeyeballs.AddrInfoType]:
    """The addresses of a host, in the order of the resolver."""
    return await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)  # type: ignore[return-value]  # a bare tuple for the address


def origin_of(url: httpx2.URL) -> Origin:
    """Where to connect to."""
    return url.scheme, url.raw_host.decode("ascii"), url.port or (443 if url.scheme == "https" else 80)
