"""Renews claims, and stops tasks whose claim is lost or cancelled.

Only for sources whose claims expire. A claim is renewed from its start until its outcome is acknowledged.
"""

from collections.abc import Callable, Sequence
from typing import Final, Literal

from ai_task_processor.core.deadline import Deadline
from ai_task_processor.core.errors import OutboxUnwritable, RemoteError
from ai_task_processor.core.ports import Clock, Outbox, TaskSource
from ai_task_processor.engine.guard import CALL_S, RAISED, raise_cancellation
from ai_task_processor.models.task import Receipt
from ai_task_processor.ops.condition import Condition

#: a renewal has until the next one is due, but at least this many seconds
LEAST_S: Final = 10.0


class Heartbeat:
    """``running`` returns the receipts of running tasks; ``revoke`` stops one of them."""

    def __init__(
        self,
        source: TaskSource,
        outbox: Outbox,
        *,
        running: Callable[[], Sequence[Receipt]],
        revoke: Callable[[str, Literal["lost", "cancelled"]], None],
        clock: Clock,
    ) -> None:
        self._source = source
        self._outbox = outbox
        self._running = running
        self._revoke = revoke
        self._clock = clock
        self._condition = Condition("claims.not_renewed", "claims.renewed")

    async def run(self) -> None:
        """Until cancelled; returns at once when there is nothing to renew."""
        while self._source.renew_every_s is not None:
            await self._clock.sleep(self._source.renew_every_s)
            await self.beat()

    async def beat(self) -> None:
        """Renew once. Only a running task is revoked: for ``lost`` the very claim, as its token may be an old one."""
        try:
            with Deadline(max(LEAST_S, min(self._source.renew_every_s or 0.0, CALL_S))):
                lost = list(await self._source.renew([*self._running(), *await self._outbox.receipts()]))
            cancelled = {(receipt.source, receipt.id) for receipt in self._source.cancelled()}
        except RAISED as error:  # the boundary of one beat: the next one tries again
            raise_cancellation(error)
            known = isinstance(error, RemoteError | OutboxUnwritable)
            late = "no answer in time" if isinstance(error, TimeoutError) else None
            self._condition.note(str(error) if known else late or f"renewing crashed: {type(error).__name__}")
            return
        self._condition.note(None)
        for receipt in self._running():
            if receipt in lost:
                self._revoke(receipt.id, "lost")
            elif (receipt.source, receipt.id) in cancelled:
                self._revoke(receipt.id, "cancelled")
