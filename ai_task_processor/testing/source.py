"""The contract suite of task sources (``ports.TaskSource``). Each promise gets a new source.

Used like the suite of a store (see ``testing.store``): ``await check_source(make)``, or each promise as a test.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from ai_task_processor.core.errors import Rejected, RemoteError
from ai_task_processor.core.ports import SkipReason, TaskSource, Want
from ai_task_processor.models.task import Claim, Completed, Failed, Failure, Receipt, Task, TaskResult, Vector

VECTOR = Completed(TaskResult(vector=Vector(b"\0\0\x80?\0\0\0\xbf")))
OUTPUT = Completed(TaskResult({"labels": ["yes"]}))
TOO_LONG = Failed(Failure("too_long", "the text is too long"))


class HandClock:
    """A clock that moves when it is set and when a task sleeps; while ``stopped``, no sleep ends."""

    def __init__(self) -> None:
        self.time = 1_000.0
        self.stopped = False

    def monotonic(self) -> float:
        return self.time

    def now(self) -> datetime:
        return datetime.fromtimestamp(1_800_000_000 + self.time, UTC)

    async def sleep(self, seconds: float) -> None:
        if self.stopped:
            await asyncio.Event().wait()
        self.time += seconds
        await asyncio.sleep(0)


@dataclass
class Gatekeeper:
    """An admission that refuses the tasks in ``refused``. ``asked``: the ids that ``refuse`` was asked about."""

    refused: dict[str, SkipReason] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    async def busy(self, task_ids: Sequence[str]) -> Mapping[str, SkipReason]:
        passing = ("running", "in_outbox")
        return {id_: self.refused[id_] for id_ in task_ids if self.refused.get(id_) in passing}

    async def refuse(self, tasks: Sequence[Task]) -> Sequence[SkipReason | None]:
        self.asked += [task.id for task in tasks]
        return [self.refused.get(task.id) for task in tasks]


class SourceCase(Protocol):
    """A source under test that uses ``clock``, and control over its upstream."""

    clock: HandClock
    admission: Gatekeeper

    @property
    def source(self) -> TaskSource: ...
    def add(self, text: str) -> str:
        """Add a pending task with the content ``{"text": text}``; returns its id. Tasks are listed in this order."""

    def put_back(self, task_id: str) -> None:
        """Set a settled task to pending again."""

    def refuse(self, task_id: str) -> None:
        """Refuse results of this task for good from now on."""

    def break_down(self) -> None:
        """Stop answering from now on."""

    def state(self, task_id: str) -> str:
        """``pending``, ``succeeded`` or ``failed``."""


SourcePromise = Callable[[Any], Awaitable[None]]


async def check_source(make: Callable[[], AbstractAsyncContextManager[SourceCase]]) -> None:
    """Run every promise against a source. Raises ``AssertionError``."""
    for promise in SOURCE_PROMISES:
        async with make() as case:
            await promise(case)


async def claims(case: SourceCase, limit: int = 10) -> Sequence[Claim]:
    return await case.source.claim(Want(limit, case.admission))


async def claimed(case: SourceCase, limit: int = 10) -> list[str]:
    return [claim.task.id for claim in await claims(case, limit)]


async def receipt_of_new(case: SourceCase, text: str = "hello") -> Receipt:
    """The receipt of a new task, which must be the only one that can be claimed."""
    case.add(text)
    (claim,) = await claims(case, 1)
    return claim.receipt


async def rejection(report: Awaitable[None]) -> str:
    try:
        await report
    except Rejected as error:
        return error.outcome
    raise AssertionError("it was acknowledged")


async def nothing_to_do_is_no_error(case: SourceCase) -> None:
    """An empty source answers with nothing."""
    assert await claimed(case) == []


async def a_claim_carries_its_task(case: SourceCase) -> None:
    """The claim has the task's content, and the receipt names the source and the task."""
    task_id = case.add("hello")
    (claim,) = await claims(case, 5)
    assert (claim.receipt.source, claim.receipt.id) == (case.source.name, task_id)
    assert (claim.task.id, claim.task.content) == (task_id, {"text": "hello"})


async def no_more_than_asked_for(case: SourceCase) -> None:
    """At most ``limit`` claims are returned, also for 0."""
    for n in range(5):
        case.add(f"text {n}")
    assert await claimed(case, 0) == []
    assert len(await claimed(case, 3)) == 3


async def what_admission_refuses_does_not_start(case: SourceCase) -> None:
    """Refused tasks are skipped, and do not use up the limit."""
    ids = [case.add(f"text {n}") for n in range(6)]
    case.admission.refused = dict.fromkeys(ids[:4], "running")
    assert await claimed(case, 2) == ids[4:]


