"""Clients, error translation and Retry-After, without a socket."""

import asyncio
import gzip
import ssl
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest
import respx
from ai_task_processor.net.http1 import Answer
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from ai_task_processor.core.errors import (
    Ambiguous,
    CircuitOpen,
    InvalidAnswer,
    Misconfigured,
    RemoteError,
    Throttled,
    Transient,
    Unauthorized,
    Unsent,
)
from ai_task_processor.core.settings import NetworkSettings
from ai_task_processor.net.client import (
    MAX_REFUSAL_BYTES,
    BoundedTransport,
    bypassed,
    deadline,
    describe,
    exchange,
    make_client,
    retry_after_s,
    status_error,
    tls_context,
    translate,
)

URL = "https://api.example.com/x"
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
NETWORK = NetworkSettings.model_validate({})
Handler = Callable[[httpx2.Request], httpx2.Response]


def client_of(handler: Handler, max_bytes: int | None = 1000) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=BoundedTransport(httpx2.MockTransport(handler), max_bytes))


async def answer_of(response: httpx2.Response, max_bytes: int | None = 1000) -> Answer | httpx2.Response:
    async with client_of(lambda _: response, max_bytes) as client:
        return await exchange(client, "GET", URL, timeout_s=5)


async def test_a_client_follows_no_redirect_and_keeps_no_cookie(httpx2_mock: respx.Router) -> None:
    """A redirect is an answer like any other, and what a server wants remembered is forgotten."""
    route = httpx2_mock.get(URL).respond(
        302, headers={"Location": "https://elsewhere.example.com/", "Set-Cookie": "session=1; Path=/"}
    )
    async with make_client(NETWORK, url=URL, connections=1) as client:
        assert (await exchange(client, "GET", URL, timeout_s=5)).status_code == 302
        assert (await exchange(client, "GET", URL, timeout_s=5)).status_code == 302
    assert route.call_count == 2
    request = route.calls.last.request
    assert "cookie" not in request.headers
    assert request.headers["accept-encoding"] == "identity"
    assert request.headers["user-agent"].startswith("ai-task-processor/")


def test_tls_is_verified_and_modern(monkeypatch: pytest.MonkeyPatch) -> None:
    """TLS 1.2 or later, names and chains checked, and SSL_CERT_FILE of the environment changes nothing."""
    tls_context.cache_clear()
    authorities = tls_context(None).cert_store_stats()
    monkeypatch.setenv("SSL_CERT_FILE", "/dev/null")
    monkeypatch.setenv("SSL_CERT_DIR", "/nowhere")
    tls_context.cache_clear()
    context = tls_context(None)
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.cert_store_stats() == authorities


async def test_clients_share_one_tls_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """The authorities are read once for all clients of a process."""
    made = []
    original = httpx2.create_ssl_context
    monkeypatch.setattr(httpx2, "create_ssl_context", lambda **how: made.append(how) or original(**how))  # type: ignore[func-returns-value]  # append, then the context
    tls_context.cache_clear()
    for _ in range(4):
        await make_client(NETWORK, url=URL, connections=1).aclose()
    assert made == [{"trust_env": False}]


@pytest.mark.parametrize(
    ("netloc", "entries", "expected"),
    [
        ("api.example.com", ["example.com"], True),
        ("api.example.com", [".example.com"], True),
        ("api.example.com", ["*.example.com"], True),
        ("api.example.com", ["Example.COM"], True),
        ("badexample.com", ["example.com"], False),
        ("example.com.evil.org", ["example.com"], False),
        ("api.example.com:8443", ["api.example.com"], True),
        ("api.example.com:8443", ["api.example.com:8443"], True),
        ("api.example.com:8443", ["api.example.com:9"], False),
        ("10.1.2.3", ["10.0.0.0/8"], True),
        ("11.1.2.3", ["10.0.0.0/8"], False),
        ("10.1.2.3:443", ["10.1.2.3"], True),
        ("[::1]:8443", ["::1"], True),
        ("[fd00::1]", ["fd00::/8"], True),
        ("anything.org", ["*"], True),
        ("anything.org", ["."], False),
        ("anything.org", [], False),
        ("a.org", ["b.org", "a.org"], True),
        ("[::1]:8443", ["[::1]"], True),
        ("[::1]:8443", ["[::1]:8443"], True),
        ("[::1]:8443", ["[::1]:9"], False),
        ("[::2]", ["[::1]"], False),
        ("api.example.com:8443", [".example.com:8443"], True),
        ("api.example.com:8443", ["*.example.com:9"], False),
        ("api.example.com", [".example.com:443"], True),
        ("api.example.com.", ["example.com"], True),
        ("api.example.com", ["example.com."], True),
        ("b\u00fccher.example", ["xn--bcher-kva.example"], True),
        ("xn--bcher-kva.example", ["B\u00dcCHER.example"], True),
        ("a.org", ["a.org:port", "[", "x" * 70 + ".org"], False),
    ],
)
def test_no_proxy(netloc: str, entries: list[str], expected: bool) -> None:
    """Names with their subdomains, ports, addresses, networks and the star, as everybody reads them."""
    assert bypassed(netloc, entries) is expected


