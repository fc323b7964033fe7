"""A provider whose key is replaced: the refused call is repeated with the new one, once."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import SecretStr

from ai_task_processor.core.checks import Remote
from ai_task_processor.core.errors import Transient, Unauthorized
from ai_task_processor.core.ports import Embeddings, Provider
from ai_task_processor.models.task import Usage
from ai_task_processor.providers.checks import try_models
from ai_task_processor.providers.rotating import RotatingProvider


class Secrets:
    """The key, what the next look at the files finds, and what is called with a key."""

    def __init__(self) -> None:
        self.api_key = SecretStr("old")
        self.base_url = None
        self.found = "old"
        self.looks = 0
        self.calls: list[str] = []

    def __getitem__(self, group: object) -> "Secrets":
        return self

    async def reread(self) -> None:
        self.looks += 1
        await asyncio.sleep(0)
        self.api_key = SecretStr(self.found)


class Model(Provider):
    """Takes one key only."""

    name = "openai"

    def __init__(self, key: str, calls: list[str]) -> None:
        self.key, self.calls = key, calls

    async def prepare(self) -> None:
        self.calls.append(f"prepare {self.key}")

    async def embed(self, texts: Sequence[str], model: str) -> Embeddings:
        await self.check(model)
        return Embeddings([None for _ in texts], Usage(0))

    async def check(self, model: str) -> None:
        self.calls.append(self.key)
        await asyncio.sleep(0)
        if model == "down":
            raise Transient("500")
        if self.key != "new":
            raise Unauthorized("the model API answered 401", status=401)

    async def aclose(self) -> None:
        self.calls.append("closed")


@pytest.fixture
def secrets() -> Secrets:
    return Secrets()


@pytest.fixture
def provider(secrets: Any) -> RotatingProvider:
    return RotatingProvider(
        lambda: Model(secrets.api_key.get_secret_value(), secrets.calls),
        secrets,
        lambda: secrets.api_key,
        Remote("model API", "OPENAI_BASE_URL", "https://api.example.com"),
        lambda provider, remote: try_models(provider, [], remote, {}),
    )


async def test_a_replaced_key_is_used_after_a_refusal(provider: RotatingProvider, secrets: Secrets) -> None:
    """Four calls that were refused together are repeated once each; no other look follows."""
    secrets.found = "new"
    answers = await asyncio.gather(*(provider.embed(["a"], "m") for _ in range(4)))
    assert [len(answer.vectors) for answer in answers] == [1] * 4
    assert sorted(secrets.calls) == ["new"] * 4 + ["old"] * 4
    await provider.check("m")
    assert (secrets.calls[-1], secrets.looks) == ("new", 4)


async def test_a_key_that_stays_wrong_is_not_repeated(provider: RotatingProvider, secrets: Secrets) -> None:
    """One look for each refusal, and the refusal is told as it is; other failures cause none."""
    with pytest.raises(Unauthorized):
        await provider.embed(["a"], "m")
    with pytest.raises(Transient):
        await provider.embed(["a"], "down")
    assert (secrets.calls, secrets.looks) == (["old", "old"], 1)


async def test_a_key_that_was_read_elsewhere_is_used_at_once(provider: RotatingProvider, secrets: Secrets) -> None:
    """After SIGHUP nothing is refused first."""
    secrets.api_key = SecretStr("new")
    await provider.embed(["a"], "m")
    await provider.prepare()
    await provider.aclose()
    assert secrets.calls == ["new", "prepare new", "closed"]
    assert provider.name == "openai"
