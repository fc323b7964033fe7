"""One task through its processor, wired as in the daemon: for ``process`` and ``types try``.

The source only reads the task and writes its report; store and sinks are left out, so nothing is claimed, stored or
reported, and DATA_DIR is not touched.
"""

import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from importlib.metadata import EntryPoint
from math import inf
from typing import Any, Self

from ai_task_processor.cli.source_check import why_not
from ai_task_processor.core import plugins
from ai_task_processor.core.deadline import Deadline
from ai_task_processor.core.errors import ConfigurationError
from ai_task_processor.core.plugins import PACKAGE, Plugin, Selected
from ai_task_processor.core.ports import ChatAnswer, ChatRequest, Embeddings, TaskSource
from ai_task_processor.core.records import to_record
from ai_task_processor.core.settings import Settings
from ai_task_processor.engine.daemon import alive
from ai_task_processor.engine.guard import RAISED, raise_cancellation
from ai_task_processor.engine.outcome import classify
from ai_task_processor.engine.steps import Attempt
from ai_task_processor.engine.wiring import Parts, assemble
from ai_task_processor.models.task import (
    Completed,
    Failed,
    Failure,
    Outcome,
    Receipt,
    Released,
    Task,
    TaskResult,
    Tries,
    Usage,
)
from ai_task_processor.processors.base import BaseProcessor
from ai_task_processor.processors.factory import ProcessorFactory
from ai_task_processor.providers.prices import Prices
from ai_task_processor.providers.settings import ModelSettings


class NoSource(TaskSource):
    """A source without tasks, in the place of the selected one."""

    name = "none"

    @classmethod
    def build(cls, services: object) -> Self:  # noqa: ARG003 - it needs none
        return cls()


@dataclass(frozen=True, slots=True)
class Call:
    """A model call that was answered."""

    model: str
    usage: Usage


class _Counted:
    """A provider whose answered calls are listed. Everything else is the provider's own."""

    def __init__(self, provider: Any, calls: list[Call]) -> None:
        self._provider = provider
        self._calls = calls

    def __getattr__(self, name: str) -> Any:
        return getattr(self._provider, name)

    async def embed(self, texts: Sequence[str], model: str) -> Embeddings:
        answer: Embeddings = await self._provider.embed(texts, model)
        self._calls.append(Call(model, answer.usage))
        return answer

    async def complete(self, request: ChatRequest) -> ChatAnswer:
        answer: ChatAnswer = await self._provider.complete(request)
        self._calls.append(Call(request.model, answer.usage))
        return answer


