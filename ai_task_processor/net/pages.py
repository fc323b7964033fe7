"""The HTTP client for pages of strangers: it connects to public addresses only, unless the caller names the host.

The address is checked where the socket is made, so that neither another spelling of an address, nor a redirect, nor a
name that resolves to something else the second time leads into a private network. Behind ``HTTPS_PROXY`` the name is
resolved here, and the proxy is asked for the address that was checked. The client certificate is shown to nobody.
"""

import socket
import ssl
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from ai_task_processor.core.checks import aside
from ai_task_processor.core.deadline import Deadline
from ai_task_processor.core.errors import InvalidAnswer, Misconfigured, RemoteError, Transient, Unsent
from ai_task_processor.core.settings import NetworkSettings
from ai_task_processor.net.addresses import is_public
from ai_task_processor.net.pool import Pool
from ai_task_processor.net.proxy import proxy_of
from ai_task_processor.net.tls import shared_tls
from ai_task_processor.net.transport_errors import FOREIGN, causes, translate

Proxy = tuple[str, Mapping[str, str]]

#: seconds to find an address and connect: below the caller's deadline, so that this failure differs from a slow page
CONNECT_S = 10.0
#: errors of name resolution that say that there is no such name, and not that nobody could be asked
_NO_SUCH_NAME = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})


class PrivateAddress(OSError):
    """The host has no public address. Nothing was sent."""

    def __init__(self) -> None:
        super().__init__("the address is not public")


class PageTooLarge(InvalidAnswer):
    """The page is larger than the limit, perhaps only when it is decompressed."""


class NoSuchHost(Misconfigured):
    """The name service says that there is no such host."""


@dataclass(frozen=True, slots=True)
class PageAnswer:
    """``body``: decompressed; empty unless the status is 200. ``headers``: whatever the case of a name."""

    status_code: int
    headers: Mapping[str, str]
    url: str
    body: bytes = b""


class PageClient:
    """One request at a time to any host, without redirects, cookies or credentials."""

    def __init__(self, network: NetworkSettings, *, connections: int, max_bytes: int) -> None:
        certificate = ("client_cert_file", "client_key_file", "client_key_password")
        self._network = network.model_copy(update=dict.fromkeys(certificate))
        self._connections = connections
        self._max_bytes = max_bytes
        self._pools: dict[tuple[bool, str | None], Pool] = {}

    async def get(self, url: str, *, named: bool) -> PageAnswer:
        """The answer, whatever its status. To be called under a deadline.

        ``url``: absolute, http or https. ``named``: the host may have a private address.

        Raises ``PrivateAddress``, ``PageTooLarge``, ``NoSuchHost``, ``Unsent`` when the network of this machine may be
        at fault, and other ``RemoteError``.
        """
        target, proxy = URL(url, encoded=True), None
        if target.scheme == "https":
            proxy = proxy_of(self._network, url)
        headers: Mapping[str, str] = {"Accept": "text/html,application/xhtml+xml,text/plain;q=0.9,*/*;q=0.1"}
        server_hostname = None
        if proxy is not None and not named:
            headers = {**headers, "Host": urlsplit(url).netloc}
            server_hostname = target.raw_host
            target = target.with_host(await _public_address(target.raw_host or ""))
        pool = self._pool(guarded=proxy is None and not named, proxy=proxy)
        try:
            response = await pool.request("GET", target, headers, None, server_hostname=server_hostname)
            try:
                body = await _body(response, self._max_bytes) if response.status == 200 else b""
            finally:
                response.close()
        except (*FOREIGN, zlib.error) as error:
            raise _translated(error) from error
        return PageAnswer(response.status, response.headers, url, body)

    def _pool(self, *, guarded: bool, proxy: Proxy | None) -> Pool:
        key = guarded, proxy and proxy[0]
        if key not in self._pools:
            check = partial(_socket, guarded=guarded)
            pool = Pool(self._connections, shared_tls(self._network), proxy, CONNECT_S, socket_factory=check)
            # Most pages are the only one of their server for a long time.
            pool.headers |= {"Accept-Encoding": "gzip", "Connection": "close"}
            self._pools[key] = pool
        return self._pools[key]

    async def aclose(self) -> None:
        for pool in self._pools.values():
            await pool.aclose()


def _socket(address: tuple[Any, ...], *, guarded: bool) -> socket.socket:
    """The socket for an address as ``getaddrinfo`` gives it. Raises ``PrivateAddress``."""
    family, kind, protocol, _, place = address
    if guarded and not is_public(str(place[0])):
        raise PrivateAddress
    return socket.socket(family, kind, protocol)


async def _public_address(host: str) -> str:
    """The first public address of a host. Raises ``PrivateAddress``, ``Unsent``."""
    try:
        with Deadline(CONNECT_S):
            found = await aside(lambda: socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))
    except TimeoutError as error:
        raise Unsent("no address in time") from error
    except (OSError, UnicodeError) as error:
        known = _translated(error)
        raise (known if isinstance(known, PrivateAddress | NoSuchHost) else Unsent(str(known))) from error
    for entry in found:
        if is_public(str(entry[4][0])):
            return str(entry[4][0])
    raise PrivateAddress


async def _body(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    """The body, unpacked. No more than ``max_bytes`` of it are ever in memory."""
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    if encoding not in ("", "identity", "gzip", "x-gzip"):
        raise InvalidAnswer("the page is compressed in a way that was not asked for")
    unpacker = zlib.decompressobj(wbits=31) if encoding.endswith("gzip") else None
    chunks, left = list[bytes](), max_bytes
    while chunk := await response.content.readany():
        if unpacker is not None:
            chunk = unpacker.decompress(chunk, left + 1)
        left -= len(chunk)
        if left < 0:
            raise PageTooLarge("the page is too large")
        chunks.append(chunk)
    if unpacker is not None and chunks and not unpacker.eof:
        raise InvalidAnswer("the page ends too early")
    return b"".join(chunks)


def _translated(error: BaseException) -> RemoteError | PrivateAddress:
    """``Unsent`` only when the network of this machine may be at fault, and not the page's server."""
    if isinstance(error, zlib.error):
        return InvalidAnswer("the page cannot be decompressed")
    known = translate(error)
    for cause in causes(error):
        if isinstance(cause, PrivateAddress):
            return cause
        if isinstance(cause, socket.gaierror) and cause.errno in _NO_SUCH_NAME:
            return NoSuchHost("the host has no address")
        if isinstance(cause, ConnectionError | ssl.SSLError):
            return Transient(str(known))
    return known
