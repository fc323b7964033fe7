"""The contract suite of stores (``ports.Store``). Each promise gets a new store, with a ``FixedClock``.

A store of another package runs it, too: ``await check_store(make)``, or each promise as a test::

    @pytest.mark.parametrize("promise", STORE_PROMISES, ids=name_of)
    async def test_my_store(promise):
        async with my_case() as case:
            await promise(case)
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

from ai_task_processor.core.ports import Outbox, Standing, Store
from ai_task_processor.models.task import Receipt, Record, Task, TaskStatus, Usage

NOW = 1_800_000_000.0
MAX_BYTES = 10_000
SOURCE = "testing"


class FixedClock:
    """``ports.Clock`` that stands still at ``NOW``."""

    def monotonic(self) -> float:
        return NOW

    def now(self) -> datetime:
        return datetime.fromtimestamp(NOW, UTC)

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nothing here may wait")


@dataclass
class StoreCase:
    """An open, empty store of the source ``SOURCE``, with a ``FixedClock`` and a limit of ``MAX_BYTES``.

    ``request`` leaves a request about tasks, as an operator's command does. ``restart`` simulates a kill, and returns
    the store as the next process opens it; None when nothing survives a restart.
    """

    store: Store
    request: Callable[[Literal["retry", "drop"], Iterable[str]], object]
    restart: Callable[[], Awaitable[Store]] | None = None


StorePromise = Callable[[StoreCase], Awaitable[None]]


async def check_store(make: Callable[[], AbstractAsyncContextManager[StoreCase]]) -> None:
    """Run every promise against a store. Raises ``AssertionError``."""
    for promise in STORE_PROMISES:
        async with make() as case:
            await promise(case)


def record(task_id: str = "a", **changes: Any) -> Record:
    values = Record(
        receipt=Receipt(SOURCE, task_id, "token"),
        task_type="text_embedding",
        status=TaskStatus.SUCCEEDED,
        fingerprint="f1",
        finished_at=NOW - 10,
        created_at=NOW - 20,
        due_at=NOW - 10,
    )
    return replace(values, **changes)


def task(task_id: str = "a") -> Task:
    return Task(id=task_id, type="t", content={"text": task_id})


def ids(records: Iterable[Record]) -> list[str]:
    return [found.task_id for found in records]


async def standing(outbox: Outbox, task_id: str, fingerprint: str | None = None) -> Standing | None:
    """The standing of a task's record, with a fingerprint: only if it applies to this content."""
    held = (await outbox.held([task_id])).get(task_id)
    if held is None or (held.standing != "in_outbox" and fingerprint not in (None, held.fingerprint)):
        return None
    return held.standing


# --- outcomes


async def an_empty_outbox_has_nothing(case: StoreCase) -> None:
    """Without a put nothing is held, due or counted, and the outbox is not full."""
    outbox = case.store.outbox
    assert await standing(outbox, "a") is None
    assert await outbox.due(NOW, 10) == []
    depth = outbox.depth()
    assert (depth.waiting, depth.dead, depth.bytes, depth.oldest_finished_at) == (0, 0, 0, None)
    assert outbox.writable
    assert not outbox.full


async def put_is_held_before_it_is_awaited(case: StoreCase) -> None:
    """A record is held from the moment ``put`` returns."""
    outbox = case.store.outbox
    pending = outbox.put(record())
    assert await standing(outbox, "a") == "in_outbox"
    assert outbox.depth().waiting == 1
    await pending
    assert await standing(outbox, "a", "f1") == "in_outbox"


async def due_gives_back_every_field(case: StoreCase) -> None:
    """What comes out equals what went in, bytes included."""
    outbox = case.store.outbox
    full = record(body=b'{"code":"x"}', vector=bytes(range(256)), attempts=3, reason="why", status=TaskStatus.FAILED)
    bare = record("b", created_at=None, due_at=NOW)
    await outbox.put(full)
    await outbox.put(bare)
    assert await outbox.due(NOW, 10) == [full, bare]


async def due_is_ordered_and_limited(case: StoreCase) -> None:
    """The oldest due come first, at most ``limit``, and none before its time."""
    outbox = case.store.outbox
    for task_id, due_at in [("b", NOW - 1), ("c", NOW), ("a", NOW - 2), ("later", NOW + 0.001)]:
        await outbox.put(record(task_id, due_at=due_at))
    assert ids(await outbox.due(NOW, 2)) == ["a", "b"]
    assert ids(await outbox.due(NOW, 10)) == ["a", "b", "c"]


