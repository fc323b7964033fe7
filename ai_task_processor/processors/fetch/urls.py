"""Addresses of pages: read once, so that what is checked is what is requested."""

import re
from urllib.parse import urlsplit

import httpx2

MAX_URL = 4096
_HOST = re.compile(r"[a-z0-9._-]{1,253}|[0-9a-f:.]{2,45}")


def page_url(text: str) -> str:
    """The URL as it is requested: scheme and host in lower case, the host as in DNS, quoted, without a fragment.

    Raises ``ValueError`` for other schemes, credentials, and what is no URL.
    """
    if len(text) > MAX_URL or not text.isprintable() or "\\" in text:
        raise ValueError("no URL")
    try:
        parts = httpx2.URL(text.strip())
        host = parts.raw_host.decode("ascii").lower().rstrip(".")
        path = parts.raw_path.decode("ascii")
    except (httpx2.InvalidURL, UnicodeError) as error:
        raise ValueError("no URL") from error
    if parts.scheme not in ("http", "https") or parts.userinfo or not _HOST.fullmatch(host) or parts.port == 0:
        raise ValueError("no http or https URL without credentials")
    place = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{place}{'' if parts.port is None else f':{parts.port}'}{path or '/'}"


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
