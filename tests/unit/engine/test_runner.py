"""One task: whose fault decides, and what was paid for is kept."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_task_processor.core import errors
from ai_task_processor.core.ports import Clock, Sink
from ai_task_processor.engine.faults import Faults
from ai_task_processor.engine.outcome import classify
from ai_task_processor.engine.reporting import Reporter
from ai_task_processor.engine.runner import TaskRunner
from ai_task_processor.engine.steps import TaskSteps
from ai_task_processor.models.task import (
    Completed,
    Failed,
    Failure,
    Outcome,
    Receipt,
    Record,
    Released,
    Task,
    TaskResult,
    TaskStatus,
    Tries,
    Usage,
    Vector,
)  # fmt: skip
from ai_task_processor.ops.metrics import Metrics
from ai_task_processor.stores.sqlite import journal
from ai_task_processor.testing.memory import MemoryJournal, MemoryOutbox
from tests.helpers import StubSource, standing
from tests.unit.engine.parts import Logs, claim, events

SECRET = "hunter2"
REMOTES: list[type[errors.RemoteError]] = [
    *(errors.Unsent, errors.CircuitOpen, errors.Transient, errors.InvalidAnswer, errors.Throttled, errors.Ambiguous),
    *(errors.Unauthorized, errors.NoToken, errors.Misconfigured, errors.ModelRefused, errors.QuotaExhausted),
]
FULL = errors.OutboxUnwritable("disk full")
Work = Callable[[Task], Awaitable[TaskResult]]


class Source(StubSource):
    """Records reports; ``answers`` are raised, one for each report, before it acknowledges."""

    def __init__(self) -> None:
        self.released: list[tuple[str, float]] = []
        self.failures: list[Failure | None] = []
        self.told: list[tuple[str, object]] = []
        self.answers: list[BaseException] = []

    async def report(self, receipt: Receipt, outcome: Outcome) -> None:
        said: object = outcome.result.output if isinstance(outcome, Completed) else outcome
        self.told.append((receipt.id, said.failure if isinstance(said, Failed) else said))
        if self.answers:
            raise self.answers.pop(0)

    async def release(self, receipt: Receipt, delay_s: float, failure: Failure | None = None) -> None:
        self.released.append((receipt.id, delay_s))
        self.failures.append(failure)


class Disk(MemoryOutbox):
    """An outbox whose commits take some turns of the loop, and fail while ``error`` is set."""

    def __init__(self, clock: Clock, turns: int = 0) -> None:
        super().__init__(2**30, clock)
        self.turns = turns
        self.error: Exception | None = None
        self.records: dict[str, Record] = {}
        self.puts = 0

    def put(self, record: Record) -> asyncio.Future[None]:
        self.puts += 1
        self.records[record.task_id] = record
        committed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._later(self.turns, committed, record)
        return committed

    async def delivered(self, task_id: str) -> None:
        if self.error is not None:
            raise self.error
        self.records.pop(task_id, None)
        await super().delivered(task_id)

    def _later(self, turns: int, committed: asyncio.Future[None], record: Record) -> None:
        if turns:
            asyncio.get_running_loop().call_soon(self._later, turns - 1, committed, record)
        elif self.error is not None:
            self.records.pop(record.task_id, None)
            committed.set_exception(self.error)
        else:
            super().put(record)
            if not committed.done():
                committed.set_result(None)


class Processor:
    def __init__(self, work: Work) -> None:
        self._work = work

    async def process(self, task: Task) -> TaskResult:
        return await self._work(task)


class Room:
    """A runner with everything around it; ``disk``: an error of the outbox, ``answers``: of the source."""

    def __init__(
        self,
        clock: Clock,
        work: Work,
        *,
        timeout_s: float = 60.0,
        turns: int = 0,
        disk: Exception | None = None,
        answers: Sequence[BaseException] = (),
        sinks: Sequence[Sink] = (),
    ) -> None:
        self.source = Source()
        self.source.answers += answers
        self.outbox = Disk(clock, turns)
        self.outbox.error = disk
        self.journal = MemoryJournal(monotonic=clock.monotonic)
        self.metrics = Metrics(version="0", provider="mock", task_types=["text_embedding"])
        self.persisted: list[Record] = []
        self.steps = TaskSteps(self.outbox.steps, self.metrics)
        self.runner = TaskRunner(
            source=self.source,
            reporter=Reporter(self.source, sinks=sinks, clock=clock, metrics=self.metrics),
            outbox=self.outbox,
            journal=self.journal,
            steps=self.steps,
            find=lambda task: Processor(work) if task.type == "text_embedding" else None,
            persisted=self.persisted.append,
            timeout_s=timeout_s,
            faults=Faults(),
            clock=clock,
            metrics=self.metrics,
            rng=random.Random(1),
        )

    async def run(self, task_id: str = "a", **fields: Any) -> bool:
        claimed = claim(task_id, **{"type": "text_embedding", "content": {"text": SECRET}, **fields})
        (tries,) = await self.journal.begin([claimed.task])
        return await self.runner.run(claimed, tries)

    def told(self, task_id: str = "a") -> Any:
        """The body of the record that stands for a task."""
        return json.loads(self.outbox.records[task_id].body)


def returning(result: Any) -> Work:
    async def work(task: Task) -> Any:
        return result

    return work


good = returning(TaskResult({"answer": 42}))


def hanging(then: TaskResult | Exception | None = None) -> Work:
    """Waits until it is cancelled; then it answers or raises this all the same."""

    async def work(task: Task) -> TaskResult:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if isinstance(then, TaskResult):
                return then
            raise then or asyncio.CancelledError from None
        raise AssertionError

    return work


def raising(error: BaseException) -> Work:
    async def work(task: Task) -> TaskResult:
        raise error

    return work


async def cut(running: asyncio.Future[bool]) -> None:
    running.cancel()
    await asyncio.wait([running])


async def turns(count: int) -> None:
    """So many turns of the event loop."""
    for _ in range(count):
        await asyncio.sleep(0)


# --- classify


@given(st.lists(st.tuples(st.sampled_from(REMOTES), st.one_of(st.none(), st.floats())), max_size=50))
def test_a_remote_never_fails_a_task(faults: list[tuple[type[errors.RemoteError], float | None]]) -> None:
    """A remote's failure releases the task for a bounded time, whatever the count, class and Retry-After."""
    tries = Tries()
    for kind, wish_s in faults:
        outcome = classify(kind("away", retry_after_s=wish_s), tries, random.Random(1))
        assert isinstance(outcome, Released)
        assert 0.0 < outcome.delay_s <= 900.0
    assert tries.crashed == 0


