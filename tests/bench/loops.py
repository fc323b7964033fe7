"""The loops somebody would write by hand: poll, embed a page in one call, PATCH every result. No retry, no disk.

``python -m tests.bench.loops aiohttp|httpx2 URL CONCURRENCY``. What the daemon is measured against: the least that does
the same work, by a competent author who trusts the network.
"""

import asyncio
import base64
import ssl
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack

import numpy as np
import orjson
import uvloop

Send = Callable[[str, str, bytes | None], Awaitable[bytes]]
MODEL, IDLE_S = "text-embedding-3-small", 0.02


def vector(encoded: str) -> list[float]:
    """The floats of a model's answer."""
    return np.frombuffer(base64.b64decode(encoded), "<f4").tolist()  # type: ignore[no-any-return]  # one dimension


async def embedded(texts: Sequence[str], url: str, send: Send) -> list[str]:
    """One call of the model."""
    request = {"model": MODEL, "input": texts, "encoding_format": "base64"}
    answer = orjson.loads(await send("POST", f"{url}/v1/embeddings", orjson.dumps(request)))
    return [one["embedding"] for one in answer["data"]]


async def work(url: str, concurrency: int, send: Send) -> None:
    """For ever: a page, its vectors, its results."""
    slots = asyncio.Semaphore(concurrency)

    async def report(task_id: str, encoded: str) -> None:
        async with slots:
            body = orjson.dumps({"state": "succeeded", "result": vector(encoded)})
            await send("PATCH", f"{url}/api/ai-tasks/{task_id}", body)

    while True:
        page = orjson.loads(await send("GET", f"{url}/api/ai-tasks/pending?limit={concurrency}", None))
        if not page:
            await asyncio.sleep(IDLE_S)
            continue
        vectors = await embedded([task["content"]["text"] for task in page], url, send)
        await asyncio.gather(*(report(task["_id"], encoded) for task, encoded in zip(page, vectors, strict=True)))


#: the authority of the benchmark is in SSL_CERT_FILE
trusting = ssl.create_default_context


async def over_aiohttp(url: str, concurrency: int, stack: AsyncExitStack) -> Send:
    import aiohttp

    connector = aiohttp.TCPConnector(limit=concurrency, ssl=trusting())
    session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
    async with session.post(f"{url}/oauth2/token") as answer:
        token = orjson.loads(await answer.read())["access_token"]
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    async def send(method: str, target: str, content: bytes | None) -> bytes:
        async with session.request(method, target, data=content, headers=headers) as answer:
            answer.raise_for_status()
            read: bytes = await answer.read()
            return read

    return send


async def over_httpx2(url: str, concurrency: int, stack: AsyncExitStack) -> Send:
    import httpx2

    limits = httpx2.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    client = await stack.enter_async_context(httpx2.AsyncClient(limits=limits, verify=trusting(), timeout=60))
    token = orjson.loads((await client.post(f"{url}/oauth2/token")).content)["access_token"]
    client.headers |= {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    async def send(method: str, target: str, content: bytes | None) -> bytes:
        answer = await client.request(method, target, content=content)
        return answer.raise_for_status().content

    return send


async def main(library: str, url: str, concurrency: int) -> None:
    async with AsyncExitStack() as stack:
        connect = {"aiohttp": over_aiohttp, "httpx2": over_httpx2}[library]
        await work(url, concurrency, await connect(url, concurrency, stack))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
