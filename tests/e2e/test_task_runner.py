"""The real command with a task runner's queue: two workers that are killed, and every kind of end."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.e2e.conftest import DaemonProcess, eventually
from tests.postgres import FIXTURES as POSTGRES
from tests.task_runner import FIXTURES, IDS, Runner

postgres, _ = POSTGRES
redis_server, s3_server, runner = FIXTURES


class Internet:
    """A search API and pages. The first answers to each query and path are 503."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: Counter[str] = Counter()

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        name = request.query.get("q", request.path)
        self.asked[name] += 1
        await asyncio.sleep(0.1)
        if name.startswith("shy") and self.asked[name] < 3:
            return web.Response(status=503)
        if request.path == "/search":
            hit = {"title": name, "url": "https://a.example/", "description": "d"}
            return web.json_response({"type": "search", "web": {"results": [hit]}})
        return web.Response(text=f"<title>{name}</title><p>The tide table.", content_type="text/html")


@pytest.fixture
async def internet() -> AsyncIterator[Internet]:
    internet = Internet()
    server = web.ServerRunner(web.Server(internet.answer))
    await server.setup()
    await web.TCPSite(server, "127.0.0.1", 0).start()
    internet.url = f"http://127.0.0.1:{server.addresses[0][1]}"
    yield internet
    await server.cleanup()


class Workers:
    """Daemons, each with a data directory of its own."""

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        self.all: list[DaemonProcess] = []
        self._folder = folder
        self._settings = settings

    async def start(self, name: str) -> DaemonProcess:
        directory = self._folder / f"{name}{len(self.all)}"
        directory.mkdir()
        settings = {**self._settings, "DATA_DIR": str(self._folder / name), "INSTANCE_ID": name}
        self.all.append(DaemonProcess(directory, settings))
        return await self.all[-1].start()


@pytest.fixture
async def workers(tmp_path: Path, runner: Runner, internet: Internet) -> AsyncIterator[Workers]:
    settings = {
        **runner.environ,
        "TASK_SOURCE": "task-runner",
        "LEASE_TTL": "2",
        "CONCURRENCY_LIMIT": "8",
        "BRAVE_URL": f"{internet.url}/search",
        "BRAVE_API_KEY": "key",
        "FETCH_DOMAIN_ALLOWLIST": "127.0.0.1",
        "SHUTDOWN_GRACE_SECONDS": "1",
    }
    started = Workers(tmp_path, settings)
    yield started
    for process in started.all:
        await process.kill()
    assert [line for process in started.all for line in process.surprises()] == []


