"""Errors of aiohttp as ``RemoteError``: whose fault they are, and their cause in words."""

import os
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from typing import Final

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError

from ai_task_processor.core.errors import Ambiguous, Misconfigured, RemoteError, Transient, Unsent
from ai_task_processor.net.tls import alert, distrust

#: where the parser's sentence ends and what it shows of the answer begins
_SHOWN = re.compile(r"\n\n|:?\s+b?(?=['\"](?![A-Za-z-]{1,30}['\"]))")
_ENDED: Mapping[type[BaseException], str] = {
    aiohttp.ServerDisconnectedError: "the server closed the connection without an answer",
    aiohttp.ServerTimeoutError: "the server is silent: it answers no ping",
    aiohttp.ClientPayloadError: "the server closed the connection without a whole answer",
    aiohttp.ClientOSError: "the server closed the connection before it had the whole request",
}
#: Many servers refuse a client certificate without an alert, and under TLS 1.3 after our handshake.
FIRST_REQUEST: Final = "perhaps because of our client certificate, or for want of one: look at CLIENT_CERT_FILE"
#: HttpProcessingError: a body that cannot be parsed; ValueError: a header or a URL that cannot be written
FOREIGN = (aiohttp.ClientError, HttpProcessingError, OSError, ValueError)


def translate(error: BaseException, *, bundled: bool = False) -> RemoteError:
    """Whose fault an error of aiohttp is: not sent, or perhaps applied. ``bundled``: CA_BUNDLE is set."""
    match error:
        case RemoteError():
            return error
        case aiohttp.ClientHttpProxyError():
            return Unsent(f"the proxy answered {error.status} to CONNECT: look at HTTPS_PROXY and NO_PROXY")
        case aiohttp.ConnectionTimeoutError():
            return Unsent("no connection in time")
        case aiohttp.WSServerHandshakeError():
            return Transient(f"the server answered {error.status} instead of a WebSocket", status=error.status)
        case aiohttp.InvalidURL():
            return Misconfigured("a URL that cannot be used")
        case aiohttp.ClientError() | HttpProcessingError() | OSError():
            refused = isinstance(error, aiohttp.ClientConnectorError) or any(map(alert, causes(error)))
            text = describe(error, bundled=bundled)
            if FIRST_REQUEST in getattr(error, "__notes__", ()) and not text.startswith("TLS: "):
                text = f"{text}, {FIRST_REQUEST}"
            return (Unsent if refused else Ambiguous)(text)
        case ValueError():
            return Misconfigured("a header or a path that cannot be written")
    return Ambiguous(type(error).__name__)


def describe(error: BaseException, *, bundled: bool = False) -> str:
    """The cause in the words of the operating system or of OpenSSL, or with a remedy: never a URL or content."""
    for cause in causes(error):
        if isinstance(cause, aiohttp.ClientError):
            continue  # some of them are an OSError or an SSLError, too, without its words
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"TLS: {distrust(cause, bundled=bundled)}"
        if isinstance(cause, ssl.SSLError):
            return f"TLS: {alert(cause) or getattr(cause, 'reason', '') or 'handshake failed'}"
        if isinstance(cause, socket.gaierror):
            return (cause.strerror or "name resolution failed").lower()
        if isinstance(cause, OSError) and cause.errno:
            return os.strerror(cause.errno).lower()  # asyncio puts the address into its own text
        if isinstance(cause, ConnectionError) and isinstance(error, aiohttp.ClientConnectorError):
            return "TLS: handshake failed"  # asyncio's word for a server that hangs up in it
    if isinstance(error, aiohttp.ClientResponseError | HttpProcessingError):
        return f"the answer is no HTTP/1.1: {_sentence(error.message)}"
    return _ENDED.get(type(error), type(error).__name__)


def _sentence(message: str) -> str:
    """The parser's own words, without what it shows of the answer."""
    return " ".join(_SHOWN.split(message, maxsplit=1)[0].split()).rstrip(":.")


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what led to it; of several attempts (one for each address of a host) the first."""
    while error is not None:
        yield error
        group = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else None
        error = group or error.__cause__ or error.__context__
