"""The profile agents-playground over real sockets: what every source promises, and the habits of that API."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

import aiohttp
import pytest
from structlog.testing import capture_logs

from ai_task_processor.core.errors import Ambiguous, Rejected, Transient
from ai_task_processor.core.plugins import find
from ai_task_processor.core.ports import Want
from ai_task_processor.core.settings import NetworkSettings
from ai_task_processor.models.task import Claim, Completed, Failed, Failure, Outcome, Receipt, TaskResult, TaskStatus
from ai_task_processor.net.client import make_client
from ai_task_processor.net.resilience import Gate
from ai_task_processor.ops.metrics import Metrics
from ai_task_processor.sandbox.app import Sandbox
from ai_task_processor.sources.rest.settings import ApiSettings
from ai_task_processor.sources.rest.source import RestSource
from ai_task_processor.testing.memory import MemoryOutbox
from ai_task_processor.testing.source import OUTPUT, SOURCE_PROMISES, Gatekeeper, HandClock, SourcePromise
from tests.contract.helpers import failing

SOURCE: type[RestSource] = find("sources", "agents-playground").load()
NAME = "agents-playground"
STATES = {"pending": "pending", "running": "pending", "done": "succeeded", "error": "failed"}
REFUSAL = '{"detail": [{"type": "dict_type", "loc": ["body", "output"], "msg": "Input should be a valid dictionary"}]}'
#: of a request, seconds
TIMEOUT_S = 0.4
SETTINGS: dict[str, Any] = {"REQUEST_TIMEOUT": str(TIMEOUT_S)}
CONNECTIONS = 4
UNKNOWN = "0b8f2a52-6a1c-4a57-9f0e-3d1f0c7f9a11"


class Case:
    """The source against the sandbox."""

    def __init__(self, sandbox: Sandbox, client: Any, memory: MemoryOutbox | None = None) -> None:
        self.clock = HandClock()
        self.admission = Gatekeeper()
        self.sandbox, self.api = sandbox, sandbox.playground
        self.memory = memory or MemoryOutbox(2**30, self.clock)
        self.metrics = Metrics(version="1", provider="mock")
        poll_gate, delivery_gate = (
            Gate(service, threshold=1_000, clock=self.clock, metrics=self.metrics)
            for service in ("api_poll", "api_delivery")
        )
        self.source = SOURCE(
            ApiSettings(**{"API_BASE_URL": sandbox.url, **SETTINGS}),
            polling=client,
            delivering=client,
            poll_gate=poll_gate,
            delivery_gate=delivery_gate,
            memory=self.memory,
            clock=self.clock,
            metrics=self.metrics,
        )

    def add(self, text: str) -> str:
        return self.api.add(text)

    def put_back(self, task_id: str) -> None:
        self.api.set(task_id, status="pending")

    def refuse(self, task_id: str) -> None:
        self.sandbox.faults.add("patch", status=422, content=REFUSAL, task_id=task_id)

    def break_down(self) -> None:
        for endpoint in ("pending", "patch", "read"):
            self.sandbox.faults.add(endpoint, status=503)

    def state(self, task_id: str) -> str:
        return STATES[self.api[task_id].state]

    async def claims(self, limit: int = 10) -> Sequence[Claim]:
        return await self.source.claim(Want(limit, self.admission))

    async def report(self, task_id: str, outcome: Outcome = OUTPUT) -> None:
        await self.source.report(Receipt(NAME, task_id), outcome)

    async def running(self, text: str = "hello") -> str:
        """A task that was claimed."""
        self.add(text)
        (claim,) = await self.claims()
        assert self.api[claim.task.id].state == "running"
        self.admission.refused[claim.task.id] = "running"
        return claim.task.id


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[Sandbox, Any]]:
    async with Sandbox(profile=NAME) as sandbox:
        client = make_client(
            NetworkSettings(), url=sandbox.url, connections=CONNECTIONS, max_answer_bytes=None, connect_timeout_s=5
        )
        async with aclosing(client):
            yield sandbox, client


@pytest.fixture
async def case() -> AsyncIterator[Case]:
    async with serving() as (sandbox, client):
        yield Case(sandbox, client)


@pytest.mark.parametrize("promise", SOURCE_PROMISES, ids=lambda promise: promise.__name__)
async def test_it_keeps_the_promises_of_a_source(promise: SourcePromise, case: Case) -> None:
    await promise(case)


# --- what is claimed


@pytest.mark.parametrize("newest", [10, 1_000])
async def test_the_oldest_come_first(case: Case, monkeypatch: pytest.MonkeyPatch, newest: int) -> None:
    """The list begins with the newest, and a limit cuts off the oldest: it grows until nothing is cut."""
    monkeypatch.setattr(case.source._polls.list, "_newest", newest)
    ids = [case.add(f"text {n}") for n in range(150)]
    found: list[str] = []
    while claims := await case.claims(20):
        found += [claim.task.id for claim in claims]
    assert found == ids
    assert case.sandbox.stats.polls <= 5


async def test_a_long_list_is_not_held(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only its oldest part, and more when nothing of that may start."""
    monkeypatch.setattr(case.source._polls.list, "_newest_bytes", 8_000)
    others = [case.api.add(type="other", input={"text": "x" * 1_000}) for _ in range(20)]
    case.admission.refused = dict.fromkeys(others, "unknown_type")
    ids = [case.add("x" * 1_000) for _ in range(20)]
    assert [claim.task.id for claim in await case.claims(1)] == ids[:1]
    assert 2 <= case.sandbox.stats.polls <= 3
    assert case.source._polls.list.last_page.left_out > 0


