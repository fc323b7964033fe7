"""The promises of ``ports.Provider``, held by the mock and by OpenAI's client against the sandbox."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import httpx2
import numpy as np
import pytest

from ai_task_processor.core.errors import CallRefused, ModelRefused, Throttled, Unauthorized
from ai_task_processor.core.ports import Provider, RateLimits
from ai_task_processor.core.settings import NetworkSettings
from ai_task_processor.models.task import Vector
from ai_task_processor.net.client import make_client
from ai_task_processor.ops.metrics import Metrics
from ai_task_processor.providers.mock import MockProvider
from ai_task_processor.providers.openai_api import OpenAIProvider
from ai_task_processor.providers.settings import ModelSettings
from ai_task_processor.sandbox import Sandbox
from tests.contract.helpers import failing

MODEL = "text-embedding-3-small"


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox() as running:
        yield running


Make = Callable[..., OpenAIProvider]


@pytest.fixture
async def openai(sandbox: Sandbox) -> AsyncIterator[Make]:
    """Makes providers of the sandbox's model. In the end they are closed."""
    async with AsyncExitStack() as stack:

        def make(dimensions: int | None = None, **changes: str) -> OpenAIProvider:
            settings = ModelSettings.model_validate(sandbox.environment() | changes)
            settings = settings.model_copy(update={"embedding_dimensions": dimensions})
            client = make_client(NetworkSettings.model_validate({}), url=sandbox.url, connections=4)
            provider = OpenAIProvider(settings, client, Metrics(version="1", provider="openai"))
            stack.push_async_callback(provider.aclose)
            return provider

        yield make


@pytest.fixture(params=["mock", "openai"])
def providers(request: pytest.FixtureRequest, openai: Make) -> dict[int | None, Provider]:
    """A provider with the model's own dimensions, and one that asks for 64."""
    make = MockProvider if request.param == "mock" else openai
    return {None: make(), 64: make(64)}


@pytest.fixture
def provider(providers: dict[int | None, Provider]) -> Provider:
    return providers[None]


def norm(vector: Vector | None) -> float:
    assert vector is not None
    return float(np.linalg.norm(np.frombuffer(vector.data, "<f4").astype(np.float64)))


async def test_each_text_has_its_vector_in_its_place(provider: Provider) -> None:
    """As many vectors as texts, in their order, of the model's dimensions and unit length."""
    texts = [f"text {number}" for number in range(20)]
    together = await provider.embed(texts, MODEL)
    assert len(together.vectors) == 20
    assert len({vector.data for vector in together.vectors if vector}) == 20
    assert {vector.dimensions for vector in together.vectors if vector} == {1536}
    assert all(norm(vector) == pytest.approx(1.0, abs=1e-6) for vector in together.vectors)
    for place in (0, 7, 19):
        assert (await provider.embed([texts[place]], MODEL)).vectors == [together.vectors[place]]


async def test_a_model_has_its_dimensions(providers: dict[int | None, Provider]) -> None:
    """Native ones by the model's name, fewer when they are asked for."""
    (large,) = (await providers[None].embed(["x"], "text-embedding-3-large")).vectors
    (short,) = (await providers[64].embed(["x"], MODEL)).vectors
    assert large
    assert short
    assert (large.dimensions, short.dimensions) == (3072, 64)


async def test_equal_texts_have_equal_vectors(provider: Provider) -> None:
    """Within a call and between calls."""
    first, second, third = (await provider.embed(["a", "b", "a"], MODEL)).vectors
    assert first == third != second


async def test_usage_grows_with_the_text(provider: Provider) -> None:
    """Tokens are counted, for all texts of a call together."""
    short = (await provider.embed(["word"], MODEL)).usage
    long = (await provider.embed(["word " * 100, "word"], MODEL)).usage
    assert 0 < short.prompt_tokens == short.total_tokens < 10
    assert long.prompt_tokens > 50


