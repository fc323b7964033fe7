"""HTTP, the one place where a client is made: TLS, deadlines, limits, and the translation of errors.

Every client of the daemon (task API, token endpoint, model) has redirects off, takes nothing from
the environment, verifies TLS 1.2 or later, asks for uncompressed answers and refuses others (a
compressed answer can grow a thousandfold), and bounds what an answer may weigh. httpx2 has no
total deadline of its own, so every exchange stands under a ``Deadline``.
"""

import os
import re
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from http import HTTPStatus
from http.cookiejar import CookieJar, DefaultCookiePolicy
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlencode, urljoin, urlsplit

import httpx2

from ai_task_processor import __version__
from ai_task_processor.core.deadline import Deadline
from ai_task_processor.core.errors import (
    Ambiguous,
    InvalidAnswer,
    Misconfigured,
    RemoteError,
    Throttled,
    TimedOut,
    Transient,
    Unauthorized,
    Unsent,
)
from ai_task_processor.core.settings import NetworkSettings
from ai_task_processor.net.http1 import (
    CONNECT_TIMEOUT_S,
    POOL_TIMEOUT_S,
    Answer,
    Http1Transport,
    StreamedAnswer,
    origin_of,
    request_head,
)

MAX_ANSWER_BYTES = 32 * 2**20
MAX_REFUSAL_BYTES = 2**20
MAX_RETRY_AFTER_S = 900.0
#: heads of requests that are remembered
MAX_HEADS = 8

_UNSENT = (
    httpx2.ConnectError,
    httpx2.ConnectTimeout,
    httpx2.PoolTimeout,
    httpx2.ProxyError,
    httpx2.LocalProtocolError,
)
#: a URL in which nothing has to be encoded or taken away (RFC 3986 §2)
_READY = re.compile(r"[A-Za-z0-9._~:/?@!$&'()*+,;=%\[\]-]+")
_HOST = re.compile(r"[A-Za-z0-9._:-]{1,253}")
#: the settings that hold the URLs of services
_SETTINGS = {
    "the task API": "API_BASE_URL",
    "the token endpoint": "OAUTH2_TOKEN_URL",
    "the model API": "OPENAI_BASE_URL",
}
#: OSError: https://github.com/pydantic/httpx2/issues/854, a TLS alert in mid-stream comes as it is
_FOREIGN = (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, OSError)


def make_client(
    network: NetworkSettings,
    *,
    url: str,
    connections: int,
    auth: httpx2.Auth | None = None,
    max_answer_bytes: int | None = MAX_ANSWER_BYTES,
) -> httpx2.AsyncClient:
    """A client for the remote at ``url``, which decides only whether the proxy is used.

    ``connections`` bounds the pool; ``max_answer_bytes`` bounds one good answer (None: the caller
    reads a stream and stops by itself).
    """
    return RemoteClient(_transport(network, url, connections), url, auth=auth, max_answer_bytes=max_answer_bytes)


class Tokens(Protocol):
    """Where a client's bearer tokens come from."""

    async def token(self) -> "Bearer":
        """The present one. Raises ``NoToken``."""

    async def renewed(self, stale: Any) -> "Bearer":
        """Another one, after that was answered with 401."""

    def refused(self, token: Any) -> None:
        """That one was answered with 401, too."""


class Bearer(Protocol):
    """A bearer token."""

    @property
    def value(self) -> str: ...


