"""The task store and the task API's habits."""

import asyncio
import json
import re

import pytest
from aiohttp import Payload

from ai_task_processor.sandbox.answers import parsed
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

    async def text(self, limit: str | None = None) -> bytes:
        body = self.api.pending(limit).body
        assert isinstance(body, Payload)
        return await body.as_bytes()

    async def listed(self, limit: str | None = None) -> list[str]:
        return [task.get("_id") for task in json.loads(await self.text(limit))]


@pytest.fixture
def world() -> World:
    return World()


async def test_record_looks_like_the_documented_one(world: World) -> None:
    """A listed task has the documented fields and an id in the layout of MongoDB; a PATCH answers it anew."""
    task_id = world.store.add("Hello", model="m")
    [record] = json.loads(await world.text())
    assert re.fullmatch(r"[0-9a-f]{24}", record["_id"])
    assert record["content"] == {"text": "Hello", "model": "m"}
    assert record.keys() == {
        *("_id", "type", "state", "content", "callbackRoute", "callbackParams", "createdAt", "updatedAt")
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", record["createdAt"])
    _, document = world.patch(task_id, RESULT)
    assert isinstance(document, dict)
    assert document | {"updatedAt": None} == record | {"state": "succeeded"}


async def test_list_holds_pending_tasks_in_order_of_insertion(world: World) -> None:
    """What was settled is gone, what is put back comes last; ``limit`` is honoured, ignored or refused."""
    a, b, c = (world.store.add(name) for name in "abc")
    world.patch(a, RESULT)
    world.patch(b, {"state": "in_progress"})
    assert await world.listed() == [c]
    world.patch(b, {"state": "pending"})
    assert await world.listed() == [c, b]
    assert await world.listed("1") == [c]
    world.api.limit = "ignored"
    assert await world.listed("1") == [c, b]
    world.api.limit = "refused"
    assert world.api.pending("1").status == 400
    assert world.store.outcomes() == {"succeeded": 1, "pending": 2}


async def test_long_lists_come_in_pieces(world: World) -> None:
    """No piece holds the whole list, and together they are JSON."""
    for _ in range(2000):
        world.store.add("x" * 100)
    pieces = [piece async for piece in world.store.listed(None)]
    assert max(map(len, pieces)) < 70_000
    assert len(json.loads(b"".join(pieces))) == 2000


async def test_bad_records_are_listed_as_they_are(world: World) -> None:
    """Raw bytes are not touched; a second record with a known id is listed too and leaves with the first."""
    world.store.add_raw(b'{"no": "id"}')
    world.store.add("a", id="twin")
    world.store.add_raw(b'{"_id": "twin", "type": "x"}')
    assert (await world.text()).startswith(b'[{"no": "id"},')
    assert await world.listed() == [None, "twin", "twin"]
    world.patch("twin", {"state": "failed"})
    world.store.add_raw(b"{not JSON")
    assert await world.text() == b'[{"no": "id"},{not JSON]'


def test_a_patch_saves_the_state_and_then_runs_the_callback(world: World) -> None:
    """U1 to U3: one that throws is a 500 with the state saved; each result runs it again, a bare state does not."""
    task = world.store[world.store.add("a")]
    world.throws = [Fault(endpoint="callback", status=500)]
    assert world.patch(task.id, RESULT)[0] == 500
    assert (task.state, task.callbacks, task.acknowledged_at) == ("succeeded", 0, None)
    bodies: list[object] = [RESULT, {"state": "succeeded"}, {"state": "failed", "error": {"code": "x"}}, RESULT]
    assert [world.patch(task.id, body)[0] for body in bodies] == [200] * 4
    assert (task.callbacks, task.patches, task.error) == (2, 5, {"code": "x"})
    assert task.result == compact([0.5, 0.25])


def test_refusals_have_nests_shape_and_change_nothing(world: World) -> None:
    """404, 400 and 413 are Nest's JSON; unknown keys (U11) and a second result are refused when that is switched on."""
    task = world.store[world.store.add("a")]
    missing = {"statusCode": 404, "message": "AI task nobody not found", "error": "Not Found"}
    assert world.patch("nobody", RESULT) == (404, missing)
    nonsense: list[object] = [b"{", [], {}, {"state": "done"}]
    assert [world.patch(task.id, body)[0] for body in nonsense] == [400] * 4
    world.api.forbid_unknown_keys = world.api.strict_transitions = True
    status, body = world.patch(task.id, {"state": "failed", "error": {"code": "x"}})
    assert isinstance(body, dict)
    assert (status, body["message"]) == (400, ["property error should not exist"])
    assert (task.patches, task.state) == (0, "pending")
    assert [world.patch(task.id, body)[0] for body in ({"state": "failed"}, RESULT)] == [200, 409]
    world.api.max_body = 10
    assert world.patch(task.id, RESULT)[0] == 413


async def test_settled_waits_for_the_acknowledgement(world: World) -> None:
    """An answer that never arrived settles nothing, the repetition does; the deadline's error counts the rest."""
    a, b = world.store.add("a"), world.store.add("b")
    waiting = asyncio.ensure_future(world.store.settled([a], 60))
    await asyncio.sleep(0)
    world.patch(b, RESULT)
    world.patch(a, RESULT, answered=False)
    await asyncio.sleep(0)
    assert not waiting.done()
    with pytest.raises(TimeoutError, match="1 tasks"):
        await world.store.settled([a, b], 0)
    world.patch(a, RESULT)
    await waiting
    await world.store.settled([a, b], 60)


def test_results_are_kept_compactly() -> None:
    """A vector becomes float32 bytes, alone or inside an object; other results stay."""
    assert compact([0.5]) == b"\x00\x00\x00\x3f"
    assert compact({"embedding": [0.5], "model": "m"}) == {"embedding": b"\x00\x00\x00\x3f", "model": "m"}
    assert compact({"label": "x"}) == {"label": "x"}