async def excluded_records_do_not_use_up_the_limit(case: StoreCase) -> None:
    """``exclude`` leaves records out, and the next ones are returned instead."""
    outbox = case.store.outbox
    for task_id in ("a", "b", "c"):
        await outbox.put(record(task_id, due_at=NOW - 10 + ord(task_id) / 1000))
    assert ids(await outbox.due(NOW, 1, frozenset({"a", "b"}))) == ["c"]


async def a_record_from_before_a_clock_jump_is_due(case: StoreCase) -> None:
    """A record whose due time is later than any deferral counts as due, after the others."""
    outbox = case.store.outbox
    await outbox.put(record("stranded", due_at=NOW + 3601))
    await outbox.put(record("deferred", due_at=NOW + 900))
    await outbox.put(record("due", due_at=NOW - 1))
    assert ids(await outbox.due(NOW, 10)) == ["due", "stranded"]


async def defer_moves_the_due_time(case: StoreCase) -> None:
    """A deferred record is due at its new time, with its attempts and the reason."""
    outbox = case.store.outbox
    await outbox.put(record())
    await outbox.defer("a", due_at=NOW + 60, attempts=2, reason="it is down")
    assert await outbox.due(NOW + 59, 10) == []
    (found,) = await outbox.due(NOW + 60, 10)
    assert (found.attempts, found.due_at, found.reason) == (2, NOW + 60, "it is down")


async def delivered_is_forgotten(case: StoreCase) -> None:
    """After the acknowledgement the task is unknown, so that it can be claimed again."""
    outbox = case.store.outbox
    await outbox.put(record())
    await outbox.delivered("a")
    assert await standing(outbox, "a") is None
    assert await outbox.due(NOW, 10) == []
    assert outbox.depth().bytes == 0


async def unknown_ids_are_harmless(case: StoreCase) -> None:
    """``delivered``, ``acknowledged``, ``defer`` and ``bury`` of a record that is not there change nothing."""
    outbox = case.store.outbox
    await outbox.delivered("x")
    await outbox.acknowledged("x", "not in a sink yet")
    await outbox.defer("x", due_at=NOW, attempts=1)
    await outbox.bury("x", "refused")
    assert await standing(outbox, "x") is None
    assert (outbox.depth().waiting, outbox.depth().dead) == (0, 0)


async def a_dead_letter_stands_for_its_own_content_only(case: StoreCase) -> None:
    """A buried record is kept and held, but not against changed content."""
    outbox = case.store.outbox
    await outbox.put(record())
    await outbox.bury("a", "refused (HTTP 400)")
    assert await standing(outbox, "a") == "dead_letter"
    assert await standing(outbox, "a", "f1") == "dead_letter"
    assert await standing(outbox, "a", "f2") is None
    assert await outbox.due(NOW, 10) == []
    assert (outbox.depth().waiting, outbox.depth().dead, outbox.depth().bytes) == (0, 1, record().size)


async def a_dead_letter_starts_anew_when_it_is_retried(case: StoreCase) -> None:
    """A retry by an operator resets attempts and reason."""
    outbox = case.store.outbox
    await outbox.put(record())
    await outbox.bury("a", "refused", attempts=7)
    case.request("retry", ["a"])
    await outbox.apply_requests()
    (alive,) = await outbox.due(NOW, 10)
    assert (alive.attempts, alive.reason) == (0, None)


async def put_replaces_a_dead_letter(case: StoreCase) -> None:
    """A new outcome of the same task replaces its dead letter."""
    outbox = case.store.outbox
    await outbox.put(record())
    await outbox.bury("a", "refused")
    new = record(fingerprint="f2", body=b"[1]")
    await outbox.put(new)
    assert await standing(outbox, "a", "f2") == "in_outbox"
    assert await outbox.due(NOW, 10) == [new]
    assert (outbox.depth().waiting, outbox.depth().dead, outbox.depth().bytes) == (1, 0, new.size)


