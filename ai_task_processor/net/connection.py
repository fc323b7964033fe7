"""aiohttp's connection, with what it lacks."""

import asyncio
import re
from collections.abc import Iterator
from functools import partial
from http import HTTPStatus
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError

from ai_task_processor.core.deadline import Deadline
from ai_task_processor.core.errors import Unsent
from ai_task_processor.net.frames import ShortMessages
from ai_task_processor.net.transport_errors import FIRST_REQUEST, describe

#: of a WebSocket: longer ones are skipped
MAX_MESSAGE_BYTES = 2**20
#: seconds to connect to one address or through a proxy
CONNECT_TIMEOUT_S = 10.0
#: how long a failed write waits for the reason, seconds
END_S = 0.1
_BLANK_LINE = re.compile(rb"\n\r?\n")


class Request(aiohttp.ClientRequest):
    """A request that checks its connection once more before it is written."""

    async def send(self, conn: Any) -> aiohttp.ClientResponse:
        if conn.protocol.should_close:
            # aiohttp looks at this when a connection is given back, not when it is taken again.
            raise Unsent("the server sent something that nobody asked for")
        response = await super().send(conn)
        response.transport = conn.transport  # type: ignore[attr-defined]  # ours, by response_class
        return response


class Response(aiohttp.ClientResponse):
    """An answer that aborts its transport when it is closed before its end.

    aiohttp would first write what is buffered: to a server that does not read any more, for ever.
    """

    transport: asyncio.Transport | None = None

    def close(self) -> None:
        if self.connection is not None and self.transport is not None:
            self.transport.abort()
        super().close()


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
                exc.add_note(FIRST_REQUEST)
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


class Connector(aiohttp.TCPConnector):
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
