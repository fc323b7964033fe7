"""MetricsServer: /health, /ready, /metrics and /status for probes, Prometheus and people, /wake for the task API."""

import hmac
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ai_task_processor.core import codec
from ai_task_processor.ops.server import HttpServer, Request, Response

Status = Mapping[str, object]

#: to render the metrics takes milliseconds of the event loop: no more often than this, however many ask
RENDERED_S = 0.1
WAKE = "/wake"


@dataclass(frozen=True, slots=True)
class WakeUp:
    """What ``POST /wake`` calls, for whoever knows the token."""

    token: str = field(repr=False)
    call: Callable[[], None]

    def allowed(self, authorization: str) -> bool:
        """Is this the token (RFC 6750 §2.1)? How long the answer takes does not tell how much of it is right."""
        scheme, _, given = authorization.partition(" ")
        return hmac.compare_digest(given.encode(), self.token.encode()) and scheme.lower() == "bearer"


class MetricsServer:
    """Answers GET and HEAD of its own four paths, POST of ``/wake`` when there is a ``wake_up``, and nothing else.

    ``unhealthy`` names why the process should be restarted, ``unready`` every reason why work does not
    flow; both are asked at each request. ``exposition`` is Prometheus's text and its content type.
    """

    def __init__(
        self,
        *,
        unhealthy: Callable[[], str | None],
        unready: Callable[[], list[str]],
        status: Callable[[], Status],
        exposition: Callable[[], tuple[bytes, str]],
        wake_up: WakeUp | None = None,
    ) -> None:
        self._unhealthy = unhealthy
        self._unready = unready
        self._status = status
        self._exposition = exposition
        self._wake_up = wake_up
        self._rendered: tuple[float, Response] | None = None
        self._server = HttpServer(self._handle)
        self._routes: Mapping[str, Callable[[], Response]] = {
            "/health": self._health,
            "/ready": self._ready,
            "/metrics": self._metrics,
            "/status": lambda: _json(200, self._status()),
        }

    async def start(self, host: str, port: int) -> int:
        """Listen; answers the bound port. Raises ``OSError`` when the address is taken."""
        return await self._server.start(host, port)

    async def aclose(self) -> None:
        await self._server.aclose()

    async def _handle(self, request: Request) -> Response:
        if request.path == WAKE and self._wake_up is not None:
            return self._wake(request, self._wake_up)
        route = self._routes.get(request.path)
        if route is None:
            return _json(404, {"error": "not found", "paths": [*self._routes, *([WAKE] if self._wake_up else [])]})
        if request.method not in ("GET", "HEAD"):
            return _json(405, {"error": "method not allowed"}, {"Allow": "GET, HEAD"})
        return route()

    def _wake(self, request: Request, wake_up: WakeUp) -> Response:
        """Accepted, whatever comes of it: polling remains the truth. A body is not looked at."""
        if request.method != "POST":
            return _json(405, {"error": "method not allowed"}, {"Allow": "POST"})
        if not wake_up.allowed(request.headers.get("authorization", "")):
            return _json(401, {"error": "unauthorized"}, {"WWW-Authenticate": "Bearer"})  # RFC 6750 §3
        wake_up.call()
        return _json(202, {"status": "accepted"})

    def _health(self) -> Response:
        reason = self._unhealthy()
        return _json(200, {"status": "ok"}) if reason is None else _json(503, {"status": "stuck", "reason": reason})

    def _ready(self) -> Response:
        reasons = self._unready()
        return _json(503 if reasons else 200, {"ready": not reasons, "reasons": reasons})

    def _metrics(self) -> Response:
        now = time.monotonic()
        if self._rendered is None or now - self._rendered[0] > RENDERED_S:
            body, content_type = self._exposition()
            self._rendered = now, Response(200, body, content_type)
        return self._rendered[1]


def _json(status: int, value: Status, headers: Mapping[str, str] | None = None) -> Response:
    return Response(status, codec.dumps(value) + b"\n", headers={"Cache-Control": "no-store", **(headers or {})})
