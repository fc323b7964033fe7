"""Whatever happens while candidates wait: nothing starts that was acknowledged after its list was asked for."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime

import httpx2
import pytest

from ai_task_processor.core.ports import SkipReason, Want
from ai_task_processor.models.task import Completed, Receipt, Task, TaskResult
from ai_task_processor.net.resilience import Gate
from ai_task_processor.ops.metrics import Metrics
from ai_task_processor.sources.rest.settings import ApiSettings
from tests.mock_http import mock_client
from tests.nest import NestSource

RESULT = Completed(TaskResult({"done": True}))
METRICS = Metrics(version="1", provider="mock")


class World:
    """An API that ignores ``limit``, a daemon that runs what it claims, and time, all moved by a random hand.

    A record's content is the number of its list; ``reported`` says at which list's number a task was last settled.
    """

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.time = 1_000.0
        self.lists = 0
        self.pending = {f"t{n}": True for n in range(rng.randint(0, 40))}
        self.reported: dict[str, int] = {}
        self.running: set[str] = set()
        self.started: list[str] = []
        client = mock_client(self.answer, "https://api.test", max_answer_bytes=None)
        names = {"API_BASE_URL": "https://api.test", "READ_AHEAD_BYTES": str(rng.choice([0, 2_000, 2**22]))}
        self.source = NestSource(
            ApiSettings(**names),  # type: ignore[arg-type]  # by the names of the environment
            polling=client,
            delivering=client,
            poll_gate=Gate("api_poll", threshold=5, clock=self, metrics=METRICS),
            delivery_gate=Gate("api_delivery", threshold=5, clock=self, metrics=METRICS),
            clock=self,
            metrics=METRICS,
        )

    def monotonic(self) -> float:
        return self.time

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.time, UTC)

    async def sleep(self, seconds: float) -> None:
        self.time += seconds

    async def busy(self, task_ids: Sequence[str]) -> Mapping[str, SkipReason]:
        return {task_id: "running" for task_id in task_ids if task_id in self.running}

    async def refuse(self, tasks: Sequence[Task]) -> Sequence[SkipReason | None]:
        return ["running" if task.id in self.running else None for task in tasks]

    async def answer(self, request: httpx2.Request) -> httpx2.Response:
        if request.method == "PATCH":
            return httpx2.Response(204)
        self.lists += 1
        records = [{"_id": name, "type": "t", "content": self.lists} for name, listed in self.pending.items() if listed]
        for _ in range(self.rng.randint(0, 3)):  # the list is older than what happens until it arrives
            await self.rng.choice([self.settle, self.put_back, self.release])()
        return httpx2.Response(200, content=json.dumps(records))

    async def report(self, name: str) -> None:
        await self.source.report(Receipt("aletheia", name), RESULT)
        self.running.discard(name)
        self.pending[name] = False
        self.reported[name] = self.lists

    async def settle(self) -> None:
        if self.running:
            await self.report(self.rng.choice(sorted(self.running)))

    async def put_back(self) -> None:
        if self.reported:
            self.pending[self.rng.choice(sorted(self.reported))] = True

    async def release(self) -> None:
        if self.running:
            name = self.rng.choice(sorted(self.running))
            await self.source.release(Receipt("aletheia", name), self.rng.choice([0.0, 1.0, 40.0]))
            self.running.discard(name)

    async def retry(self) -> None:
        """An operator has an old result of a waiting task delivered."""
        waiting = sorted(set(self.pending) - self.running)
        if waiting:
            await self.report(self.rng.choice(waiting))

    async def claim(self) -> None:
        limit = self.rng.randint(1, 5)
        claims = await self.source.claim(Want(limit, self))
        assert len(claims) <= limit
        for claim in claims:
            name, listed_in = claim.task.id, claim.task.content
            assert name not in self.running, "it runs"
            assert isinstance(listed_in, int)
            assert self.reported.get(name, 0) < listed_in, "it was reported after its list was asked for"
            self.running.add(name)
            self.started.append(name)

    async def pass_time(self) -> None:
        self.time += self.rng.choice([0.001, 1.0, 31.0])

    async def wake(self) -> None:
        self.source.wake()


@pytest.mark.parametrize("seed", range(60))
def test_nothing_starts_that_was_settled_since_its_list_was_asked_for(seed: int) -> None:
    """Random claims, reports, releases, retries, wake-ups and pauses: each start is of a list that may be believed."""

    async def live() -> World:
        world = World(random.Random(seed))
        for _ in range(300):
            step: Callable[[], Awaitable[None]] = world.rng.choice(
                [*[world.claim] * 4, *[world.settle] * 3, world.put_back, world.release, world.retry, world.wake,
                 world.pass_time]
            )  # fmt: skip
            await step()
        return world

    world = asyncio.run(live())
    assert set(world.started) <= set(world.pending)


def test_everything_is_started_in_the_end() -> None:
    async def live() -> World:
        world = World(random.Random(7))
        world.pending = {f"t{n}": True for n in range(200)}
        for _ in range(2_000):
            await world.rng.choice([world.claim, world.claim, world.settle, world.release, world.wake])()
            world.time += 0.1
        return world

    world = asyncio.run(live())
    assert set(world.started) == set(world.pending)
