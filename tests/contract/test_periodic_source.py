"""The periodic source: what every source promises, as far as it has somebody to report to, and what it does beyond."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import httpx2
import pytest
from structlog.testing import capture_logs

from ai_task_processor.core.errors import OutboxUnwritable, Rejected, RemoteError, Transient, Unauthorized, explained
from ai_task_processor.models.task import Cancelled, Receipt
from ai_task_processor.sources.periodic.profile import PeriodicProfile
from ai_task_processor.sources.periodic.source import LARGE_BYTES, PeriodicSource
from ai_task_processor.testing import source as suite
from ai_task_processor.testing.memory import MemoryOutbox
from ai_task_processor.testing.source import OUTPUT, SOURCE_PROMISES, TOO_LONG, Gatekeeper, HandClock, SourcePromise
from tests.contract.helpers import failing
from tests.helpers import services
from tests.mock_http import mock_client

URL = "https://api.test"
DROP_AFTER_S = 3600.0
#: there is nobody to report to: nothing is refused, nothing fails, and a report does not need the remote
ELSEWHERE = {
    suite.a_failed_task_is_done,
    suite.a_task_that_was_put_back_runs_again,
    suite.a_refused_result_is_rejected,
    suite.an_outage_is_the_remotes_fault,
}
PROMISES = [promise for promise in SOURCE_PROMISES if promise not in ELSEWHERE]
PROFILE = {
    "kind": "periodic",
    "types": ["reminder"],
    "drop_after_s": DROP_AFTER_S,
    "list": {"path": "/due", "query": {"minutes": "{window_minutes}"}, "items": "/tasks", "window_minutes": 30},
    "fields": {"id": "/id", "due": "/due", "content": "/content"},
    "headers": {"x-internal-secret": "{secret}"},
}


class Case:
    """The source against an API that lists ``items``, or answers ``broken``."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.admission = Gatekeeper()
        self.memory = MemoryOutbox(2**30, self.clock)
        self.items: dict[str, dict[str, Any]] = {}
        self.broken: httpx2.Response | None = None
        self.requests: list[httpx2.Request] = []
        self.start()

    def start(self) -> None:
        """A new process, which has only the memory."""
        kind: Any = PeriodicSource.of("soon", PeriodicProfile.model_validate(PROFILE))
        environ = {"API_BASE_URL": URL, "API_SECRET": "s3cret-of-the-api", "POLLING_INTERVAL_SECONDS": "60"}
        self.services = services(environ, kind, clock=self.clock, memory=self.memory, source="soon")
        self.source: PeriodicSource = kind.build(self.services)
        self.source._api._client = mock_client(self._answer, URL)

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        return self.broken or httpx2.Response(200, json={"tasks": list(self.items.values())})

    def at(self, seconds: float) -> datetime:
        return datetime.fromtimestamp(round(self.clock.now().timestamp() + seconds), UTC)

    def add(self, text: str, due_in_s: float | None = None) -> str:
        """It is due after those before it, or at this time."""
        number = len(self.items) + 1
        due = self.at(600.0 + number if due_in_s is None else due_in_s).replace(tzinfo=None).isoformat()
        key = f"{number}@{due}Z"
        self.items[key] = {"id": number, "due": due, "content": {"text": text}}
        self.source.wake()
        return key

    def break_down(self, status: int = 503) -> None:
        self.broken = httpx2.Response(status)

    def state(self, key: str) -> str:
        return "succeeded" if key in self.memory._remembered else "pending"

    async def claimed(self) -> list[str]:
        return await suite.claimed(self)  # type: ignore[arg-type]  # it has no put_back, and no refuse

    async def done(self, key: str) -> None:
        await self.source.report(Receipt("soon", key), OUTPUT)


@asynccontextmanager
async def running() -> AsyncIterator[Case]:
    yield Case()


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
async def test_it_is_a_source(promise: SourcePromise) -> None:
    async with running() as case:
        await promise(case)


async def test_a_task_is_claimed_once_for_each_due_time() -> None:
    """After a restart, too: when it is completed and opened again nothing happens, another due time is another task."""
    case = Case()
    key = case.add("x")
    assert await case.claimed() == [key]
    await case.done(key)
    case.start()
    assert await case.claimed() == []
    item = case.items.pop(key)
    case.source.wake()
    assert await case.claimed() == []
    case.items[key] = item
    case.source.wake()
    assert await case.claimed() == []
    later = case.at(1200).replace(tzinfo=None).isoformat()
    case.items = {key: item | {"due": later}}
    case.source.wake()
    assert await case.claimed() == [f"1@{later}Z"]


async def test_what_is_not_reported_is_claimed_again_after_a_restart() -> None:
    case = Case()
    key = case.add("x")
    assert await case.claimed() == [key]
    case.start()
    assert await case.claimed() == [key]


async def test_the_soonest_is_claimed_first() -> None:
    case = Case()
    late, soon = case.add("late", 900), case.add("soon", 300)
    assert await case.claimed() == [soon, late]