async def depth_knows_the_oldest_of_the_waiting(case: StoreCase) -> None:
    """``oldest_finished_at`` follows the waiting records, not the dead ones; so does a known ``next_due_at``."""
    outbox = case.store.outbox
    await outbox.put(record("old", finished_at=NOW - 100))
    await outbox.put(record("older", finished_at=NOW - 200))
    await outbox.put(record("new", finished_at=NOW))
    await outbox.apply_requests()
    assert outbox.depth().oldest_finished_at == NOW - 200
    await outbox.bury("older", "refused")
    await outbox.apply_requests()
    assert outbox.depth().oldest_finished_at == NOW - 100
    await outbox.delivered("old")
    await outbox.apply_requests()
    assert outbox.depth().oldest_finished_at == NOW
    await outbox.defer("new", due_at=NOW + 60, attempts=1)
    await outbox.apply_requests()
    assert outbox.depth().next_due_at in (NOW + 60, None)
    await outbox.delivered("new")
    assert (outbox.depth().oldest_finished_at, outbox.depth().next_due_at) == (None, None)


async def full_holds_until_nine_tenths(case: StoreCase) -> None:
    """Full at the limit, still full just below it, free again at 90 %."""
    outbox = case.store.outbox
    sizes = {"a": 500, "b": 600, "c": MAX_BYTES - 1100}
    for task_id, size in sizes.items():
        assert not outbox.full
        await outbox.put(record(task_id, body=b" " * (size - record(task_id, body=b"").size)))
    assert outbox.depth().bytes == MAX_BYTES
    assert outbox.full
    await outbox.delivered("a")
    assert outbox.full
    await outbox.delivered("b")
    assert not outbox.full


async def replacing_at_the_limit_stays_full(case: StoreCase) -> None:
    """A full outbox whose only record is replaced by an equal one stays full."""
    outbox = case.store.outbox
    big = record(body=b" " * MAX_BYTES)
    await outbox.put(big)
    await outbox.put(big)
    assert outbox.full
    assert outbox.depth().bytes == big.size


async def retry_revives_a_dead_letter(case: StoreCase) -> None:
    """``retry`` makes a dead letter due now, with no attempts and no reason."""
    outbox = case.store.outbox
    await outbox.put(record(attempts=7, due_at=NOW - 500))
    await outbox.bury("a", "refused")
    case.request("retry", ["a", "unknown"])
    assert await outbox.apply_requests() == {"a": "retry"}
    assert await standing(outbox, "a", "f2") == "in_outbox"
    assert (outbox.depth().waiting, outbox.depth().dead) == (1, 0)
    (found,) = await outbox.due(NOW, 10)
    assert (found.attempts, found.due_at, found.reason) == (0, 0.0, None)


async def retry_hurries_a_waiting_record(case: StoreCase) -> None:
    """``retry`` makes a deferred record due now and leaves its attempts."""
    outbox = case.store.outbox
    await outbox.put(record())
    await outbox.defer("a", due_at=NOW + 900, attempts=7)
    case.request("retry", ["a"])
    assert await outbox.apply_requests() == {"a": "retry"}
    (found,) = await outbox.due(NOW, 10)
    assert (found.attempts, found.due_at) == (7, 0.0)


async def drop_removes_whatever_the_state(case: StoreCase) -> None:
    """``drop`` deletes waiting records and dead letters."""
    outbox = case.store.outbox
    await outbox.put(record("a"))
    await outbox.put(record("b"))
    await outbox.bury("b", "refused")
    case.request("drop", ["a", "b", "unknown"])
    assert await outbox.apply_requests() == {"a": "drop", "b": "drop"}
    assert await standing(outbox, "a") is None
    assert await standing(outbox, "b") is None
    assert (outbox.depth().waiting, outbox.depth().dead, outbox.depth().bytes) == (0, 0, 0)
    assert await outbox.apply_requests() == {}


async def a_quarantined_task_is_never_due(case: StoreCase) -> None:
    """It is held for its content, counted separately, and never delivered."""
    outbox = case.store.outbox
    await outbox.quarantine(record(status=TaskStatus.PENDING, reason="it kills"))
    assert await standing(outbox, "a") == await standing(outbox, "a", "f1") == "quarantined"
    assert await standing(outbox, "a", "other content") is None
    assert await outbox.due(NOW, 10) == []
    depth = outbox.depth()
    assert (depth.waiting, depth.dead, depth.quarantined, depth.oldest_finished_at) == (0, 0, 1, None)


async def an_operator_lets_a_quarantined_task_go(case: StoreCase) -> None:
    """Both requests delete it, because it has no result that could be delivered."""
    outbox = case.store.outbox
    for action in ("retry", "drop"):
        await outbox.quarantine(record(status=TaskStatus.PENDING))
        case.request(action, ["a"])
        assert await outbox.apply_requests() == {"a": action}
        assert await standing(outbox, "a") is None
        depth = outbox.depth()
        assert (depth.waiting, depth.quarantined, depth.bytes) == (0, 0, 0)


