"""``in_progress`` while a task is being worked on: a word for people and dashboards, and no claim.

It has no owner and no expiry upstream, and it takes the task out of the pending list: whoever says it must
take it back, even after a kill. So the journal knows who was marked, what does not end settled is set to
``pending`` again, and a mark whose answer was lost is followed, after the outcome was acknowledged, by the
bare final state: such a mark may arrive late, and a state without a result runs no callback.
"""

from collections.abc import Awaitable, Callable

from ai_task_processor.core.errors import Ambiguous, Rejected, RemoteError
from ai_task_processor.core.ports import Clock, Journal
from ai_task_processor.models.task import Receipt, TaskStatus
from ai_task_processor.ops.logs import get_logger

TEND_S = 1.0

log = get_logger(__name__)


class NestMarks:
    """``ports.Marks``. ``patch`` sets a bare state; ``late_s``: after so long a request without an answer is over."""

    def __init__(
        self,
        patch: Callable[[str, TaskStatus], Awaitable[None]],
        journal: Journal,
        *,
        late_s: float,
        clock: Clock,
    ) -> None:
        self._patch = patch
        self._journal = journal
        self._late_s = late_s
        self._clock = clock
        self._unsure: set[str] = set()
        self._withdrawing: set[str] = set()
        self._repairs: dict[str, tuple[TaskStatus, float]] = {}

    async def begin(self, receipt: Receipt) -> bool:
        self._journal.mark(receipt.id)
        try:
            await self._patch(receipt.id, TaskStatus.IN_PROGRESS)
        except Rejected as error:
            self._journal.unmark(receipt.id)
            log.info("task.taken", task_id=receipt.id, reason=str(error))
            return False
        except Ambiguous:
            self._unsure.add(receipt.id)
        except RemoteError:
            pass  # the mark is a courtesy: work goes on without it
        return True

    async def withdraw(self, receipt: Receipt) -> None:
        """Pending again; what does not succeed is tried again by ``run``.

        Once at a time: a second ``pending`` could arrive when the task has been started again.
        """
        if receipt.id in self._withdrawing:
            return
        self._withdrawing.add(receipt.id)
        try:
            await self._patch(receipt.id, TaskStatus.PENDING)
        except Rejected:
            pass  # deleted, or final by somebody else's word
        except RemoteError:
            return
        finally:
            self._withdrawing.discard(receipt.id)
        self._unsure.discard(receipt.id)
        self._journal.unmark(receipt.id)

    def acknowledged(self, task_id: str, state: TaskStatus) -> None:
        """The upstream has the outcome. A mark that may still be on its way would overwrite it."""
        if task_id in self._unsure:
            self._unsure.discard(task_id)
            self._repairs[task_id] = state, self._clock.monotonic() + self._late_s

    async def run(self) -> None:
        """Repair until cancelled."""
        while True:
            await self.tend()
            await self._clock.sleep(TEND_S)

    async def tend(self, *, leaving: bool = False) -> None:
        """Give back what is marked and not under way, and repeat final states when their time has come, or now."""
        for task_id in self._journal.marked:
            await self.withdraw(Receipt(task_id))
        now = self._clock.monotonic()
        for task_id, (state, due_at) in list(self._repairs.items()):
            if leaving or now >= due_at:
                await self._repair(task_id, state)

    async def _repair(self, task_id: str, state: TaskStatus) -> None:
        try:
            await self._patch(task_id, state)
        except Rejected:
            pass
        except RemoteError:
            return
        del self._repairs[task_id]
        log.info("task.state_repaired", task_id=task_id, state=state)