async def test_a_failed_list_is_not_an_empty_one() -> None:
    """Nothing is forgotten, and what is still listed after the outage is claimed."""
    case = Case()
    case.break_down()
    error = await failing(Transient, case.claimed())
    assert error.status == 503
    key = case.add("x")
    case.broken = httpx2.Response(200, json={"detail": "no tasks here"})
    with pytest.raises(RemoteError):
        await case.claimed()
    case.broken = None
    assert await case.claimed() == [key]


async def test_a_list_serves_for_half_an_interval() -> None:
    """Slots that become free do not cost a list each; the whole window is asked for, with the secret."""
    case = Case()
    keys = [case.add(f"{n}") for n in range(3)]
    for key in keys:
        assert (await suite.claimed(case, 1)) == [key]  # type: ignore[arg-type]
        await case.done(key)
    assert await case.claimed() == []
    (request,) = case.requests
    assert (str(request.url), request.headers["x-internal-secret"]) == (f"{URL}/due?minutes=30", "s3cret-of-the-api")
    case.clock.time += 30
    await case.claimed()
    assert len(case.requests) == 2


async def test_what_was_done_while_the_list_was_on_its_way_is_not_claimed() -> None:
    case = Case()
    key = case.add("x")
    await case.claimed()
    case.source.wake()
    answer = case._answer

    async def late(request: httpx2.Request) -> httpx2.Response:
        listed = answer(request)
        await case.done(key)
        return listed

    case.source._api._client = mock_client(late, URL)
    assert await case.claimed() == []


async def test_a_failed_task_is_a_dead_letter() -> None:
    """It is refused with the reason, and not stored as done: with other content it is another chance."""
    case = Case()
    key = case.add("x")
    error = await failing(Rejected, case.source.report(Receipt("soon", key), TOO_LONG))
    assert explained(error) == "refused: too_long: the text is too long"
    assert case.state(key) == "pending"
    await case.source.report(Receipt("soon", key), Cancelled())
    assert case.state(key) == "succeeded"


async def test_an_acknowledgement_is_durable_or_none() -> None:
    case = Case()
    key = case.add("x")

    async def full(ids: object, until: object) -> None:
        raise OutboxUnwritable("disk full")

    case.memory.remember = full  # type: ignore[method-assign]
    await failing(Transient, case.done(key))
    assert await case.claimed() == [key]


async def test_what_is_long_overdue_is_dropped() -> None:
    """A listed task with one log line; a result that waits for a sink; and the memory of what is done."""
    case = Case()
    key = case.add("x", 100)
    case.add("y", -DROP_AFTER_S - 10)
    with capture_logs() as logs:
        for _ in range(2):
            case.source.wake()
            assert await case.claimed() == [key]
    assert [line["event"] for line in logs] == ["task.dropped"]
    await case.done(key)
    receipt = Receipt("soon", key)
    case.clock.time += 100 + DROP_AFTER_S - 1
    assert not case.source.expired(receipt)
    assert await case.claimed() == []
    case.clock.time += 2
    assert case.source.expired(receipt)
    case.source.wake()
    with capture_logs() as logs:
        assert await case.claimed() == []
    assert (logs, case.memory._remembered) == ([], {})


async def test_a_refused_secret_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have been replaced. Until an operator acts there is one request in a pause."""
    case, read = Case(), 0

    async def reread() -> None:
        nonlocal read
        read += 1

    monkeypatch.setattr(case.services.secrets, "reread", reread)
    case.break_down(403)
    error = await failing(Unauthorized, case.claimed())
    assert (str(error), read) == ("the task API answered 403: correct API_SECRET", 1)
    assert case.services.gate("api_poll").wait_s() == 10.0


async def test_a_long_list_is_read_beside_the_loop() -> None:
    """Items that cannot be used are logged once for each reason."""
    case = Case()
    for n in range(2_000):
        case.add("x" * 50, 60 + n)
    case.items["bad"] = {"id": None}
    assert sum(len(str(item)) for item in case.items.values()) > LARGE_BYTES
    with capture_logs() as logs:
        assert len(await case.claimed()) == 10
        case.source.wake()
        await case.claimed()
    assert [(line["event"], line["records"]) for line in logs] == [("record.skipped", 1)]
    assert (case.source.backlog.seen, case.source.backlog.read_ahead) == (2_001, 1_990)


async def test_a_wake_up_ends_a_wait() -> None:
    case = Case()
    assert not await case.source.wait(0.01)
    case.source.wake()
    assert await case.source.wait(5.0)
    waiting = asyncio.ensure_future(case.source.wait(5.0))
    await asyncio.sleep(0)
    case.source.resume()
    assert await waiting


async def test_doctor_reads_the_list() -> None:
    case = Case()
    case.add("x")
    (check,) = case.source.checks()
    (sample,) = [found async for found in check.work()]
    assert (sample.seen, sample.complete) == (1, True)  # type: ignore[union-attr]
    case.break_down(403)
    (finding,) = [found async for found in check.work()]
    assert finding.remedy == "correct API_SECRET"  # type: ignore[union-attr]