@pytest.mark.parametrize(
    ("url", "no_proxy", "proxied"),
    [(URL, (), True), (URL, ("example.com",), False), ("http://api.example.com/x", (), False)],
)
async def test_the_proxy_is_for_https_and_for_whom_it_is_not_excluded(
    monkeypatch: pytest.MonkeyPatch, url: str, no_proxy: tuple[str, ...], proxied: bool
) -> None:
    """Only a setting of ours names a proxy; HTTP_PROXY and ALL_PROXY of the environment name none."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://environment.example.com:1")
    seen: list[Any] = []
    original = httpx2.AsyncHTTPTransport
    monkeypatch.setattr(httpx2, "AsyncHTTPTransport", lambda **how: seen.append(how) or original(**how))  # type: ignore[func-returns-value]  # append, then the transport
    network = NETWORK.model_copy(
        update={"https_proxy": SecretStr("https://user:pw@proxy.example.com:3128"), "no_proxy": no_proxy}
    )
    async with make_client(network, url=url, connections=1) as client:
        assert client.trust_env is False
    assert len(seen) == proxied
    for how in seen:
        assert how["trust_env"] is False
        assert how["proxy"].url.host == "proxy.example.com"
        assert how["proxy"].ssl_context is tls_context(None)


@pytest.mark.parametrize("encoding", ["gzip", "gzip, gzip", "br", "zstd", "x-unknown", "GZIP"])
async def test_a_compressed_answer_is_refused_unread(encoding: str) -> None:
    """1 GB of zeros in a megabyte, stacked or not, is not unpacked."""
    bomb = gzip.compress(gzip.compress(bytes(10**6)))
    read = []

    async def body() -> AsyncIterator[bytes]:
        read.append(1)
        yield bomb

    response = httpx2.Response(200, headers={"Content-Encoding": encoding}, content=body())
    with pytest.raises(InvalidAnswer):
        await answer_of(response)
    assert read == []


async def test_a_compressed_refusal_keeps_its_meaning() -> None:
    """A proxy that compresses its 429 page still holds us for as long as it says."""

    async def page() -> AsyncIterator[bytes]:
        yield gzip.compress(b"slow down")

    headers = {"Content-Encoding": "gzip", "Retry-After": "7"}
    answer = await answer_of(httpx2.Response(429, headers=headers, content=page()))
    error = status_error(answer, "the task API")
    assert isinstance(error, Throttled)
    assert (error.retry_after_s, answer.content) == (7.0, b"")


@pytest.mark.parametrize("encoding", ["identity", "Identity", ""])
async def test_an_uncompressed_answer_may_say_so(encoding: str) -> None:
    """``identity`` is no compression."""
    answer = await answer_of(httpx2.Response(200, headers={"Content-Encoding": encoding}, content=b"x"))
    assert answer.content == b"x"


@pytest.mark.parametrize(
    ("status", "size", "limit", "accepted"),
    [
        (200, 1000, 1000, True),
        (200, 1001, 1000, False),
        (200, MAX_REFUSAL_BYTES + 1, None, True),
        (500, MAX_REFUSAL_BYTES, None, True),
        (500, MAX_REFUSAL_BYTES + 1, None, False),
        (302, MAX_REFUSAL_BYTES + 1, None, False),
    ],
)
async def test_answers_are_bounded(status: int, size: int, limit: int | None, accepted: bool) -> None:
    """A good answer by the caller's limit, a refusal by ours."""

    async def body() -> AsyncIterator[bytes]:
        for start in range(0, size, 1000):
            yield bytes(min(1000, size - start))

    response = httpx2.Response(status, content=body())
    if accepted:
        assert len((await answer_of(response, limit)).content) == size
    else:
        with pytest.raises(InvalidAnswer):
            await answer_of(response, limit)


def raised_from(error: Exception, cause: BaseException | None) -> Exception:
    error.__cause__ = cause
    return error


