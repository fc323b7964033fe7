"""Searches and pages with the real command: results, outages, private addresses, a kill."""

import asyncio
import gzip
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from tests.e2e.conftest import Finished, WatchedSandbox, eventually

Start = Callable[..., Awaitable[Any]]
Command = Callable[..., Awaitable[Finished]]


class Internet:
    """One server that is a search API (``/search``) and a few pages. ``broken``: the status of all answers."""

    def __init__(self) -> None:
        self.url = ""
        self.broken = 0
        self.latency_s = 0.0
        self.queries: Counter[str] = Counter()
        self.pages: Counter[str] = Counter()
        self.keys: set[str] = set()

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        await asyncio.sleep(self.latency_s)
        if request.path == "/search":
            return self._search(request)
        self.pages[request.path] += 1
        if self.broken:
            return web.Response(status=self.broken)
        match request.path:
            case "/away":
                return web.Response(status=302, headers={"Location": "http://169.254.169.254/latest/meta-data/"})
            case "/here":
                return web.Response(status=301, headers={"Location": self.url.replace("127.0.0.1", "localhost")})
            case "/next":
                return web.Response(status=307, headers={"Location": "/page"})
            case "/bomb":
                return web.Response(body=gzip.compress(bytes(50_000_000)), headers={"Content-Encoding": "gzip"})
            case "/gone":
                return web.Response(status=404)
            case "/down":
                return web.Response(status=500)
            case "/empty":
                return web.Response(text="<nav>menu</nav>", content_type="text/html")
        html = "<title>A page</title><nav>menu</nav><article><h1>Tides</h1><p>The table was wrong.</article>"
        return web.Response(text=html, content_type="text/html")

    def _search(self, request: web.BaseRequest) -> web.StreamResponse:
        self.keys.add(request.headers["X-Subscription-Token"])
        if self.broken:
            return web.Response(status=self.broken)
        query = request.query["q"]
        self.queries[query] += 1
        hit = {"title": query, "url": "https://a.example/", "description": "d", "page_age": "2026-01-02T00:00:00"}
        return web.json_response({"type": "search", "web": {"results": [hit, {"title": "no url"}]}})


@pytest.fixture
async def internet() -> AsyncIterator[Internet]:
    internet = Internet()
    runner = web.ServerRunner(web.Server(internet.answer))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    internet.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield internet
    await runner.cleanup()


@pytest.fixture
def settings(internet: Internet) -> dict[str, str]:
    return {
        "OPENAI_API_KEY": "your_openai_api_key_here",
        "ENABLED_TASK_TYPES": "text_embedding,search,search_batch,fetch_url",
        "BRAVE_API_KEY": "search-key-secret",
        "BRAVE_URL": f"{internet.url}/search",
        "FETCH_DOMAIN_ALLOWLIST": "*,127.0.0.1",
        "CONCURRENCY_LIMIT": "8",
    }


def error(sandbox: WatchedSandbox, task_id: str) -> str:
    """Code and reason of a failed task."""
    task = sandbox.tasks[task_id]
    assert (task.state, task.patches) == ("failed", 1)
    told: Any = task.error
    reason = told["message"].partition(":")[0]
    return f"{told['code']} {reason}" if told["code"] == "task_rejected_invalid_params" else str(told["code"])


async def test_searches_and_pages(
    sandbox: WatchedSandbox, daemon: Start, internet: Internet, settings: dict[str, str]
) -> None:
    """Each type ends with its result; what was searched before costs nothing; the circuits are shown."""
    first = sandbox.tasks.add(type="search", content={"query": "tide tables"})
    await (worker := await daemon(**settings)).status()
    await sandbox.tasks.settled([first], timeout=30)
    batch = sandbox.tasks.add(type="search_batch", content={"queries": ["moon", " tide  tables"]})
    page = sandbox.tasks.add(type="fetch_url", content={"url": f"{internet.url}/next"})
    ids = [batch, page, sandbox.tasks.add("embed")]
    await sandbox.tasks.settled(ids, timeout=30)
    found: Any = sandbox.tasks[first].result
    hit = {"title": "tide tables", "url": "https://a.example/", "snippet": "d", "published_at": "2026-01-02T00:00:00"}
    assert found["results"] == [{**hit, "source": "brave"}]
    assert (found["query"], found["sources_used"], found["summary"]) == (
        "tide tables",
        ["brave"],
        "1 results from brave",
    )
    together: Any = sandbox.tasks[batch].result
    assert [(each["query"], each["cached"]) for each in together["queries"]] == [("moon", False), ("tide tables", True)]
    assert sandbox.tasks[page].result == {
        "text": f"Title: A page\nAuthor: \nPublished: \nURL: {internet.url}/page\n\nTides\nThe table was wrong.",
        "summary": "Fetched and extracted content from 127.0.0.1",
    }
    assert internet.queries == {"moon": 1, "tide tables": 1}
    assert internet.keys == {"search-key-secret"}
    circuits = (await worker.status())["circuits"]
    assert (circuits["search"]["state"], circuits["fetch"]["state"]) == ("closed", "closed")
    assert await worker.metric('circuit_breaker_state{service="search"}') == 0
    assert await worker.metric('search_requests_total{outcome="ok"}') == 2
    assert await worker.metric('tasks_processed_total{status="succeeded",task_type="fetch_url"}') == 1
    assert await worker.stop() == 0
    assert "search-key-secret" not in worker.log.read_text()


PRIVATE = "task_rejected_invalid_params fetch_domain_not_allowed"


