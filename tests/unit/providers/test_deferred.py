"""The provider that is made when it is first needed."""

import asyncio

from ai_task_processor.core.ports import Provider
from ai_task_processor.providers.deferred import DeferredProvider
from ai_task_processor.providers.mock import MockProvider


async def test_it_is_made_once_and_only_when_needed() -> None:
    """Nothing is made for its name or its end; several first uses at once make one, and answer like it."""
    made: list[Provider] = []

    def make() -> Provider:
        made.append(MockProvider(8))
        return made[-1]

    provider = DeferredProvider("mock", make)
    await provider.aclose()
    assert (provider.name, made) == ("mock", [])
    answers = await asyncio.gather(*(provider.embed(["text"], "m") for _ in range(5)), provider.check("m"))
    assert len(made) == 1
    assert answers[0] == await made[0].embed(["text"], "m")
