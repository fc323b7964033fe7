"""What a call needs to know of its task type, for types that are written in code; prompt types have the same."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ai_task_processor.processors.chat.answers import Schema


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """``type``: of the task, for metrics. ``checked_schema``: of the answer; None for a text."""

    type: str
    max_answer_tokens: int
    checked_schema: "Schema | None" = None

    def shaped(self, value: Any) -> object:
        """The result of a checked answer."""
        return value