async def test_what_is_refused(
    sandbox: WatchedSandbox, daemon: Start, internet: Internet, settings: dict[str, str]
) -> None:
    """Private addresses in every spelling, at once and after redirects, and pages that have no text."""
    port = internet.url.rpartition(":")[2]
    expected = {
        f"http://localhost:{port}/page": PRIVATE,
        f"http://LOCALHOST.:{port}/page": PRIVATE,
        f"http://[::1]:{port}/": PRIVATE,
        f"http://[::ffff:127.0.0.1]:{port}/": PRIVATE,
        f"http://127.0.0.2:{port}/": PRIVATE,
        f"http://0:{port}/": PRIVATE,
        "http://169.254.169.254/latest/meta-data/": PRIVATE,
        "http://10.0.0.1/": PRIVATE,
        "https://192.168.1.1/": PRIVATE,
        "http://100.64.0.1/": PRIVATE,
        "http://0xa9fea9fe/": PRIVATE,
        f"{internet.url}/away": PRIVATE,
        f"{internet.url}/here": PRIVATE,
        "file:///etc/passwd": "task_rejected_invalid_params invalid_url",
        f"http://user:password@127.0.0.1:{port}/": "task_rejected_invalid_params invalid_url",
        f"{internet.url}/bomb": "artifact_size_exceeded",
        f"{internet.url}/gone": "fetch_failed",
        f"{internet.url}/down": "fetch_failed",
        f"{internet.url}/empty": "no_extractable_text",
        "http://127.0.0.1:1/": "fetch_failed",
    }
    ids = {sandbox.tasks.add(type="fetch_url", content={"url": url}): url for url in expected}
    worker = await daemon(**settings, TASK_MAX_ARTIFACT_MB="1")
    await sandbox.tasks.settled(list(ids), timeout=60)
    assert {url: error(sandbox, task_id) for task_id, url in ids.items()} == expected
    assert internet.pages == {"/away": 1, "/here": 1, "/bomb": 1, "/gone": 1, "/down": 3, "/empty": 1}
    reasons = {line["task_id"]: line["reason"] for line in worker.events("task.rejected")}
    rejected = {task_id: expected[url].split() for task_id, url in ids.items() if " " in expected[url]}
    assert reasons == {task_id: words[1] for task_id, words in rejected.items()}
    # The same address in numbers is the host that is named.
    named = sandbox.tasks.add(type="fetch_url", content={"url": f"http://2130706433:{port}/page"})
    await sandbox.tasks.settled([named], timeout=30)
    assert sandbox.tasks[named].state == "succeeded"
    assert "password" not in worker.log.read_text()


@pytest.mark.parametrize("status", [503, 401, 429])
async def test_an_outage_of_the_search_api_fails_nothing(
    sandbox: WatchedSandbox, daemon: Start, internet: Internet, settings: dict[str, str], status: int
) -> None:
    """Tasks wait, the circuit or a pause names the reason, and all end with their result afterwards."""
    internet.broken = status
    ids = [sandbox.tasks.add(type="search", content={"query": f"q{number}"}) for number in range(12)]
    worker = await daemon(**settings, POLLING_INTERVAL_SECONDS="1")
    told = await worker.status_when(lambda status: status["circuits"]["search"]["reason"], timeout=30)
    assert str(status) in told["circuits"]["search"]["reason"]
    assert sandbox.stats.patches == 0
    internet.broken = 0
    await sandbox.tasks.settled(ids, timeout=60)
    assert {sandbox.tasks[task_id].state for task_id in ids} == {"succeeded"}


async def test_a_kill_pays_for_nothing_twice(
    sandbox: WatchedSandbox, daemon: Start, internet: Internet, settings: dict[str, str]
) -> None:
    """Of a batch that was cut off, only the query under way is asked again."""
    internet.latency_s = 0.05
    queries = [f"q{number}" for number in range(40)]
    task_id = sandbox.tasks.add(type="search_batch", content={"queries": queries})
    first = await daemon(**settings)
    await eventually(lambda: len(internet.queries) >= 15)
    await first.kill()
    await daemon(**settings)
    await sandbox.tasks.settled([task_id], timeout=60)
    assert sandbox.tasks[task_id].state == "succeeded"
    assert sum(internet.queries.values()) <= len(queries) + 1


async def test_without_a_key_and_without_a_name(
    sandbox: WatchedSandbox, daemon: Start, internet: Internet, settings: dict[str, str]
) -> None:
    """Searches and pages stay pending, and ``why_idle`` names the key."""
    sandbox.tasks.add(type="search", content={"query": "q"})
    sandbox.tasks.add(type="fetch_url", content={"url": f"{internet.url}/page"})
    worker = await daemon(**{**settings, "BRAVE_API_KEY": "", "ENABLED_TASK_TYPES": "search"})
    told = await worker.status_when(lambda status: status["backlog"]["skipped"].get("unknown_type") == 2)
    assert "BRAVE_API_KEY is not set" in told["why_idle"]
    assert "fetch" not in told["circuits"]
    assert (internet.pages, internet.queries) == ({}, {})
    assert await worker.ready()


async def test_the_doctor_looks_at_the_search_api(
    sandbox: WatchedSandbox, daemon: Start, internet: Internet, settings: dict[str, str]
) -> None:
    """A server that is away is named with its setting; there is no query, which would cost money."""
    worker = await daemon(spawn=False, **settings)
    assert "search API" in (await worker.command("doctor")).out
    assert internet.queries == {}
    away = await daemon(spawn=False, **{**settings, "BRAVE_URL": "http://127.0.0.1:1/search"})
    told = await away.command("doctor")
    assert (told.code, "BRAVE_URL" in told.out) == (69, True)
