"""The ops port: aiohttp's web server behind a listener that neither peers nor a lack of descriptors can block.

aiohttp bounds neither the number of connections nor the time in which an answer is taken. And an event loop that
has no descriptor left loses probes: asyncio stops accepting for a second, uvloop hangs up. So this module accepts
by itself, bounds the connections, and keeps descriptors in reserve that only its own ``accept`` can use.
"""

import asyncio
import errno
import resource
import socket
import sys
from collections import OrderedDict
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final, cast

from aiohttp import web

from ai_task_processor.ops.logs import get_logger

log = get_logger(__name__)

MAX_CONNECTIONS: Final = 64
#: descriptors that only ``accept`` can use
RESERVE: Final = 32
#: for a request head, from the accept or the previous answer on
HEAD_S: Final = 5.0
#: for everything else of one request: to send its body, to take the answer
REQUEST_S: Final = 30.0
#: for the end of a connection: the unread rest of a body, a last answer
LINGER_S: Final = 1.0
#: a connection may be dropped for another one from so long after its accept or last request on
FRESH_S: Final = 0.1
#: for the answer to a peer that has closed its side
EOF_S: Final = 0.1
#: interval of closing old connections, and the pause after ``accept`` fails, seconds
SWEEP_S, RETRY_S = 1.0, 0.05
#: aiohttp's default shows versions
SERVER: Final = "ai-task-processor"

Response = web.Response
Handler = Callable[[web.BaseRequest], Response]


class Listener:
    """Answers every request by ``handler``, which does not wait: an exception in it is a bare 500 and one log line.

    A connection has ``HEAD_S`` and ``REQUEST_S``. Beyond ``MAX_CONNECTIONS``, the one whose last request or accept is
    the longest ago is dropped; while that is less than ``FRESH_S`` ago, others wait to be accepted.
    """

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._sockets: list[socket.socket] = []
        self._tasks: list[asyncio.Task[None]] = []
        #: when each connection was accepted or had its last request, in the loop's time, the oldest first
        self._since: OrderedDict[asyncio.Transport, float] = OrderedDict()

    async def start(self, host: str, port: int) -> int:
        """Listen, and return the bound port (0 takes a free one). Raises ``OSError`` and ``UnicodeError``."""
        loop = asyncio.get_running_loop()
        self._server = web.Server(self._answer)
        self._sockets = await _listening(host, port)
        _keep_reserve()
        work = [self._sweep(), *(self._accept(listening) for listening in self._sockets)]
        self._tasks = [loop.create_task(item, name="ops-port") for item in work]
        return int(self._sockets[0].getsockname()[1])

    async def aclose(self) -> None:
        """Stop listening, wait ``LINGER_S`` for answers under way, and drop every connection."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
            self._server.pre_shutdown()
            await self._server.shutdown(LINGER_S)
        for listening in self._sockets:
            listening.close()
        while self._since:
            self._drop_oldest()
        await asyncio.sleep(0)  # the transports close their sockets in the next turn of the loop

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                if (full_s := self._full_for_s()) > 0:
                    await asyncio.sleep(full_s)
                    continue
                peer = await _accepted(listening)
                await loop.connect_accepted_socket(lambda: _Connection(self, self._server), peer)
            except (OSError, ValueError):  # ValueError: a limit that the system refuses
                self._drop_oldest()
                await asyncio.sleep(RETRY_S)

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SWEEP_S)
            while self._since and next(iter(self._since.values())) < loop.time() - REQUEST_S:
                self._drop_oldest()

    def _full_for_s(self) -> float:
        """Seconds for which no connection may be dropped for another one; 0 or less when there is room."""
        if len(self._since) < MAX_CONNECTIONS:
            return 0.0
        return next(iter(self._since.values())) + FRESH_S - asyncio.get_running_loop().time()

    def _drop_oldest(self) -> None:
        if self._since:
            self._since.popitem(last=False)[0].abort()

    def seen(self, transport: asyncio.Transport) -> None:
        """A connection was accepted, or has sent a request."""
        self._since[transport] = asyncio.get_running_loop().time()
        self._since.move_to_end(transport)
        if len(self._since) > MAX_CONNECTIONS:
            self._drop_oldest()

    def closed(self, transport: asyncio.Transport) -> None:
        """A connection has ended."""
        self._since.pop(transport, None)

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        if request.transport is not None:
            self.seen(request.transport)
        response = self._handler(request)
        response.headers["Server"] = SERVER
        return response


class _Connection(web.RequestHandler):
    """aiohttp's protocol for one connection; it notifies the listener of its begin and end."""

    def __init__(self, listener: Listener, server: web.Server) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=HEAD_S,
            lingering_time=LINGER_S,
            read_bufsize=2**16,
            auto_decompress=False,
            access_log=None,  # type: ignore[arg-type]  # which is documented
        )
        self._listener = listener

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._accepted = cast("asyncio.Transport", transport)
        self._listener.seen(self._accepted)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._listener.closed(self._accepted)

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio's answer to it: the other side stays open
        """A client that ends its side behind its request (``nc -N``) is answered before the connection ends."""
        self._loop.call_later(EOF_S, self.force_close)
        return True

    def handle_error(self, request: web.BaseRequest, status: int = 500, *_: Any, **__: Any) -> Response:  # noqa: ARG002
        """An answer without details. Only an exception of the handler is logged, not a malformed request."""
        if status >= 500:
            status = 500  # aiohttp answers 504 to a TimeoutError, which is not documented
            log.error("request.failed", error=type(sys.exception()).__name__)
        response = web.Response(status=status, text=f"{HTTPStatus(status).phrase}\n", headers={"Server": SERVER})
        response.force_close()
        return response


async def _listening(host: str, port: int) -> list[socket.socket]:
    """A socket for each address of the host. ``::`` accepts IPv4 as well, and only IPv4 where there is no IPv6."""
    if set(host) <= {":", "0"} and not socket.has_dualstack_ipv6():
        host = "0.0.0.0"  # noqa: S104 - all interfaces, as it was asked for
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    try:
        for family, *_, (name, *_) in found:
            dual = name == "::"
            sockets.append(socket.create_server((name, port), family=family, backlog=512, dualstack_ipv6=dual))
            sockets[-1].setblocking(False)
            port = sockets[0].getsockname()[1]
    except OSError:
        for opened in sockets:
            opened.close()
        raise
    return sockets


def unusable(error: Exception, host: str, port: int) -> str:
    """The message for an error of ``Listener.start``: is it the host or the port that cannot be used?"""
    code, why = getattr(error, "errno", None), getattr(error, "strerror", None) or "not a host name"
    if isinstance(error, socket.gaierror | UnicodeError) or code in (errno.EADDRNOTAVAIL, errno.EINVAL):
        return f"METRICS_HOST cannot be used, because nothing can listen on {host} here ({why}): choose another one"
    taken = f"METRICS_PORT cannot be used, because {host}:{port} is taken or not ours ({why})"
    return f"{taken}: choose another METRICS_HOST or METRICS_PORT"


def _keep_reserve() -> None:
    """Reserve descriptors for the ops port: lower the soft limit where it equals the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, hard - min(RESERVE, hard // 4)), hard))


async def _accepted(listening: socket.socket) -> socket.socket:
    """The next connection, with a reserved descriptor when there is no other."""
    try:
        return (await asyncio.get_running_loop().sock_accept(listening))[0]
    except OSError:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft + RESERVE, hard), hard))
        try:
            peer = listening.accept()[0]
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    peer.setblocking(False)
    return peer
