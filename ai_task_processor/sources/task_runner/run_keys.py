"""The key by which equal tasks are recognized: ``search:67201d1a…``. Pure.

The API and its other workers use the same keys, so every detail here is theirs.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

Params = Mapping[str, Any]


def run_key(task_type: str, params: object) -> str:
    """Type, and SHA-256 of the normalized params as JSON: sorted keys, no blanks, ASCII."""
    normal: object = params
    if isinstance(params, Mapping):
        try:
            normal = _NORMAL.get(task_type, dict)(params)
        except (KeyError, TypeError, ValueError, AttributeError):
            normal = params  # no task of that type can use them
    text = json.dumps(normal, sort_keys=True, separators=(",", ":"))
    return f"{task_type}:{hashlib.sha256(text.encode()).hexdigest()}"


def canonical_url(url: str) -> str:
    """Without default port, fragment and a slash at the end, the host in lower case, the query sorted.

    Raises ``ValueError`` for what is no http or https URL.
    """
    parts = urlsplit(url.strip())
    scheme, host = parts.scheme.lower(), parts.hostname
    if scheme not in ("http", "https") or not host:
        raise ValueError("no http or https URL")
    place = f"[{host}]" if ":" in host else host
    port = "" if parts.port in (None, {"http": 80, "https": 443}[scheme]) else f":{parts.port}"
    query = urlencode(sorted(parse_qsl(parts.query, keep_blank_values=True)))
    return urlunsplit((scheme, f"{place}{port}", parts.path.rstrip("/"), query, ""))


def _sleep(params: Params) -> object:
    return {"seconds": params["seconds"]}


def _sources(params: Params) -> Mapping[str, object]:
    """What ``search`` and ``search_batch`` have in common."""
    names = params.get("sources") or ["brave"]
    days = params.get("recency_days")
    return {
        "recency_days": 7 if days is None else days,
        "sources": sorted({name.strip().lower() for name in names}),
    }


def _collapsed(query: str) -> str:
    return " ".join(query.split())


def _search(params: Params) -> object:
    return {"query": _collapsed(params["query"]), **_sources(params)}


def _search_batch(params: Params) -> object:
    return {"queries": [_collapsed(query) for query in params["queries"]], **_sources(params)}


def _fetch_url(params: Params) -> object:
    return {"canonical_url": canonical_url(params["url"]), "reader_mode": params.get("reader_mode", True)}


_NORMAL: Final[Mapping[str, Callable[[Params], object]]] = {
    "sleep": _sleep,
    "search": _search,
    "search_batch": _search_batch,
    "fetch_url": _fetch_url,
}
