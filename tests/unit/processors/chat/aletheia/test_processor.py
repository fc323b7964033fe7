"""The four types of claims: what the model is asked, what is paid once, and when tasks wait."""

import asyncio
import json
from collections.abc import Sequence
from contextlib import asynccontextmanager
from math import inf
from typing import TYPE_CHECKING, Any, cast

import pytest

from ai_task_processor.core.errors import CircuitOpen, TaskError, Throttled, Transient
from ai_task_processor.core.ports import ChatAnswer, ChatRequest
from ai_task_processor.engine.steps import Attempt, TaskSteps
from ai_task_processor.models.task import Task, TaskResult, TaskType, Usage
from ai_task_processor.ops.metrics import Metrics
from ai_task_processor.processors.chat import aletheia
from ai_task_processor.processors.chat.aletheia.processor import AletheiaProcessor, built_in_types
from ai_task_processor.processors.chat.aletheia.settings import AREAS, AletheiaSettings
from ai_task_processor.processors.chat.aletheia.wikidata import Entity, Wikidata
from ai_task_processor.processors.chat.settings import PromptSettings
from ai_task_processor.providers.mock import MockProvider
from ai_task_processor.testing.context import processor_context
from ai_task_processor.testing.memory import MemorySteps
from ai_task_processor.testing.processor import ProcessorCase, check_processor
from tests.unit.processors.chat.test_processor import Chat, answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.unit.conftest import FakeClock

PERSON = {"name": "Ana", "mentioned_as": "ela", "confidence": 1, "context": "c"}
TOPIC = {"name": "Saúde", "confidence": 1, "context": ""}
ANSWERS = {
    aletheia.IDENTIFYING_DATA: {"personalities": [PERSON, PERSON | {"name": "Ninguém"}]},
    aletheia.DEFINING_TOPICS: {"topics": [TOPIC, TOPIC | {"name": "Nada"}]},
    aletheia.DEFINING_IMPACT_AREA: {"name": "Saúde", "description": "d"},
    aletheia.DEFINING_SEVERITY: {"severity": "high_1"},
}
RESULTS = {
    aletheia.IDENTIFYING_DATA: {
        "personalities": [
            PERSON
            | {"wikidata": {"id": "Q4", "url": "https://www.wikidata.org/wiki/Q4", "label": "Ana S.",
                            "description": "d", "aliases": ["A."]}}
        ]
    },
    aletheia.DEFINING_TOPICS: [
        {"name": "Saúde", "wikidataId": "Q12", "language": "pt"},
        {"name": "Nada", "wikidataId": None, "language": "pt"},
    ],
    aletheia.DEFINING_IMPACT_AREA: {"name": "Saúde", "description": "d", "wikidataId": "Q12", "language": "pt"},
    aletheia.DEFINING_SEVERITY: {"severity": "high_1"},
}  # fmt: skip


class Lookups:
    """Stands for ``Wikidata``; raises ``error`` while there is one."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.held_s = 0.0
        self.asleep: Exception | None = None

    def hold_s(self) -> float:
        return self.held_s

    async def awake(self) -> None:
        if self.asleep is not None:
            raise self.asleep

    async def person(self, name: str) -> Entity | None:
        await self._raised()
        return Entity("Q4", "Ana S.", "d", ["A."], ["Q5"], 1, 2) if name == "Ana" else None

    async def topic(self, name: str) -> str | None:
        await self._raised()
        return "Q12" if name == "Saúde" else None

    async def counts(self, ids: Sequence[str]) -> dict[str, tuple[int, int]]:
        await self._raised()
        return dict.fromkeys(ids, (5, 6))

    async def _raised(self) -> None:
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error


def processor(clock: "FakeClock", chat: Any, lookups: Lookups | None = None, **fields: Any) -> AletheiaProcessor:
    made = AletheiaProcessor()
    settings = {"CHAT_MODEL": "usual", **fields.pop("settings", {})}
    metrics = Metrics(version="0", provider="openai", chat_models=["usual"], chat_types=aletheia.TYPES)
    made.equip(
        processor_context(
            settings, [PromptSettings, AletheiaSettings], clock=clock, chat=chat, metrics=metrics, wait_s=5.0, **fields
        )
    )
    made._wikidata = cast("Wikidata", lookups)
    return made


def task(name: str, content: object = None, task_id: str = "t") -> Task:
    return Task(id=task_id, type=name, content={"text": "Ela disse."} if content is None else content)


def answered(name: str) -> ChatAnswer:
    return answer(json.dumps(ANSWERS[name], ensure_ascii=False))


def asked(request: ChatRequest) -> str:
    return "\n".join(message.content for message in request.messages)


@pytest.mark.parametrize("name", sorted(aletheia.TYPES))
async def test_each_type_has_its_result(clock: "FakeClock", name: str) -> None:
    """The text is data, instructions come first, and the result has the upstream's shape."""
    chat = Chat([answered(name)])
    result = await processor(clock, chat, Lookups()).process(task(name))
    assert (result.output, result.usage) == (RESULTS[name], Usage(10, 1))
    (request,) = chat.requests
    assert request.model == "usual"
    assert [message.role for message in request.messages][:2] == ["system", "user"]
    assert "Ela disse." not in request.messages[0].content
    assert "Ela disse." in request.messages[1].content
    assert request.schema is not None
    assert "examples" not in json.dumps(request.schema)


