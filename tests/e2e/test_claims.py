"""Claims through the whole chain with the real command: models with bad habits, Wikidata away, mock answers."""

import asyncio
import random
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from ai_task_processor.sandbox.claims import Claim
from ai_task_processor.sandbox.verifications import AREAS
from tests.e2e.conftest import WatchedSandbox, eventually

Start = Callable[..., Awaitable[Any]]
NESTS_LIMIT = 102_400


def add(sandbox: WatchedSandbox, count: int) -> list[Claim]:
    """Requests to check claims, with the body limit of the upstream."""
    sandbox.api.max_body = NESTS_LIMIT
    claims = [Claim.numbered(number) for number in range(count)]
    for claim in claims:
        sandbox.verifications.add(claim.text)
    return claims


def statuses(sandbox: WatchedSandbox) -> Counter[str]:
    return Counter(request.status for request in sandbox.verifications.requests.values())


async def triaged(sandbox: WatchedSandbox, count: int, timeout: float = 60) -> None:
    await eventually(lambda: statuses(sandbox)["In Triage"] == count, timeout)


def check(sandbox: WatchedSandbox) -> None:
    """Every request has what is true of its claim: nobody lost, no topic without its id, no callback refused."""
    assert sandbox.verifications.refused == []
    requests = sandbox.verifications.requests.values()
    assert {request.id: wrong for request in requests if (wrong := request.wrong())} == {}


async def test_a_chain_runs_to_its_end(sandbox: WatchedSandbox, daemon: Start) -> None:
    """Long before the interval is over: a delivered result is followed by a poll. One call a task, nothing twice."""
    add(sandbox, 20)
    worker = await daemon(CONCURRENCY_LIMIT=16, POLLING_INTERVAL_SECONDS=300)
    await triaged(sandbox, 20, timeout=20)
    check(sandbox)
    assert (sandbox.chat.calls, sandbox.stats.patches) == (80, 100)
    searches = {name: count for name, count in sandbox.wikidata.requests.items() if "search" in name}
    assert len(searches) <= 30, "people, topics and areas: each name is looked up about once"
    status = await worker.status()
    assert status["circuits"]["wikidata"]["state"] == "closed"
    assert await worker.metric('wikidata_requests_total{outcome="ok"}') == sandbox.stats.wikidata_requests
    assert await worker.metric('circuit_breaker_state{service="wikidata"}') == 0
    series = [line for line in (await worker.get("/metrics")).text.splitlines() if not line.startswith("#")]
    assert len(series) <= 700
    again = sandbox.stats.wikidata_requests
    assert await worker.stop() == 0
    add(sandbox, 5)
    await daemon("run", "--until-empty", CONCURRENCY_LIMIT=16)
    await triaged(sandbox, 25, timeout=20)
    assert sandbox.stats.wikidata_requests == again, "what was found is on disk"


class EveryFifth(random.Random):
    """Makes every fifth answer of the model a bad one: with one slot never two for a task, where chance makes three."""

    calls = 0

    def random(self) -> float:
        self.calls += 1
        return float(self.calls % 5 != 0)


@pytest.mark.parametrize("habit", ["prose", "fence", "truncated", "refusal", "unlisted", "wrong", "tool_call", "empty"])
async def test_a_fifth_of_the_answers_are_bad(sandbox: WatchedSandbox, daemon: Start, habit: str) -> None:
    """Every request arrives, and with what is true: nothing wrong, nothing empty."""
    add(sandbox, 20)
    sandbox.chat.rng = EveryFifth()
    sandbox.chat.behave({habit: 0.2})
    worker = await daemon(CONCURRENCY_LIMIT=1)
    await triaged(sandbox, 20)
    check(sandbox)
    if habit in ("prose", "fence"):
        assert sandbox.chat.calls == 80
        text = (await worker.get("/metrics")).text
        repaired = re.findall(r'model_answers_total\{model="other",outcome="repaired",[^}]*\} ([\d.]+)', text)
        assert sum(map(float, repaired)) == 16
    elif habit != "unlisted":
        assert sandbox.chat.calls > 80


