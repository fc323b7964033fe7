"""Task runners over a real PostgreSQL, Redis and S3: what every source promises, then rows, artifacts and queues."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from datetime import datetime
from typing import Any

import pytest
from structlog.testing import capture_logs

from ai_task_processor.core import plugins
from ai_task_processor.core.checks import Finding
from ai_task_processor.core.clock import SystemClock
from ai_task_processor.core.errors import Ambiguous, Rejected, Transient, Unsent
from ai_task_processor.core.ports import Want
from ai_task_processor.core.reading import load_settings
from ai_task_processor.models.task import Cancelled, Claim, Completed, Failed, Failure, TaskResult
from ai_task_processor.net import postgres as net
from ai_task_processor.sources.task_runner import queue
from ai_task_processor.sources.task_runner.artifacts import artifacts_of
from ai_task_processor.sources.task_runner.run_keys import run_key
from ai_task_processor.sources.task_runner.source import TaskRunnerSource
from ai_task_processor.sources.task_runner.table import run_id_of
from ai_task_processor.testing.source import SOURCE_PROMISES, Gatekeeper, HandClock, SourcePromise
from tests.contract.helpers import failing
from tests.helpers import services
from tests.postgres import FIXTURES as POSTGRES
from tests.task_runner import FIXTURES, IDS, QUEUE, Runner, free_port

postgres, _ = POSTGRES
redis_server, s3_server, runner = FIXTURES

RESULT = Completed(TaskResult({"n": 1}))
KIND: type[TaskRunnerSource] = plugins.find("sources", "task-runner").load()


def built(runner: Runner, **more: Any) -> TaskRunnerSource:
    given = {**runner.environ, "LEASE_TTL": "2", "CIRCUIT_BREAKER_THRESHOLD": "1000"}
    clock = more.pop("clock", None) or SystemClock()
    source: TaskRunnerSource = KIND.build(services({**given, **more}, KIND, clock=clock, source=KIND.name))
    return source


class Running:
    """A source that is running, until ``kill``: then its sessions end as those of a process that was killed."""

    def __init__(self, source: TaskRunnerSource) -> None:
        self.source = source
        self.admission = Gatekeeper()
        self._ready = asyncio.Event()
        self._life = asyncio.ensure_future(source.run(self._ready))

    async def started(self) -> "Running":
        await self._ready.wait()
        return self

    async def kill(self) -> None:
        self._life.cancel()
        with suppress(asyncio.CancelledError):
            await self._life

    async def claims(self, limit: int = 10, **more: Any) -> list[Claim]:
        return list(await self.source.claim(Want(limit, self.admission, **more)))

    async def claimed(self, limit: int = 10) -> list[str]:
        return [claim.task.id for claim in await self.claims(limit)]


Start = Callable[..., Awaitable[Running]]


@pytest.fixture
async def start(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Start]:
    """Starts sources over the task runner."""
    monkeypatch.setattr(net, "POOL_S", 0.3)
    async with AsyncExitStack() as stack:

        async def start(**more: Any) -> Running:
            running = await Running(built(runner, **more)).started()
            stack.push_async_callback(running.kill)
            return running

        yield start


async def eventually(holds: Callable[[], Any], timeout: float = 10.0) -> None:
    async with asyncio.timeout(timeout):
        while not holds():  # noqa: ASYNC110 - the servers have no event for it
            await asyncio.sleep(0.02)


# --- what every source promises


class Case:
    """``testing.source.SourceCase``. An equal task is a new one: earlier runs are forgotten."""

    def __init__(self, source: TaskRunnerSource, runner: Runner, clock: HandClock) -> None:
        self.source = source
        self.admission = Gatekeeper()
        self.clock = clock
        self.runner = runner

    def _forget(self) -> None:
        self.runner.database.execute("DELETE FROM metrics; DELETE FROM runs WHERE status = 'completed'")

    def add(self, text: str) -> str:
        self._forget()
        return self.runner.add("echo", {"text": text})

    def put_back(self, task_id: str) -> None:
        self._forget()
        self.runner.database.execute("UPDATE tasks SET status = 'queued' WHERE id = %s", task_id)

    def refuse(self, task_id: str) -> None:
        self.runner.database.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'user text'; END $$;"
            " CREATE TRIGGER refuse BEFORE UPDATE ON tasks FOR EACH ROW"
            f" WHEN (OLD.id = '{task_id}') EXECUTE FUNCTION refuse()"
        )

    def break_down(self) -> None:
        self.runner.database.allow_connections(False)

    def state(self, task_id: str) -> str:
        (word,) = self.runner.row(task_id, "status")
        return {"completed": "succeeded", "failed": "failed"}.get(word, "pending")


class Clock(HandClock):
    """With the real time of day: S3 refuses signatures of another one."""

    def now(self) -> datetime:
        return SystemClock().now()


@pytest.mark.parametrize("promise", SOURCE_PROMISES, ids=lambda promise: promise.__name__)
async def test_it_keeps_the_promises_of_a_source(
    promise: SourcePromise, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(net, "POOL_S", 0.3)
    clock = Clock()
    running = await Running(built(runner, clock=clock)).started()
    try:
        await promise(Case(running.source, runner, clock))
    finally:
        await running.kill()


# --- results


HIT = {"title": "Tides", "url": "https://a.example/", "snippet": "s", "published_at": None, "source": "brave"}
FOUND = {"query": "tides", "results": [HIT], "sources_used": ["brave"], "retrieved_at": "2026-02-01T10:00:00.000Z"}
RAW: dict[str, object] = {"brave": {"web": {"results": []}}}
JSON = "application/json"
#: by type: params, output, summary, and the artifacts in their order
RESULTS: dict[str, tuple[object, object, str, list[tuple[str, str, object]]]] = {
    "echo": (
        {"msg": "héllo"},
        {"msg": "héllo"},
        "echo result",
        [("echo_result", JSON, {"msg": "héllo"})],
    ),
    "sleep": (
        {"seconds": 2},
        {"slept_seconds": 2},
        "slept 2 seconds",
        [("sleep_result", JSON, {"slept_seconds": 2})],
    ),
    "search": (
        {"query": "tides"},
        {**FOUND, "raw": RAW, "summary": "1 results from brave"},
        "1 results from brave",
        [("search_results", JSON, FOUND), ("search_raw", JSON, RAW["brave"])],
    ),
    "search_batch": (
        {"queries": ["tides"]},
        {"queries": [{**FOUND, "cached": True, "raw": RAW}], "summary": "Batch search completed: 1 queries"},
        "Batch search completed: 1 queries",
        [
            ("search_batch_results", JSON, {"queries": [{**FOUND, "cached": True}]}),
            ("search_results", JSON, FOUND),
            ("search_raw", JSON, RAW["brave"]),
        ],
    ),
    "fetch_url": (
        {"url": "https://a.example/", "store_raw_html": True},
        {"text": "Title: A\n\ntext", "html": "<p>text", "summary": "Fetched and extracted content from a.example"},
        "Fetched and extracted content from a.example",
        [("fetch_text", "text/plain", b"Title: A\n\ntext"), ("fetch_html", "text/html", b"<p>text")],
    ),
    "draw": ({"of": "a tide"}, ["a picture"], "draw result", [("draw_result", JSON, ["a picture"])]),
}


@pytest.mark.parametrize("task_type", RESULTS)
async def test_a_result_is_artifacts_and_a_summary(task_type: str, runner: Runner, start: Start) -> None:
    """Objects, rows of all four tables, and a queue that is empty again; a repeated report changes nothing."""
    params, output, summary, artifacts = RESULTS[task_type]
    task_id = runner.add(task_type, params)
    source = await start()
    (claim,) = await source.claims()
    assert runner.row(task_id, "status, retry_count, started_at IS NOT NULL, finished_at") == ("running", 1, True, None)
    ((state, metadata, _),) = runner.runs()
    assert (state, metadata.pop("owner")) == ("running", claim.receipt.token)
    assert metadata == {"task_id": task_id, "task_type": task_type}
    await eventually(lambda: runner.index() == ([], [task_id], {task_id}))
    for _ in range(2):
        await source.source.report(claim.receipt, Completed(TaskResult(output)))
    assert runner.row(task_id) == ("completed", None, 1)
    assert runner.result(task_id)["summary"] == summary
    assert [
        (kind, content_type, content if kind.startswith("fetch") else json.loads(content))
        for kind, content_type, content in runner.artifacts(task_id)
    ] == artifacts
    assert runner.runs() == [("completed", metadata, 1)]
    assert runner.database.value("SELECT run_key FROM runs") == run_key(task_type, params)
    assert runner.strays() == ([], [])
    await eventually(lambda: runner.index() == ([], [], set()))


FAILURES: list[tuple[Failure, int, int, str, str, int]] = [
    # failure, retries, timeout, state, error text, metrics
    (Failure("processor_error", "1 attempts ended with timeout"), 0, 60, "failed", "task timed out", 1),
    (Failure("processor_error", "3 attempts ended with timeout"), 1, 60, "queued", "task timed out", 1),
    (Failure("processor_error", "1 attempts ended with timeout"), 5, 700, "failed", "task_runtime_exceeded", 0),
    (Failure("task_runtime_exceeded", "700 s are more than …"), 5, 700, "failed", "task_runtime_exceeded", 0),
    (Failure("task_runtime_exceeded", "700 s are more than …"), 0, 60, "failed", "task timed out", 1),
    (Failure("artifact_size_exceeded", "more than 25 MiB"), 1, 60, "queued", "artifact_size_exceeded", 1),
    (Failure("task_rejected_invalid_params", "invalid_params"), 5, 60, "failed", "task_rejected_invalid_params", 0),
    (Failure("no_extractable_text", "the page has no text"), 0, 60, "failed", "no_extractable_text", 1),
    (Failure("fetch_failed", "the page answered 404\0"), 0, 60, "failed", "the page answered 404�", 1),
    (Failure("processor_error", "1 attempts ended with OSError"), 0, 60, "failed", "1 attempts ended with OSError", 1),
]


@pytest.mark.parametrize(("failure", "retries", "timeout", "state", "error", "metrics"), FAILURES)
async def test_a_failure_has_the_text_that_clients_know(
    failure: Failure, retries: int, timeout: int, state: str, error: str, metrics: int, runner: Runner, start: Start
) -> None:
    """It is queued again while there are retries left; its run is closed; nothing is left in the bucket."""
    task_id = runner.add("fetch_url", {"url": "https://a.example/"}, timeout=timeout, retries=retries)
    source = await start()
    (claim,) = await source.claims()
    for _ in range(2):
        await source.source.report(claim.receipt, Failed(failure))
    finished = state == "failed"
    columns = "status, error, retry_count, started_at IS NULL, finished_at IS NOT NULL, result_json"
    assert runner.row(task_id, columns) == (state, error, 1, not finished, finished, None)
    assert runner.runs() == [("failed", {"task_id": task_id, "task_type": "fetch_url"}, metrics)]
    left: Any = ([], [], set()) if finished else ([task_id], [], {task_id})
    await eventually(lambda: runner.index() == left)
    if not finished:  # the last start, at once in another process
        assert await source.claims() == []
        (again,) = await (await start()).claims()
        assert (again.task.attempt, again.task.attempt_limit) == (2, 1)
        await source.source.report(again.receipt, Completed(TaskResult({"text": "t", "summary": "s"})))
        assert runner.row(task_id) == ("completed", None, 2)
        assert [state for state, _, _ in runner.runs()] == ["failed", "completed"]


async def test_an_artifact_that_is_too_large(runner: Runner, start: Start) -> None:
    """Its task fails, and nothing of it is stored."""
    task_id = runner.add("echo", {"text": "x" * 2**20})
    source = await start(TASK_MAX_ARTIFACT_MB="1")
    (claim,) = await source.claims()
    with capture_logs() as lines:
        await source.source.report(claim.receipt, Completed(TaskResult(claim.task.content)))
    assert runner.row(task_id) == ("failed", "artifact_size_exceeded", 1)
    assert [line["event"] for line in lines] == ["artifact.rejected"]
    assert runner.s3.names() == []


# --- what is claimed


async def test_what_a_task_says(runner: Runner, start: Start) -> None:
    """Its time is bounded by its own timeout and the longest runtime; numbers are as large as they are."""
    runner.add("search", {"query": "q"}, timeout=700, retries=3)
    runner.add("echo", '{"n": 123456789012345678901234567890}', timeout=5, retries=3)
    runner.add("sleep", {"seconds": 1}, timeout=5)
    source = await start()
    search, echo, sleep = [claim.task for claim in await source.claims()]
    assert (search.content, search.timeout_s, search.attempt_limit) == ({"query": "q", "include_raw": True}, 600.0, 1)
    assert (echo.content, echo.timeout_s, echo.attempt_limit) == ({"n": 123456789012345678901234567890}, 5.0, None)
    assert (sleep.timeout_s, sleep.attempt_limit) == (5.0, 1)


async def test_no_two_sources_claim_one_task(runner: Runner, start: Start) -> None:
    ids = [runner.add("echo", {"n": n}, push=False) for n in range(120)]
    sources = [await start() for _ in range(3)]
    found: list[list[str]] = [[] for _ in sources]

    async def take(number: int) -> None:
        while claimed := await sources[number].claimed(7):
            found[number] += claimed

    await asyncio.gather(*map(take, range(3)))
    assert sorted(id_ for each in found for id_ in each) == sorted(ids)
    assert all(found)
    assert (runner.states(), len(runner.runs())) == ({"running": 120}, 120)


async def test_a_task_that_cannot_be_processed_fails(runner: Runner, start: Start) -> None:
    """What the API accepts, and nobody can do; the worker goes on, also with a queued one that was cancelled."""
    deep = "[" * 2000 + "]" * 2000
    wrong = [
        runner.add("echo", {"a": 1}, timeout=-5, retries=2),
        runner.add("echo", {"a": 2}, retries=-1),
        runner.add("echo", f'{{"n": {"9" * 5000}}}', retries=2),
        runner.add("echo", f'{{"n": {deep}}}'),
    ]
    cancelled, good = runner.add("echo", {"a": 3}), runner.add("sleep", {"seconds": True})
    runner.cancel(cancelled)
    source = await start()
    with capture_logs() as lines:
        assert await source.claimed() == [good]
    for task_id in wrong:
        assert runner.row(task_id) == ("failed", "task_rejected_invalid_params", 1)
        assert runner.runs(task_id) == [("failed", {"task_id": task_id, "task_type": "echo"}, 0)]
    assert runner.row(cancelled) == ("cancelled", None, 0)
    assert runner.runs(cancelled) == []
    assert {line["reason"] for line in lines if line["event"] == "task.rejected"} == {
        "invalid_timeout",
        "invalid_max_retries",
        "unreadable_params",
    }
    await eventually(lambda: runner.index() == ([], [good], {good}))


async def test_tasks_of_others_stay_where_they_are(runner: Runner, start: Start) -> None:
    """Of a type that nobody here knows, also cancelled ones; and what another worker is running."""
    foreign, wanted, running = runner.add("import_mail", {}), runner.add("knowledge_query", {}), runner.add("echo", {})
    runner.cancel(wanted)
    runner.database.execute("UPDATE tasks SET status = 'running', retry_count = 1 WHERE id = %s", running)
    source = await start()
    source.admission.refused = {foreign: "unknown_type", wanted: "unknown_type"}
    assert await source.claimed() == []
    await source.source.renew([])
    assert runner.states() == {"queued": 2, "running": 1}
    assert runner.index() == ([foreign, wanted, running], [], {foreign, wanted, running})


# --- equal tasks


async def test_an_equal_task_has_the_artifacts_of_the_first(runner: Runner, start: Start) -> None:
    """It completes at once, without a run. A failed run before is no result; html is fetched when it is missing."""
    url = {"url": "https://A.example:443/x/?b=2&a=1#top"}
    first = runner.add("fetch_url", url)
    source = await start()
    (claim,) = await source.claims()
    await source.source.report(claim.receipt, Failed(Failure("fetch_failed", "the page answered 404")))
    second = runner.add("fetch_url", {"url": "https://a.example/x?a=1&b=2"})
    (claim,) = await source.claims()
    await source.source.report(claim.receipt, Completed(TaskResult({"text": "t", "summary": "Fetched"})))
    third, html = runner.add("fetch_url", url), runner.add("fetch_url", {**url, "store_raw_html": True})
    assert await source.claimed() == [html]
    (run_id,) = runner.database.rows("SELECT id FROM runs WHERE status = 'completed'")[0]
    assert runner.result(third) == {
        "artifact_ids": runner.result(second)["artifact_ids"],
        "summary": f"deduplicated; Fetched (run {run_id})",
    }
    assert runner.row(third) == ("completed", None, 1)
    assert (runner.runs(third), runner.row(first)[0]) == ([], "failed")
    await eventually(lambda: runner.index() == ([], [html], {html}))


async def test_equal_tasks_at_once_run_one_after_the_other(runner: Runner, start: Start) -> None:
    """In one process and in two. Those whose work costs nothing do not wait for one that has failed before."""
    ids = [runner.add("search", {"query": "tides"}) for _ in range(4)]
    sources = [await start(), await start()]
    claims = [claim for found in await asyncio.gather(*(each.claims() for each in sources)) for claim in found]
    assert len(claims) == 1
    assert [each.source.backlog.skipped.get("deferred", 0) for each in sources].count(0) <= 1
    output = RESULTS["search"][1]
    await sources[0].source.report(claims[0].receipt, Completed(TaskResult(output)))
    assert await sources[1].claimed() == []
    assert runner.states() == {"completed": 4}
    assert len(runner.runs()) == 1
    sleeps = [runner.add("sleep", {"seconds": 9}) for _ in range(3)]
    (claim,) = await sources[0].claims()
    await sources[0].source.report(claim.receipt, Failed(Failure("processor_error", "1 attempts ended with timeout")))
    assert await sources[1].claimed() == [id_ for id_ in sleeps if id_ != claim.task.id]
    assert ids


# --- claims that end


async def test_a_cancelled_task(runner: Runner, start: Start) -> None:
    """Its row keeps error and result; its run has failed."""
    task_id = runner.add("search", {"query": "q"})
    source = await start()
    (claim,) = await source.claims()
    runner.cancel(task_id)
    assert not await source.source.renew([claim.receipt])
    assert list(source.source.cancelled()) == [claim.receipt]
    for _ in range(2):
        await source.source.report(claim.receipt, Cancelled())
    assert runner.row(task_id, "status, error, result_json, finished_at IS NOT NULL") == ("cancelled", None, None, True)
    assert [(state, metrics) for state, _, metrics in runner.runs()] == [("failed", 1)]
    await eventually(lambda: runner.index() == ([], [], set()))


async def test_a_released_task(runner: Runner, start: Start) -> None:
    """It is queued for everybody, with the text of its failure; its run is closed."""
    task_id = runner.add("sleep", {"seconds": 9}, timeout=1, retries=2)
    source, other = await start(), await start()
    (claim,) = await source.claims()
    await source.source.release(claim.receipt, 30, Failure("processor_error", "the search API answered 503"))
    assert runner.row(task_id, "status, error, started_at") == ("queued", "the search API answered 503", None)
    await eventually(lambda: runner.index() == ([task_id], [], {task_id}))
    (claim,) = await other.claims()
    runner.database.execute("UPDATE tasks SET started_at = started_at - interval '1 s'")
    await other.source.release(claim.receipt, 30)
    assert runner.row(task_id) == ("queued", "task timed out", 2)
    assert [state for state, _, _ in runner.runs()] == ["failed", "failed"]


async def test_a_claim_that_was_taken_away(runner: Runner, start: Start) -> None:
    """A late report changes nothing, and its objects are removed: also when an operator has ended the task."""
    task_id, other_id = runner.add("echo", {"n": 1}), runner.add("echo", {"n": 2})
    frozen, thief = await start(), await start()
    mine, stopped = await frozen.claims()
    runner.database.execute("UPDATE tasks SET status = 'queued' WHERE id = %s", task_id)
    runner.database.execute("UPDATE tasks SET status = 'failed', error = 'stopped' WHERE id = %s", other_id)
    assert len(await frozen.source.renew([mine.receipt, stopped.receipt])) == 2
    assert [state for state, _, _ in runner.runs()] == ["failed", "failed"]
    (again,) = await thief.claims()
    await frozen.source._table._write(task_id, artifacts_of("echo", RESULT.result, run_id_of(mine.receipt))[0])
    assert len(runner.s3.names()) == 1
    for claim in (mine, stopped):
        assert (await failing(Rejected, frozen.source.report(claim.receipt, RESULT))).outcome == "lost"
        await frozen.source.release(claim.receipt, 0)
    assert runner.s3.names() == []
    await thief.source.report(again.receipt, RESULT)
    assert (await failing(Rejected, frozen.source.report(mine.receipt, RESULT))).outcome == "lost"
    assert (runner.row(task_id)[0], runner.row(other_id)[:2]) == ("completed", ("failed", "stopped"))
    assert runner.strays() == ([], [])
    await eventually(lambda: runner.index()[1] == [])


async def test_claims_of_a_dead_process_end(runner: Runner, start: Start) -> None:
    """Their runs are closed, their ids are in the queue again; those of the living stay."""
    ids = [runner.add("echo", {"n": n}) for n in range(3)]
    victim, living = await start(), await start()
    await victim.claims(2)
    (kept,) = await living.claims()
    await victim.kill()

    while runner.states() != {"queued": 2, "running": 1}:
        assert not await living.source.renew([kept.receipt])
        await asyncio.sleep(0.05)
    assert [state for state, _, _ in runner.runs()] == ["failed", "failed", "running"]
    await eventually(lambda: runner.index() == (ids[:2], ids[2:], {*ids}))
    assert [claim.task.attempt for claim in await living.claims()] == [2, 2]


# --- crash points, and connections that end


async def test_a_report_that_is_cut_off_is_repeated(
    runner: Runner, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between objects and rows, and after the commit: the same objects, and each row once."""
    task_id = runner.add("search", {"query": "tides"})
    source = await start()
    (claim,) = await source.claims()
    table, outcome = source.source._table, Completed(TaskResult(RESULTS["search"][1]))
    ended = table._ended

    async def before(*_: Any) -> bool:
        raise Transient("cut off")

    async def after(*given: Any) -> bool:
        await ended(*given)
        raise Ambiguous("cut off")

    monkeypatch.setattr(table, "_ended", before)
    await failing(Transient, source.source.report(claim.receipt, outcome))
    written = runner.s3.names()
    assert (len(written), runner.row(task_id)[0]) == (2, "running")
    monkeypatch.setattr(table, "_ended", after)
    await failing(Ambiguous, source.source.report(claim.receipt, outcome))
    monkeypatch.undo()
    await source.source.report(claim.receipt, outcome)
    assert (runner.s3.names(), runner.strays()) == (written, ([], []))
    assert [(state, metrics) for state, _, metrics in runner.runs()] == [("completed", 1)]


