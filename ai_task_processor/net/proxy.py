"""The proxy of a remote, by ``HTTPS_PROXY`` and ``NO_PROXY``."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from ipaddress import ip_address, ip_network
from urllib.parse import unquote, urlsplit

import httpx2

from ai_task_processor.core.settings import NetworkSettings


def proxy_of(network: NetworkSettings, url: str) -> tuple[str, Mapping[str, str]] | None:
    """The proxy's URL without its credentials, which error messages could show, and the header that holds them."""
    if network.https_proxy is None or bypassed(urlsplit(url).netloc, network.no_proxy):
        return None
    parts = urlsplit(network.https_proxy.get_secret_value())
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    secret = b64encode(f"{user}:{password}".encode()).decode()
    return bare, {"Proxy-Authorization": f"Basic {secret}"} if user or password else {}


def bypassed(netloc: str, no_proxy: Sequence[str]) -> bool:
    """The usual reading of ``NO_PROXY``: names with their subdomains, addresses, networks, ``*``; all with a port or
    without, with a final dot or without, in Unicode or as in DNS. A URL stands for its host and port.
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
    text = text.rpartition("://")[2]
    try:
        parts = urlsplit(f"//{text}")
        host, port = (parts.hostname or "").lstrip("*.").rstrip("."), parts.port
        # as the client writes it: straße.de is not strasse.de
        return host if host.isascii() else httpx2.URL(f"https://{host}").raw_host.decode(), port
    except (ValueError, httpx2.InvalidURL):
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
