"""A pool of connections to one server."""

import asyncio
import re
import socket
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any

import aiohttp
from yarl import URL

from ai_task_processor import __version__
from ai_task_processor.core.deadline import stalled_s
from ai_task_processor.core.errors import Unsent
from ai_task_processor.net.connection import CONNECT_TIMEOUT_S, Connector, Request, Response
from ai_task_processor.net.tls import Tls

MAX_HEADER_BYTES, MAX_HEADERS = 2**16, 1000
#: seconds to get a connection at all: what takes longer was not sent
POOL_TIMEOUT_S = 30.0
#: how long an unused connection is kept, unless the server says less: beyond the usual 30 s between two polls,
#: and below the 60 s after which load balancers hang up
KEEPALIVE_S = 55.0
#: how long the end of a WebSocket waits for the server's closing frame, seconds
CLOSE_S = 1.0
#: larger bodies are written piece by piece
LARGE_BYTES = 2**20
#: life of a resolved name, seconds
DNS_TTL_S = 10
_KEEPALIVE = re.compile(r"\btimeout=(\d{1,5})\b")

WebSocket = aiohttp.ClientWebSocketResponse[bool]


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
    ) -> Response:
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
        response: Response = await session.request(  # type: ignore[assignment]  # by ``response_class``
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

    async def websocket(self, url: str, headers: Mapping[str, str], *, ping_s: float) -> WebSocket:
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
            connector=Connector(
                limit=self._connections,
                keepalive_timeout=KEEPALIVE_S,
                ttl_dns_cache=DNS_TTL_S,
                resolver=aiohttp.ThreadedResolver(),  # whatever else is installed
                interleave=1,
                socket_factory=self._socket_factory,
            ),
            headers=self.headers,
            request_class=Request,
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