@given(st.lists(st.sampled_from([*REMOTES, errors.Retry, ValueError, TimeoutError, SystemExit]), max_size=20))
def test_only_the_third_crash_ends_a_task(kinds: list[Any]) -> None:
    """Whatever lies between them, exactly the third crash or timeout of the processor makes the task fail."""
    tries, crashes = Tries(), 0
    for kind in kinds:
        error = kind("x") if issubclass(kind, errors.RemoteError) else kind()
        crash = not isinstance(error, errors.RemoteError | errors.Retry)
        crashes += crash
        assert isinstance(classify(error, tries, random.Random(1)), Failed) == (crash and crashes >= 3)


@pytest.mark.parametrize("kind", [errors.TaskError, errors.InputRefused])
def test_the_tasks_own_fault_ends_it_at_once_with_a_short_message(kind: type[errors.TaskError]) -> None:
    """Code and message are reported, cut to length, and can always be written as UTF-8."""
    outcome = classify(kind("no_text" * 100, "\ud800" + "m" * 1_000), Tries(), random.Random(1))
    assert isinstance(outcome, Failed)
    assert (len(outcome.failure.code), len(outcome.failure.message)) == (64, 500)
    assert outcome.failure.message.encode().startswith(b"?mmm")


def test_a_crash_tells_nothing_of_its_message() -> None:
    """The text of a foreign exception may contain user text: only its type is reported."""
    tries = Tries(crashed=2)
    outcome = classify(ValueError(f"cannot parse {SECRET}"), tries, random.Random(1))
    assert outcome == Failed(Failure("processor_error", "3 attempts ended with ValueError"))
    assert SECRET not in repr(classify(ValueError(SECRET), Tries(), random.Random(1)))


@pytest.mark.parametrize(
    ("asked", "given"), [(0.0, 0.0), (2.5, 2.5), (7200, 7200), (-1, 0.0), (float("nan"), 0.0), (float("inf"), 86_400.0)]
)
def test_retry_is_honoured(asked: float, given: float) -> None:
    """The processor names the pause, up to a day; nonsense is no pause."""
    tries = Tries()
    outcome = classify(errors.Retry(asked), tries, random.Random(1))
    assert isinstance(outcome, Released)
    assert (outcome.delay_s, tries) == (given, Tries())


