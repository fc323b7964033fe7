"""MetricsServer: /health, /ready, /metrics and /status for probes, Prometheus and people, /wake for the task API."""

import hmac
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ai_task_processor.core import codec
from ai_task_processor.ops.listener import Listener, Response

Status = Mapping[str, object]

#: shortest interval between two renderings of the metrics, seconds: each takes milliseconds of the event loop
RENDERED_S = 0.1
WAKE = "/wake"


@dataclass(frozen=True, slots=True)
class WakeUp:
    """What ``POST /wake`` calls, and the token that it needs."""

    token: str = field(repr=False)
    call: Callable[[], None]

    def allowed(self, authorization: str) -> bool:
        """Is this the token (RFC 6750 §2.1)? Compared in constant time."""
        scheme, _, given = authorization.partition(" ")
        right = hmac.compare_digest(given.encode(errors="surrogateescape"), self.token.encode())
        return right and scheme.lower() == "bearer"


class MetricsServer:
    """Serves GET and HEAD of four paths, and POST of ``/wake`` when there is a ``wake_up``.

    ``unhealthy`` returns why the process should be restarted, ``unready`` every reason why tasks are not processed,
    ``notes`` what is wrong although they are; all are called at each request. ``exposition`` returns Prometheus's text
    and its content type.
    """

    def __init__(
        self,
        *,
        unhealthy: Callable[[], str | None],
        unready: Callable[[], list[str]],
        status: Callable[[], Status],
        exposition: Callable[[], tuple[bytes, str]],
        notes: Callable[[], list[str]] = list,
        wake_up: WakeUp | None = None,
    ) -> None:
        self._unhealthy = unhealthy
        self._unready = unready
        self._notes = notes
        self._exposition = exposition
        self._wake_up = wake_up
        self._rendered, self._rendered_at = (b"", ""), -math.inf
        self._routes: Mapping[str, Callable[[], Response]] = {
            "/health": self._health,
            "/ready": self._ready,
            "/metrics": self._metrics,
            "/status": lambda: _json(200, status()),
        }
        self._listener = Listener(
            lambda request: self.answer(request.method, request.raw_path, request.headers.get("Authorization", ""))
        )

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the bound port. Raises ``OSError`` when the address is taken."""
        return await self._listener.start(host, port)

    async def aclose(self) -> None:
        await self._listener.aclose()

    def answer(self, method: str, target: str, authorization: str = "") -> Response:
        """``target``: as it was sent, not percent-decoded. A body is ignored."""
        path = target.partition("?")[0]
        if path == WAKE and self._wake_up is not None:
            return _wake(self._wake_up, method, authorization)
        route = self._routes.get(path)
        if route is None:
            return _json(404, {"error": "not found", "paths": [*self._routes, *([WAKE] if self._wake_up else [])]})
        return route() if method in ("GET", "HEAD") else _not_allowed("GET, HEAD")

    def _health(self) -> Response:
        reason = self._unhealthy()
        return _json(200, {"status": "ok"}) if reason is None else _json(503, {"status": "stuck", "reason": reason})

    def _ready(self) -> Response:
        reasons, notes = self._unready(), self._notes()
        body = {"ready": not reasons, "reasons": reasons, **({"notes": notes} if notes else {})}
        return _json(503 if reasons else 200, body)

    def _metrics(self) -> Response:
        if time.monotonic() - self._rendered_at > RENDERED_S:
            self._rendered = self._exposition()
            self._rendered_at = time.monotonic()
        body, content_type = self._rendered
        return Response(body=body, headers={"Content-Type": content_type})


def _wake(wake_up: WakeUp, method: str, authorization: str) -> Response:
    """202: the wake-up only brings the next poll forward."""
    if method != "POST":
        return _not_allowed("POST")
    if not wake_up.allowed(authorization):
        return _json(401, {"error": "unauthorized"}, {"WWW-Authenticate": "Bearer"})  # RFC 6750 §3
    wake_up.call()
    return _json(202, {"status": "accepted"})


def _not_allowed(allowed: str) -> Response:
    return _json(405, {"error": "method not allowed"}, {"Allow": allowed})


def _json(status: int, value: Status, headers: Mapping[str, str] | None = None) -> Response:
    headers = {"Content-Type": "application/json", "Cache-Control": "no-store", **(headers or {})}
    return Response(status=status, body=codec.dumps(value) + b"\n", headers=headers)
