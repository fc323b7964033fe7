"""``AletheiaProcessor``: people, topics, area and severity of a claim."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ai_task_processor.core.checks import Check, Remote
from ai_task_processor.core.ports import ChatRequest
from ai_task_processor.models.task import Task, TaskResult, Usage
from ai_task_processor.processors.chat import aletheia
from ai_task_processor.processors.chat.aletheia import shapes
from ai_task_processor.processors.chat.aletheia.content import Claim, area_names, claim
from ai_task_processor.processors.chat.aletheia.settings import AletheiaSettings
from ai_task_processor.processors.chat.aletheia.wikidata import SERVICE, Wikidata
from ai_task_processor.processors.chat.processor import ChatProcessor, data_message
from ai_task_processor.processors.chat.settings import PromptSettings
from ai_task_processor.processors.context import ProcessorContext

if TYPE_CHECKING:
    from ai_task_processor.processors.chat.prompt_type import PromptType

#: closed lists whose schema is kept
MAX_LISTS = 16
#: mock answers, by field of the answer, where the smallest value would not do
_MOCKED: Mapping[str, Mapping[str, Any]] = {
    aletheia.DEFINING_TOPICS: {"topics": [[{"name": "Sociedade", "confidence": 1, "context": ""}]]},
    aletheia.DEFINING_SEVERITY: {"severity": ["medium_2"]},
}


class AletheiaProcessor(ChatProcessor):
    """The four chat types of the profile ``aletheia``. Prompts are loaded when the first of its tasks comes.

    While Wikidata is away tasks wait, and a paid answer is stored, so that the model is not asked again.
    """

    waits_for = "the model or Wikidata"
    task_types = aletheia.TYPES
    services = (SERVICE,)
    settings_groups: ClassVar = (PromptSettings, AletheiaSettings)

    def __init__(self) -> None:
        super().__init__()
        self._wikidata: Wikidata | None = None
        #: whether one of its tasks was listed
        self._seen = False
        self._loading = asyncio.Lock()
        self._typed = lru_cache(MAX_LISTS)(self._with_schema)

    def equip(self, context: ProcessorContext) -> None:
        super().equip(context)
        if context.services is None or context.chat is None or context.chat_is_mock:
            return
        settings = context.settings[AletheiaSettings]
        if settings.looks_up:
            self._wikidata = Wikidata.build(context.services, settings.wikidata_url)

    async def aclose(self) -> None:
        if self._wikidata is not None:
            await self._wikidata.aclose()

    def remotes(self) -> Sequence[Remote]:
        return () if self._wikidata is None else (self._wikidata.remote,)

    def checks(self) -> Sequence[Check]:
        return () if self._wikidata is None else (self._wikidata.check(),)

    def can_process(self, task: Task) -> bool:
        able = super().can_process(task)
        self._seen |= able
        return able

    def hold_s(self) -> float:
        """Where no claim is ever checked it must not keep polls going while the others are paused."""
        return super().hold_s() if self._seen else inf

    def lane_hold_s(self, lane: str, running: int) -> float:
        wikidata_s = 0.0 if self._wikidata is None else self._wikidata.hold_s()
        return max(wikidata_s, super().lane_hold_s(lane, running))

    def resumes_in_s(self) -> float:
        wikidata_s = 0.0 if self._wikidata is None else self._wikidata.hold_s()
        return min(wikidata_s or inf, super().resumes_in_s())

    async def process(self, task: Task) -> TaskResult:
        await self._load()
        given = claim(task.content)
        closed: Sequence[str] = ()
        if task.type == aletheia.DEFINING_IMPACT_AREA:
            closed = area_names(task.content, self.context.settings[AletheiaSettings].impact_areas)
        prompt_type = self._typed(str(task.type), closed)
        with self._in_time():
            answer, usage = await self._answer(task, prompt_type, given)
            output = shapes.checked(str(task.type), await self._finished(task, answer), closed)
        return TaskResult(output, usage=usage)

    async def _load(self) -> None:
        """The prompts. A thread reads them, because the library that checks schemas takes a while to import."""
        async with self._loading:
            if not self.types:
                self.types = await asyncio.to_thread(built_in_types)

    def _with_schema(self, task_type: str, areas: Sequence[str]) -> "PromptType":
        """The prompt type with the closed list of areas, if there is one, and with what a mock answers."""
        built_in = self.types[task_type].model_dump(by_alias=True)
        properties = built_in["schema"]["properties"]
        if areas:
            properties["name"]["enum"] = list(areas)
        if self.context.chat_is_mock:
            for name, examples in _MOCKED.get(task_type, {}).items():
                properties[name]["examples"] = examples
        return type(self.types[task_type]).model_validate(built_in)

    async def _answer(self, task: Task, prompt_type: "PromptType", given: Claim) -> tuple[Any, Usage]:
        """The model's checked answer, a step where look-ups follow it: a task that waits is not paid twice."""
        if self._wikidata is not None:
            await self._wikidata.awake()
        request = self.request(prompt_type, {**given.fields, "text": given.text})
        if task.type == aletheia.DEFINING_SEVERITY:
            return await self._answered(prompt_type, await self._with_context(request, given))
        return await (self._answered if self._wikidata is None else self._stored)(prompt_type, request)

    async def _with_context(self, request: ChatRequest, given: Claim) -> ChatRequest:
        counts = {} if self._wikidata is None else await self._wikidata.counts(given.ids())
        return replace(request, messages=[*request.messages, data_message(given.context(counts))])

    async def _finished(self, task: Task, answer: Mapping[str, Any]) -> object:
        """The result in the upstream's shape."""
        match task.type:
            case aletheia.IDENTIFYING_DATA:
                return shapes.personalities(await self._people(answer))
            case aletheia.DEFINING_TOPICS:
                return shapes.topics({name: await self._topic(name) for name in shapes.named_topics(answer)})
            case aletheia.DEFINING_IMPACT_AREA:
                return shapes.impact_area(answer, await self._topic(answer["name"]))
        return {"severity": answer["severity"]}

    async def _people(self, answer: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        """Who has an entity; without Wikidata everybody or nobody, as the setting says."""
        mentions = shapes.mentions(answer)
        if self._wikidata is None:
            known = self.context.settings[AletheiaSettings].keep_unknown_people
            return [shapes.unknown(each) for each in mentions] if known else []
        found = [(each, await self._wikidata.person(each["name"])) for each in mentions]
        return [shapes.with_entity(each, entity) for each, entity in found if entity is not None]

    async def _topic(self, name: str) -> str | None:
        return None if self._wikidata is None else await self._wikidata.topic(name)


def built_in_types() -> Mapping[str, "PromptType"]:
    """The prompt types by name."""
    from ai_task_processor.processors.chat.prompt_type import load_prompt_types

    return load_prompt_types([Path(__file__).parent])