def test_delays_grow_and_a_requested_delay_is_used() -> None:
    """Release delays double up to a minute, a longer Retry-After wins; an open circuit does not count as a failure."""
    tries, rng = Tries(), random.Random(1)
    delays = [classify(errors.Transient("503"), tries, rng) for _ in range(10)]
    bounds = [min(2.0**n, 60.0) for n in range(1, 11)]
    assert all(isinstance(d, Released) and b / 2 <= d.delay_s <= b for d, b in zip(delays, bounds, strict=True))
    assert classify(errors.Throttled("429", retry_after_s=100.0), tries, rng) == Released(100.0, "429")
    fresh = Tries()
    assert classify(errors.CircuitOpen("held", retry_after_s=0.2), fresh, rng) == Released(0.2, "held")
    assert fresh.failed == 0


# --- the runner


async def test_a_result_is_on_disk_when_the_slot_is_free(clock: Any, logs: Logs) -> None:
    """Output, vector and origin stand in the record; delivery is woken; one line and one count tell of it."""

    async def work(task: Task) -> TaskResult:
        await clock.sleep(2.0)
        return TaskResult({"n": 1}, usage=Usage(3, 4), vector=Vector(b"\0\0\x80?"))

    room = Room(clock, work)
    created_at = datetime(2026, 1, 1, tzinfo=UTC)
    assert await room.run(created_at=created_at) is True
    record = room.outbox.records["a"]
    assert (record.status, record.body, record.vector) == (TaskStatus.SUCCEEDED, b'{"n":1}', b"\0\0\x80?")
    assert (record.created_at, record.finished_at) == (created_at.timestamp(), clock.now().timestamp())
    assert (len(room.persisted), room.source.released, room.source.told) == (1, [], [])
    assert room.metrics.value("tasks_processed_total", task_type="text_embedding", status="succeeded") == 1
    wide = {"task_id": "a", "task_type": "text_embedding", "seconds": 2.0, "attempt": 1, "tokens": 7}
    assert logs == [{"event": "task.completed", "log_level": "info", **wide}]


async def test_a_failed_task_is_a_record_too(clock: Any, logs: Logs) -> None:
    room = Room(clock, raising(errors.TaskError("no_text", "there is no text")))
    assert await room.run() is True
    assert room.outbox.records["a"].status is TaskStatus.FAILED
    assert room.told() == {"code": "no_text", "message": "there is no text"}
    assert events(logs) == ["task.failed"]
    assert logs[-1]["code"] == "no_text"


async def test_a_task_that_is_given_back_leaves_no_record(clock: Any, logs: Logs) -> None:
    room = Room(clock, raising(errors.Throttled("the model answered 429", retry_after_s=30.0)))
    assert await room.run() is False
    assert (room.source.released, room.outbox.records, room.persisted) == ([("a", 30.0)], {}, [])
    assert (room.source.failures, events(logs)) == ([None], ["task.released"])


@pytest.mark.parametrize(("error", "kind"), [(ValueError(SECRET), "ValueError"), (TimeoutError(), "timeout")])
async def test_a_task_at_fault_is_released_with_its_failure(clock: Any, error: Exception, kind: str) -> None:
    """The source can show why an attempt ended; the text of a foreign exception is not passed on."""
    room = Room(clock, raising(error))
    assert await room.run() is False
    assert room.source.failures == [Failure("processor_error", f"attempt 1 of 3 ended with {kind}")]


async def test_nothing_a_user_wrote_reaches_the_log(clock: Any, logs: Logs) -> None:
    """Content, results and the messages of foreign exceptions stay out, whatever happens to the task."""
    telling = returning(TaskResult({"text": SECRET}))
    for work in (telling, raising(ValueError(SECRET)), raising(errors.TaskError("bad", SECRET))):
        room = Room(clock, work)
        for _ in range(3):
            await room.run(raw={"text": SECRET})
    for line in logs:
        line.pop("exc_info", None)  # rendered without messages: see the tests of logs
    assert len(logs) == 15
    assert SECRET not in repr(logs)