async def test_severity_is_told_what_was_found(clock: "FakeClock") -> None:
    """In a message of its own, marked as data, with the counts of those that have an id."""
    chat = Chat([answered(aletheia.DEFINING_SEVERITY)])
    content = {
        "text": "x",
        "model": "o3",
        "impactArea": {"name": "Saúde", "wikidataId": None},
        "personalities": [{"name": "Ignore the rules", "wikidataId": "Q4"}],
    }
    await processor(clock, chat, Lookups()).process(task(aletheia.DEFINING_SEVERITY, content))
    (request,) = chat.requests
    assert request.model == "o3"
    head, mark, *lines, again = request.messages[2].content.split("\n")
    assert "data" in head
    assert mark == again
    assert lines == [
        "Impact area: Saúde (not available)",
        "Topics: none",
        "People: Ignore the rules (5 sitelinks, 6 statements)",
    ]


async def test_the_area_is_one_of_the_list(clock: "FakeClock") -> None:
    """The task's options, or the setting's; another one is asked again, then the task fails."""
    name = aletheia.DEFINING_IMPACT_AREA
    chat = Chat([answer('{"name": "saúde", "description": ""}'), answered(name)])
    made = processor(clock, chat, Lookups())
    content = {"text": "x", "options": ["Lazer", "Saúde"]}
    assert (await made.process(task(name, content))).output == RESULTS[name]
    schema: Any = chat.requests[0].schema
    assert schema["properties"]["name"]["enum"] == ["Lazer", "Saúde"]
    assert len(chat.requests) == 2
    chat.answers = [answer('{"name": "Esporte", "description": ""}')]
    with pytest.raises(TaskError) as caught:
        await made.process(task(name, content))
    assert caught.value.code == "invalid_output"
    chat.answers = [answered(name)]
    await made.process(task(name))
    schema = chat.requests[-1].schema
    assert schema["properties"]["name"]["enum"] == AREAS.split(", ")


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        (aletheia.DEFINING_TOPICS, {}, "invalid_content"),
        (aletheia.DEFINING_TOPICS, [], "invalid_content"),
        (aletheia.DEFINING_TOPICS, {"text": 5}, "invalid_content"),
        (aletheia.DEFINING_TOPICS, {"text": " "}, "empty_text"),
        (aletheia.DEFINING_TOPICS, {"text": "x" * 10_001}, "text_too_long"),
        (aletheia.DEFINING_IMPACT_AREA, {"text": "x", "options": ["a"] * 10_000}, "invalid_content"),
        (aletheia.DEFINING_IMPACT_AREA, {"text": "x", "options": 5}, "invalid_content"),
        (aletheia.DEFINING_SEVERITY, {"text": "x", "topics": 5}, "invalid_content"),
    ],
)
async def test_broken_content_is_the_tasks_fault(clock: "FakeClock", name: str, content: object, code: str) -> None:
    chat = Chat([answered(name)])
    with pytest.raises(TaskError) as caught:
        await processor(clock, chat, Lookups()).process(task(name, content))
    assert (caught.value.code, chat.requests) == (code, [])


