# ruff: noqa: T201 - a script that prints its port
"""Token endpoint, task API and embeddings in one process that is cheap enough not to be what is measured.

``python -m tests.bench.upstream [--tls CERT KEY] [...]`` prints its port and serves until its stdin ends. A raw
protocol on uvloop with answers made beforehand; it understands what the measured clients send and no more.
``/bench/...`` is the harness's door, ``/api/tasks...`` one for clients that speak Conductor's protocol.
"""

import argparse
import asyncio
import ssl
import sys
import time
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from urllib.parse import parse_qsl

import orjson
import uvloop

from tests.bench.book import Book, encoded

PENDING, TASKS = "/api/ai-tasks/pending", "/api/ai-tasks/"
LEASE, UPDATE = "/api/tasks/poll/batch/", "/api/tasks"
SUCCEEDED = b'{"state":"succeeded"'
#: records in one chunk of a list without end, and how often a waiting harness looks
CHUNK, LOOK_S = 128, 0.01
TOKEN = b'{"access_token":"bench-token","token_type":"bearer","expires_in":3600}'

Query = Mapping[str, str]


class Connection(asyncio.Protocol):
    """HTTP/1.1 as the measured clients speak it: a length for the body, no chunks, no pipelining."""

    def __init__(self, book: Book, options: argparse.Namespace) -> None:
        self._book, self._options = book, options
        self._buffer = bytearray()
        self._transport: asyncio.Transport
        self._writable = asyncio.Event()
        self._writable.set()
        self._work: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's is one and does not say so

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, _error: Exception | None) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._buffer[:end])
            length = head.lower().partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]
            whole = end + 4 + int(length or 0)
            if len(self._buffer) < whole:
                return
            body = bytes(self._buffer[end + 4 : whole])
            del self._buffer[:whole]
            method, target, _ = head[: head.index(b"\r\n")].decode().split(" ")
            self._serve(method, target, body)

    def _serve(self, method: str, target: str, body: bytes) -> None:
        book, options = self._book, self._options
        path, _, rest = target.partition("?")
        query = dict(parse_qsl(rest))
        if path.startswith("/bench/"):
            self._control(path.removeprefix("/bench/"), query)
            return
        book.asked_at = time.perf_counter()
        if method == "PATCH":
            self._later(options.api_latency, lambda: self._patched(path[len(TASKS) :], body))
        elif path == PENDING:
            book.counted["polls"] += 1
            self._list(query)
        elif path.endswith("/embeddings"):
            self._later(options.model_latency, lambda: self._embed(body))
        elif path.endswith("/token"):
            book.counted["tokens"] += 1
            self._answer(TOKEN)
        else:
            self._conducted(path, query, body)

    def _later(self, seconds: float, work: Callable[[], None]) -> None:
        if seconds:
            asyncio.get_running_loop().call_later(seconds, work)
        else:
            work()

    def _list(self, query: Query) -> None:
        whole, limit = self._options.whole_list, int(query.get("limit", 0)) or None
        if self._options.ignore_limit and not whole:
            self._work = asyncio.get_running_loop().create_task(self._pour())
        else:
            self._later(self._options.api_latency, lambda: self._page(None if whole else limit))

    def _page(self, limit: int | None) -> None:
        records = list(islice(self._book.pending(), limit))
        if records:
            self._book.begin()
        self._book.counted["listed"] += len(records)
        self._answer(b"[" + b",".join(records) + b"]")

    async def _pour(self) -> None:
        """The whole list, whatever was asked for, as fast as it is taken."""
        book = self._book
        self._transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        records, separator = book.pending(), b"["
        while part := list(islice(records, CHUNK)):
            book.begin()
            book.counted["listed"] += len(part)
            book.first_byte_at = book.first_byte_at or time.perf_counter()
            body = separator + b",".join(part)
            self._transport.write(b"%x\r\n%s\r\n" % (len(body), body))
            separator = b","
            await asyncio.sleep(0)
            await self._writable.wait()
            if self._transport.is_closing():
                return
        self._transport.write(b"1\r\n]\r\n0\r\n\r\n" if separator == b"," else b"2\r\n[]\r\n0\r\n\r\n")

    def _patched(self, task_id: str, body: bytes) -> None:
        self._book.settle(task_id, body.startswith(SUCCEEDED), lambda: orjson.loads(body)["result"])
        self._answer(b'{"_id":"%s","state":"succeeded"}' % task_id.encode())

    def _embed(self, body: bytes) -> None:
        book, given = self._book, orjson.loads(body)["input"]
        texts = [given] if isinstance(given, str) else given
        book.counted["model_calls"] += 1
        book.counted["inputs"] += len(texts)
        items = [
            b'{"object":"embedding","index":%d,"embedding":"%s"}' % (index, encoded(one))
            for index, one in enumerate(texts)
        ]
        usage = b'"usage":{"prompt_tokens":%d,"total_tokens":%d}' % (50 * len(texts), 50 * len(texts))
        self._answer(b'{"object":"list","model":"bench","data":[%s],%s}' % (b",".join(items), usage))

    def _conducted(self, path: str, query: Query, body: bytes) -> None:
        """Conductor's doors: tasks are leased, and an update brings the result and takes the next task."""
        book = self._book
        if path.startswith(LEASE):
            book.counted["polls"] += 1
            tasks = book.handed_out(int(query["count"]))
            if tasks:
                book.begin()
            self._answer(b"[" + b",".join(tasks) + b"]")
        elif path.startswith(UPDATE):
            update = orjson.loads(body)
            book.settle(update["taskId"], update["status"] == "COMPLETED", lambda: update["outputData"]["result"])
            self._answer(b"".join(book.handed_out(1)))
        else:
            self._answer(b"{}", b"404 Not Found")

    def _control(self, command: str, query: Query) -> None:
        book = self._book
        if command == "until":
            timeout_s = float(query["timeout"])
            wanted = {name: float(value) for name, value in query.items() if name != "timeout"}
            self._until(wanted, time.perf_counter() + timeout_s)
        elif command == "latencies":
            self._answer(orjson.dumps(book.latencies_s()))
        else:
            if command == "add":
                book.add(int(query["count"]))
            elif command == "begin":
                book.begin()
            self._answer(orjson.dumps(book.counts()))

    def _until(self, wanted: Mapping[str, float], ends_at: float) -> None:
        """Answer when these counts have been reached, or then."""
        counts = self._book.counts()
        if all(counts[name] >= value for name, value in wanted.items()) or time.perf_counter() > ends_at:
            self._answer(orjson.dumps(counts))
        else:
            asyncio.get_running_loop().call_later(LOOK_S, self._until, wanted, ends_at)

    def _answer(self, body: bytes, status: bytes = b"200 OK") -> None:
        if self._transport.is_closing():
            return
        self._transport.write(
            b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)
        )


async def serve(options: argparse.Namespace) -> None:
    book, context = Book(options.length), None
    if options.tls:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*options.tls)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(book, options), "127.0.0.1", 0, ssl=context, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model-latency", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--api-latency", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--length", type=int, default=220, help="characters of a text (220)")
    parser.add_argument("--ignore-limit", action="store_true", help="list all that is pending, whatever was asked for")
    parser.add_argument(
        "--whole-list", action="store_true", help="the same, made as a whole before the first byte, as NestJS does"
    )
    parser.add_argument("--tls", type=Path, nargs=2, metavar=("CERT", "KEY"))
    return parser.parse_args(arguments)


if __name__ == "__main__":
    uvloop.run(serve(options()))