async def test_what_is_in_a_task(case: Case) -> None:
    """Underscored keys never reach a prompt, the trace of the task is known, other types are left alone."""
    trace = {"traceparent": "00-5f0e4a0f7c1d4f6f8a1e2b3c4d5e6f70-91ab23cd45ef6789-03", "baggage": "x"}
    case.api.add(type="agent:planner", input={"text": "x"})
    case.api.add(input={"text": "x", "_trace_context": trace, "_forged": 1}, user_id="ann", tenant_id="north")
    case.api.older = True
    case.api.add(input={"text": "y", "_tenant_id": "forged", "_trace_context": "none"})
    case.admission.refused = {next(iter(case.api)).id: "unknown_type"}
    first, second = (claim.task for claim in await case.claims())
    assert (first.content, second.content) == ({"text": "x"}, {"text": "y"})
    assert (first.trace, second.trace) == ({"traceparent": trace["traceparent"]}, None)
    assert first.created_at is not None
    assert second.tenant is None
    assert next(iter(case.api)).state == "pending"


async def test_what_others_have_ended_does_not_start(case: Case) -> None:
    """A message of the WebSocket about a task that was listed, and waits here."""
    case.add("first")
    second, third = case.add("second"), case.add("third")
    await case.claims(1)
    for task_id, status in ((second, "error"), (third, "pending")):
        case.source._wake_ups.pushed(json.dumps({"task_id": task_id, "status": status}).encode())
    case.api.set(second, status="error", error="not needed")
    assert [claim.task.id for claim in await case.claims(5)] == [third]


@pytest.mark.parametrize(
    "message", [b"pong", b"", b"[]", b'{"status": "running", "task_id": 5}', b'{"status": "done", "output": {}}']
)
async def test_other_messages_wake_nobody(case: Case, message: bytes) -> None:
    case.source._wake_ups.pushed(message)
    assert case.metrics.value("wakeups_total", origin="websocket") == 0
    case.source._wake_ups.pushed(b'{"status": "pending"}')
    assert case.metrics.value("wakeups_total", origin="websocket") == 1


# --- what is reported


@pytest.mark.parametrize(
    ("output", "sent"),
    [
        ({"a": "x\0y", "b\0": ["\0"]}, {"a": "xy", "b": [""]}),
        (["a", {"b": 1}], {"result": ["a", {"b": 1}]}),
        ("text", {"result": "text"}),
        ({"deep": 1}, {"deep": 1}),
        ({"a": 1.5, "c": "\u2028é😀"}, {"a": 1.5, "c": "\u2028é😀"}),
    ],
    ids=repr,
)
async def test_results_as_the_api_takes_them(case: Case, output: Any, sent: Any) -> None:
    """Objects, without NUL; what it says of a task is compared with what was sent."""
    task_id = await case.running()
    for _ in range(2):
        await case.report(task_id, Completed(TaskResult(output)))
    task = case.api[task_id]
    assert (task.document["output"], task.document["error"], task.ended) == (sent, "", [True])


@pytest.mark.parametrize(("levels", "status"), [(99, "done"), (101, "error"), (900, "error")])
async def test_what_would_poison_the_list_is_not_sent(case: Case, levels: int, status: str) -> None:
    """The API stores it and fails from then on: the task has failed instead."""
    task_id, value = await case.running(), 1
    deep: Any = {"value": value}
    for _ in range(levels - 1):
        deep = [deep]
    await case.report(task_id, Completed(TaskResult({"deep": deep} if levels < 100 else deep)))
    document = case.api[task_id].document
    assert document["status"] == status
    assert (document["error"] or "").startswith("result_too_deep: " if status == "error" else "")


