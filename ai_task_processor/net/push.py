"""A WebSocket (RFC 6455) whose messages only say that something has changed.

Messages are read without a pause: some servers block every request while one client does not read. Polling remains the
truth, so a lost connection costs time and nothing else.
"""

import random
from collections.abc import Callable, Mapping

import aiohttp

from ai_task_processor.core.errors import RemoteError
from ai_task_processor.core.ports import Clock
from ai_task_processor.net.client import HttpClient
from ai_task_processor.net.resilience import backoff_s
from ai_task_processor.net.transport_errors import translate
from ai_task_processor.ops.logs import get_logger
from ai_task_processor.ops.metrics import Metrics

#: interval of pings; without a pong within half of it the connection is closed, seconds
PING_S = 20.0
#: longest delay before the next try, seconds; a connection that lasted so long begins with the shortest one
LONGEST_S = 30.0
_TEXTS = (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY)

log = get_logger(__name__)


class Push:
    """One connection to ``url``, made again when it ends. ``woken`` is called with each message, and once connected.

    ``client`` has this one connection only, and is closed with it.
    """

    def __init__(
        self,
        client: HttpClient,
        url: str,
        woken: Callable[[bytes | None], None],
        *,
        clock: Clock,
        rng: random.Random,
        metrics: Metrics,
    ) -> None:
        self._client = client
        self._url = url
        self._woken = woken
        self._clock = clock
        self._rng = rng
        self._metrics = metrics
        self._failures = 0
        #: why there is no connection; None while there is one
        self.problem: str | None = "not connected yet"

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                began_at = self._clock.monotonic()
                try:
                    reason = await self._connected()
                except RemoteError as error:
                    reason = str(error)
                self._note(reason)
                if self._clock.monotonic() - began_at >= LONGEST_S:
                    self._failures = 0
                await self._clock.sleep(backoff_s(self._failures, base=2.0, longest=LONGEST_S, rng=self._rng))
                self._failures += 1
        finally:
            await self._client.aclose()

    async def opens(self) -> None:
        """Open a connection and close it. Raises ``RemoteError``."""
        await (await self._client.websocket(self._url, ping_s=PING_S)).close()

    def status(self) -> Mapping[str, object]:
        """For ``/status``."""
        return {"connected": self.problem is None, "problem": self.problem}

    async def _connected(self) -> str:
        """Why the connection has ended. Raises ``RemoteError`` when there was none."""
        socket = await self._client.websocket(self._url, ping_s=PING_S)
        try:
            self._note(None)
            self._woken(None)
            while (message := await socket.receive()).type in _TEXTS:
                self._failures = 0
                self._woken(message.data)
        finally:
            await socket.close()
        error = socket.exception()
        return "the server closed the connection" if error is None else str(translate(error))

    def _note(self, problem: str | None) -> None:
        self._metrics.push_connected(problem is None)
        if (problem is None) != (self.problem is None):
            if problem is None:
                log.info("push.connected")
            else:
                log.warning("push.disconnected", reason=problem)
        self.problem = problem