class RemoteClient(httpx2.AsyncClient):
    """httpx2's client, and beside it a shorter way for small exchanges with the one remote at ``url``.

    Of the time that a small request takes, nine tenths go into what is never used here: redirects, cookies, hooks,
    and objects for each part of a URL.
    """

    def __init__(
        self,
        transport: httpx2.AsyncBaseTransport,
        url: str,
        *,
        auth: httpx2.Auth | None,
        max_answer_bytes: int | None,
    ) -> None:
        super().__init__(
            transport=BoundedTransport(transport, max_answer_bytes),
            auth=auth,
            timeout=httpx2.Timeout(None, connect=CONNECT_TIMEOUT_S, pool=POOL_TIMEOUT_S),
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
            headers={"User-Agent": f"ai-task-processor/{__version__}", "Accept-Encoding": "identity"},
            follow_redirects=False,
            trust_env=False,
        )
        self._tokens: Tokens | None = getattr(auth, "tokens", None)
        signable = auth is None or self._tokens is not None
        self._short = transport if isinstance(transport, Http1Transport) and signable else None
        self._max_bytes = max_answer_bytes
        remote = httpx2.URL(url)
        self._origin = origin_of(remote)
        self._prefix = f"{remote.scheme}://{remote.netloc.decode('ascii')}"
        self._host = remote.netloc
        self._heads: dict[tuple[object, ...], bytes] = {}

    async def exchange(
        self, method: str, url: str, headers: Mapping[str, str], content: bytes | None
    ) -> "Answer | httpx2.Response":
        """One request, signed, and its whole answer; a 401 renews the token once and repeats the request once."""
        if self._short is None or not self._plain(url):
            return await self.request(method, url, headers=headers, content=content)
        target = url[len(self._prefix) :].encode("ascii")
        if self._tokens is None:
            return await self._answer(self._short, self._head(method, target, headers, None, content), content)
        token = await self._tokens.token()
        answer = await self._answer(self._short, self._head(method, target, headers, token, content), content)
        if answer.status_code == HTTPStatus.UNAUTHORIZED:
            token = await self._tokens.renewed(token)
            answer = await self._answer(self._short, self._head(method, target, headers, token, content), content)
            if answer.status_code == HTTPStatus.UNAUTHORIZED:
                self._tokens.refused(token)
        return answer

    @asynccontextmanager
    async def opened(self, url: str, parameters: Mapping[str, str]) -> AsyncIterator[StreamedAnswer | httpx2.Response]:
        """A GET whose answer is read as a stream, signed and repeated as above."""
        whole = f"{url}?{urlencode(parameters)}" if parameters else url
        if self._short is None or not self._plain(whole):
            async with self.stream("GET", url, params=parameters) as response:
                yield response
            return
        target = whole[len(self._prefix) :].encode("ascii")
        token = None if self._tokens is None else await self._tokens.token()
        answer = await self._open(self._short, target, token)
        try:
            if answer.status_code == HTTPStatus.UNAUTHORIZED and self._tokens is not None:
                answer.close()
                token = await self._tokens.renewed(token)
                answer = await self._open(self._short, target, token)
                if answer.status_code == HTTPStatus.UNAUTHORIZED:
                    self._tokens.refused(token)
            if answer.is_success and answer.encoded:
                raise _encoded()
            yield answer
        finally:
            answer.close()

    async def _open(self, transport: Http1Transport, target: bytes, token: "Bearer | None") -> StreamedAnswer:
        return await transport.open(self._origin, self._head("GET", target, {}, token, None), self._limit)

    def _plain(self, url: str) -> bool:
        """Can this request go the shorter way?"""
        ours = url.startswith(self._prefix + "/") and _READY.fullmatch(url) is not None
        return ours and not any(self.event_hooks.values())

    def _head(
        self, method: str, target: bytes, headers: Mapping[str, str], token: "Bearer | None", content: bytes | None
    ) -> bytes:
        """The head of a request. All but the target and the length stays the same until the token changes."""
        key = (method, None if token is None else token.value, *headers.items())
        rest = self._heads.get(key)
        if rest is None:
            own = [(name.encode("ascii"), value.encode("ascii")) for name, value in headers.items()]
            replaced = {name.lower() for name, _ in own}
            usual = [(b"Host", self._host), *((k, v) for k, v in self.headers.raw if k.lower() not in replaced), *own]
            if token is not None:
                usual.append((b"Authorization", b"Bearer " + token.value.encode("ascii")))
            # What follows the target, without the empty line at the end.
            rest = request_head(method, b"", usual)[len(method) + 1 : -2]
            self._heads = {**(self._heads if len(self._heads) < MAX_HEADS else {}), key: rest}
        length = b"" if content is None else b"Content-Length: %d\r\n" % len(content)
        return b"%s %s%s%s\r\n" % (method.encode("ascii"), target, rest, length)

    async def _answer(self, transport: Http1Transport, head: bytes, content: bytes | None) -> "Answer":
        answer = await transport.exchange(self._origin, head, content or b"", self._limit)
        if answer.is_success and answer.encoded and not _bodiless(answer):
            raise _encoded()
        return answer

    def _limit(self, status: int) -> int:
        return (self._max_bytes or sys.maxsize) if 200 <= status < 300 else MAX_REFUSAL_BYTES


def _bodiless(answer: Answer | httpx2.Response) -> bool:
    """Does the head say that no body follows? Then nothing is compressed, whatever a proxy writes."""
    empty = answer.status_code in (HTTPStatus.NO_CONTENT, HTTPStatus.RESET_CONTENT)
    return empty or answer.headers.get("content-length", "").strip() == "0"


def _encoded() -> InvalidAnswer:
    return InvalidAnswer("the answer is compressed although we asked for it not to be")


