"""Text embedding: a text goes to the model, its vector becomes the result."""

from collections.abc import AsyncIterator, Sequence
from math import inf

from pydantic import BaseModel, ConfigDict, Field, StrictStr, ValidationError

from ai_task_processor.core.checks import Check, Finding, warning
from ai_task_processor.core.component import Problem
from ai_task_processor.core.deadline import Deadline
from ai_task_processor.core.errors import TaskError, Transient
from ai_task_processor.models.task import Task, TaskResult, TaskType
from ai_task_processor.processors.base import BaseProcessor
from ai_task_processor.providers.settings import ModelSettings


class EmbeddingInput(BaseModel):
    """``content`` of an embedding task. A plain string is a text for the default model."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True, protected_namespaces=())

    text: StrictStr
    #: of bounded length, because model names are stored
    model: StrictStr | None = Field(None, max_length=256)

    @classmethod
    def of(cls, content: object) -> "EmbeddingInput":
        """Raises ``TaskError`` (``invalid_content``, ``empty_text``)."""
        try:
            parsed = cls.model_validate({"text": content} if isinstance(content, str) else content)
        except ValidationError as error:
            fields = ", ".join(sorted({str(part["loc"][0]) if part["loc"] else "content" for part in error.errors()}))
            raise TaskError("invalid_content", f"not a valid text embedding content: {fields}") from None
        if not parsed.text:
            raise TaskError("empty_text", "the text is empty")
        return parsed


class TextEmbeddingProcessor(BaseProcessor):
    """Embeds the text of a task; ``context.embedder`` joins the calls of many tasks."""

    task_types = frozenset({TaskType.TEXT_EMBEDDING.value})
    settings_groups = (ModelSettings,)

    def problems(self) -> Sequence[Problem]:
        if self.context.embedder is not None:
            return ()
        message = "OPENAI_API_KEY is not set, so text embeddings stay pending"
        return (Problem("no_model", message, ready=True, when="unserved"),)

    def checks(self) -> Sequence[Check]:
        return () if self.context.embedder else (Check("model", self._missing, "EMBEDDING_PROVIDER"),)

    async def _missing(self) -> AsyncIterator[Finding]:
        yield warning("none is configured: embedding tasks stay pending", "set OPENAI_API_KEY or OPENAI_BASE_URL")

    def can_process(self, task: Task) -> bool:
        return task.type == TaskType.TEXT_EMBEDDING and self.context.embedder is not None

    def hold_s(self) -> float:
        return self.context.embedder.hold_s() if self.context.embedder else 0.0

    def lane(self, task: Task) -> str | None:
        named = task.content.get("model") if isinstance(task.content, dict) else None
        return self._at_provider(named if isinstance(named, str) else None)

    def lane_hold_s(self, lane: str, running: int) -> float:
        return self.context.embedder.lane_hold_s(lane, running) if self.context.embedder else 0.0

    def resumes_in_s(self) -> float:
        return self.context.embedder.resumes_in_s() if self.context.embedder else inf

    def _at_provider(self, named: str | None) -> str:
        name = named or self.context.default_model
        return self.context.model_aliases.get(name, name)

    async def process(self, task: Task) -> TaskResult:
        context = self.context
        assert context.embedder is not None  # noqa: S101 - can_process has checked
        wanted = EmbeddingInput.of(task.content)
        try:
            # A slow model is not the task's fault: release the task before its own timeout counts an attempt.
            with Deadline(context.wait_s):
                embedded = await context.embedder.embed(wanted.text, self._at_provider(wanted.model))
        except TimeoutError as error:
            raise Transient(f"the model did not answer within {context.wait_s:g} s") from error
        if not context.result_as_object:
            return TaskResult(usage=embedded.usage, vector=embedded.vector)
        usage = {"prompt_tokens": embedded.usage.prompt_tokens, "total_tokens": embedded.usage.total_tokens}
        output = {
            "model": wanted.model or context.default_model,
            "dimensions": embedded.vector.dimensions,
            "usage": usage,
        }
        return TaskResult(output, usage=embedded.usage, vector=embedded.vector)