@pytest.mark.parametrize("of", ["claim", "report", "release"])
async def test_a_connection_is_cut_in_the_middle_of_a_transaction(of: str, runner: Runner, start: Start) -> None:
    """Nothing is half done, and a repetition does it."""
    for n in range(2):
        runner.add("echo", {"n": n})
    source = await start()
    (claim,) = await source.claims(1)
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "claim": lambda: source.claims(1),
        "report": lambda: source.source.report(claim.receipt, RESULT),
        "release": lambda: source.source.release(claim.receipt, 0),
    }
    with runner.database.connection.transaction():
        runner.database.execute("LOCK TABLE runs IN SHARE MODE")
        call = asyncio.ensure_future(calls[of]())
        await runner.database.waiting()
        assert runner.database.end_sessions("wait_event_type = 'Lock'") == 1
        await failing(Ambiguous, call)
    assert (runner.states(), len(runner.runs())) == ({"queued": 1, "running": 1}, 1)
    await calls[of]()
    states = {"claim": {"running": 2}, "report": {"completed": 1, "queued": 1}, "release": {"queued": 2}}
    assert runner.states() == states[of]


async def test_without_s3_a_report_waits(runner: Runner, start: Start) -> None:
    """No row says that it is done; failures are reported all the same."""
    task_id, other_id = runner.add("echo", {"n": 1}), runner.add("echo", {"n": 2})
    source = await start(S3_ENDPOINT_URL=f"http://127.0.0.1:{free_port()}")
    claims = await source.claims()
    await failing(Unsent, source.source.report(claims[0].receipt, RESULT))
    await source.source.report(claims[1].receipt, Failed(Failure("fetch_failed", "gone")))
    assert (runner.row(task_id)[0], runner.row(other_id)[0]) == ("running", "failed")


