"""An embedder without a model."""

import asyncio

from ai_task_processor.models.task import Embedded, Usage, Vector

VECTOR = Vector(bytes(range(12)))
USAGE = Usage(prompt_tokens=7)


class Embedder:
    """Answers every text with the same vector, and remembers what it was asked; it is held for ``held_s``."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.error: Exception | None = None
        self.hangs = False
        self.held_s = 0.0

    async def embed(self, text: str, model: str) -> Embedded:
        self.asked.append((text, model))
        if self.hangs:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error
        return Embedded(VECTOR, USAGE)

    def hold_s(self) -> float:
        return self.held_s

    def lane_hold_s(self, model: str, running: int) -> float:
        return 1.0 if model == "held" else 0.0

    def resumes_in_s(self) -> float:
        return 7.0