def _transport(network: NetworkSettings, url: str, connections: int) -> httpx2.AsyncBaseTransport:
    """Ours, or httpx2's own when there is a proxy in between."""
    # The authorities take three megabytes: not for a remote in plain http.
    context = tls_context(network.ca_bundle) if urlsplit(url).scheme == "https" else None
    proxy = _proxy(network, url, context)
    if proxy is None or context is None:
        return Http1Transport(context, connections=connections)
    limits = httpx2.Limits(max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=30)
    return httpx2.AsyncHTTPTransport(verify=context, limits=limits, proxy=proxy, trust_env=False)


@lru_cache(maxsize=2)
def tls_context(ca_bundle: Path | None) -> ssl.SSLContext:
    """TLS 1.2 or later, verified against the system's authorities and ``CA_BUNDLE``.

    Shared by all clients: reading the authorities takes tens of milliseconds and megabytes.
    """
    context = httpx2.create_ssl_context(trust_env=False)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca_bundle is not None:
        context.load_verify_locations(cafile=str(ca_bundle))
    return context


def _proxy(network: NetworkSettings, url: str, context: ssl.SSLContext | None) -> httpx2.Proxy | None:
    target = urlsplit(url)
    if network.https_proxy is None or target.scheme != "https" or bypassed(target.netloc, network.no_proxy):
        return None
    proxy = network.https_proxy.get_secret_value()
    return httpx2.Proxy(proxy, ssl_context=context if urlsplit(proxy).scheme == "https" else None)


def bypassed(netloc: str, no_proxy: Sequence[str]) -> bool:
    """The usual reading of ``NO_PROXY``: names with their subdomains, addresses, networks, ``*``; all with a port or
    without, with a final dot or without, in Unicode or as in DNS.
    """
    host, port = _host_and_port(netloc)
    for entry in no_proxy:
        name, only_port = _host_and_port(entry)
        if only_port not in (None, port or 443):
            continue
        if entry == "*" or (name and f".{host}".endswith(f".{name}")) or _is_in_network(host, name):
            return True
    return False


def _host_and_port(text: str) -> tuple[str, int | None]:
    """``[::1]:8443``, ``.example.com:8443``, ``10.0.0.0/8``; an empty host when it is none of these."""
    if _is_network(text):
        return text, None
    try:
        parts = urlsplit(f"//{text}")
        host, port = (parts.hostname or "").lstrip("*.").rstrip("."), parts.port
        return host.encode("idna").decode(), port
    except ValueError:
        return "", None


def _is_network(text: str) -> bool:
    try:
        ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def _is_in_network(host: str, network: str) -> bool:
    try:
        return ip_address(host) in ip_network(network, strict=False)
    except ValueError:
        return False


class BoundedTransport(httpx2.AsyncBaseTransport):
    """Refuses encoded answers and cuts off those that weigh more than ``max_bytes``."""

    def __init__(self, inner: httpx2.AsyncBaseTransport, max_bytes: int | None) -> None:
        self._inner = inner
        self._max_bytes = max_bytes

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await self._inner.handle_async_request(request)
        encoding = response.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("", "identity") and not _bodiless(response):
            await response.aclose()
            if response.is_success:
                raise _encoded()
            # A refusal says enough by its status and headers.
            del response.headers["content-encoding"]
            return httpx2.Response(response.status_code, headers=response.headers)
        max_bytes = self._max_bytes if response.is_success else MAX_REFUSAL_BYTES
        if max_bytes is not None:
            response.stream = _BoundedStream(response.stream, max_bytes)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


class _BoundedStream(httpx2.AsyncByteStream):
    def __init__(self, inner: object, max_bytes: int) -> None:
        assert isinstance(inner, httpx2.AsyncByteStream)  # noqa: S101 - an async transport answers nothing else
        self._inner = inner
        self._left = max_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._inner:
            self._left -= len(chunk)
            if self._left < 0:
                raise InvalidAnswer("the answer is larger than we accept")
            yield chunk

    async def aclose(self) -> None:
        await self._inner.aclose()


@asynccontextmanager
async def deadline(timeout_s: float) -> AsyncIterator[None]:
    """A total deadline for one exchange; every foreign error inside becomes a ``RemoteError``."""
    try:
        with Deadline(timeout_s):
            yield
    except _FOREIGN as error:
        raise _remote_error(error, timeout_s) from error


async def exchange(
    client: httpx2.AsyncClient,
    method: str,
    url: str,
    *,
    timeout_s: float,
    headers: Mapping[str, str] | None = None,
    content: bytes | None = None,
) -> Answer | httpx2.Response:
    """One request and its whole answer, whatever its status. Raises ``RemoteError``."""
    try:
        with Deadline(timeout_s):
            if isinstance(client, RemoteClient):
                return await client.exchange(method, url, headers or {}, content)
            return await client.request(method, url, headers=headers, content=content)
    except _FOREIGN as error:
        raise _remote_error(error, timeout_s) from error


