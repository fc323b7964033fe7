"""A small HTTP/1.1 server over h11: the ops server and the sandbox stand on it.

A connection belongs to the server until its request is complete: slow heads, slow bodies and idle
peers have deadlines, the number of connections is bounded, and a full house lets go of the oldest
connection that no handler is at work for. Peers that send half a request, or do not take their
answer, can therefore never lock out a probe. A peer that hangs up takes its running handler with it.
"""

import asyncio
import logging
import socket
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from typing import Final, TypeVar
from urllib.parse import parse_qsl

import h11

from ai_task_processor.core.deadline import Deadline

log = logging.getLogger(__name__)

#: After a peer has closed its side: time for the answer of one that only half-closed.
EOF_GRACE_S: Final = 1.0
#: Time and bytes for a refused peer to stop sending, so that a reset does not overtake the refusal.
LINGER_S: Final = 1.0
_READ_BYTES: Final = 65536
_LINGER_ZERO: Final = struct.pack("ii", 1, 0)
_STATUSES: Final = frozenset(HTTPStatus)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Request:
    """One complete request. ``path`` and ``target`` are as sent, not percent-decoded; ``query`` is decoded.

    ``headers``: lower-case names; repeated headers are joined with a comma.
    """

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(default=b"", repr=False)
    target: str = ""


@dataclass(frozen=True, slots=True)
class Response:
    """An answer. ``body`` as an iterator is sent chunk by chunk, each after the peer took the one before.

    ``headers`` replace the defaults of the same name (``Date`` included).
    """

    status: int = 200
    body: bytes | AsyncIterator[bytes] = field(default=b"", repr=False)
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[Request], Awaitable[Response]]


class Abort(Exception):
    """Raised in a handler or a body: close the connection at once, by default with a TCP reset."""

    def __init__(self, *, reset: bool = True) -> None:
        super().__init__()
        self.reset = reset


class _Gone(Exception):
    """The peer is gone, or too slow to wait for any longer."""


class _Refused(Exception):
    """The request is not worth a handler."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class HttpServer:
    """Answers requests with ``handler``. A handler's exception becomes a bare 500 and one log line."""

    def __init__(
        self,
        handler: Handler,
        *,
        max_connections: int = 64,
        header_timeout_s: float = 5.0,
        idle_timeout_s: float = 60.0,
        body_timeout_s: float = 30.0,
        max_body: int = 65536,
    ) -> None:
        """``body_timeout_s``: for a whole request body, and for each piece of an answer to be taken."""
        self.handler = handler
        self.max_connections = max_connections
        self.header_timeout_s = header_timeout_s
        self.idle_timeout_s = idle_timeout_s
        self.body_timeout_s = body_timeout_s
        self.max_body = max_body
        self._listener: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], _Connection] = {}

    async def start(self, host: str, port: int) -> int:
        """Listen, and return the bound port (``port=0`` takes a free one)."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(self._protocol, host, port, backlog=512)
        return int(self._listener.sockets[0].getsockname()[1])

    async def aclose(self) -> None:
        """Stop listening and drop every connection."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=LINGER_S)
        await asyncio.sleep(0)  # the transports close their sockets in the next turn of the loop

    def _protocol(self) -> asyncio.BaseProtocol:
        return _Protocol(self._accept)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> asyncio.Task[None] | None:
        if len(self._connections) >= self.max_connections and not self._make_room():
            writer.transport.abort()
            return None
        connection = _Connection(self, reader, writer)
        task = asyncio.get_running_loop().create_task(connection.run(), name="http-connection")
        self._connections[task] = connection
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[None]) -> None:
        """Not a ``finally`` of the task: one that is cancelled before its first step runs no such block."""
        self._connections.pop(task).drop()

    def _make_room(self) -> bool:
        """Drop the oldest connection that no handler is at work for; those that never sent a request go first."""
        waiting = [item for item in self._connections.items() if not (item[1].busy or item[1].dropped)]
        if not waiting:
            return False
        task, connection = min(waiting, key=lambda item: item[1].requests > 0)
        connection.drop()
        task.cancel()
        return True


class _Protocol(asyncio.StreamReaderProtocol):
    """asyncio's streams, which by themselves would never tell a handler that its peer hung up."""

    def __init__(self, accept: Callable[[asyncio.StreamReader, asyncio.StreamWriter], asyncio.Task[None] | None]):
        super().__init__(asyncio.StreamReader(), self._accepted)
        self._accept = accept
        self._serving: asyncio.Task[None] | None = None

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._serving = self._accept(reader, writer)

    def eof_received(self) -> bool:
        super().eof_received()
        if self._serving is not None:
            asyncio.get_running_loop().call_later(EOF_GRACE_S, self._serving.cancel)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._serving is not None:
            self._serving.cancel()