async def a_result_takes_the_place_of_a_quarantine(case: StoreCase) -> None:
    """When a quarantined task is finished nevertheless, its result is delivered."""
    outbox = case.store.outbox
    await outbox.quarantine(record(status=TaskStatus.PENDING))
    await outbox.put(record(body=b"1"))
    assert await standing(outbox, "a") == "in_outbox"
    assert ids(await outbox.due(NOW, 10)) == ["a"]
    assert outbox.depth().quarantined == 0


async def receipts_of_waiting_records_are_known(case: StoreCase) -> None:
    """Their claims are renewed until the outcome is acknowledged: with tokens, without dead letters."""
    outbox = case.store.outbox
    await outbox.put(record("a"))
    await outbox.put(record("b"))
    await outbox.bury("b", "refused")
    assert list(await outbox.receipts()) == [Receipt(SOURCE, "a", "token")]


async def an_acknowledged_record_waits_for_its_sinks(case: StoreCase) -> None:
    """It waits with its flag and reason, also after a deferral, a retry and a kill; its claim is not renewed."""
    outbox = case.store.outbox
    await outbox.put(record())
    await outbox.acknowledged("a", "not in sink x yet")
    assert await outbox.due(NOW, 10) == [record(acknowledged=True, reason="not in sink x yet")]
    assert list(await outbox.receipts()) == []
    assert (await standing(outbox, "a"), outbox.depth().waiting) == ("in_outbox", 1)
    await outbox.defer("a", due_at=NOW, attempts=1, reason="sink x: it is down")
    await outbox.bury("a", "in vain")
    case.request("retry", ["a"])
    await outbox.apply_requests()
    if case.restart is not None:
        outbox = (await case.restart()).outbox
    assert await outbox.due(NOW, 10) == [record(acknowledged=True, due_at=0.0)]
    await outbox.put(record())
    assert await outbox.due(NOW, 10) == [record()]


# --- attempts


async def attempts_are_counted_until_the_task_is_settled(case: StoreCase) -> None:
    """In batches, per task: the count continues after ``give_back`` and starts again after ``settle``."""
    journal = case.store.journal
    assert [tries.started for tries in await journal.begin([task("a"), task("b")])] == [1, 1]
    await journal.give_back("a")
    await journal.settle("b")
    assert [tries.started for tries in await journal.begin([task("a"), task("b")])] == [2, 1]
    assert journal.usable()


async def what_was_counted_in_vain_is_kept(case: StoreCase) -> None:
    """``begin`` returns counts that the engine changes; ``give_back`` stores them."""
    journal = case.store.journal
    (tries,) = await journal.begin([task()])
    tries.crashed += 1
    await journal.give_back("a")
    (again,) = await journal.begin([task()])
    assert (again.started, again.crashed) == (2, 1)


async def what_ran_at_a_kill_is_known_afterwards(case: StoreCase) -> None:
    """Only the running task is in flight at the crash, not settled or released ones; attempts are still counted."""
    journal = case.store.journal
    await journal.begin([task("ran"), task("settled"), task("given back")])
    await journal.settle("settled")
    await journal.give_back("given back")
    if case.restart is not None:
        journal = (await case.restart()).journal
        assert set(journal.in_flight_at_crash) == {"ran"}
        assert journal.in_flight_at_crash["ran"].tries.kills == 1
        journal.clear("ran")
    assert not journal.in_flight_at_crash
    assert [tries.started for tries in await journal.begin([task("given back"), task("settled")])] == [2, 1]


async def results_survive_a_kill(case: StoreCase) -> None:
    """A record whose ``put`` has resolved survives a kill."""
    if case.restart is not None:
        await case.store.outbox.put(
            record(vector=bytes(range(16)), trace={"traceparent": "00-ab-cd-01"}, usage=Usage(5, 2, 1))
        )
        store = await case.restart()
        (found,) = await store.outbox.due(NOW, 10)
        assert found == record(vector=bytes(range(16)), trace={"traceparent": "00-ab-cd-01"}, usage=Usage(5, 2, 1))
        assert store.recovered == 1


# --- steps


