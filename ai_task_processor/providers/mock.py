"""Mock processing: realistic vectors and valid answers without a model, for a first run and tests of the upstream."""

from collections.abc import AsyncIterator, Sequence
from typing import ClassVar, Literal, Self

from ai_task_processor.core import codec
from ai_task_processor.core.checks import Check, Finding, ok
from ai_task_processor.core.ports import ChatAnswer, ChatRequest, Embeddings, Provider
from ai_task_processor.models.task import Usage
from ai_task_processor.net.services import Services
from ai_task_processor.providers import NATIVE_DIMENSIONS
from ai_task_processor.providers.examples import example
from ai_task_processor.providers.settings import ModelSettings

BYTES_PER_TOKEN = 4


class MockProvider(Provider):
    """Unit vectors that depend only on model and text, and answers that depend only on the schema; with usage."""

    name = "mock"
    settings_groups: ClassVar = (ModelSettings,)

    def __init__(self, dimensions: int | None = None, *, use: Literal["embeddings", "chat"] = "embeddings") -> None:
        self._use = use
        self._dimensions = dimensions

    @classmethod
    def build(cls, services: Services) -> Self:
        return cls(services.settings[ModelSettings].embedding_dimensions)

    @classmethod
    def build_chat(cls, services: Services) -> Self:  # noqa: ARG003 - there is nothing to set
        return cls(use="chat")

    def checks(self) -> Sequence[Check]:
        async def work() -> AsyncIterator[Finding]:
            yield ok("mock vectors, no model is called")

        # One warning about the placeholder key is enough.
        return (Check("model", work, "EMBEDDING_PROVIDER"),) if self._use == "embeddings" else ()

    async def prepare(self) -> None:
        """There is nothing to prepare."""

    async def embed(self, texts: Sequence[str], model: str) -> Embeddings:
        dimensions = self._dimensions or NATIVE_DIMENSIONS.get(model, 1536)
        vectors = [codec.pseudo_vector(f"{model}\0{text}".encode(), dimensions) for text in texts]
        return Embeddings(vectors, Usage(sum(-(-len(text.encode()) // BYTES_PER_TOKEN) for text in texts)))

    async def complete(self, request: ChatRequest) -> ChatAnswer:
        """The smallest answer that fits the schema."""
        answer = "mock answer" if request.schema is None else codec.dumps(example(request.schema)).decode()
        prompt = sum(len(message.content.encode()) for message in request.messages)
        usage = Usage(-(-prompt // BYTES_PER_TOKEN), -(-len(answer.encode()) // BYTES_PER_TOKEN))
        return ChatAnswer(text=answer, finish="complete", usage=usage)

    async def check(self, model: str) -> None:
        """There is nothing that could be wrong."""

    async def aclose(self) -> None:
        """There is nothing to close."""
