"""TLS for every client: version, authorities, the client certificate; made anew when a file of it has changed."""

import ssl
import time
from functools import lru_cache
from pathlib import Path

import httpx2

from ai_task_processor.core.settings import NetworkSettings
from ai_task_processor.ops.logs import get_logger

#: how often files are looked at, seconds: cert-manager replaces them long before the old ones expire
LOOK_EVERY_S = 5.0

log = get_logger(__name__)


class Tls:
    """The context of new connections. Shared by all clients: reading the authorities takes megabytes."""

    def __init__(self, network: NetworkSettings) -> None:
        self._network = network
        paths = (network.ca_bundle, network.client_cert_file, network.client_key_file)
        self._paths = [path for path in paths if path is not None]
        self._seen = _versions(self._paths)
        self._context = tls_context(network)
        self._looked_at = time.monotonic()

    @property
    def context(self) -> ssl.SSLContext:
        """The present one. While a changed file cannot be used, the context from before stays."""
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
        except OSError:  # ssl.SSLError, too: the authorities, or a file that was replaced in this moment
            problems = ["CA_BUNDLE must name a readable file of PEM certificates"]
        if problems:
            log.warning("tls.rejected", reason="; ".join(problems))
        else:
            log.info("tls.replaced", files=[str(path) for path in self._paths])


@lru_cache(maxsize=2)
def shared_tls(network: NetworkSettings) -> Tls:
    """One for all clients of these settings."""
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
    """What tells one content of a file from another, also behind a symbolic link that was moved."""
    found: list[tuple[int, int, int] | None] = []
    for path in paths:
        try:
            state = path.stat()
        except OSError:
            found.append(None)
        else:
            found.append((state.st_mtime_ns, state.st_ino, state.st_size))
    return found


#: parts of the names that OpenSSL has for a server's alerts, and what to do
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
    """What a server says against our certificate; None when the error says nothing of it.

    Under TLS 1.3 it comes when the request is on its way already. The server has not looked at it.
    """
    reason = getattr(error, "reason", None) if isinstance(error, ssl.SSLError) else None
    return next((told for part, told in _ALERTS.items() if part in str(reason)), None)
