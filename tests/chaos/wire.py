"""HTTP/1.1 on a raw socket, as far as the upstream needs it: read a request, write an answer well or badly."""

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import parse_qsl

#: longer than every deadline of the daemon in these runs
DRIP_S, DRIP_PAUSE_S = 8.0, 0.2
HTML = b"<html><body><h1>It works!</h1></body></html>"


@dataclass(frozen=True, slots=True)
class Request:
    """A request that has arrived in full. Header names are lower-case."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """What is to be written."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, status: int, value: object, **headers: str) -> "Answer":
        """JSON."""
        return cls(status, json.dumps(value).encode(), {"Content-Type": "application/json", **headers})

    @classmethod
    def error(cls, status: int, message: object, **headers: str) -> "Answer":
        """As Nest says it."""
        return cls.of(status, {"statusCode": status, "message": message}, **headers)

    @classmethod
    def page(cls, status: int) -> "Answer":
        """What a proxy says in the API's place."""
        return cls(status, HTML, {"Content-Type": "text/html"})

    def encoded(self) -> bytes:
        head = [f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}", f"Content-Length: {len(self.body)}"]
        head += [f"{name}: {value}" for name, value in self.headers.items()]
        return "\r\n".join([*head, "", ""]).encode() + self.body


async def read_request(reader: asyncio.StreamReader) -> Request | None:
    """None when the client has gone."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    method, target, _ = head[0].split(" ")
    path, _, query = target.partition("?")
    return Request(method, path, dict(parse_qsl(query)), headers, body)


async def write(writer: asyncio.StreamWriter, data: bytes) -> bool:
    """Hand everything to the kernel; false when the client had gone."""
    try:
        writer.write(data)
        await writer.drain()
    except ConnectionError:
        return False
    return not writer.is_closing()


async def drip(writer: asyncio.StreamWriter) -> None:
    """Begin a good answer, then send a byte now and then, longer than anybody waits, and close."""
    data = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n"
    for _ in range(int(DRIP_S / DRIP_PAUSE_S)):
        if not await write(writer, data):
            break
        data = b" "
        await asyncio.sleep(DRIP_PAUSE_S)
    writer.close()


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN."""
    peer: socket.socket | None = writer.get_extra_info("socket")
    if peer is not None:
        with contextlib.suppress(OSError):
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