class _Connection:
    """One peer, one request after the other."""

    def __init__(self, server: HttpServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.requests = 0
        self.busy = False
        self.dropped = False
        self._bodiless = False
        self._server = server
        self._reader = reader
        self._writer = writer
        self._h11 = h11.Connection(h11.SERVER)
        # A drain then means that the kernel has everything: closing loses nothing.
        writer.transport.set_write_buffer_limits(high=0)

    async def run(self) -> None:
        try:
            while await self._exchange():
                pass
        except Abort as abort:
            self.drop(reset=abort.reset)
        except _Gone:
            pass

    def drop(self, *, reset: bool = False) -> None:
        self.dropped = True
        if reset and (sock := self._writer.get_extra_info("socket")) is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
        self._writer.transport.abort()

    async def _exchange(self) -> bool:
        """One request and its answer; False when the connection has served its time."""
        try:
            head = await self._head()
            if head is None:
                return False
            body = await self._body(head)
        except h11.RemoteProtocolError as error:
            return await self._refuse(error.error_status_hint)
        except _Refused as refusal:
            return await self._refuse(refusal.status)
        self.requests += 1
        await self._respond(_request(head, body))
        if self._h11.our_state is not h11.DONE or self._h11.their_state is not h11.DONE:
            return False
        self._h11.start_next_cycle()
        return True

    async def _head(self) -> h11.Request | None:
        """The next request line and headers; None at the end of the connection."""
        if self.requests and not self._h11.trailing_data[0]:
            await self._within(self._server.idle_timeout_s, self._receive())
        event = await self._within(self._server.header_timeout_s, self._event())
        if not isinstance(event, h11.Request):
            return None
        self._bodiless = event.method == b"HEAD"
        return event

    async def _body(self, head: h11.Request) -> bytes:
        limit = self._server.max_body
        declared = next((value for name, value in head.headers if name == b"content-length"), b"0")
        if int(declared) > limit:
            raise _Refused(413)
        if self._h11.they_are_waiting_for_100_continue:
            await self._write(self._h11.send(h11.InformationalResponse(status_code=100, headers=[])))
        body = bytearray()
        try:
            with Deadline(self._server.body_timeout_s):
                while isinstance(event := await self._event(), h11.Data):
                    body += event.data
                    if len(body) > limit:
                        raise _Refused(413)
        except TimeoutError:
            raise _Refused(408) from None
        return bytes(body)

    async def _event(self) -> object:
        while (event := self._h11.next_event()) is h11.NEED_DATA:
            await self._receive()
        return event

    async def _receive(self) -> None:
        try:
            self._h11.receive_data(await self._reader.read(_READ_BYTES))
        except ConnectionError as error:
            raise _Gone from error

    async def _respond(self, request: Request) -> None:
        """The boundary around one request: whatever goes wrong in the handler ends here."""
        try:
            await self._send(await self._handled(request))
        except (Abort, _Gone):
            raise
        except Exception as error:  # noqa: BLE001 - the drawn boundary: a broken handler answers 500 and no more
            log.error("request.failed: %s", type(error).__name__)
            if self._h11.our_state is not h11.SEND_RESPONSE:
                raise Abort(reset=False) from None
            await self._send(_plain(500))

    async def _handled(self, request: Request) -> Response:
        # Busy while we are at work on it. A peer that does not take its answer keeps nobody else out.
        self.busy = True
        try:
            return await self._server.handler(request)
        finally:
            self.busy = False

    async def _refuse(self, status: int) -> bool:
        """Answer without a handler, and let the peer finish sending so that it can read the answer."""
        if self._h11.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            return False
        await self._send(_plain(status))
        if self._writer.can_write_eof():
            self._writer.write_eof()
        try:
            with Deadline(LINGER_S):
                while await self._reader.read(_READ_BYTES):
                    pass
        except (TimeoutError, ConnectionError):
            pass
        return False

    async def _send(self, response: Response) -> None:
        head = self._h11.send(_head_of(response)) or b""
        if isinstance(response.body, bytes):
            data = b"" if self._bodiless else self._h11.send(h11.Data(data=response.body)) or b""
            await self._write(head + data + (self._h11.send(h11.EndOfMessage()) or b""))
            return
        try:
            await self._write(head)
            if not self._bodiless:
                async for chunk in response.body:
                    await self._write(self._h11.send(h11.Data(data=chunk)))
            await self._write(self._h11.send(h11.EndOfMessage()))
        finally:
            if isinstance(response.body, AsyncGenerator):
                await response.body.aclose()

    async def _write(self, data: bytes | None) -> None:
        if data:
            self._writer.write(data)
        try:
            await self._within(self._server.body_timeout_s, self._writer.drain())
        except ConnectionError as error:
            raise _Gone from error

    async def _within(self, seconds: float, what: Awaitable[T]) -> T:
        try:
            with Deadline(seconds):
                return await what
        except TimeoutError as error:
            raise _Gone from error


def _request(head: h11.Request, body: bytes) -> Request:
    headers: dict[str, str] = {}
    for raw_name, raw_value in head.headers:
        name, value = raw_name.decode("ascii"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    target = head.target.decode("ascii")
    path, _, query = target.partition("?")
    fields = dict(parse_qsl(query, keep_blank_values=True))
    return Request(head.method.decode("ascii"), path, fields, headers, body, target)


def _head_of(response: Response) -> h11.Response:
    headers = {"date": formatdate(usegmt=True)}
    if response.status not in {204, 304}:
        headers["content-type"] = response.content_type
        if isinstance(response.body, bytes):
            headers["content-length"] = str(len(response.body))
    headers.update((name.lower(), value) for name, value in response.headers.items())
    reason = HTTPStatus(response.status).phrase.encode() if response.status in _STATUSES else b""
    return h11.Response(status_code=response.status, headers=list(headers.items()), reason=reason)


def _plain(status: int) -> Response:
    return Response(status, f"{HTTPStatus(status).phrase}\n".encode(), "text/plain")
