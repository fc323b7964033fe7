"""Searches over an API that is a list: results, limits, the cache, and what is asked only once."""

import asyncio
from collections.abc import Callable
from datetime import datetime
from math import inf
from pathlib import Path
from typing import Any

import pytest

from ai_task_processor.core.checks import Remote
from ai_task_processor.core.errors import TaskError, Transient
from ai_task_processor.models.task import Task
from ai_task_processor.processors.search.port import Hit, Hits
from ai_task_processor.processors.search.processor import SearchProcessor, cache_key
from ai_task_processor.testing.context import processor_context
from tests.helpers import alive, services
from tests.unit.conftest import FakeClock


class Api:
    """``SearchSource``: one hit for each query, whose title is the query. ``down``: its error."""

    name = "brave"
    remote = Remote("search API", "BRAVE_URL", "https://search.test")

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []
        self.down: Exception | None = None
        self.hits = 1
        self.held_s = 0.0

    async def search(self, query: str, recency_days: int) -> Hits:
        self.asked.append((query, recency_days))
        await asyncio.sleep(0)
        if self.down:
            raise self.down
        return Hits([Hit(query, "https://a.example/", "s", None, "brave")] * self.hits, {"type": "search"})

    def wait_s(self) -> float:
        return self.held_s

    async def aclose(self) -> None:
        pass


@pytest.fixture
def api() -> Api:
    return Api()


Make = Callable[..., SearchProcessor]


@pytest.fixture
def make(api: Api, clock: FakeClock, tmp_path: Path) -> Make:
    def made(**environ: str) -> SearchProcessor:
        given = {"BRAVE_API_KEY": "key", **environ}
        processor = SearchProcessor()
        shared = services(given, SearchProcessor, clock=clock, directory=tmp_path)
        processor.configure(shared.settings)
        context = processor_context(
            given, SearchProcessor.settings_groups, clock=clock, wait_s=60.0, services=shared, metrics=shared.metrics
        )
        processor.equip(context)
        if processor.remotes():
            processor._sources = {"brave": api}
        return processor

    return made


def search(query: object = "tide  tables ", **content: object) -> Task:
    return Task(id="t", type="search", content={"query": query, **content})


def batch(*queries: object, **content: object) -> Task:
    return Task(id="t", type="search_batch", content={"queries": list(queries), **content})


def result(query: str, at: str) -> dict[str, Any]:
    hit = {"title": query, "url": "https://a.example/", "snippet": "s", "published_at": None, "source": "brave"}
    return {"query": query, "results": [hit], "sources_used": ["brave"], "retrieved_at": at}