REFUSED = ConnectionRefusedError(111, "Connect call failed ('10.0.0.7', 443)")


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (raised_from(httpx2.ConnectError("x"), REFUSED), Unsent, "connection refused"),
        (raised_from(httpx2.ConnectError("x"), ExceptionGroup("x", [REFUSED, REFUSED])), Unsent, "connection refused"),
        (httpx2.ConnectTimeout("x"), Unsent, "ConnectTimeout"),
        (httpx2.PoolTimeout("x"), Unsent, "PoolTimeout"),
        (httpx2.ProxyError("407 https://user:pw@proxy/"), Unsent, "ProxyError"),
        (httpx2.LocalProtocolError("Illegal header value b'Bearer sk-secret'"), Unsent, "LocalProtocolError"),
        (raised_from(httpx2.ReadError("x"), ConnectionResetError(104, "x")), Ambiguous, "connection reset by peer"),
        (httpx2.WriteError("x"), Ambiguous, "WriteError"),
        (httpx2.RemoteProtocolError("peer closed connection"), Ambiguous, "RemoteProtocolError"),
        (ssl.SSLError(1, "[SSL: TLSV13_ALERT] x"), Ambiguous, "TLS: handshake failed"),
        (httpx2.DecodingError("x"), InvalidAnswer, "DecodingError"),
        (httpx2.UnsupportedProtocol("ftp://user:pw@host"), Misconfigured, "UnsupportedProtocol"),
        (CircuitOpen("held"), CircuitOpen, "held"),
    ],
)
async def test_errors_are_translated(error: Exception, kind: type[RemoteError], text: str) -> None:
    """Each foreign error becomes the one that says what was sent, in words without address, URL or secret."""

    def handler(_: httpx2.Request) -> httpx2.Response:
        raise error

    async with client_of(handler) as client:
        with pytest.raises(RemoteError) as raised:
            await exchange(client, "GET", "https://user:pw@api.example.com/x?key=sk-secret", timeout_s=5)
    assert type(raised.value) is kind
    assert str(raised.value) == text


@pytest.mark.parametrize("kind", [httpx2.ConnectError, httpx2.ReadError, httpx2.InvalidURL, ValueError])
def test_a_description_quotes_no_message(kind: type[Exception]) -> None:
    """What libraries write into their errors (URLs, header values) is never repeated."""
    error = kind("https://user:pw@host/?key=sk-secret")
    assert describe(error) == kind.__name__
    assert "secret" not in str(translate(error))


async def test_the_deadline_is_total() -> None:
    """However lively the answer drips, the exchange ends with the deadline, and it may have been applied."""

    async def drip() -> AsyncIterator[bytes]:
        while True:
            yield b"x"
            await asyncio.sleep(0)

    with pytest.raises(Ambiguous, match=r"no answer within 0\.01 s"):
        async with client_of(lambda _: httpx2.Response(200, content=drip()), None) as client:
            await exchange(client, "GET", URL, timeout_s=0.01)


async def test_a_deadline_lets_cancellation_and_bugs_through() -> None:
    """A cancelled call stays cancelled, and a bug is not blamed on the remote."""
    for ending in (asyncio.CancelledError(), ZeroDivisionError(), Transient("503")):
        with pytest.raises(type(ending)):
            async with deadline(5):
                raise ending


@pytest.mark.parametrize(
    ("status", "headers", "kind"),
    [
        (429, {}, Throttled),
        (429, {"Retry-After": "5"}, Throttled),
        (503, {"Retry-After": "5"}, Throttled),
        (503, {"Retry-After": "soon"}, Transient),
        (503, {}, Transient),
        (500, {"Retry-After": "5"}, Transient),
        (502, {}, Transient),
        (408, {}, Transient),
        (425, {}, Transient),
        (401, {}, Unauthorized),
        (403, {}, Unauthorized),
        (404, {}, Misconfigured),
        (400, {}, Misconfigured),
        (302, {}, Misconfigured),
        (418, {}, Misconfigured),
    ],
)
def test_the_status_says_whose_fault_it_is(status: int, headers: dict[str, str], kind: type[RemoteError]) -> None:
    """Every status has one class; only those that may ask for patience carry it."""
    error = status_error(httpx2.Response(status, headers=headers), "the task API")
    assert type(error) is kind
    assert error.status == status
    assert error.retry_after_s == (5.0 if kind is Throttled and headers else None)


