"""The client for pages over real sockets: where it connects to, what it accepts, what it asks a proxy for."""

import asyncio
import gzip
import re
import socket
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web
from pydantic import SecretStr

from ai_task_processor.core.deadline import Deadline
from ai_task_processor.core.errors import InvalidAnswer, Misconfigured, Transient, Unsent
from ai_task_processor.core.settings import NetworkSettings
from ai_task_processor.net.pages import NoSuchHost, PageClient, PageTooLarge, PrivateAddress

MAX_BYTES = 100_000
NETWORK = NetworkSettings.model_validate({})
#: an address that is public and not used (a network that is given out for nothing answers in time would be slow)
PUBLIC = "93.184.216.34"


class Site:
    """A server on all addresses of this machine that counts its connections."""

    def __init__(self) -> None:
        self.requests: list[web.BaseRequest] = []
        self.answer: Callable[[], web.StreamResponse] = lambda: web.Response(text="hello")
        self.port = 0

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.requests.append(request)
        return self.answer()


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    site = Site()
    runner = web.ServerRunner(web.Server(site.handle))
    await runner.setup()
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listening:
        await web.SockSite(runner, listening).start()
        site.port = listening.getsockname()[1]
        yield site
        await runner.cleanup()


@pytest.fixture
async def client() -> AsyncIterator[PageClient]:
    client = PageClient(NETWORK, connections=4, max_bytes=MAX_BYTES)
    yield client
    await client.aclose()


def resolving(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """The name service gives these answers, one after the other, the last for ever; returns the names asked for."""
    asked, left, real = list[str](), list(answers), socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, *how: Any, **more: Any) -> Any:
        if not re.search("[a-z]", str(host)) or ":" in str(host):
            return real(host, port, *how, **more)
        asked.append(host)
        found = left.pop(0) if len(left) > 1 else left[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port or 0)) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


PRIVATE_HOSTS = [
    "127.0.0.1", "127.1", "2130706433", "0x7f000001", "0x7f.0.0.1", "0177.0.0.1", "017700000001", "0.0.0.0", "0",
    "localhost", "LOCALHOST", "localhost.", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]",
]  # fmt: skip


@pytest.mark.parametrize("host", PRIVATE_HOSTS)
async def test_every_spelling_of_this_machine_is_refused(site: Site, client: PageClient, host: str) -> None:
    """No connection is made, unless the host is named."""
    with pytest.raises((PrivateAddress, Misconfigured)):
        await client.get(f"http://{host}:{site.port}/", named=False)
    assert site.requests == []


async def test_a_named_host_may_be_private(site: Site, client: PageClient) -> None:
    page = await client.get(f"http://127.0.0.1:{site.port}/a%2Fb?c=", named=True)
    assert (page.status_code, page.body) == (200, b"hello")
    (request,) = site.requests
    assert request.raw_path == "/a%2Fb?c="
    assert {name for name in request.headers if name in ("Cookie", "Authorization", "Referer")} == set()


async def test_a_name_that_is_bound_to_another_address_is_refused(
    site: Site, client: PageClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What counts is the address of the connection: the name was public when it was asked for the first time."""
    asked = resolving(monkeypatch, [PUBLIC], ["127.0.0.1"])
    socket.getaddrinfo("rebinding.test", 80)
    with pytest.raises(PrivateAddress):
        await client.get(f"http://rebinding.test:{site.port}/", named=False)
    assert (asked, site.requests) == (["rebinding.test"] * 2, [])


async def test_of_several_addresses_only_public_ones_are_tried(
    site: Site, client: PageClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name with a public address that is silent, and a private one behind it."""
    resolving(monkeypatch, [PUBLIC, "127.0.0.1", "169.254.169.254"])
    real = asyncio.get_running_loop().sock_connect
    tried: list[str] = []

    async def sock_connect(sock: socket.socket, address: Any) -> None:
        tried.append(address[0])
        if address[0] == PUBLIC:
            raise ConnectionRefusedError(111, "refused")
        await real(sock, address)

    monkeypatch.setattr(asyncio.get_running_loop(), "sock_connect", sock_connect)
    with pytest.raises((PrivateAddress, Transient, Unsent)):
        await client.get(f"http://several.test:{site.port}/", named=False)
    assert (tried, site.requests) == ([PUBLIC], [])


async def test_a_guarded_connection_is_not_that_of_a_named_host(site: Site, client: PageClient) -> None:
    """The connection that a named host left open serves nobody else."""
    url = f"http://127.0.0.1:{site.port}/"
    await client.get(url, named=True)
    with pytest.raises(PrivateAddress):
        await client.get(url, named=False)
    assert len(site.requests) == 1


async def test_redirects_are_not_followed(site: Site, client: PageClient) -> None:
    site.answer = lambda: web.Response(status=302, headers={"Location": "http://169.254.169.254/"})
    page = await client.get(f"http://127.0.0.1:{site.port}/", named=True)
    assert (page.status_code, page.headers["location"]) == (302, "http://169.254.169.254/")


def encoded(body: bytes, encoding: str) -> Callable[[], web.Response]:
    return lambda: web.Response(body=body, headers={"Content-Encoding": encoding})


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (encoded(gzip.compress(b"x" * MAX_BYTES), "gzip"), MAX_BYTES),
        (encoded(gzip.compress(b"x" * (MAX_BYTES + 1)), "gzip"), PageTooLarge),
        (encoded(gzip.compress(bytes(10**7)), "gzip"), PageTooLarge),
        (encoded(gzip.compress(b"x" * 5000)[:-20], "gzip"), InvalidAnswer),
        (encoded(b"no gzip", "x-gzip"), InvalidAnswer),
        (encoded(zlib.compress(b"x"), "deflate"), InvalidAnswer),
        (encoded(gzip.compress(gzip.compress(b"x")), "gzip, gzip"), InvalidAnswer),
        (encoded(b"x" * MAX_BYTES, "identity"), MAX_BYTES),
        (lambda: web.Response(body=b"x" * (MAX_BYTES + 1)), PageTooLarge),
        (lambda: web.Response(body=b""), 0),
        (lambda: web.Response(status=404, body=b"x" * (MAX_BYTES + 1)), 0),
    ],
)
async def test_sizes(site: Site, client: PageClient, answer: Any, expected: Any) -> None:
    """The limit counts what is unpacked; the body of a refusal is not read."""
    site.answer = answer
    request = client.get(f"http://127.0.0.1:{site.port}/", named=True)
    if isinstance(expected, int):
        assert len((await request).body) == expected
    else:
        with pytest.raises(expected) as raised:
            await request
        assert type(raised.value) is expected


