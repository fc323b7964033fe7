"""MetricsServer: /health, /ready, /metrics, /status and a page for probes, Prometheus and people, and actions."""

import hmac
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Generic, TypeVar
from urllib.parse import parse_qsl

from ai_task_processor.core import codec
from ai_task_processor.ops.listener import Listener, Response

Status = Mapping[str, object]
#: the answer of an action: HTTP status and JSON body
Answered = tuple[int, Status]
T = TypeVar("T")

#: shortest interval between two renderings of the metrics, seconds: each takes milliseconds of the event loop
RENDERED_S = 0.1
#: the same for the page, seconds
PAGE_RENDERED_S = 1.0
PAGE = "/"
#: ``/?refresh`` is loaded again after this many seconds
REFRESH_S = 5
#: a scraper that can read exemplars accepts this
OPENMETRICS = "application/openmetrics-text"
#: parameters of an action
MOST_PARAMETERS = 8


@dataclass(frozen=True, slots=True)
class Action:
    """What ``POST`` of a path calls, with the parameters of its query, and the token that it needs.

    ``token`` returns the present one: it may be replaced. None: there is no such path.
    """

    token: Callable[[], str | None]
    call: Callable[[Mapping[str, str]], Answered]

    def allowed(self, authorization: str) -> bool:
        """Is this the token (RFC 6750 §2.1)? Compared in constant time."""
        scheme, _, given = authorization.partition(" ")
        right = hmac.compare_digest(given.encode(errors="surrogateescape"), (self.token() or "").encode())
        return right and scheme.lower() == "bearer" and bool(given)


NO_ACTIONS: Mapping[str, Action] = MappingProxyType({})


class MetricsServer:
    """Serves GET and HEAD of four paths, of ``/`` when there is a ``page``, and POST of ``actions`` that have a token.

    ``unhealthy`` returns why the process should be restarted, ``unready`` every reason why tasks are not processed,
    ``notes`` what is wrong although they are; all are called at each request. ``exposition`` returns Prometheus's text
    and its content type, in OpenMetrics when it is called with true; ``page`` the body and the headers of the page.
    """

    def __init__(
        self,
        *,
        unhealthy: Callable[[], str | None],
        unready: Callable[[], list[str]],
        status: Callable[[], Status],
        exposition: Callable[[bool], tuple[bytes, str]],
        notes: Callable[[], list[str]] = list,
        page: Callable[[], tuple[bytes, Mapping[str, str]]] | None = None,
        actions: Mapping[str, Action] = NO_ACTIONS,
    ) -> None:
        self._unhealthy = unhealthy
        self._unready = unready
        self._notes = notes
        self._expositions = {format_: _Cached(partial(exposition, format_), RENDERED_S) for format_ in (False, True)}
        self._actions = actions
        self._routes: Mapping[str, Callable[[], Response]] = {
            "/health": self._health,
            "/ready": self._ready,
            "/metrics": self._metrics,
            "/status": lambda: _json(200, status()),
        }
        if page is not None:
            rendered = _Cached(page, PAGE_RENDERED_S)
            self._routes = {PAGE: lambda: _page(*rendered()), **self._routes}
        self._listener = Listener(
            lambda request: self.answer(
                request.method,
                request.raw_path,
                request.headers.get("Authorization", ""),
                request.headers.get("Accept", ""),
            )
        )

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the bound port. Raises ``OSError`` when the address is taken."""
        return await self._listener.start(host, port)

    async def aclose(self) -> None:
        await self._listener.aclose()

    def answer(self, method: str, target: str, authorization: str = "", accept: str = "") -> Response:
        """``target``: as it was sent, not percent-decoded. A body is ignored."""
        path, _, query = target.partition("?")
        actions = {path: action for path, action in self._actions.items() if action.token()}
        if path in actions:
            return _act(actions[path], method, authorization, query)
        route = self._routes.get(path)
        if path == "/metrics" and OPENMETRICS in accept:
            route = partial(self._metrics, openmetrics=True)
        if route is None:
            return _json(404, {"error": "not found", "paths": [*self._routes, *actions]})
        if method not in ("GET", "HEAD"):
            return _not_allowed("GET, HEAD")
        response = route()
        if path == PAGE and query == "refresh":
            response.headers["Refresh"] = str(REFRESH_S)
        return response

    def _health(self) -> Response:
        reason = self._unhealthy()
        return _json(200, {"status": "ok"}) if reason is None else _json(503, {"status": "stuck", "reason": reason})

    def _ready(self) -> Response:
        reasons, notes = self._unready(), self._notes()
        body = {"ready": not reasons, "reasons": reasons, **({"notes": notes} if notes else {})}
        return _json(503 if reasons else 200, body)

    def _metrics(self, *, openmetrics: bool = False) -> Response:
        body, content_type = self._expositions[openmetrics]()
        return Response(body=body, headers={"Content-Type": content_type})


class _Cached(Generic[T]):
    """Calls ``render`` at most once in ``seconds``, however many ask."""

    def __init__(self, render: Callable[[], T], seconds: float) -> None:
        self._render = render
        self._seconds = seconds
        self._last: tuple[float, T] | None = None

    def __call__(self) -> T:
        if self._last is None or time.monotonic() - self._last[0] > self._seconds:
            rendered = self._render()
            self._last = time.monotonic(), rendered
        return self._last[1]


def _page(body: bytes, headers: Mapping[str, str]) -> Response:
    return Response(body=body, headers=headers)


def _act(action: Action, method: str, authorization: str, query: str) -> Response:
    if method != "POST":
        return _not_allowed("POST")
    if not action.allowed(authorization):
        return _json(401, {"error": "unauthorized"}, {"WWW-Authenticate": "Bearer"})  # RFC 6750 §3
    try:
        parameters = dict(parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=MOST_PARAMETERS))
    except ValueError:
        return _json(400, {"error": "the query cannot be read"})
    return _json(*action.call(parameters))


def _not_allowed(allowed: str) -> Response:
    return _json(405, {"error": "method not allowed"}, {"Allow": allowed})


def _json(status: int, value: Status, headers: Mapping[str, str] | None = None) -> Response:
    headers = {"Content-Type": "application/json", "Cache-Control": "no-store", **(headers or {})}
    return Response(status=status, body=codec.dumps(value) + b"\n", headers=headers)
