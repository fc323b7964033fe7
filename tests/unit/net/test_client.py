"""The client without a socket: what it asks for, and what it accepts."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Mapping

import httpx2
import pytest
from pydantic import SecretStr

from ai_task_processor.core import errors
from ai_task_processor.core.settings import NetworkSettings
from ai_task_processor.net import client as module
from ai_task_processor.net.answers import Answer, status_error
from ai_task_processor.net.client import MAX_REFUSAL_BYTES, deadline, make_client
from ai_task_processor.net.proxy import bypassed
from tests.mock_http import mock_client

URL = "https://api.example.com/x"
NETWORK = NetworkSettings.model_validate({})


async def answer_of(response: httpx2.Response, max_bytes: int | None = 1000) -> Answer:
    return await mock_client(lambda _: response, URL, max_answer_bytes=max_bytes).exchange("GET", URL, timeout_s=5)


@pytest.mark.parametrize("url", ["https://elsewhere.example.com/x", "http://api.example.com/x", "/x", ""])
async def test_a_client_is_for_one_server(url: str) -> None:
    """Our bearer goes to no other, whoever made the URL."""
    client = mock_client(lambda _: httpx2.Response(200), URL)
    with pytest.raises(errors.Misconfigured):
        await client.exchange("GET", url, timeout_s=5)


#: for each server, values of NO_PROXY: those that name it, and those that do not
NO_PROXY = {
    "api.example.com": (
        ["example.com", ".example.com", "*.example.com", "Example.COM", ".example.com:443", "example.com."], []),
    "api.example.com:8443": (
        ["api.example.com", "api.example.com:8443", ".example.com:8443"], ["api.example.com:9", "*.example.com:9"]),
    "api.example.com.": (["example.com"], []),
    "badexample.com": ([], ["example.com"]),
    "example.com.evil.org": ([], ["example.com"]),
    "10.1.2.3": (["10.0.0.0/8"], []),
    "10.1.2.3:443": (["10.1.2.3"], []),
    "11.1.2.3": ([], ["10.0.0.0/8"]),
    "[::1]:8443": (["::1", "[::1]", "[::1]:8443"], ["[::1]:9"]),
    "[::2]": ([], ["[::1]"]),
    "[fd00::1]": (["fd00::/8"], []),
    "anything.org": (["*"], [".", ""]),
    "a.org": (["b.org,a.org"], ["a.org:port,[," + "x" * 70 + ".org"]),
    "b\u00fccher.example": (["xn--bcher-kva.example"], []),
    "xn--bcher-kva.example": (["B\u00dcCHER.example"], []),
    # IDNA 2008, as in URLs; the codec of the standard library makes "ss" of it
    "xn--strae-oqa.de": (["stra\u00dfe.de"], ["strasse.de"]),
    "stra\u00dfe.de": (["STRA\u00dfE.de", "xn--strae-oqa.de"], ["strasse.de", "\u00ad.de"]),
    "c.org:8443": (["https://c.org", "https://c.org:8443/x"], ["https://c.org:443", "https://d.org", "https://"]),
}  # fmt: skip


@pytest.mark.parametrize(
    ("netloc", "value", "expected"),
    [
        (netloc, value, values is named)
        for netloc, (named, others) in NO_PROXY.items()
        for values in (named, others)
        for value in values
    ],
)
def test_no_proxy(netloc: str, value: str, expected: bool) -> None:
    """Names with their subdomains, ports, addresses, networks and the star, as everybody reads them."""
    assert bypassed(netloc, value.split(",") if value else []) is expected


@pytest.mark.parametrize(
    ("url", "no_proxy", "proxied"),
    [(URL, (), True), (URL, ("example.com",), False), ("http://api.example.com/x", (), False)],
)
def test_the_proxy_is_for_https_and_for_whom_it_is_not_excluded(
    monkeypatch: pytest.MonkeyPatch, url: str, no_proxy: tuple[str, ...], proxied: bool
) -> None:
    """Its credentials are in the header alone."""
    seen: list[tuple[str, Mapping[str, str]] | None] = []
    monkeypatch.setattr(module, "Pool", lambda *how: seen.append(how[2]))
    proxy = SecretStr("https://us%40er:p%3Aw@proxy.example.com:3128")
    make_client(NETWORK.model_copy(update={"https_proxy": proxy, "no_proxy": no_proxy}), url=url, connections=1)
    header = {"Proxy-Authorization": "Basic dXNAZXI6cDp3"}
    assert seen == [("https://proxy.example.com:3128", header) if proxied else None]


@pytest.mark.parametrize("encoding", ["gzip", "gzip, gzip", "br", "zstd", "x-unknown", "GZIP"])
async def test_a_compressed_answer_is_refused_unread(encoding: str) -> None:
    """1 GB of zeros in a megabyte, stacked or not, is not unpacked."""
    bomb = gzip.compress(gzip.compress(bytes(10**6)))
    read = []

    async def body() -> AsyncIterator[bytes]:
        read.append(1)
        yield bomb

    response = httpx2.Response(200, headers={"Content-Encoding": encoding}, content=body())
    with pytest.raises(errors.InvalidAnswer):
        await answer_of(response)
    assert read == []


async def test_a_compressed_refusal_keeps_its_meaning() -> None:
    """A proxy that compresses its 429 page still holds us for as long as it says."""
    headers = {"Content-Encoding": "gzip", "Retry-After": "7"}

    async def page() -> AsyncIterator[bytes]:
        yield gzip.compress(b"slow down")

    answer = await answer_of(httpx2.Response(429, headers=headers, content=page()))
    error = status_error(answer, "the task API")
    assert isinstance(error, errors.Throttled)
    assert (error.retry_after_s, answer.content) == (7.0, b"")
    client = mock_client(lambda _: httpx2.Response(429, headers=headers, content=page()), URL).over_httpx2()
    assert (await client.get(URL)).content == b""


@pytest.mark.parametrize(
    ("status", "encoding", "length"),
    [(200, "identity", None), (200, "Identity", None), (200, "", None), (204, "gzip", None), (200, "gzip", "0")],
)
async def test_what_is_not_compressed_may_say_anything(status: int, encoding: str, length: str | None) -> None:
    """``identity`` is no compression, and nothing cannot be compressed."""
    headers = {"Content-Encoding": encoding} | ({"Content-Length": length} if length else {})
    assert (await answer_of(httpx2.Response(status, headers=headers))).content == b""


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
        with pytest.raises(errors.InvalidAnswer):
            await answer_of(response, limit)


async def test_the_deadline_is_total() -> None:
    """However lively the answer drips, the exchange ends with the deadline, and it may have been applied."""

    async def drip() -> AsyncIterator[bytes]:
        while True:
            yield b"x"
            await asyncio.sleep(0)

    client = mock_client(lambda _: httpx2.Response(200, content=drip()), URL, max_answer_bytes=None)
    with pytest.raises(errors.TimedOut, match=r"no answer within 0\.01 s"):
        await client.exchange("GET", URL, timeout_s=0.01)


async def test_a_deadline_lets_cancellation_and_bugs_through() -> None:
    for ending in (asyncio.CancelledError(), ZeroDivisionError(), errors.Transient("503")):
        with pytest.raises(type(ending)):
            async with deadline(5):
                raise ending
