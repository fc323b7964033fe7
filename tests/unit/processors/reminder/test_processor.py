"""The event of a task that is due."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ai_task_processor.core.errors import TaskError
from ai_task_processor.models.task import Task, TaskType
from ai_task_processor.processors.reminder.processor import ReminderProcessor
from ai_task_processor.testing import ProcessorCase, check_processor, processor_context

ITEM: dict[str, Any] = {
    "id": 17,
    "user_id": "1b4e28ba-2fa1-11d2-883f-0016d3cca427",
    "title": "Pay the rent",
    "due_date": "2026-12-01T10:00:00",
    "priority": "high",
}
BAD: list[object] = [
    None,
    [],
    {},
    ITEM | {"title": ""},
    ITEM | {"title": None},
    ITEM | {"id": True},
    ITEM | {"due_date": "soon"},
]


def task(content: object) -> Task:
    return Task(id="17@2026-12-01T10:00:00Z", type=TaskType.REMINDER, content=content)


def processor(**fields: Any) -> ReminderProcessor:
    made = ReminderProcessor()
    made.equip(processor_context(**fields))
    return made


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"remind_at": "2026-01-01T00:16:40"}),
        ({"due_date": "2026-12-01T10:00:00+00:00"}, {"remind_at": "2026-01-01T00:16:40+00:00"}),
        ({"priority": None}, {"priority": None}),
    ],
)
async def test_the_fields_of_an_event(clock: Any, changes: dict[str, object], expected: dict[str, object]) -> None:
    """Those of the topic ``reminders``, and no other; times in the API's notation."""
    item = ITEM | changes
    output = (await processor(clock=clock).process(task(item))).output
    assert output == {
        "task_id": 17,
        "user_id": ITEM["user_id"],
        "title": "Pay the rent",
        "due_at": item["due_date"],
        "remind_at": "2026-01-01T00:16:40",
        "message": "Task due soon: Pay the rent",
        "priority": "high",
        **expected,
    }


@pytest.mark.parametrize("content", BAD)
async def test_a_task_that_nobody_can_be_reminded_of_fails(content: object) -> None:
    with pytest.raises(TaskError, match="invalid_content"):
        await processor().process(task(content))


async def test_it_keeps_the_contract_of_processors() -> None:
    @asynccontextmanager
    async def make() -> AsyncIterator[ProcessorCase]:
        yield ProcessorCase(processor(), [task(ITEM)], [task(content) for content in BAD])

    await check_processor(make)
