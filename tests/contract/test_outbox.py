"""The promises of ``ports.Outbox``, held by every implementation."""

from collections.abc import AsyncIterator, Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol, cast

import pytest

from ai_task_processor.core.ports import Outbox
from ai_task_processor.models.task import Receipt, Record, TaskStatus
from ai_task_processor.stores.sqlite import inspection
from ai_task_processor.stores.sqlite.outbox import SqliteOutbox
from ai_task_processor.testing.memory import MemoryOutbox
from tests.helpers import standing

NOW = 1_800_000_000.0
MAX_BYTES = 10_000


class FixedClock:
    """A clock that stands still at ``NOW``."""

    def monotonic(self) -> float:
        return NOW

    def now(self) -> datetime:
        return datetime.fromtimestamp(NOW, UTC)

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nothing here may wait")


class Request(Protocol):
    def __call__(self, action: inspection.Action, task_ids: Iterable[str]) -> None: ...


class House:
    """An outbox under test, and how an operator leaves a request for it."""

    def __init__(self, outbox: Outbox, request: Request) -> None:
        self.outbox = outbox
        self.request = request


@pytest.fixture(params=["memory", "sqlite"])
async def house(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[House]:
    if request.param == "memory":
        memory = MemoryOutbox(MAX_BYTES, FixedClock())
        yield House(memory, memory.leave_request)
        return
    async with SqliteOutbox(tmp_path, "aletheia", max_bytes=MAX_BYTES, clock=FixedClock()) as outbox:
        yield House(outbox, lambda action, task_ids: inspection.leave_request(tmp_path, action, task_ids))


@pytest.fixture
def outbox(house: House) -> Outbox:
    return house.outbox


def record(task_id: str = "a", **changes: object) -> Record:
    values = {
        "receipt": Receipt("aletheia", task_id, "token"),
        "task_type": "text_embedding",
        "status": TaskStatus.SUCCEEDED,
        "fingerprint": "f1",
        "finished_at": NOW - 10,
        "created_at": NOW - 20,
        "due_at": NOW - 10,
    }
    return cast("Callable[..., Record]", Record)(**{**values, **changes})


def ids(records: Iterable[Record]) -> list[str]:
    return [found.task_id for found in records]


async def test_an_empty_outbox_has_nothing(outbox: Outbox) -> None:
    """Nothing put: nothing held, due or counted, and there is room."""
    assert standing(outbox, "a") is None
    assert await outbox.due(NOW, 10) == []
    depth = outbox.depth()
    assert (depth.waiting, depth.dead, depth.bytes, depth.oldest_finished_at) == (0, 0, 0, None)
    assert outbox.writable
    assert not outbox.full


async def test_put_is_held_before_it_is_awaited(outbox: Outbox) -> None:
    """A record is held from the moment ``put`` returns."""
    pending = outbox.put(record())
    assert standing(outbox, "a") == "in_outbox"
    assert outbox.depth().waiting == 1
    await pending
    assert standing(outbox, "a", "f1") == "in_outbox"


async def test_due_gives_back_every_field(outbox: Outbox) -> None:
    """What comes out equals what went in, bytes included."""
    full = record(body=b'{"code":"x"}', vector=bytes(range(256)), attempts=3, reason="why", status=TaskStatus.FAILED)
    bare = record("b", created_at=None, due_at=NOW)
    await outbox.put(full)
    await outbox.put(bare)
    assert await outbox.due(NOW, 10) == [full, bare]


async def test_due_is_ordered_limited_and_patient(outbox: Outbox) -> None:
    """The oldest due come first, at most ``limit``, and none before its time."""
    for task_id, due_at in [("b", NOW - 1), ("c", NOW), ("a", NOW - 2), ("later", NOW + 0.001)]:
        await outbox.put(record(task_id, due_at=due_at))
    assert ids(await outbox.due(NOW, 2)) == ["a", "b"]
    assert ids(await outbox.due(NOW, 10)) == ["a", "b", "c"]


async def test_excluded_records_do_not_use_up_the_limit(outbox: Outbox) -> None:
    """``exclude`` hides records and lets the next ones move up."""
    for task_id in ("a", "b", "c"):
        await outbox.put(record(task_id, due_at=NOW - 10 + ord(task_id) / 1000))
    assert ids(await outbox.due(NOW, 1, frozenset({"a", "b"}))) == ["c"]


async def test_a_record_from_before_a_clock_jump_is_due(outbox: Outbox) -> None:
    """A due time further away than any deferral can be counts as due, after the ordinary ones."""
    await outbox.put(record("stranded", due_at=NOW + 3601))
    await outbox.put(record("deferred", due_at=NOW + 900))
    await outbox.put(record("due", due_at=NOW - 1))
    assert ids(await outbox.due(NOW, 10)) == ["due", "stranded"]


async def test_defer_moves_the_due_time(outbox: Outbox) -> None:
    """A deferred record is due at its new time, with its attempts."""
    await outbox.put(record())
    await outbox.defer("a", due_at=NOW + 60, attempts=2)
    assert await outbox.due(NOW + 59, 10) == []
    (found,) = await outbox.due(NOW + 60, 10)
    assert (found.attempts, found.due_at) == (2, NOW + 60)


async def test_delivered_is_forgotten(outbox: Outbox) -> None:
    """After the acknowledgement nothing is left that could suppress a later listing."""
    await outbox.put(record())
    await outbox.delivered("a")
    assert standing(outbox, "a") is None
    assert await outbox.due(NOW, 10) == []
    assert outbox.depth().bytes == 0


async def test_unknown_ids_are_harmless(outbox: Outbox) -> None:
    """``delivered``, ``defer`` and ``bury`` of a record that is not there change nothing."""
    await outbox.delivered("x")
    await outbox.defer("x", due_at=NOW, attempts=1)
    await outbox.bury("x", "refused")
    assert standing(outbox, "x") is None
    assert (outbox.depth().waiting, outbox.depth().dead) == (0, 0)


async def test_a_dead_letter_stands_for_its_own_content_only(outbox: Outbox) -> None:
    """A buried record is kept and held, but not against changed content."""
    await outbox.put(record())
    await outbox.bury("a", "refused (HTTP 400)")
    assert standing(outbox, "a") == "dead_letter"
    assert standing(outbox, "a", "f1") == "dead_letter"
    assert standing(outbox, "a", "f2") is None
    assert await outbox.due(NOW, 10) == []
    assert (outbox.depth().waiting, outbox.depth().dead, outbox.depth().bytes) == (0, 1, record().size)


async def test_a_dead_letter_starts_anew_when_it_is_retried(house: House) -> None:
    """What it took to be refused is kept with it, and forgotten when an operator lets it try again."""
    await house.outbox.put(record())
    await house.outbox.bury("a", "refused", attempts=7)
    house.request("retry", ["a"])
    await house.outbox.apply_requests()
    (alive,) = await house.outbox.due(NOW, 10)
    assert (alive.attempts, alive.reason) == (0, None)


async def test_put_replaces_a_dead_letter(outbox: Outbox) -> None:
    """A new outcome of the same task takes the place of its dead letter."""
    await outbox.put(record())
    await outbox.bury("a", "refused")
    new = record(fingerprint="f2", body=b"[1]")
    await outbox.put(new)
    assert standing(outbox, "a", "f2") == "in_outbox"
    assert await outbox.due(NOW, 10) == [new]
    assert (outbox.depth().waiting, outbox.depth().dead, outbox.depth().bytes) == (1, 0, new.size)


async def test_depth_knows_the_oldest_of_the_waiting(outbox: Outbox) -> None:
    """``oldest_finished_at`` follows the waiting records, not the dead ones."""
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
    await outbox.delivered("new")
    assert outbox.depth().oldest_finished_at is None


async def test_full_holds_until_nine_tenths(outbox: Outbox) -> None:
    """Full at the limit, still full just below it, free again at 90 %."""
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


async def test_replacing_at_the_limit_stays_full(outbox: Outbox) -> None:
    """A full outbox whose one record is replaced by an equal one was full all the time."""
    big = record(body=b" " * MAX_BYTES)
    await outbox.put(big)
    await outbox.put(big)
    assert outbox.full
    assert outbox.depth().bytes == big.size


async def test_retry_revives_a_dead_letter(house: House) -> None:
    """``retry`` makes a dead letter due now, with no attempts and no reason."""
    await house.outbox.put(record(attempts=7, due_at=NOW - 500))
    await house.outbox.bury("a", "refused")
    house.request("retry", ["a", "unknown"])
    assert await house.outbox.apply_requests() == {"a": "retry"}
    assert standing(house.outbox, "a", "f2") == "in_outbox"
    assert (house.outbox.depth().waiting, house.outbox.depth().dead) == (1, 0)
    (found,) = await house.outbox.due(NOW, 10)
    assert (found.attempts, found.due_at, found.reason) == (0, 0.0, None)


async def test_retry_hurries_a_waiting_record(house: House) -> None:
    """``retry`` makes a deferred record due now and leaves its attempts."""
    await house.outbox.put(record())
    await house.outbox.defer("a", due_at=NOW + 900, attempts=7)
    house.request("retry", ["a"])
    assert await house.outbox.apply_requests() == {"a": "retry"}
    (found,) = await house.outbox.due(NOW, 10)
    assert (found.attempts, found.due_at) == (7, 0.0)


async def test_drop_removes_whatever_the_state(house: House) -> None:
    """``drop`` forgets a waiting record and a dead letter alike, once."""
    await house.outbox.put(record("a"))
    await house.outbox.put(record("b"))
    await house.outbox.bury("b", "refused")
    house.request("drop", ["a", "b", "unknown"])
    assert await house.outbox.apply_requests() == {"a": "drop", "b": "drop"}
    assert standing(house.outbox, "a") is standing(house.outbox, "b") is None
    assert (house.outbox.depth().waiting, house.outbox.depth().dead, house.outbox.depth().bytes) == (0, 0, 0)
    assert await house.outbox.apply_requests() == {}


async def test_a_quarantined_task_is_never_due(outbox: Outbox) -> None:
    """It stands for its content, is counted apart, and nothing of it waits to be delivered."""
    await outbox.quarantine(record(status=TaskStatus.PENDING, reason="it kills"))
    assert standing(outbox, "a") == standing(outbox, "a", "f1") == "quarantined"
    assert standing(outbox, "a", "other content") is None
    assert await outbox.due(NOW, 10) == []
    depth = outbox.depth()
    assert (depth.waiting, depth.dead, depth.quarantined, depth.oldest_finished_at) == (0, 0, 1, None)


@pytest.mark.parametrize("action", ["retry", "drop"])
async def test_an_operator_lets_a_quarantined_task_go(house: House, action: inspection.Action) -> None:
    """Both requests take it away whole: it has no result that could be delivered."""
    await house.outbox.quarantine(record(status=TaskStatus.PENDING))
    house.request(action, ["a"])
    assert await house.outbox.apply_requests() == {"a": action}
    assert standing(house.outbox, "a") is None
    depth = house.outbox.depth()
    assert (depth.waiting, depth.quarantined, depth.bytes) == (0, 0, 0)


async def test_a_result_takes_the_place_of_a_quarantine(outbox: Outbox) -> None:
    """Should a task be finished after all, its result is delivered."""
    await outbox.quarantine(record(status=TaskStatus.PENDING))
    await outbox.put(record(body=b"1"))
    assert standing(outbox, "a") == "in_outbox"
    assert ids(await outbox.due(NOW, 10)) == ["a"]
    assert outbox.depth().quarantined == 0
