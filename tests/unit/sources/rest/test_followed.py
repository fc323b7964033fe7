"""A result that the API answers with a further task ends the wait for the next poll."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import httpx2
import pytest

from ai_task_processor.core.errors import RemoteError
from ai_task_processor.core.ports import SkipReason, Want
from ai_task_processor.models.task import Completed, Failed, Failure, Outcome, Task, TaskResult
from ai_task_processor.net.resilience import Gate
from ai_task_processor.ops.metrics import Metrics
from ai_task_processor.sources.rest.settings import ApiSettings
from tests.mock_http import mock_client
from tests.nest import NestSource

if TYPE_CHECKING:
    from tests.unit.conftest import FakeClock


class Everything:
    """Admits every task."""

    async def busy(self, task_ids: Sequence[str]) -> Mapping[str, SkipReason]:
        return {}

    async def refuse(self, tasks: Sequence[Task]) -> Sequence[SkipReason | None]:
        return [None] * len(tasks)


DONE, FAILED = Completed(TaskResult([1.0])), Failed(Failure("no_topics"))


@pytest.mark.parametrize(
    ("route", "outcome", "status", "followed"),
    [
        ("verification_update_embedding", DONE, 200, True),
        ("verification_update_defining_topics", DONE, 200, True),
        ("verification_update_defining_topics", FAILED, 200, False),
        ("verification_update_defining_topics", DONE, 500, False),
        ("verification.updateEmbedding", DONE, 200, False),
        (None, DONE, 200, False),
        (5, DONE, 200, False),
    ],
)
async def test_a_followed_result_ends_the_wait(
    clock: "FakeClock", route: object, outcome: Outcome, status: int, followed: bool
) -> None:
    """Only when it is acknowledged, and by the receipt alone, which survives a restart in the outbox."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.method == "PATCH":
            return httpx2.Response(status)
        record = {"_id": "a", "type": "text_embedding", "content": {"text": "x"}, "callbackRoute": route}
        return httpx2.Response(200, content=json.dumps([record]))

    metrics = Metrics(version="0", provider="none")
    client = mock_client(answer, "https://api.test", max_answer_bytes=None)
    source = NestSource(
        ApiSettings(API_BASE_URL="https://api.test"),  # type: ignore[call-arg]  # by the name of the environment
        polling=client,
        delivering=client,
        poll_gate=Gate("api_poll", threshold=5, clock=clock, metrics=metrics),
        delivery_gate=Gate("api_delivery", threshold=5, clock=clock, metrics=metrics),
        clock=clock,
        metrics=metrics,
    )
    (claim,) = await source.claim(Want(1, Everything()))
    waiting = asyncio.create_task(source.wait(30.0))
    await asyncio.sleep(0)
    try:
        await source.report(claim.receipt, outcome)
    except RemoteError:
        assert status == 500
    assert await waiting == followed
    assert metrics.value("wakeups_total", origin="http") == 0
