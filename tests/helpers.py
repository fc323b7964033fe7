"""What tests of several folders use."""

from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from ai_task_processor.core.ports import Outbox, Standing, TaskSource, Want
from ai_task_processor.models.task import Claim, Failure, Outcome, Receipt

T = TypeVar("T")


def at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """The answer of a coroutine that does not suspend."""
    try:
        coroutine.send(None)
    except StopIteration as ended:
        answer: T = ended.value
        return answer
    coroutine.close()
    raise AssertionError("it suspends")


def standing(outbox: Outbox, task_id: str, fingerprint: str | None = None) -> Standing | None:
    """What stands for a task in an outbox that answers from memory; with a fingerprint: for this content."""
    held = at_once(outbox.held([task_id])).get(task_id)
    if held is None or (held.standing != "in_outbox" and fingerprint not in (None, held.fingerprint)):
        return None
    return held.standing


class StubSource(TaskSource):
    """For tests that need only a part of a source."""

    name = "aletheia"

    async def claim(self, want: Want) -> Sequence[Claim]:
        raise NotImplementedError

    async def report(self, receipt: Receipt, outcome: Outcome) -> None:
        raise NotImplementedError

    async def release(self, receipt: Receipt, delay_s: float, failure: Failure | None = None) -> None:
        raise NotImplementedError
