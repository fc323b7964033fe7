"""Ends the pause between two polls: calls over HTTP, messages of the API, and what the source itself knows."""

import asyncio

from ai_task_processor.core import codec
from ai_task_processor.core.pointer import keys, resolve
from ai_task_processor.core.ports import Clock
from ai_task_processor.ops.metrics import Metrics
from ai_task_processor.sources.rest.profile import RestProfile
from ai_task_processor.sources.rest.read_ahead import ReadAhead


class WakeUps:
    """A wake-up by anybody else is a sign that the list, and so its candidates, may be out of date."""

    def __init__(self, profile: RestProfile, ahead: ReadAhead, *, clock: Clock, metrics: Metrics) -> None:
        self._profile = profile
        self._ahead = ahead
        self._clock = clock
        self._metrics = metrics
        self._called = False
        self._pause: asyncio.Task[None] | None = None

    async def wait(self, timeout_s: float) -> bool:
        """``TaskSource.wait``."""
        if not self._called:
            async with asyncio.TaskGroup() as group:
                self._pause = group.create_task(self._clock.sleep(timeout_s), name="source-pause")
        called, self._called = self._called, False
        return called

    def wake(self, origin: str) -> None:
        """``origin``: one of ``metrics.WAKE_ORIGINS``."""
        self._metrics.woken(origin)
        self._ahead.doubt()
        self.resume()

    def resume(self) -> None:
        self._called = True
        if self._pause is not None:
            self._pause.cancel()

    def pushed(self, message: bytes | None) -> None:
        """A message, or a new connection: those before it were missed. Long ones, with results of others, are empty."""
        part = self._profile.push
        if message is not None and part is not None and part.state is not None:
            try:
                news = codec.loads(message)
            except ValueError:
                return
            if resolve(news, keys(part.state)) != self._profile.states.pending:
                if part.id is not None:
                    self._ahead.drop(str(resolve(news, keys(part.id))))
                return
        self.wake("websocket")