@pytest.mark.parametrize(
    "make",
    [
        lambda: TaskResult({"x": float("nan")}),
        lambda: TaskResult({"x": {1, 2}}),
        lambda: TaskResult({"x": "\ud800"}),
        lambda: TaskResult({"x": b"bytes"}),
        lambda: TaskResult(None),
        lambda: None,
        lambda: {"a": "dict"},
        lambda: TaskResult(vector=b"raw bytes"),  # type: ignore[arg-type]  # what a stranger might do
    ],
)
async def test_a_result_that_cannot_be_written_is_the_processors_error(clock: Any, make: Callable[[], Any]) -> None:
    """NaN, sets, lone surrogates, nothing at all: two more attempts, then ``processor_error``, and no crash."""

    async def work(task: Task) -> Any:
        return make()

    room = Room(clock, work)
    assert [await room.run() for _ in range(3)] == [False, False, True]
    assert room.told()["code"] == "processor_error"


async def test_usage_of_another_kind_does_not_spoil_a_good_result(clock: Any, logs: Logs) -> None:
    room = Room(clock, returning(TaskResult(1, usage={"tokens": 5})))  # type: ignore[arg-type]
    assert await room.run() is True
    assert logs[-1]["tokens"] is None


@pytest.mark.parametrize(
    "error",
    [SystemExit(0), KeyboardInterrupt(), asyncio.CancelledError(), BaseExceptionGroup("g", [SystemExit()]),
     asyncio.InvalidStateError(), RecursionError(), MemoryError(), StopIteration(), errors.TaskError(5, None)],  # type: ignore[arg-type]  # what a stranger might do
    ids=repr,
)  # fmt: skip
async def test_no_exception_of_a_processor_leaves_its_task(clock: Any, error: BaseException) -> None:
    """``sys.exit()`` in a plug-in, or the cancellation of something it awaited, is an attempt like any crash."""
    room = Room(clock, raising(error))
    settled = [await room.run() for _ in range(3)]
    assert settled[-1] is True
    assert room.outbox.records["a"].status is TaskStatus.FAILED


async def test_a_timeout_counts_as_a_crash(clock: Any) -> None:
    room = Room(clock, hanging(), timeout_s=0.0)
    assert [await room.run() for _ in range(3)] == [False, False, True]
    assert room.told() == {"code": "processor_error", "message": "3 attempts ended with timeout"}


async def test_a_result_that_came_late_is_still_kept(clock: Any) -> None:
    room = Room(clock, hanging(TaskResult("late")), timeout_s=0.0)
    assert await room.run() is True
    assert room.told() == "late"


async def test_content_of_any_depth_is_survived(clock: Any) -> None:
    """JSON is read deeper than it is written: such a task runs like any other."""
    deep: Any = "bottom"
    for _ in range(1_000):
        deep = [deep]
    room = Room(clock, good)
    assert await room.run(content=deep) is True


async def test_a_type_nobody_wants_any_more_goes_back(clock: Any) -> None:
    """Between the poll and the start a processor may lose interest: nothing is failed."""
    room = Room(clock, good)
    assert await room.run(type="other") is False
    assert room.source.released == [("a", 0.0)]


# --- attempts


async def test_attempts_are_remembered_until_the_task_is_settled(clock: Any) -> None:
    """The processor sees which attempt it is; after success or failure counting begins anew."""
    seen: list[int] = []

    async def work(task: Task) -> TaskResult:
        seen.append(task.attempt)
        if len(seen) in (3, 6):
            return TaskResult("done")
        raise ValueError

    room = Room(clock, work)
    for _ in range(6):
        await room.run()
    assert seen == [1, 2, 3, 1, 2, 3]


async def test_steps_belong_to_the_task_until_another_owner_has_it(clock: Any) -> None:
    """The runner says whose steps they are: a later attempt finds them, unless the claim was lost."""
    made: list[str] = []

    async def work(task: Task) -> TaskResult:
        async def call() -> str:
            made.append(task.id)
            return task.id

        await room.steps.run("one", call)
        raise errors.Transient("later")

    room = Room(clock, work)
    for task_id in ("a", "b", "a"):
        assert not await room.run(task_id)
    assert made == ["a", "b"]
    await room.runner.lost(claim("a"))
    for task_id in ("a", "b"):
        assert not await room.run(task_id)
    assert made == ["a", "b", "a"]