def stream(
    client: httpx2.AsyncClient, url: str, parameters: Mapping[str, str]
) -> AbstractAsyncContextManager[StreamedAnswer | httpx2.Response]:
    """A GET whose answer is read as it comes, whatever its status. To be called under a ``deadline``."""
    if isinstance(client, RemoteClient):
        return client.opened(url, parameters)
    return client.stream("GET", url, params=parameters)


def _remote_error(error: BaseException, timeout_s: float) -> RemoteError:
    if isinstance(error, TimeoutError):
        return TimedOut(f"no answer within {timeout_s:g} s")
    return translate(error)


def translate(error: BaseException) -> RemoteError:
    """Whose fault an HTTP client's error is: not sent, or perhaps applied."""
    if isinstance(error, RemoteError):
        return error
    text = describe(error)
    if isinstance(error, httpx2.InvalidURL | httpx2.UnsupportedProtocol):
        return Misconfigured(text)
    if isinstance(error, httpx2.DecodingError):
        return InvalidAnswer(text)
    return Unsent(text) if isinstance(error, _UNSENT) else Ambiguous(text)


def describe(error: BaseException) -> str:
    """The cause in the words of the operating system or of OpenSSL: never a URL or content."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLError):
            told = getattr(cause, "verify_message", "") or getattr(cause, "reason", "")
            return f"TLS: {told or 'handshake failed'}"
        if isinstance(cause, socket.gaierror):
            return (cause.strerror or "name resolution failed").lower()
        if isinstance(cause, OSError) and cause.errno:
            return os.strerror(cause.errno).lower()  # asyncio puts the address into its own text
    return type(error).__name__


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what led to it; of several attempts (one for each address of a host) the first."""
    while error is not None:
        yield error
        group = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else None
        error = group or error.__cause__ or error.__context__


def status_error(response: Answer | httpx2.Response, service: str, *, url: str = "", setting: str = "") -> RemoteError:
    """Whose fault a refusing status is, when nothing in the body says that it is about one task.

    ``url``: what was asked (known for a ``Response``); ``setting``: what holds it (known for the usual services).
    """
    status = response.status_code
    text = f"{service} answered {status}"
    # A date is read by the clock that wrote it: ours may be wrong.
    now = _date(response.headers.get("date", "")) or datetime.now(UTC)
    wish = retry_after_s(response.headers.get("retry-after"), now)
    if status == HTTPStatus.TOO_MANY_REQUESTS or (status == HTTPStatus.SERVICE_UNAVAILABLE and wish is not None):
        return Throttled(text, status=status, retry_after_s=wish)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY):
        return Transient(text, status=status)
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return Unauthorized(text, status=status)
    if 300 <= status < 400:
        asked, setting = url or _asked(response), setting or _SETTINGS.get(service, "its URL")
        return Misconfigured(
            f"{text}, {_redirection(asked, response.headers.get('location', ''), setting)}", status=status
        )
    return Misconfigured(text, status=status)


def _asked(response: Answer | httpx2.Response) -> str:
    """The URL of a response's request; empty for an answer that knows none."""
    try:
        return str(response.request.url)  # type: ignore[union-attr]  # an AttributeError is caught
    except (AttributeError, RuntimeError):
        return ""


def _redirection(asked: str, location: str, setting: str) -> str:
    """Where a redirect points, by scheme and host only, and what to change."""
    try:
        old = urlsplit(asked)
        new = urlsplit(urljoin(asked, location.strip()))
        host = new.hostname or ""
        place = f"{new.scheme}://{f'[{host}]' if ':' in host else host}" + (f":{new.port}" if new.port else "")
    except ValueError:
        return f"a redirect that cannot be read: correct {setting}"
    if not location.strip() or new.scheme not in ("http", "https") or not _HOST.fullmatch(host):
        return f"a redirect to nowhere: correct {setting}"
    if host != old.hostname:
        return f"a redirect to {place}: correct {setting}"
    if new.scheme == "https" and old.scheme != "https":
        return f"a redirect to {place}: use https in {setting}"
    return f"a redirect to another path or port of {place}: correct {setting}"


def retry_after_s(value: str | None, now: datetime) -> float | None:
    """Seconds out of a Retry-After header (RFC 9110 §10.2.3: seconds or a date); None for garbage, at most 900."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        when = _date(value)
        if when is None:
            return None
        seconds = max((when - now).total_seconds(), 0.0)
    return min(seconds, MAX_RETRY_AFTER_S) if 0.0 <= seconds < float("inf") else None


def _date(text: str) -> datetime | None:
    try:
        when = parsedate_to_datetime(text)
        return when.astimezone(UTC) if when.tzinfo else when.replace(tzinfo=UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
