"""MetricsServer: /health, /ready, /metrics and /status for probes, Prometheus and people."""

import time
from collections.abc import Callable, Mapping

from ai_task_processor import codec
from ai_task_processor.server import HttpServer, Request, Response

Status = Mapping[str, object]

#: to render the metrics takes milliseconds of the event loop: no more often than this, however many ask
RENDERED_S = 0.1


class MetricsServer:
    """Answers GET and HEAD of its own four paths, and nothing else.

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
    ) -> None:
        self._unhealthy = unhealthy
        self._unready = unready
        self._status = status
        self._exposition = exposition
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
        route = self._routes.get(request.path)
        if route is None:
            return _json(404, {"error": "not found", "paths": list(self._routes)})
        if request.method not in ("GET", "HEAD"):
            return _json(405, {"error": "method not allowed"}, {"Allow": "GET, HEAD"})
        return route()

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
