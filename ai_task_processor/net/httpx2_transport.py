"""httpx2's API over our client, for the SDKs of others."""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import httpx2

if TYPE_CHECKING:
    from ai_task_processor.net.client import HttpClient, StreamedAnswer


class Httpx2Transport(httpx2.AsyncBaseTransport):
    """httpx2's API over an ``HttpClient``. Raises ``RemoteError``, which SDKs hand through or wrap.

    httpx-aiohttp 0.2 does not do: it quotes paths anew (``test_paths_are_sent_as_quoted``), and calls a connection
    that died after the request was written a ``ConnectTimeout``, as if nothing had been sent
    (``test_a_lost_answer_is_ambiguous``).
    """

    def __init__(self, client: "HttpClient") -> None:
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
    def __init__(self, answer: "StreamedAnswer") -> None:
        self._answer = answer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._answer.aiter_bytes():
            yield chunk

    async def aclose(self) -> None:
        self._answer.close()
