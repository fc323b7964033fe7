"""The translation of aiohttp's errors: whose fault they are, in words that show nothing."""

import ssl
from typing import Any

import aiohttp
import pytest
import yarl
from aiohttp.client_reqrep import ConnectionKey

from ai_task_processor.core import errors
from ai_task_processor.net.transport_errors import describe, translate


def caused(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


KEY: Any = ConnectionKey("host", 443, True, True, None, None, None)
INFO = aiohttp.RequestInfo(yarl.URL("https://user:pw@host/?key=sk-secret"), "GET", {}, yarl.URL("https://host"))  # type: ignore[arg-type]
REFUSED = ConnectionRefusedError(111, "Connect call failed ('10.0.0.7', 443)")
ALERT = ssl.SSLError(1, "[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] tlsv13 alert certificate required")
ALERT.reason = "TLSV13_ALERT_CERTIFICATE_REQUIRED"


UNPARSED = {
    "Content-Length can't be present with Transfer-Encoding:\n\n  b'hush'\n   ^":
        "Content-Length can't be present with Transfer-Encoding",
    "Bad status line:\n  Expected HTTP/:\n\n  b'hush'": "Bad status line: Expected HTTP/",
    "Bad status line 'hush 1'": "Bad status line",
    "Got more than 5 bytes when reading: b'hush 1'.": "Got more than 5 bytes when reading",
    "Duplicate 'Content-Length' header found.": "Duplicate 'Content-Length' header found",
}  # fmt: skip


def unparsed(message: str) -> aiohttp.ClientResponseError:
    return aiohttp.ClientResponseError(INFO, (), status=400, message=message)


def unconnected(error: OSError, cause: BaseException) -> Exception:
    return caused(aiohttp.ClientConnectorError(KEY, error), cause)


TRANSLATED: dict[type[errors.RemoteError], list[tuple[Exception, str]]] = {
    errors.Unsent: [
        (unconnected(REFUSED, REFUSED), "connection refused"),
        (unconnected(REFUSED, ExceptionGroup("x", [REFUSED, REFUSED])), "connection refused"),
        (unconnected(OSError(), ConnectionAbortedError()), "TLS: handshake failed"),
        (aiohttp.ConnectionTimeoutError("to https://user:pw@host"), "no connection in time"),
        (aiohttp.ClientHttpProxyError(INFO, (), status=407, message="hush"),
         "the proxy answered 407 to CONNECT: look at HTTPS_PROXY and NO_PROXY"),
        (caused(aiohttp.ClientOSError(1, "x"), ALERT),
         "TLS: the server demands a client certificate: set CLIENT_CERT_FILE"),
    ],
    errors.Ambiguous: [
        (caused(aiohttp.ClientOSError(104, "x"), ConnectionResetError(104, "x")), "connection reset by peer"),
        (aiohttp.ServerDisconnectedError("hush"), "the server closed the connection without an answer"),
        (aiohttp.ClientPayloadError("hush"), "the server closed the connection without a whole answer"),
        *((unparsed(message), f"the answer is no HTTP/1.1: {words}") for message, words in UNPARSED.items()),
        (ssl.SSLError(1, "[SSL: SOME_ALERT] x"), "TLS: handshake failed"),
    ],
    errors.Misconfigured: [
        (aiohttp.InvalidURL("ftp://user:pw@host"), "a URL that cannot be used"),
        (ValueError("Newline in b'Bearer sk-secret'"), "a header or a path that cannot be written"),
    ],
    errors.CircuitOpen: [(errors.CircuitOpen("held"), "held")],
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "error", "text"), [(kind, *case) for kind, cases in TRANSLATED.items() for case in cases]
)
def test_errors_are_translated(kind: type[errors.RemoteError], error: Exception, text: str) -> None:
    """Each foreign error becomes the one that says what was sent, in words without address, URL or secret."""
    told = translate(error)
    assert (type(told), str(told)) == (kind, text)


@pytest.mark.parametrize("kind", [aiohttp.ClientError, aiohttp.ClientConnectionError, aiohttp.InvalidURL, ValueError])
def test_a_description_quotes_no_message(kind: type[Exception]) -> None:
    error = kind("https://user:pw@host/?key=sk-secret")
    assert describe(error) == kind.__name__
    assert "secret" not in str(translate(error))
