"""The task store and the task API's habits."""

import asyncio
import json
import re

import pytest
from aiohttp import Payload

from ai_task_processor.sandbox.answers import Response, parsed
from ai_task_processor.sandbox.faults import Fault
from ai_task_processor.sandbox.task_api import TaskApi
from ai_task_processor.sandbox.tasks import TaskStore, compact

RESULT = {"state": "succeeded", "result": [0.5, 0.25]}


class World:
    """A task API whose callbacks throw what ``throws`` holds."""

    def __init__(self) -> None:
        self.store = TaskStore()
        self.throws: list[Fault] = []
        self.api = TaskApi(self.store, lambda _: self.throws.pop() if self.throws else None)

    def patch(self, task_id: str, body: object, *, answered: bool = True) -> tuple[int, object]:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        response = self.api.patch(task_id, raw, answered=answered)
        assert isinstance(response.body, bytes)
        return response.status, parsed(response.body)

    async def listed(self, limit: str | None = None) -> list[str]:
        return [task["_id"] for task in json.loads(await whole(self.api.pending(limit)))]


async def whole(response: Response) -> bytes:
    assert isinstance(response.body, Payload)
    return await response.body.as_bytes()


async def test_record_looks_like_the_documented_one() -> None:
    """A listed task has the documented fields and an id in the layout of MongoDB."""
    world = World()
    world.store.add("Hello", model="m")
    [record] = json.loads(await whole(world.api.pending()))
    assert re.fullmatch(r"[0-9a-f]{24}", record["_id"])
    assert record["content"] == {"text": "Hello", "model": "m"}
    assert record.keys() == {
        *("_id", "type", "state", "content", "callbackRoute", "callbackParams", "createdAt", "updatedAt")
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", record["createdAt"])


async def test_list_holds_pending_tasks_in_order_of_insertion() -> None:
    """What was settled is gone; what is put back comes last; ``limit`` cuts."""
    world = World()
    a, b, c = (world.store.add(name) for name in "abc")
    world.patch(a, RESULT)
    world.patch(b, {"state": "in_progress"})
    assert await world.listed() == [c]
    world.patch(b, {"state": "pending"})
    assert await world.listed() == [c, b]
    assert await world.listed("1") == [c]


async def test_limit_is_honoured_ignored_or_refused() -> None:
    """The three behaviours of installations towards ``limit``."""
    world = World()
    ids = [world.store.add("a") for _ in range(3)]
    world.api.limit = "ignored"
    assert await world.listed("1") == ids
    world.api.limit = "refused"
    assert world.api.pending("1").status == 400
    assert await world.listed() == ids


async def test_long_lists_come_in_pieces() -> None:
    """No piece holds the whole list, and together they are JSON."""
    world = World()
    for _ in range(2000):
        world.store.add("x" * 100)
    pieces = [piece async for piece in world.store.listed(None)]
    assert max(map(len, pieces)) < 70_000
    assert len(json.loads(b"".join(pieces))) == 2000


async def test_bad_records_are_listed_as_they_are() -> None:
    """Raw bytes are not touched; a second record with a known id is listed too and leaves with the first."""
    world = World()
    world.store.add_raw(b'{"no": "id"}')
    world.store.add("a", id="twin")
    world.store.add_raw(b'{"_id": "twin", "type": "x"}')
    text = await whole(world.api.pending())
    assert text.startswith(b'[{"no": "id"},')
    assert [record.get("_id") for record in json.loads(text)] == [None, "twin", "twin"]
    world.patch("twin", {"state": "failed"})
    assert json.loads(await whole(world.api.pending())) == [{"no": "id"}]
    world.store.add_raw(b"{not JSON")
    with pytest.raises(ValueError, match="Expecting"):
        json.loads(await whole(world.api.pending()))


def test_patch_saves_the_state_before_the_callback() -> None:
    """U1: a callback that throws answers 500 although the state is saved; it is not acknowledged."""
    world = World()
    task = world.store[world.store.add("a")]
    world.throws = [Fault(endpoint="callback", status=500)]
    status, _ = world.patch(task.id, RESULT)
    assert (status, task.state, task.callbacks, task.acknowledged_at) == (500, "succeeded", 0, None)


def test_callback_runs_for_every_success_with_a_result() -> None:
    """U2, U3: repeated results repeat the callback; a bare state or a failure runs none."""
    world = World()
    task = world.store[world.store.add("a")]
    bodies: list[object] = [RESULT, {"state": "succeeded"}, {"state": "failed", "error": {"code": "x"}}, RESULT]
    for body in bodies:
        assert world.patch(task.id, body)[0] == 200
    assert (task.callbacks, task.patches) == (2, 4)
    assert task.error == {"code": "x"}
    assert task.result == compact([0.5, 0.25])


def test_answer_is_the_task_document() -> None:
    """A PATCH answers the record with its new state."""
    world = World()
    task_id = world.store.add("a")
    _, document = world.patch(task_id, RESULT)
    assert isinstance(document, dict)
    assert (document["_id"], document["state"]) == (task_id, "succeeded")


def test_refusals_have_nests_shape() -> None:
    """404, 413, 400 and 409 are Nest's JSON and change nothing."""
    world = World()
    task = world.store[world.store.add("a")]
    assert world.patch("nobody", RESULT) == (
        404,
        {"statusCode": 404, "message": "AI task nobody not found", "error": "Not Found"},
    )
    nonsense: list[object] = [b"{", [], {}, {"state": "done"}]
    assert [world.patch(task.id, body)[0] for body in nonsense] == [400] * 4
    world.api.max_body = 10
    assert world.patch(task.id, RESULT)[0] == 413
    assert (task.patches, task.state) == (0, "pending")


def test_strict_installations_refuse_unknown_keys_and_second_results() -> None:
    """U11 and strict transitions: both are off until they are switched on."""
    world = World()
    task_id = world.store.add("a")
    world.api.forbid_unknown_keys = world.api.strict_transitions = True
    status, body = world.patch(task_id, {"state": "failed", "error": {"code": "x"}})
    assert isinstance(body, dict)
    assert (status, body["message"]) == (400, ["property error should not exist"])
    assert world.patch(task_id, {"state": "failed"})[0] == 200
    assert world.patch(task_id, RESULT)[0] == 409


def test_outcomes_count_the_states() -> None:
    """Every task is counted under its state."""
    world = World()
    a, _ = world.store.add("a"), world.store.add("b")
    world.patch(a, RESULT)
    assert world.store.outcomes() == {"succeeded": 1, "pending": 1}


async def test_settled_waits_for_the_acknowledgement() -> None:
    """An answer that never arrived settles nothing; the acknowledged repetition does; others do not matter."""
    world = World()
    a, b = world.store.add("a"), world.store.add("b")
    waiting = asyncio.ensure_future(world.store.settled([a], 60))
    await asyncio.sleep(0)
    world.patch(b, RESULT)
    world.patch(a, RESULT, answered=False)
    await asyncio.sleep(0)
    assert not waiting.done()
    world.patch(a, RESULT)
    await waiting
    await world.store.settled([a, b], 60)


async def test_settled_says_how_many_are_missing() -> None:
    """The deadline's error has the number of unfinished tasks."""
    world = World()
    ids = [world.store.add("a") for _ in range(3)]
    world.patch(ids[0], RESULT)
    with pytest.raises(TimeoutError, match="2 tasks"):
        await world.store.settled(ids, 0)


def test_results_are_kept_compactly() -> None:
    """A vector becomes float32 bytes, alone or inside an object; other results stay."""
    assert compact([0.5]) == b"\x00\x00\x00\x3f"
    assert compact({"embedding": [0.5], "model": "m"}) == {"embedding": b"\x00\x00\x00\x3f", "model": "m"}
    assert compact({"label": "x"}) == {"label": "x"}