def told(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%S.") + f"{when.microsecond // 1000:03}Z"


async def test_the_results(make: Make, api: Api, clock: FakeClock) -> None:
    """As other workers of these types write them, with a summary."""
    at = told(clock.now())
    async with alive(make()) as processor:
        alone = await processor.process(search())
        assert alone.output == {**result("tide tables", at), "summary": "1 results from brave"}
        clock.advance(5)
        together = await processor.process(batch("tide tables", "moon", sources=["BRAVE", "brave"]))
    queries = [{**result("tide tables", at), "cached": True}]
    queries += [{**result("moon", told(clock.now())), "cached": False}]
    assert together.output == {"queries": queries, "summary": "Batch search completed: 2 queries"}
    assert api.asked == [("tide tables", 7), ("moon", 7)]


async def test_the_raw_answer(make: Make, api: Api) -> None:
    """Only for tasks that ask for it; an answer that was kept without it is asked for again."""
    async with alive(make()) as processor:
        found: list[Any] = [
            (await processor.process(search(include_raw=wanted))).output for wanted in (False, True, True, False)
        ]
        (query,) = (await processor.process(batch("tide tables", include_raw=True))).output["queries"]  # type: ignore[index]
    raw = {"brave": {"type": "search"}}
    assert [each.get("raw") for each in found] == [None, raw, raw, None]
    assert (query["raw"], query["cached"]) == (raw, True)
    assert len(api.asked) == 2


CONTENTS: list[Any] = [{"query": query} for query in (None, 5, "", " \n", "x" * 401, ["q"])]
CONTENTS += [{"query": "q", "recency_days": days} for days in (-1, True, 1.5, "7", None, 10**9)]
WRONG_SOURCES: list[Any] = ["brave", {}, 5, [5], ["x"] * 21]
CONTENTS += [{"query": "q", "sources": sources} for sources in WRONG_SOURCES]
WITHOUT: list[object] = [None, 5, "tide tables", [], {}]
REJECTED = [
    *[(Task(id="t", type="search", content=content), "invalid_params") for content in (*CONTENTS, *WITHOUT)],
    *[(Task(id="t", type="search_batch", content=content), "invalid_params") for content in WITHOUT],
    (search(sources=["bing"]), "search_source_not_allowed"),
    (search(sources=["brave", "bing"]), "search_source_not_allowed"),
    (batch("a", sources=["bing"]), "search_source_not_allowed"),
    (batch(), "invalid_params"),
    (batch("a", " "), "invalid_params"),
    (batch("a", "b", "c", "d"), "batch_size_exceeded"),
]


@pytest.mark.parametrize(("given", "reason"), REJECTED)
async def test_parameters_that_cannot_be_used(make: Make, api: Api, given: Task, reason: str) -> None:
    """Nothing is asked for them, and the message names the reason and no text of the task."""
    async with alive(make(MAX_BATCH_SIZE="3")) as processor:
        with pytest.raises(TaskError) as raised:
            await processor.process(given)
    assert (raised.value.code, raised.value.message.partition(":")[0]) == ("task_rejected_invalid_params", reason)
    assert ("bing" in raised.value.message, api.asked) == (False, [])


async def test_a_source_that_nobody_knows(make: Make) -> None:
    async with alive(make(SEARCH_SOURCE_ALLOWLIST="Brave,bing")) as processor:
        with pytest.raises(TaskError):
            await processor.process(search(sources=["bing"]))
        assert (await processor.process(search(sources=[]))).output


def test_the_key_of_the_cache() -> None:
    """The same as that of other workers of these types."""
    assert cache_key("tide tables", ["brave"], 7).startswith("search:v1:10223d0b59ebaf69")


async def test_an_answer_is_kept_for_its_time_and_over_a_restart(make: Make, api: Api, clock: FakeClock) -> None:
    async with alive(make(SEARCH_CACHE_TTL_SECONDS="60")) as processor:
        await processor.process(search())
    clock.advance(59)
    async with alive(make(SEARCH_CACHE_TTL_SECONDS="60")) as processor:
        await processor.process(search("tide tables"))
        assert len(api.asked) == 1
        await processor.process(search(recency_days=1))
        clock.advance(2)
        await processor.process(search())
    assert len(api.asked) == 3
    async with alive(make(SEARCH_CACHE_TTL_SECONDS="0")) as processor:
        await processor.process(search())
    assert len(api.asked) == 4


async def test_equal_searches_at_once_ask_once(make: Make, api: Api) -> None:
    async with alive(make()) as processor, asyncio.TaskGroup() as group:
        for _ in range(5):
            group.create_task(processor.process(search()))
    assert len(api.asked) == 1


async def test_a_batch_goes_on_where_it_was_interrupted(make: Make, api: Api) -> None:
    """What was answered before the API went away is not asked for again."""
    async with alive(make()) as processor:
        await processor.process(batch("a", "b"))
        api.down = Transient("the search API answered 503")
        with pytest.raises(Transient):
            await processor.process(batch("a", "b", "c"))
        api.down = None
        await processor.process(batch("a", "b", "c"))
    assert [query for query, _ in api.asked] == ["a", "b", "c", "c"]


async def test_limits(make: Make, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A result that is too large; work that takes too long, by our limit and by the task's."""
    api.hits = 20_000
    async with alive(make(TASK_MAX_ARTIFACT_MB="1")) as processor:
        with pytest.raises(TaskError) as raised:
            await processor.process(search())
    assert raised.value.code == "artifact_size_exceeded"

    async def never(query: str, recency_days: int) -> Hits:
        await asyncio.sleep(60)
        return Hits()

    monkeypatch.setattr(api, "search", never)
    async with alive(make(TASK_MAX_RUNTIME_SECONDS="0.01")) as processor:
        with pytest.raises(TaskError) as raised:
            await processor.process(search("other"))
    assert raised.value.code == "task_runtime_exceeded"


def test_without_a_key_tasks_stay_pending(make: Make) -> None:
    """One problem says which setting; polls are not kept going; no remote is checked."""
    processor = make(BRAVE_API_KEY="")
    assert not processor.can_process(search())
    assert (processor.hold_s(), processor.remotes()) == (inf, [])
    (problem,) = processor.problems()
    assert (problem.code, "BRAVE_API_KEY" in problem.message, problem.ready) == ("no_search_key", True, True)


def test_it_waits_with_the_api(make: Make, api: Api) -> None:
    processor = make()
    assert (processor.can_process(search()), processor.hold_s(), processor.problems()) == (True, 0, ())
    api.held_s = 7.0
    assert processor.hold_s() == 7.0
    assert [remote.setting for remote in processor.remotes()] == ["BRAVE_URL"]