async def a_completed_task_is_done(case: SourceCase) -> None:
    """Once acknowledged it has succeeded and is listed no more, whatever the form of its result."""
    for outcome in (VECTOR, OUTPUT, Completed(TaskResult({"model": "m"}, vector=VECTOR.result.vector))):
        receipt = await receipt_of_new(case)
        await case.source.report(receipt, outcome)
        assert case.state(receipt.id) == "succeeded"
        assert await claimed(case) == []


async def a_failed_task_is_done(case: SourceCase) -> None:
    """Its failure is reported, and it is listed no more."""
    receipt = await receipt_of_new(case)
    await case.source.report(receipt, TOO_LONG)
    assert case.state(receipt.id) == "failed"
    assert await claimed(case) == []


async def reporting_twice_is_allowed(case: SourceCase) -> None:
    """Delivery is at least once: a repeated report is acknowledged again."""
    receipt = await receipt_of_new(case)
    for _ in range(2):
        await case.source.report(receipt, VECTOR)
        assert case.state(receipt.id) == "succeeded"


async def a_receipt_survives_a_restart(case: SourceCase) -> None:
    """A receipt that is built again from its three strings is valid."""
    receipt = await receipt_of_new(case)
    again = Receipt(str(receipt.source), str(receipt.id), str(receipt.token))
    await case.source.report(again, OUTPUT)
    assert case.state(receipt.id) == "succeeded"


async def a_released_task_comes_back_after_its_delay(case: SourceCase) -> None:
    """It stays pending, is not claimed before the delay is over, and is then claimed again.

    Until then admission is not asked about it: what that lets start counts against limits of others.
    """
    receipt = await receipt_of_new(case)
    await case.source.release(receipt, 30.0)
    case.admission.asked.clear()
    assert case.state(receipt.id) == "pending"
    assert await claimed(case) == []
    case.clock.time += 29.9
    assert await claimed(case) == []
    assert receipt.id not in case.admission.asked
    case.clock.time += 0.1
    assert await claimed(case) == [receipt.id]


async def a_task_that_was_put_back_runs_again(case: SourceCase) -> None:
    """An acknowledged task that is set to pending again is claimed again."""
    receipt = await receipt_of_new(case)
    await case.source.report(receipt, VECTOR)
    case.put_back(receipt.id)
    assert await claimed(case) == [receipt.id]


async def a_refused_result_is_rejected(case: SourceCase) -> None:
    """A refusal of the result is final, and names its kind."""
    receipt = await receipt_of_new(case)
    case.refuse(receipt.id)
    for outcome in (VECTOR, TOO_LONG):
        assert await rejection(case.source.report(receipt, outcome)) == "refused"
    assert case.state(receipt.id) == "pending"


async def an_unknown_task_is_gone(case: SourceCase) -> None:
    """A result for an unknown task is refused for good."""
    receipt = Receipt(case.source.name, "no-such-task")
    assert await rejection(case.source.report(receipt, VECTOR)) in ("gone", "lost")


async def an_outage_is_the_remotes_fault(case: SourceCase) -> None:
    """Claiming and reporting raise errors that never fail a task."""
    receipt = await receipt_of_new(case)
    case.break_down()
    for attempt in (claims(case), case.source.report(receipt, VECTOR), case.source.report(receipt, TOO_LONG)):
        try:
            await attempt
        except RemoteError:
            continue
        raise AssertionError("nothing answers, and there was no error")
    assert case.state(receipt.id) == "pending"


async def running_claims_are_renewed(case: SourceCase) -> None:
    """A new claim is neither lost nor cancelled."""
    receipt = await receipt_of_new(case)
    assert not await case.source.renew([receipt])
    assert not case.source.cancelled()


async def it_says_what_it_is(case: SourceCase) -> None:
    """It has a name, the strength of its claims, a status and a backlog."""
    case.add("hello")
    await claims(case)
    source = case.source
    assert source.name
    assert source.claims in ("none", "advisory", "exclusive")
    assert isinstance(source.status(), Mapping)
    assert not [problem for problem in source.problems() if not problem.ready]
    assert source.backlog.seen >= 0


SOURCE_PROMISES: Sequence[SourcePromise] = (
    nothing_to_do_is_no_error,
    a_claim_carries_its_task,
    no_more_than_asked_for,
    what_admission_refuses_does_not_start,
    a_completed_task_is_done,
    a_failed_task_is_done,
    reporting_twice_is_allowed,
    a_receipt_survives_a_restart,
    a_released_task_comes_back_after_its_delay,
    a_task_that_was_put_back_runs_again,
    a_refused_result_is_rejected,
    an_unknown_task_is_gone,
    an_outage_is_the_remotes_fault,
    running_claims_are_renewed,
    it_says_what_it_is,
)
