"""``HttpClient`` over a handler of httpx2's requests, or over respx's routes: everything of ours but the sockets."""

from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any, cast

import aiohttp
import httpx2
from multidict import CIMultiDict
from yarl import URL

from ai_task_processor.core.errors import Unsent
from ai_task_processor.net.client import MAX_ANSWER_BYTES, HttpClient, Tokens
from ai_task_processor.net.pool import Pool

Handler = (
    Callable[[httpx2.Request], httpx2.Response] | Callable[[httpx2.Request], Coroutine[None, None, httpx2.Response]]
)


class MockPool:
    """Stands for ``Pool``: its requests go to an httpx2 transport."""

    bundled = False

    def __init__(self, transport: httpx2.AsyncBaseTransport) -> None:
        self.headers: dict[str, str] = {"User-Agent": "tests", "Accept": "*/*", "Accept-Encoding": "identity"}
        self._transport = transport

    async def request(self, method: str, url: URL, headers: Mapping[str, str], content: bytes | None) -> "MockResponse":
        together = httpx2.Headers(self.headers)
        together.update(headers)
        request = httpx2.Request(method, str(url), headers=together, content=content)
        try:
            return MockResponse(method, await self._transport.handle_async_request(request))
        except httpx2.ConnectError as error:
            raise Unsent("connection refused") from error

    async def aclose(self) -> None:
        await self._transport.aclose()


class MockResponse:
    """What is used of aiohttp's."""

    transport = None

    def __init__(self, method: str, response: httpx2.Response) -> None:
        self.method = method
        self.status = response.status_code
        self.headers = CIMultiDict(response.headers.multi_items())
        self.raw_headers = response.headers.raw
        self.content = self
        self.closed = False
        self._stream = cast("httpx2.AsyncByteStream", response.stream)
        self._chunks = self._stream.__aiter__()

    async def readany(self) -> bytes:
        try:
            async for chunk in self._chunks:
                if chunk:
                    return chunk
        except httpx2.HTTPError as error:
            raise aiohttp.ClientPayloadError("cut") from error
        return b""

    def close(self) -> None:
        self.closed = True
        with suppress(StopIteration):
            self._stream.aclose().send(None)  # those of the tests wait for nothing


def mock_client(
    handler: Handler, url: str, *, tokens: Tokens | None = None, max_answer_bytes: int | None = MAX_ANSWER_BYTES
) -> HttpClient:
    """A client of the server at ``url``, which is the handler."""
    pool: Any = MockPool(httpx2.MockTransport(handler))
    return HttpClient(cast("Pool", pool), url, tokens=tokens, max_answer_bytes=max_answer_bytes)
