"""What only a real socket shows: deadlines, resets, TLS, proxies and the pool."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from pydantic import SecretStr

from ai_task_processor.core.errors import Ambiguous, RemoteError, TimedOut, Unsent
from ai_task_processor.core.settings import NetworkSettings
from ai_task_processor.net.client import exchange, make_client
from ai_task_processor.net.http1 import Answer

NETWORK = NetworkSettings.model_validate({})
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(talk: Talk, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server that does as told with each connection and leaves none open; the port."""
    writers = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, RuntimeError):
            await talk(reader, writer)

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0.02)


async def request_of(reader: asyncio.StreamReader) -> str:
    return (await reader.readuntil(b"\r\n\r\n")).decode()


async def say_ok(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        await request_of(reader)
        writer.write(OK)
        await writer.drain()


async def get(url: str, network: NetworkSettings = NETWORK, timeout_s: float = 5.0) -> Answer | httpx2.Response:
    async with make_client(network, url=url, connections=1) as client:
        return await exchange(client, "GET", url, timeout_s=timeout_s)


async def failure(url: str, network: NetworkSettings = NETWORK, timeout_s: float = 5.0) -> RemoteError:
    with pytest.raises(RemoteError) as raised:
        await get(url, network, timeout_s)
    return raised.value


async def test_the_deadline_is_total() -> None:
    """A server that sends a byte every now and then is given up at the deadline, however busy the machine."""

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.02)

    async with serving(drip) as port:
        loop = asyncio.get_running_loop()
        started_at = loop.time()
        error = await failure(f"http://127.0.0.1:{port}/", timeout_s=0.3)
        assert type(error) is TimedOut
        assert 0.29 <= loop.time() - started_at < 3.0


async def test_a_reset_in_mid_body_is_ambiguous() -> None:
    """Something was answered, but not all of it: the request may have been applied."""

    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf")
        await writer.drain()
        await asyncio.sleep(0.02)
        writer.transport.abort()

    async with serving(cut) as port:
        error = await failure(f"http://127.0.0.1:{port}/")
    assert type(error) is Ambiguous
    assert str(port) not in str(error)


async def test_nobody_listens() -> None:
    """A closed port was not sent anything, by name and by address, and the port is not in the message."""
    async with serving(say_ok) as port:
        pass
    for host in ("127.0.0.1", "localhost"):
        error = await failure(f"http://{host}:{port}/")
        assert (type(error), str(error)) == (Unsent, "connection refused")


async def test_nobody_is_called_so() -> None:
    """A name that does not resolve was not sent anything; the name is not in the message."""
    error = await failure("https://nobody.invalid/secret")
    assert type(error) is Unsent
    assert "nobody" not in str(error)
    assert "secret" not in str(error)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    """A self-signed certificate for 127.0.0.1, and a server context with it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "private")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(days=1), now + timedelta(days=1))
    address = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    builder = builder.add_extension(address, critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    path = tmp_path_factory.mktemp("tls") / "cert.pem"
    path.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    pem = path.with_name("key.pem")
    pem.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path, pem)
    return path, context


def trusting(path: Path) -> NetworkSettings:
    return NETWORK.model_copy(update={"ca_bundle": path})


async def test_tls_is_verified(authority: tuple[Path, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown authority is refused, also when SSL_CERT_FILE names it; CA_BUNDLE is what counts."""
    path, context = authority
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    async with serving(say_ok, context) as port:
        error = await failure(f"https://127.0.0.1:{port}/")
        assert (type(error), str(error)) == (Unsent, "TLS: self-signed certificate")
        assert (await get(f"https://127.0.0.1:{port}/", trusting(path))).content == b"ok"
        error = await failure(f"https://localhost:{port}/", trusting(path))
        assert str(error).startswith("TLS: ")


async def test_old_tls_is_refused(authority: tuple[Path, ssl.SSLContext]) -> None:
    """A server that speaks at most TLS 1.1 is not spoken to."""
    path, _ = authority
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    old.load_cert_chain(path, path.with_name("key.pem"))
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    async with serving(say_ok, old) as port:
        error = await failure(f"https://127.0.0.1:{port}/", trusting(path))
    assert type(error) is Unsent
    assert str(error).startswith("TLS: ")


async def test_plain_text_instead_of_tls(authority: tuple[Path, ssl.SSLContext]) -> None:
    """A server that has no TLS at all is a TLS error, not a crash."""
    path, _ = authority

    async def hello(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()

    async with serving(hello) as port:
        error = await failure(f"https://127.0.0.1:{port}/", trusting(path))
    assert type(error) is Unsent


def proxying(seen: list[str]) -> AbstractAsyncContextManager[int]:
    """A proxy that refuses everyone; ``seen`` is what it was asked."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await request_of(reader))
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()

    return serving(refuse)


async def test_proxies_of_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP_PROXY, HTTPS_PROXY and ALL_PROXY of the environment see nothing."""
    seen: list[str] = []
    async with proxying(seen) as proxy, serving(say_ok) as port:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy}")
            monkeypatch.setenv(name.lower(), f"http://127.0.0.1:{proxy}")
        assert (await get(f"http://127.0.0.1:{port}/")).content == b"ok"
        await failure("https://nobody.invalid/")
    assert seen == []


async def test_the_proxy_of_the_settings_is_asked() -> None:
    """HTTPS_PROXY as a setting is asked for a tunnel with its credentials, and its refusal leaks none."""
    seen: list[str] = []
    async with proxying(seen) as proxy:
        network = NETWORK.model_copy(update={"https_proxy": SecretStr(f"http://user:hush@127.0.0.1:{proxy}")})
        error = await failure("https://nobody.invalid/secret", network)
        assert type(error) is Unsent
        assert "hush" not in str(error)
        await failure("https://nobody.invalid/", network.model_copy(update={"no_proxy": ("invalid",)}))
    assert len(seen) == 1
    assert seen[0].startswith("CONNECT nobody.invalid:443 HTTP/1.1\r\n")
    assert "Proxy-Authorization: Basic dXNlcjpodXNo" in seen[0]


@pytest.mark.parametrize("secure", [False, True])
async def test_cancelled_twice_leaves_the_pool_usable(authority: tuple[Path, ssl.SSLContext], secure: bool) -> None:
    """Streams that are cancelled, and cancelled again while they close, do not use up the connections."""
    path, context = authority
    hanging, begun = True, asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not hanging:
            await say_ok(reader, writer)
        await request_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf")
        await writer.drain()
        await reader.read()

    async def read(client: httpx2.AsyncClient, url: str) -> None:
        async with client.stream("GET", url) as answer:
            async for _ in answer.aiter_bytes():
                begun.set()

    async with serving(hang, context if secure else None) as port:
        url = f"http{'s' if secure else ''}://127.0.0.1:{port}/"
        async with make_client(trusting(path), url=url, connections=2) as client:
            for turns in range(12):
                reading = asyncio.create_task(read(client, url))
                await begun.wait()
                begun.clear()
                reading.cancel()
                for _ in range(turns):
                    await asyncio.sleep(0)
                reading.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await reading
            hanging = False
            answers = await asyncio.gather(*(exchange(client, "GET", url, timeout_s=2) for _ in range(4)))
            assert [answer.content for answer in answers] == [b"ok"] * 4
