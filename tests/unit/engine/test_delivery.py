"""Delivery in virtual time: until it is acknowledged, never after, and calmly while nobody is there."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise, product
from typing import Any, Literal

import pytest

from ai_task_processor.core import errors
from ai_task_processor.core.deadline import stalls_of
from ai_task_processor.core.ports import Clock, Sink
from ai_task_processor.engine import delivery
from ai_task_processor.engine.delivery import Delivery
from ai_task_processor.engine.faults import Faults
from ai_task_processor.engine.reporting import deferral_s
from ai_task_processor.models.task import Completed, Failed, Failure, Outcome, Receipt, Record, TaskStatus
from ai_task_processor.net.resilience import Gate
from ai_task_processor.ops.metrics import Metrics
from tests.helpers import StubSource, standing
from tests.unit.engine.parts import Logs, UnwritableOutbox, at_work, events, ids_of, names
from tests.unit.records import record

CRASHED = "the task API answered 500"
THROWN = errors.Ambiguous(CRASHED, status=500)
AWAY = errors.Unsent("connection refused")
REFUSED = errors.Rejected("refused", 400)
SUFFERED_BY_ALL = ["Unsent", "Throttled", "Unauthorized", "NoToken", "Misconfigured", "Ambiguous", "Transient"]


class Source(StubSource):
    """Acknowledges after ``latency_s``, unless ``errors`` has something for this task, or ``error`` for all.

    Nothing is answered while ``answers`` is not set.
    """

    def __init__(self, clock: Clock, gate: Gate) -> None:
        self.latency_s = 0.0
        self.answers = asyncio.Event()
        self.answers.set()
        self.error: BaseException | None = None
        self.errors: dict[str, BaseException] = {}
        self.told: list[tuple[float, str]] = []
        self.outcomes: list[object] = []
        self.unwanted: set[str] = set()
        self.now = self.most = 0
        self._clock = clock
        self._gate = gate

    def expired(self, receipt: Receipt) -> bool:
        return receipt.id in self.unwanted

    async def report(self, receipt: Receipt, outcome: Outcome) -> None:
        match outcome:
            case Completed(result):
                self.outcomes.append(result.output)
            case Failed(failure):
                self.outcomes.append(failure)
        await self._gate.call(lambda: self._tell(receipt.id), about=receipt.id)

    async def _tell(self, task_id: str) -> None:
        self.told.append((self._clock.monotonic(), task_id))
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await self.answers.wait()
            await self._clock.sleep(self.latency_s)
        finally:
            self.now -= 1
        if error := self.errors.get(task_id, self.error):
            raise error


class Books(Sink):
    """A sink that fails while ``error`` is set, and hangs while ``hangs``."""

    def __init__(self, order: Literal["before_report", "after_report"], name: str = "books") -> None:
        self.order, self.name = order, name
        self.error: BaseException | None = None
        self.hangs = False
        self.written: list[str] = []
        self.discarded: list[str] = []

    async def write(self, record: Record) -> None:
        self.written.append(record.task_id)
        await self._fail()

    async def discard(self, record: Record) -> None:
        self.discarded.append(record.task_id)
        await self._fail()

    async def _fail(self) -> None:
        if self.hangs:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error


class Disk(UnwritableOutbox):
    """Counts how often it is read, and fails to be read on demand."""

    unreadable = False

    def __init__(self, clock: Clock) -> None:
        super().__init__(2**30, clock)
        self.looks = 0

    async def due(self, now: float, limit: int, exclude: frozenset[str] = frozenset()) -> Sequence[Record]:
        self.looks += 1
        if self.unreadable:
            raise ValueError("a row that makes no sense")
        return await super().due(now, limit, exclude)

    def record(self, task_id: str) -> Record:
        return (self._waiting | self._dead)[task_id]

    def _measure(self) -> None:
        """Adding up the bytes at every put would make these tests slow."""


class Room:
    """A delivery with everything around it; ``async with room.working()`` runs it.

    ``put``: what the outbox holds; ``errors``, ``error``, ``latency_s``: of the source.
    """

    def __init__(
        self,
        clock: Any,
        *,
        concurrency: int = 3,
        threshold: int = 5,
        put: Sequence[str] = (),
        errors: Mapping[str, BaseException] | None = None,
        error: BaseException | None = None,
        latency_s: float = 0.0,
        sinks: Sequence[Sink] = (),
        outbox: Disk | None = None,
    ) -> None:
        self.clock = clock
        self.metrics = Metrics(version="0", provider="mock", task_types=["t"])
        self.gate = Gate("api_delivery", threshold=threshold, clock=clock, metrics=self.metrics)
        self.source = Source(clock, self.gate)
        self.source.errors.update(errors or {})
        self.source.error, self.source.latency_s = error, latency_s
        self.outbox = outbox or Disk(clock)
        self.faults = Faults()
        self.delivery = Delivery(
            self.outbox,
            self.source,
            steps=self.outbox.steps,
            sinks=sinks,
            gate=self.gate,
            concurrency=concurrency,
            faults=self.faults,
            clock=clock,
            metrics=self.metrics,
            rng=random.Random(5),
        )
        self.put(*put)

    def put(self, *task_ids: str, body: bytes = b'{"n":1}', status: TaskStatus = TaskStatus.SUCCEEDED) -> None:
        now = self.clock.now().timestamp()
        given = {"finished_at": now, "created_at": now - 5, "status": status, "body": body, "fingerprint": "f"}
        for place, task_id in enumerate(task_ids):
            assert self.outbox.put(record(task_id, due_at=now - 1_000 + place / 1_000, **given)).done()
        self.delivery.wake()

    def offer(self, *task_ids: str, looked: bool = True) -> None:
        """Put, and handed on at once. ``looked``: nothing else is due, as far as delivery knows."""
        look = self.delivery._look and not looked
        self.put(*task_ids)
        self.delivery._look = look
        for task_id in task_ids:
            self.delivery.offer(self.outbox.record(task_id))

    def told(self, task_id: str | None = None) -> list[float]:
        """When it was reported, or when anything was."""
        return [at for at, name in self.source.told if task_id in (None, name)]

    def reported(self) -> list[str]:
        return [name for _, name in self.source.told]

    def state(self) -> str:
        return self.gate.state

    def count(self, outcome: str) -> float | None:
        return self.metrics.value("deliveries_total", outcome=outcome)

    @asynccontextmanager
    async def working(self) -> AsyncIterator["Room"]:
        async with at_work(self.delivery.run()):
            yield self


# --- in good times


async def test_results_and_failures_are_told_and_forgotten(clock: Any) -> None:
    """What the record says is what the source hears; acknowledged, it leaves the outbox and is counted."""
    room = Room(clock)
    room.put("a", body=b'{"n":1}')
    room.put("b", body=b'{"code":"c","message":"m"}', status=TaskStatus.FAILED)
    async with room.working():
        assert await room.delivery.flushed() is True
    assert room.source.outcomes == [{"n": 1}, Failure("c", "m")]
    assert (room.count("acknowledged"), room.outbox.depth().waiting) == (2, 0)
    assert room.metrics.value("task_end_to_end_seconds_count", task_type="t") == 2


async def test_what_was_just_put_is_not_read_back(clock: Any) -> None:
    async with Room(clock).working() as room:
        await clock.sleep(0.5)
        looks = room.outbox.looks
        room.offer("a", "b")
        await clock.sleep(0.1)
        assert room.reported() == ["a", "b"]
        assert room.outbox.looks == looks
        await clock.sleep(5.0)
    assert len(room.source.told) == 2


async def test_more_than_memory_should_hold_is_read_from_the_outbox(clock: Any) -> None:
    """Memory holds only as many as may be reported at once; the others are read from the outbox at once."""
    async with Room(clock, concurrency=3).working() as room:
        await clock.sleep(0.5)
        room.offer(*names(20))
        assert len(room.delivery._fresh) == 3
        await clock.sleep(0.1)
    assert sorted(room.reported()) == sorted(names(20))


async def test_it_is_behind_while_results_wait_for_a_source_that_takes_them(clock: Any) -> None:
    """From half of what is under way at once; not once they are gone, and not while the source hangs."""
    seen = []
    async with Room(clock, concurrency=4, latency_s=0.3).working() as room:
        await clock.sleep(0.5)
        room.offer(*"abcd")
        await clock.sleep(0.1)
        room.offer(*"ef")
        seen.append(room.delivery.behind)  # nothing has been acknowledged yet
        await clock.sleep(0.3)
        room.offer(*"ghij")
        seen.append(room.delivery.behind)
        (problem,) = room.delivery.problems()
        assert problem.message.startswith("4 results wait to be reported")
        await clock.sleep(0.9)
        seen.append(room.delivery.behind)
        room.source.latency_s = 30.0
        room.offer(*"klmn")
        await clock.sleep(1.1)
        room.offer(*"opqr")
        seen.append(room.delivery.behind)
    assert (seen, room.delivery.problems()) == ([False, True, False, False], ())


async def test_it_is_not_behind_while_there_is_room_for_all_that_waits(clock: Any) -> None:
    """A batch that is as large as what may be under way at once holds up no poll."""
    async with Room(clock, concurrency=4).working() as room:
        await clock.sleep(0.5)
        room.offer("a")
        await clock.sleep(0.1)
        room.offer("b", "c", "d", "e")
        assert not room.delivery.behind


async def test_what_fills_the_room_is_not_read_back_again_and_again(clock: Any) -> None:
    """The disk is read once a second, although each time as many results wait as may be under way at once."""
    async with Room(clock, concurrency=4).working() as room:
        await clock.sleep(0.5)
        for number in range(40):
            room.offer(*(f"{number}-{letter}" for letter in "abcd"), looked=False)
            await clock.sleep(0.1)
        assert len(room.source.told) == 160
    assert room.outbox.looks <= 6


async def test_an_operator_can_drop_what_was_just_put(clock: Any) -> None:
    room = Room(clock)
    room.offer("a", "b")
    await room.outbox.delivered("a")
    room.delivery.wake()
    async with room.working():
        await clock.sleep(5.5)  # between two looks
        room.offer("c")
        await clock.sleep(5.0)
    assert room.reported() == ["b", "c"]


async def test_at_most_so_many_at_once_oldest_due_first(clock: Any) -> None:
    """``concurrency`` is a bound, it is used, and the order is that of the due times."""
    async with Room(clock, concurrency=3, latency_s=1.0, put=names(20)).working() as room:
        began = clock.monotonic()
        await room.delivery.flushed()
        assert clock.monotonic() - began < 8.0
    assert room.source.most == 3
    assert room.reported() == names(20)


async def test_the_window_opens_with_acknowledgements(clock: Any) -> None:
    """Slow start: a source that has just come back is met by few reports, then by twice as many, up to the bound."""
    at_once = []
    async with Room(clock, concurrency=16, latency_s=1.0, put=names(60)).working() as room:
        for _ in range(4):
            await clock.sleep(0.5)
            at_once.append(room.source.now)
            await clock.sleep(0.5)
        assert at_once == [4, 8, 16, 16]


async def test_a_new_result_leaves_at_once(clock: Any) -> None:
    """Woken by a put, it does not wait for its next look, however long it has been idle."""
    async with Room(clock).working() as room:
        for _ in range(20):
            await clock.sleep(random.Random(2).uniform(5, 9))
            put_at = clock.monotonic()
            room.put("a")
            await clock.sleep(0.01)
            assert room.told()[-1] == put_at


async def test_nothing_to_do_costs_nothing(clock: Any) -> None:
    """An empty outbox is not read at all; one with deferred records once a second."""
    async with Room(clock).working() as room:
        await clock.sleep(3_600.0)
        assert room.outbox.looks == 0
        room.source.errors["a"] = errors.Ambiguous("500")
        room.put("a")
        await clock.sleep(3_600.0)
        assert room.outbox.looks <= 3_600 + len(room.told()) + 10


async def test_flushed_waits_for_what_is_under_way(clock: Any) -> None:
    """It returns when the last answer has been written down; dead letters do not count."""
    async with Room(clock, errors={"b": REFUSED}, latency_s=3.0, put=["a", "b"]).working() as room:
        began = clock.monotonic()
        assert await room.delivery.flushed() is True
        assert clock.monotonic() - began == pytest.approx(3.0, abs=0.1)
    assert (room.outbox.depth().waiting, room.outbox.depth().dead) == (0, 1)


# --- answers


@pytest.mark.parametrize("outcome", ["refused", "gone", "conflict"])
async def test_a_refusal_is_a_dead_letter(clock: Any, logs: Logs, outcome: Any) -> None:
    """Refused for good: kept with its reason, counted by kind, never sent again."""
    refusal = errors.Rejected(outcome, 409)
    refusal.detail = "already final"
    async with Room(clock, errors={"a": refusal}, put=["a", "b"]).working() as room:
        await clock.sleep(5_000.0)
    assert len(room.told("a")) == 1
    assert (room.count(outcome), room.count("acknowledged")) == (1, 1)
    buried = room.outbox.record("a")
    assert (buried.reason, buried.attempts) == (f"{outcome} (HTTP 409): already final", 1)
    (line,) = [line for line in logs if line["event"] == "delivery.refused"]
    assert (line["task_id"], line["reason"], line["attempts"]) == ("a", buried.reason, 1)


async def test_attempts_before_a_refusal_are_counted(clock: Any, logs: Logs) -> None:
    """Two failures, then a refusal: the dead letter shows three attempts, as the log does."""
    failure = errors.Ambiguous(CRASHED)
    failure.detail = "the callback threw"
    async with Room(clock, errors={"a": failure}, put=["a"]).working() as room:
        while len(room.told("a")) < 2:
            await clock.sleep(0.1)
        room.source.errors["a"] = REFUSED
        while room.outbox.depth().waiting:
            await clock.sleep(0.1)
    assert room.outbox.record("a").attempts == 3
    told = [(line["event"], line["reason"], line["attempts"]) for line in logs if line["event"].startswith("delivery.")]
    assert told == [
        ("delivery.deferred", f"{CRASHED}: the callback threw", 1),
        ("delivery.deferred", f"{CRASHED}: the callback threw", 2),
        ("delivery.refused", "refused (HTTP 400)", 3),
    ]


async def test_deferral_grows_to_a_quarter_of_an_hour_and_stands_in_the_outbox(clock: Any) -> None:
    """A record that fails while others are acknowledged is tried less and less, counted each time."""
    async with Room(clock, threshold=1_000, errors={"a": errors.Ambiguous(CRASHED)}, put=["a"]).working() as room:
        for other in range(200):
            room.put(f"ok{other}")
            await clock.sleep(100.0)
        times = room.told("a")
        failures = room.count("retried")
        gaps = [later - earlier for earlier, later in pairwise(times)]
        assert len(times) > 20
        assert max(gaps) <= 902.0
        assert max(gaps) > 300.0
        assert len({round(gap) for gap in gaps[12:]}) > 3, "with jitter"
        record = room.outbox.record("a")
        assert record.attempts == len(times)
        assert record.due_at > clock.now().timestamp()
    assert room.metrics.value("ambiguous_deliveries_total") == failures == len(times)


@pytest.mark.parametrize("name", SUFFERED_BY_ALL)
def test_a_record_is_not_made_to_wait_for_long_by_what_all_suffer(name: str) -> None:
    """What may not be its own fault defers a record by a minute at most, unless the source names a time."""
    kind, rng = getattr(errors, name), random.Random(1)
    pauses = [deferral_s(kind("x"), attempts, own=False, rng=rng) for attempts in range(1, 200)]
    assert 0.25 <= min(pauses) < max(pauses) <= 60.0
    assert deferral_s(kind("x", retry_after_s=120.0), 1, own=False, rng=rng) == 120.0
    assert max(deferral_s(kind("x"), 30, own=True, rng=rng) for _ in range(200)) > 600.0


async def test_one_throwing_callback_neither_opens_the_circuit_nor_holds_it_open(clock: Any) -> None:
    """With nothing else to deliver it fails for an hour; what comes then leaves at once, and again after an outage."""
    async with Room(clock, concurrency=4, errors={"x": THROWN}, put=["x"]).working() as room:
        await clock.sleep(3_600.0)
        assert len(room.told("x")) > 10
        assert room.state() == "closed"
        room.put("a")
        await clock.sleep(1.0)
        assert standing(room.outbox, "a") is None
        await clock.sleep(3_600.0)
        # An outage for all. When it ends the circuit is open, and "x" must not be the probe that keeps it so.
        room.source.error = errors.Ambiguous("timed out")
        room.put(*names(20))
        await clock.sleep(120.0)
        assert room.state() == "open"
        room.source.error = None
        await clock.sleep(60.0 + 30.0 + 10.0)
        assert room.outbox.depth().waiting == 1
        assert room.state() == "closed"


@pytest.mark.parametrize("step_s", [-86_400.0, -3_500.0, -600.0, 600.0, 86_400.0])
async def test_a_clock_that_is_set_strands_nothing(clock: Any, step_s: float) -> None:
    """What was deferred leaves when it would have left, whatever the wall clock is set to meanwhile."""
    async with Room(clock, errors={"a": errors.Ambiguous("500")}, put=["a"]).working() as room:
        await clock.sleep(5.0)
        clock.jump(step_s)
        room.source.errors.clear()
        await clock.sleep(62.0)
        assert standing(room.outbox, "a") is None


async def test_a_closed_gate_charges_nothing(clock: Any, logs: Logs) -> None:
    """``CircuitOpen`` leaves the record as it was: due, with its attempts. The source is left alone for as long as it
    asks, and the log says so once.
    """
    room = Room(clock, errors={"a": errors.CircuitOpen("held", retry_after_s=5.0)}, put=["a"])
    before = room.outbox.record("a")
    async with room.working():
        await clock.sleep(60.0)
        assert room.outbox.record("a") == before
        assert 9 <= len(room.told()) <= 13
        assert room.count("retried") == 0
        room.source.errors.clear()
        room.delivery.wake()
        assert await room.delivery.flushed(1.0) is True
    held = [(line["event"], line.get("reason")) for line in logs if line["event"] in events(logs)]
    assert held == [("delivery.held", "held"), ("delivery.resumed", None)]


@pytest.mark.parametrize(("order", "attempts"), [("before_report", 0), ("after_report", 1)])
async def test_a_sink_that_is_not_asked_is_no_attempt(clock: Any, order: Any, attempts: int) -> None:
    """While a sink's circuit is open, only reports count; the reason is shown nevertheless."""
    books = Books(order)
    books.error = errors.CircuitOpen("connection refused", retry_after_s=5.0)
    async with Room(clock, sinks=[books], put=["a"]).working() as room:
        await clock.sleep(100.0)
    waiting = room.outbox.record("a")
    assert len(books.written) > 2
    assert (waiting.attempts, len(room.told())) == (attempts, attempts)
    assert "sink books: connection refused" in str(waiting.reason)