@pytest.mark.parametrize(
    ("habit", "code"), [("refusal", "refused"), ("truncated", "truncated"), ("unlisted", "invalid_output")]
)
async def test_a_model_that_always_answers_so(sandbox: WatchedSandbox, daemon: Start, habit: str, code: str) -> None:
    """The task ends ``failed`` with its code: nothing that is wrong or empty is reported as a success."""
    add(sandbox, 2)
    for request in sandbox.verifications.requests.values():
        request.fields |= {"identifiedData": [], "topics": [{"name": "x", "language": "pt", "wikidataId": None}]}
        request.fields |= {"impactArea": "Outros"}
        sandbox.verifications._advance(request)
    sandbox.chat.behave({habit: 1.0})
    await daemon(CONCURRENCY_LIMIT=8)
    levels = [task for task in sandbox.tasks if task.document["type"] == "defining_severity"]
    assert len(levels) == 2
    await sandbox.tasks.settled([task.id for task in levels], timeout=30)
    assert [(task.state, task.error["code"]) for task in levels] == [("failed", code)] * 2  # type: ignore[index]


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 429, "headers": {"Retry-After": "1"}},
        {"status": 503},
        {"reset": True},
        {"content": '{"error": {"code": "maxlag", "info": "Waiting for a server"}}'},
        {"status": 200, "body": "html"},
    ],
    ids=["429", "503", "reset", "maxlag", "page"],
)
async def test_wikidata_is_away(sandbox: WatchedSandbox, daemon: Start, fault: dict[str, Any]) -> None:
    """Tasks wait, nobody is dropped, no topic loses its id, and no answer is paid for twice."""
    claims = add(sandbox, 8)
    sandbox.faults.add("wikidata", **fault)
    worker = await daemon(CONCURRENCY_LIMIT=8, POLLING_INTERVAL_SECONDS=2)
    await eventually(lambda: sandbox.chat.calls >= 1)
    await asyncio.sleep(4)
    reached = sandbox.stats.wikidata_requests
    assert reached < 40, "a circuit or Retry-After bounds the requests"
    assert not [task for task in sandbox.tasks if task.state == "failed"]
    assert statuses(sandbox) == {"Pre Triage": 8}
    assert not [r for c, r in zip(claims, sandbox.verifications.requests.values(), strict=True)
                if c.people and "identifiedData" in r.fields]  # fmt: skip
    if fault.get("status") != 200:
        status = await worker.status()
        assert status["circuits"]["wikidata"]["reason"]
    sandbox.faults.clear()
    await triaged(sandbox, 8)
    check(sandbox)
    assert sandbox.chat.calls == 32


async def test_without_wikidata(sandbox: WatchedSandbox, daemon: Start) -> None:
    """Off: nothing is asked, topics have no ids, and people are kept because the setting says so."""
    claims = add(sandbox, 5)
    await daemon(CONCURRENCY_LIMIT=8, WIKIDATA_URL="off", KEEP_UNKNOWN_PEOPLE="true")
    await triaged(sandbox, 5)
    assert sandbox.stats.wikidata_requests == 0
    requests = list(sandbox.verifications.requests.values())
    for claim, request in zip(claims, requests, strict=True):
        assert len(request.fields["identifiedData"]) == len(claim.people) + claim.unknown
        assert {each["wikidataId"] for each in request.fields["topics"]} == {None}


async def test_mock_answers(sandbox: WatchedSandbox, daemon: Start) -> None:
    """With the placeholder key the chain runs, deterministic, without a model and without Wikidata."""
    add(sandbox, 3)
    await daemon(OPENAI_API_KEY="your_openai_api_key_here")
    await triaged(sandbox, 3)
    assert (sandbox.chat.calls, sandbox.stats.wikidata_requests) == (0, 0)
    for request in sandbox.verifications.requests.values():
        fields = request.fields
        assert (fields["identifiedData"], fields["impactArea"], fields["severity"]) == ([], AREAS[0], "medium_2")
        assert len(fields["topics"]) == 1


async def test_fewer_types(sandbox: WatchedSandbox, daemon: Start) -> None:
    """``ENABLED_TASK_TYPES`` leaves the others pending, and a name that nothing has is warned of."""
    add(sandbox, 2)
    worker = await daemon(ENABLED_TASK_TYPES="text-embedding, translation")
    await eventually(lambda: len(sandbox.tasks) == 4)
    status = await worker.status_when(lambda document: document["backlog"]["skipped"].get("unknown_type") == 2)
    assert "chat" not in status["circuits"]
    assert [event for event in worker.events("settings.warned") if "translation" in event["reason"]]
    assert sandbox.chat.calls == 0