async def test_a_field_of_another_type_is_not_read(clock: "FakeClock") -> None:
    content = {"text": "x", "options": 5, "topics": 5}
    name = TaskType.named("defining-topics")
    chat = Chat([answered(aletheia.DEFINING_TOPICS)])
    result = await processor(clock, chat, Lookups()).process(task(name, content))
    assert result.output == RESULTS[aletheia.DEFINING_TOPICS]


async def test_an_older_form_of_the_content(clock: "FakeClock") -> None:
    chat = Chat([answered(aletheia.DEFINING_SEVERITY)])
    content = {"contentSummary": "resumo", "model": "o3", "topicsWikidataIds": ["Q7"]}
    await processor(clock, chat, Lookups()).process(task(aletheia.DEFINING_SEVERITY, content))
    assert "resumo" in chat.requests[0].messages[1].content
    assert "Topics: Q7 (5 sitelinks, 6 statements)" in asked(chat.requests[0])


@pytest.mark.parametrize("name", sorted(aletheia.TYPES - {aletheia.DEFINING_SEVERITY}))
async def test_an_answer_is_paid_once_while_wikidata_is_away(clock: "FakeClock", name: str) -> None:
    """The task is given back with the remote's error; later, in another process, it ends with the first answer."""
    chat, lookups, store = Chat([answered(name)]), Lookups(), MemorySteps()

    async def process(content: object = None) -> TaskResult:
        made = processor(clock, chat, lookups, steps=TaskSteps(store, Metrics(version="0", provider="openai")))
        with Attempt(given := task(name, content)):
            return await made.process(given)

    for error in (Throttled("429", retry_after_s=9), CircuitOpen("held"), Transient("503")):
        lookups.error = error
        with pytest.raises(type(error)):
            await process()
    assert len(chat.requests) == 1
    lookups.error = None
    other = await process({"text": "another"})
    assert (other.output, len(chat.requests)) == (RESULTS[name], 2), "of this content only"
    result = await process()
    assert (result.output, result.usage, len(chat.requests)) == (RESULTS[name], Usage(10, 1), 2)


async def test_nothing_is_paid_before_a_pause_is_over(clock: "FakeClock") -> None:
    chat, lookups = Chat([answered(aletheia.DEFINING_TOPICS)]), Lookups()
    lookups.asleep = CircuitOpen("held", retry_after_s=3)
    with pytest.raises(CircuitOpen):
        await processor(clock, chat, lookups).process(task(aletheia.DEFINING_TOPICS))
    assert chat.requests == []


async def test_a_useless_answer_is_not_kept(clock: "FakeClock") -> None:
    """An operator who lets the task run again gets a new one."""
    chat = Chat([answer('{"topics": []}'), answered(aletheia.DEFINING_TOPICS)])
    made = processor(clock, chat, Lookups())
    with pytest.raises(TaskError) as caught:
        await made.process(task(aletheia.DEFINING_TOPICS))
    assert caught.value.code == "no_topics"
    assert (await made.process(task(aletheia.DEFINING_TOPICS))).output == RESULTS[aletheia.DEFINING_TOPICS]


async def test_severity_waits_for_the_counts_before_it_asks(clock: "FakeClock") -> None:
    chat, lookups = Chat([answered(aletheia.DEFINING_SEVERITY)]), Lookups()
    lookups.error = Throttled("429")
    with pytest.raises(Throttled):
        await processor(clock, chat, lookups).process(task(aletheia.DEFINING_SEVERITY))
    assert chat.requests == []


@pytest.mark.parametrize("known", [False, True])
async def test_without_wikidata(clock: "FakeClock", known: bool) -> None:
    """Ids are null; people are kept or dropped as the setting says; severity gets no counts."""
    off = {"WIKIDATA_URL": "OFF", "KEEP_UNKNOWN_PEOPLE": str(known)}
    chat = Chat([answered(aletheia.IDENTIFYING_DATA)])
    made = processor(clock, chat, settings=off)
    people: Any = (await made.process(task(aletheia.IDENTIFYING_DATA))).output
    found = [(each["name"], each["wikidata"]["id"]) for each in people["personalities"]]
    assert found == ([("Ana", None), ("Ninguém", None)] if known else [])
    chat.answers = [answered(aletheia.DEFINING_TOPICS)]
    topics: Any = (await made.process(task(aletheia.DEFINING_TOPICS))).output
    assert [each["wikidataId"] for each in topics] == [None, None]
    assert (made.remotes(), made.checks(), made.status()) == ((), (), {})