async def test_an_acknowledgement_is_one_line_with_what_an_operator_follows(clock: Any, logs: Logs) -> None:
    """Id, type, status, attempts, and the seconds since the task was created."""
    async with Room(clock, put=["a"]).working() as room:
        assert await room.delivery.flushed() is True
    (line,) = [line for line in logs if line["event"] == "delivery.acknowledged"]
    assert line.pop("end_to_end_seconds") >= 5.0
    wide = {"task_id": "a", "task_type": "t", "status": "succeeded", "attempts": 1}
    assert line == {"event": "delivery.acknowledged", "log_level": "info", **wide}


async def test_an_unreadable_record_neither_stops_the_others_nor_is_lost(clock: Any, logs: Logs) -> None:
    """A record with an invalid body is deferred like any failure, and logged."""
    room = Room(clock)
    room.put("bad", body=b"not json")
    room.put("a", "b")
    async with room.working():
        await clock.sleep(5.0)
        assert room.reported() == ["a", "b"]
        assert room.outbox.record("bad").attempts >= 1
    assert ids_of(logs, "delivery.crashed") == {"bad"}


async def test_a_record_that_fails_for_a_day_while_others_succeed_becomes_a_dead_letter(
    clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fault is its own: kept with the reason, counted as refused, not tried any more."""
    monkeypatch.setattr(delivery, "LOOK_AGAIN_S", 60.0)
    async with Room(clock, threshold=1_000, errors={"a": errors.Ambiguous(CRASHED)}, put=["a"]).working() as room:
        for hour in range(23):
            room.put(f"ok{hour}")
            await clock.sleep(3_600.0)
        assert room.outbox.depth().waiting == 1
        for hour in range(23, 27):
            room.put(f"ok{hour}")
            await clock.sleep(3_600.0)
        assert standing(room.outbox, "a") == "dead_letter"
    assert room.count("refused") == 1
    assert "while others were acknowledged" in str(room.outbox.record("a").reason)


async def test_no_outage_makes_dead_letters(clock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two days in which nothing is acknowledged bury nothing, and one bad answer after it neither."""
    monkeypatch.setattr(delivery, "LOOK_AGAIN_S", 60.0)
    async with Room(clock, threshold=1_000, error=errors.Ambiguous(CRASHED), put=["a", "b", "c"]).working() as room:
        await clock.sleep(2 * 86_400.0)
        room.source.error = None
        room.source.errors["a"] = errors.Ambiguous(CRASHED)
        await clock.sleep(2_000.0)
        assert standing(room.outbox, "a") == "in_outbox"
        room.source.errors.clear()
        assert await room.delivery.flushed() is True
    assert room.outbox.depth().dead == 0


@pytest.mark.parametrize("error", [SystemExit(5), KeyboardInterrupt(), asyncio.CancelledError(), ValueError("a bug")])
async def test_a_source_that_raises_anything_else_is_asked_again(clock: Any, logs: Logs, error: BaseException) -> None:
    """The daemon goes on, the result is kept, and the log has the traceback."""
    async with Room(clock, errors={"a": error}, put=["a", "b"]).working() as room:
        await clock.sleep(5.0)
        assert room.outbox.record("a").reason == f"delivery failed: {type(error).__name__}"
        room.source.errors.clear()
        assert await room.delivery.flushed(90.0) is True
    assert ids_of(logs, "delivery.crashed") == {"a"}


async def until(passed: Callable[[], object]) -> None:
    """In real time: deadlines know no other."""
    while not passed():  # noqa: ASYNC110 - there is no event for it
        await asyncio.sleep(0.005)


async def test_a_report_that_hangs_is_given_up_and_repeated(clock: Any) -> None:
    """It may have been applied, so it counts as ambiguous; the record says why it waits."""
    room = Room(clock)
    room.source.answers.clear()
    room.source.report_within_s = 0.02
    room.put("a")
    async with room.working():
        await until(lambda: room.count("retried"))
        assert room.outbox.record("a").reason == "the source did not acknowledge a report in time"
        assert room.metrics.value("ambiguous_deliveries_total") == room.count("retried")
        room.source.report_within_s = 60.0
        room.source.answers.set()
        assert await room.delivery.flushed(90.0) is True


# --- sinks

FAILURES = [errors.Rejected("refused"), ValueError("x"), SystemExit(4), asyncio.CancelledError(), AWAY]


async def test_what_was_acknowledged_goes_to_the_sinks_and_never_to_the_source_again(clock: Any) -> None:
    """Not even after a restart: the outbox knows. When the sink takes it, it is gone."""
    books = Books("after_report")
    books.error = AWAY
    async with Room(clock, sinks=[books], put=["a"]).working() as room:
        await clock.sleep(100.0)
        assert len(books.written) > 2
    waiting = room.outbox.record("a")
    assert (waiting.acknowledged, waiting.reason) == (True, "acknowledged; sink books: connection refused")
    assert (room.count("acknowledged"), room.outbox.depth().waiting) == (1, 1)
    async with Room(clock, sinks=[books], outbox=room.outbox).working() as later:
        books.error = None
        assert await later.delivery.flushed(90.0) is True
    assert (room.reported(), later.reported()) == (["a"], [])


async def test_an_acknowledgement_is_stored_before_a_sink_is_written(clock: Any) -> None:
    """A process that is killed while the sink hangs does not report again. The record names the sink."""
    books = Books("after_report")
    books.hangs = True
    async with Room(clock, sinks=[books], put=["a"]).working() as room:
        await clock.sleep(1.0)
    waiting = room.outbox.record("a")
    assert (waiting.acknowledged, waiting.reason) == (True, "acknowledged; not in sink books yet")


async def test_a_sink_that_fails_keeps_no_other_from_a_record_and_repeats_none(clock: Any) -> None:
    """Whichever comes first; what one of them took is known after a restart, and forgotten with the record."""
    first, books, last = (Books("after_report", name) for name in ("first", "books", "last"))
    books.error = first.error = AWAY
    async with Room(clock, sinks=[first, books, last], put=["a"]).working() as room:
        await clock.sleep(100.0)
        first.error = None
        await clock.sleep(100.0)
    reason = str(room.outbox.record("a").reason)
    assert reason == "acknowledged; sink books: connection refused"
    assert (first.written.count("a") > 1, last.written) == (True, ["a"])
    times = len(first.written)
    async with Room(clock, sinks=[first, books, last], outbox=room.outbox).working() as later:
        books.error = None
        assert await later.delivery.flushed(90.0) is True
    assert (len(first.written), last.written) == (times, ["a"])
    assert await room.outbox.steps.load("a", "f") == {}


async def test_a_kill_while_one_sink_is_slow_repeats_no_other(clock: Any) -> None:
    """What the others took is stored at once."""
    books, slow = Books("after_report"), Books("after_report", "slow")
    slow.hangs = True
    async with Room(clock, sinks=[books, slow], put=["a"]).working() as room:
        await until(lambda: room.outbox.steps._answers)
    async with Room(clock, sinks=[books, slow], outbox=room.outbox).working() as later:
        slow.hangs = False
        assert await later.delivery.flushed(90.0) is True
    assert (books.written, slow.written) == (["a"], ["a", "a"])


async def test_an_outcome_that_nobody_wants_any_more_is_deleted(clock: Any, logs: Logs) -> None:
    """Whether it was reported or not: no sink gets it, and the log says so."""
    books = Books("after_report")
    books.error = AWAY
    async with Room(clock, sinks=[books], put=["a"]).working() as room:
        await clock.sleep(5.0)
        room.source.unwanted = {"a", "b"}
        room.put("b")
        assert await room.delivery.flushed(90.0) is True
    assert (room.reported(), set(books.written)) == (["a"], {"a"})
    assert sorted(line["task_id"] for line in logs if line["event"] == "delivery.expired") == ["a", "b"]


async def test_an_acknowledgement_that_cannot_be_stored_is_not_reported_again(clock: Any) -> None:
    """The record stays under way until the disk works; then the sink gets it."""
    books = Books("after_report")
    room = Room(clock, sinks=[books], put=["a"])
    room.outbox.unwritable = True
    async with room.working():
        await clock.sleep(60.0)
        room.outbox.unwritable = False
        assert await room.delivery.flushed(90.0) is True
    assert (room.reported(), books.written) == (["a"], ["a"])


@pytest.mark.parametrize(
    ("order", "error"),
    [
        (order, error)
        for order, error in product(("before_report", "after_report"), FAILURES)
        if order == "before_report" or not isinstance(error, errors.Rejected)
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
async def test_whatever_a_sink_raises_is_its_own_failure(
    clock: Any, logs: Logs, order: Any, error: BaseException
) -> None:
    """No dead letter; the record and the log name the sink, once per change."""
    books = Books(order)
    books.error = error
    async with Room(clock, sinks=[Books("before_report", "other"), books], put=["a"]).working() as room:
        await clock.sleep(100.0)
        assert "sink books: " in str(room.outbox.record("a").reason)
        assert standing(room.outbox, "a") == "in_outbox"
        books.error = None
        assert await room.delivery.flushed(90.0) is True
    told = [(line["event"], line["sink"]) for line in logs if line["event"].startswith("sink.")]
    assert told == [("sink.failed", "books"), ("sink.restored", "books")]
    assert room.reported() == ["a"]


async def test_what_a_sink_refuses_for_good_is_a_dead_letter(clock: Any) -> None:
    """Once the others have it, and with the sink's words; a retry by an operator offers it again, and to it alone."""
    other, books = Books("after_report", "other"), Books("after_report")
    other.error, books.error = errors.Transient("away"), errors.Rejected("refused")
    async with Room(clock, sinks=[other, books], put=["a"]).working() as room:
        await clock.sleep(30.0)
        assert standing(room.outbox, "a") == "in_outbox"
        other.error = None
        await clock.sleep(120.0)
        assert standing(room.outbox, "a") == "dead_letter"
        assert "sink books: refused" in str(room.outbox.record("a").reason)
        books.error = None
        tries = len(other.written), len(books.written)
        room.outbox.leave_request("retry", ["a"])
        await room.outbox.apply_requests()
        await clock.sleep(30.0)
        assert standing(room.outbox, "a") is None
    assert (len(other.written), len(books.written)) == (tries[0], tries[1] + 1)
    assert room.reported() == ["a"]


async def test_a_record_that_only_a_sink_refuses_makes_no_dead_letter(
    clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others go through for days."""
    monkeypatch.setattr(delivery, "LOOK_AGAIN_S", 60.0)
    books = Books("before_report")

    async def write(record: Record) -> None:
        if record.task_id == "a":
            raise ValueError("too long")

    books.write = write  # type: ignore[method-assign]
    async with Room(clock, sinks=[books], put=["a"]).working() as room:
        for other in range(60):
            room.put(f"ok{other}")
            await clock.sleep(3_600.0)
        assert standing(room.outbox, "a") == "in_outbox"
        assert room.outbox.depth().waiting == 1


@pytest.mark.parametrize("order", ["before_report", "after_report"])
async def test_a_sink_that_hangs_is_given_up_and_tried_again(clock: Any, order: Any) -> None:
    books = Books(order)
    books.hangs, books.within_s = True, 0.02
    async with Room(clock, sinks=[books], put=["a"]).working() as room:
        await until(lambda: len(books.written) > 1)
        assert "sink books: TimeoutError" in str(room.outbox.record("a").reason)
        books.hangs = False
        await until(lambda: room.outbox.depth().waiting == 0)
    assert room.reported() == ["a"]


@pytest.mark.parametrize("outcome", ["lost", "gone"])
async def test_a_result_that_cannot_be_discarded_is_not_reported_again(clock: Any, logs: Logs, outcome: Any) -> None:
    """The source has refused it for good: the log names the sink that still has it."""
    books = Books("before_report")
    async with Room(clock, sinks=[books], errors={"a": errors.Rejected(outcome)}, latency_s=1.0).working() as room:
        room.put("a")
        await clock.sleep(0.5)
        books.error = ValueError("x")
        await clock.sleep(600.0)
    assert (room.reported(), books.discarded) == (["a"], ["a"])
    assert room.outbox.depth().waiting == 0
    (line,) = [line for line in logs if line["event"] == "sink.not_discarded"]
    assert (line["task_id"], line["reason"]) == ("a", "sink books: ValueError")


async def test_an_acknowledged_record_is_the_last_choice_for_a_probe(clock: Any) -> None:
    """It says nothing about the source."""
    room = Room(clock, put=["a", "b"])
    await room.outbox.acknowledged("a", "")
    due = await room.outbox.due(clock.now().timestamp(), 10)
    assert [record.task_id for record in room.delivery._probes(due)] == ["b"]
    assert [record.task_id for record in room.delivery._probes(due[:1])] == ["a"]


# --- outages


async def test_ten_thousand_waiting_records_wait_quietly(clock: Any) -> None:
    """While the circuit is open: 4 requests in the first minute, then 2, and no busy reading of the outbox."""
    async with Room(clock, concurrency=16, error=AWAY, put=names(10_000)).working() as room:
        await clock.sleep(1.0)
        opened = len(room.told())
        assert room.state() == "open"
        await clock.sleep(59.0)
        assert len(room.told()) - opened <= 4
        looks, told = room.outbox.looks, len(room.told())
        await clock.sleep(600.0)
        assert len(room.told()) - told <= 21
        assert room.outbox.looks - looks <= 60
        room.source.error, room.source.latency_s = None, 0.5
        while room.gate.reason is not None:
            await clock.sleep(0.1)
        left = room.outbox.depth().waiting
        await clock.sleep(10.0)
        assert left - room.outbox.depth().waiting >= 0.9 * 16 * 10.0 / 0.5


@pytest.mark.parametrize("latency_s", [0.0, 3.0])
async def test_one_record_is_the_probe(clock: Any, latency_s: float) -> None:
    """While the gate is held nothing else goes near the source: one at a time, then all."""
    error = errors.Throttled("429", retry_after_s=10.0)
    async with Room(clock, concurrency=8, error=error, put=names(50)).working() as room:
        await clock.sleep(5.0)
        asked, told = len(room.source.outcomes), len(room.told())
        assert told <= asked <= 8
        room.source.latency_s, room.source.most = latency_s, 0
        await clock.sleep(100.0)
        assert room.source.most == 1
        assert len(room.source.outcomes) - asked == len(room.told()) - told, "nobody even asked while a probe was out"


async def test_a_record_that_always_fails_does_not_keep_the_others_waiting(clock: Any) -> None:
    """It is the probe at times, and the next probe is another record: all the others are delivered."""
    async with Room(clock, concurrency=1, errors={"x": errors.Ambiguous(CRASHED)}, put=["x"]).working() as room:
        await clock.sleep(300.0)
        room.put(*names(20))
        await clock.sleep(90.0)
        assert room.outbox.depth().waiting == 1


@pytest.mark.parametrize("stopped_s", [0.0, 60.0])
async def test_flushed_gives_up_on_a_source_that_is_away_and_uses_a_blip(clock: Any, stopped_s: float) -> None:
    """With a timeout it returns when nothing was delivered for that long, and the time of a stop of the process does
    not count; a source that recovers in time is used."""
    async with Room(clock, error=AWAY, put=["a", "b"]).working() as room:
        began = clock.monotonic()
        flushed = asyncio.create_task(room.delivery.flushed(5.0))
        await clock.sleep(2.0)
        if stopped_s:
            stalls_of(asyncio.get_running_loop()).note(0.0, stopped_s)
            clock.advance(stopped_s)
        assert await flushed is False
        assert clock.monotonic() - began == pytest.approx(5.0 + stopped_s, abs=1.0)
        room.source.error = None
        assert await room.delivery.flushed(60.0) is True


async def test_flushed_waits_for_an_answer_that_is_on_its_way(clock: Any) -> None:
    """A request in flight is not abandoned at the timeout: its answer shows whether it must be repeated."""
    async with Room(clock, latency_s=20.0, put=["a"]).working() as room:
        assert await room.delivery.flushed(5.0) is True


# --- the disk


async def test_what_was_acknowledged_is_never_sent_again_though_the_disk_refuses(clock: Any, logs: Logs) -> None:
    """It stays under way until the disk has forgotten it; the log says so once."""
    room = Room(clock, put=["a"])
    room.outbox.unwritable = True
    async with room.working():
        await clock.sleep(600.0)
        assert room.count("acknowledged") == 1
        assert room.outbox.depth().waiting == 1
        room.outbox.unwritable = False
        await clock.sleep(2.0)
        assert room.outbox.depth().waiting == 0
        await clock.sleep(600.0)
    assert len(room.told()) == 1
    assert events(logs) == ["outbox.failed", "outbox.restored"]


@pytest.mark.parametrize(
    ("method", "error"), [("delivered", RuntimeError("x")), ("delivered", SystemExit(3)), ("defer", TypeError())]
)
async def test_what_a_store_gets_wrong_ends_nothing(
    clock: Any, logs: Logs, monkeypatch: pytest.MonkeyPatch, method: str, error: BaseException
) -> None:
    """As when the disk refuses; the store is named, in ``/ready``, too, until it works."""
    room = Room(clock, put=["a"], error=None if method == "delivered" else AWAY)

    async def broken(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(room.outbox, method, broken)
        async with room.working():
            await clock.sleep(60.0)
            assert len(room.told()) == 1
            assert [problem.code for problem in room.faults.problems] == ["component_failed"]
            patch.undo()
            room.source.error = None
            await clock.sleep(600.0)
            assert room.outbox.depth().waiting == 0
    assert room.faults.problems == []
    assert events(logs).count("component.failed") == events(logs).count("component.restored") == 1


async def test_an_outbox_that_cannot_be_read_is_tried_again(clock: Any, logs: Logs) -> None:
    """A disk that fails under a look costs that look and not the daemon."""
    room = Room(clock, put=["a"])
    room.outbox.unreadable = True
    async with room.working():
        await clock.sleep(60.0)
        assert room.outbox.looks <= 62
        room.outbox.unreadable = False
        await clock.sleep(2.0)
        assert room.outbox.depth().waiting == 0
    assert events(logs) == ["component.failed", "component.restored"]
