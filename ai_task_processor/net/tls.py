"""The TLS context of every client: version, authorities, client certificate; reloaded when one of the files changes."""

import ssl
import time
from functools import lru_cache
from pathlib import Path

import httpx2

from ai_task_processor.core.settings import NetworkSettings
from ai_task_processor.ops.logs import get_logger

#: interval of checking the files, seconds: cert-manager replaces them long before the old ones expire
LOOK_EVERY_S = 5.0

log = get_logger(__name__)


class Tls:
    """The context of new connections. Shared by all clients: reading the authorities takes megabytes."""

    def __init__(self, network: NetworkSettings) -> None:
        self._network = network
        self.bundled = network.ca_bundle is not None
        paths = (network.ca_bundle, network.client_cert_file, network.client_key_file)
        self._paths = [path for path in paths if path is not None]
        self._seen = _versions(self._paths)
        self._context = tls_context(network)
        self._looked_at = time.monotonic()

    @property
    def context(self) -> ssl.SSLContext:
        """The current context. While a changed file cannot be used, the previous context stays."""
        now = time.monotonic()
        if self._paths and now - self._looked_at >= LOOK_EVERY_S:
            self._looked_at = now
            self._look()
        return self._context

    def _look(self) -> None:
        versions = _versions(self._paths)
        if versions == self._seen:
            return
        self._seen = versions
        problems = self._network.client_certificate_problems()
        try:
            if not problems:
                self._context = tls_context(self._network)
        except OSError:  # ssl.SSLError, too: the authorities, or a file that is just being replaced
            problems = ["CA_BUNDLE must name a readable file of PEM certificates"]
        if problems:
            log.warning("tls.rejected", reason="; ".join(problems))
        else:
            log.info("tls.replaced", files=[str(path) for path in self._paths])


@lru_cache(maxsize=2)
def shared_tls(network: NetworkSettings) -> Tls:
    """The context that all clients of these settings share."""
    return Tls(network)


def tls_context(network: NetworkSettings) -> ssl.SSLContext:
    """TLS 1.2 or later, verified against the system's authorities and ``CA_BUNDLE``."""
    context = httpx2.create_ssl_context(trust_env=False)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if network.ca_bundle is not None:
        context.load_verify_locations(cafile=str(network.ca_bundle))
    if network.client_cert_file is not None:
        password = network.client_key_password
        # An empty password: OpenSSL would ask the terminal for one.
        secret = "" if password is None else password.get_secret_value()
        context.load_cert_chain(network.client_cert_file, network.client_key_file, secret)
    return context


def _versions(paths: list[Path]) -> list[tuple[int, int, int] | None]:
    """Values that change with the content of a file, also when a symbolic link is moved."""
    found: list[tuple[int, int, int] | None] = []
    for path in paths:
        try:
            state = path.stat()
        except OSError:
            found.append(None)
        else:
            found.append((state.st_mtime_ns, state.st_ino, state.st_size))
    return found


#: parts of OpenSSL's names of a server's alerts, and the remedy
_ALERTS = {
    "ALERT_CERTIFICATE_REQUIRED": "the server demands a client certificate: set CLIENT_CERT_FILE",
    "ALERT_UNKNOWN_CA": "the server does not know who signed our client certificate: correct CLIENT_CERT_FILE",
    "ALERT_CERTIFICATE_EXPIRED": "the server finds our client certificate expired: renew CLIENT_CERT_FILE",
    "ALERT_CERTIFICATE_REVOKED": "the server finds our client certificate revoked: renew CLIENT_CERT_FILE",
    "ALERT_CERTIFICATE_UNKNOWN": "the server refuses our client certificate: correct CLIENT_CERT_FILE",
    "ALERT_UNSUPPORTED_CERTIFICATE": "the server refuses our kind of client certificate: correct CLIENT_CERT_FILE",
    # Go's word for a missing one under TLS 1.2, too
    "ALERT_BAD_CERTIFICATE": "the server refuses our client certificate, or misses one: look at CLIENT_CERT_FILE",
    # OpenSSL's word for a missing one under TLS 1.2, and everybody's for no common cipher
    "ALERT_HANDSHAKE_FAILURE": "the server refuses the handshake, perhaps for want of a client certificate: "
    "look at CLIENT_CERT_FILE",
}


def alert(error: BaseException) -> str | None:
    """The server's objection to the client certificate, with the remedy; None for another error.

    Under TLS 1.3 it arrives after the request was sent. The server has not processed that request.
    """
    reason = getattr(error, "reason", None) if isinstance(error, ssl.SSLError) else None
    return next((text for part, text in _ALERTS.items() if part in str(reason)), None)


#: OpenSSL's X509_V_ERR_… for the certificate of a server, and the remedy
_DISTRUSTED = {
    9: "its certificate is not valid yet: set the clock of this machine, or correct the URL",
    10: "its certificate has expired: have it renewed where the URL points",
    62: "its certificate is for another host name: correct the host in the URL",
    64: "its certificate is for another host name: correct the host in the URL",
}
#: those that time or the server's owner changes
PASSING = (9, 10)


def distrust(error: ssl.SSLCertVerificationError, *, bundled: bool) -> str:
    """Why the certificate of a server is refused, with the remedy. ``bundled``: CA_BUNDLE is set."""
    remedy = "set CA_BUNDLE to your authority's PEM file"
    if bundled:
        remedy = "add the root of its chain to the file that CA_BUNDLE names"
    unknown = f"nobody known here signed its certificate ({error.verify_message}): {remedy}"
    return _DISTRUSTED.get(error.verify_code, unknown)