async def test_limits_are_told_or_left_out(provider: Provider) -> None:
    """Who has limits tells what is left of them after the call; who has none tells nothing."""
    first, second = [(await provider.embed(["x" * 400], MODEL)).limits for _ in range(2)]
    if provider.name == "mock":
        assert first == second == RateLimits()
        return
    for before, after in ((first.requests, second.requests), (first.tokens, second.tokens)):
        assert before
        assert after
        assert before.limit == after.limit
        assert 0 <= after.remaining <= after.limit  # a limit that refills may be whole again
        assert 0 <= after.reset_s <= 60


@pytest.mark.parametrize("text", ["\x00", "😀" * 50, " ", "a" * 20_000, "\u2028", '"}]'])
async def test_any_text_is_a_text(provider: Provider, text: str) -> None:
    """Whatever Unicode a task brings arrives as it is."""
    (vector,) = (await provider.embed([text], MODEL)).vectors
    assert norm(vector) == pytest.approx(1.0, abs=1e-6)


async def test_check_passes_and_closing_is_repeatable(provider: Provider) -> None:
    """A healthy remote passes; closing twice is no error."""
    await provider.check(MODEL)
    assert provider.name in ("openai", "mock")
    await provider.aclose()
    await provider.aclose()


async def test_vectors_are_the_models_own_bits(sandbox: Sandbox, openai: Make) -> None:
    provider = openai()
    (vector,) = (await provider.embed(["ünïcödé"], MODEL)).vectors
    assert vector == Vector(sandbox.vector("ünïcödé", MODEL))


async def test_refusals_of_a_real_server_are_told_apart(openai: Make) -> None:
    """A text too long, a refused text, an unknown model and a wrong key over a real socket."""
    provider = openai()
    await provider.embed(["fine"], MODEL)
    for texts, code, explained in (
        (["word " * 20_000], "text_too_long", True),
        (["fine", "[[refuse]]"], "input_refused", True),
        (["fine", ""], "input_refused", False),
    ):
        refused = await failing(CallRefused, provider.embed(texts, MODEL))
        assert refused.final is not None
        assert (refused.final.code, refused.explained) == (code, explained)
    await failing(ModelRefused, provider.embed(["x"], "no-such-model"))
    stranger = openai(OPENAI_API_KEY="sk-wrong")
    await failing(Unauthorized, stranger.embed(["x"], MODEL))
    await failing(Unauthorized, stranger.check(MODEL))


async def test_a_check_finds_a_model_that_a_real_server_does_not_know(openai: Make) -> None:
    """A compatible server that has pages of its models, and says that this one does not exist, is believed."""
    provider = openai()
    await provider.check(MODEL)
    await failing(ModelRefused, provider.check("no-such-model"))


async def test_a_limit_of_a_real_server_is_told_apart(sandbox: Sandbox, openai: Make) -> None:
    """Its 429 asks for a pause and is no outage; what its headers announce is what then happens."""
    sandbox.model.limit(requests_per_minute=1, depth=2)
    provider = openai()
    told = [(await provider.embed(["x"], MODEL)).limits.requests for _ in range(2)]
    assert [allowance.remaining for allowance in told if allowance] == [1, 0]
    refused = await failing(Throttled, provider.embed(["x"], MODEL))
    assert refused.status == 429
    assert refused.retry_after_s == pytest.approx(60, abs=10)
    assert sandbox.model.throttled == 1


async def test_a_call_that_is_cancelled_leaves_the_client_usable(sandbox: Sandbox, openai: Make) -> None:
    """Hung calls that were given up do not use up the connections."""
    fault = sandbox.faults.add("model", hang=True)
    hasty = openai()
    hasty._api._timeout_s = 0.05
    for _ in range(8):  # twice the connections
        with pytest.raises(Exception, match=r"no answer within 0\.05 s"):
            await hasty.embed(["x"], MODEL)
    assert fault.hits == 8
    sandbox.faults.clear()
    hasty._api._timeout_s = 5.0
    assert len((await hasty.embed(["x"], MODEL)).vectors) == 1
    await hasty.aclose()
    assert isinstance(hasty._api._api._client, httpx2.AsyncClient)
    assert hasty._api._api._client.is_closed