@dataclass(frozen=True)
class _CountedPlugin(Plugin):
    calls: list[Call] = field(default_factory=list)

    def build(self, services: Any, method: str = "build") -> Any:
        made = super().build(services, method)
        return None if made is None else _Counted(made, self.calls)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What became of a task. ``error``: what the processor raised; ``calls``: model calls that were answered.

    ``made_up``: the answers are those of the provider ``mock``.
    """

    task: Task
    processor: BaseProcessor
    outcome: Outcome | Released
    error: BaseException | None
    calls: Sequence[Call]
    seconds: float
    made_up: bool
    prices: Prices | None

    @property
    def usage(self) -> Usage:
        """The tokens of all calls."""
        return sum((call.usage for call in self.calls), Usage())

    @property
    def cost(self) -> float | None:
        """Of all calls; None when a model has no price, or nothing was charged because the answers are made up."""
        if self.prices is None or self.made_up:
            return None
        costs = [self.prices.cost(call.model, call.usage) for call in self.calls]
        known = [cost for cost in costs if cost is not None]
        return sum(known) if len(known) == len(costs) else None


@dataclass(frozen=True, slots=True)
class Bench:
    """The parts of a daemon for one task at a time. ``source``: the class of the selected source."""

    parts: Parts
    source: Any
    declared: frozenset[str]
    calls: list[Call]

    def processor(self, task: Task) -> BaseProcessor:
        """The processor that takes a task. Raises ``ConfigurationError`` with the reason when there is none."""
        found = self.parts.factory.find(task)
        if found is None:
            types, why = self.parts.factory.task_types, why_not(task, self.parts, self.declared)
            others = "" if task.type in types else f" (types that are taken: {', '.join(sorted(types)) or 'none'})"
            raise ConfigurationError(f"the type {str(task.type)!r} is not taken: {why}{others}")
        return found

    async def run(self, task: Task, processor: BaseProcessor) -> Trial:
        """One attempt, under TASK_TIMEOUT, with the models' providers started and the processor."""
        parts = self.parts
        async with AsyncExitStack() as stack:
            for component in (parts.provider, parts.embedder, parts.chat_provider, parts.chat, processor):
                if component is not None:
                    await stack.enter_async_context(alive(component, parts.faults))
            began_at = time.perf_counter()
            outcome, error = await _attempt(task, processor.process, parts.settings.worker.task_timeout_s)
            seconds = time.perf_counter() - began_at
        providers = [each for each in (parts.provider, parts.chat_provider) if each is not None]
        return Trial(
            task=task,
            processor=processor,
            outcome=outcome,
            error=error,
            calls=self.calls,
            seconds=seconds,
            made_up=bool(self.calls) and all(each.name == "mock" for each in providers),
            prices=parts.settings[ModelSettings].prices,
        )


async def _attempt(
    task: Task, process: Callable[[Task], Awaitable[TaskResult]], timeout_s: float
) -> tuple[Outcome | Released, BaseException | None]:
    try:
        with Attempt(task), Deadline(min(timeout_s, task.timeout_s or inf)):
            outcome = Completed(await process(task))
        to_record(task, Receipt(NoSource.name, task.id), outcome, 0.0)  # the result must be JSON
        return outcome, None
    except RAISED as error:
        raise_cancellation(error)
        found = classify(error, Tries(), random.Random(), limit=1)  # noqa: S311 - a delay that is not used
        if isinstance(found, Failed) and found.failure.code == "processor_error":
            found = Failed(Failure("processor_error", _crash(error, timeout_s)))
        return found, error


def _crash(error: BaseException, timeout_s: float) -> str:
    if isinstance(error, TimeoutError):
        return f"it took longer than TASK_TIMEOUT, {timeout_s:g} s"
    return f"the processor raised {type(error).__name__}"


def load(environ: Mapping[str, str] | None = None) -> tuple[Settings, Selected, ProcessorFactory]:
    """The settings that processors and models need: those of source, store and sinks are not read."""
    factory = ProcessorFactory()
    settings, selected = plugins.load_selected(
        environ, groups=factory.settings_groups, chats=factory.chats_with, unread=("sources", "stores", "sinks")
    )
    return settings, selected, factory


def bench(settings: Settings, selected: Selected, factory: ProcessorFactory) -> Bench:
    """Wire the parts. Raises ``ConfigurationError``."""
    declared, calls = factory.task_types, list[Call]()
    providers = [None if each is None else _counted(each, calls) for each in (selected.provider, selected.chat)]
    replaced = replace(
        selected,
        source=_stand_in("sources", "ai_task_processor.cli.trial:NoSource"),
        store=_stand_in("stores", "ai_task_processor.testing.memory:MemoryStore"),
        sinks=(),
        provider=providers[0] or selected.provider,
        chat=providers[1],
    )
    return Bench(assemble(settings, replaced, factory), selected.source.load(), declared, calls)


def _counted(plugin: Plugin, calls: list[Call]) -> Plugin:
    return _CountedPlugin(plugin.kind, plugin.entry_point, plugin.package, plugin.profile, calls)


def _stand_in(kind: plugins.Kind, value: str) -> Plugin:
    return Plugin(kind, EntryPoint("none", value, f"ai_task_processor.{kind}"), PACKAGE)
