"""TLS and proxies on real sockets: whom we trust, who we are, and on which way."""

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from ai_task_processor.core.errors import Unsent
from ai_task_processor.core.settings import NetworkSettings
from ai_task_processor.net import connection, tls
from ai_task_processor.net.client import HttpClient
from tests.contract.helpers import failing
from tests.contract.http.servers import NETWORK, OK, Authority, Server, blocking, client_of, serving


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


def network(root: Authority, **more: object) -> NetworkSettings:
    return NETWORK.model_copy(update={"ca_bundle": root.pem, **more})


async def get(url: str, network: NetworkSettings = NETWORK) -> bytes:
    async with client_of(url, network) as client:
        return (await client.exchange("GET", url, timeout_s=5)).content


async def failure(url: str, network: NetworkSettings = NETWORK) -> str:
    return str(await failing(Unsent, get(url, network)))


async def test_tls_is_verified(root: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown authority is refused, also when SSL_CERT_FILE names it; CA_BUNDLE is what counts."""
    monkeypatch.setenv("SSL_CERT_FILE", str(root.pem))
    async with serving(OK, tls=root.context()) as server:
        unknown = "TLS: nobody known here signed its certificate (unable to get local issuer certificate)"
        assert await failure(server.url) == f"{unknown}: set CA_BUNDLE to your authority's PEM file"
        assert await get(server.url, network(root)) == b"ok"
        other = network(Authority(tmp_path, name="other"))
        assert await failure(server.url, other) == (
            f"{unknown}: add the root of its chain to the file that CA_BUNDLE names"
        )
        assert await failure(server.url.replace("127.0.0.1", "localhost"), network(root)) == (
            "TLS: its certificate is for another host name: correct the host in the URL"
        )
    own = Authority(tmp_path, days=-1)
    async with serving(OK, tls=own.context(itself=True)) as server:
        assert await failure(server.url, network(own)) == (
            "TLS: its certificate has expired: have it renewed where the URL points"
        )


async def test_an_authority_between_is_not_enough(root: Authority, tmp_path: Path) -> None:
    """CA_BUNDLE must hold the root."""
    middle = Authority(tmp_path, root, name="middle")
    async with serving(OK, tls=middle.context()) as server:
        assert (await failure(server.url, network(middle))).startswith("TLS: nobody known here signed its ")
        assert await get(server.url, network(root)) == b"ok"


async def test_old_tls_is_refused(root: Authority) -> None:
    """A server that speaks at most TLS 1.1 is not spoken to."""
    old = root.context()
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    async with serving(OK, tls=old) as server:
        assert (await failure(server.url, network(root))).startswith("TLS: ")


async def test_plain_text_instead_of_tls(root: Authority) -> None:
    """A server that has no TLS at all, and one that hangs up, are a TLS error."""

    for hello in (b"HTTP/1.1 400 Bad Request\r\n\r\n", b""):

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, hello: bytes = hello) -> None:
            await reader.read(2**16)
            writer.write(hello)
            writer.close()

        listener = await asyncio.start_server(talk, "127.0.0.1", 0)
        url = f"https://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        assert (await failure(url, network(root))).startswith("TLS: ")
        listener.close()
        await asyncio.sleep(0.02)


# --- client certificates


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_server_that_demands_a_certificate(root: Authority, tmp_path: Path, version: ssl.TLSVersion) -> None:
    """It is told by name when we have none or the wrong one, and satisfied with ours; nothing was sent otherwise."""
    context = root.context(clients=True)
    context.maximum_version = version
    ours, theirs = root.issue("client", password="s3cret"), Authority(tmp_path, name="other").issue("stranger")
    known = network(root, client_cert_file=ours, client_key_password=SecretStr("s3cret"))
    with blocking(context) as (url, served):
        assert "CLIENT_CERT_FILE" in await failure(url, network(root))
        assert "CLIENT_CERT_FILE" in await failure(url, network(root, client_cert_file=theirs))
        assert await get(url, known) == b"ok"
    assert served == ["client"]


@pytest.mark.parametrize("size", [2, 8000, 3 * 2**20])
async def test_an_alert_during_the_write_is_read(root: Authority, size: int) -> None:
    """Under TLS 1.3 it comes while the body is written: the write fails, but the alert says why, each time."""
    with blocking(root.context(clients=True)) as (url, served):
        for _ in range(10):
            async with client_of(url, network(root)) as client:
                asked = client.exchange("PATCH", url, content=bytes(size), timeout_s=5)
                assert "set CLIENT_CERT_FILE" in str(await failing(Unsent, asked))
    assert served == []


async def test_replaced_files_are_used_for_new_connections(
    root: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """cert-manager rotates them, through a symbolic link; what is broken in between changes nothing."""
    monkeypatch.setattr(tls, "LOOK_EVERY_S", 0.0)
    link, bundle = tmp_path / "tls.pem", tmp_path / "ca.pem"
    bundle.write_bytes(root.pem.read_bytes())

    async def ask(client: HttpClient, target: Path) -> None:
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        await client.exchange("GET", url, timeout_s=5)

    first, second = root.issue("first"), root.issue("second")
    broken = tmp_path / "broken.pem"
    broken.write_bytes(second.read_bytes()[:400])
    link.symlink_to(first)
    with capture_logs() as lines, blocking(root.context(clients=True)) as (url, served):
        async with client_of(url, network(root, ca_bundle=bundle, client_cert_file=link)) as client:
            for target in (first, broken, second, second):
                await ask(client, target)
            bundle.write_bytes(Authority(tmp_path, name="other").pem.read_bytes())
            await failing(Unsent, ask(client, second), "TLS")
    assert served == ["first", "first", "second", "second"]
    told = [line["event"] for line in lines if line["event"].startswith("tls.")]
    assert told[:2] == ["tls.rejected", "tls.replaced"]
    assert next(line for line in lines if line["event"] == "tls.rejected")["reason"].startswith("CLIENT_CERT_FILE ")


async def test_a_change_is_not_looked_for_with_every_request(root: Authority, tmp_path: Path) -> None:
    """Every some seconds is enough."""
    assert 1.0 <= tls.LOOK_EVERY_S <= 60.0
    bundle = tmp_path / "ca.pem"
    bundle.write_bytes(root.pem.read_bytes())
    held = tls.Tls(network(root, ca_bundle=bundle))
    context = held.context
    bundle.write_bytes(bundle.read_bytes() * 2)
    assert held.context is context
    held._looked_at = time.monotonic() - tls.LOOK_EVERY_S
    assert held.context is not context


# --- proxies


@contextlib.asynccontextmanager
async def proxying(answer: bytes) -> AsyncIterator[tuple[Server, str]]:
    """A proxy that answers CONNECT so; when that is a 200 it connects."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()
        if b" 200 " not in answer:
            return
        host, port = server.heads[-1].split(b" ")[1].decode().split(":")
        there, back = await asyncio.open_connection(host, int(port))
        await asyncio.gather(pipe(reader, back), pipe(there, writer))

    async def pipe(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(2**16):
                sink.write(data)
                await sink.drain()
        sink.close()

    async with serving(talk) as server:
        yield server, server.url.replace("//", "//us%40er:h%3Aush@")


async def test_proxies_of_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    async with proxying(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n") as (proxy, url), serving(OK) as server:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, url)
            monkeypatch.setenv(name.lower(), url)
        assert await get(server.url) == b"ok"
        assert "name" in await failure("https://nobody.invalid")
    assert proxy.heads == []


@pytest.mark.parametrize("status", [403, 407, 503])
async def test_the_proxy_of_the_settings_is_asked(status: int) -> None:
    """For a tunnel, with its credentials; its refusal says its status and leaks nothing. NO_PROXY goes around it."""
    async with proxying(b"HTTP/1.1 %d No hush\r\nContent-Length: 0\r\n\r\n" % status) as (proxy, url):
        proxied = NETWORK.model_copy(update={"https_proxy": SecretStr(url)})
        error = await failure("https://nobody.invalid", proxied)
        assert error == f"the proxy answered {status} to CONNECT: look at HTTPS_PROXY and NO_PROXY"
        await failure("https://nobody.invalid", proxied.model_copy(update={"no_proxy": ("invalid",)}))
    assert len(proxy.heads) == 1
    assert proxy.heads[0].startswith(b"CONNECT nobody.invalid:443 HTTP/1.1\r\n")
    assert proxy.headers(b"proxy-authorization") == [b"Basic dXNAZXI6aDp1c2g="]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"SSH-2.0-nonsense\r\n\r\n", "the answer is no HTTP/1.1: Bad status line: Expected HTTP/, RTSP/ or ICE/"),
        (b"", "it closed the connection without an answer"),
    ],
    ids=["nonsense", "nothing"],
)
async def test_a_proxy_that_does_not_speak_its_part(answer: bytes, reason: str) -> None:
    """Nothing reached the server, and it is not the server that is blamed."""

    async def end(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        writer.close()

    async with serving(end) as proxy, client_of("https://nobody.invalid", _through(proxy.url)) as client:
        with pytest.raises(Unsent) as caught:
            await client.exchange("PATCH", "https://nobody.invalid/x", content=b"{}", timeout_s=5)
    assert str(caught.value) == f"the proxy did not answer CONNECT ({reason}): look at HTTPS_PROXY and NO_PROXY"


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 100 Wait\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"])
async def test_a_proxy_that_keeps_us_waiting(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """With CONNECT, or with the TLS behind it: nothing was sent, the proxy is named, and the connection ends."""
    monkeypatch.setattr(connection, "CONNECT_TIMEOUT_S", 0.2)
    ended = asyncio.Event()

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        with contextlib.suppress(ConnectionError):
            while await reader.read(2**16):
                pass
        ended.set()

    async with serving(wait) as proxy:
        error = await failure("https://nobody.invalid", _through(proxy.url))
        async with asyncio.timeout(5):
            await ended.wait()
    assert error == "no connection through the proxy in time: look at HTTPS_PROXY and NO_PROXY"


def test_a_proxy_has_less_time_than_a_request() -> None:
    """REQUEST_TIMEOUT is 30 by default. A request that was never sent must not count as perhaps applied."""
    assert connection.CONNECT_TIMEOUT_S < 30.0


def _through(url: str) -> NetworkSettings:
    return NETWORK.model_copy(update={"https_proxy": SecretStr(url.replace("http://", "http://us%40er:h%3Aush@"))})


async def test_a_tunnel_is_used_again(root: Authority) -> None:
    """TLS goes to the server, through the proxy, once for several requests; the credentials end at the proxy."""
    async with (
        proxying(b"HTTP/1.1 200 OK\r\n\r\n") as (proxy, url),
        serving(OK, tls=root.context()) as server,
        client_of(server.url, network(root, https_proxy=SecretStr(url))) as client,
    ):
        for _ in range(3):
            assert (await client.exchange("GET", f"{server.url}/x", timeout_s=5)).content == b"ok"
    assert (proxy.connections, server.connections) == (1, 1)
    assert server.headers(b"proxy-authorization") == []


@pytest.mark.parametrize("secure", [False, True])
async def test_cancelled_twice_leaves_the_pool_usable(root: Authority, secure: bool) -> None:
    """Streams that are cancelled, and cancelled again while they close, do not use up the connections."""
    hanging, begun = True, asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf" if hanging else OK)
        await writer.drain()
        if hanging:
            await reader.read()

    async def read(client: HttpClient) -> None:
        async with client.opened(server.url) as answer:
            async for _ in answer.aiter_bytes():
                begun.set()

    async with (
        serving(hang, tls=root.context() if secure else None) as server,
        client_of(server.url, network(root), connections=2) as client,
    ):
        for turns in range(12):
            reading = asyncio.create_task(read(client))
            await begun.wait()
            begun.clear()
            reading.cancel()
            for _ in range(turns):
                await asyncio.sleep(0)
            reading.cancel()
            await failing(asyncio.CancelledError, reading)
        hanging = False
        answers = await asyncio.gather(*(client.exchange("GET", server.url, timeout_s=2) for _ in range(4)))
        assert [answer.content for answer in answers] == [b"ok"] * 4
