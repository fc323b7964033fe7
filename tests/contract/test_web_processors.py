"""search, search_batch and fetch_url keep the contract of processors, over real sockets."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from ai_task_processor.models.task import Task
from ai_task_processor.processors.base import BaseProcessor
from ai_task_processor.processors.fetch.processor import FetchProcessor
from ai_task_processor.processors.search.processor import SearchProcessor
from ai_task_processor.testing import check_processor
from ai_task_processor.testing.context import processor_context
from ai_task_processor.testing.processor import ProcessorCase
from tests.helpers import alive, services


@pytest.fixture
async def url() -> AsyncIterator[str]:
    """A server that is a page, and a search API."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/search":
            hit = {"title": "T", "url": "https://a.example/", "description": "d"}
            return web.json_response({"type": "search", "web": {"results": [hit]}})
        if request.path == "/empty":
            return web.Response(text="<nav>x</nav>", content_type="text/html")
        return web.Response(text="<article>hello</article>", content_type="text/html")

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


def task(type_: str, **content: object) -> Task:
    return Task(id=f"{type_}-{len(content)}", type=type_, content=content)


@pytest.mark.parametrize("kind", [SearchProcessor, FetchProcessor])
async def test_the_contract_of_processors(kind: type[BaseProcessor], url: str, tmp_path: Path) -> None:
    """Good tasks have results that can be stored, bad ones short codes, strange ones raise nothing."""
    environ = {"BRAVE_API_KEY": "k", "BRAVE_URL": f"{url}/search", "FETCH_DOMAIN_ALLOWLIST": "127.0.0.1"}
    if kind is SearchProcessor:
        good = [task("search", query="q"), task("search_batch", queries=["q", "r"], recency_days=0)]
        bad = [task("search"), task("search", query="q", sources=["x"]), task("search_batch", queries=["q"] * 51)]
    else:
        good = [task("fetch_url", url=url), task("fetch_url", url=url, store_raw_html=True)]
        bad = [task("fetch_url"), task("fetch_url", url="http://localhost/"), task("fetch_url", url=f"{url}/empty")]

    @asynccontextmanager
    async def make() -> AsyncIterator[ProcessorCase]:
        processor, shared = kind(), services(environ, kind, directory=tmp_path)
        processor.configure(shared.settings)
        processor.equip(processor_context(environ, kind.settings_groups, services=shared, metrics=shared.metrics))
        async with alive(processor):
            yield ProcessorCase(processor, good, bad)

    await check_processor(make)