async def test_a_claim_whose_answer_was_lost(runner: Runner, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is ours, and nothing here works on it: it is released, unless it has a record that stays."""
    ids = [runner.add("echo", {"n": n}) for n in range(2)]
    source = await start()
    claim = source.source._table.claim

    async def lost(*given: Any, **more: Any) -> Any:
        await claim(*given, **more)
        raise Ambiguous("the connection was lost")

    monkeypatch.setattr(source.source._table, "claim", lost)
    await failing(Ambiguous, source.claims())
    monkeypatch.undo()
    assert not await source.source.renew([])
    source.admission.refused = {ids[0]: "dead_letter"}
    (again,) = await source.claims()
    assert (again.task.id, again.task.attempt) == (ids[1], 2)
    assert Counter(state for state, _, _ in runner.runs()) == {"running": 2, "failed": 1}


# --- Redis


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "AGAIN_S", 0.05)
    monkeypatch.setattr(queue, "IDLE_S", 0.2)
    monkeypatch.setattr(queue, "LATE_S", (0.1, 0.1))


async def test_a_new_task_ends_the_wait(runner: Runner, start: Start) -> None:
    """Also beside ids that stay in the queue, which do not wake anybody."""
    source = await start()
    await source.claims()
    while await source.source.wait(0.1):
        pass
    for foreign in ("knowledge_query", "echo"):
        waiting = asyncio.ensure_future(source.source.wait(60))
        began_at = asyncio.get_running_loop().time()
        runner.add(foreign, {})
        assert await waiting is True
        assert asyncio.get_running_loop().time() - began_at < 1
    assert await source.source.wait(0.3) is False
    await eventually(lambda: abs(time.time() - float(runner.redis.get("worker:heartbeat") or 0)) < 2)
    assert runner.redis.ttl("worker:heartbeat") == -1


@pytest.mark.usefixtures("quick")
async def test_an_emptied_redis_is_filled_again(runner: Runner, start: Start) -> None:
    """With what is queued, of every type; what has ended meanwhile is removed."""
    foreign, mine, running = runner.add("import_mail", {}), runner.add("sleep", {}), runner.add("echo", {})
    promoted = runner.add("knowledge_promote", {})
    source = await start()
    source.admission.refused = {foreign: "unknown_type", promoted: "unknown_type", mine: "paused"}
    assert await source.claimed() == [running]
    runner.redis.flushall()
    runner.redis.rpush(QUEUE, "no-such-task")
    runner.redis.sadd(IDS, "no-such-task")
    await eventually(lambda: runner.index() == ([foreign, mine], [], {foreign, mine}))
    assert runner.redis.lrange("queue_promote", 0, -1) == [promoted]
    assert runner.redis.smembers("queue_promote:set") == {promoted}


@pytest.mark.usefixtures("quick")
async def test_work_goes_on_without_redis(runner: Runner, start: Start) -> None:
    """New tasks are found in PostgreSQL, and what Redis has missed is repaired."""
    first, second = runner.add("echo", {"n": 1}), runner.add("echo", {"n": 2})
    source = await start()
    (claim, other) = await source.claims()
    await eventually(lambda: len(runner.index()[1]) == 2)
    runner.server.stop()
    try:
        await eventually(lambda: [each.code for each in source.source.problems()] == ["queue_unavailable"])
        assert all(problem.ready for problem in source.source.problems())
        await source.source.report(claim.receipt, RESULT)
        third = runner.add("echo", {"n": 3}, push=False)
        while not (found := await source.claimed()):
            await source.source.wait(5)
        assert found == [third]
        await source.source.release(other.receipt, 60)
    finally:
        runner.server.start()
    await eventually(lambda: not source.source.problems())
    await eventually(lambda: runner.index()[0] == [second])
    assert (runner.row(first)[0], first in runner.index()[2]) == ("completed", False)


@pytest.mark.usefixtures("quick")
async def test_a_password_that_is_replaced(runner: Runner, start: Start) -> None:
    """The settings are read again when Redis refuses the old one."""
    runner.redis.config_set("requirepass", "new")
    with_password = {name: runner.server.url.replace("//", f"//:{name}@") for name in ("old", "new")}
    try:
        source = await start(REDIS_URL=with_password["old"])
        await eventually(lambda: [each.code for each in source.source.problems()] == ["queue_unavailable"])
        assert "correct user and password in REDIS_URL" in source.source.problems()[0].message
        changed = {**runner.environ, "REDIS_URL": with_password["new"]}
        source.source._secrets._read = lambda: load_settings(changed, None, groups=KIND.settings_groups)
        await eventually(lambda: not source.source.problems())
    finally:
        runner.redis.config_set("requirepass", "")


@pytest.mark.usefixtures("quick")
async def test_an_id_that_comes_after_its_end(runner: Runner, start: Start) -> None:
    """The API adds it after its commit: by then the task may be done."""
    task_id = runner.add("echo", {}, push=False)
    source = await start()
    (claim,) = await source.claims()
    await source.source.report(claim.receipt, RESULT)
    await eventually(lambda: source.source.status()["queue"] == {"reachable": True, "unsent_changes": 0})
    runner.redis.sadd(IDS, task_id)
    runner.redis.rpush(QUEUE, task_id)
    await eventually(lambda: runner.index() == ([], [], set()))


# --- doctor


async def findings(source: TaskRunnerSource) -> list[str]:
    found = [each for check in source.checks() async for each in check.work()]
    return [f"{each.mark} {each.text}: {each.remedy}" if isinstance(each, Finding) else "listed" for each in found]


async def test_doctor_finds_no_fault(runner: Runner, start: Start) -> None:
    runner.add("echo", {})
    found = await findings((await start(TASK_TIMEOUT="700")).source)
    assert [line.split()[0] for line in found] == ["ok", "listed", "ok", "ok", "ok"]
    assert "1 in queue_query" in found[2]
    assert runner.states() == {"queued": 1}


async def test_doctor_finds_every_fault(runner: Runner, start: Start) -> None:
    """Columns and rights that are missing, keys of another type, keys of S3 that it refuses, limits."""
    runner.database.execute(
        "ALTER TABLE artifacts DROP path; DROP TABLE metrics; DROP ROLE IF EXISTS limited; CREATE ROLE limited LOGIN;"
        " GRANT SELECT, UPDATE ON tasks, runs, artifacts TO limited; GRANT INSERT ON artifacts TO limited"
    )
    runner.redis.set(QUEUE, "a text")
    dsn = runner.database.dsn.replace("postgres:", "limited:", 1)
    found = await findings((await start(DATABASE_URL=dsn, S3_SECRET_ACCESS_KEY="wrong")).source)
    most = "TASK_MAX_RUNTIME_SECONDS"
    assert found == [
        "failure we may not INSERT into runs: GRANT INSERT ON runs TO our role",
        "failure artifacts has no column path: correct tables.artifacts in the profile",
        "failure there is no table metrics: correct its name in the profile, or DATABASE_URL",
        "failure a key of the queue in Redis is of another type: correct the names in the profile",
        "failure S3 answered 403: correct S3_ACCESS_KEY_ID and S3_SECRET_ACCESS_KEY",
        f"warning a task may take 300 s here (TASK_TIMEOUT), and 600 s by {most}: set TASK_TIMEOUT to more than {most}",
    ]
