"""``ReminderProcessor``: the tasks ``reminder``, which remind people that something is due.

It calls nobody, so that the event is durable at once. Who sends a mail looks up the address, and tries that again by
itself (``Services.lookups``): neither a look-up nor a mail server keeps an event waiting.
"""

from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr, ValidationError

from ai_task_processor.models.task import Task, TaskResult, TaskType
from ai_task_processor.processors.base import BaseProcessor, TaskError


class DueTask(BaseModel):
    """``content`` of a reminder: the task that is due."""

    model_config = ConfigDict(hide_input_in_errors=True)

    id: StrictInt | StrictStr
    user_id: StrictInt | StrictStr
    title: StrictStr = Field(min_length=1)
    due_date: StrictStr
    priority: StrictInt | StrictStr | None = None


class ReminderProcessor(BaseProcessor):
    """Result: ``task_id``, ``user_id``, ``title``, ``due_at``, ``remind_at``, ``message``, ``priority``.

    ``due_at`` as the API writes it; ``remind_at`` is now, with an offset only when ``due_at`` has one.
    """

    task_types = frozenset({TaskType.REMINDER})

    def can_process(self, task: Task) -> bool:
        return task.type in self.task_types

    async def process(self, task: Task) -> TaskResult:
        try:
            due = DueTask.model_validate(task.content)
            aware = datetime.fromisoformat(due.due_date).tzinfo is not None
        except ValidationError as error:
            fields = sorted({str(part["loc"][0]) if part["loc"] else "content" for part in error.errors()})
            raise TaskError("invalid_content", f"missing or wrong: {', '.join(fields)}") from None
        except ValueError:
            raise TaskError("invalid_content", "due_date is no time in ISO 8601") from None
        now = self.context.clock.now().astimezone(UTC)
        return TaskResult(
            {
                "task_id": due.id,
                "user_id": str(due.user_id),
                "title": due.title,
                "due_at": due.due_date,
                "remind_at": (now if aware else now.replace(tzinfo=None)).isoformat(),
                "message": f"Task due soon: {due.title}",
                "priority": due.priority,
            }
        )