async def test_a_bomb_takes_no_memory(site: Site, client: PageClient) -> None:
    """A hundred megabytes in a hundred kilobytes are not unpacked."""
    site.answer = encoded(gzip.compress(bytes(10**8)), "gzip")
    tracemalloc.start()
    try:
        with pytest.raises(PageTooLarge):
            await client.get(f"http://127.0.0.1:{site.port}/", named=True)
        assert tracemalloc.get_traced_memory()[1] < 10**7
    finally:
        tracemalloc.stop()


async def test_whose_fault_a_failure_is(client: PageClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused connection is the page's, an unknown name too; a name service that is away is ours."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(Transient):
        await client.get(f"http://127.0.0.1:{port}/", named=True)
    for code, expected in ((socket.EAI_NONAME, NoSuchHost), (socket.EAI_AGAIN, Unsent)):

        def failing(*_: Any, code: int = code, **__: Any) -> Any:
            raise socket.gaierror(code, "told so")

        monkeypatch.setattr(socket, "getaddrinfo", failing)
        with pytest.raises(expected) as raised:
            await client.get("http://nowhere.test/", named=False)
        assert type(raised.value) is expected


async def test_a_silent_server_ends_with_the_deadline(site: Site, client: PageClient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(TimeoutError), Deadline(0.1):
        await client.get(f"http://127.0.0.1:{silent.getsockname()[1]}/", named=True)


@pytest.fixture
async def proxy() -> AsyncIterator[tuple[PageClient, list[str]]]:
    """A client behind a proxy, and the targets of CONNECT, each refused."""
    targets: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        targets.append((await reader.readuntil(b"\r\n\r\n")).decode().split()[1])
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = SecretStr(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    client = PageClient(NETWORK.model_copy(update={"https_proxy": url}), connections=4, max_bytes=MAX_BYTES)
    yield client, targets
    await client.aclose()
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize(
    ("addresses", "named", "expected"),
    [
        (["10.0.0.1", PUBLIC], False, [f"{PUBLIC}:443"]),
        (["10.0.0.1"], False, []),
        (["10.0.0.1"], True, ["pages.test:443"]),
    ],
)
async def test_a_proxy_is_asked_for_the_address_that_was_checked(
    proxy: tuple[PageClient, list[str]],
    monkeypatch: pytest.MonkeyPatch,
    addresses: list[str],
    named: bool,
    expected: list[str],
) -> None:
    """So that the proxy cannot resolve the name to something else; for a named host it may."""
    client, targets = proxy
    resolving(monkeypatch, addresses)
    with pytest.raises(Unsent if expected else PrivateAddress):
        await client.get("https://pages.test/", named=named)
    assert targets == expected


def test_the_client_certificate_is_shown_to_nobody() -> None:
    """Strangers need not know who we are."""
    network = NETWORK.model_copy(update={"client_cert_file": "c", "client_key_file": "k", "client_key_password": "p"})
    own = PageClient(network, connections=1, max_bytes=1)._network
    assert (own.client_cert_file, own.client_key_file, own.client_key_password) == (None, None, None)