async def test_the_memory_of_attempts_is_bounded(clock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks that never come back are forgotten, the oldest first."""
    monkeypatch.setattr(journal, "REMEMBERED_TASKS", 2)
    seen: list[tuple[str, int]] = []

    async def work(task: Task) -> TaskResult:
        seen.append((task.id, task.attempt))
        raise errors.Retry(0)

    room = Room(clock, work)
    for task_id in ("a", "b", "c", "c", "b", "a"):
        await room.run(task_id)
    assert seen == [("a", 1), ("b", 1), ("c", 1), ("c", 2), ("b", 2), ("a", 1)]


async def test_a_cut_task_is_not_in_flight_at_a_crash(clock: Any) -> None:
    """A drain that cuts a task off gives it back in the journal, too."""
    room = Room(clock, hanging())
    running = asyncio.ensure_future(room.run())
    await asyncio.sleep(0)
    assert b'"state":"running"' in room.journal.lines[-1]
    await cut(running)
    assert b'"state":"idle"' in room.journal.lines[-1]


# --- cancellation


@pytest.mark.parametrize("turn", range(14))
async def test_cancelled_anywhere_a_finished_result_is_kept(clock: Any, turn: int) -> None:
    """Between the processor's return and the disk there is no gap: either it had not finished, or it is kept."""
    finished = False

    async def work(task: Task) -> TaskResult:
        nonlocal finished
        await turns(5)
        finished = True
        return TaskResult("paid for")

    room = Room(clock, work, turns=5)
    running = asyncio.ensure_future(room.run())
    await turns(turn)
    await cut(running)
    await turns(6)
    assert (standing(room.outbox, "a") == "in_outbox") is finished
    assert finished is (turn > 5)
    assert room.metrics.value("results_lost_total") == 0
    assert room.runner.settling == 0


async def test_a_drain_that_is_cut_is_no_attempt(clock: Any) -> None:
    """What a processor makes of being cancelled does not count, even when it turns it into an error."""
    room = Room(clock, hanging(ValueError()))
    for _ in range(4):
        running = asyncio.ensure_future(room.run())
        await asyncio.sleep(0)
        await cut(running)
        assert running.cancelled()
    assert (room.outbox.records, room.source.released) == ({}, [])


async def test_a_commit_that_fails_after_the_cancellation_is_counted(clock: Any, logs: Logs) -> None:
    """No caller is left to try again: the loss is logged."""
    room = Room(clock, good, turns=5)
    running = asyncio.ensure_future(room.run())
    await turns(3)
    room.outbox.error = FULL
    await cut(running)
    await turns(6)
    assert room.metrics.value("results_lost_total") == 1
    assert [line["task_id"] for line in logs if line["event"] == "result.lost"] == ["a"]


# --- the disk refuses


async def test_a_store_that_ends_the_process_in_a_commit_ends_nothing(
    clock: Any, logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``SystemExit`` in the task of a commit would end the event loop; the result stays in its slot."""
    room = Room(clock, good, answers=[errors.Unsent("refused")] * 1_000)

    async def put(_: Record) -> None:
        await clock.sleep(0.1)
        raise SystemExit(3)

    with monkeypatch.context() as patch:
        patch.setattr(room.outbox, "put", put)
        running = asyncio.ensure_future(room.run())
        await clock.sleep(10.0)
        assert not running.done()
    assert await running is True
    assert events(logs) == ["component.failed", "component.restored", "task.completed"]


@pytest.mark.parametrize("error", [FULL, RuntimeError("a bug of the store"), SystemExit(3)])
async def test_a_full_disk_holds_the_slot_until_it_takes_the_result(clock: Any, logs: Logs, error: Exception) -> None:
    """While disk and API fail, the result stays in its slot; begin and end are logged once."""
    room = Room(clock, good, disk=error, answers=[errors.Unsent("refused")] * 1_000)
    running = asyncio.ensure_future(room.run())
    await clock.sleep(100.5)
    assert not running.done()
    assert room.runner.settling == 1
    assert 90 <= room.outbox.puts <= 101
    room.outbox.error = None
    assert await running is True
    assert standing(room.outbox, "a") == "in_outbox"
    noun = "outbox" if error is FULL else "component"
    assert events(logs) == [f"{noun}.failed", f"{noun}.restored", "task.completed"]


async def test_while_the_disk_is_full_the_result_is_reported_directly(clock: Any) -> None:
    """The upstream has it at once and once only; the slot is free when the disk works again, and nothing is left."""
    room = Room(clock, good, disk=FULL)
    running = asyncio.ensure_future(room.run())
    await clock.sleep(60.0)
    assert room.source.told == [("a", {"answer": 42})]
    assert room.metrics.value("deliveries_total", outcome="acknowledged") == 1
    assert not running.done()
    room.outbox.error = None
    assert await running is True
    assert room.outbox.depth().waiting == 0
    assert len(room.source.told) == 1


async def test_direct_reports_have_the_delays_of_delivery(clock: Any) -> None:
    """An ambiguous answer is counted and not repeated every second; a refusal is never repeated from memory."""
    room = Room(clock, good, disk=FULL, answers=[errors.Ambiguous("the answer was lost")] * 1_000)
    running = asyncio.ensure_future(room.run())
    await clock.sleep(600.0)
    assert 3 <= len(room.source.told) <= 35
    assert room.metrics.value("ambiguous_deliveries_total") == len(room.source.told)
    room.source.answers = [errors.Rejected("refused", 400)]
    await clock.sleep(2_000.0)
    assert room.source.answers == []
    before = len(room.source.told)
    await clock.sleep(2_000.0)
    assert len(room.source.told) == before
    room.outbox.error = None
    assert await running is True
    assert standing(room.outbox, "a") == "dead_letter"
    assert room.metrics.value("deliveries_total", outcome="refused") == 1


@pytest.mark.parametrize(("answers", "lost"), [([], 0), ([errors.Unsent("refused")] * 100, 1)])
async def test_a_result_is_lost_only_when_disk_and_api_refuse_to_the_end(
    clock: Any, answers: list[Exception], lost: int
) -> None:
    """A drain that ends with a full disk loses what the API does not have, and counts it."""
    room = Room(clock, good, disk=FULL, answers=answers)
    running = asyncio.ensure_future(room.run())
    await clock.sleep(5.5)
    await cut(running)
    assert running.cancelled()
    assert room.metrics.value("results_lost_total") == lost


@pytest.mark.parametrize("sink_fails", [False, True])
async def test_direct_reports_go_through_the_sinks(clock: Any, sink_fails: bool) -> None:
    """Before and after; what a sink after the report has not taken is stored as acknowledged when the disk works."""
    written: list[str] = []

    class Books(Sink):
        def __init__(self, order: Literal["before_report", "after_report"]) -> None:
            self.name = self.order = order

        async def write(self, record: Record) -> None:
            if sink_fails and self.order == "after_report":
                raise errors.Unsent("refused")
            written.append(self.order)

    room = Room(clock, good, disk=FULL, sinks=[Books("after_report"), Books("before_report")])
    running = asyncio.ensure_future(room.run())
    await clock.sleep(60.0)
    room.outbox.error = None
    assert await running is True
    assert len(room.source.told) == 1
    assert written == (["before_report"] if sink_fails else ["before_report", "after_report"])
    assert [record.acknowledged for record in room.persisted] == ([True] if sink_fails else [])
    assert room.outbox.depth().waiting == len(room.persisted)


@pytest.mark.parametrize("error", [SystemExit(5), asyncio.CancelledError(), ValueError("a bug")])
async def test_whatever_a_direct_report_raises_the_result_is_kept(clock: Any, error: BaseException) -> None:
    room = Room(clock, good, disk=FULL, answers=[error])
    running = asyncio.ensure_future(room.run())
    await clock.sleep(10.0)
    room.outbox.error = None
    assert await running is True
    assert standing(room.outbox, "a") == "in_outbox"


async def test_a_direct_report_waits_for_a_circuit_of_the_source(clock: Any) -> None:
    """As long as it asks for."""
    room = Room(clock, good, disk=FULL, answers=[errors.CircuitOpen("mine", retry_after_s=30.0)] * 1_000)
    running = asyncio.ensure_future(room.run())
    await clock.sleep(60.5)
    assert len(room.source.told) == 3
    room.outbox.error = None
    assert await running is True


@pytest.mark.parametrize("error", [SystemExit(5), ValueError("a bug"), errors.Unsent("refused")])
async def test_a_release_that_fails_is_logged(
    clock: Any, logs: Logs, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slot is free, and the attempt is given back."""
    room = Room(clock, raising(errors.Transient("503")))

    async def release(*_: object) -> None:
        raise error

    monkeypatch.setattr(room.source, "release", release)
    assert await room.run() is False
    event = "task.not_released" if isinstance(error, errors.Unsent) else "component.failed"
    assert [line.get("task_id", "a") for line in logs if line["event"] == event] == ["a"]