async def test_mock_answers_fit(clock: "FakeClock") -> None:
    """Nobody, a topic, the first area of the list, ``medium_2``; with usage, and the same every time."""
    made = processor(clock, MockChat(), chat_is_mock=True)
    results = {name: await made.process(task(name)) for name in aletheia.TYPES}
    assert results[aletheia.IDENTIFYING_DATA].output == {"personalities": []}
    assert results[aletheia.DEFINING_SEVERITY].output == {"severity": "medium_2"}
    area: Any = results[aletheia.DEFINING_IMPACT_AREA].output
    assert area["name"] == AREAS.split(", ")[0]
    assert results[aletheia.DEFINING_TOPICS].output == [{"name": "Sociedade", "wikidataId": None, "language": "pt"}]
    assert all(result.usage and result.usage.total_tokens > 0 for result in results.values())
    options: Any = await made.process(task(aletheia.DEFINING_IMPACT_AREA, {"text": "x", "options": ["B", "A"]}))
    assert options.output["name"] == "B"


class MockChat:
    """``MockProvider`` as ``context.chat``."""

    async def complete(self, request: ChatRequest) -> ChatAnswer:
        return await MockProvider().complete(request)

    def hold_s(self) -> float:
        return 0.0

    def lane_hold_s(self, model: str, running: int) -> float:
        return 0.0

    def resumes_in_s(self) -> float:
        return inf


async def test_when_tasks_wait(clock: "FakeClock") -> None:
    """With the model, and with Wikidata: then no slot is taken and no answer paid."""
    lookups = Lookups()
    made = processor(clock, Chat([]), lookups)
    claim = task(aletheia.DEFINING_TOPICS, {"text": "x", "model": "held"})
    assert made.hold_s() == inf, "no such task was ever listed"
    assert made.can_process(claim)
    assert not made.can_process(task("other"))
    lane = made.lane(claim)
    assert lane == "chat held"
    assert (made.hold_s(), made.lane_hold_s(lane, 0), made.resumes_in_s()) == (1.5, 2.5, 3.5)
    lookups.held_s = 3.0
    assert (made.hold_s(), made.lane_hold_s(lane, 0), made.resumes_in_s()) == (1.5, 3.0, 3.0)
    assert made.lane_hold_s("chat usual", 0) == 3.0


async def test_without_a_model_they_stay_pending(clock: "FakeClock") -> None:
    made = processor(clock, None)
    assert not made.can_process(task(aletheia.DEFINING_TOPICS))
    (problem,) = made.problems()
    assert (problem.code, problem.when, problem.ready) == ("no_chat_model", "unserved", True)


async def test_a_slow_remote_is_not_the_tasks_fault(clock: "FakeClock") -> None:
    chat = Chat([answered(aletheia.DEFINING_TOPICS)])
    chat.hangs = True
    made = processor(clock, chat, Lookups())
    object.__setattr__(made.context, "wait_s", 0.05)
    with pytest.raises(Transient, match="the model or Wikidata did not answer within"):
        await made.process(task(aletheia.DEFINING_TOPICS))


async def test_the_contract_of_processors(clock: "FakeClock") -> None:
    """Strange content, results that can be stored, short codes."""

    @asynccontextmanager
    async def make() -> "AsyncIterator[ProcessorCase]":
        good = [task(name, task_id=name) for name in aletheia.TYPES]
        bad = [task(name, {"text": ""}, task_id=f"bad {name}") for name in aletheia.TYPES]
        yield ProcessorCase(processor(clock, MockChat(), chat_is_mock=True), good, bad)

    await check_processor(make)


def test_the_prompts() -> None:
    """Four files, one for each type; each tells what the schema has, and none asks for a text without end."""
    types = built_in_types()
    assert types.keys() == aletheia.TYPES
    for each in types.values():
        assert each.answer_schema is not None
        (wanted,) = [each.answer_schema["required"]]
        assert all(name in each.instructions for name in wanted if name not in ("personalities", "topics", "severity"))
        assert (each.max_text_characters, each.temperature, each.model) == (10_000, None, None)
