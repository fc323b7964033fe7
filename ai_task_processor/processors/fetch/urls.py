"""Addresses of pages: read once, so that what is checked is what is requested."""

import re
import socket
from ipaddress import ip_address
from urllib.parse import urlsplit

import httpx2

MAX_URL = 4096
_NAME = re.compile(r"(?=.{1,253}$)([a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}")
#: the last part of an address in numbers: the resolver reads 2130706433, 0x7f.1 and 0177.1 as 127.0.0.1
_NUMBER = re.compile(r"\d+|0x[0-9a-f]*")


def page_url(text: str) -> str:
    """The URL as it is requested: scheme and host in lower case, the host as in DNS, quoted, without a fragment.

    Raises ``ValueError`` for other schemes, credentials, and what is no URL.
    """
    if len(text) > MAX_URL or not text.isprintable() or "\\" in text:
        raise ValueError("no URL")
    try:
        parts = httpx2.URL(text.strip())
        host = _host(parts.raw_host.decode("ascii").lower().rstrip("."))
        usual = {"http": 80, "https": 443}.get(parts.scheme, 0)
        port = usual if parts.port is None else parts.port
        path = parts.raw_path.decode("ascii")
    except (httpx2.InvalidURL, UnicodeError, OSError) as error:
        raise ValueError("no URL") from error
    if parts.scheme not in ("http", "https") or parts.userinfo or not 0 < port < 2**16:
        raise ValueError("no http or https URL without credentials")
    place = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{place}{'' if port == usual else f':{port}'}{path or '/'}"


def _host(host: str) -> str:
    """A name, or an address in its usual spelling. Raises ``ValueError``, ``OSError``."""
    if ":" in host and "%" not in host:
        return str(ip_address(host))
    if not _NAME.fullmatch(host):
        raise ValueError("no host")
    return socket.inet_ntoa(socket.inet_aton(host)) if _NUMBER.fullmatch(host.rpartition(".")[2]) else host


def host_of(text: str) -> str | None:
    """The host of a URL, as ``page_url`` writes it; None for what is no URL."""
    try:
        return urlsplit(page_url(text)).hostname
    except ValueError:
        return None


def canonical(url: str) -> str:
    """A URL of ``page_url`` for comparison: without a slash at the end of the path, the query sorted."""
    parts = urlsplit(url)
    query = "&".join(sorted(parts.query.split("&"))) if parts.query else ""
    return parts._replace(path=parts.path.rstrip("/"), query=query).geturl()