async def test_a_list_that_somebody_has_poisoned(case: Case) -> None:
    """By an input that the API stores and cannot show. Tasks that are newer go on, which is told once; the others when
    it is healed.
    """
    deep: Any = 1
    for _ in range(300):
        deep = [deep]
    older = case.add("older")
    poison = case.api.add(input={"deep": deep})
    newer = [case.add(f"newer {n}") for n in range(20)]
    with capture_logs() as lines:
        found = [claim.task.id for _ in range(6) for claim in await case.claims(20)]
        with pytest.raises(Transient):
            await case.claims()
        assert sorted(found) == sorted(newer)
    assert [line["event"] for line in lines if line["log_level"] == "warning"] == ["poll.cut"]
    case.api[poison].document["input"] = {}
    assert [claim.task.id for claim in await case.claims()] == [older, poison]


@pytest.mark.parametrize("outcome", [OUTPUT, Failed(Failure("refused"))])
@pytest.mark.parametrize("status", ["error", "done"])
async def test_what_others_have_ended_is_left_so(case: Case, outcome: Outcome, status: str) -> None:
    """Also when the API takes the result of a task that is done already."""
    task_id = await case.running()
    case.api.set(task_id, status=status, error="stopped", output={"theirs": True})
    before = dict(case.api[task_id].document)
    with pytest.raises(Rejected, match="lost"):
        await case.report(task_id, outcome)
    assert case.api[task_id].document == before


@pytest.mark.parametrize(
    "lost",
    [{"status": 500}, {"reset": True}, {"hang": True}, {"status": 503}, {"content": "<html>"}],
    ids=str,
)
@pytest.mark.parametrize("applied", [True, False])
async def test_an_answer_that_is_lost_is_looked_up(case: Case, lost: dict[str, Any], applied: bool) -> None:
    """Committed or not: one report more at most, none after the API has shown the result, and no mark is left."""
    task_id = await case.running()
    case.sandbox.faults.add("patch", after=applied, times=1, **lost)
    if applied:
        await case.report(task_id)
    else:
        with pytest.raises(Exception, match=r"500|503|connection|no answer|reset|page|JSON"):
            await case.report(task_id)
        assert case.state(task_id) == "pending"
        await case.report(task_id)
    assert case.api[task_id].document["output"] == OUTPUT.result.output
    assert len(case.api[task_id].ended) == 1
    assert await case.memory.remembered() == []


@pytest.mark.parametrize("lost", [{"status": 500}, {"reset": True}, {"hang": True}], ids=str)
async def test_a_mark_whose_answer_is_lost(case: Case, lost: dict[str, Any]) -> None:
    """The task starts; when its result is acknowledged and the mark can arrive no more, its state is looked up."""
    case.sandbox.faults.add("patch", after=True, times=1, **lost)
    task_id = await case.running()
    await case.report(task_id)
    case.clock.time += 2 * TIMEOUT_S
    marks = case.source._marks
    assert marks is not None
    await marks.tend()
    assert case.api[task_id].ended == [True], "it was not sent again"
    late = await case.running()
    await case.report(late)
    marks._repairs[late] = TaskStatus.SUCCEEDED, 0.0
    case.api.set(late, status="running")
    await marks.tend()
    assert case.api[late].document["status"] == "done"
    assert case.api[late].document["output"] == OUTPUT.result.output


async def test_a_crash_leaves_nothing_running(case: Case) -> None:
    """The next process sets its own marks back before its first list: not those that others have ended."""
    ids = [case.add(f"text {n}") for n in range(4)]
    await case.claims()
    case.api.set(ids[1], status="error", error="stopped")
    await case.report(ids[2])
    async with serving_more(case) as client:
        after = Case(case.sandbox, client, case.memory)
        assert [claim.task.id for claim in await after.claims()] == [ids[0], ids[3]]
    assert [case.api[each].document["error"] for each in ids] == [None, "stopped", "", None]
    assert case.sandbox.stats.polls == 2


@asynccontextmanager
async def serving_more(case: Case) -> AsyncIterator[Any]:
    async with aclosing(make_client(NetworkSettings(), url=case.sandbox.url, connections=2)) as client:
        yield client


async def test_an_id_that_the_api_does_not_have_is_gone(case: Case) -> None:
    for name in (UNKNOWN, "no-uuid"):
        error = await failing(Rejected, case.report(name))
        assert error.outcome == "gone"


# --- connections


async def test_the_connection_of_a_500_is_not_used_again(case: Case) -> None:
    """The server closes it a moment later, without saying so."""
    case.sandbox.faults.add("read", status=500, times=20)
    for _ in range(20):
        with pytest.raises(Ambiguous):
            await case.report(UNKNOWN)
    assert (await failing(Rejected, case.report(UNKNOWN))).outcome == "gone"


async def test_idle_connections_end(case: Case) -> None:
    """Those that the server has closed meanwhile are not used."""
    assert case.sandbox.idle_s == 5.0
    case.sandbox.idle_s = 0.05
    for _ in range(3):
        await case.claims()
        async with asyncio.timeout(5):
            while case.sandbox._server.connections:  # noqa: ASYNC110 - of aiohttp
                await asyncio.sleep(0.02)