async def a_step_is_found_by_task_content_and_name(case: StoreCase) -> None:
    """Bytes for bytes, also under unusual names; the same name replaces; other content and other tasks have none."""
    steps = case.store.steps
    assert await steps.load("a", "f1") == {}
    await steps.save("a", "f1", "x", b"1")
    await steps.save("a", "f1", "x", b"[1]")
    await steps.save("a", "f1", "\u00e9 \U0001f600'", '"\u2028\u0000"'.encode())
    await steps.save("b", "f1", "x", b"2")
    assert await steps.load("a", "f1") == {"x": b"[1]", "\u00e9 \U0001f600'": '"\u2028\u0000"'.encode()}
    assert await steps.load("a", "f2") == {}
    assert await steps.load("b", "f1") == {"x": b"2"}


async def steps_are_erased_with_their_outcome(case: StoreCase) -> None:
    """Nothing of a task is left once its outcome is acknowledged, whatever its content was; others keep theirs.

    What is saved after ``put``, for an outcome that waits for sinks, stays until then.
    """
    steps, outbox = case.store.steps, case.store.outbox
    for task_id in ("a", "b"):
        await steps.save(task_id, "f1", "x", b"1")
        await steps.save(task_id, "f2", "y", b"2")
    await outbox.put(record("a"))
    assert [await steps.load("a", content) for content in ("f1", "f2")] == [{}, {}]
    await steps.save("a", "f1", "z", b"3")
    assert await steps.load("a", "f1") == {"z": b"3"}
    await outbox.delivered("a")
    assert await steps.load("a", "f1") == {}
    assert await steps.load("b", "f1") == {"x": b"1"}
    assert await outbox.due(NOW, 10) == []


async def steps_are_erased_without_an_outcome(case: StoreCase) -> None:
    """``erase`` deletes what a task has, and may find nothing."""
    steps = case.store.steps
    await steps.save("a", "f1", "x", b"1")
    await steps.erase("a")
    await steps.erase("unknown")
    assert await steps.load("a", "f1") == {}


async def steps_survive_a_kill(case: StoreCase) -> None:
    """A step whose ``save`` has resolved is there for the next process, and is erased with the outcome there."""
    if case.restart is not None:
        await case.store.steps.save("a", "f1", "x", b"1" * 1000)
        store = await case.restart()
        assert await store.steps.load("a", "f1") == {"x": b"1" * 1000}
        await store.outbox.put(record("a"))
        await store.outbox.delivered("a")
        assert await store.steps.load("a", "f1") == {}


# --- what a source remembers


async def a_source_remembers_until_its_time(case: StoreCase) -> None:
    """Ids are known until they expire or are deleted."""
    memory = case.store.memory
    await memory.remember(["a", "b"], NOW + 60)
    await memory.remember(["over"], NOW - 1)
    await memory.forget(["b", "unknown"])
    assert set(await memory.remembered()) == {"a"}


async def a_ready_store_accepts(case: StoreCase) -> None:
    """It has no problems."""
    assert case.store.accepting
    assert not case.store.problems()


STORE_PROMISES: Sequence[StorePromise] = (
    an_empty_outbox_has_nothing,
    put_is_held_before_it_is_awaited,
    due_gives_back_every_field,
    due_is_ordered_and_limited,
    excluded_records_do_not_use_up_the_limit,
    a_record_from_before_a_clock_jump_is_due,
    defer_moves_the_due_time,
    delivered_is_forgotten,
    unknown_ids_are_harmless,
    a_dead_letter_stands_for_its_own_content_only,
    a_dead_letter_starts_anew_when_it_is_retried,
    put_replaces_a_dead_letter,
    depth_knows_the_oldest_of_the_waiting,
    full_holds_until_nine_tenths,
    replacing_at_the_limit_stays_full,
    retry_revives_a_dead_letter,
    retry_hurries_a_waiting_record,
    drop_removes_whatever_the_state,
    a_quarantined_task_is_never_due,
    an_operator_lets_a_quarantined_task_go,
    a_result_takes_the_place_of_a_quarantine,
    receipts_of_waiting_records_are_known,
    an_acknowledged_record_waits_for_its_sinks,
    attempts_are_counted_until_the_task_is_settled,
    what_was_counted_in_vain_is_kept,
    what_ran_at_a_kill_is_known_afterwards,
    results_survive_a_kill,
    a_step_is_found_by_task_content_and_name,
    steps_are_erased_with_their_outcome,
    steps_are_erased_without_an_outcome,
    steps_survive_a_kill,
    a_source_remembers_until_its_time,
    a_ready_store_accepts,
)