def test_a_date_is_read_by_the_clock_that_wrote_it() -> None:
    """A Retry-After date is compared with the answer's own Date: our clock may be hours off."""
    theirs = datetime.now(UTC) - timedelta(hours=5)
    headers = {"Date": format_datetime(theirs), "Retry-After": format_datetime(theirs + timedelta(seconds=20))}
    assert status_error(httpx2.Response(429, headers=headers), "x").retry_after_s == 20


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("0", 0.0),
        ("120", 120.0),
        (" 2.5 ", 2.5),
        ("86400", 900.0),
        ("-1", None),
        ("nan", None),
        ("inf", None),
        ("1e999", None),
        ("9" * 5000, None),
        ("soon", None),
        ("", None),
        ("Sun, 22 Nov 2026 12:00:30 GMT", 30.0),
        ("Sun, 22 Nov 2026 12:00:30", 30.0),
        ("Sun, 22 Nov 2026 14:00:30 +0200", 30.0),
        ("Sun, 22 Nov 2026 11:00:00 GMT", 0.0),
        ("Mon, 22 Nov 2027 12:00:00 GMT", 900.0),
        ("Mon, 22 Nov 99999 12:00:00 GMT", None),
        ("Fri, 31 Dec 9999 23:59:59 -2359", None),
    ],
)
def test_retry_after(value: str | None, expected: float | None) -> None:
    """Seconds or a date, at most 15 minutes; a date in the past is now, garbage is no wish."""
    assert retry_after_s(value, NOW) == expected


@given(st.text() | st.from_regex(r"\w{3}, \d+ \w{3} \d+ \d+:\d+:\d+ ([A-Z]+|[+-]\d+)"))
def test_no_retry_after_raises(text: str) -> None:
    """Whatever stands in the header, the wish is None or between 0 and 900 seconds."""
    seconds = retry_after_s(text, NOW)
    assert seconds is None or 0.0 <= seconds <= 900.0


def test_a_bundle_is_added_to_the_systems_authorities(tmp_path: Path) -> None:
    """CA_BUNDLE trusts more, not instead: a private task API and OpenAI work side by side."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "private authority")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, NOW, NOW + timedelta(days=1))
    authority = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    (tmp_path / "ca.pem").write_bytes(authority.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    count = tls_context(None).cert_store_stats()["x509_ca"]
    assert tls_context(tmp_path / "ca.pem").cert_store_stats()["x509_ca"] == count + 1


@pytest.mark.parametrize(
    ("asked", "location", "told"),
    [
        ("http://api.test/a", "https://api.test/a", "a redirect to https://api.test: use https in API_BASE_URL"),
        ("http://api.test:80/a", "https://API.test:443/a",
         "a redirect to https://api.test:443: use https in API_BASE_URL"),
        ("http://api.test/a", "//api.test/b",
         "a redirect to another path or port of http://api.test: correct API_BASE_URL"),
        ("http://api.test/a", "/a/", "a redirect to another path or port of http://api.test: correct API_BASE_URL"),
        ("https://api.test/a", "http://api.test/a",
         "a redirect to another path or port of http://api.test: correct API_BASE_URL"),
        ("http://api.test/a", "https://u:p@login.test:8443/x?token=y#z",
         "a redirect to https://login.test:8443: correct API_BASE_URL"),
        ("http://[::1]/a", "https://[::1]/a", "a redirect to https://[::1]: use https in API_BASE_URL"),
        ("http://api.test/a", "", "a redirect to nowhere: correct API_BASE_URL"),
        ("http://api.test/a", "javascript:alert(1)", "a redirect to nowhere: correct API_BASE_URL"),
        ("http://api.test/a", "https://a b\x7f/", "a redirect to nowhere: correct API_BASE_URL"),
        ("http://api.test/a", "https://[half", "a redirect that cannot be read: correct API_BASE_URL"),
        ("http://api.test/a", "https://api.test:99999/", "a redirect that cannot be read: correct API_BASE_URL"),
        ("", "https://api.test/a", "a redirect to https://api.test: correct API_BASE_URL"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_says_where_it_points_and_what_to_change(status: int, asked: str, location: str, told: str) -> None:
    """Scheme and host only: a path may hold a token, and nothing of it is followed."""
    request = httpx2.Request("GET", asked) if asked else None
    for answer, url in (
        (httpx2.Response(status, headers={"Location": location}, request=request), ""),
        (Answer(status, [(b"Location", location.encode())]), asked),
    ):
        error = status_error(answer, "the task API", url=url)
        assert type(error) is Misconfigured
        assert str(error) == f"the task API answered {status}, {told}"
