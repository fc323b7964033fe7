"""``SearchProcessor``: the tasks ``search`` and ``search_batch``.

An answer is on disk before it is used, so that a batch that was interrupted pays only for the rest.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from math import inf
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictInt, StrictStr

from ai_task_processor.core.checks import Remote
from ai_task_processor.core.component import Problem
from ai_task_processor.models.task import Task, TaskResult, TaskType
from ai_task_processor.processors.base import BaseProcessor
from ai_task_processor.processors.context import ProcessorContext
from ai_task_processor.processors.limits import LimitSettings, checked, parsed, rejected, runtime
from ai_task_processor.processors.search.settings import SearchSettings

if TYPE_CHECKING:
    from ai_task_processor.processors.disk_cache import DiskCache
    from ai_task_processor.processors.search.port import SearchSource

SEARCH, SEARCH_BATCH = TaskType.SEARCH.value, TaskType.SEARCH_BATCH.value
CACHE_FILE, MAX_KEPT = "search.db", 10_000
#: characters of a query, by Brave's limit, and the longest period in days
MAX_QUERY, MAX_DAYS = 400, 36_500


def _collapsed(value: object) -> object:
    return " ".join(value.split()) if isinstance(value, str) else value


def _sources(value: object) -> object:
    """Lower case, sorted, each once; ``brave`` when there are none."""
    if value is None or value == []:
        return ("brave",)
    if isinstance(value, list) and len(value) <= 20 and all(isinstance(name, str) for name in value):
        return tuple(sorted({name.strip().lower() for name in value}))
    raise ValueError("no list of names")


Query = Annotated[StrictStr, BeforeValidator(_collapsed), Field(min_length=1, max_length=MAX_QUERY)]


class _Params(BaseModel):
    """``include_raw``: each answer has ``raw``, too: what each search API answered, by its name."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    sources: Annotated[tuple[str, ...], BeforeValidator(_sources)] = ("brave",)
    recency_days: Annotated[StrictInt, Field(ge=0, le=MAX_DAYS)] = 7
    include_raw: StrictBool = False


class SearchParams(_Params):
    """``content`` of a ``search`` task."""

    query: Query


class BatchParams(_Params):
    """``content`` of a ``search_batch`` task."""

    queries: Annotated[list[Query], Field(min_length=1)]


class SearchProcessor(BaseProcessor):
    """Asks the search APIs in its place; equal searches at the same time ask once."""

    task_types = frozenset({SEARCH, SEARCH_BATCH})
    services = ("search",)
    settings_groups: ClassVar = (SearchSettings, LimitSettings)

    def __init__(self) -> None:
        self._sources: Mapping[str, SearchSource] = {}
        self._cache: DiskCache | None = None

    def equip(self, context: ProcessorContext) -> None:
        super().equip(context)
        services = context.services
        if services is None or context.settings[SearchSettings].brave_api_key is None:
            return
        from ai_task_processor.processors.disk_cache import DiskCache
        from ai_task_processor.processors.search.brave import Brave

        file = None if services.directory is None else services.directory / CACHE_FILE
        self._cache = DiskCache(file, lambda: services.clock.now().timestamp(), MAX_KEPT)
        self._sources = {Brave.name: Brave(services)}

    async def aclose(self) -> None:
        for source in self._sources.values():
            await source.aclose()
        if self._cache is not None:
            await self._cache.aclose()

    def remotes(self) -> Sequence[Remote]:
        return [source.remote for source in self._sources.values()]

    def problems(self) -> Sequence[Problem]:
        if self._sources:
            return ()
        message = "BRAVE_API_KEY is not set, so search tasks stay pending"
        return (Problem("no_search_key", message, ready=True, when="unserved"),)

    def can_process(self, task: Task) -> bool:
        return task.type in self.task_types and bool(self._sources)

    def hold_s(self) -> float:
        """Without a key it has no tasks at all, and must not keep polls going for the others."""
        return min((source.wait_s() for source in self._sources.values()), default=inf)

    async def process(self, task: Task) -> TaskResult:
        settings, limits = self.context.settings[SearchSettings], self.context.settings[LimitSettings]
        async with runtime(limits, self.context.wait_s, "the search API"):
            if task.type == SEARCH:
                params = parsed(SearchParams, task.content)
                self._check(params.sources)
                found, _ = await self._found(params.query, params)
                summary = f"{len(found['results'])} results from {', '.join(params.sources)}"
                return checked(limits, {**found, "summary": summary})
            batch = parsed(BatchParams, task.content)
            if len(batch.queries) > settings.max_batch_size:
                raise rejected("batch_size_exceeded", f"more than {settings.max_batch_size} queries (MAX_BATCH_SIZE)")
            self._check(batch.sources)
            answers = []
            for query in batch.queries:
                found, cached = await self._found(query, batch)
                answers.append({**found, "cached": cached})
            summary = f"Batch search completed: {len(answers)} queries"
            return checked(limits, {"queries": answers, "summary": summary})

    def _check(self, sources: Sequence[str]) -> None:
        """Raises ``TaskError`` for a source that tasks may not use, or that nobody knows."""
        allowed = self.context.settings[SearchSettings].source_allowlist
        if not set(sources) <= set(allowed):
            raise rejected("search_source_not_allowed", "SEARCH_SOURCE_ALLOWLIST does not name the source")
        if not set(sources) <= self._sources.keys():
            raise rejected("search_source_not_allowed", "there is no such source")

    async def _found(self, query: str, params: _Params) -> tuple[dict[str, Any], bool]:
        """``{"query", "results", "sources_used", "retrieved_at"}``, and whether the cache had it.

        With ``raw`` when that is asked for.
        """
        assert self._cache is not None  # noqa: S101 - can_process has checked
        ttl_s = self.context.settings[SearchSettings].cache_ttl_s
        key = cache_key(query, params.sources, params.recency_days)
        async with self._cache.filling(key):
            if ttl_s:
                _, kept = await self._cache.get(key)
                if isinstance(kept, dict) and (not params.include_raw or "raw" in kept):
                    return {name: part for name, part in kept.items() if name != "raw" or params.include_raw}, True
            answers = {name: await self._sources[name].search(query, params.recency_days) for name in params.sources}
            found = {
                "query": query,
                "results": [asdict(hit) for answer in answers.values() for hit in answer.hits],
                "sources_used": list(params.sources),
                "retrieved_at": _utc(self.context.clock.now()),
                **({"raw": {name: answer.raw for name, answer in answers.items()}} if params.include_raw else {}),
            }
            if ttl_s:
                await self._cache.put(key, found, for_s=ttl_s)
            return found, False


def cache_key(query: str, sources: Sequence[str], recency_days: int) -> str:
    """The key under which other workers of such tasks keep an answer."""
    text = f"{query}|{','.join(sources)}|{recency_days}"
    return f"search:v1:{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()}"


def _utc(when: datetime) -> str:
    return when.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
