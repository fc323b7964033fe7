"""The contract suite of providers of embeddings (``ports.Provider``): ``check_provider``."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from ai_task_processor.core.ports import Provider


@dataclass
class ProviderCase:
    """A running provider, and one of its models."""

    provider: Provider
    model: str


ProviderPromise = Callable[[ProviderCase], Awaitable[None]]
#: unusual Unicode texts
TEXTS = ("\x00", "😀" * 50, " ", "a" * 20_000, "\u2028", '"}]')


async def check_provider(make: Callable[[], AbstractAsyncContextManager[ProviderCase]]) -> None:
    """Run every promise. Raises ``AssertionError``."""
    for promise in PROVIDER_PROMISES:
        async with make() as case:
            await promise(case)


async def each_text_has_its_vector_in_its_place(case: ProviderCase) -> None:
    """As many vectors as texts, in their order, all of one length; equal texts have equal vectors."""
    texts = [f"text {number}" for number in range(20)]
    together = await case.provider.embed([*texts, texts[0]], case.model)
    vectors = [vector for vector in together.vectors if vector is not None]
    assert len(vectors) == 21
    assert len({vector.data for vector in vectors}) == 20
    assert len({vector.dimensions for vector in vectors}) == 1
    for place in (0, 7, 19):
        assert (await case.provider.embed([texts[place]], case.model)).vectors == [vectors[place]]
    assert vectors[20] == vectors[0]


async def any_text_is_a_text(case: ProviderCase) -> None:
    """Every Unicode text has a vector, and the usage counts all texts of a call."""
    answer = await case.provider.embed(TEXTS, case.model)
    assert all(answer.vectors)
    assert answer.usage.prompt_tokens > 0


async def check_passes(case: ProviderCase) -> None:
    """A healthy remote passes; preparing twice is no error."""
    await case.provider.prepare()
    await case.provider.prepare()
    await case.provider.check(case.model)
    assert case.provider.name


PROVIDER_PROMISES: Sequence[ProviderPromise] = (
    each_text_has_its_vector_in_its_place,
    any_text_is_a_text,
    check_passes,
)