async def test_mixed_tasks_survive_kills(runner: Runner, internet: Internet, workers: Workers) -> None:
    """Each task ends as it must, no artifact is missing or there twice, and the queue is empty."""
    page = f"{internet.url}/page"
    done = {
        "echo": [runner.add("echo", {"n": n}) for n in range(16)],
        "sleep": [runner.add("sleep", {"seconds": 0.5 + n / 10}, retries=5) for n in range(10)],
        "search": [runner.add("search", {"query": f"tide {n}"}, retries=5) for n in range(8)],
        "shy": [runner.add("search", {"query": f"shy {n}"}) for n in range(2)],
        "batch": [runner.add("search_batch", {"queries": ["tide 1", f"batch {n}"]}, retries=5) for n in range(2)],
        "fetch": [runner.add("fetch_url", {"url": f"{page}{n}"}, retries=5) for n in range(6)],
        "html": [runner.add("fetch_url", {"url": f"{page}0", "store_raw_html": True}, retries=5)],
    }
    equal = [runner.add("search", {"query": " tide  0 ", "sources": ["BRAVE"]}, retries=5) for _ in range(5)]
    late = [runner.add("sleep", {"seconds": 60 + n}, timeout=1, retries=1) for n in range(2)]
    stopped = [runner.add("sleep", {"seconds": 90 + n}) for n in range(3)]
    wrong = [runner.add("sleep", {"seconds": True}), runner.add("search", {"query": "q", "recency_days": -1})]
    wrong += [runner.add("echo", {}, timeout=-5), runner.add("fetch_url", {"url": "http://10.0.0.1/"}, retries=3)]
    foreign = runner.add("import_mail", {})

    names = ["first", "second"]
    running = dict(zip(names, await asyncio.gather(*map(workers.start, names)), strict=True))
    for count, name in ((12, "first"), (24, "second"), (36, "first")):
        await eventually(lambda count=count: runner.states().get("completed", 0) >= count, timeout=30)
        await running[name].kill()
        running[name] = await workers.start(name)
    for task_id in stopped:
        runner.cancel(task_id)
    await eventually(lambda: runner.states().keys() == {"queued", "completed", "failed", "cancelled"}, timeout=30)
    await eventually(lambda: runner.states()["queued"] == 1, timeout=30)

    completed = {task_id for ids in done.values() for task_id in ids}
    assert {task_id for task_id in completed if runner.row(task_id)[:2] != ("completed", None)} == set()
    assert {runner.row(task_id)[:2] for task_id in late} == {("failed", "task timed out")}
    assert {runner.row(task_id)[:2] for task_id in stopped} == {("cancelled", None)}
    assert {runner.row(task_id)[:2] for task_id in wrong} == {("failed", "task_rejected_invalid_params")}
    first, *others = [*done["search"][:1], *equal]
    summaries = Counter(runner.result(task_id)["summary"].partition(";")[0] for task_id in (first, *others))
    assert summaries == {"1 results from brave": 1, "deduplicated": 5}
    assert len({tuple(runner.result(task_id)["artifact_ids"]) for task_id in (first, *others)}) == 1

    sizes = {"search": 2, "shy": 2, "batch": 5, "html": 2}
    for name, ids in done.items():
        own = [task_id for task_id in ids if not runner.result(task_id)["summary"].startswith("deduplicated")]
        assert {len(runner.artifacts(task_id)) for task_id in own} == {sizes.get(name, 1)}
    rows = "SELECT count(*), count(DISTINCT task_id || type || path) FROM artifacts"
    referenced = "SELECT count(DISTINCT a) FROM tasks, jsonb_array_elements_text(result_json->'artifact_ids') a"
    ((total, distinct),) = runner.database.rows(rows)
    assert (total, distinct) == (runner.database.value(referenced),) * 2
    await eventually(lambda: runner.strays() == ([], []), timeout=30)

    assert runner.database.rows("SELECT * FROM runs WHERE status = 'running' OR metadata_json ? 'owner'") == []
    keys = "SELECT run_key, count(*)::int FROM runs WHERE status = 'completed' GROUP BY 1 HAVING count(*) > 1"
    twice = [key for key, _ in runner.database.rows(keys)]
    assert all(key.startswith("fetch_url:") for key in twice), "only the page whose html was missing"
    assert len(twice) == 1
    await eventually(lambda: runner.index() == ([foreign], [], {foreign}), timeout=30)
    status: Any = await running["first"].status()
    assert status["queue"] == {"reachable": True, "unsent_changes": 0}


async def test_an_end_leaves_nothing_behind(runner: Runner, workers: Workers) -> None:
    """SIGTERM: what runs is queued again for others, its run is closed. Then a new task starts at once."""
    ids = [runner.add("sleep", {"seconds": 30 + n}) for n in range(3)]
    first = await workers.start("first")
    await eventually(lambda: runner.states() == {"running": 3})
    assert await first.stop() == 0
    assert runner.states() == {"queued": 3}
    assert {state for state, _, _ in runner.runs()} == {"failed"}
    waiting, processing, all_ids = runner.index()
    assert ({*waiting}, processing, all_ids) == ({*ids}, [], {*ids})
    for task_id in ids:
        runner.cancel(task_id)
    await workers.start("second")
    await eventually(lambda: runner.states() == {"cancelled": 3})
    began_at = asyncio.get_running_loop().time()
    task_id = runner.add("echo", {"n": 1})
    await eventually(lambda: runner.row(task_id)[0] == "completed")
    assert asyncio.get_running_loop().time() - began_at < 1
    await eventually(lambda: not runner.redis.exists(IDS))