async def test_a_client_that_does_not_read_holds_up_no_task(case: Case) -> None:
    """It blocks every PATCH, committed and never answered. Tasks start, and results are looked up."""
    large, soon = "x" * 2**20, aiohttp.ClientWSTimeout(ws_close=0.01)
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{case.sandbox.url}/ws", timeout=soon) as socket,
    ):
        socket._response.connection.transport.pause_reading()  # type: ignore[union-attr]
        stuck = [case.api.add(type="other", input={}) for _ in range(40)]
        for task_id in stuck:
            case.api.set(task_id, status="done", output={"large": large})
        blocked = asyncio.create_task(case.api.broadcast())
        await asyncio.sleep(0.1)
        assert not blocked.done()
        async with asyncio.timeout(5):
            task_id = await case.running()
            with capture_logs():
                await case.report(task_id)
        assert case.api[task_id].document["output"] == OUTPUT.result.output
        blocked.cancel()


# --- the sandbox itself


CREATED, JSON = {"type": "summarize", "input": {}}, {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "answered"),
    [
        ("POST", "/tasks", {**CREATED, "type": "", "more": 1}, 201, '"status":"pending"'),
        ("POST", "/tasks", {"input": {}}, 422, '"loc":["body","type"]'),
        ("POST", "/tasks", {"type": "x", "input": []}, 422, '"loc":["body","input"]'),
        ("POST", "/tasks", "[", 422, "json_invalid"),
        ("POST", "/tasks", {**CREATED, "input": {"a": "\0"}}, 500, "Internal Server Error"),
        ("POST", "/tasks", '{"type": "x", "input": {"a": NaN}}', 500, "Internal Server Error"),
        ("POST", "/tasks", '{"type": "x", "input": {"a": "\\ud800"}}', 500, "Internal Server Error"),
        ("GET", "/tasks?limit=0", None, 200, "[]"),
        ("GET", "/tasks?limit=-1", None, 500, "Internal Server Error"),
        ("GET", "/tasks?limit=x", None, 422, "int_parsing"),
        ("GET", "/tasks?status_filter=PENDING&page=7", None, 200, "[]"),
        ("GET", "/tasks/{id}", None, 200, '"updated_at"'),
        ("GET", "/tasks/0b8f2a52-6a1c-4a57-9f0e-3d1f0c7f9a11", None, 404, "not found"),
        ("GET", "/tasks/x", None, 422, "uuid_parsing"),
        ("PATCH", "/tasks/{id}", {"status": "DONE"}, 422, '"loc":["body","status"]'),
        ("PATCH", "/tasks/{id}", {"output": []}, 422, '"loc":["body","output"]'),
        ("PATCH", "/tasks/{id}", {"status": None, "output": None, "other": 1}, 200, '"output":{"kept":1}'),
        ("PATCH", "/tasks/{id}", {"error": "", "output": {}}, 200, '"output":{},"error":""'),
        ("DELETE", "/tasks/{id}", None, 405, "Method Not Allowed"),
        ("GET", "/tasks/{id}/more", None, 404, '{"detail":"Not Found"}'),
        ("GET", "/health", None, 200, '"websocket_connections":0'),
    ],
)  # fmt: skip
async def test_the_api_of_the_sandbox(
    case: Case, method: str, path: str, body: object, status: int, answered: str
) -> None:
    """As the real one was seen to answer."""
    task_id = case.api.add("x")
    case.api.set(task_id, output={"kept": 1}, error="old")
    data = None if body is None else body if isinstance(body, str) else json.dumps(body)
    url = case.sandbox.url + path.replace("{id}", task_id)
    async with aiohttp.ClientSession() as session, session.request(method, url, data=data, headers=JSON) as answer:
        assert (answer.status, answered in await answer.text()) == (status, True)


async def test_every_change_is_told(case: Case) -> None:
    """To every WebSocket, also when nothing changes; a ping in text is answered in text."""
    task_id = case.api.add("x")
    async with aiohttp.ClientSession() as session, session.ws_connect(f"{case.sandbox.url}/ws") as socket:
        await socket.send_str("ping")
        assert await socket.receive_str(timeout=5) == "pong"
        for body in ({"status": "running"}, {"status": "running"}):
            async with session.patch(f"{case.sandbox.url}/tasks/{task_id}", json=body) as answer:
                updated_at = (await answer.json())["updated_at"]
            told = await socket.receive_json(timeout=5)
            assert (told["task_id"], told["status"]) == (task_id, "running")
            assert told["updated_at"] == updated_at.replace("Z", "+00:00")
